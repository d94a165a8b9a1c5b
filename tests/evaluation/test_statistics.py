"""Intervals and tests against plain loops, full enumeration, and scipy."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from landmarking.evaluation.statistics import (
    bootstrap_intervals,
    hedges_g,
    holm,
    paired_test,
    unpaired_test,
)


def people_frame(errors: dict[str, list[float]], group: str = "HS") -> pd.DataFrame:
    rows = [
        {"participant_id": person, "group": group, "error_mm": error}
        for person, values in errors.items()
        for error in values
    ]
    return pd.DataFrame(rows)


def test_bootstrap_equals_a_loop_over_drawn_people():
    frame = pd.concat(
        [
            people_frame({"a": [0.5, 2.5], "b": [1.0], "c": [4.0, 0.2, np.nan]}),
            people_frame({"d": [3.0], "e": [7.0, 0.1]}, "DS"),
        ]
    )

    found = bootstrap_intervals(frame, resamples=400, seed=3)

    rng = np.random.default_rng(3)
    known = frame.dropna()
    draws = [
        (known[known["group"] == g].groupby("participant_id")["error_mm"].apply(list).tolist(), n)
        for g, n in (("DS", 2), ("HS", 3))
    ]
    counts = [rng.multinomial(n, [1 / n] * n, size=400) for _, n in draws]
    means, within_1 = [], []
    for draw in range(400):
        pooled = [
            error
            for (people, _), count in zip(draws, counts, strict=True)
            for errors, times in zip(people, count[draw], strict=True)
            for error in errors * times
        ]
        means.append(sum(pooled) / len(pooled))
        within_1.append(100 * sum(error <= 1 for error in pooled) / len(pooled))
    assert found["mean_mm_low"] == pytest.approx(np.percentile(means, 2.5))
    assert found["mean_mm_high"] == pytest.approx(np.percentile(means, 97.5))
    assert found["sdr_1mm_percent_low"] == pytest.approx(np.percentile(within_1, 2.5))
    assert found["sdr_1mm_percent_high"] == pytest.approx(np.percentile(within_1, 97.5))


def test_people_not_points_decide_the_width():
    rng = np.random.default_rng(0)
    person = rng.normal(3.0, 1.0, 20)
    one_each = people_frame({f"p{i}": [value] for i, value in enumerate(person)})
    eight_alike = people_frame({f"p{i}": [value] * 8 for i, value in enumerate(person)})

    few, many = (bootstrap_intervals(frame, seed=1) for frame in (one_each, eight_alike))

    assert many == pytest.approx(few)
    expected = 2 * 1.96 * person.std() / math.sqrt(20)
    assert few["mean_mm_high"] - few["mean_mm_low"] == pytest.approx(expected, rel=0.1)


def test_one_person_has_no_interval():
    found = bootstrap_intervals(people_frame({"a": [1.0, 2.0]}))

    assert all(math.isnan(value) for value in found.values())


def test_paired_test_is_exact_for_few_people():
    a, b = np.array([3.0, 2.5, 4.0, 1.0, 2.0]), np.array([1.0, 2.0, 2.5, 1.5, 0.5])
    d = a - b
    flips = [np.array(signs) @ d for signs in itertools.product((-1, 1), repeat=5)]
    expected = np.mean([abs(flip) >= abs(d.sum()) - 1e-12 for flip in flips])

    found = paired_test(a, b)

    assert found.p_value == expected
    assert found.difference_mm == pytest.approx(d.mean())
    assert found.effect_size == pytest.approx(d.mean() / d.std(ddof=1))
    assert found.n == 5
    assert found.low_mm < found.difference_mm < found.high_mm


def test_paired_test_leaves_unscored_people_out():
    found = paired_test([1.0, np.nan, 3.0, 4.0], [0.0, 1.0, np.nan, 1.0])

    assert found.n == 2
    assert found.difference_mm == pytest.approx(2.0)


def test_random_sign_flips_agree_with_scipy():
    rng = np.random.default_rng(2)
    a = rng.gamma(2.0, 1.0, 40)
    b = a + rng.normal(0.25, 0.8, 40)

    found = paired_test(a, b, permutations=20_000)

    reference = stats.permutation_test(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(5),
    )
    assert found.p_value == pytest.approx(reference.pvalue, abs=0.015)


def test_shuffled_labels_agree_with_scipy_enumerating_all():
    a, b = np.array([3.1, 2.2, 5.0, 4.4]), np.array([1.2, 2.0, 2.9, 1.1, 3.0])

    found = unpaired_test(a, b, permutations=20_000)

    reference = stats.permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), vectorized=True
    )
    assert found.p_value == pytest.approx(reference.pvalue, abs=0.01)
    assert found.difference_mm == pytest.approx(a.mean() - b.mean())
    assert found.effect_size == pytest.approx(hedges_g(a, b))


def test_hedges_g_by_hand():
    # Both variances are 1, so g is the difference of means times 1 - 3 / (4 * 6 - 9).
    assert hedges_g(np.array([3.0, 4.0, 5.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(1.6)


def test_no_difference_gives_p_one_and_a_seed_gives_the_same_again():
    values = np.random.default_rng(0).normal(2, 1, 30)

    assert paired_test(values, values).p_value == 1.0
    assert unpaired_test(values[:15], values[15:], seed=4) == unpaired_test(
        values[:15], values[15:], seed=4
    )


def test_too_few_people_is_no_test():
    assert math.isnan(paired_test([1.0], [2.0]).p_value)
    assert math.isnan(unpaired_test([1.0], [2.0, 3.0]).p_value)


def test_holm_by_hand():
    # Sorted 0.01 * 4, 0.02 * 3, 0.03 * 2 (raised to 0.06), 0.04 * 1 (raised to 0.06).
    np.testing.assert_allclose(
        holm([0.03, 0.01, np.nan, 0.04, 0.02]), [0.06, 0.04, np.nan, 0.06, 0.06]
    )


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_holm_lies_between_nothing_and_bonferroni_and_keeps_the_order(p_values):
    p = np.array(p_values)

    adjusted = holm(p)

    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1.0, p * len(p)) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
