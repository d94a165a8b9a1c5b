"""The files of a predicted scan: landmarks, table, and one picture to judge it by."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmarking.files import atomic_path, file_sha256, parse_json, write_text
from landmarking.landmarks import write_fcsv, write_markups
from landmarking.prediction.batch import Clock, Outcome, Record, Target, attempt
from landmarking.prediction.predict import FORMAT, ScanPrediction, Section

_FOUND, _LOOK, _PLANE = "#56B4E9", "#E69F00", "#56B4E9"


def draw_prediction(prediction: ScanPrediction, path: Path) -> None:
    """Draw the slice with its landmarks, the plane on two views, and the figures.

    Args:
        prediction: What to draw.
        path: PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.2, 6.4), dpi=110, facecolor="black")
    FigureCanvasAgg(figure)
    _slice(figure.add_axes((0.004, 0.02, 0.52, 0.89)), prediction)
    for bottom, section in zip((0.475, 0.02), prediction.sections, strict=False):
        _section(figure.add_axes((0.528, bottom, 0.25, 0.42)), section)
    _texts(figure, prediction)
    figure.savefig(path, format="png", metadata={"Software": None})


def _slice(axes: Any, prediction: ScanPrediction) -> None:
    axes.imshow(_grey(prediction.image), cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
    axes.axis("off")
    axes.set_autoscale_on(False)
    middle = np.mean([landmark.pixel for landmark in prediction.landmarks], axis=0)
    step_mm = float(np.linalg.norm(prediction.geometry.pixel_to_world[:3, 0]))
    for landmark in prediction.landmarks:
        colour = _LOOK if landmark.flags else _FOUND
        x, y = landmark.pixel
        axes.plot(
            x, y, "+", color=colour, markersize=9, markeredgewidth=1.6, path_effects=_outline()
        )
        if landmark.radius_mm is not None:
            _circle(axes, (x, y), landmark.radius_mm / step_mm, colour)
        away = (landmark.pixel - middle) / max(float(np.linalg.norm(landmark.pixel - middle)), 1e-9)
        axes.annotate(
            landmark.name,
            (x, y),
            xytext=(away[0] * 16, -away[1] * 16),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            ha="center",
            va="center",
            path_effects=_outline(),
        )


def _outline() -> list[Any]:
    """A dark rim, so that names can be read on bright tissue."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.2, foreground="black")]


def _circle(axes: Any, centre: tuple[float, float], radius: float, colour: str) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle(centre, radius, fill=False, edgecolor=colour, linewidth=0.9))


def _section(axes: Any, section: Section) -> None:
    height, width = section.image.shape
    axes.imshow(_grey(section.image), cmap="gray", vmin=0, vmax=1, aspect="equal")
    axes.set_autoscale_on(False)
    axes.axis("off")
    if np.isfinite(section.trace).all():
        axes.plot(*section.trace.T, color=_PLANE, linewidth=1.0)
    axes.set_title(section.title, color="white", fontsize=8, pad=2)
    for x, side, place in ((0.02, "R", "left"), (0.98, "L", "right")):
        axes.text(x * width, 0.06 * height, side, color="white", fontsize=8, ha=place, va="center")


def _texts(figure: Any, prediction: ScanPrediction) -> None:
    figure.text(0.012, 0.955, prediction.name, color="white", fontsize=11, va="center")
    looked = [landmark for landmark in prediction.landmarks if landmark.flags]
    verdict = "nothing flagged" if not (looked or prediction.flags) else "look at it"
    colour = "white" if verdict == "nothing flagged" else _LOOK
    figure.text(0.988, 0.955, verdict, color=colour, fontsize=11, va="center", ha="right")
    text = "\n".join(_table(prediction))
    figure.text(
        0.786, 0.895, text, color="white", fontsize=7.5, va="top", family="DejaVu Sans Mono"
    )
    reasons = [*prediction.flags, *(f"{x.name}: {r}" for x in looked for r in x.flags)]
    lines = [part for reason in reasons for part in textwrap.wrap(reason, 36)]
    figure.text(0.786, 0.05, "\n".join(lines[:14]), color=_LOOK, fontsize=7.5, va="bottom")


def _table(prediction: ScanPrediction) -> list[str]:
    lines = ["mm (RAS)    R     A     S"]
    if prediction.coverage is not None:
        lines[0] += " radius"
    for landmark in prediction.landmarks:
        right, front, up = landmark.world_mm
        line = f"{landmark.name:<7}{right:6.1f}{front:6.1f}{up:6.1f}"
        lines.append(line + ("" if landmark.radius_mm is None else f"{landmark.radius_mm:6.1f}"))
    lines.append("")
    for key, title in (
        ("registration_quality", "registration"),
        ("symmetry_score", "symmetry"),
        ("symmetry_sharpness", "sharpness"),
        ("reference_correlation", "like template"),
    ):
        value = prediction.quality.get(key)
        if isinstance(value, int | float):
            lines.append(f"{title:<14}{value:6.2f}")
    if prediction.coverage is not None:
        lines += [
            "",
            f"radius: {prediction.coverage:.0%}, for people like",
            "those of the calibration",
        ]
    return [*lines, "", *textwrap.wrap(f"model {prediction.model}", 32)]


def _grey(image: NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = np.percentile(image, [1, 99.5])
    return np.asarray(np.clip((image - low) / max(float(high - low), 1e-12), 0.0, 1.0))


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


@dataclass(frozen=True)
class PredictJob:
    """One scan to predict.

    Attributes:
        target: The scan and the names of its results.
        output: Folder of the results.
        sources: The model, as `open_model` takes it.
        model_digest: What decides its positions; a result of another one is made again.
        coverage: Probability of its radii, or None; likewise.
        picture: Whether to draw the picture.
        overwrite: Predict again what is finished.
    """

    target: Target
    output: Path
    sources: tuple[str, ...]
    model_digest: str
    coverage: float | None = None
    picture: bool = True
    overwrite: bool = False

    def path(self, ending: str) -> Path:
        """A file of the scan's results."""
        return self.output / f"{self.target.stem}{ending}"


def finished(job: PredictJob) -> dict[str, Any] | None:
    """The record of a scan whose results are there, of the same bytes and the same model.

    Args:
        job: The scan.
    """
    endings = (MARKUPS, FCSV, PICTURE) if job.picture else (MARKUPS, FCSV)
    record = None if job.overwrite else read_record(job.path(RECORD))
    if record is None or not all(job.path(ending).is_file() for ending in endings):
        return None
    same_model = (record["model_digest"], record["coverage"]) == (job.model_digest, job.coverage)
    return record if same_model and same_bytes(job.target.scan, record) else None


def same_bytes(scan: Path, record: Record) -> bool:
    """Whether a record was made from a scan as it is now."""
    try:
        return bool(record["scan_sha256"] == file_sha256(scan))
    except OSError:
        return False


def predict_job(job: PredictJob) -> Outcome:
    """Predict one scan and write its files.

    Args:
        job: The scan.
    """
    from landmarking.prediction.package import open_model
    from landmarking.prediction.predict import predict_scan

    model = open_model(job.sources)

    def make(clock: Clock) -> Record:
        # Old results must not pass for those of this attempt.
        job.path(RECORD).unlink(missing_ok=True)
        prediction = predict_scan(job.target.scan, model)
        clock.seconds.update({k: v for k, v in prediction.seconds.items() if k != "cpu"})
        return clock.timed(
            "files",
            lambda: write_scan_files(prediction, job.output, job.target.stem, picture=job.picture),
        )

    return attempt(job, make)
