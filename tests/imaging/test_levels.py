import numpy as np
import pytest
from scipy import ndimage

from landmarking.geometry import apply_affine, rigid_matrix
from landmarking.imaging.bias import flattened, head_mask
from landmarking.imaging.levels import Level, block_mean, coarser_levels, trilinear

AFFINE = rigid_matrix(10, 20, 30, (4, 5, 6)) @ np.diag([1.0, 1.5, 0.5, 1.0])


def ramp(shape=(12, 10, 16), affine=AFFINE):
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
