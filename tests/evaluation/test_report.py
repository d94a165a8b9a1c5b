import csv
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from landmarking.errors import ConfigError, PredictionsError
from landmarking.evaluation.charts import house_style
from landmarking.evaluation.report import (
    ReportConfig,
    compute_results,
    draw_figures,
    format_tables,
    render_page,
    run_report,
)
from landmarking.evaluation.study import load_study
from screenshots import Browser, find_chromium

# A report's files: complete, and the same bytes every time.


GOLDEN = Path(__file__).parent / "golden"
SHELL = Path(__file__).parents[2] / "experiments" / "report.py"
MISSING = (("sub-DS00_ses-01", "AC"), ("sub-DS01_ses-01", "AC"))
QUICK = {"resamples": 100, "permutations": 100}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_fresh_process_writes_the_same_bytes(reported, tmp_path):
    folder, console = reported

    done = subprocess.run(
        [
            sys.executable,
            SHELL,
            f"runs={GOLDEN}",
            "output=again",
            "resamples=100",
            "permutations=100",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == console.replace(str(folder), "again")
    first, second = contents(folder), contents(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_everything_that_was_promised_is_there(reported):
    folder, _ = reported

    names = set(contents(folder))

    tables = ("table1", "landmarks", "models", "groups")
    figures = ("figure3_landmarks", "figure4_ds", "figure5_hs", "figure6_examples")
    more = ("error_curves", "error_ellipses", "learning_curves")
    assert names == {
        "index.html",
        "tables/tables.tex",
        "tables/landmark_sdr.md",
        "tables/landmark_sdr.tex",
        "tables/space.csv",
        "tables/space.md",
        "tables/space.tex",
        *(f"tables/{name}.{suffix}" for name in tables for suffix in ("csv", "md", "tex")),
        *(f"figures/{name}.{suffix}" for name in (*figures, *more) for suffix in ("png", "pdf")),
    }


def test_the_console_shows_table_1_and_ends_with_paths(reported):
    folder, console = reported

    lines = console.splitlines()
    assert "Made from simulated phantom heads" in console
    assert [line.split()[:3] for line in lines if line.startswith("ML          DS")] == [
        ["ML", "DS", "this"],
        ["ML", "DS", "the"],
    ]
    assert lines[-3:] == [
        f"tables:  {folder / 'tables'}",
        f"figures: {folder / 'figures'}",
        f"page:    {folder / 'index.html'}",
    ]


def test_csv_is_unrounded_and_holds_the_papers_rows(reported):
    folder, _ = reported

    with (folder / "tables" / "table1.csv").open() as file:
        rows = list(csv.DictReader(file))

    ours = next(r for r in rows if r["source"] == "this study" and r["model"] == "ML")
    assert ours["mean_mm"] == "4.791666666666667"
    assert ours["n"] == "6"
    paper = next(r for r in rows if r["source"] == "the paper" and r["group"] == "HS")
    assert (paper["model"], paper["n"], paper["hits_3mm"]) == ("ML", "696", "433")
    assert paper["sdr_3mm_percent"] == "62.22"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_the_latex_of_a_whole_report_compiles(reported, tmp_path):
    folder, _ = reported
    shutil.copytree(folder / "tables", tmp_path / "tables")

    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"],
        cwd=tmp_path / "tables",
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-2000:]


def test_two_studies_are_put_side_by_side(make_study, tmp_path):
    other = make_study("other", names=("AC", "PC"), slices=False).write()

    console = run_report(
        ReportConfig(compare=[str(GOLDEN), str(other)], output=str(tmp_path / "both"), **QUICK)
    )

    assert {"studies.md", "differences.csv", "tables.tex"} <= set(contents(tmp_path / "both"))
    assert "golden - other" in console
    assert console.endswith(str(tmp_path / "both"))


def test_a_comparison_lands_beside_the_first_study(make_study):
    folders = [make_study(name, names=("AC",), slices=False).write() for name in ("a", "b")]

    console = run_report(ReportConfig(compare=[str(folder) for folder in folders], **QUICK))

    assert console.endswith(str(folders[0].parent / "a-vs-b"))


@pytest.mark.parametrize(
    ("knobs", "missing_figures"),
    [
        ({"people": {"real": 1}, "sd_px": {"ML": 1.0}}, set()),
        ({"people": {"HS": 3, "DS": 2}, "missing": MISSING}, {"figure4_ds"}),
        ({"people": {"a/b <x>": 2, "HS": 2}, "sd_px": {"SL": 1, "my_net &": 2, "0": 0}}, set()),
    ],
    ids=["one person", "a group without truth", "odd names"],
)
def test_unusual_studies_have_all_tables_and_figures(make_study, knobs, missing_figures):
    study = load_study(make_study(names=("AC",), **knobs).write())
    config = ReportConfig(runs="unused", **QUICK)

    results = compute_results(study, config)
    shown = format_tables(study, results)
    with house_style():
        drawn = {drawing.name for drawing in draw_figures(study, results)}

    assert {"table1", "landmarks", "landmark_sdr"} <= {table.name for table in shown}
    assert all(len(row) == len(table.header) for table in shown for row in table.rows)
    # Figures 3 and 6, curves, ellipses, learning curves, and bars for each group with truth.
    several = {"model_errors"} if study.frame["model"].nunique() > 2 else set()
    bars = len(study.frame["group"].unique()) - len(missing_figures)
    assert len(drawn - several) == 5 + bars
    assert several <= drawn
    assert not drawn & missing_figures


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"runs": "a", "compare": ["a", "b"]},
        {"compare": ["a"]},
        {"runs": "a", "permutations": 0},
    ],
)
def test_settings_without_sense_are_refused(knobs):
    with pytest.raises(ConfigError, match="report: "):
        ReportConfig(**knobs)


def test_nothing_is_written_when_there_is_nothing_to_report(tmp_path):
    with pytest.raises(PredictionsError, match="no finished run"):
        run_report(ReportConfig(runs=str(tmp_path / "none"), output=str(tmp_path / "out")))

    assert not (tmp_path / "out").exists()


# The report page: what it says, that it needs nothing else, and how it behaves in a browser.


QUICK_PAGE = ReportConfig(runs="unused", resamples=100, permutations=100)


@pytest.fixture(scope="module")
def page(reported):
    return reported[0] / "index.html"


class Outline(HTMLParser):
    """Tags that stand open, ids, and links, of a page."""

    void = frozenset({"meta", "link", "img", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.unbalanced = [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values[name] for name in ("href", "src") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)


def test_the_page_is_whole_and_needs_nothing_else(page):
    outline = Outline()
    outline.feed(page.read_text())

    assert outline.unbalanced == []
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    outside = [link for link in outline.links if not link.startswith(("data:", "#"))]
    assert outside == []
    inside = {link[1:] for link in outline.links if link.startswith("#")}
    assert inside <= set(outline.ids)
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]*|http-equiv", "", page.read_text())


def test_the_page_says_that_it_is_simulated_before_any_number(page):
    text = page.read_text()

    assert text.index("simulated phantom heads, not from people") < text.index("<table")
    assert "scans of people" not in text
    notes = text.count("Made from simulated phantom heads, not from people: no clinical result.")
    tables = set(re.findall(r'data-name="(\w+)"', text)) - {"runs", "provenance"}
    assert notes == len(tables) == 6


def test_real_cohorts_carry_no_such_banner(make_study):
    folder = make_study(names=("AC",), simulated=False, slices=False).write()
    study = load_study(folder)

    tables = format_tables(study, compute_results(study, QUICK_PAGE))
    text = render_page(study, tables, [])

    assert "imulated" not in text
    assert "scans of people" in text


def test_provenance_is_told_and_escaped(page):
    text = page.read_text()

    for words in (
        "0123456789abcdef0123456789abcdef01234567",
        "torch 2.13.0",
        "wall_time_s",
        "a1b2c3d4e5f6",
        "0f1e2d3c4b5a",
        "a &lt;processor&gt; &amp; co",
    ):
        assert words in text
    assert "<processor>" not in text


def test_the_worst_predictions_of_every_landmark_come_with_their_slices(page):
    worst = page.read_text().split('<section id="worst">')[1].split("</section>")[0]

    errors = [float(value) for value in re.findall(r"<strong>([\d.]+) mm</strong>", worst)]
    names = re.findall(r"mm</strong> \w+, (\w+)<br>", worst)

    first = list(dict.fromkeys(names))
    each = 16 // len(first)
    assert names == [name for name in first for _ in range(each)]
    for start in range(0, len(errors), each):
        assert errors[start : start + each] == sorted(errors[start : start + each], reverse=True)
    assert worst.count("data:image/png") == 16


@pytest.fixture(scope="module")
def browser():
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with Browser(chromium) as tab:
        yield tab


COLUMN = (
    "Array.from(document.querySelectorAll('table[data-name=table1] tbody tr'))"
    ".map(row => row.cells[4].textContent)"
)
HEAD = "document.querySelector('table[data-name=table1] th:nth-child(5)')"


def means(cells):
    return [float(cell.split()[0]) for cell in cells]


def test_a_click_sorts_and_a_third_restores(page, browser):
    browser.open(page.as_uri())
    before = browser.evaluate(COLUMN)
    orders = []
    for _ in range(3):
        browser.evaluate(f"{HEAD}.querySelector('button').click()")
        orders.append(
            (browser.evaluate(f"{HEAD}.getAttribute('aria-sort')"), browser.evaluate(COLUMN))
        )

    (up, rising), (down, falling), (none, last) = orders

    assert (up, down, none) == ("ascending", "descending", None)
    assert means(rising) == sorted(means(before)) != means(before)
    assert means(falling) == sorted(means(before), reverse=True)
    assert last == before
    assert browser.problems == []


def test_a_link_may_carry_the_order_and_dashes_come_last(page, browser):
    browser.open(page.as_uri() + "#sort=table1:3:descending")

    cells = browser.evaluate(COLUMN.replace("cells[4]", "cells[3]"))

    assert cells[-2:] == ["-", "-"]
    numbers = [int(cell) for cell in cells[:-2]]
    assert numbers == sorted(numbers, reverse=True)
    assert browser.problems == []


CUT_OFF = """
[...document.querySelectorAll(".scroll")]
  .filter(box => box.offsetParent && (box.scrollWidth > box.clientWidth + 1
    || box.scrollHeight > box.clientHeight + 1))
  .map(box => box.getAttribute("aria-label"))
"""
"""Tables of which a part lies beyond their box."""


@pytest.mark.parametrize("width", [390, 400, 800, 1200, 1600])
def test_the_page_fits_its_window_and_shows_every_picture(page, browser, width):
    browser.open(page.as_uri(), width=width)

    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(CUT_OFF) == []
    assert browser.evaluate(
        "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 99)))"
        ".then(all => all.length > 10 && all.every(Boolean))"
    )
    assert browser.problems == []


def test_the_page_prints_whole_on_a4(page, browser):
    browser.open(page.as_uri(), width=680)
    browser.print_view()
    try:
        assert browser.evaluate("document.documentElement.scrollWidth") <= 680
        assert browser.evaluate(CUT_OFF) == []
    finally:
        browser.print_view(False)


def test_the_page_reports_a_broken_script(tmp_path, browser):
    (tmp_path / "broken.html").write_text(
        "<script>missing()</script><script>console.error(1)</script>"
    )

    browser.open((tmp_path / "broken.html").as_uri())

    assert len(browser.problems) >= 2


def test_failed_and_flagged_scans_are_counted_and_failures_are_misses_by_choice(make_study):
    folder = make_study(people={"HS": 4}, slices=False).write()
    for run in folder.glob("*-seed*"):
        (run / "scans.csv").write_text(
            "scan_id,participant_id,group,state,reason\n"
            "sub-HS00_ses-01,sub-HS00,HS,flagged,low symmetry\n"
            "sub-HS90_ses-01,sub-HS90,HS,failed,truncated\n"
        )
    rates = {}
    for failures in ("misses", "left_out"):
        output = folder / failures
        run_report(
            ReportConfig(runs=str(folder), output=str(output), failures=failures, permutations=100)
        )
        table = pd.read_csv(output / "tables" / "table1.csv")
        rates[failures] = table.loc[table["source"] == "this study", "sdr_5mm_percent"]
        page = (output / "tables" / "scans.md").read_text()
        assert "| HS    |     2 |      2 |    0 |       1 |      1 |" in page
        assert "sub-HS90_ses-01: truncated" in page
        assert f"failures={failures}" in page
    assert (rates["misses"] < rates["left_out"]).all()


def test_an_unknown_choice_for_failures_is_refused():
    with pytest.raises(ConfigError, match="failures is one of misses, left_out, found 'ignore'"):
        ReportConfig(runs="x", failures="ignore")
