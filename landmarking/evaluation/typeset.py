"""A table of formatted text, as Markdown, LaTeX (booktabs) and console text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

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
