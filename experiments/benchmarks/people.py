"""How far the model is off on real people, beside the raters: `people.py ../shared/people`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from rich.progress import track

from arguments import main, read_arguments
from landmarking.cohort.tree import PEOPLE_GROUPS, raters, read_people
from landmarking.config import PROJECT
from landmarking.errors import ConfigError, ScanError
from landmarking.geometry import Array
from landmarking.landmarks import read_landmarks
from landmarking.prediction.package import open_model
from landmarking.prediction.predict import Prediction, predict_scan

FAILURE_MM = 2.5
"""Errors above it should carry a flag."""


@dataclass
class PeopleBenchmark:
    """What to measure.

    Attributes:
        root: Folder that holds ds000011 and ds002748.
        group: `ten`, of whom nothing was learnt; or `people`, the other 47.
        model: A packed model, its name, or a run; the model that ships by default.
        outputs: Folder of `people-GROUP.csv` and of the picture.
    """

    root: str = "../shared/people"
    group: str = "ten"
    model: str = "default"
    outputs: str = "outputs/benchmarks"


def run(arguments: list[str]) -> str:
    """Predict every scan of the group from its file, and compare in the plane.

    Args:
        arguments: The folder of the scans, then `key=value` for the fields of `PeopleBenchmark`.

    Returns:
        Tables in Markdown, with the paths of the files.

    Raises:
        ConfigError: If a key is unknown, or there is no such group or model.
        CohortError: If scans are missing.
    """
    folder = [argument for argument in arguments if "=" not in argument]
    given = [*(f"root={name}" for name in folder), *(a for a in arguments if "=" in a)]
    chosen = read_arguments(PeopleBenchmark, given, "people")
    if chosen.group not in PEOPLE_GROUPS:
        raise ConfigError(
            f"people.group is one of {', '.join(PEOPLE_GROUPS)}, found {chosen.group!r}"
        )
    if not Path(chosen.root).is_dir():
        return f"skipped: {chosen.root} is not there; docs/people.md says how to get the scans"
    model = open_model((chosen.model,))
    scans = read_people(Path(chosen.root)).select([chosen.group])
    rows, drawn, failed = [], [], []
    for scan in track(scans, "people", transient=True):
        assert scan.landmarks is not None
        truth = read_landmarks(scan.landmarks)
        try:
            found = predict_scan(scan.image, model)
        except ScanError as error:
            failed.append(f"{scan.scan_id}: {error}")
            continue
        drawn.append((scan.scan_id, found, truth))
        rows += _rows(scan.scan_id, found, truth, raters(scan.landmarks))
    frame = pd.DataFrame(rows)
    outputs = PROJECT / chosen.outputs
    outputs.mkdir(parents=True, exist_ok=True)
    table = outputs / f"people-{chosen.group}.csv"
    frame.to_csv(table, index=False, float_format="%.4f")
    picture = outputs / f"people-{chosen.group}.png"
    draw(drawn, picture)
    title = f"{model.name} on {len(drawn)} people of group {chosen.group}, errors in the plane, mm"
    return "\n".join([title, "", summary(frame), "", *failed, str(table), str(picture)])


def _rows(
    scan: str,
    found: Prediction,
    truth: Mapping[str, Array],
    known: dict[str, tuple[int, float]],
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for landmark in found.landmarks:
        if landmark.name not in truth:
            continue
        away = landmark.pixel - found.geometry.to_pixel(truth[landmark.name])
        rows.append(
            {
                "scan": scan,
                "landmark": landmark.name,
                "error_mm": float(np.linalg.norm(found.geometry.px_to_mm @ away)),
                "radius_mm": landmark.radius_mm,
                "flagged": bool(landmark.flags or found.flags),
                "raters": known[landmark.name][0],
                "raters_apart_mm": known[landmark.name][1],
            }
        )
    return rows


def summary(frame: pd.DataFrame) -> str:
    """Errors by landmark beside the raters', in Markdown; all landmarks last."""
    head = ["landmark", "mean", "median", "worst", "raters apart", "within radius, %"]
    lines = [
        "| " + " | ".join([*head, f"over {FAILURE_MM} mm", "of these unflagged"]) + " |",
        "|" + "---|" * (len(head) + 2),
    ]
    parts = [*frame.groupby("landmark", sort=False), ("all", frame)]
    for name, rows in parts:
        error = rows["error_mm"]
        held = rows["radius_mm"].notna() & (error <= rows["radius_mm"].astype(float))
        far = error > FAILURE_MM
        cells = [
            *(f"{value:.2f}" for value in (error.mean(), error.median(), error.max())),
            f"{rows['raters_apart_mm'].mean():.2f}",
            f"{100 * held.mean():.0f}",
            f"{far.sum()}",
            f"{(far & ~rows['flagged']).sum()}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    flagged = frame.groupby("scan")["flagged"].any()
    lines += ["", f"scans with a flag: {flagged.sum()} of {len(flagged)}"]
    return "\n".join(lines)


def draw(people: Sequence[tuple[str, Prediction, Mapping[str, Array]]], path: Path) -> None:
    """Slices with the raters' points (circles) and the model's (crosses)."""
    columns = 5
    count = -(-len(people) // columns)
    figure, axes = plt.subplots(count, columns, figsize=(15, 3.2 * count), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, found, truth) in zip(axes.flat, people, strict=False):
        low, high = np.percentile(found.image, [1, 99.5])
        axis.imshow(found.image, cmap="gray", vmin=low, vmax=high)
        ours = np.array([landmark.pixel for landmark in found.landmarks])
        theirs = np.array([found.geometry.to_pixel(truth[p.name]) for p in found.landmarks])
        axis.scatter(*theirs.T, s=28, facecolors="none", edgecolors="#4cc9f0", linewidths=0.9)
        axis.scatter(*ours.T, s=16, marker="x", color="#ffb703", linewidths=0.9)
        axis.set_xlim(25, 130)
        axis.set_ylim(120, 40)
        axis.set_title(name, fontsize=9)
    figure.suptitle("circles: raters, crosses: model", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main(run)
