"""The Python of docs/lightning.md runs as it is printed."""

from __future__ import annotations

import re
import shutil
import warnings

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
