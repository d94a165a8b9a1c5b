import numpy as np
import pytest

from landmarking.geometry import apply_affine
from posed_heads import posed_heads

AFFINE = np.array([[-2.0, 0, 0, 70], [0, 2.0, 0, -80], [0, 0, 2.0, -60], [0, 0, 0, 1]])
SPOT_MM = np.array([11.0, -3.0, 7.0])


def spotted_head():
    world = apply_affine(AFFINE, np.stack(np.indices((70, 80, 65)), axis=-1))
    return np.exp(-np.sum((world - SPOT_MM) ** 2, axis=-1) / 72).astype(np.float32) * 1000


def test_a_point_of_the_head_lies_where_the_motion_takes_it():
    for posed in posed_heads(spotted_head(), AFFINE, 2, seed=4):
        voxels = np.argwhere(posed.volume > 500)
        centre = np.average(voxels, axis=0, weights=posed.volume[tuple(voxels.T)])
        expected = apply_affine(posed.motion, SPOT_MM)
        assert apply_affine(posed.affine, centre) == pytest.approx(expected, abs=0.5)
        assert np.linalg.det(posed.motion[:3, :3]) == pytest.approx(1.0)


def test_poses_differ_from_each_other_and_are_the_same_again():
    one, two = list(posed_heads(spotted_head(), AFFINE, 2, seed=4))
    again = next(posed_heads(spotted_head(), AFFINE, 1, seed=4))
    assert np.array_equal(one.volume, again.volume)
    assert not np.allclose(one.motion, two.motion)
    assert (one.volume > 0).all()
