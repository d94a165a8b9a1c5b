"""Seconds a scan and of start-up of `landmarking predict`, beside an earlier version's.

Each go is a process of its own on one core, the versions in turn, so that a busy machine disturbs
both alike; what counts is the ratio of the medians.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arguments import main, read_arguments
from landmarking.config import PROJECT
from landmarking.errors import ConfigError, LandmarkingError
from same import checkout

FIGURES = {
    "a scan, s of one core": r"a scan ([\d.]+) s of one core",
    "start-up, s of one core": r"start-up ([\d.]+) s of one core",
    "memory, MiB": r"memory (\d+) MiB",
}


@dataclass
class PredictBenchmark:
    """What to measure.

    Attributes:
        scans: A folder of scans, relative to the project; skipped where it is absent.
        before: Git revision to compare with; empty for this version alone.
        rounds: Goes of each version.
    """

    scans: str = "../shared/people/ds000011"
    before: str = ""
    rounds: int = 3


def run(arguments: list[str]) -> str:
    """Predict the folder with both versions, in turn.

    Args:
        arguments: `key=value` for the fields of `PredictBenchmark`.

    Returns:
        A table in Markdown.

    Raises:
        ConfigError: If a key is unknown, or `before` is no revision.
        LandmarkingError: If a version fails.
    """
    chosen = read_arguments(PredictBenchmark, arguments)
    scans = PROJECT / chosen.scans
    if not scans.is_dir():
        return f"skipped: there is no folder {chosen.scans}"
    if not chosen.before:
        return _table({"now": [_go(PROJECT, scans) for _ in range(chosen.rounds)]})
    try:
        with checkout(chosen.before) as tree:
            goes: dict[str, list[dict[str, float]]] = {chosen.before: [], "now": []}
            for _ in range(chosen.rounds):
                goes[chosen.before].append(_go(tree, scans))
                goes["now"].append(_go(PROJECT, scans))
    except subprocess.CalledProcessError as error:
        raise ConfigError(
            f"before is a revision that git can check out, found {chosen.before!r}"
        ) from error
    return _table(goes)


def _go(tree: Path, scans: Path) -> dict[str, float]:
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["landmarking"].partition(":")
    command = f"import sys; from {module} import {function}; sys.exit({function}())"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", command, "predict", str(scans), "-o", folder, "--timing"],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
        )
    told = done.stdout + done.stderr
    found = {name: re.search(pattern, told) for name, pattern in FIGURES.items()}
    if done.returncode or not all(found.values()):
        raise LandmarkingError(f"{tree}: predict failed: {told[-500:]}")
    return {name: float(match[1]) for name, match in found.items() if match}


def _table(goes: dict[str, list[dict[str, float]]]) -> str:
    lines = ["| | " + " | ".join([*goes, *(["ratio"] if len(goes) > 1 else [])]) + " |"]
    lines += ["|---" * (lines[0].count("|") - 1) + "|"]
    for name in FIGURES:
        values = [[go[name] for go in each] for each in goes.values()]
        cells = [f"{np.median(v):.4g} ({min(v):.4g} to {max(v):.4g})" for v in values]
        if len(values) > 1:
            cells.append(f"{np.median(values[1]) / np.median(values[0]):.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(run)
