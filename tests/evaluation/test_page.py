"""The report page: what it says, that it needs nothing else, and how it behaves in a browser."""

import re
from html.parser import HTMLParser

import pytest

from landmarking.evaluation.browser import Browser, find_chromium
from landmarking.evaluation.page import render_page
from landmarking.evaluation.report import ReportConfig, compute_results, format_tables
from landmarking.evaluation.runs import load_study

QUICK = ReportConfig(runs="unused", resamples=100, permutations=100)


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
    assert notes == len(tables) == 5


def test_real_cohorts_carry_no_such_banner(make_study):
    folder = make_study(names=("AC",), simulated=False, slices=False).write()
    study = load_study(folder)

    tables = format_tables(study, compute_results(study, QUICK))
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


def test_the_ten_worst_predictions_come_in_order(page):
    worst = page.read_text().split('<section id="worst">')[1].split("</section>")[0]

    errors = [float(value) for value in re.findall(r"<strong>([\d.]+) mm</strong>", worst)]

    assert len(errors) == 10
    assert errors == sorted(errors, reverse=True)
    assert worst.count("data:image/png") == 10


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


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_its_window_and_shows_every_picture(page, browser, width):
    browser.open(page.as_uri(), width=width)

    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(
        "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 99)))"
        ".then(all => all.length > 10 && all.every(Boolean))"
    )
    assert browser.problems == []


def test_the_page_reports_a_broken_script(tmp_path, browser):
    (tmp_path / "broken.html").write_text(
        "<script>missing()</script><script>console.error(1)</script>"
    )

    browser.open((tmp_path / "broken.html").as_uri())

    assert len(browser.problems) >= 2
