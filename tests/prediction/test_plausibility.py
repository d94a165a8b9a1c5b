"""Shape of heads: distances of each landmark given the others, and where they are too large."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from landmarking.cohort.tree import PEOPLE_FOLDER
from landmarking.errors import PredictionsError
from landmarking.landmarks import landmark_set, read_landmarks
from landmarking.prediction.calibration import (
    Shape,
    aligned,
    fit_shape,
    shape_from_plain,
    shape_to_plain,
)

RNG = np.random.default_rng(0)
MEAN = RNG.normal(0.0, 20.0, (8, 2))
MEAN -= MEAN.mean(axis=0)


def people(count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    modes = np.random.default_rng(5).normal(0.0, 1.0, (3, 8, 2))
    return MEAN + np.einsum("bk,klx->blx", rng.normal(0.0, 1.5, (count, 3)), modes)


def moved(points: np.ndarray, seed: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turn = rng.uniform(-0.4, 0.4, len(points))
    matrix = np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], -1)
    size = rng.uniform(0.8, 1.2, (len(points), 1, 1))
    shift = rng.normal(0.0, 30.0, (len(points), 1, 2))
    return size * np.einsum("bij,blj->bli", matrix.reshape(-1, 2, 2), points) + shift


def test_position_rotation_and_size_play_no_part():
    shape = fit_shape(people(60))
    there, here = moved(people(9, 3)), people(9, 3)
    assert shape.distances(there) == pytest.approx(shape.distances(here), abs=1e-9)
    assert aligned(there, MEAN) == pytest.approx(aligned(here, MEAN), abs=1e-9)


def test_distances_are_those_of_the_conditional_gaussian():
    covariance = np.cov(RNG.normal(size=(200, 16)).T @ np.diag(RNG.uniform(0.5, 2.0, 200)))
    shape = Shape(MEAN, covariance, np.full(8, np.inf))
    point = people(1, 4)
    residual = (aligned(point, MEAN) - MEAN).ravel()
    for index in range(8):
        own = [2 * index, 2 * index + 1]
        rest = [k for k in range(16) if k not in own]
        gain = covariance[np.ix_(own, rest)] @ np.linalg.inv(covariance[np.ix_(rest, rest)])
        given = covariance[np.ix_(own, own)] - gain @ covariance[np.ix_(rest, own)]
        away = residual[own] - gain @ residual[rest]
        density = multivariate_normal(np.zeros(2), given)
        expected = np.sqrt(2.0 * (density.logpdf(np.zeros(2)) - density.logpdf(away)))
        assert shape.distances(point)[0, index] == pytest.approx(expected, rel=1e-6)


def test_one_point_out_of_place_is_the_one_that_is_named():
    shape = fit_shape(moved(people(80)))
    fresh = moved(people(200, 7), 8)
    assert shape.implausible(fresh).any(axis=1).mean() < 0.1
    wrong = fresh.copy()
    wrong[:, 3] += 9.0 * np.array([0.6, 0.8])
    assert shape.implausible(wrong)[:, 3].mean() > 0.95
    assert (shape.distances(wrong).argmax(axis=1) == 3).mean() > 0.95


def test_real_people_are_plausible_and_swapped_landmarks_are_not():
    names = landmark_set("msp8").names
    files = sorted((PEOPLE_FOLDER / "people").glob("*.fcsv"))
    points = np.array([[read_landmarks(f)[n][1:] for n in names] for f in files])
    shape = fit_shape(points[::2])
    assert shape.implausible(points[1::2]).any(axis=1).mean() < 0.3
    swapped = points[1::2].copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    assert shape.implausible(swapped)[:, :2].any(axis=1).all()


def test_plain_values_come_back_and_few_people_are_refused():
    shape = fit_shape(people(30))
    again = shape_from_plain(shape_to_plain(shape))
    assert np.array_equal(again.limits, shape.limits)
    assert again.distances(people(3)) == pytest.approx(shape.distances(people(3)))
    incomplete = people(30)
    incomplete[:15, 2] = np.nan
    with pytest.raises(PredictionsError, match="needs 20 people with all landmarks, found 15"):
        fit_shape(incomplete)
