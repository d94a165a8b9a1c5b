import itertools
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from landmarking.evaluation.predictions import percent_half_up
from landmarking.evaluation.statistics import table_1
from landmarking.evaluation.study import load_study
from landmarking.evaluation.tables import (
    DASH,
    ODD_CELL,
    SIMULATED_NOTE,
    TABLE_1,
    Table,
    latex_document,
    p_text,
    paper_table,
    plus_minus,
    signed,
    span,
    tex,
    to_console,
    to_latex,
    to_markdown,
    truncated_percent,
    variance_table,
)

# The paper's printed figures, taken apart: counts, truncation, and the one odd cell.


@pytest.mark.parametrize("row", TABLE_1, ids=lambda row: f"{row.model}-{row.group}")
def test_printed_rates_are_truncated_counts_but_for_one_cell(row):
    for radius, (printed, hits) in enumerate(zip(row.sdr_percent, row.hits, strict=True), start=1):
        if printed is None:
            continue
        truncated = truncated_percent(hits, row.n)
        if (row.model, row.group, radius) == ODD_CELL:
            assert (printed, truncated, percent_half_up(hits, row.n)) == ("62.22", "62.21", "62.21")
            # No other count gives the printed cell either, truncated or rounded.
            assert all(
                "62.22" not in (truncated_percent(h, row.n), percent_half_up(h, row.n))
                for h in range(row.n + 1)
            )
        else:
            assert printed == truncated


def test_pooled_rows_are_the_sums_and_weighted_means_of_their_groups():
    for model in ("ML", "SL"):
        ds, hs, pooled = (row for row in TABLE_1 if row.model == model)
        assert pooled.n == ds.n + hs.n == 8 * pooled.people
        assert pooled.hits == tuple(a + b for a, b in zip(ds.hits, hs.hits, strict=True))
        mean = (ds.n * ds.mean_mm + hs.n * hs.mean_mm) / pooled.n
        assert mean == pytest.approx(pooled.mean_mm, abs=0.01)


# One table in three notations.


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


def test_published_rows_stand_apart_and_simulated_tables_say_so(make_study):
    frame = load_study(make_study(slices=False).write()).frame
    table = paper_table(table_1(frame), [SIMULATED_NOTE])

    sources = [row[2] for row in table.rows]
    runs = [source for source, _ in itertools.groupby(sources)]
    assert runs == ["this study", "the paper", "AFIDs"]
    assert {sources.index("the paper"), sources.index("AFIDs")} < set(table.breaks)
    assert any("other people and other scans" in note for note in table.notes)
    for text in (to_markdown(table), to_console(table), to_latex(table)):
        assert "within 1 to 5 mm (simulated)" in text
    assert "(simulated)" not in to_markdown(paper_table(table_1(frame)))


def test_a_model_that_the_paper_does_not_have_gets_none_of_its_rows(make_study):
    frame = load_study(make_study(slices=False).write()).frame
    only = frame[frame["model"] == "ML"].assign(model="heatmap", run="heatmap-seed0")
    table = paper_table(table_1(only))
    assert "the paper" not in {row[2] for row in table.rows}


def test_the_table_of_variances_has_a_dash_where_there_is_one_of_a_kind():
    parts = pd.DataFrame(
        [
            {
                "model": "ML", "group": "HS", "people": 24, "seeds": 1, "folds": 3, "mean_mm": 1.0,
                "sd_people_mm": 0.5, "sd_seeds_mm": np.nan, "sd_folds_mm": 0.0,
                "sd_rest_mm": np.nan, "se_people_mm": 0.1021, "se_seeds_mm": np.nan,
            }
        ]
    )  # fmt: skip
    (row,) = variance_table(parts, ["simulated"]).rows
    assert row == ("ML", "HS", "24", "1", "3", "0.500", DASH, "0.000", DASH, "0.102", DASH)
    assert variance_table(parts, ["simulated"]).notes[0] == "simulated"
