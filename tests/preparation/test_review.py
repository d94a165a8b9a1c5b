import csv
import io

import numpy as np
import pytest
from matplotlib.image import imread

from landmarking.geometry import SliceGeometry, rigid_matrix
from landmarking.imaging.quality import crop_margin_mm, landmark_figures, off_plane_mm
from landmarking.preparation.prepared import SliceRecord
from landmarking.preparation.review import (
    COLUMNS,
    ROWS,
    quality_csv,
    quality_table,
    write_contact_sheets,
)

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


SAGITTAL = np.array([[0, 0, -1, 0], [-1, 0, 0, 62], [0, -1, 0, 70], [0, 0, 0, 1]], dtype=float)
GEOMETRY = SliceGeometry(rigid_matrix(10, 5, -8, (3, 4, 5)) @ SAGITTAL, (150, 140))
MIDLINE = np.zeros((3, 3))


def world(x_px, y_px, left_mm=0.0):
    return GEOMETRY.pixel_to_world[:3] @ [x_px, y_px, left_mm, 1]


def records(count):
    return [SliceRecord(f"sub-{i}", f"sub-{i}", None, "HS") for i in range(count)]


@pytest.mark.parametrize(
    ("x_px", "y_px", "expected_mm"),
    [(20, 75, 20.5), (75, 30, 30.5), (130, 75, 9.5), (70, 149, 0.5), (-3, 75, -2.5)],
)
def test_the_margin_is_the_distance_from_the_nearest_edge_of_a_pixel(x_px, y_px, expected_mm):
    margin = crop_margin_mm(GEOMETRY, world(x_px, y_px)[None])
    np.testing.assert_allclose(margin, expected_mm, atol=1e-9)


def test_landmarks_off_the_midline_are_compared_with_their_own_side():
    points = np.stack([world(60, 60, 2.5), world(60, 60, 19.0), world(60, 60, -19.0)])
    template = np.array([[0.4, 0, 0], [-20.0, 0, 0], [-20.0, 0, 0]])
    off = off_plane_mm(GEOMETRY, points, template)
    np.testing.assert_allclose(off, [2.5, -1.0, -39.0], atol=1e-9)


def test_landmark_figures_name_the_worst_and_pass_over_missing_ones():
    points = np.stack([world(60, 60, 1.0), np.full(3, np.nan), world(20, 70, -3.0)])
    figures = landmark_figures(GEOMETRY, points, MIDLINE, ("AC", "PC", "ICS"))
    assert figures["landmarks"] == 2
    assert figures["off_plane_landmark"] == "ICS"
    assert figures["off_plane_max_mm"] == pytest.approx(3.0)
    assert figures["off_plane_mean_mm"] == pytest.approx(2.0)
    assert figures["crop_margin_mm"] == pytest.approx(20.5)


def test_without_landmarks_nothing_is_said_about_them():
    figures = landmark_figures(GEOMETRY, np.full((3, 3), np.nan), MIDLINE, ("AC", "PC", "ICS"))
    assert figures == {
        "landmarks": 0,
        "off_plane_max_mm": None,
        "off_plane_landmark": None,
        "off_plane_mean_mm": None,
        "crop_margin_mm": None,
    }


def flags(figures):
    return {
        row["scan_id"]: row["reason"]
        for row in quality_table(records(len(figures)), figures)
        if row["flagged"]
    }


def scores(count, **outlier):
    rng = np.random.default_rng(0)
    rows = [{"symmetry_score": float(value)} for value in rng.normal(0.8, 0.03, count)]
    rows[3].update(outlier)
    return rows


def test_an_outlier_is_flagged_and_an_ordinary_cohort_is_not():
    assert flags(scores(60)) == {}
    assert flags(scores(60, symmetry_score=0.4)) == {
        "sub-3": "symmetry_score is low (0.4; median 0.802)"
    }
    assert flags(scores(60, symmetry_score=1.2)) == {}, "a high symmetry is welcome"


def test_trifles_in_an_even_cohort_and_small_cohorts_are_not_flagged():
    even = [{"symmetry_score": 0.8, "crop_margin_mm": 30.0} for _ in range(40)]
    even[0] = {"symmetry_score": 0.79, "crop_margin_mm": 27.0}
    assert flags(even) == {}
    assert flags(scores(9, symmetry_score=0.4)) == {}


def test_a_wild_share_of_the_cohort_does_not_hide_itself():
    rows = scores(60)
    for row in rows[:20]:
        row["symmetry_score"] = 0.1
    assert set(flags(rows)) == {f"sub-{i}" for i in range(20)}


def test_fixed_rules_hold_in_a_cohort_of_one():
    row = {
        "registration_ok": False,
        "registration_quality": 0.21,
        "notes": "sform and qform differ",
        "off_plane_max_mm": 7.0,
        "off_plane_landmark": "CUL",
        "crop_margin_mm": 4.0,
    }
    assert flags([row]) == {
        "sub-0": "registration is doubtful (0.21); sform and qform differ; "
        "a landmark is 4.0 mm from the crop's border; CUL is 7.0 mm off the plane"
    }


def test_the_table_is_a_csv_with_people_first_and_full_numbers():
    rows = quality_table(records(2), [{"zebra": 1.0, "symmetry_score": 0.1 + 0.2}, {"zebra": 2.0}])
    read = list(csv.DictReader(io.StringIO(quality_csv(rows))))
    assert list(read[0]) == [
        *("scan_id", "participant_id", "session", "group", "flagged", "reason"),
        *("symmetry_score", "zebra"),
    ]
    assert float(read[0]["symmetry_score"]) == 0.1 + 0.2
    assert read[1]["symmetry_score"] == ""
