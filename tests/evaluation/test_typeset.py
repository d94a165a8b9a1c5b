"""One table in three notations."""

import re
import shutil
import subprocess

import pytest

from landmarking.evaluation.typeset import (
    Table,
    latex_document,
    p_text,
    plus_minus,
    signed,
    span,
    tex,
    to_console,
    to_latex,
    to_markdown,
)

TABLE = Table(
    name="demo",
    title="Errors & rates",
    header=("Model", "Group", "mm", "%"),
    rows=(("SL_a", "HS", "1.84 ± 1.63", "31.75"), ("ML|b", "DS", "-", "100.00")),
    notes=("100 % of #1 {x} ~ ^ \\ < > $",),
    breaks=(1,),
)

NAN = float("nan")


def test_markdown_is_a_table_with_aligned_numbers():
    lines = to_markdown(TABLE).splitlines()

    assert lines == [
        "**Errors & rates**",
        "",
        "| Model | Group |          mm |      % |",
        "| ----- | ----- | ----------: | -----: |",
        "| SL_a  | HS    | 1.84 ± 1.63 |  31.75 |",
        "| ML\\|b | DS    |           - | 100.00 |",
        "",
        "- 100 % of #1 {x} ~ ^ \\ < > $",
    ]


def test_console_text_has_a_rule_between_blocks():
    lines = to_console(TABLE).splitlines()

    assert lines[0] == "Errors & rates"
    assert lines[4].split() == ["SL_a", "HS", "1.84", "±", "1.63", "31.75"]
    assert set(lines[5]) == {"-"}
    assert lines[6].startswith("ML|b")


def test_latex_is_booktabs_with_everything_escaped():
    text = to_latex(TABLE)

    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert text.count(r"\midrule") == 2
    assert r"SL\_a & HS & 1.84 $\pm$ 1.63 & 31.75 \\" in text
    body = re.search(r"\\midrule(.*)\\bottomrule", text, re.DOTALL).group(1)
    rows = [row for row in body.split(r"\\") if "&" in row]
    assert all(row.count("&") == 3 for row in rows)
    # Every brace and environment that opens closes again.
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)[::-1]
    assert text.isascii()


@pytest.mark.parametrize("character", list("\\&%$#_{}~^<>|"))
def test_characters_that_are_commands_to_latex_are_escaped(character):
    assert tex(character) != character
    assert tex(character).startswith("\\")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles_as_it_is(tmp_path):
    (tmp_path / "demo.tex").write_text(to_latex(TABLE))
    (tmp_path / "tables.tex").write_text(latex_document(["demo"]))

    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-2000:]


def test_numbers_as_text():
    assert plus_minus(1.836, 1.629) == "1.84 ± 1.63"
    assert plus_minus(2.125, 0.005) == "2.13 ± 0.01"
    assert plus_minus(0.74, None) == "0.74"
    assert plus_minus(1.0, NAN) == "1.00"
    assert plus_minus(NAN, NAN) == "-"
    assert span(1.0, 2.346) == "1.00 to 2.35"
    assert span(NAN, 1.0) == span(None, None) == "-"
    assert (p_text(0.0004), p_text(0.0123), p_text(1.0), p_text(NAN)) == (
        "< 0.001", "0.012", "1.000", "-",
    )  # fmt: skip
    assert (signed(0.314), signed(-0.2), signed(NAN)) == ("+0.31", "-0.20", "-")
