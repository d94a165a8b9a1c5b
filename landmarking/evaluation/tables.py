"""The report's tables: which figures stand where, formatted once for all output formats.

The CSV files hold the unrounded figures of `summary` and `comparisons` instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from landmarking.evaluation.metrics import SDR_THRESHOLDS_MM, percent_half_up
from landmarking.evaluation.paper import (
    FLOOR,
    FLOOR_BY_LANDMARK_MM,
    FLOOR_NOTE,
    PAPER,
    TABLE_1,
    TRUNCATION_NOTE,
    PublishedRow,
    published,
)
from landmarking.evaluation.summary import ALL, NO_SKILL, group_order, model_order
from landmarking.evaluation.typeset import DASH, Table, plus_minus, span

THIS_STUDY = "this study"

RATES = tuple(f"{radius:g} mm (%)" for radius in SDR_THRESHOLDS_MM)
INTERVAL_NOTE = "95 % CI: of the mean, from a bootstrap over people."
NO_SKILL_NOTE = f"{NO_SKILL}: every landmark at its mean training position."


def paper_table(summary: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Table 1 with the paper's rows under ours, no skill, and two raters.

    Args:
        summary: Result of `summary.table_1`.
        notes: Sentences that go first under the table, such as what was simulated.
    """
    rows: list[tuple[str, ...]] = []
    # The paper's pooled row stands beside ours only where ours pools the same two groups.
    pools_alike = set(summary["group"]) == {"DS", "HS", ALL}
    for record in summary.to_dict("records"):
        model, group = str(record["model"]), str(record["group"])
        rows.append((model, group, THIS_STUDY, *measured(record)))
        row = published(model, group)
        if row is not None and (group != ALL or pools_alike):
            rows.append((model, group, PAPER, *_printed(row)))
    rows += [(row.source, row.group, "AFIDs", *_printed(row)) for row in FLOOR]
    return Table(
        name="table1",
        title="Landmarking error, and detection rate (SDR) within 1 to 5 mm",
        header=("Model", "Group", "Source", "n", "Error (mm)", "95 % CI", *RATES),
        rows=tuple(rows),
        notes=(*notes, *_table_1_notes(summary)),
        text_columns=3,
        breaks=breaks(row[0] for row in rows),
    )


def _table_1_notes(summary: pd.DataFrame) -> list[str]:
    notes = [
        "Error: mean ± standard deviation of the in-plane distance over n landmarks, in the "
        "scan's own mm; n is people times landmarks scored"
        + (", times seeds." if (summary["seeds"] > 1).any() else "."),
        INTERVAL_NOTE,
        TRUNCATION_NOTE,
        NO_SKILL_NOTE,
        f"{FLOOR[0].source}: {FLOOR_NOTE}",
    ]
    missing = int(summary.loc[summary["model"] != NO_SKILL, "missing"].max())
    if missing:
        notes.append(f"Landmarks without truth are left out, never counted: up to {missing} a row.")
    return notes


def measured(record: dict[Any, Any]) -> tuple[str, ...]:
    """Cells n, error, its interval and the rates, from a row of `summary.summarise`."""
    interval = span(record.get("mean_mm_low"), record.get("mean_mm_high"))
    error = plus_minus(record["mean_mm"], record["sd_mm"])
    return (str(int(record["n"])), error, interval, *_rates(record))


def _rates(record: dict[Any, Any]) -> tuple[str, ...]:
    scored = int(record["n"])
    hits = (int(record[f"hits_{radius:g}mm"]) for radius in SDR_THRESHOLDS_MM)
    return tuple(percent_half_up(count, scored) if scored else DASH for count in hits)


def _printed(row: PublishedRow) -> tuple[str, ...]:
    n = DASH if row.n is None else str(row.n)
    rates = (DASH if cell is None else cell for cell in row.sdr_percent)
    return (n, plus_minus(row.mean_mm, row.sd_mm), DASH, *rates)


def with_published(summary: pd.DataFrame) -> pd.DataFrame:
    """Table 1's figures for CSV: ours unrounded, then the published rows as printed."""
    ours = summary.copy()
    ours.insert(0, "source", THIS_STUDY)
    others = []
    for row in (*TABLE_1, *FLOOR):
        record: dict[str, Any] = {
            "source": row.source, "model": row.model, "group": row.group, "people": row.people,
            "n": row.n, "mean_mm": row.mean_mm, "sd_mm": row.sd_mm,
        }  # fmt: skip
        for radius, cell in zip(SDR_THRESHOLDS_MM, row.sdr_percent, strict=True):
            record[f"sdr_{radius:g}mm_percent"] = None if cell is None else float(cell)
        for radius, hits in zip(SDR_THRESHOLDS_MM, row.hits, strict=False):
            record[f"hits_{radius:g}mm"] = hits
        others.append(record)
    names = [str(name) for name in ours]
    counts = [name for name in names if name in ("people", "landmarks", "seeds", "n", "missing")]
    counts += [name for name in names if name.startswith("hits_")]
    whole = dict.fromkeys(counts, "Int64")
    extra = pd.DataFrame(others).reindex(columns=ours.columns)
    return pd.concat([ours.astype(whole), extra.astype(whole)], ignore_index=True)


def landmark_table(summary: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Error of each landmark by group, the models side by side, with two raters as the floor.

    Args:
        summary: Result of `summary.by_landmark`.
        notes: Sentences that go first under the table.
    """
    models = model_order(summary["model"])
    header = ["Landmark", "Group", "n"]
    for model in models:
        header += [f"{model} (mm)"] if model == NO_SKILL else [f"{model} (mm)", f"{model} 95 % CI"]
    rows = []
    for (name, group), part in _by(summary, ["landmark", "group"]):
        cells = [name, group, str(int(part["n"].max()))]
        for model in models:
            found = part[part["model"] == model].to_dict("records")
            cells += _error_cells(found[0] if found else None, model)
        floor = FLOOR_BY_LANDMARK_MM.get(name)
        cells.append(DASH if floor is None else f"{floor[0]:.2f} / {floor[1]:.2f}")
        rows.append(tuple(cells))
    return Table(
        name="landmarks",
        title="Landmarking error by landmark",
        header=(*header, "raters (mm)"),
        rows=tuple(rows),
        notes=(
            *notes, "Mean ± standard deviation in mm.", INTERVAL_NOTE, NO_SKILL_NOTE,
            "raters: mean distance of two raters in mm, HCP / OASIS (AFIDs).",
        ),
        breaks=breaks(row[0] for row in rows),
    )  # fmt: skip


def _error_cells(record: dict[Any, Any] | None, model: str) -> list[str]:
    if record is None:
        return [DASH] if model == NO_SKILL else [DASH, DASH]
    error = plus_minus(record["mean_mm"], record["sd_mm"])
    interval = span(record.get("mean_mm_low"), record.get("mean_mm_high"))
    return [error] if model == NO_SKILL else [error, interval]


def landmark_sdr_table(summary: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Detection rate of each landmark by group and model; arguments as in `landmark_table`."""
    rows = [
        (name, str(record["group"]), str(record["model"]), str(int(record["n"])), *_rates(record))
        for (name, _), part in _by(summary, ["landmark", "group"])
        for record in part.to_dict("records")
    ]
    return Table(
        name="landmark_sdr",
        title="Detection rate (SDR) by landmark",
        header=("Landmark", "Group", "Model", "n", *RATES),
        rows=tuple(rows),
        notes=(*notes, "Hits of n, rounded half up; radii are inclusive.", NO_SKILL_NOTE),
        text_columns=3,
        breaks=breaks(row[0] for row in rows),
    )


def seeds_table(by_seed: pd.DataFrame, summary: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Each seed's figures, and the spread between seeds.

    Args:
        by_seed: Result of `summary.by_seed`.
        summary: Result of `summary.table_1`, for the spread.
        notes: Sentences that go first under the table.
    """
    rows = []
    spreads = summary.set_index(["model", "group"])["seed_sd_mm"]
    for (model, group), part in _by(by_seed, ["model", "group"]):
        rows += [
            (model, group, str(record["seed"]), *measured(record))
            for record in part.to_dict("records")
        ]
        spread = plus_minus(float(spreads.loc[(model, group)]), None)
        rows.append((model, group, "SD of means", DASH, spread, *[DASH] * (1 + len(RATES))))
    return Table(
        name="seeds",
        title="The same by seed, and the spread between seeds",
        header=("Model", "Group", "Seed", "n", "Error (mm)", "95 % CI", *RATES),
        rows=tuple(rows),
        notes=(*notes, "SD of means: standard deviation of the seeds' mean errors in mm."),
        text_columns=3,
        breaks=breaks(row[:2] for row in rows),
    )


def _by(frame: pd.DataFrame, keys: Sequence[str]) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Groups by two text columns: the first as it comes, groups in the paper's order."""
    firsts = dict.fromkeys(frame[keys[0]])
    return [
        ((first, group), frame[(frame[keys[0]] == first) & (frame[keys[1]] == group)])
        for first in firsts
        for group in group_order(frame.loc[frame[keys[0]] == first, keys[1]])
    ]


def breaks(keys: Iterable[object]) -> tuple[int, ...]:
    """Indices of rows that start a block: those whose key differs from the row before."""
    listed = list(keys)
    return tuple(i for i in range(1, len(listed)) if listed[i] != listed[i - 1])
