import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from landmarking.geometry import Plane, apply_affine, rigid_matrix
from landmarking.imaging.levels import Level
from landmarking.imaging.symmetry import Frame, correlation, grid_score, mirror_pairs, pair_symmetry

AFFINE = rigid_matrix(4, 3, -6, (1, 2, 3)) @ np.diag([2.0, 2.5, 3.0, 1.0])
PAIRS = mirror_pairs(4000, 25.0, 8.0, 20.0)


def noisy_level(seed=0, shape=(40, 36, 30)):
    volume = np.random.default_rng(seed).normal(size=shape)
    return Level(ndimage.gaussian_filter(volume, 2.0).astype(np.float32), AFFINE)


def middle(level):
    return apply_affine(level.affine, (np.array(level.volume.shape) - 1) / 2)


def reference_score(level, plane):
    """Eq. 1, voxel by voxel and by numpy.corrcoef."""
    points = apply_affine(level.affine, np.argwhere(np.ones(level.volume.shape)))
    mirrored = points - 2 * (points @ plane.normal - plane.offset_mm)[:, None] * plane.normal
    voxels = apply_affine(np.linalg.inv(level.affine), mirrored)
    upper = np.array(level.volume.shape) - 1
    both = ((voxels >= 0) & (voxels <= upper)).all(axis=1)
    values = ndimage.map_coordinates(level.volume.astype(float), voxels[both].T, order=1)
    return np.corrcoef(level.volume.ravel()[both], values)[0, 1]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    tilt=st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4)),
    shift=st.floats(-15, 15),
)
def test_grid_score_is_eq_1(seed, tilt, shift):
    level = noisy_level(seed)
    plane = Plane.from_normal([-1, *tilt], middle(level) + np.array([shift, 0, 0]))
    assert grid_score(level, plane) == pytest.approx(reference_score(level, plane), abs=1e-4)


def test_a_symmetric_volume_off_the_middle_scores_one_only_when_the_outside_is_masked():
    half = np.random.default_rng(1).normal(5.0, 1.0, size=(10, 20, 20)).astype(np.float32)
    # Symmetric about voxel 9.5 of 30: a third of the voxels have no partner.
    extra = np.random.default_rng(2).normal(5.0, 1.0, size=(10, 20, 20)).astype(np.float32)
    level = Level(np.concatenate([half, half[::-1], extra]), np.eye(4))
    plane = Plane.from_normal([-1, 0, 0], [9.5, 0, 0])
    assert grid_score(level, plane) == pytest.approx(1.0, abs=1e-6)
    mirrored = np.concatenate([level.volume[:20][::-1], np.zeros_like(extra)])
    assert correlation(level.volume.ravel(), mirrored.ravel()) < 0.5


def test_pair_symmetry_is_eq_1_on_both_orders_of_every_pair():
    level = noisy_level()
    corner = middle(level) + np.array([12.0, 25.0, 20.0])
    frame = Frame.on_plane(Plane.from_normal([-1, 0.1, 0.2], corner), corner)
    u, v, w = PAIRS.offsets_mm.astype(float)
    sides = []
    for sign in (1, -1):
        world = frame.centre_mm + np.column_stack([u, v, sign * w]) @ frame.axes
        voxels = apply_affine(level.world_to_voxel, world).T
        sides.append(ndimage.map_coordinates(level.volume, voxels, order=1, cval=np.nan))
    both = np.isfinite(sides[0]) & np.isfinite(sides[1])
    a, b = np.concatenate(sides)[np.tile(both, 2)], np.concatenate(sides[::-1])[np.tile(both, 2)]
    weights = np.tile(PAIRS.weights[both], 2)
    covariance = np.cov(a, b, aweights=weights)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    found = pair_symmetry(level, frame, PAIRS)
    assert 0.1 < both.mean() < 0.95
    assert found.score == pytest.approx(expected, abs=1e-4)
    assert found.inside.mean() == pytest.approx(both.mean(), abs=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_the_score(seed):
    # Large, so that no pair crosses the volume's border within the step of the difference.
    level = noisy_level(seed, (60, 60, 60))
    frame = Frame.on_plane(Plane.from_normal([-1, 0.1, 0.2], middle(level)), middle(level))
    found = pair_symmetry(level, frame, PAIRS)
    assert found.inside.all()
    for axis, size in enumerate((2e-3, 2e-3, 5e-2)):
        step = np.eye(3)[axis] * size
        after, before = (
            pair_symmetry(level, frame.moved(sign * step), PAIRS).score for sign in (1, -1)
        )
        expected = (after - before) / (2 * size)
        assert found.gradient[axis] == pytest.approx(expected, rel=0.05, abs=2e-3)


def test_no_pairs_inside_or_no_variation_score_zero():
    level = noisy_level()
    away = Frame.on_plane(Plane.from_normal([-1, 0, 0], [900, 0, 0]), np.array([900.0, 0, 0]))
    assert pair_symmetry(level, away, PAIRS).score == 0.0
    assert grid_score(level, away.plane) == 0.0
    flat = Level(np.ones((20, 20, 20), np.float32), np.eye(4))
    here = Frame.on_plane(Plane.from_normal([-1, 0, 0], [9, 9, 9]), np.array([9.0, 9, 9]))
    assert pair_symmetry(flat, here, PAIRS).score == 0.0


@pytest.mark.parametrize("normal", [(-1, 0, 0), (-0.9, 0.3, -0.2), (-1e-3, 1, 0), (-0.1, 0, 1)])
def test_frames_are_orthonormal_and_lie_on_their_plane(normal):
    plane = Plane.from_normal(normal, [4, 5, 6])
    frame = Frame.on_plane(plane, np.array([20.0, -30, 40]))
    assert frame.axes @ frame.axes.T == pytest.approx(np.eye(3), abs=1e-12)
    assert frame.plane.distance_mm(frame.centre_mm) == pytest.approx(0, abs=1e-9)
    moved = frame.moved(np.array([0.1, -0.2, 3.0]))
    assert moved.axes @ moved.axes.T == pytest.approx(np.eye(3), abs=1e-12)
    assert plane.distance_mm(moved.centre_mm) == pytest.approx(3.0)


def test_pairs_fill_the_ball_densely_near_the_plane():
    across = PAIRS.offsets_mm[2]
    assert PAIRS.offsets_mm.shape == (3, 4000)
    assert (np.linalg.norm(PAIRS.offsets_mm, axis=0) < 25).all()
    assert (across >= 0).all()
    assert np.median(across) < np.median(mirror_pairs(4000, 25.0, 8.0, 500.0).offsets_mm[2])
    assert 0 < PAIRS.weights.min() < 0.1
    assert PAIRS.weights.max() == 1.0
