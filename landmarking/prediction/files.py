"""The files of one scan, and the table of all of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from landmarking.landmarks import write_fcsv, write_markups
from landmarking.prediction.result import FORMAT, ScanPrediction
from landmarking.storage import atomic_path, parse_json, write_text

RECORD = "_prediction.json"
MARKUPS = "_landmarks.mrk.json"
FCSV = "_landmarks.fcsv"
PICTURE = "_qc.png"
TABLE = "landmarks.csv"

COLUMNS = (
    "scan",
    "landmark",
    "x_mm",
    "y_mm",
    "z_mm",
    "x_px",
    "y_px",
    "radius_mm",
    "doubt_px",
    "flagged",
    "flags",
    "model",
    "path",
)
"""Columns of landmarks.csv: world RAS mm, slice pixels, and what to look at."""


def write_scan_files(
    prediction: ScanPrediction, folder: Path, stem: str, *, picture: bool = True
) -> dict[str, Any]:
    """Write everything about one scan; the record comes last and says that the rest is there.

    Args:
        prediction: What to write.
        folder: Output folder.
        stem: Path of the files within it, without their endings.
        picture: Whether to draw the picture for quality control.

    Returns:
        The record, as it was written.

    Raises:
        OSError: If a file cannot be written.
    """
    notes = {landmark.name: _note(landmark, prediction) for landmark in prediction.landmarks}
    write_markups(folder / f"{stem}{MARKUPS}", prediction.points_mm, notes)
    write_fcsv(folder / f"{stem}{FCSV}", prediction.points_mm, notes)
    if picture:
        from landmarking.prediction.picture import draw_prediction

        with atomic_path(folder / f"{stem}{PICTURE}") as temporary:
            draw_prediction(prediction, temporary)
    record = prediction.record()
    write_text(folder / f"{stem}{RECORD}", json.dumps(record, indent=1, allow_nan=False) + "\n")
    return record


def _note(landmark: Any, prediction: ScanPrediction) -> str:
    parts = [landmark.title]
    if landmark.radius_mm is not None and prediction.coverage is not None:
        parts.append(f"within {landmark.radius_mm:.1f} mm at {prediction.coverage:.0%}")
    parts += [f"look at it: {reason}" for reason in landmark.flags]
    return "; ".join(parts)


def read_record(path: Path) -> dict[str, Any] | None:
    """A record of this version, or None where there is none that can be read."""
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


def write_table(folder: Path) -> Path:
    """Write landmarks.csv from the records of all scans in a folder.

    Args:
        folder: Output folder.

    Returns:
        Path of the table.

    Raises:
        OSError: If it cannot be written.
    """
    rows = []
    for path in sorted(folder.rglob(f"*{RECORD}")):
        record = read_record(path)
        if record is not None:
            stem = path.relative_to(folder).as_posix().removesuffix(RECORD)
            rows += table_rows(stem, record)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / TABLE, buffer.getvalue())
    return folder / TABLE


def write_dataset(folder: Path) -> None:
    """Say in dataset_description.json that a folder is a BIDS derivative of ours.

    Args:
        folder: Output folder.

    Raises:
        OSError: If it cannot be written.
    """
    from landmarking import __version__

    description = {
        "Name": "Landmarks on the mid-sagittal plane",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "landmarking", "Version": __version__}],
    }
    write_text(folder / "dataset_description.json", json.dumps(description, indent=1) + "\n")


def table_rows(stem: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of landmarks.csv of one scan, one a landmark, numbers unrounded.

    Args:
        stem: What the scan is called in the table.
        record: What `ScanPrediction.record` gives.
    """
    return [
        {
            "scan": stem,
            "landmark": row["name"],
            **dict(zip(("x_mm", "y_mm", "z_mm"), row["world_mm"], strict=True)),
            **dict(zip(("x_px", "y_px"), row["pixel"], strict=True)),
            "radius_mm": row["radius_mm"],
            "doubt_px": row["doubt_px"],
            "flagged": bool(row["flags"] or record["flags"]),
            "flags": "; ".join(_reasons(row["flags"], record["flags"])),
            "model": record["model"],
            "path": record["scan"],
        }
        for row in record["landmarks"]
    ]


def _reasons(own: Iterable[str], scans: Sequence[str]) -> list[str]:
    return [*own, *(f"scan: {reason}" for reason in scans)]
