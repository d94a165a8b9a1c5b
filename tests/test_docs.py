"""What the docs print runs, and what they list is all there is."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shutil
import warnings
from pathlib import Path

import pytest

from landmarking.config import PROJECT
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.preparation.cache import key_settings
from landmarking.training.train import quiet

TEXT = (PROJECT / "docs" / "lightning.md").read_text(encoding="utf-8")


@pytest.fixture
def ran(make_cohort, tmp_path, monkeypatch, capsys):
    """What the printed block leaves behind, in a folder with a small study."""
    cohort = make_cohort(size=32, settings=key_settings(PreprocessSettings()))
    shutil.copytree(cohort.folder, tmp_path / "my-study")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    left: dict = {}
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        exec(compile(code, "docs/lightning.md", "exec"), left)
    return left | {"printed": capsys.readouterr().out}


def test_the_printed_block_trains_tests_predicts_and_loads(ran, tmp_path):
    tests = {"test/HS/error_mm", "test/HS/AC/error_mm", "test/HS/sdr_2mm"}
    assert tests <= set(ran["tested"])
    assert tests | {"train/loss", "val/loss", "val/error_mm", "val/sdr_2mm"} <= set(ran["learnt"])
    assert ran["learnt"]["test/HS/error_mm"] == ran["tested"]["test/HS/error_mm"]
    header = next((tmp_path / "logs").rglob("metrics.csv")).read_text().splitlines()[0].split(",")
    told = {"train/loss", "val/loss", "val/error_mm", "val/AC/error_mm", "val/sdr_2mm"}
    assert told | {"test/DS/error_mm"} <= set(header)
    assert ran["again"].landmarks == ran["module"].landmarks
    assert ran["printed"].count("sub-") == len(ran["data"].cohort.records)
    assert next((tmp_path / "checkpoints").iterdir()).suffix == ".ckpt"


def test_every_feature_of_the_table_has_a_test_that_is_there():
    rows = re.findall(r"^\| .* \| `(\S+)::(\w+)` \|$", TEXT, re.MULTILINE)
    assert len(rows) > 25
    for path, name in rows:
        assert f"def {name}(" in (PROJECT / path).read_text(encoding="utf-8"), f"{path}::{name}"


def table_of(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, PROJECT / "tests" / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("path", "tables"),
    [
        ("imaging/test_inputs_scans.py", ("READ", "REFUSED")),
        ("cohort/test_inputs_landmarks.py", ("READ", "REFUSED")),
        ("cohort/test_inputs_tables.py", ("TABLES", "REFUSED", "TREES")),
    ],
)
def test_the_page_of_inputs_has_every_example_and_its_message(path, tables):
    lines = (PROJECT / "docs" / "inputs.md").read_text(encoding="utf-8").splitlines()
    page, module = " ".join(lines), table_of(path)
    for name in tables:
        for example, row in getattr(module, name).items():
            assert example in page, example
            if name == "REFUSED":
                (said,) = (line for line in lines if line.startswith(f"| {example} |"))
                assert row[-1] in said, example


def test_the_notebook_runs_cell_by_cell_and_says_what_it_shows(capsys):
    notebook = json.loads((PROJECT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    left: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        exec(compile("".join(cell["source"]), "docs/notebook.ipynb", "exec"), left)
        printed = capsys.readouterr().out
        shown = [o["text"] for o in cell["outputs"] if o["output_type"] == "stream"]
        assert printed.split()[:1] == "".join(itertools.chain(*shown)).split()[:1]
    left["plt"].close("all")
    assert len(left["found"].landmarks) == 8
