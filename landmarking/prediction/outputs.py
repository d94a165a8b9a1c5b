"""The files of a predicted scan: landmarks, table, and one picture to judge it by."""

from __future__ import annotations

import json
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmarking.errors import LandmarkError
from landmarking.files import readable, write_text
from landmarking.geometry import Array
from landmarking.imaging.scan import Scan, as_scan, scan_sha256
from landmarking.imaging.transforms import (
    Grid,
    acpc_grid,
    label_map,
    resampled,
    world_to_acpc,
    write_fsl,
    write_itk,
    write_lta,
    write_minc,
    write_volume,
)
from landmarking.landmarks import (
    is_prediction,
    landmark_set,
    read_landmarks,
    write_fcsv,
    write_markups,
)
from landmarking.prediction.batch import (
    Clock,
    Outcome,
    Record,
    Target,
    any_record,
    attempt,
    changed_files,
    read_record,
    refuse_changed,
    remove_results,
    write_set,
)
from landmarking.prediction.predict import POINT_COLUMNS, Prediction, Section

_FOUND, _LOOK, _PLANE = "#56B4E9", "#E69F00", "#56B4E9"


def draw_prediction(prediction: Prediction, path: Path) -> None:
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
    with warnings.catch_warnings():
        # Names in scripts that the font lacks: boxes in the picture, and that is all.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(path, format="png", metadata={"Software": None})


def _slice(axes: Any, prediction: Prediction) -> None:
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


def _texts(figure: Any, prediction: Prediction) -> None:
    # A name is no formula, whatever signs it has.
    plain = {"parse_math": False}
    name = readable(prediction.name)
    figure.text(0.012, 0.955, name, color="white", fontsize=11, va="center", **plain)
    looked = [landmark for landmark in prediction.landmarks if landmark.flags]
    verdict = "nothing flagged" if not (looked or prediction.flags) else "look at it"
    colour = "white" if verdict == "nothing flagged" else _LOOK
    figure.text(0.988, 0.955, verdict, color=colour, fontsize=11, va="center", ha="right")
    text = "\n".join(_table(prediction))
    figure.text(
        0.786,
        0.895,
        readable(text),
        color="white",
        fontsize=7.5,
        va="top",
        family="DejaVu Sans Mono",
        **plain,
    )
    reasons = [*prediction.flags, *(f"{x.name}: {r}" for x in looked for r in x.flags)]
    lines = [part for reason in reasons for part in textwrap.wrap(reason, 36)]
    reason = readable("\n".join(lines[:14]))
    figure.text(0.786, 0.05, reason, color=_LOOK, fontsize=7.5, va="bottom", **plain)


def _table(prediction: Prediction) -> list[str]:
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
MARKUPS = "_desc-auto_landmarks.mrk.json"
FCSV = "_desc-auto_landmarks.fcsv"
PICTURE = "_qc.png"
ACPC = "_space-ACPC_T1w.nii.gz"
LABELS = "_desc-landmarks_dseg.nii.gz"
LABEL_NAMES = "_desc-landmarks_dseg.tsv"
TRANSFORM = "_from-T1w_to-ACPC_xfm"
"""With `.tfm` (ITK, Slicer), `.lta` (FreeSurfer), `.xfm` (MINC) or `.mat` (FSL)."""

MOVED_MM = 0.001
"""A point of a file that was saved again counts as moved by hand above this."""


def write_scan_files(
    prediction: Prediction,
    folder: Path,
    stem: str,
    *,
    picture: bool = True,
    acpc: str | None = None,
    labels: bool = False,
    scan: Scan | None = None,
    bids: bool = False,
) -> dict[str, Any]:
    """Write everything about one scan; see `batch.write_set`.

    Args:
        prediction: What to write.
        folder: Output folder.
        stem: Path of the files within it, without their endings.
        picture: Whether to draw the picture for quality control.
        acpc: `header` or `resample`: also the scan turned to AC-PC, and the turn.
        labels: Also a label map of the landmarks.
        scan: The scan, for `acpc` and `labels`.
        bids: Also what BIDS derivatives have beside: tables of the points and sidecars.

    Returns:
        The record, as it was written.

    Raises:
        ConfigError: If a file of somebody else lies there.
        OSError: If a file cannot be written.
    """
    notes = {landmark.name: _note(landmark, prediction) for landmark in prediction.landmarks}
    points, made = prediction.points_mm, generated_by(prediction.model)
    writers: dict[str, Callable[[Path], object]] = {
        MARKUPS: lambda path: write_markups(path, points, notes, generated_by=made),
        FCSV: lambda path: write_fcsv(path, points, notes, generated_by=made),
    }
    if picture:
        writers[PICTURE] = lambda path: draw_prediction(prediction, path)
    record = prediction.record()
    if labels and scan is not None:
        voxels = Grid(_three(scan.data.shape), scan.affine)
        record["labels"] = {name: number for number, name in enumerate(points, start=1)}
        writers[LABELS] = lambda path: write_volume(path, label_map(points, voxels), voxels.affine)
    if acpc is not None and scan is not None:
        turn = world_to_acpc(points, prediction.plane)
        record["acpc"] = {"how": acpc, "world_to_acpc": turn.tolist()}
        writers |= _acpc_writers(scan, turn, acpc)
    if bids:
        writers |= _bids_writers(prediction, acpc=bool(record.get("acpc")), labels=labels)
    return write_set(folder / stem, RECORD, record, writers)


def _bids_writers(
    prediction: Prediction, *, acpc: bool, labels: bool
) -> dict[str, Callable[[Path], object]]:
    """The points as a table with its sidecar, and the sidecars of images."""
    table, sidecar = bids_endings(prediction.landmark_set)
    source, made = Path(prediction.scan).name, generated_by(prediction.model)
    meaning: dict[str, object] = {
        name: {"Description": text} for name, text in POINT_COLUMNS.items()
    }
    rows = prediction.to_dataframe()
    texts = {
        table: rows.to_csv(sep="\t", na_rep="n/a", index=False, lineterminator="\n"),
        sidecar: _json({**meaning, "SpatialReference": "orig", "Source": source, "By": made}),
    }
    if labels:
        names = "".join(f"{n}\t{name}\n" for n, name in enumerate(prediction.points_mm, start=1))
        texts[LABEL_NAMES] = f"index\tname\n{names}"
        about = "One ball a landmark, numbered as in the table beside it"
        texts[_sidecar(LABELS)] = _json({"Description": about, "SpatialReference": "orig"})
    if acpc:
        frame = "AC at the origin, PC on the y axis behind it, the mid-sagittal plane at x = 0"
        texts[_sidecar(ACPC)] = _json({"SpatialReference": frame, "Source": source, "By": made})
    return {ending: partial(_write, text=text) for ending, text in texts.items()}


def _sidecar(image: str) -> str:
    return image.replace(".nii.gz", ".json")


def _json(body: Mapping[str, object]) -> str:
    return json.dumps(body, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    write_text(path, readable(text))


def bids_endings(landmarks: str, *, acpc: bool = False, labels: bool = False) -> tuple[str, ...]:
    """Endings of the files that are written for BIDS alone.

    Args:
        landmarks: Name of the landmark set, such as `msp8`.
        acpc: Whether there is a turned scan.
        labels: Whether there is a label map.
    """
    ends = [f"_desc-{landmarks}_landmarks.tsv", f"_desc-{landmarks}_landmarks.json"]
    ends += [LABEL_NAMES, _sidecar(LABELS)] if labels else []
    ends += [_sidecar(ACPC)] if acpc else []
    return tuple(ends)


def _acpc_writers(scan: Scan, turn: Array, how: str) -> dict[str, Callable[[Path], object]]:
    voxels = Grid(_three(scan.data.shape), scan.affine)
    zero = np.float32(scan.zero)
    writers: dict[str, Callable[[Path], object]] = {
        f"{TRANSFORM}.tfm": lambda path: write_itk(path, turn),
        f"{TRANSFORM}.xfm": lambda path: write_minc(path, turn),
    }
    if how == "header":
        target = Grid(voxels.shape, turn @ voxels.affine)
        writers[ACPC] = lambda path: write_volume(path, scan.data + zero, target.affine)
    else:
        target = acpc_grid(voxels, turn)
        writers[ACPC] = lambda path: write_volume(
            path, resampled(scan, turn, target) + zero, target.affine
        )
        # Between the voxels of two images; those of a turned header are the scan's own.
        writers[f"{TRANSFORM}.mat"] = lambda path: write_fsl(path, turn, voxels, target)
    writers[f"{TRANSFORM}.lta"] = lambda path: write_lta(path, turn, voxels, target)
    return writers


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    first, second, third = shape
    return first, second, third


def acpc_endings(how: str | None) -> tuple[str, ...]:
    """Endings of the files that `--acpc` adds."""
    if how is None:
        return ()
    kinds = (".tfm", ".xfm", ".lta", *((".mat",) if how == "resample" else ()))
    return (ACPC, *(f"{TRANSFORM}{kind}" for kind in kinds))


def generated_by(model: str) -> str:
    """What files of ours say about where they come from.

    Args:
        model: Name of the model.
    """
    from landmarking import __version__

    return f"landmarking {__version__}, model {model}"


def _of_first_version(stem: Path) -> list[Path]:
    """Landmark files that the first version has written under a manual file's name."""
    record = any_record(stem.with_name(f"{stem.name}{RECORD}"))
    if record is None or record["format"] != 1:
        return []
    names = (f"{stem.name}_landmarks{end}" for end in (".mrk.json", ".fcsv"))
    return [path for name in names if is_prediction(path := stem.with_name(name))]


def _note(landmark: Any, prediction: Prediction) -> str:
    parts = [landmark.title]
    if landmark.radius_mm is not None and prediction.coverage is not None:
        parts.append(f"within {landmark.radius_mm:.1f} mm at {prediction.coverage:.0%}")
    parts += [f"look at it: {reason}" for reason in landmark.flags]
    return "; ".join(parts)


def moved_by_hand(stem: Path, record: Mapping[str, Any]) -> dict[str, Array]:
    """Points that somebody has moved in the landmark files of a scan.

    Args:
        stem: Path of the results without their endings.
        record: The scan's record.

    Returns:
        World RAS mm, shape (3,), by landmark; NaN where it was taken out.

    Raises:
        LandmarkError: If a changed file cannot be read, or both were changed and differ.
    """
    changed = changed_files(stem, RECORD, (MARKUPS, FCSV))
    found: dict[str, Array] = {}
    for ending in (ending for ending in (MARKUPS, FCSV) if changed.get(ending) == "edited"):
        path = stem.with_name(f"{stem.name}{ending}")
        names = [row["name"] for row in record["landmarks"]]
        now = landmark_set("afids32").subset(names).arrange(read_landmarks(path))
        was = np.array([row["world_mm"] for row in record["landmarks"]])
        moved = ~(np.linalg.norm(now - was, axis=1) <= MOVED_MM)
        for name, point in zip(np.array(names)[moved], now[moved], strict=True):
            other = found.setdefault(str(name), point)
            if not np.allclose(other, point, atol=MOVED_MM, equal_nan=True):
                raise LandmarkError(
                    f"{path}: {name} was moved here and, to another place, in the .mrk.json "
                    "beside it; remove one of the two files"
                )
    return found


@dataclass(frozen=True)
class PredictJob:
    """One scan to predict.

    Attributes:
        target: The scan and the names of its results.
        output: Folder of the results.
        sources: The model, as `open_model` takes it.
        made_with: What decides a result, see `LandmarkModel.made_with`; a result that was made
            with something else is made again.
        picture: Whether to draw the picture.
        overwrite: Predict again what is finished.
        allow_scaled: Read scans whose header stretches their voxels.
        acpc: `header` or `resample`: also the scan turned to AC-PC; None leaves it out.
        labels: Also a label map of the landmarks.
        bids: Name of the landmark set if BIDS derivatives are wanted, else empty.
    """

    target: Target
    output: Path
    sources: tuple[str, ...]
    made_with: Mapping[str, Any]
    picture: bool = True
    overwrite: bool = False
    allow_scaled: bool = False
    acpc: str | None = None
    labels: bool = False
    bids: str = ""

    @property
    def endings(self) -> tuple[str, ...]:
        """Endings of the files of the scan's results beside the record."""
        picture = (PICTURE,) if self.picture else ()
        labels = (LABELS,) if self.labels else ()
        turned = acpc_endings(self.acpc)
        tables: tuple[str, ...] = ()
        if self.bids:
            tables = bids_endings(self.bids, acpc=bool(self.acpc), labels=self.labels)
        return (MARKUPS, FCSV, *picture, *labels, *turned, *tables)

    @property
    def stem(self) -> Path:
        """Path of the scan's results without their endings."""
        return self.output / self.target.stem

    def path(self, ending: str) -> Path:
        """A file of the scan's results."""
        return self.output / f"{self.target.stem}{ending}"


def finished(job: PredictJob) -> dict[str, Any] | None:
    """The record of a scan whose results are there, of the same bytes and the same model.

    Args:
        job: The scan.
    """
    record = None if job.overwrite else read_record(job.path(RECORD))
    if record is None:
        return None
    try:
        moved = moved_by_hand(job.stem, record)
    except LandmarkError:
        return None
    # What a person has corrected is finished, also without its picture.
    there = bool(moved) or all(job.path(ending).is_file() for ending in job.endings)
    same_way = record.get("made_with") == job.made_with
    same_turn = job.acpc in (None, record.get("acpc", {}).get("how"))
    if not (there and same_way and same_turn and same_bytes(job.target.scan, record)):
        return None
    return {**record, MOVED: list(moved)}


MOVED = "moved_by_hand"
"""Key of a finished record: landmarks that a person has moved since."""


def same_bytes(scan: Path, record: Record) -> bool:
    """Whether a record was made from a scan as it is now."""
    try:
        return bool(record["scan_sha256"] == scan_sha256(scan))
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
        # Before the work, not after it.
        if (record := read_record(job.path(RECORD))) is not None:
            moved_by_hand(job.stem, record)
        refuse_changed(job.stem, RECORD, job.endings)
        older = _of_first_version(job.stem)
        remove_results(job.stem, RECORD)
        for path in older:
            path.unlink(missing_ok=True)
        prediction = predict_scan(job.target.scan, model, allow_scaled=job.allow_scaled)
        more = job.acpc is not None or job.labels
        clock.seconds.update({k: v for k, v in prediction.seconds.items() if k != "cpu"})
        return clock.timed(
            "files",
            lambda: write_scan_files(
                prediction,
                job.output,
                job.target.stem,
                picture=job.picture,
                acpc=job.acpc,
                labels=job.labels,
                scan=as_scan(job.target.scan, allow_scaled=job.allow_scaled) if more else None,
                bids=bool(job.bids),
            ),
        )

    return attempt(job, make)
