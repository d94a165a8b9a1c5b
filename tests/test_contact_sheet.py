import numpy as np
from matplotlib.image import imread

from landmarking.contact_sheet import COLUMNS, ROWS, write_contact_sheets
from landmarking.data.prepared import SliceRecord

NAMES = ("AC", "PC")


def sheets(folder, count, flagged=(), points_px=(30.0, 40.0), brightest=60):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, brightest, (count, 80, 70)).astype(np.float32)
    points = np.full((count, 2, 2), points_px)
    points[:, 1] = np.nan
    records = [SliceRecord(f"sub-{i:03d}", "p", None, ("HS", "DS")[i % 2]) for i in range(count)]
    quality = [
        {"flagged": i in flagged, "reason": "low" if i in flagged else ""} for i in range(count)
    ]
    return write_contact_sheets(folder, images, points, records, quality, NAMES)


def red(picture):
    colour = np.array([0xE6, 0x19, 0x4B]) / 255
    return np.argwhere(np.abs(picture[..., :3] - colour).max(axis=-1) < 0.02)


def test_a_full_page_and_one_more_make_two_pages(tmp_path):
    paths = sheets(tmp_path, COLUMNS * ROWS + 1)
    assert [path.name for path in paths] == ["contact-sheet-01.png", "contact-sheet-02.png"]
    first = imread(paths[0])
    assert first.shape[:2] == (30 + ROWS * (80 + 16 + 6), COLUMNS * (70 + 6))


def test_flagged_slices_come_first_with_a_red_frame(tmp_path):
    legend = 30
    plain = red(imread(sheets(tmp_path / "a", 30)[0]))
    framed = red(imread(sheets(tmp_path / "b", 30, flagged=[17])[0]))
    assert (plain[:, 0] < legend).all(), "the legend alone is red"
    below = framed[framed[:, 0] > legend]
    assert len(below) > 2 * (80 + 16 + 70)
    assert below[:, 1].max() < 76, "in the first tile"


def test_a_landmark_is_drawn_where_it_lies(tmp_path):
    page = imread(sheets(tmp_path, 12, brightest=0)[0])
    # The first tile begins below the legend (30) and its caption (16).
    tile = page[46:126, :70, :3].sum(axis=-1)
    rows, columns = np.indices(tile.shape)
    centre = [(tile * columns).sum() / tile.sum(), (tile * rows).sum() / tile.sum()]
    np.testing.assert_allclose(centre, [30, 40], atol=0.1)


def test_equal_input_gives_equal_bytes(tmp_path):
    first, second = (sheets(tmp_path / name, 5)[0] for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
