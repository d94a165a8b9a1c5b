"""The report's tables: our figures beside published ones, as Markdown, LaTeX and console text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pandas as pd

from landmarking.evaluation.predictions import SDR_THRESHOLDS_MM, percent_half_up
from landmarking.evaluation.statistics import NO_SKILL, group_order, model_order

DASH = "-"

SIMULATED_NOTE = "Made from simulated phantom heads, not from people: no clinical result."
"""First note of a table that has simulated people in it; the caption says so too."""


@dataclass(frozen=True)
class Table:
    """A table ready to print.

    Attributes:
        name: Stem of its files.
        title: Caption.
        header: Column heads.
        rows: Cells; every row as long as the header.
        notes: Sentences under the table.
        text_columns: How many leading columns hold names (left aligned) rather than numbers.
        breaks: Indices of rows that start a new block.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    text_columns: int = 2
    breaks: tuple[int, ...] = ()

    @property
    def caption(self) -> str:
        """The title, with `simulated` where people in the table are."""
        return f"{self.title} (simulated)" if SIMULATED_NOTE in self.notes else self.title


def fixed(value: float, decimals: int = 2) -> str:
    """A number with that many decimals, rounded half up: 2.125 is 2.13, as for the rates."""
    exact = Decimal(repr(float(value)))
    return str(exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def plus_minus(mean: float, deviation: float | None) -> str:
    """`1.84 ± 1.63`; the mean alone where there is no deviation; a dash where there is neither."""
    if math.isnan(mean):
        return DASH
    if deviation is None or math.isnan(deviation):
        return fixed(mean)
    return f"{fixed(mean)} ± {fixed(deviation)}"


def span(low: float | None, high: float | None, decimals: int = 2) -> str:
    """`1.70 to 1.99`, or a dash."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return DASH
    return f"{fixed(low, decimals)} to {fixed(high, decimals)}"


def p_text(p_value: float) -> str:
    """`0.012`, `< 0.001`, or a dash."""
    if math.isnan(p_value):
        return DASH
    return "< 0.001" if p_value < 0.001 else fixed(p_value, 3)


def signed(value: float, decimals: int = 2) -> str:
    """`+0.31`, `-0.20`, or a dash."""
    if math.isnan(value):
        return DASH
    return f"{'-' if value < 0 else '+'}{fixed(abs(value), decimals)}"


def to_markdown(table: Table) -> str:
    """GitHub-flavoured Markdown with the title above and the notes below."""
    widths = _widths(table)
    left = table.text_columns

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(_aligned(cells, widths, left))} |"

    rule = [
        "-" * width if column < left else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in table.rows]
    body = [line(row) for row in escaped]
    notes = [f"- {note}" for note in table.notes]
    parts = [f"**{table.caption}**", "", line(table.header), line(rule), *body, "", *notes]
    return "\n".join(parts).rstrip() + "\n"


def to_console(table: Table) -> str:
    """Plain text with aligned columns, a line between blocks, and the notes."""
    widths = _widths(table)
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [table.caption, "=" * len(table.caption)]
    lines += ["  ".join(_aligned(table.header, widths, table.text_columns)), rule]
    for number, row in enumerate(table.rows):
        if number in table.breaks:
            lines.append(rule)
        lines.append("  ".join(_aligned(row, widths, table.text_columns)).rstrip())
    return "\n".join([*lines, rule, *(f"* {note}" for note in table.notes)]) + "\n"


def to_latex(table: Table) -> str:
    r"""A `table` environment with booktabs rules; needs `\usepackage{booktabs,graphicx}`."""
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    lines = [
        r"\begin{table}[htbp]", r"\centering", rf"\caption{{{tex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}", r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
        " & ".join(tex(cell) for cell in table.header) + r" \\", r"\midrule",
    ]  # fmt: skip
    for number, row in enumerate(table.rows):
        if number in table.breaks:
            lines.append(r"\midrule")
        lines.append(" & ".join(tex(cell) for cell in row) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if table.notes:
        notes = " ".join(tex(note) for note in table.notes)
        lines += [r"\par\smallskip", rf"\parbox{{\linewidth}}{{\footnotesize {notes}}}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def latex_document(names: Sequence[str]) -> str:
    """A document that shows the tables of the given file stems; compiles as it is."""
    inputs = "\n".join(rf"\input{{{name}}}" for name in names)
    return (
        "\\documentclass[a4paper]{article}\n"
        "\\usepackage[T1]{fontenc}\n\\usepackage[utf8]{inputenc}\n\\usepackage{textcomp}\n"
        "\\usepackage[margin=20mm]{geometry}\n\\usepackage{booktabs,graphicx}\n"
        f"\\begin{{document}}\n{inputs}\n\\end{{document}}\n"
    )


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$",
}  # fmt: skip


def tex(text: str) -> str:
    """Text with the characters that LaTeX would take for commands escaped."""
    return "".join(_TEX.get(character, character) for character in text)


def _widths(table: Table) -> list[int]:
    rows = [table.header, *table.rows]
    return [max(3, *(len(row[column]) for row in rows)) for column in range(len(table.header))]


def _aligned(cells: Sequence[str], widths: Sequence[int], left: int) -> list[str]:
    return [
        cell.ljust(width) if column < left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]


# Published figures that stand beside ours: the paper's Table 1, and two raters against each other.
#
# The paper is Male et al., "Single-Landmark vs. Multi-Landmark Deep Learning Approaches to Brain
# MRI Landmarking" (Table 1 and section 3.4). Its SDR cells are hits of n points, truncated to two
# decimals; the hits below are the only whole numbers that give the printed cells.


PAPER = "the paper"
RATERS = "two raters"


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        source: Who says it.
        model: Model of the row, or who placed the landmarks.
        group: Test group, or the data set.
        people: Persons scored, where published.
        n: Landmarks scored, persons times landmarks, where published.
        mean_mm: Mean in-plane error.
        sd_mm: Its standard deviation over the n landmarks; None where not published.
        sdr_percent: SDR at 1 to 5 mm as printed; None where not published.
        hits: Landmarks within 1 to 5 mm, recovered from the cells; empty where not known.
    """

    source: str
    model: str
    group: str
    people: int | None
    n: int | None
    mean_mm: float
    sd_mm: float | None
    sdr_percent: tuple[str | None, ...]
    hits: tuple[int, ...] = ()


TABLE_1: tuple[PublishedRow, ...] = (
    PublishedRow(
        PAPER, "ML", "DS", 54, 432, 3.26, 2.15,
        ("10.64", "31.25", "53.47", "71.29", "84.95"), (46, 135, 231, 308, 367),
    ),
    PublishedRow(
        PAPER, "ML", "HS", 87, 696, 2.89, 2.11,
        ("13.36", "39.79", "62.22", "78.59", "88.36"), (93, 277, 433, 547, 615),
    ),
    PublishedRow(
        PAPER, "ML", "all", 141, 1128, 3.03, 2.13,
        (None, None, "58.86", None, None), (139, 412, 664, 855, 982),
    ),
    PublishedRow(
        PAPER, "SL", "DS", 54, 432, 2.25, 2.35,
        ("25.92", "62.73", "80.32", "87.96", "90.97"), (112, 271, 347, 380, 393),
    ),
    PublishedRow(
        PAPER, "SL", "HS", 87, 696, 1.84, 1.63,
        ("31.75", "68.53", "86.06", "92.09", "96.12"), (221, 477, 599, 641, 669),
    ),
    PublishedRow(
        PAPER, "SL", "all", 141, 1128, 1.99, 1.94,
        (None, None, "83.86", None, None), (333, 748, 946, 1021, 1062),
    ),
)  # fmt: skip
"""Table 1, and the pooled figures of section 3.4, as printed."""

ODD_CELL = ("ML", "HS", 3)
"""Model, group and radius of the one printed cell that no whole number of hits gives."""

FLOOR: tuple[PublishedRow, ...] = (
    PublishedRow(
        RATERS, "raters", "HCP", None, None, 0.74, None, ("76", "96", "99", None, None)
    ),
    PublishedRow(
        RATERS, "raters", "OASIS", None, None, 1.06, None, ("62", "86", "95", None, None)
    ),
)  # fmt: skip
"""One rater's in-plane distance from another over the ten midline AFIDs (rater files of AFIDs-HCP,
3 T at 0.7 mm, and AFIDs-OASIS at 1 mm; Taha et al. 2023)."""

FLOOR_BY_LANDMARK_MM: dict[str, tuple[float, float]] = {
    "AC": (0.34, 0.47),
    "PC": (0.46, 0.42),
    "PMJ": (0.83, 1.33),
    "ICS": (0.67, 1.29),
    "CUL": (0.68, 1.10),
    "IMS": (0.55, 0.96),
    "GENU": (1.00, 1.25),
    "SPLE": (0.69, 0.69),
}
"""The same for each landmark: mean distance in mm on HCP and on OASIS."""

FLOOR_NOTE = (
    "one rater against another over ten midline landmarks, from the public rater files of "
    "AFIDs-HCP and AFIDs-OASIS."
)

OTHERS_NOTE = (
    f"{PAPER}: printed figures of Male et al. 2023, of other people and other scans; they say "
    "nothing about a difference from this study."
)

TRUNCATION_NOTE = (
    "SDR cells of this study are hits of n, rounded half up from the exact ratio; a radius is "
    "inclusive. The paper's cells stand as printed: they are hits of n truncated to two decimals "
    "(46 of 432 is printed 10.64 and rounds to 10.65). One of them fits no count: ML, HS, 3 mm is "
    "printed 62.22, and 433 of 696 is 62.21 either way."
)


def truncated_percent(hits: int, n: int) -> str:
    """A percentage truncated to two decimals, as the paper prints its SDR: 46 of 432 is 10.64."""
    hundredths = hits * 10_000 // n
    return f"{hundredths // 100}.{hundredths % 100:02d}"


# The report's tables: which figures stand where, formatted once for all output formats.
#
# The CSV files hold the unrounded figures of `statistics` and `comparisons` instead.


THIS_STUDY = "this study"

RATES = tuple(f"{radius:g} mm (%)" for radius in SDR_THRESHOLDS_MM)
INTERVAL_NOTE = (
    "95 % CI: of the mean, from the spread between people (log scale, Student's t); none where a "
    "group has fewer than two."
)
NO_SKILL_NOTE = f"{NO_SKILL}: every landmark at its mean training position."


def paper_table(summary: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Table 1: ours and no skill, and in blocks of their own the paper's rows and two raters.

    Args:
        summary: Result of `statistics.table_1`.
        notes: Sentences that go first under the table, such as what was simulated.
    """
    rows = [
        (str(record["model"]), str(record["group"]), THIS_STUDY, *measured(record))
        for record in summary.to_dict("records")
    ]
    starts = breaks(row[0] for row in rows)
    # Published figures stand apart: they are of other people and other scans.
    printed = [
        (row.model, row.group, PAPER, *_printed(row))
        for row in TABLE_1
        if row.model in set(summary["model"])
    ]
    raters = [(row.source, row.group, "AFIDs", *_printed(row)) for row in FLOOR]
    for block in (printed, raters):
        starts += (len(rows),) if block else ()
        rows += block
    return Table(
        name="table1",
        title="Landmarking error, and detection rate (SDR) within 1 to 5 mm",
        header=("Model", "Group", "Source", "n", "Error (mm)", "95 % CI", *RATES),
        rows=tuple(rows),
        notes=(*notes, *_table_1_notes(summary)),
        text_columns=3,
        breaks=starts,
    )


def _table_1_notes(summary: pd.DataFrame) -> list[str]:
    notes = [
        "Error: mean ± standard deviation of the in-plane distance over n landmarks, in the "
        "scan's own mm; n is people times landmarks scored"
        + (", times seeds." if (summary["seeds"] > 1).any() else "."),
        INTERVAL_NOTE,
        OTHERS_NOTE,
        TRUNCATION_NOTE,
        NO_SKILL_NOTE,
        f"{FLOOR[0].source}: {FLOOR_NOTE}",
    ]
    missing = int(summary.loc[summary["model"] != NO_SKILL, "missing"].max())
    if missing:
        notes.append(f"Landmarks without truth are left out, never counted: up to {missing} a row.")
    failed = int(summary["failed"].max()) if "failed" in summary else 0
    if failed:
        notes.append(
            "Scans that came to no slice count as misses at every radius, and in no mean error "
            f"(failures=misses): up to {failed} points a row."
        )
    return notes


def scans_table(scans: pd.DataFrame, counted: bool, notes: Sequence[str] = ()) -> Table:
    """How many test scans were predicted, flagged and failed, by group.

    Args:
        scans: `Study.scans`.
        counted: Whether failed scans are misses in the rates.
        notes: Sentences that go first under the table.
    """
    states = ("done", "flagged", "failed")
    rows = []
    for group in group_order(scans["group"]):
        part = scans[scans["group"] == group]
        count = {state: int((part["state"] == state).sum()) for state in states}
        cells = (len(part), part["participant_id"].nunique(), *count.values())
        rows.append((str(group), *map(str, cells)))
    failed = scans[scans["state"] == "failed"]
    why = [f"{row.scan_id}: {row.reason}" for row in failed.head(5).itertuples()]
    if len(failed) > len(why):
        why.append(f"{len(failed) - len(why)} more: scans.csv of the runs.")
    said = (
        "Failed: no slice could be made. In rates such a scan is "
        + (
            "a miss at every radius (failures=misses)"
            if counted
            else "left out (failures=left_out)"
        )
        + "; it is part of no mean error, test or figure."
    )
    return Table(
        name="scans",
        title="Test scans: what was predicted, flagged, and failed",
        header=("Group", "scans", "people", "fine", "flagged", "failed"),
        rows=tuple(rows),
        notes=(*notes, "Flagged: by the rules of preparation (qc.csv); they count.", said, *why),
        text_columns=1,
    )


def measured(record: dict[Any, Any]) -> tuple[str, ...]:
    """Cells n, error, its interval and the rates, from a row of `statistics.summarise`."""
    interval = span(record.get("mean_mm_low"), record.get("mean_mm_high"))
    error = plus_minus(record["mean_mm"], record["sd_mm"])
    return (str(int(record["n"])), error, interval, *_rates(record))


def _rates(record: dict[Any, Any]) -> tuple[str, ...]:
    scored = int(record["n"]) + int(record.get("failed", 0))
    hits = (int(record[f"hits_{radius:g}mm"]) for radius in SDR_THRESHOLDS_MM)
    return tuple(percent_half_up(count, scored) if scored else DASH for count in hits)


def _printed(row: PublishedRow) -> tuple[str, ...]:
    n = DASH if row.n is None else str(row.n)
    rates = (DASH if cell is None else cell for cell in row.sdr_percent)
    return (n, plus_minus(row.mean_mm, row.sd_mm), DASH, *rates)


_COUNTS = ("people", "landmarks", "seeds", "n", "missing", "failed")


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
    counts = [name for name in names if name in _COUNTS]
    counts += [name for name in names if name.startswith("hits_")]
    whole = dict.fromkeys(counts, "Int64")
    extra = pd.DataFrame(others).reindex(columns=ours.columns)
    return pd.concat([ours.astype(whole), extra.astype(whole)], ignore_index=True)


def landmark_table(summary: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Error of each landmark by group, the models side by side, with two raters as the floor.

    Args:
        summary: Result of `statistics.by_landmark`.
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


def space_table(summary: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Error in the plane beside the plane's own, the result of `statistics.in_space`."""
    rows = [
        (
            str(r["model"]), str(r["group"]), str(r["n"]),
            *(plus_minus(r[f"{name}_mean"], r[f"{name}_sd"])
              for name in ("error_mm", "off_plane_mm", "space_mm")),
        )
        for r in summary.to_dict("records")
    ]  # fmt: skip
    return Table(
        name="space",
        title="Error in the plane, the plane's distance from the landmark, and error in 3-D",
        header=("Model", "Group", "n", "in plane (mm)", "off plane (mm)", "3-D (mm)"),
        rows=tuple(rows),
        notes=(
            *notes, "Mean ± standard deviation over landmarks.",
            "off plane: distance of the true landmark from the plane found, whatever the model.",
        ),
        breaks=breaks(row[0] for row in rows),
    )  # fmt: skip


def seeds_table(by_seed: pd.DataFrame, summary: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Each seed's figures, and the spread between seeds.

    Args:
        by_seed: Result of `statistics.by_seed`.
        summary: Result of `statistics.table_1`, for the spread.
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


def variance_table(parts: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """What the mean error varies with, people, seeds and folds apart.

    Args:
        parts: Result of `statistics.variance_parts`.
        notes: Sentences that go first under the table.
    """
    columns = (
        *("sd_people_mm", "sd_seeds_mm", "sd_folds_mm", "sd_rest_mm"),
        *("se_people_mm", "se_seeds_mm"),
    )
    rows = [
        (
            *(str(record["model"]), str(record["group"])),
            *(str(record[key]) for key in ("people", "seeds", "folds")),
            *(DASH if pd.isna(record[key]) else fixed(record[key], 3) for key in columns),
        )
        for record in parts.to_dict("records")
    ]
    return Table(
        name="variance",
        title="What the mean error varies with",
        header=(
            *("Model", "Group", "people", "seeds", "folds", "SD people", "SD seeds", "SD folds"),
            *("SD rest", "SE by people", "SE by seeds"),
        ),
        rows=tuple(rows),
        notes=(
            *notes,
            "In mm, by analysis of variance on each person's mean error.",
            "SD folds: beyond what their people explain. SD rest: what a training changes in some.",
            "SE: of the mean error, as far as other people, and other trainings, would change it.",
        ),
        breaks=breaks(row[0] for row in rows),
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
