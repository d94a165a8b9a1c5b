import logging
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from landmarking.cohort.records import ScanRecord
from landmarking.errors import CacheError
from landmarking.geometry import apply_affine, rigid_matrix
from landmarking.imaging.pipeline import MIDSAGITTAL_COMMON, PreprocessSettings, slice_geometry
from landmarking.landmarks import landmark_set
from landmarking.preparation.cache import STAGE_VERSIONS, StageCache
from landmarking.preparation.jobs import Job, landmark_problem, prepare_scan
from landmarking.preparation.stages import StagedSlice


def job(folder, points="", versions=None):
    """A drawn slice, which takes no registration."""
    image, landmarks = folder / "s1.png", folder / "s1.txt"
    plt.imsave(image, np.random.default_rng(0).random((256, 256)), cmap="gray")
    landmarks.write_text(points)
    record = ScanRecord("s1", "p1", None, "HS", image, landmarks if points else None)
    return Job(
        record,
        "ab" * 32,
        PreprocessSettings(),
        landmark_set("msp8"),
        StageCache(folder / "cache"),
        versions or dict(STAGE_VERSIONS),
    )


def test_a_scan_without_landmarks_has_a_slice_and_no_points(tmp_path):
    done = prepare_scan(job(tmp_path))
    assert done.problem is None
    assert done.staged.image.shape == (150, 150)
    assert np.isnan(done.points_mm).all()


@pytest.mark.parametrize(
    ("points", "problem"),
    [
        ("AC 100", "s1: .* line 1: x and y"),
        ("nose 100 100", "s1: .*s1.txt: holds no landmark of the set msp8"),
        ("AC 300 100", "s1: .*s1.txt: AC outside the scan's field of view"),
    ],
)
def test_a_problem_comes_back_as_one_line(tmp_path, points, problem):
    done = prepare_scan(job(tmp_path, points))
    assert done.problem is not None
    assert re.match(problem, done.problem)
    assert "\n" not in done.problem


def test_a_cache_that_cannot_be_written_stops_everything(tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(CacheError, match="cannot be written"):
        prepare_scan(job(tmp_path))


def test_stages_that_changed_under_way_stops_everything(tmp_path):
    with pytest.raises(CacheError, match=r"changed under way, from versions .*; start again"):
        prepare_scan(job(tmp_path, versions={**STAGE_VERSIONS, "slice": 2}))


def test_what_the_stages_warn_of_is_left_to_the_table(tmp_path, monkeypatch, caplog):
    imaging = logging.getLogger("landmarking.imaging.registration")

    def warn(*_):
        imaging.warning("doubtful")
        raise CacheError("stop")

    monkeypatch.setattr("landmarking.preparation.jobs.staged_slice", warn)
    with pytest.raises(CacheError, match="stop"):
        prepare_scan(job(tmp_path))
    assert "doubtful" not in caplog.text
    imaging.warning("afterwards")
    assert "afterwards" in caplog.text


SETTINGS = PreprocessSettings()
MSP8 = landmark_set("msp8")
# A head that is turned, nodded and moved within its scan, whose slice was found exactly.
TO_WORLD = rigid_matrix(12, 6, -9, (15, -20, 8))
SCAN_AFFINE = np.array([[2.0, 0, 0, -90], [0, 2, 0, -140], [0, 0, 2, -100], [0, 0, 0, 1]])


def staged(to_world=TO_WORLD, shape=(100, 130, 100)):
    world_to_common = np.linalg.inv(to_world)
    plane = MIDSAGITTAL_COMMON.transformed(to_world)
    geometry = slice_geometry(plane, world_to_common, SETTINGS)
    return StagedSlice(np.zeros(geometry.shape, np.float32), geometry, {}, shape, SCAN_AFFINE)


def problem(points, landmarks=MSP8, slice_=None):
    return landmark_problem(points, landmarks, slice_ or staged(), SETTINGS)


def placed(landmarks=MSP8):
    return apply_affine(TO_WORLD, landmarks.template_mm)


@pytest.mark.parametrize("name", ["msp8", "msp10", "afids32"])
def test_right_landmarks_have_no_problem_on_and_off_the_midline(name):
    landmarks = landmark_set(name)
    noise = np.random.default_rng(0).normal(0, 3, (len(landmarks), 3))
    assert problem(placed(landmarks) + noise, landmarks) is None


def test_missing_landmarks_are_no_problem_unless_all_are_missing():
    points = placed()
    points[1:] = np.nan
    assert problem(points) is None
    points[0] = np.nan
    assert "holds no landmark of the set msp8 (AC, PC" in problem(points)


@pytest.mark.parametrize("name", ["msp8", "afids32"])
def test_lps_written_as_ras_is_recognised(name):
    landmarks = landmark_set(name)
    points = placed(landmarks) * [-1, -1, 1]
    assert "look like LPS written as RAS" in problem(points, landmarks)


def test_landmarks_of_a_centred_head_are_recognised_as_turned_too():
    centred = staged(np.eye(4))
    assert problem(MSP8.template_mm, slice_=centred) is None
    assert "LPS written as RAS" in problem(MSP8.template_mm * [-1, -1, 1], slice_=centred)


def test_landmarks_outside_the_field_of_view_are_named():
    points = placed()
    points[2] = apply_affine(SCAN_AFFINE, [50.0, 50.0, 99.6])
    points[5] = apply_affine(SCAN_AFFINE, [-0.6, 50.0, 50.0])
    assert problem(points).startswith("ICS, IMS outside the scan's field of view")


@pytest.mark.parametrize(("off_mm", "refused"), [(19.0, False), (-19.0, False), (21.0, True)])
def test_a_landmark_twenty_millimetres_off_the_plane_is_refused(off_mm, refused):
    points = placed()
    points[4] += staged().geometry.plane.normal * (
        off_mm - staged().geometry.distance_mm(points[4])
    )
    found = problem(points)
    assert (found is not None) == refused
    if refused:
        assert "CUL is 21 mm off the mid-sagittal plane, 20 mm are allowed" in found


def test_left_and_right_swapped_are_found_where_a_set_has_both_sides():
    landmarks = landmark_set("afids32")
    swapped = apply_affine(TO_WORLD, landmarks.template_mm * [-1, 1, 1])
    assert "off the mid-sagittal plane" in problem(swapped, landmarks)
