import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarking.cohort.random_fields import random_field, smooth_field

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
