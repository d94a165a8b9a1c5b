import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from landmarking.geometry import Plane, apply_affine, rigid_matrix
from landmarking.imaging.intensity import flattened, head_mask
from landmarking.imaging.symmetry import (
    Frame,
    Level,
    block_mean,
    coarser_levels,
    correlation,
    grid_score,
    mirror_pairs,
    pair_symmetry,
    trilinear,
)

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


AFFINE_OF_LEVELS = rigid_matrix(10, 20, 30, (4, 5, 6)) @ np.diag([1.0, 1.5, 0.5, 1.0])


def ramp(shape=(12, 10, 16), affine=AFFINE_OF_LEVELS):
    """A volume that holds a linear function of the world, which averaging cannot change."""
    world = apply_affine(affine, np.stack(np.indices(shape), axis=-1))
    return Level((world @ [1.0, -2.0, 0.5]).astype(np.float32), affine)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("factors", [(2, 2, 2), (3, 1, 5), (1, 1, 1), (5, 3, 4)])
def test_block_means_keep_every_block_in_its_place(factors, order):
    level = ramp()
    level = Level(np.asarray(level.volume, order=order), level.affine)
    small = block_mean(level, factors)
    assert small.volume.shape == tuple(n // f for n, f in zip((12, 10, 16), factors, strict=True))
    assert small.volume == pytest.approx(small.centres_mm() @ [1.0, -2.0, 0.5], abs=1e-4)
    assert small.volume.flags.c_contiguous
    assert small.volume.dtype == np.float32


def test_coarser_levels_reach_the_spacings_and_leave_thick_slices_alone():
    affine = np.diag([0.5, 1.0, 5.0, 1.0])
    levels = coarser_levels(Level(np.zeros((128, 64, 20), np.float32), affine), (2.0, 4.0, 8.0))
    sizes = [np.linalg.norm(level.affine[:3, :3], axis=0).tolist() for level in levels]
    assert sizes == [[2, 2, 5], [4, 4, 5], [8, 8, 10]]
    assert min(coarser_levels(ramp(), (64.0,))[0].volume.shape) >= 2


def test_trilinear_gives_scipy_s_values_and_their_derivatives():
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(9, 8, 7)).astype(np.float32)
    points = (rng.uniform(-0.2, 1.2, size=(3, 500)) * [[8], [7], [6]]).astype(np.float32)
    values, slopes, inside = trilinear(volume, points)
    expected = ndimage.map_coordinates(volume, points, order=1, cval=np.nan)
    assert np.array_equal(inside, np.isfinite(expected))
    assert 50 < inside.sum() < 450
    assert values[inside] == pytest.approx(expected[inside], abs=1e-5)
    for axis in range(3):
        small = np.zeros((3, 1), np.float32)
        small[axis] = 1e-2
        same_cell = inside & (np.floor(points + small) == np.floor(points - small)).all(axis=0)
        after, before = (trilinear(volume, points + sign * small)[0] for sign in (1, -1))
        expected = (after - before)[same_cell] / 2e-2
        assert slopes[axis][same_cell] == pytest.approx(expected, abs=2e-3)


def slope_left(fine):
    """Brightness at one end of a head over that at the other."""
    return fine.volume[12:20, 12:68, 12:68].mean() / fine.volume[60:68, 12:68, 12:68].mean()


def test_flattening_takes_out_slow_changes_and_keeps_fast_ones():
    rng = np.random.default_rng(0)
    head = np.zeros((80, 80, 80), np.float32)
    head[10:70, 10:70, 10:70] = 100 + rng.normal(size=(60, 60, 60)) * 10
    slope = np.exp(np.linspace(-0.4, 0.4, 80, dtype=np.float32))[:, None, None]
    fine = Level(head * slope, np.diag([2.0, 2.0, 2.0, 1.0]))
    flat = flattened(fine, block_mean(fine, (4, 4, 4)), 30.0)
    assert slope_left(fine) < 0.65
    assert 0.93 < slope_left(flat) < 1.07
    core = (slice(20, 60),) * 3
    before, after = (
        np.corrcoef(level.volume[core].ravel(), head[core].ravel())[0, 1] for level in (fine, flat)
    )
    assert before < 0.7
    assert after > 0.9
    assert np.array_equal(flat.affine, fine.affine)


def test_head_mask_leaves_out_noisy_air_and_is_empty_for_a_constant():
    rng = np.random.default_rng(0)
    volume = np.abs(rng.normal(0, 5, size=(20, 20, 20))).astype(np.float32)
    volume[6:14, 6:14, 6:14] += 100
    mask = head_mask(Level(volume, np.eye(4)))
    assert mask.sum() == 8**3
    assert mask[6:14, 6:14, 6:14].all()
    assert not head_mask(Level(np.ones((4, 4, 4), np.float32), np.eye(4))).any()
