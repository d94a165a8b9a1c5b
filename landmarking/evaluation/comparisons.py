"""Model against model (paired) and group against group (unpaired), landmark by landmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations

import pandas as pd

from landmarking.evaluation.statistics import Outcome, holm, paired_test, unpaired_test
from landmarking.evaluation.summary import ALL, group_order, model_order


def compare_models(
    frame: pd.DataFrame, landmarks: Sequence[str], *, permutations: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Each pair of models on the same people: sign-flip tests, Holm over the landmarks.

    A person's error is the mean over scans and seeds. The row `all` averages a person's landmarks
    first, and is one test of its own.

    Args:
        frame: Rows of a study.
        landmarks: Names in the order wanted.
        permutations: Random permutations per test, and bootstrap draws.
        seed: Seed of both.

    Returns:
        Rows by pair, group and landmark: first, second, group, landmark, the fields of `Outcome`
        (first minus second), and p_holm.
    """
    rows = []
    pairs = list(combinations(model_order(frame["model"]), 2))
    groups = group_order(frame["group"])
    for first, second in pairs:
        for group in [*groups, ALL] if len(groups) > 1 else groups:
            part = frame if group == ALL else frame[frame["group"] == group]
            # Only landmarks scored under both: a pooled person must mean the same points twice.
            both = _person_errors(part[part["model"].isin([first, second])], "model").dropna()
            family = []
            for name in [*landmarks, ALL]:
                values = _of_landmark(both, name)
                outcome = paired_test(
                    values.get(first, pd.Series(dtype=float)).reindex(values.index),
                    values.get(second, pd.Series(dtype=float)).reindex(values.index),
                    permutations=permutations,
                    seed=seed,
                )
                head = {"first": first, "second": second, "group": group, "landmark": name}
                family.append((head, outcome))
            rows += _adjusted(family)
    return pd.DataFrame(rows)


def compare_groups(
    frame: pd.DataFrame, landmarks: Sequence[str], *, permutations: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Each pair of groups under each model: label permutations, Holm over the landmarks.

    Args and units as in `compare_models`.

    Returns:
        Rows by model, pair and landmark: model, first, second, landmark, the fields of `Outcome`
        (first minus second), and p_holm.
    """
    rows = []
    for model in model_order(frame["model"]):
        people = _person_errors(frame[frame["model"] == model], "group")
        for first, second in combinations(group_order(frame["group"]), 2):
            family = []
            for name in [*landmarks, ALL]:
                values = _of_landmark(people, name)
                outcome = unpaired_test(
                    values.get(first, pd.Series(dtype=float)),
                    values.get(second, pd.Series(dtype=float)),
                    permutations=permutations,
                    seed=seed,
                )
                head = {"model": model, "first": first, "second": second, "landmark": name}
                family.append((head, outcome))
            rows += _adjusted(family)
    return pd.DataFrame(rows)


def _person_errors(frame: pd.DataFrame, side: str) -> pd.DataFrame:
    """Mean error by person, landmark (index) and side (columns)."""
    means = frame.groupby(["participant_id", "landmark", side])["error_mm"].mean()
    return means.unstack(side)


def _of_landmark(people: pd.DataFrame, name: str) -> pd.DataFrame:
    """One row a person; for `ALL` the mean over the landmarks scored on every side it has."""
    if name != ALL:
        found = people.index.get_level_values("landmark") == name
        return people[found].droplevel("landmark")
    return people.groupby(level="participant_id").mean()


def _adjusted(family: list[tuple[dict[str, str], Outcome]]) -> list[dict[str, object]]:
    *single, pooled = family
    adjusted = [*holm([outcome.p_value for _, outcome in single]), pooled[1].p_value]
    return [
        {**head, **asdict(outcome), "p_holm": float(p)}
        for (head, outcome), p in zip(family, adjusted, strict=True)
    ]
