"""Coarse volumes."""

import numpy as np
import pytest
from scipy import ndimage

from landmarking.geometry import apply_affine, rigid_matrix
from landmarking.imaging.pyramid import block_average, local_contrast, scan_volume, template_level
from landmarking.imaging.registration import _motion
from landmarking.imaging.scan import Scan


@pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0), (0.7, 1.3, 5.0), (2.0, 4.1, 1.9)])
def test_block_averages_keep_world_positions(sizes):
    """The mean of a linear ramp is its value at the block's centre."""
    affine = rigid_matrix(20, 10, -15, (5, -3, 2)) @ np.diag([*sizes, 1.0])
    voxels = np.indices((23, 17, 19)).reshape(3, -1).T
    ramp = apply_affine(affine, voxels) @ [1.0, -2.0, 3.0]

    coarse, coarse_affine = block_average(
        ramp.reshape(23, 17, 19).astype(np.float32), affine, spacing_mm=4.0
    )

    at_centres = apply_affine(coarse_affine, np.indices(coarse.shape).reshape(3, -1).T)
    assert np.allclose(coarse.ravel(), at_centres @ [1.0, -2.0, 3.0], atol=1e-3)
    assert (np.linalg.norm(coarse_affine[:3, :3], axis=0) <= np.maximum(4.0, sizes) + 1e-9).all()


def test_local_contrast_forgets_gain_and_bias():
    rng = np.random.default_rng(0)
    texture = rng.uniform(0.2, 0.8, (30, 30, 30)).astype(np.float32)
    bias = np.exp(np.linspace(-0.5, 0.5, 30, dtype=np.float32))[:, None, None]
    affine = np.diag([4.0, 4.0, 4.0, 1.0])

    plain, biased = (local_contrast(v, affine, 4.0, 12.0) for v in (texture, texture * bias))

    def correlation(first, second):
        return np.corrcoef(first.ravel(), second.ravel())[0, 1]

    assert correlation(plain, biased) > 0.94
    assert correlation(plain, biased) > correlation(texture, texture * bias) + 0.2
    assert np.abs(plain).max() < 5.0


def test_sampling_tells_inside_from_outside():
    data = np.random.default_rng(0).uniform(size=(20, 20, 20)).astype(np.float32)
    volume = scan_volume(Scan(data, np.diag([4.0, 4.0, 4.0, 1.0]), "s"))

    _, inside = volume.sample(np.array([[0.0, 0, 0], [76, 76, 76], [-3, 0, 0], [0, 79, 0]]), 4.0)

    assert inside.tolist() == [True, True, False, False]


def test_steepest_descent_is_the_derivative():
    """Against finite differences of the template itself, for all twelve parameters."""
    level = template_level(8.0)

    def values(step):
        points = apply_affine(_motion(step, level.centre_mm), level.points_mm)
        voxels = apply_affine(np.linalg.inv(level.affine), points).T
        return ndimage.map_coordinates(level.volume, voxels, order=1)

    for parameter in range(12):
        size = 4.0 if parameter < 3 else 4.0 / 70.0
        step = np.eye(12)[parameter] * size
        numeric = (values(step) - values(-step)) / (2 * size)
        analytic = level.steepest_descent[:, parameter]
        assert np.corrcoef(numeric, analytic)[0, 1] > 0.95
        assert numeric.std() == pytest.approx(analytic.std(), rel=0.1)
