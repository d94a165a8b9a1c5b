"""Two or more studies side by side: the same table for each, and tests between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from landmarking.evaluation.runs import Study
from landmarking.evaluation.statistics import Outcome, paired_test, unpaired_test
from landmarking.evaluation.summary import ALL, group_order, model_order, table_1


def study_labels(studies: Sequence[Study]) -> list[str]:
    """Folder names; with as many parents as it takes where names are the same."""
    for depth in range(1, 6):
        labels = ["/".join(study.folder.resolve().parts[-depth:]) for study in studies]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{study.name} ({number})" for number, study in enumerate(studies, start=1)]


def stacked_summaries(studies: Sequence[Study], *, resamples: int, seed: int) -> pd.DataFrame:
    """Table 1's figures of each study, model by group by study.

    Args:
        studies: The studies, in the order wanted.
        resamples: Bootstrap draws for the intervals.
        seed: Seed of the draws.
    """
    parts = []
    for label, study in zip(study_labels(studies), studies, strict=True):
        part = table_1(study.frame, resamples=resamples, seed=seed)
        part.insert(0, "study", label)
        parts.append(part)
    stacked = pd.concat(parts, ignore_index=True)
    models, groups = model_order(stacked["model"]), group_order(stacked["group"])
    rank = stacked["model"].map(models.index) * len(groups) + stacked["group"].map(groups.index)
    return stacked.iloc[rank.argsort(kind="stable")].reset_index(drop=True)


def study_differences(studies: Sequence[Study], *, permutations: int, seed: int) -> pd.DataFrame:
    """Tests between each pair of studies, by model and group, over the landmarks both have.

    People are paired where both studies scored the same slices (equal cohort digests) and the same
    people; otherwise the samples are taken as independent.

    Args:
        studies: The studies, in the order wanted.
        permutations: Random permutations per test.
        seed: Seed of the permutations and of the intervals.

    Returns:
        Rows with first, second, model, group, paired, and the fields of `Outcome`.
    """
    rows: list[dict[str, Any]] = []
    labelled = list(zip(study_labels(studies), studies, strict=True))
    for (first, one), (second, other) in combinations(labelled, 2):
        paired = set(one.frame["cohort_digest"]) == set(other.frame["cohort_digest"])
        a, b = _common(one.frame, other.frame)
        for model in model_order(set(a["model"]) & set(b["model"])):
            groups = group_order(set(a["group"]) & set(b["group"]))
            for group in [*groups, ALL] if len(groups) > 1 else groups:
                sides = [
                    _people(side, model, groups if group == ALL else [group]) for side in (a, b)
                ]
                outcome = _test(sides[0], sides[1], paired, permutations, seed)
                head = {"first": first, "second": second, "model": model, "group": group}
                rows.append({**head, "paired": paired, **vars(outcome)})
    return pd.DataFrame(rows)


def cohort_differences(studies: Sequence[Study]) -> list[str]:
    """In which of cohort, split and landmarks the studies differ, in words."""
    labels = study_labels(studies)
    found = []
    for title, values in (
        ("cohorts", [_names(study, "cohort_digest") for study in studies]),
        ("train/validation splits", [_names(study, "split_digest") for study in studies]),
        ("landmark sets", [", ".join(study.landmarks) for study in studies]),
    ):
        if len(set(values)) > 1:
            pairs = (f"{label} {value}" for label, value in zip(labels, values, strict=True))
            found.append(f"The studies have different {title}: {'; '.join(pairs)}.")
    return found


def _names(study: Study, column: str) -> str:
    return ", ".join(str(value)[:12] for value in sorted(set(study.frame[column])))


def _common(one: pd.DataFrame, other: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    shared = set(one["landmark"]) & set(other["landmark"])
    return one[one["landmark"].isin(shared)], other[other["landmark"].isin(shared)]


def _people(frame: pd.DataFrame, model: str, groups: Sequence[str]) -> pd.Series[float]:
    """Each person's mean error: landmarks first, so that all weigh the same."""
    rows = frame[(frame["model"] == model) & frame["group"].isin(groups)]
    by_landmark = rows.groupby(["participant_id", "landmark"])["error_mm"].mean()
    return by_landmark.groupby(level="participant_id").mean()


def _test(
    one: pd.Series[float], other: pd.Series[float], paired: bool, permutations: int, seed: int
) -> Outcome:
    if not paired:
        return unpaired_test(one, other, permutations=permutations, seed=seed)
    people = one.index.union(other.index)
    first, second = one.reindex(people), other.reindex(people)
    return paired_test(first, second, permutations=permutations, seed=seed)
