"""What `pip install` brings: everything the commands need, away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest
from hatchling.builders.wheel import WheelBuilder

from landmarking.config import PROJECT

LARGEST_MB = 15.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    (path,) = WheelBuilder(str(PROJECT)).build(directory=str(folder), versions=["standard"])
    return path


@pytest.fixture(scope="module")
def away(wheel, tmp_path_factory):
    """A folder with the unpacked wheel and nothing else of ours; runs the installed command."""
    folder = tmp_path_factory.mktemp("lab")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "landmarking.cli", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder / "site")},
        )

    return run, folder


def test_the_wheel_is_small_and_brings_configuration_weights_and_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert os.path.getsize(wheel) / 1e6 < LARGEST_MB
    conf = list((PROJECT / "conf").rglob("*.yaml"))
    assert {f"landmarking/conf/{path.relative_to(PROJECT / 'conf')}" for path in conf} <= names
    for name in ("weights/default.zip", "weights/painted.zip", "py.typed", "landmarks.json"):
        assert f"landmarking/{name}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "docs/", "experiments/")) for name in names)
    assert "landmarking/experiments/train.py" in names
    assert "landmarking/experiments/benchmarks/people.py" not in names


def test_away_from_the_checkout_every_command_finds_what_it_needs(away):
    run, folder = away
    told = run("doctor").stdout
    assert f"installed in {folder / 'site' / 'landmarking'}" in told
    assert f" {folder / 'outputs'}, " in told
    assert "AC: anterior commissure" in run("info", "--markdown").stdout
    for name in ("evaluate", "report"):
        composed = run(name, "--cfg", "job", "runs=x")
        assert composed.returncode == 0, composed.stderr
    for name in ("prepare", "train"):
        composed = run(name, "--cfg", "job", "--resolve")
        assert f"\noutputs: {folder / 'outputs'}\n" in f"\n{composed.stdout}", composed.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["site"]
