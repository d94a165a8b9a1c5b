import numpy as np
import pytest
from scipy import ndimage

from landmarking.cohort.anatomy import load_atlas
from landmarking.cohort.person import anatomy
from landmarking.cohort.phantom import Subject
from landmarking.cohort.scanner import scanner_frame
from landmarking.cohort.slow_fields import _doubled, _with_neighbours, head_layout, reach_mm


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


@pytest.fixture(scope="module")
def layout(coarse):
    frame = scanner_frame(coarse.scanner, np.random.default_rng(4))
    warp = anatomy(coarse, Subject("HS", 3), frame).warp
    return head_layout(load_atlas(), warp, np.random.default_rng(0), 6.5, 6.5)


def test_blocks_hold_all_of_the_head_once(layout):
    held = np.zeros(layout.shape, dtype=int)
    for box in layout.blocks():
        assert all(cut.start % 2 == 0 for cut in box)
        held[box] += 1
    assert held.max() == 1
    outside, body = (
        _doubled(field, layout.shape) for field in (layout.fields.outside, layout.fields.body)
    )
    head = (outside < reach_mm(layout.shells)) | (body > 0.0)
    assert head.any()
    assert held[head].min() == 1
    assert held.mean() < 0.95


@pytest.mark.parametrize("name", ["outside", "cortex", "relief", "fast"])
def test_a_blocks_fields_are_those_of_the_whole(layout, name):
    whole = _doubled(getattr(layout.fields, name), layout.shape)
    for box in layout.blocks():
        part = getattr(layout.block(box), name)
        np.testing.assert_array_equal(part, whole[box].ravel())
