import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from landmarking.phantom.anatomy import load_atlas
from landmarking.phantom.fields import (
    _doubled,
    _with_neighbours,
    head_layout,
    random_field,
    reach_mm,
    smooth_field,
    texture,
)
from landmarking.phantom.person import Subject, anatomy
from landmarking.phantom.scanner import scanner_frame

LOW, HIGH = np.full(3, -90.0), np.full(3, 90.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_fields_can_be_undone(seed):
    rng = np.random.default_rng(seed)
    field = random_field(rng, LOW, HIGH, ((12.0, 0.8), (40.0, 2.5)))
    points = rng.uniform(-70.0, 70.0, (40, 3))
    assert np.abs(field.displaced(field.undone(points)) - points).max() < 1e-3


def test_a_random_field_has_the_size_asked_for():
    field = random_field(np.random.default_rng(0), LOW, HIGH, ((15.0, 2.0),))
    assert field.values.std(axis=(1, 2, 3)) == pytest.approx(np.full(3, 2.0), rel=0.05)
    assert np.array_equal(field.scaled(0.5).values, 0.5 * field.values)


def test_smooth_fields_have_unit_variance_and_no_steps():
    field = smooth_field(np.random.default_rng(0), (80, 90, 70), np.ones(3), 12.0).planes()
    assert field.std() == pytest.approx(1.0, abs=0.15)
    assert np.abs(np.diff(field, axis=0)).max() < 0.5


def test_random_fields_reach_over_the_whole_head():
    field = random_field(np.random.default_rng(0), np.full(3, -60.0), np.full(3, 60.0), ((9.0, 1),))
    assert field.displaced(np.array([[500.0, 0.0, 0.0]])).shape == (1, 3)


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


@pytest.fixture(scope="module")
def field():
    return texture(np.random.default_rng(0), 9.0)


def points(count=500):
    return np.random.default_rng(1).uniform(-200.0, 200.0, (3, count)).astype(np.float32)


def test_a_texture_has_mean_zero_and_unit_deviation_and_waves_of_its_length(field):
    cube = field.cube.data[:-1, :-1, :-1]
    assert cube.mean() == pytest.approx(0.0, abs=1e-3)
    assert cube.std() == pytest.approx(1.0, abs=1e-3)
    power = np.abs(np.fft.rfft(cube, axis=2)) ** 2
    frequency = np.fft.rfftfreq(cube.shape[2], field.cube.spacing_mm)
    # Along one axis a wave of 9 mm looks longer, never shorter but for the width of the band.
    share = power[..., frequency < 1.8 / 9.0].sum() / power.sum()
    assert share > 0.97


def test_a_texture_goes_on_across_its_period(field):
    at = points()
    later = at + np.float32(field.period_mm) * np.array([[1.0], [-2.0], [3.0]], dtype=np.float32)
    assert np.abs(field.at(later) - field.at(at)).max() < 1e-2


def test_the_nearest_value_is_that_of_the_nearest_sample(field):
    steps = np.random.default_rng(2).integers(-300, 300, (3, 500))
    at = (steps * field.cube.spacing_mm).astype(np.float32)
    off = np.random.default_rng(3).uniform(-0.4, 0.4, at.shape) * field.cube.spacing_mm
    size = field.cube.data.shape[0] - 1
    expected = field.cube.data[tuple(steps % size)]
    np.testing.assert_array_equal(field.nearest(at + off.astype(np.float32)), expected)
    assert np.abs(field.at(at) - expected).max() < 1e-2
