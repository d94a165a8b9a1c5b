"""Two studies in one table, paired only where they scored the same slices."""

import pytest

from landmarking.evaluation.comparison_tables import differences_table, studies_table
from landmarking.evaluation.runs import load_study
from landmarking.evaluation.side_by_side import (
    cohort_differences,
    stacked_summaries,
    study_differences,
    study_labels,
)

TWO = {"names": ("AC", "PC"), "slices": False}


@pytest.fixture(scope="module")
def first(make_module_study):
    return load_study(make_module_study("first", **TWO).write())


def test_the_same_study_twice_differs_by_nothing(first, make_study):
    again = load_study(make_study("again", **TWO).write())

    tests = study_differences([first, again], permutations=200, seed=0)

    assert tests["paired"].all()
    assert (tests["difference_mm"] == 0).all()
    assert (tests["p_value"] == 1).all()
    assert cohort_differences([first, again]) == []


def test_rows_stand_side_by_side(first, make_study):
    better = load_study(make_study("better", **TWO, sd_px={"SL": 0.3, "ML": 0.3}).write())

    table = studies_table(stacked_summaries([first, better], resamples=200, seed=0))

    assert [row[:3] for row in table.rows[:2]] == [("ML", "DS", "first"), ("ML", "DS", "better")]
    assert table.breaks[0] == 2
    tests = study_differences([first, better], permutations=200, seed=0)
    ml = tests.query("model == 'ML' and group == 'all'").iloc[0]
    assert ml["difference_mm"] > 1.0
    assert ml["n"] == 11
    shown = differences_table(tests)
    assert shown.rows[0][:4] == ("first - better", "ML", "DS", "paired")


def test_other_slices_are_not_paired_and_the_difference_is_named(first, make_study):
    knobs = TWO | {"digest": "0ther0000000", "split": "0ther", "names": ("AC",)}
    other = load_study(make_study("other", **knobs).write())

    tests = study_differences([first, other], permutations=200, seed=0)

    assert not tests["paired"].any()
    words = " ".join(cohort_differences([first, other]))
    assert "different cohorts: first c0ffee123456; other 0ther0000000" in words
    assert "different train/validation splits" in words
    assert "different landmark sets: first AC, PC; other AC" in words


def test_studies_of_one_name_are_told_apart_by_their_parents(make_study):
    one, other = (load_study(make_study(f"{x}/demo", **TWO).write()) for x in "ab")

    assert study_labels([one, other]) == ["a/demo", "b/demo"]
