import numpy as np
import pytest

from landmarking.data.landmark_checks import landmark_problem
from landmarking.data.stages import StagedSlice
from landmarking.geometry import apply_affine, rigid_matrix
from landmarking.imaging.pipeline import MIDSAGITTAL_COMMON, PreprocessSettings, slice_geometry
from landmarking.landmarks import landmark_set

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
