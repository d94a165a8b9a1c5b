"""Conformal radii: their guarantee, their finite-sample rank, and the tables."""

import math

import numpy as np
import pytest

from landmarking.errors import PredictionsError
from landmarking.prediction.calibration import (
    calibrate,
    coverage_table,
    flag_quality,
    rank_correlation,
    wilson,
)


def test_the_factor_is_the_rank_of_the_definition() -> None:
    errors = np.arange(1.0, 20.0)[:, None]
    # 19 errors: ceil(20 * 0.9) = 18th smallest; 9 errors: the largest; 99: the 90th.
    assert calibrate(errors, np.ones((19, 1))).factors.tolist() == [18.0]
    assert calibrate(errors[:9], np.ones((9, 1))).factors.tolist() == [9.0]
    many = np.arange(1.0, 100.0)[:, None]
    assert calibrate(many, np.ones((99, 1))).factors.tolist() == [90.0]


def test_coverage_of_new_people_is_what_was_asked_for_on_average() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        doubt = rng.uniform(0.5, 3.0, (40, 1))
        errors = doubt * rng.rayleigh(1.0, (40, 1))
        radii = calibrate(errors[:39], doubt[:39]).radius(doubt[39:])
        held.append(errors[39, 0] <= radii[0, 0])
    # The exact probability is 36 / 40; the SD of this mean is 0.015.
    assert abs(np.mean(held) - 0.9) < 0.045


def test_radii_follow_doubt_and_each_landmark_has_its_own() -> None:
    rng = np.random.default_rng(1)
    errors = rng.rayleigh(1.0, (200, 2)) * np.array([1.0, 3.0])
    calibration = calibrate(errors, np.ones((200, 2)))
    assert calibration.factors[1] / calibration.factors[0] == pytest.approx(3.0, rel=0.25)
    np.testing.assert_allclose(
        calibration.radius(np.array([[2.0, 2.0]]))[0], 2.0 * calibration.factors
    )


def test_missing_truth_does_not_count() -> None:
    errors = np.arange(1.0, 20.0)[:, None]
    with_gaps = np.concatenate([errors, np.full((5, 1), np.nan)])
    calibration = calibrate(with_gaps, np.ones((24, 1)))
    assert calibration.counts.tolist() == [19]
    assert calibration.factors.tolist() == [18.0]
    (row, _) = coverage_table(with_gaps, np.full((24, 1), 10.0), ["HS"] * 24, ["AC"])
    assert (row.count, row.share) == (19, pytest.approx(10 / 19))


def test_the_table_has_each_group_and_landmark_and_their_pool() -> None:
    errors = np.array([[1.0, 3.0], [1.0, 1.0], [4.0, 4.0]])
    radii = np.full((3, 2), 2.0)
    rows = coverage_table(errors, radii, ["HS", "HS", "DS"], ["AC", "PC"])
    shares = {(row.group, row.landmark): row.share for row in rows}
    assert shares == {
        ("HS", "AC"): 1.0,
        ("HS", "PC"): 0.5,
        ("HS", "all"): 0.75,
        ("DS", "AC"): 0.0,
        ("DS", "PC"): 0.0,
        ("DS", "all"): 0.0,
    }


def test_a_group_without_truth_gives_nan_and_no_warning() -> None:
    rows = coverage_table(np.full((2, 1), np.nan), np.ones((2, 1)), ["DS", "DS"], ["AC"])
    assert all(math.isnan(row.share) and row.count == 0 for row in rows)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    # Newcombe 1998, table I, method 3 (score, no continuity correction).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)],
)
def test_wilson_s_interval_is_the_published_one(
    hits: int, count: int, low: float, high: float
) -> None:
    assert wilson(hits / count, count) == pytest.approx((low, high), abs=1e-4)


def test_rank_correlation_and_flags() -> None:
    errors = np.array([0.5, 1.0, 2.0, 6.0, 9.0, np.nan])
    assert rank_correlation(errors**2, errors) == pytest.approx(1.0)
    assert rank_correlation(-errors, errors) == pytest.approx(-1.0)
    quality = flag_quality(errors, np.array([1.0, 1.0, 7.0, 1.0, 8.0, 9.0]))
    assert (quality.precision, quality.recall) == (0.5, 0.5)
    assert (quality.flagged, quality.failures) == (2, 2)
    none = flag_quality(errors[:3], np.ones(3))
    assert math.isnan(none.precision)
    assert math.isnan(none.recall)


@pytest.mark.parametrize(
    ("count", "scores", "said"),
    [(8, 1.0, "needs 9 errors of each landmark"), (20, 0.0, "are positive numbers")],
)
def test_what_cannot_be_calibrated_is_refused(count: int, scores: float, said: str) -> None:
    with pytest.raises(PredictionsError, match=said):
        calibrate(np.ones((count, 1)), np.full((count, 1), scores))
