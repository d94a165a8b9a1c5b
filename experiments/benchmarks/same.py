"""Whether two versions of the project compute the same: `same.py BEFORE AFTER`, git revisions.

Each version is checked out beside the other and does, with this interpreter: the demo's phantom
cohort, its prepared slices, a run of two epochs with a fixed seed, its report, and a prediction of
a scan. What is compared are results, not notes about them: arrays and texts byte by byte, and
where bytes differ, the largest difference of any number.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = Path(__file__).parents[2]
SCAN = PROJECT.parent / "shared" / "real" / "colin27_T1w.nii.gz"
TOLERANCE = 1e-6

NOTES = {
    *("scan", "model_digest", "version", "seconds", "created", "run", "study", "split_digest"),
    *("cohort_digest", "flags", "doubt_px", "uncertainty_px", "landmarking_version"),
}
"""Keys and columns that name a version, a place or a time, and those that were renamed."""


@dataclass(frozen=True)
class Row:
    """One result of both versions.

    Attributes:
        name: What it is.
        files: Number of files compared.
        equal: Whether all bytes are the same.
        difference: Largest absolute difference of two numbers; infinite where no number of one
            answers a number of the other.
    """

    name: str
    files: int
    equal: bool
    difference: float


def results(tree: Path, outputs: Path, scan: Path) -> dict[str, list[Path]]:
    """Let one version compute everything.

    Args:
        tree: Its checkout.
        outputs: Empty folder of what it writes.
        scan: A T1 scan to predict; left out where it is absent.

    Returns:
        Files of each result, in order.

    Raises:
        CalledProcessError: If a command of the version fails.
    """
    where = f"outputs={outputs}"
    cohort = ("cohort=phantom", "cohort/preset=demo", f"cohort.root={outputs / 'cohort'}")
    _python(tree, "experiments/prepare.py", *cohort, where)
    short = ("trainer.max_epochs=2", "callbacks=default")
    _python(tree, "experiments/train.py", "experiment=demo_ml", *short, *cohort, where)
    _python(tree, "experiments/report.py", f"runs={outputs / 'demo'}")
    found = {
        "phantom scans": sorted((outputs / "cohort").rglob("*_T1w.nii.gz")),
        "phantom landmarks": sorted((outputs / "cohort").rglob("*.mrk.json")),
        "prepared slices": sorted((outputs / "prepared").rglob("images.npy")),
        "predictions.csv": sorted((outputs / "demo").rglob("predictions.csv")),
        "table1.csv": sorted((outputs / "demo").rglob("table1.csv")),
    }
    if scan.exists():
        project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        module, _, function = project["scripts"]["landmarking"].partition(":")
        command = f"import sys; from {module} import {function}; sys.exit({function}())"
        _python(tree, "-c", command, "predict", str(scan), "-o", str(outputs / "predicted"))
        found["prediction of a scan"] = sorted((outputs / "predicted").glob("*_prediction.json"))
    return found


def _python(tree: Path, *arguments: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run(  # noqa: S603
        [sys.executable, *arguments], cwd=tree, env=environment, check=True, stdout=sys.stderr
    )


def compare(name: str, before: list[Path], after: list[Path]) -> Row:
    """Hold the files of one result against each other."""
    if len(before) != len(after) or not before:
        return Row(name, min(len(before), len(after)), False, np.inf)
    pairs = list(zip(before, after, strict=True))
    equal = all(one.read_bytes() == other.read_bytes() for one, other in pairs)
    worst = 0.0 if equal else max(_difference(one, other) for one, other in pairs)
    return Row(name, len(before), equal, worst)


def _difference(before: Path, after: Path) -> float:
    one, other = (list(_values(path)) for path in (before, after))
    if len(one) != len(other):
        return float("inf")
    return max((_apart(a, b) for a, b in zip(one, other, strict=True)), default=0.0)


def _apart(one: Any, other: Any) -> float:
    try:
        first, second = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    except ValueError:
        return 0.0 if one == other else float("inf")
    if first.shape != second.shape or not np.array_equal(np.isnan(first), np.isnan(second)):
        return float("inf")
    return float(np.nanmax(np.abs(first - second), initial=0.0))


def _values(path: Path) -> Iterator[Any]:
    if path.suffix == ".npy":
        yield np.load(path)
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(line for line in file if not line.startswith("#")):
                yield from (value for key, value in sorted(row.items()) if key not in NOTES)
    elif path.suffix == ".json":
        yield from _leaves(json.loads(path.read_text(encoding="utf-8")))
    else:
        yield path.read_bytes().hex()


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key in sorted(value.keys() - NOTES):
            yield from _leaves(value[key])
    elif isinstance(value, list):
        for element in value:
            yield from _leaves(element)
    else:
        yield value


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A revision in a folder of its own; a folder is taken as it is."""
    if Path(revision).is_dir():
        yield Path(revision).resolve()
        return
    git = ["git", "-C", str(PROJECT), "worktree"]
    with tempfile.TemporaryDirectory(prefix="landmarking-") as folder:
        tree = Path(folder) / "tree"
        add = [*git, "add", "--quiet", "--detach", str(tree), revision]
        subprocess.run(add, check=True)  # noqa: S603
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)  # noqa: S603


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| result | files | bytes | largest difference |", "|---|---|---|---|"]
    for row in rows:
        bytes_are = "equal" if row.equal else "differ"
        lines.append(f"| {row.name} | {row.files} | {bytes_are} | {row.difference:.3g} |")
    return "\n".join(lines)


def main() -> None:
    """Compare two revisions; status 1 if a result differs by more than `TOLERANCE`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("before", help="git revision, or folder of a checkout")
    parser.add_argument("after", help="likewise")
    parser.add_argument("--scan", type=Path, default=SCAN, help="T1 scan to predict")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="landmarking-") as folder:
        found = []
        for side in ("before", "after"):
            with checkout(getattr(chosen, side)) as tree:
                found.append(results(tree, Path(folder) / side, chosen.scan))
        one, other = found
        rows = [compare(name, files, other.get(name, [])) for name, files in one.items()]
    print(table(rows))
    if "prediction of a scan" not in one:
        print(f"\nno prediction was compared: {chosen.scan} is not there; --scan names another")
    sys.exit(max(row.difference for row in rows) > TOLERANCE)


if __name__ == "__main__":
    main()
