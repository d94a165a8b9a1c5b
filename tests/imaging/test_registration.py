"""Heads in any pose and field of view come to the common space; doubtful ones are marked."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarking.errors import ConfigError
from landmarking.geometry import apply_affine, rigid_matrix
from landmarking.imaging.registration import CENTRE_MM, nearest_rigid, register
from landmarking.imaging.scan import Scan, to_pil
from landmarking.landmarks import landmark_set

LANDMARKS_MM = landmark_set("msp8").template_mm

# Pitch, roll, yaw (degrees), shift (mm), and what the scan is like: the extremes of the promise.
POSES = {
    "as it lies": ((0, 0, 0), (0, 0, 0), {}),
    "pitched up": ((25, 20, -20), (10, -20, 15), {}),
    "pitched down": ((-25, -20, 20), (-40, 0, 0), {"size_mm": (300.0, 264.0, 264.0)}),
    "shifted up": ((10, 5, 0), (0, 40, 40), {"size_mm": (240.0, 330.0, 330.0)}),
    "thick sagittal": ((25, 0, 20), (0, 0, 0), {"spacing_mm": (5.0, 2.0, 2.0)}),
    "thick axial": ((-25, 10, 0), (0, 10, 0), {"spacing_mm": (2.0, 2.0, 5.0)}),
    "vertex cut off": ((10, 0, 5), (0, 0, 0), {"middle_mm": (0.0, -18.0, -85.0)}),
}


def motion_of(angles, shift):
    return rigid_matrix(*angles, shift_mm=shift, centre_mm=(0, -18, 0))


def landmark_errors_mm(registration, motion):
    found = apply_affine(registration.world_to_common, apply_affine(motion, LANDMARKS_MM))
    return np.linalg.norm(found - LANDMARKS_MM, axis=1)


@pytest.mark.parametrize(
    ("head", "pose"),
    [
        *(("whole_head", pose) for pose in POSES),
        ("brain_only", "pitched up"),
        ("brain_only", "shifted up"),
        ("brain_only", "thick axial"),
    ],
)
def test_landmarks_come_home(head, pose, posed, request):
    angles, shift, kwargs = POSES[pose]
    motion = motion_of(angles, shift)

    registration = register(posed(request.getfixturevalue(head), motion, **kwargs))

    assert registration.ok
    assert landmark_errors_mm(registration, motion).max() < 2.0


def test_rigid_is_rigid_and_affine_finds_the_size(brain_only, posed):
    small = np.diag([0.85, 0.9, 0.95, 1.0])
    scan = posed(brain_only, small)

    rigid, affine = register(scan, "rigid"), register(scan, "affine")

    turn = rigid.world_to_common[:3, :3]
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) == pytest.approx(1.0)
    assert landmark_errors_mm(affine, small).max() < 1.0
    assert np.allclose(affine.world_to_common[:3, :3] @ small[:3, :3], np.eye(3), atol=0.02)
    # The middle between AC and PC is where both agree.
    centre = apply_affine(np.linalg.inv(affine.world_to_common), CENTRE_MM)
    assert np.allclose(apply_affine(rigid.world_to_common, centre), CENTRE_MM, atol=1e-6)


def test_none_takes_the_world_for_the_common_space(brain_only):
    registration = register(brain_only, "none")

    assert np.array_equal(registration.world_to_common, np.eye(4))
    assert registration.ok


def test_contrast_gain_and_bias_field_do_not_matter(whole_head, posed):
    motion = motion_of((15, -10, 10), (5, 5, 5))
    scan = posed(whole_head, motion)
    ramp = np.linspace(0.6, 1.4, scan.data.shape[2], dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 0.03, scan.data.shape).astype(np.float32)
    changed = Scan(1000 * ((scan.data**1.5) * ramp + noise), scan.affine, scan.name)

    assert landmark_errors_mm(register(changed), motion).max() < 2.0


def test_the_order_of_voxels_does_not_matter_and_twice_is_the_same(whole_head, posed):
    scan = posed(whole_head, motion_of((10, 5, -5), (3, 4, 5)), (4.0, 4.0, 4.0))

    once, again, pil = register(scan), register(scan), register(to_pil(scan))

    assert np.array_equal(once.world_to_common, again.world_to_common)
    assert np.allclose(once.world_to_common, pil.world_to_common, atol=0.5)


def test_no_head_is_tried_from_more_starts_and_then_marked(caplog):
    noise = np.random.default_rng(0).uniform(0, 100, (60, 66, 60)).astype(np.float32)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])

    with caplog.at_level(logging.WARNING):
        registration = register(Scan(noise, affine, "sub-9"))

    assert not registration.ok
    assert registration.starts > 9
    assert np.isfinite(registration.world_to_common).all()
    assert "sub-9: registration quality" in caplog.text


def test_the_mark_is_right_about_a_pose_beyond_the_promise(brain_only, posed):
    motion = motion_of((0, 0, 45), (0, 0, 0))

    registration = register(posed(brain_only, motion))

    assert registration.ok == (landmark_errors_mm(registration, motion).max() < 5.0)


def test_an_unknown_method_is_refused(brain_only):
    with pytest.raises(ConfigError, match="rigid, affine or none"):
        register(brain_only, "similarity")


@settings(max_examples=20)
@given(*[st.floats(-30, 30)] * 3, st.tuples(*[st.floats(0.7, 1.3)] * 3))
def test_nearest_rigid_undoes_a_stretch(pitch, roll, yaw, sizes):
    motion = rigid_matrix(pitch, roll, yaw, (1, 2, 3))

    found = nearest_rigid(motion @ np.diag([*sizes, 1.0]), np.zeros(3))

    # A stretch along the axes before the turn has that turn as its polar part.
    assert np.allclose(found, motion, atol=1e-9)
