"""What a lab's own corrected landmarks give: `tune.py ../shared/people`.

A model that has seen no person goes on with 10 and with 20 of the 47 people, once with landmarks
placed by hand, and once with what the shipped model says of them, the stand-in for predictions that
somebody has looked over. Everybody else of the 47 is tested, by their landmarks placed by hand.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from rich.progress import track

from arguments import main, read_arguments
from landmarking.cohort.bids import Placed, gather
from landmarking.cohort.records import ScanRecord
from landmarking.cohort.tree import read_people
from landmarking.config import PROJECT
from landmarking.errors import ConfigError
from landmarking.geometry import Array
from landmarking.landmarks import landmark_set, read_landmarks
from landmarking.prediction.package import open_model
from landmarking.prediction.predict import Prediction, predict_scan


@dataclass
class TuneBenchmark:
    """What to measure.

    Attributes:
        root: Folder that holds ds000011 and ds002748.
        people: How many are learnt from.
        seed: Of the order in which people are taken.
        epochs: Of each training.
        outputs: Folder of trees and runs.
    """

    root: str = "../shared/people"
    people: list[int] = field(default_factory=lambda: [10, 20])
    seed: int = 0
    epochs: int = 100
    outputs: str = "outputs/benchmarks/tune"


def run(arguments: list[str]) -> str:
    """Tune and test.

    Args:
        arguments: The folder of the scans, then `key=value` for the fields of `TuneBenchmark`.

    Returns:
        Errors in mm, a table in Markdown.

    Raises:
        ConfigError: If a key is unknown, or a training fails.
        CohortError: If scans are missing.
    """
    given = [a if "=" in a else f"root={a}" for a in arguments]
    chosen = read_arguments(TuneBenchmark, given, "tune")
    scans = list(read_people(PROJECT / chosen.root).select(["people"]))
    order = [scans[i] for i in np.random.default_rng(chosen.seed).permutation(len(scans))]
    most = max(chosen.people)
    learnt, tested = order[:most], order[most:]
    shipped = predictions(learnt, "shipped")
    before = predictions(tested, "painted")
    errors = np.concatenate([_errors(before[scan.scan_id], scan) for scan in tested])
    rows = [("none", 0, errors)]
    for truth in ("by hand", "as predicted"):
        for count in chosen.people:
            pairs = [
                (s, s.landmarks if truth == "by hand" else shipped[s.scan_id].points_mm)
                for s in learnt[:count]
            ]
            name = f"{truth.replace(' ', '-')}-{count}"
            rows.append((truth, count, _tuned(chosen, name, pairs, tested)))
    lines = ["| landmarks | people | mean (mm) | median | over 2.5 mm | people tested |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    lines += [
        f"| {truth} | {count} | {e.mean():.2f} | {np.median(e):.2f} | "
        f"{int((e > 2.5).sum())} of {len(e)} | {len(tested)} |"
        for truth, count, e in rows
    ]
    return "\n".join(lines)


def predictions(scans: Sequence[ScanRecord], model: str) -> Mapping[str, Prediction]:
    """What a model says of each scan, by its id."""
    opened = open_model([model])
    every = track(scans, f"{model}: predicting", transient=True)
    return {scan.scan_id: predict_scan(scan.image, opened) for scan in every}


def _errors(found: Prediction, scan: ScanRecord) -> Array:
    """In-plane distance by landmark, mm, of those that were placed."""
    assert scan.landmarks is not None
    truth = landmark_set("msp8").arrange(read_landmarks(scan.landmarks))
    apart = np.array(list(found.points_mm.values())) - truth
    in_plane = apart - (apart @ found.plane.normal)[:, None] * found.plane.normal
    distance = np.linalg.norm(in_plane, axis=1)
    return np.asarray(distance[np.isfinite(distance)])


def _tuned(
    chosen: TuneBenchmark,
    name: str,
    learnt: Sequence[tuple[ScanRecord, Placed]],
    tested: Sequence[ScanRecord],
) -> Array:
    """Errors over all tested people and landmarks after training, mm."""
    folder = (PROJECT / chosen.outputs).resolve()
    tree, links = folder / "trees" / name, folder / "links" / name
    shutil.rmtree(tree, ignore_errors=True)
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir(parents=True)
    gather(tree, "train", [(_linked(links, scan), points) for scan, points in learnt])
    gather(tree, "rest", [(_linked(links, scan), scan.landmarks) for scan in tested])
    words = [
        f"cohort.root={tree}", "cohort.train_groups=[train]", "cohort.test_groups=[rest]",
        "folds=null", "hydra.mode=RUN", "adapt.start=painted", f"outputs={folder}", f"run={name}",
        f"trainer.max_epochs={chosen.epochs}", "overwrite=true",
    ]  # fmt: skip
    script = str(PROJECT / "experiments" / "train.py")
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, script, "experiment=tune", *words], check=False
    )
    if done.returncode:
        raise ConfigError(f"{name}: training failed, see its message; run this again")
    table = pd.read_csv(folder / "tune" / name / "predictions.csv", comment="#")
    return np.asarray(table["error_mm"].dropna(), dtype=float)


def _linked(folder: Path, scan: ScanRecord) -> Path:
    """The scan under a name that no other data set has."""
    link = folder / f"sub-{scan.scan_id.replace('_sub-', 'x').replace('-', '')}_T1w.nii.gz"
    link.symlink_to(scan.image.resolve())
    return link


if __name__ == "__main__":
    main(run)
