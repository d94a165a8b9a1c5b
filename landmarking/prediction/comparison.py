"""Predictions against truth, in the plane and in space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from landmarking.errors import LandmarkError
from landmarking.geometry import Array, SliceGeometry
from landmarking.landmarks import landmark_set, read_landmarks


@dataclass(frozen=True)
class Miss:
    """Error of one landmark of one scan.

    Attributes:
        scan: Name of the scan.
        landmark: Short name.
        in_plane_mm: Distance within the mid-sagittal plane that was found, truth dropped onto it.
        distance_mm: Distance in space; the truth may lie off the plane.
        radius_mm: Confidence radius, or None.
    """

    scan: str
    landmark: str
    in_plane_mm: float
    distance_mm: float
    radius_mm: float | None


def compare(record: Mapping[str, Any], truth: Path) -> list[Miss]:
    """Errors of a scan's landmarks that the truth has too.

    Args:
        record: What `ScanPrediction.record` gives.
        truth: Landmark file, `.mrk.json` or `.fcsv`.

    Raises:
        LandmarkError: If the file cannot be read or has no landmark in common.
    """
    rows = record["landmarks"]
    wanted = landmark_set("afids32").subset([row["name"] for row in rows])
    true_mm = wanted.arrange(read_landmarks(truth))
    geometry = SliceGeometry.from_dict(record["slice"])
    errors = [
        _error(str(record["name"]), row, geometry, point)
        for row, point in zip(rows, true_mm, strict=True)
        if np.isfinite(point).all()
    ]
    if not errors:
        raise LandmarkError(
            f"{truth}: none of {', '.join(wanted.names)} is in it; check that it belongs to "
            f"{record['name']}"
        )
    return errors


def _error(scan: str, row: Mapping[str, Any], geometry: SliceGeometry, true_mm: Array) -> Miss:
    offset = np.array(row["world_mm"]) - true_mm
    normal = geometry.plane.normal
    within = offset - (offset @ normal) * normal
    return Miss(
        scan=scan,
        landmark=row["name"],
        in_plane_mm=float(np.linalg.norm(within)),
        distance_mm=float(np.linalg.norm(offset)),
        radius_mm=row["radius_mm"],
    )


def comparison_text(errors: Sequence[Miss]) -> str:
    """A table for people: every landmark, and the mean of each scan and of all."""
    width = max(len("landmark"), *(len(error.scan) for error in errors))
    lines = [f"{'scan':<{width}}  landmark  in plane, mm  in 3-D, mm"]
    if any(error.radius_mm is not None for error in errors):
        lines[0] += "  radius, mm"
    for scan in dict.fromkeys(error.scan for error in errors):
        own = [error for error in errors if error.scan == scan]
        for error in own:
            radius = "" if error.radius_mm is None else f"{error.radius_mm:12.2f}"
            lines.append(
                f"{scan:<{width}}  {error.landmark:<8}{error.in_plane_mm:14.2f}"
                f"{error.distance_mm:12.2f}{radius}"
            )
        lines.append(_mean_line(scan, own, width))
    if len({error.scan for error in errors}) > 1:
        lines.append(_mean_line("all", errors, width))
    return "\n".join(lines)


def _mean_line(scan: str, errors: Sequence[Miss], width: int) -> str:
    plane = float(np.mean([error.in_plane_mm for error in errors]))
    space = float(np.mean([error.distance_mm for error in errors]))
    return f"{scan:<{width}}  {'mean':<8}{plane:14.2f}{space:12.2f}"
