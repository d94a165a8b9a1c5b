"""Does the pipeline treat groups alike? Intensities by group: raw, matched and scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.progress import track

from arguments import main, read_arguments
from landmarking.cohort.records import ScanRecord
from landmarking.cohort.tree import read_cohort, read_people
from landmarking.config import PROJECT
from landmarking.geometry import Array
from landmarking.imaging.intensity import match_histogram, scaled
from landmarking.imaging.pipeline import (
    PreprocessSettings,
    extract_slice,
    histogram_reference,
    template_slice,
)
from landmarking.imaging.scan import load_scan
from landmarking.imaging.symmetry import Mask

DARK = 0.05
"""Air lies below this share of a slice's 99th percentile."""

WAYS = ("none", "matched", "scaled")


@dataclass
class GroupsBenchmark:
    """What to measure.

    Attributes:
        phantoms: A cohort of phantoms as `prepare.py cohort=phantom` leaves it.
        people: Folder that holds ds000011 and ds002748; skipped where it is absent.
        count: Scans of a group.
    """

    phantoms: str = "outputs/cohorts/phantom-demo"
    people: str = "../shared/people"
    count: int = 24


def run(arguments: list[str]) -> str:
    """Measure every group in every way.

    Args:
        arguments: `key=value` for the fields of `GroupsBenchmark`.

    Returns:
        A table in Markdown, a row a group and way.

    Raises:
        ConfigError: If a key is unknown or a value has the wrong type.
    """
    chosen = read_arguments(GroupsBenchmark, arguments)
    scans: list[tuple[str, ScanRecord]] = []
    skipped = []
    phantoms, people = Path(PROJECT / chosen.phantoms), Path(PROJECT / chosen.people)
    if phantoms.is_dir():
        scans += [(f"phantom {scan.group}", scan) for scan in read_cohort(phantoms).scans]
    else:
        skipped.append(f"phantoms: skipped, there is no folder {chosen.phantoms}")
    if people.is_dir():
        scans += [(scan.scan_id.split("_")[0], scan) for scan in read_people(people).scans]
    else:
        skipped.append(f"people: skipped, there is no folder {chosen.people}")
    kept = [
        pair
        for group in dict.fromkeys(name for name, _ in scans)
        for pair in [each for each in scans if each[0] == group][: chosen.count]
    ]
    rows = [
        row for group, scan in track(kept, "scans", transient=True) for row in _rows(group, scan)
    ]
    return "\n".join([*_table(rows), *skipped])


def _rows(group: str, scan: ScanRecord) -> list[dict[str, str | float]]:
    settings = PreprocessSettings()
    reference = histogram_reference(settings)
    white, fluid = _regions(settings)
    raw = extract_slice(load_scan(scan.image), settings).image
    dark = raw < DARK * np.percentile(raw, 99.0)
    rows: list[dict[str, str | float]] = []
    images = (raw, match_histogram(raw, reference), scaled(raw))
    for way, image in zip(WAYS, images, strict=True):
        region = reference.region
        floor, top = float(image.min()), float(np.percentile(image[region], 99.0))
        values = (image - floor) / (top - floor)
        rows.append(
            {
                "group": group,
                "way": way,
                "outside": 100.0 * float(dark[region].mean()),
                "lifted": 100.0 * float((values[dark] > 2.0 * DARK).mean()),
                "correlation": float(np.corrcoef(image[region], reference.image[region])[0, 1]),
                "white": float(np.median(values[white])),
                "fluid": float(np.median(values[fluid])),
            }
        )
    return rows


def _regions(settings: PreprocessSettings) -> tuple[Mask, Mask]:
    """Pixels that are white matter, or fluid, in the template: so in most people, not in all."""
    share: dict[str, Array] = {
        name: template_slice(settings, name) for name in ("grey", "white", "brain_mask")
    }
    fluid = (share["brain_mask"] > 0.9) & (share["grey"] + share["white"] < 0.2)
    return np.asarray(share["white"] > 0.95), np.asarray(fluid)


def _table(rows: Sequence[dict[str, str | float]]) -> list[str]:
    head = (
        "group", "intensity", "scans", "region outside the brain, %", "air lifted, %",
        "correlation", "white matter, mean (SD)", "fluid, mean (SD)",
    )  # fmt: skip
    lines = [head, ("---",) * len(head)]
    frame = pd.DataFrame(rows)
    for (group, way), part in frame.groupby(["group", "way"], sort=False):
        levels = [
            f"{part[name].mean():.2f} ({part[name].std():.2f})" for name in ("white", "fluid")
        ]
        figures = [f"{part['outside'].mean():.0f}", f"{part['lifted'].mean():.0f}"]
        correlation = f"{part['correlation'].mean():.2f}"
        lines.append((str(group), str(way), str(len(part)), *figures, correlation, *levels))
    return ["| " + " | ".join(line) + " |" for line in lines]


if __name__ == "__main__":
    main(run)
