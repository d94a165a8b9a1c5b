"""Distances between landmarks: exact ratios, Lele's estimator, and what differs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from landmarking.errors import ConfigError, LandmarkError
from landmarking.shape.edma import compare_forms, distances, mean_form

NAMES = ["A", "B", "C", "D"]
BASE = np.array([[0.0, 0.0], [10.0, 0.0], [3.0, 8.0], [12.0, 9.0]])


def people(mean, count, rng, sd=0.2):
    return mean + sd * rng.normal(size=(count, *mean.shape))


def test_distances_are_those_of_a_plain_loop():
    person = np.random.default_rng(0).normal(size=(5, 3))
    plain = [np.linalg.norm(person[a] - person[b]) for a, b in combinations(range(5), 2)]
    np.testing.assert_allclose(distances(person[None])[0], plain)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_moment_estimator_takes_out_what_people_scatter(dimensions):
    rng = np.random.default_rng(1)
    mean = rng.normal(size=(4, dimensions)) * 5
    squared = distances(people(mean, 20_000, rng, sd=1.0)) ** 2
    true = distances(mean[None])[0]
    moment = mean_form(squared, dimensions)
    plain = mean_form(squared, dimensions, "mean")
    assert np.abs(moment / true - 1).max() < 0.02
    assert (plain > true * 1.005).all()
    assert np.abs(moment / true - 1).max() < np.abs(plain / true - 1).max() / 2


def test_a_larger_form_has_one_ratio_and_no_shape_difference():
    rng = np.random.default_rng(2)
    found = compare_forms(people(BASE * 1.25, 200, rng), people(BASE, 200, rng), NAMES, draws=99)
    assert found.table["ratio"].to_numpy() == pytest.approx(1.25, rel=0.01)
    assert found.t < 1.02
    assert found.share == 1.0
    assert abs(found.z) < 0.01
    assert found.p > 0.05
    assert list(found.table.iloc[0][["first", "second"]]) == ["A", "B"]


def test_a_point_that_moves_shows_in_its_own_distances():
    rng = np.random.default_rng(3)
    moved = BASE + np.array([[0, 0], [3.0, 0], [0, 0], [0, 0]])
    found = compare_forms(people(moved, 60, rng), people(BASE, 60, rng), NAMES, draws=199)
    table = found.table
    touched = (table["first"] == "B") | (table["second"] == "B")
    assert table.loc[touched, "differs"].all()
    assert found.p == 1 / 200
    assert found.p_exchanged == 1 / 200
    assert found.t == pytest.approx(table["ratio"].max() / table["ratio"].min())


def test_chance_alone_is_not_found_too_often():
    rng = np.random.default_rng(4)
    p = [
        compare_forms(people(BASE, 14, rng), people(BASE, 14, rng), NAMES, draws=99).p_exchanged
        for _ in range(60)
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.15
    assert np.mean(p) == pytest.approx(0.5, abs=0.13)


def test_gaps_few_people_and_unknown_estimators_are_refused():
    rng = np.random.default_rng(5)
    group = people(BASE, 6, rng)
    with pytest.raises(LandmarkError, match="three or more in each group"):
        compare_forms(group, group[:2], NAMES)
    group[0, 0] = np.nan
    with pytest.raises(LandmarkError, match="complete people"):
        compare_forms(group, group[1:], NAMES)
    with pytest.raises(ConfigError, match="moment, mean"):
        compare_forms(group[1:], group[1:], NAMES, estimator="median")
