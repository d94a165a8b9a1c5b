"""Tables of tests: model against model, group against group, study against study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from landmarking.evaluation.tables import INTERVAL_NOTE, NO_SKILL_NOTE, RATES, breaks, measured
from landmarking.evaluation.typeset import Table, p_text, signed, span

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
    """Model against model; `tests` is the result of `comparisons.compare_models`."""
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
    """Group against group; `tests` is the result of `comparisons.compare_groups`."""
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
    """Studies side by side; `stacked` is the result of `side_by_side.stacked_summaries`."""
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
    """Tests between studies; `tests` is the result of `side_by_side.study_differences`."""
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
