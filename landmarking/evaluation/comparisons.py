"""Comparisons: model against model, group against group, study against study; tests and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import pandas as pd

from landmarking.evaluation.statistics import (
    ALL,
    Outcome,
    group_order,
    holm,
    model_order,
    paired_test,
    table_1,
    unpaired_test,
)
from landmarking.evaluation.study import Study
from landmarking.evaluation.tables import (
    INTERVAL_NOTE,
    NO_SKILL_NOTE,
    RATES,
    Table,
    breaks,
    measured,
    p_text,
    signed,
    span,
)


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


_PAIRED_NOTE = (
    "p: two-sided sign-flip permutation test over people, exact for 13 people or fewer; p Holm: "
    "adjusted over the landmarks of a block; the row all averages a person's landmarks and is one "
    "test of its own. d_z: mean difference over its standard deviation."
)
_UNPAIRED_NOTE = (
    "p: two-sided permutation of the group labels over people; p Holm: adjusted over the landmarks "
    "of a block. g: Hedges' standardised difference."
)
_STUDIES_NOTE = (
    "Mean difference of people's errors in mm over the landmarks that both studies have (above "
    "zero: the first study errs more). Paired where both scored the same slices."
)


def models_table(tests: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Model against model; `tests` is the result of `compare_models`."""
    rows = [
        (f"{r['first']} - {r['second']}", str(r["group"]), str(r["landmark"]), *_outcome(r))
        for r in tests.to_dict("records")
    ]
    return Table(
        name="models",
        title="Model against model, paired by person",
        header=("Difference", "Group", "Landmark", "people", "mm", "95 % CI", "d_z", "p", "p Holm"),
        rows=tuple(rows),
        notes=(
            *notes,
            "Mean difference of a person's errors in mm (above zero: the first model errs more).",
            _PAIRED_NOTE,
        ),
        text_columns=3,
        breaks=breaks(row[:2] for row in rows),
    )  # fmt: skip


def groups_table(tests: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Group against group; `tests` is the result of `compare_groups`."""
    rows = [
        (f"{r['first']} - {r['second']}", str(r["model"]), str(r["landmark"]), *_outcome(r))
        for r in tests.to_dict("records")
    ]
    return Table(
        name="groups",
        title="Group against group, unpaired",
        header=("Difference", "Model", "Landmark", "people", "mm", "95 % CI", "g", "p", "p Holm"),
        rows=tuple(rows),
        notes=(
            *notes,
            "Difference of the groups' mean errors in mm (above zero: the first group is harder).",
            _UNPAIRED_NOTE,
        ),
        text_columns=3,
        breaks=breaks(row[:2] for row in rows),
    )  # fmt: skip


def _outcome(record: dict[Any, Any]) -> tuple[str, ...]:
    return (
        str(record["n"]), signed(record["difference_mm"]),
        span(record["low_mm"], record["high_mm"]), signed(record["effect_size"]),
        p_text(record["p_value"]), p_text(record["p_holm"]),
    )  # fmt: skip


def studies_table(stacked: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Studies side by side; `stacked` is the result of `stacked_summaries`."""
    rows = [
        (str(r["model"]), str(r["group"]), str(r["study"]), *measured(r))
        for r in stacked.to_dict("records")
    ]
    return Table(
        name="studies",
        title="Studies side by side: error, and detection rate (SDR) within 1 to 5 mm",
        header=("Model", "Group", "Study", "n", "Error (mm)", "95 % CI", *RATES),
        rows=tuple(rows),
        notes=(*notes, "Error: mean ± standard deviation.", INTERVAL_NOTE, NO_SKILL_NOTE),
        text_columns=3,
        breaks=breaks(row[:2] for row in rows),
    )


def differences_table(tests: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Tests between studies; `tests` is the result of `study_differences`."""
    rows = []
    for r in tests.to_dict("records"):
        kind = "paired" if r["paired"] else "unpaired"
        name = f"{r['first']} - {r['second']}"
        cells = _outcome({**r, "p_holm": float("nan")})[:-1]
        rows.append((name, str(r["model"]), str(r["group"]), kind, *cells))
    return Table(
        name="differences",
        title="Study against study",
        header=("Difference", "Model", "Group", "People", "n", "mm", "95 % CI", "effect", "p"),
        rows=tuple(rows),
        notes=(
            *notes,
            _STUDIES_NOTE,
            "p: two-sided permutation test over people. effect: d_z (paired) or Hedges' g.",
        ),
        text_columns=4,
        breaks=breaks(row[:2] for row in rows),
    )
