import numpy as np
import pytest

from landmarking.evaluation.comparisons import (
    cohort_differences,
    compare_groups,
    compare_models,
    differences_table,
    groups_table,
    models_table,
    stacked_summaries,
    studies_table,
    study_differences,
    study_labels,
)
from landmarking.evaluation.statistics import holm, paired_test, unpaired_test
from landmarking.evaluation.study import load_study

# Model against model and group against group, against direct computations.


NAMES = ("AC", "PC", "GENU")


@pytest.fixture(scope="module")
def frame(make_module_study):
    study = make_module_study(
        names=NAMES,
        people={"HS": 16, "DS": 15},
        missing=(("sub-HS03_ses-01", "PC"),),
        seeds=(0, 1),
        slices=False,
    )
    return load_study(study.write()).frame


def person_errors(frame, model, group, names=NAMES):
    rows = frame[(frame["model"] == model) & (frame["group"] == group)]
    rows = rows[rows["landmark"].isin(names)]
    by_landmark = rows.groupby(["participant_id", "landmark"])["error_mm"].mean()
    return by_landmark.groupby("participant_id").mean()


def test_models_are_paired_by_person_and_landmark(frame):
    tests = compare_models(frame, NAMES, permutations=2000)

    block = tests.query("group == 'HS'").set_index("landmark")
    assert block.index.tolist() == [*NAMES, "all"]
    for name in NAMES:
        ml, sl = (person_errors(frame, model, "HS", [name]) for model in ("ML", "SL"))
        expected = paired_test(ml, sl.reindex(ml.index), permutations=2000)
        found = block.loc[name]
        assert found["n"] == (15 if name == "PC" else 16)
        assert found["difference_mm"] == pytest.approx(expected.difference_mm)
        assert found["p_value"] == expected.p_value
    # Everything that the table shows is one family, the pooled rows too.
    assert len(tests) == 3 * 4
    np.testing.assert_allclose(tests["p_holm"], holm(tests["p_value"]))
    pooled = person_errors(frame, "ML", "HS") - person_errors(frame, "SL", "HS")
    assert block.loc["all", "difference_mm"] == pytest.approx(pooled.mean())
    assert block.loc["all", "p_value"] < 0.001 < 0.01 > block.loc["all", "p_holm"]


def test_models_are_compared_on_the_landmarks_that_both_scored(frame):
    """ML alone has GENU, and is bad at it: that says nothing about the difference."""
    kept = frame[(frame["model"] == "ML") | (frame["landmark"] != "GENU")].copy()
    kept["error_mm"] = np.where(kept["landmark"] == "GENU", 50.0, 1.0)
    tests = compare_models(kept, NAMES, permutations=200)

    pooled = tests.query("landmark == 'all'")
    np.testing.assert_allclose(pooled["difference_mm"], 0.0)
    assert tests.query("landmark == 'GENU'")["difference_mm"].isna().all()


def test_groups_are_independent_samples(frame):
    tests = compare_groups(frame, NAMES, permutations=2000)

    row = tests.query("model == 'SL' and landmark == 'GENU'").iloc[0]
    ds, hs = (person_errors(frame, "SL", group, ["GENU"]) for group in ("DS", "HS"))
    expected = unpaired_test(ds, hs, permutations=2000)
    assert (row["first"], row["second"]) == ("DS", "HS")
    assert row["p_value"] == expected.p_value
    assert row["effect_size"] == pytest.approx(expected.effect_size)
    assert row["n"] == 31


def test_tables_show_one_row_a_test_and_a_block_a_family(frame):
    models = models_table(compare_models(frame, NAMES, permutations=200))
    groups = groups_table(compare_groups(frame, NAMES, permutations=200))

    assert [len(models.rows), len(groups.rows)] == [3 * 4, 2 * 4]
    assert models.breaks == (4, 8)
    assert groups.breaks == (4,)
    assert models.rows[0][:3] == ("ML - SL", "DS", "AC")
    assert [models.text_columns, groups.text_columns] == [3, 3]
    assert all(len(row) == len(models.header) for row in models.rows)


def test_one_model_or_group_has_no_test(frame):
    only = frame[(frame["model"] == "ML") & (frame["group"] == "HS")]

    assert compare_models(only, NAMES).empty
    assert compare_groups(only, NAMES).empty
    assert models_table(compare_models(only, NAMES)).rows == ()


# Two studies in one table, paired only where they scored the same slices.


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

    table = studies_table(stacked_summaries([first, better]))

    assert [row[:3] for row in table.rows[:2]] == [("ML", "DS", "first"), ("ML", "DS", "better")]
    assert table.breaks == tuple(range(2, len(table.rows), 2))
    assert "index" not in stacked_summaries([first, better])
    tests = study_differences([first, better], permutations=200, seed=0)
    ml = tests.query("model == 'ML' and group == 'all'").iloc[0]
    assert ml["difference_mm"] > 1.0
    assert ml["n"] == 11
    shown = differences_table(tests)
    assert shown.rows[0][:4] == ("first - better", "ML", "DS", "paired")
    assert shown.breaks == (3,), "a block a model"


def test_slices_cut_in_another_way_are_paired_by_scan_and_landmark(first, make_study):
    """Two preprocessings of one scan are the same person twice, not two samples."""
    knobs = TWO | {"digest": "0ther0000000", "people": {"HS": 5, "DS": 4}}
    other = load_study(make_study("other", **knobs).write())

    tests = study_differences([first, other], permutations=200, seed=0)

    assert tests["paired"].all()
    both = tests.query("model == 'ML' and group == 'all'").iloc[0]
    assert both["n"] == 9
    assert both["unpaired_points"] == len(first.frame.query("model == 'ML'")) - 9 * 2
    assert f"Up to {tests['unpaired_points'].max()} points" in differences_table(tests).notes[-1]


def test_people_of_two_cohorts_are_two_people(first, make_study):
    other = load_study(make_study("other", **TWO).write())
    other.frame["cohort"] = "elsewhere"

    tests = study_differences([first, other], permutations=200, seed=0)

    assert not tests["paired"].any()
    assert (tests["unpaired_points"] == 0).all()
    assert tests["n"].iloc[0] == 2 * first.frame.query("group == 'DS'")["participant_id"].nunique()


def test_other_cohorts_are_not_paired_and_the_difference_is_named(first, make_study):
    knobs = TWO | {"digest": "0ther0000000", "split": "0ther", "names": ("AC",)}
    other = load_study(make_study("other", **knobs).write())
    words = " ".join(cohort_differences([first, other]))
    assert "different cohorts: first c0ffee123456; other 0ther0000000" in words
    assert "different train/validation splits" in words
    assert "different landmark sets: first AC, PC; other AC" in words


def test_studies_of_one_name_are_told_apart_by_their_parents(make_study):
    one, other = (load_study(make_study(f"{x}/demo", **TWO).write()) for x in "ab")

    assert study_labels([one, other]) == ["a/demo", "b/demo"]
