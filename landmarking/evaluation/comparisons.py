"""Comparisons: model against model, group against group, study against study; tests and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from landmarking.evaluation.statistics import (
    ALL,
    group_order,
    holm,
    model_order,
    paired_test,
    summarise,
    table_1,
    unpaired_test,
)
from landmarking.evaluation.study import PREDICTIONS, Run, Study, read_run
from landmarking.evaluation.tables import (
    DASH,
    INTERVAL_NOTE,
    NO_SKILL_NOTE,
    RATES,
    Table,
    breaks,
    measured,
    p_text,
    plus_minus,
    signed,
    span,
)


def compare_models(
    frame: pd.DataFrame, landmarks: Sequence[str], *, permutations: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Each pair of models on the same people: sign-flip tests, Holm over all of them.

    A person's error is the mean over scans and seeds. The row `all` averages a person's landmarks
    first.

    Args:
        frame: Rows of a study.
        landmarks: Names in the order wanted.
        permutations: Random permutations per test.
        seed: Their seed.

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
            for name in [*landmarks, ALL]:
                values = _of_landmark(both, name)
                outcome = paired_test(
                    values.get(first, pd.Series(dtype=float)).reindex(values.index),
                    values.get(second, pd.Series(dtype=float)).reindex(values.index),
                    permutations=permutations,
                    seed=seed,
                )
                head = {"first": first, "second": second, "group": group, "landmark": name}
                rows.append({**head, **asdict(outcome)})
    return adjusted(rows)


def compare_groups(
    frame: pd.DataFrame, landmarks: Sequence[str], *, permutations: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Each pair of groups under each model: label permutations, Holm over all of them.

    Args and units as in `compare_models`.

    Returns:
        Rows by model, pair and landmark: model, first, second, landmark, the fields of `Outcome`
        (first minus second), and p_holm.
    """
    rows = []
    for model in model_order(frame["model"]):
        people = _person_errors(frame[frame["model"] == model], "group")
        for first, second in combinations(group_order(frame["group"]), 2):
            for name in [*landmarks, ALL]:
                values = _of_landmark(people, name)
                outcome = unpaired_test(
                    values.get(first, pd.Series(dtype=float)),
                    values.get(second, pd.Series(dtype=float)),
                    permutations=permutations,
                    seed=seed,
                )
                head = {"model": model, "first": first, "second": second, "landmark": name}
                rows.append({**head, **asdict(outcome)})
    return adjusted(rows)


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


def adjusted(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Tests as a table; `p_holm` is adjusted over all of them, the pooled rows too."""
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=holm(frame["p_value"])) if len(frame) else frame


def study_labels(studies: Sequence[Study]) -> list[str]:
    """Folder names; with as many parents as it takes where names are the same."""
    for depth in range(1, 6):
        labels = ["/".join(study.folder.resolve().parts[-depth:]) for study in studies]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{study.name} ({number})" for number, study in enumerate(studies, start=1)]


def stacked_summaries(studies: Sequence[Study]) -> pd.DataFrame:
    """Table 1's figures of each study, model by group by study.

    Args:
        studies: The studies, in the order wanted.
    """
    parts = []
    for label, study in zip(study_labels(studies), studies, strict=True):
        part = table_1(study.frame)
        part.insert(0, "study", label)
        parts.append(part)
    stacked = pd.concat(parts, ignore_index=True)
    models, groups = model_order(stacked["model"]), group_order(stacked["group"])
    rank = stacked["model"].map(models.index) * len(groups) + stacked["group"].map(groups.index)
    return stacked.iloc[rank.argsort(kind="stable")].reset_index(drop=True)


def study_differences(studies: Sequence[Study], *, permutations: int, seed: int) -> pd.DataFrame:
    """Tests between each pair of studies, by model and group, over the landmarks both have.

    Pairs are scans and landmarks of the same name in the same cohort, however their slices were
    cut; what only one study has stays out, and is counted. Where no scan is in both, the samples
    are taken as independent.

    Args:
        studies: The studies, in the order wanted.
        permutations: Random permutations per test.
        seed: Seed of the permutations and of the intervals.

    Returns:
        Rows with first, second, model, group, paired, unpaired_points (scans times landmarks that
        only one of both has), the fields of `Outcome`, and p_holm.
    """
    rows: list[dict[str, Any]] = []
    labelled = list(zip(study_labels(studies), studies, strict=True))
    for (first, one), (second, other) in combinations(labelled, 2):
        a, b = _common(one.frame, other.frame)
        for model in model_order(set(a["model"]) & set(b["model"])):
            groups = group_order(set(a["group"]) & set(b["group"]))
            for group in [*groups, ALL] if len(groups) > 1 else groups:
                kept = groups if group == ALL else [group]
                sides = [_points(side, model, kept) for side in (a, b)]
                shared = sides[0].index.intersection(sides[1].index)
                paired = len(shared) > 0
                left_out = sum(len(side) - len(shared) for side in sides) if paired else 0
                people = [_people(side.loc[shared] if paired else side) for side in sides]
                test = paired_test if paired else unpaired_test
                outcome = test(people[0], people[1], permutations=permutations, seed=seed)
                head = {"first": first, "second": second, "model": model, "group": group}
                pairing = {"paired": paired, "unpaired_points": left_out}
                rows.append({**head, **pairing, **vars(outcome)})
    return adjusted(rows)


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


def _points(frame: pd.DataFrame, model: str, groups: Sequence[str]) -> pd.Series[float]:
    """Mean error over seeds of each scored point, by who and where it is."""
    rows = frame[(frame["model"] == model) & frame["group"].isin(groups)]
    rows = rows[rows["error_mm"].notna()]
    return rows.groupby(["cohort", "participant_id", "scan_id", "landmark"])["error_mm"].mean()


def _people(points: pd.Series[float]) -> pd.Series[float]:
    """Each person's mean error: landmarks first, so that all weigh the same."""
    by_landmark = points.groupby(level=["cohort", "participant_id", "landmark"]).mean()
    return by_landmark.groupby(level=["cohort", "participant_id"]).mean()


_PAIRED_NOTE = (
    "p: two-sided sign-flip permutation test over people, exact for 13 people or fewer; p Holm: "
    "adjusted over all rows of this table; the row all averages a person's landmarks. 95 % CI: "
    "Student's t over people. d_z: mean difference over its standard deviation, with 95 % CI."
)
_UNPAIRED_NOTE = (
    "p: two-sided studentised permutation of the group labels over people (Janssen 1997); p Holm: "
    "adjusted over all rows of this table. 95 % CI: Welch's t. g: Hedges' standardised "
    "difference, with 95 % CI."
)
_STUDIES_NOTE = (
    "Mean difference of people's errors in mm over the landmarks that both studies have (above "
    "zero: the first study errs more). Paired by scan and landmark where both have the scan."
)


_DIFFERENCES_NOTE = (
    "p: two-sided permutation test over people; p Holm: adjusted over all rows of this table. "
    "effect: d_z (paired) or Hedges' g, with 95 % CI."
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
        span(record["low_mm"], record["high_mm"]), _effect(record),
        p_text(record["p_value"]), p_text(record["p_holm"]),
    )  # fmt: skip


def _left_out(tests: pd.DataFrame) -> list[str]:
    count = int(tests["unpaired_points"].max()) if len(tests) else 0
    return [f"Up to {count} points a row are in one study alone and left out."] if count else []


def _effect(record: dict[Any, Any]) -> str:
    """`+0.98 (0.60 to 1.40)`, or a dash."""
    ends = span(record["effect_low"], record["effect_high"])
    effect = signed(record["effect_size"])
    return effect if ends == DASH else f"{effect} ({ends})"


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
        cells = _outcome(r)
        rows.append((name, str(r["model"]), str(r["group"]), kind, *cells))
    return Table(
        name="differences",
        title="Study against study",
        header=(
            "Difference",
            "Model",
            "Group",
            "People",
            "n",
            "mm",
            "95 % CI",
            "effect",
            "p",
            "p Holm",
        ),
        rows=tuple(rows),
        notes=(
            *notes,
            _STUDIES_NOTE,
            _DIFFERENCES_NOTE,
            *_left_out(tests),
        ),
        text_columns=4,
        breaks=breaks(row[:2] for row in rows),
    )


# How many people does a model of their own take? Error against the number of people learnt from.
#
# The runs are those of `experiment=adapt_ds`: folds by person, so that everybody of the group is
# tested on once for each way and number. What they are held against is the model that they started
# from, on the same people.


UNADAPTED = "unadapted"
"""The way of the row without any people learnt from."""

_CHANGE_NOTE = (
    "Change: against the model that all started from, on the same people, paired by person; p: "
    "two-sided sign-flip permutation test over people; p Holm: adjusted over all rows of this "
    "table."
)


def adaptation(study: Study, *, permutations: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Error by way of learning and number of people learnt from; empty where no run adapted.

    Args:
        study: Runs, some of them with `adapt.people` above zero.
        permutations: Random permutations per test.
        seed: Their seed.

    Returns:
        One row by group, way and number, with `learnt_from`, the columns of `summarise`, and where
        the model that they started from has predictions of the same people the fields of `Outcome`
        (this row minus the unadapted, paired by person) and `change_percent`; and one row
        `UNADAPTED` a group.
    """
    runs = [run for run in study.runs if run.adapt and run.adapt["people"] is not None]
    rows = []
    for group in sorted({str(run.adapt["group"]) for run in runs}):
        of_group = [run for run in runs if run.adapt["group"] == group]
        before = _before(of_group, group)
        if len(before):
            cell = summarise(before)
            rows.append({"group": group, "way": UNADAPTED, "learnt_from": 0, **cell})
        for way, people in sorted({(_way(run), run.adapt["people"]) for run in of_group}):
            chosen = [r for r in of_group if (_way(r), r.adapt["people"]) == (way, people)]
            after = pd.concat([run.predictions for run in chosen], ignore_index=True)
            after = after[after["group"] == group]
            row = {"group": group, "way": way, "learnt_from": people}
            row |= summarise(after)
            rows.append(row | _change(before, after, permutations, seed))
    points = pd.DataFrame(rows)
    return points.assign(p_holm=holm(points["p_value"])) if "p_value" in points else points


def _way(run: Run) -> str:
    """The model's label without the number of people: `tuned` of `tuned-40`."""
    return run.model.removesuffix(f"-{run.adapt['people']}")


def _before(runs: Sequence[Run], group: str) -> pd.DataFrame:
    """What the model that all started from says of the people tested on; empty if not known."""
    starts = sorted({str(run.adapt.get("start") or "") for run in runs} - {""})
    tested = pd.concat([run.predictions for run in runs])
    tested = tested[tested["group"] == group]
    if len(starts) != 1 or not (Path(starts[0]) / PREDICTIONS).is_file():
        return tested.iloc[:0]
    before = read_run(Path(starts[0]) / PREDICTIONS).predictions
    # A model that has seen another cohort, or landmarks in other places, is no yardstick here.
    known = ["cohort_digest", "scan_id", "landmark"]
    wanted = tested[known].drop_duplicates()
    found = before.merge(wanted, on=known)
    return found if len(found) == len(wanted) * before["seed"].nunique() else tested.iloc[:0]


def _change(
    before: pd.DataFrame, after: pd.DataFrame, permutations: int, seed: int
) -> dict[str, float]:
    if not len(before):
        return {}
    points = ["participant_id", "scan_id", "landmark"]
    means = [part.groupby(points)["error_mm"].mean() for part in (after, before)]
    both = pd.concat(means, axis=1, keys=["after", "before"]).dropna()
    people = both.groupby("participant_id").mean()
    test = paired_test(people["after"], people["before"], permutations=permutations, seed=seed)
    change = 100.0 * (both["after"].mean() / both["before"].mean() - 1.0)
    return {**vars(test), "change_percent": float(change)}


def adaptation_table(points: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """The result of `adaptation` as a table."""
    nan = float("nan")
    rows = [
        (
            str(r["way"]), str(r["group"]), str(r["learnt_from"]), str(r["people"]),
            plus_minus(r["mean_mm"], r["sd_mm"]), span(r["mean_mm_low"], r["mean_mm_high"]),
            signed(r.get("difference_mm", nan)), span(r.get("low_mm", nan), r.get("high_mm", nan)),
            signed(r.get("change_percent", nan), 0), p_text(r.get("p_value", nan)),
            p_text(r.get("p_holm", nan)),
        )
        for r in points.to_dict("records")
    ]  # fmt: skip
    return Table(
        name="adaptation",
        title="People learnt from, and the error on the others of their group",
        header=(
            "Way", "Group", "learnt from", "people", "Error (mm)", "95 % CI", "change (mm)",
            "95 % CI", "%", "p", "p Holm",
        ),
        rows=tuple(rows),
        notes=(
            *notes,
            INTERVAL_NOTE,
            _CHANGE_NOTE,
        ),
    )  # fmt: skip
