"""Tables for people: rows of formatted text, as Markdown, LaTeX (booktabs) and console text.

Numbers are formatted once, in `paper_table` and its neighbours, so all forms show the same digits;
the CSV files hold the unrounded figures instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from landmarking.evaluation.metrics import SDR_THRESHOLDS_MM, percent_half_up
from landmarking.evaluation.paper import (
    FLOOR,
    FLOOR_NOTE,
    PAPER,
    TRUNCATION_NOTE,
    PublishedRow,
    published,
)
from landmarking.evaluation.summary import NO_SKILL

DASH = "-"


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


def paper_table(summary: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Table 1 with the paper's rows under ours, no skill, and two raters.

    Args:
        summary: Result of `summary.table_1`.
        notes: Sentences that go first under the table, such as what was simulated.
    """
    header = (
        "Model", "Group", "Source", "n", "Error (mm)", "95 % CI",
        *(f"{radius:g} mm (%)" for radius in SDR_THRESHOLDS_MM),
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    breaks = []
    previous = None
    for record in summary.to_dict("records"):
        model, group = str(record["model"]), str(record["group"])
        if previous not in (None, model):
            breaks.append(len(rows))
        previous = model
        rows.append((model, group, "this study", *_measured(record)))
        if (row := published(model, group)) is not None:
            rows.append((model, group, PAPER, *_printed(row)))
    breaks.append(len(rows))
    rows += [(row.source, row.group, "AFIDs", *_printed(row)) for row in FLOOR]
    return Table(
        "table1", "Landmarking error, and detection rate (SDR) within 1 to 5 mm", header,
        tuple(rows), (*notes, *_table_1_notes(summary)), 3, tuple(breaks),
    )  # fmt: skip


def _table_1_notes(summary: pd.DataFrame) -> list[str]:
    notes = [
        "Error: mean ± standard deviation of the in-plane distance over n landmarks, in the "
        "scan's own mm; n is people times landmarks scored"
        + (", times seeds." if (summary["seeds"] > 1).any() else "."),
        "95 % CI: of the mean, from a bootstrap over people.",
        TRUNCATION_NOTE,
        f"{NO_SKILL}: every landmark at its mean training position.",
        f"{FLOOR[0].source}: {FLOOR_NOTE}",
    ]
    missing = int(summary.loc[summary["model"] != NO_SKILL, "missing"].max())
    if missing:
        notes.append(f"Landmarks without truth are left out, never counted: up to {missing} a row.")
    return notes


def _measured(record: dict[Any, Any]) -> tuple[str, ...]:
    scored = int(record["n"])
    rates = [
        percent_half_up(int(record[f"hits_{radius:g}mm"]), scored) if scored else DASH
        for radius in SDR_THRESHOLDS_MM
    ]
    interval = span(record.get("mean_mm_low"), record.get("mean_mm_high"))
    return (str(scored), plus_minus(record["mean_mm"], record["sd_mm"]), interval, *rates)


def _printed(row: PublishedRow) -> tuple[str, ...]:
    n = DASH if row.n is None else str(row.n)
    rates = (DASH if cell is None else cell for cell in row.sdr_percent)
    return (n, plus_minus(row.mean_mm, row.sd_mm), DASH, *rates)


def plus_minus(mean: float, deviation: float | None) -> str:
    """`1.84 ± 1.63`; the mean alone where there is no deviation; a dash where there is neither."""
    if math.isnan(mean):
        return DASH
    if deviation is None or math.isnan(deviation):
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {deviation:.2f}"


def span(low: float | None, high: float | None, decimals: int = 2) -> str:
    """`1.70 to 1.99`, or a dash."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return DASH
    return f"{low:.{decimals}f} to {high:.{decimals}f}"


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
    parts = [f"**{table.title}**", "", line(table.header), line(rule), *body, "", *notes]
    return "\n".join(parts).rstrip() + "\n"


def to_console(table: Table) -> str:
    """Plain text with aligned columns, a line between blocks, and the notes."""
    widths = _widths(table)
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [table.title, "=" * len(table.title)]
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
        r"\begin{table}[htbp]", r"\centering", rf"\caption{{{tex(table.title)}}}",
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
