import numpy as np
import pytest
from scipy import ndimage

from landmarking.cohort.slow_fields import _doubled, _with_neighbours


@pytest.mark.parametrize("shape", [(5, 6, 7), (8, 9, 4)])
def test_doubling_is_linear_interpolation_between_every_second_voxel(shape):
    coarse = np.random.default_rng(0).normal(size=[(n + 1) // 2 for n in shape])
    at = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")) / 2.0
    # An even axis ends half a coarse voxel beyond the last, where values go on.
    expected = ndimage.map_coordinates(coarse, at, order=1, mode="nearest")
    doubled = _doubled(coarse.astype(np.float32), shape)
    np.testing.assert_allclose(doubled, expected, atol=1e-6)


def test_neighbours_are_the_26_about_each_voxel():
    chosen = np.random.default_rng(1).random((9, 8, 7)) < 0.03
    expected = ndimage.binary_dilation(chosen, np.ones((3, 3, 3)))
    np.testing.assert_array_equal(_with_neighbours(chosen), expected)
