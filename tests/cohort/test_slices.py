import matplotlib.image
import numpy as np
import pytest

from landmarking.cohort.slices import cut_geometry, read_slice_image, read_slice_points, read_slices
from landmarking.errors import CohortError, LandmarkError
from landmarking.landmarks import landmark_set

MSP8 = landmark_set("msp8")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "landmarks").mkdir()
    rows = ["slice_id\tparticipant_id\tgroup\tage", "b\tsub-1\ttrain\t70", "a\tsub-2\tHS\tn/a"]
    (tmp_path / "slices.tsv").write_text("\n".join(rows) + "\n")
    for name in "ab":
        image = np.linspace(0, 255, 256 * 256).reshape(256, 256).astype(np.uint8)
        matplotlib.image.imsave(tmp_path / f"images/{name}.png", image, cmap="gray")
    (tmp_path / "landmarks/a.txt").write_text("100 120\n")
    return tmp_path


def test_reads_the_table(folder):
    cohort = read_slices(folder)
    first, second = cohort.scans
    assert (first.scan_id, first.participant_id, first.group, first.age) == (
        "a",
        "sub-2",
        "HS",
        None,
    )
    assert first.landmarks == folder / "landmarks/a.txt"
    assert (second.landmarks, second.age) == (None, 70.0)


def test_missing_images_and_doubles_are_named(folder):
    with (folder / "slices.tsv").open("a") as table:
        table.write("b\tsub-1\ttrain\t70\nc\tsub-3\t\t70\n")
    with pytest.raises(CohortError) as caught:
        read_slices(folder)
    assert len(caught.value.problems) == 3


def test_images_keep_their_order_and_size(folder):
    image = read_slice_image(folder / "images/a.png", 256)
    assert image.shape == (256, 256)
    assert image[0, 0] < image[9, 0] < image[-1, -1]
    assert (np.diff(image[:, 5]) >= 0).all()
    with pytest.raises(CohortError, match=r"128 x 128 pixels of 1 mm, found 256 x 256"):
        read_slice_image(folder / "images/a.png", 128)
    with pytest.raises(CohortError, match="cannot be read as a PNG"):
        read_slice_image(folder / "slices.tsv", 256)


def test_points_come_by_order_or_by_name(tmp_path):
    file = tmp_path / "points.txt"
    file.write_text("\n".join(f"{n}, {n + 100}" for n in range(8)) + "\n")
    assert read_slice_points(file, MSP8).tolist() == [[n, n + 100] for n in range(8)]
    file.write_text("# x y\nPC 5.5 6\ngenu of CC;7;8\n2 nan nan\n".replace("2 nan", "3 nan"))
    points = read_slice_points(file, MSP8)
    assert points[MSP8.index("PC")].tolist() == [5.5, 6.0]
    assert points[MSP8.index("GENU")].tolist() == [7.0, 8.0]
    assert np.isnan(points).any(axis=1).sum() == 6


@pytest.mark.parametrize("text", ["1 2\n", "AC\n", "AC one two\n", "AC 1 2\n3 4\n"])
def test_wrong_points_are_refused(tmp_path, text):
    file = tmp_path / "points.txt"
    file.write_text(text)
    with pytest.raises(LandmarkError, match=r"points\.txt"):
        read_slice_points(file, MSP8)


def test_the_geometry_is_the_common_grid():
    geometry = cut_geometry(256)
    assert geometry.to_world([112.0, 120.0]) == pytest.approx([0.0, 0.0, 0.0])
    assert geometry.to_world([0.0, 0.0]) == pytest.approx([0.0, 112.0, 120.0])
    assert geometry.plane.normal == pytest.approx([-1.0, 0.0, 0.0])


def test_landmarks_that_are_no_text_are_refused(folder):
    (folder / "landmarks/a.txt").write_bytes(b"AC 100 12\xff")
    with pytest.raises(LandmarkError, match=r"cannot be read as text .*; save it again as UTF-8"):
        read_slice_points(folder / "landmarks/a.txt", MSP8)
