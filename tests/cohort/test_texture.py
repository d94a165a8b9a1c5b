import numpy as np
import pytest

from landmarking.cohort.texture import texture


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
