"""The page that predict leaves: what stands on it, what it keeps, what a browser makes of it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from landmarking.cli import main
from landmarking.prediction.batch import Outcome, Target
from landmarking.prediction.summary import MARK, all_records, reviewed_scans, write_review
from screenshots import Browser, find_chromium


def record(flags=(), radius=1.0, marks=()):
    landmarks = [
        {"name": "AC", "radius_mm": 0.5, "flags": []},
        {"name": "CUL", "radius_mm": radius, "flags": list(marks)},
    ]
    return {
        "format": 2,
        "scan_sha256": "0",
        "model": "m",
        "flags": list(flags),
        "landmarks": landmarks,
    }


@pytest.fixture
def folder(tmp_path):
    """Three scans with results, one of them in a folder of its own, and one that failed."""
    for name, found in {
        "a": record(),
        "sub-02/b & c": record(radius=7.5, marks=["the model is in doubt (radius 7.5 mm)"]),
        "d": record(flags=["low symmetry"]),
    }.items():
        path = tmp_path / f"{name}_prediction.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found))
        (tmp_path / f"{name}_qc.png").write_bytes(b"")
    return tmp_path


def failed(folder):
    target = Target(Path("x.nii"), "x<script>")
    return [Outcome(target, problem="x.nii: no head; look at <it>")]


class Items(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.scans, self.pictures, self.loads = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "li":
            self.scans.append((values["data-name"], values["data-state"], values["data-radius"]))
        if tag == "img" and values.get("src"):
            self.pictures.append((values["src"], values["loading"]))
        self.loads += [v for k, v in attrs if k in ("src", "href") and v and "://" in v]


def test_every_scan_stands_on_the_page_with_its_state(folder):
    text = write_review(folder, all_records(folder), failed(folder), "some-model").read_text()
    page = Items(text)
    assert page.scans == [
        ("a", "fine", "1.0"),
        ("d", "flagged", "1.0"),
        ("sub-02/b & c", "flagged", "7.5"),
        ("x<script>", "failed", "0.0"),
    ]
    assert page.pictures[-1] == ("sub-02/b%20%26%20c_qc.png", "lazy")
    assert len(page.pictures) == 3
    assert page.loads == [], "nothing comes from elsewhere"
    assert "3 done, of these 2 flagged; 1 failed" in text
    assert "x<script>" not in re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)
    assert "no head; look at &lt;it&gt;" in text
    assert "some-model" in text


def test_scans_without_a_picture_have_none(folder):
    (folder / "a_qc.png").unlink()
    assert [scan.picture for scan in reviewed_scans(folder, all_records(folder))] == [
        "",
        "d_qc.png",
        "sub-02/b%20%26%20c_qc.png",
    ]


def test_a_page_of_ours_is_written_anew_and_another_is_kept(folder):
    path = write_review(folder, all_records(folder), (), "m")
    assert MARK in path.read_text()
    (folder / "d_prediction.json").unlink()
    assert len(Items(write_review(folder, all_records(folder), (), "m").read_text()).scans) == 2
    path.write_text("<html>my own page</html>")
    assert write_review(folder, all_records(folder), (), "m") is None
    assert path.read_text() == "<html>my own page</html>"


def test_a_thousand_scans_are_one_page(tmp_path):
    for number in range(1000):
        (tmp_path / f"s{number:04d}_prediction.json").write_text(json.dumps(record()))
    text = write_review(tmp_path, all_records(tmp_path), (), "m").read_text()
    assert len(Items(text).scans) == 1000
    assert len(text) < 1_000_000


needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium is installed (Debian: apt-get install chromium)"
)

CLICKS = """(() => {
const press = name => new KeyboardEvent("keydown", {key: name, bubbles: true});
const key = name => document.body.dispatchEvent(press(name));
const filter = document.getElementById("filter");
filter.value = "flagged"; filter.dispatchEvent(new Event("input"));
key("j"); key("r"); key("j"); key("a");
let saved; const make = URL.createObjectURL;
URL.createObjectURL = blob => { saved = blob; return make(blob); };
document.getElementById("save").click();
return saved.text();
})()"""


@needs_chromium
def test_a_person_filters_decides_and_saves(folder):
    page = write_review(folder, all_records(folder), failed(folder), "m")
    with Browser(find_chromium()) as tab:
        tab.open(page.as_uri())
        saved = tab.evaluate(CLICKS)
        shown = tab.evaluate("document.getElementById('count').textContent")
        assert tab.problems == []
    assert saved.splitlines()[1:] == [
        "a\tfine\tn/a\tn/a",
        "d\tflagged\treject\tn/a",
        "sub-02/b & c\tflagged\taccept\tn/a",
        "x<script>\tfailed\tn/a\tn/a",
    ]
    assert shown == "2 of 4 shown, 2 decided"


def test_the_state_counts_reviews_and_lists_what_is_open(folder, capsys):
    (folder / "review.tsv").write_text(
        "scan\tstate\treview\tnote\na\tfine\taccept\tn/a\nd\tflagged\treject\tblurred\n"
    )
    assert main(["qc", str(folder), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["scans"], state["flagged"]) == (3, 2)
    assert (state["accepted"], state["rejected"], state["not decided"]) == (1, 1, 1)
    assert list(state["look at"]) == ["sub-02/b & c"]
    assert MARK in (folder / "index.html").read_text()
    (folder / "review.tsv").write_text("a,b\n")
    assert main(["qc", str(folder)]) == 2
    assert "is no review of the page" in capsys.readouterr().err
    assert main(["qc", str(folder / "nothing")]) == 2
