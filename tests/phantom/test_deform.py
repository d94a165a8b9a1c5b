import numpy as np
import pytest

from landmarking.errors import CohortError
from landmarking.geometry import apply_affine
from landmarking.landmarks import landmark_set
from landmarking.phantom.deform import fit_voxel_map, knots, landmark_flow
from landmarking.phantom.fields import random_field

SHAPE = (30, 36, 33)
STEP = np.array([3.0, 4.0, 3.5])
LOW, HIGH = np.full(3, -90.0), np.full(3, 90.0)


@pytest.fixture(scope="module")
def voxel_map():
    affine = np.diag([2.5, -2.0, 3.0, 1.0])
    affine[:3, 3] = -30.0, 40.0, -45.0
    rng = np.random.default_rng(3)
    field = random_field(rng, LOW, HIGH, ((15.0, 1.5), (40.0, 3.0)))
    lattice = knots(SHAPE, STEP)
    targets = field.displaced(apply_affine(affine, lattice.reshape(-1, 3)))
    return fit_voxel_map(affine, targets.reshape(lattice.shape), STEP, SHAPE)


def test_the_grid_is_the_map_at_every_voxel(voxel_map):
    chosen = np.random.default_rng(0).integers(0, SHAPE, (200, 3))
    expected = voxel_map.at(chosen.astype(float))
    assert np.abs(voxel_map.grid()[:, *chosen.T].T - expected).max() < 1e-4
    coarse = voxel_map.grid(every=2)
    assert np.abs(coarse - voxel_map.grid()[:, ::2, ::2, ::2]).max() < 1e-4


def test_the_jacobian_agrees_with_differences_and_is_positive(voxel_map):
    voxels = np.argwhere(np.ones(SHAPE))[::977].astype(float)
    slopes = np.stack(
        [(voxel_map.at(voxels + h) - voxel_map.at(voxels - h)) / 2e-3 for h in 1e-3 * np.eye(3)],
        axis=-1,
    )
    expected = np.linalg.det(slopes) / np.linalg.det(voxel_map.affine[:3, :3])
    found = voxel_map.jacobian(every=1)[tuple(voxels.astype(int).T)]
    assert np.abs(found - expected).max() < 1e-3
    assert voxel_map.jacobian().min() > 0.0


def test_the_inverse_undoes_the_map_exactly(voxel_map):
    voxels = np.random.default_rng(1).uniform(2.0, np.array(SHAPE) - 3.0, (50, 3))
    assert np.abs(voxel_map.inverse(voxel_map.at(voxels)) - voxels).max() < 1e-5


def test_a_map_that_folds_is_refused():
    affine = np.eye(4)
    targets = knots(SHAPE, STEP)
    targets = 0.0 * targets + 5.0
    folded = fit_voxel_map(affine, targets, STEP, SHAPE)
    with pytest.raises((CohortError, np.linalg.LinAlgError)):
        folded.inverse(np.array([[20.0, 20.0, 20.0]]))


def test_landmarks_arrive_and_far_points_stay():
    start = landmark_set("afids32").template_mm
    end = start + np.random.default_rng(2).normal(0.0, 2.0, start.shape)
    arrived = landmark_flow(start, start, end, noise_mm=0.0)
    assert np.linalg.norm(arrived - end, axis=1).max() < 0.05
    far = np.array([[0.0, 0.0, 400.0]])
    assert np.abs(landmark_flow(far, start, end) - far).max() < 1e-6
