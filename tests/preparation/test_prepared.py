import json

import numpy as np
import pytest

from landmarking.errors import CacheError, CohortError
from landmarking.geometry import rigid_matrix
from landmarking.landmarks import landmark_set
from landmarking.preparation.prepared import (
    IMAGES,
    INDEX,
    TISSUES,
    SliceRecord,
    load_prepared,
    save_prepared,
)

LANDMARKS = landmark_set("msp8").subset(["PC", "AC", "GENU"])
SAGITTAL = np.array([[0, 0, -1, 0.3], [-1, 0, 0, 62], [0, -1, 0, 70], [0, 0, 0, 1]], dtype=float)


def save(folder, count=4, shape=(12, 15), **changes):
    """A small cohort of `count` slices in random poses; some landmarks are missing."""
    rng = np.random.default_rng(0)
    points = rng.normal(0, 20, (count, len(LANDMARKS), 3))
    points[0, 1] = np.nan
    arguments = {
        "name": "demo",
        "simulated": True,
        "digest": "ab" * 32,
        "landmarks": LANDMARKS,
        "images": rng.normal(100, 30, (count, *shape)).astype(np.float32),
        "points_mm": points,
        "pixel_to_world": np.stack(
            [rigid_matrix(*rng.normal(0, 8, 3), rng.normal(0, 9, 3)) @ SAGITTAL] * count
        ),
        "records": [
            SliceRecord(f"sub-{i}", f"sub-{i // 2}", None, ("HS", "DS")[i % 2], 40.5 + i, "F")
            for i in range(count)
        ],
        "settings": {"crop": [50, 200]},
    }
    arguments.update(changes)
    return save_prepared(folder, **arguments), arguments


def test_what_is_saved_is_loaded_exactly(tmp_path):
    _, given = save(tmp_path / "demo")
    loaded = load_prepared(tmp_path / "demo")
    for name in ("images", "points_mm", "pixel_to_world"):
        np.testing.assert_array_equal(getattr(loaded, name), given[name])
    assert isinstance(loaded.images, np.memmap)
    assert loaded.images.dtype == np.float32
    assert loaded.records == tuple(given["records"])
    assert (loaded.name, loaded.simulated, loaded.digest) == ("demo", True, "ab" * 32)
    assert loaded.landmarks == LANDMARKS
    assert loaded.settings == {"crop": [50, 200]}


def test_tissue_maps_are_mapped_into_memory_too(tmp_path):
    maps = np.random.default_rng(1).integers(0, 256, (4, 4, 12, 15), dtype=np.uint8)
    loaded, _ = save(tmp_path / "demo", tissues=maps)
    np.testing.assert_array_equal(loaded.tissues, maps)
    assert isinstance(loaded.tissues, np.memmap)
    assert save(tmp_path / "plain")[0].tissues is None
    assert not (tmp_path / "plain" / TISSUES).exists()


def test_its_content_writes_the_same_cohort_again(tmp_path):
    loaded, _ = save(tmp_path / "demo", tissues=np.ones((4, 4, 12, 15), np.uint8))
    save_prepared(tmp_path / "again", **loaded.content())
    for name in (INDEX, IMAGES, TISSUES):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "demo" / name).read_bytes()


def test_points_px_are_the_foot_points_on_each_slice(tmp_path):
    loaded, _ = save(tmp_path / "demo")
    for index in range(len(loaded)):
        geometry = loaded.geometry(index)
        assert geometry.shape == (12, 15)
        feet = geometry.plane.project(loaded.points_mm[index])
        np.testing.assert_allclose(geometry.to_world(loaded.points_px[index]), feet, atol=1e-9)
    assert np.isnan(loaded.points_px[0, 1]).all()


def test_slices_are_chosen_by_group(tmp_path):
    loaded, _ = save(tmp_path / "demo")
    assert loaded.groups == ("HS", "DS")
    assert loaded.indices(["DS"]).tolist() == [1, 3]
    assert loaded.indices(["DS", "HS"]).tolist() == [0, 1, 2, 3]
    with pytest.raises(CohortError, match="no slices of group train; it has HS, DS"):
        loaded.indices(["HS", "train"])


def test_eight_bits_cost_half_a_level_and_a_quarter_of_the_size(tmp_path):
    loaded, given = save(tmp_path / "demo", dtype="uint8", shape=(64, 64))
    span = np.ptp(given["images"], axis=(1, 2))
    error = np.abs(loaded.images - given["images"]).max(axis=(1, 2))
    assert (error <= span / 255 / 2 * 1.001).all()
    assert loaded.images.dtype == np.float32
    assert (tmp_path / "demo" / IMAGES).stat().st_size < 4 * 64 * 64 * 1.05
    np.testing.assert_array_equal(loaded.points_mm, given["points_mm"])


def test_a_constant_slice_survives_eight_bits(tmp_path):
    loaded, _ = save(tmp_path / "demo", dtype="uint8", images=np.full((4, 3, 3), 7, np.float32))
    np.testing.assert_array_equal(loaded.images, 7)


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        (IMAGES, lambda data: data[:-4], "do not have their checksum"),
        (TISSUES, lambda data: data[:-4], "tissue maps do not have their checksum"),
        (IMAGES, lambda data: data[:-1] + bytes([data[-1] ^ 1]), "do not have their checksum"),
        (INDEX, lambda data: data[: len(data) // 2], "cannot be read"),
        (INDEX, lambda data: data.replace(b'"HS"', b'"DS"', 1), "does not have its checksum"),
        (
            INDEX,
            lambda data: data.replace(b'"format": 1', b'"format": 99'),
            "format is 99.*reads 1",
        ),
        (INDEX, lambda data: b"[]", "format is 'list'"),
    ],
)
def test_a_damaged_cohort_is_refused_with_the_way_out(tmp_path, file, harm, message):
    save(tmp_path / "demo", tissues=np.zeros((4, 4, 12, 15), np.uint8))
    path = tmp_path / "demo" / file
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(CacheError, match=f"{message}.*run landmarking prepare again"):
        load_prepared(tmp_path / "demo")


def test_a_folder_that_is_no_cohort_is_refused(tmp_path):
    with pytest.raises(CacheError, match="not a prepared cohort"):
        load_prepared(tmp_path)


def test_numbers_that_do_not_fit_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(CohortError, match="got 4, 4, 4, 0"):
        save(tmp_path / "demo", records=[])
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_leaves_the_finished_cohort(tmp_path):
    save(tmp_path / "demo")

    def fail(_):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "demo", digest="cd" * 32, add_files=fail)
    assert load_prepared(tmp_path / "demo").digest == "ab" * 32
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_the_index_is_plain_json(tmp_path):
    save(tmp_path / "demo")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    body = json.loads((tmp_path / "demo" / INDEX).read_text(), parse_constant=refuse)
    assert body["slices"][0]["points_mm"][1] == [None, None, None]


def test_slices_are_mapped_into_memory_not_read(tmp_path):
    save(tmp_path / "demo", count=3)
    loaded = load_prepared(tmp_path / "demo")
    assert isinstance(loaded.images, np.memmap)
    assert loaded.images.mode == "r"
