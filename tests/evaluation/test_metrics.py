"""Radial error and SDR against plain loops, and the rounding against exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landmarking.errors import LandmarkError
from landmarking.evaluation.metrics import (
    mean_sd,
    percent_half_up,
    radial_error_mm,
    sdr,
    sdr_counts,
)


def test_radial_error_equals_a_plain_loop_with_anisotropic_sheared_pixels():
    rng = np.random.default_rng(0)
    predicted, true = rng.normal(70, 20, (2, 5, 8, 2))
    true[1, 3] = np.nan
    metric = np.array([[[0.8, 0.1], [0.0, 1.2]]] * 4 + [[[2.0, 0.0], [0.0, 0.5]]])

    found = radial_error_mm(predicted, true, metric)

    for b in range(5):
        for landmark in range(8):
            x, y = predicted[b, landmark] - true[b, landmark]
            (p, q), (r, s) = metric[b]
            expected = math.sqrt((p * x + q * y) ** 2 + (r * x + s * y) ** 2)
            np.testing.assert_allclose(found[b, landmark], expected, rtol=1e-12)
    assert np.isnan(found).sum() == 1


@pytest.mark.parametrize(
    ("predicted", "true", "metric", "words"),
    [
        (np.zeros((2, 8, 2)), np.zeros((2, 7, 2)), np.eye(2)[None].repeat(2, 0), "one shape"),
        (np.zeros((2, 2)), np.zeros((2, 2)), np.eye(2)[None].repeat(2, 0), "one shape"),
        (np.zeros((2, 8, 2)), np.zeros((2, 8, 2)), np.eye(2)[None], "metric for each of 2"),
        (np.zeros((1, 8, 2)), np.zeros((1, 8, 2)), np.zeros((1, 2, 2)), "singular"),
    ],
)
def test_radial_error_says_what_does_not_fit(predicted, true, metric, words):
    with pytest.raises(LandmarkError, match=words):
        radial_error_mm(predicted, true, metric)


def test_thresholds_are_inclusive_and_missing_landmarks_do_not_count():
    errors = [0.5, 1.0, np.nextafter(1.0, 2.0), 2.0, np.nan, 9.0]

    hits, scored = sdr_counts(errors, (1.0, 2.0, 5.0))

    assert hits.tolist() == [2, 4, 4]
    assert scored == 5
    np.testing.assert_allclose(sdr(errors, (1.0, 2.0, 5.0)), [40, 80, 80])


def test_nothing_scored_is_no_rate_rather_than_zero():
    assert np.isnan(sdr([np.nan, np.nan])).all()
    assert math.isnan(mean_sd([np.nan])[0])


@given(st.integers(1, 2000), st.integers(0, 2000), st.integers(1, 4))
def test_rates_round_half_up_from_the_exact_ratio(scored, hits, decimals):
    hits = min(hits, scored)
    exact = Fraction(100 * hits, scored) * 10**decimals
    rounded = math.floor(exact + Fraction(1, 2))

    text = percent_half_up(hits, scored, decimals)

    assert Fraction(text) == Fraction(rounded, 10**decimals)
    assert len(text.split(".")[1]) == decimals


@pytest.mark.parametrize(
    ("hits", "scored", "text"),
    [(46, 432, "10.65"), (433, 696, "62.21"), (1, 800, "0.13"), (0, 3, "0.00"), (3, 3, "100.00")],
)
def test_known_rates(hits, scored, text):
    assert percent_half_up(hits, scored) == text


@pytest.mark.parametrize(("hits", "scored"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(hits, scored):
    with pytest.raises(LandmarkError, match="hits"):
        percent_half_up(hits, scored)


def test_mean_and_sample_deviation_leave_missing_landmarks_out():
    mean, deviation = mean_sd([1.0, np.nan, 2.0, 6.0])

    assert mean == 3.0
    assert deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
