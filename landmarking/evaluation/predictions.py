"""The schema of predictions.csv: the only input of tables and figures.

One row per run, scan and landmark, unrounded, with what is true and what was predicted in both
frames: slice pixels (x, y) and the scan's world (RAS mm). Reading recomputes the errors from the
coordinates, so a file that was edited or written wrongly is refused before it reaches a table.

Errors are those of the paper's section 3.3: the Euclidean distance between truth and prediction in
mm, and the successful detection rate (SDR), the share of predictions within a radius, itself
included. A missing landmark is NaN and is never counted, neither as a success nor as a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from landmarking.errors import LandmarkError, PredictionsError
from landmarking.files import atomic_path
from landmarking.geometry import Array, SliceGeometry

IDENTITY = (
    "study", "run", "model", "experiment", "seed", "cohort", "cohort_digest", "simulated",
    "split_digest", "group", "participant_id", "scan_id", "landmark",
)  # fmt: skip
"""Columns that say whose prediction a row is."""

TRUTH = ("true_x_px", "true_y_px", "true_r_mm", "true_a_mm", "true_s_mm")
ERRORS = ("off_plane_mm", "error_mm", "mean_error_mm")
PREDICTED = (
    "pred_x_px", "pred_y_px", "mean_x_px", "mean_y_px", "pred_r_mm", "pred_a_mm", "pred_s_mm",
)  # fmt: skip

COLUMNS = (
    *IDENTITY, "true_x_px", "true_y_px", "pred_x_px", "pred_y_px", "mean_x_px", "mean_y_px",
    "true_r_mm", "true_a_mm", "true_s_mm", "pred_r_mm", "pred_a_mm", "pred_s_mm", *ERRORS,
)  # fmt: skip
"""All columns in the order of the file."""

KEY = ("run", "scan_id", "landmark")
"""What makes a row unique."""

_TEXT = tuple(name for name in IDENTITY if name not in ("seed", "simulated"))
_TOLERANCE_MM2 = 1e-3
_WAYS_OUT = "restore the file from a copy, or predict again with the run's model"


@dataclass(frozen=True)
class RunIdentity:
    """What every row of one run shares; the fields are the columns of the same names."""

    study: str
    run: str
    model: str
    experiment: str
    seed: int
    cohort: str
    cohort_digest: str
    simulated: bool
    split_digest: str


@dataclass(frozen=True)
class ScoredScan:
    """Whose slice was predicted, and where the slice lies in the world of its scan."""

    group: str
    participant_id: str
    scan_id: str
    geometry: SliceGeometry


def build_predictions(
    identity: RunIdentity,
    scans: Sequence[ScoredScan],
    landmarks: Sequence[str],
    *,
    true_px: Array,
    true_mm: Array,
    predicted_px: Array,
    mean_px: Array,
) -> pd.DataFrame:
    """Rows of predictions.csv for one run, with all derived columns computed here.

    Args:
        identity: The run.
        scans: The B test scans.
        landmarks: Names of the L landmarks.
        true_px: Slice pixels, shape (B, L, 2); NaN where a landmark is missing.
        true_mm: World RAS mm of the same landmarks in 3-D, shape (B, L, 3); NaN likewise.
        predicted_px: Slice pixels, shape (B, L, 2).
        mean_px: Mean training position of each landmark, slice pixels, shape (L, 2).

    Returns:
        B * L rows, scan by scan, with the columns `COLUMNS`.

    Raises:
        LandmarkError: If shapes do not fit.
        PredictionsError: If a value breaks the schema.
    """
    geometries = [scan.geometry for scan in scans]
    metric = np.array([geometry.px_to_mm for geometry in geometries]).reshape(-1, 2, 2)
    mean = np.broadcast_to(np.asarray(mean_px, np.float64), predicted_px.shape)
    pairs = list(zip(geometries, predicted_px, true_mm, strict=True))
    columns = {
        "true_x_px": true_px[..., 0], "true_y_px": true_px[..., 1],
        "pred_x_px": predicted_px[..., 0], "pred_y_px": predicted_px[..., 1],
        "mean_x_px": mean[..., 0], "mean_y_px": mean[..., 1],
        "off_plane_mm": np.array([geometry.distance_mm(mm) for geometry, _, mm in pairs]),
        "error_mm": radial_error_mm(predicted_px, true_px, metric),
        "mean_error_mm": radial_error_mm(mean, true_px, metric),
    }  # fmt: skip
    predicted_mm = np.array([geometry.to_world(px) for geometry, px, _ in pairs])
    for axis, letter in enumerate("ras"):
        columns[f"true_{letter}_mm"] = true_mm[..., axis]
        columns[f"pred_{letter}_mm"] = predicted_mm[..., axis]
    frame = pd.DataFrame({name: np.asarray(v, np.float64).ravel() for name, v in columns.items()})
    for name in ("group", "participant_id", "scan_id"):
        frame[name] = np.repeat([getattr(scan, name) for scan in scans], len(landmarks))
    frame["landmark"] = np.tile(list(landmarks), len(scans))
    return check_predictions(frame.assign(**vars(identity))[list(COLUMNS)], "predictions")


def write_predictions(path: Path, frame: pd.DataFrame) -> None:
    """Check the rows and write them, unrounded, as a whole.

    Args:
        path: The run's predictions.csv.
        frame: Rows with the columns `COLUMNS`, in any order.

    Raises:
        PredictionsError: If a row breaks the schema; nothing is written then.
    """
    checked = check_predictions(frame, str(path))
    with atomic_path(path) as temporary:
        checked.to_csv(temporary, index=False, lineterminator="\n")


def read_predictions(path: Path) -> pd.DataFrame:
    """Read and check one predictions.csv.

    Args:
        path: The file.

    Returns:
        Rows with the columns `COLUMNS`; text as str, seed as int64, simulated as bool, the rest
        float64 with NaN where the truth is missing.

    Raises:
        PredictionsError: If the file is missing, is no such table, or a row breaks the schema.
    """
    try:
        # As text first: names such as 007 or NA stay names, and floats are parsed exactly.
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise PredictionsError(
            f"{path}: cannot be read as a predictions table ({error}); {_WAYS_OUT}"
        ) from error
    frame = text.copy()
    for name in (set(COLUMNS) - set(IDENTITY)) & set(text.columns):
        # R writes NA, and the logical values in capitals.
        frame[name] = text[name].replace({"": "nan", "NA": "nan"})
    if "simulated" in text:
        spellings = {"True": True, "TRUE": True, "False": False, "FALSE": False}
        frame["simulated"] = text["simulated"].replace(spellings)
    return check_predictions(frame, str(path))


def check_predictions(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """Rows in the schema's order and types, or an error that names the first bad row.

    Args:
        frame: Rows to check.
        source: Where they come from, for the messages.

    Raises:
        PredictionsError: If columns are missing, a value has the wrong type, a key comes twice, or
            an error column does not follow from the coordinates.
    """
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise PredictionsError(
            f"{source}: predictions need the columns {', '.join(missing)}; evaluate the run again"
        )
    if frame.empty:
        raise PredictionsError(f"{source}: no rows; evaluate the run on at least one test group")
    typed = _typed(frame.loc[:, list(COLUMNS)], source)
    _check_rows(typed, source)
    return typed.reset_index(drop=True)


def _typed(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    kinds: dict[str, str] = {name: "float64" for name in COLUMNS if name not in IDENTITY}
    kinds |= {"seed": "int64", **dict.fromkeys(_TEXT, "str")}
    if not frame["simulated"].isin([True, False]).all():
        found = sorted({str(value) for value in frame["simulated"]})
        raise PredictionsError(
            f"{source}: simulated is True or False, found {', '.join(found)}; {_WAYS_OUT}"
        )
    try:
        return frame.astype({**kinds, "simulated": "bool"})
    except (ValueError, TypeError) as error:
        raise PredictionsError(
            f"{source}: a column has the wrong type ({error}); {_WAYS_OUT}"
        ) from error


def _check_rows(frame: pd.DataFrame, source: str) -> None:
    empty = np.zeros(len(frame), dtype=bool)
    for name in _TEXT:
        empty |= (frame[name].isna() | (frame[name].str.strip() == "")).to_numpy(dtype=bool)
    _refuse(frame, empty, source, "a name, group or digest is empty")
    twice = frame.duplicated(list(KEY)).to_numpy()
    _refuse(frame, twice, source, "run, scan and landmark come once each, this row comes again")
    finite = np.isfinite(frame.loc[:, list(PREDICTED)].to_numpy()).all(axis=1)
    _refuse(frame, ~finite, source, "a prediction is not a finite number")
    known = np.isfinite(frame.loc[:, [*TRUTH, *ERRORS]].to_numpy())
    mixed = known.any(axis=1) & ~known.all(axis=1)
    _refuse(frame, mixed, source, "truth and errors are given together or missing together")
    for kind in ("pred", "mean"):
        wrong = _contradicts(frame, kind)
        name = "error_mm" if kind == "pred" else "mean_error_mm"
        _refuse(frame, wrong, source, f"{name} does not follow from the coordinates")


def _contradicts(frame: pd.DataFrame, kind: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    def columns(prefix: str, letters: str, unit: str) -> Array:
        return frame[[f"{prefix}_{letter}_{unit}" for letter in letters]].to_numpy()

    error = frame["error_mm"].to_numpy()
    if kind == "pred":
        # In the plane: Pythagoras takes the distance of the truth from the slice out.
        apart = columns("true", "ras", "mm") - columns("pred", "ras", "mm")
        square = (apart**2).sum(axis=1)
        in_plane = square - frame["off_plane_mm"].to_numpy() ** 2
        wrong = np.abs(error**2 - in_plane) > _TOLERANCE_MM2 * (1.0 + np.sqrt(square))
        return np.asarray(wrong | (error < 0.0))
    # Only pixels are known of the mean position, so the row's own mm per pixel is the measure; an
    # affine registration may scale the two directions differently, hence the factor of two.
    true_px = columns("true", "xy", "px")
    pred_px = np.hypot(*(columns("pred", "xy", "px") - true_px).T)
    expected = np.hypot(*(columns("mean", "xy", "px") - true_px).T) * error / pred_px.clip(1e-9)
    found = frame["mean_error_mm"].to_numpy()
    wrong = (found > 2.0 * expected + 0.01) | (found < 0.5 * expected - 0.01)
    return np.asarray((wrong & (pred_px > 1e-3)) | (found < 0.0))


def _refuse(
    frame: pd.DataFrame,
    bad: np.ndarray[tuple[int], np.dtype[np.bool_]],
    source: str,
    rule: str,
) -> None:
    if not bad.any():
        return
    first = int(np.flatnonzero(bad)[0])
    where = ", ".join(f"{name} {frame.iloc[first][name]}" for name in KEY)
    raise PredictionsError(
        f"{source}: line {first + 2} ({where}): {rule} ({bad.sum()} such rows); {_WAYS_OUT}"
    )


SDR_THRESHOLDS_MM = (1.0, 2.0, 3.0, 4.0, 5.0)
"""Radii of the paper's Table 1."""


def radial_error_mm(predicted: Array, true: Array, px_to_mm: Array) -> Array:
    """In-plane Euclidean distance between predicted and true landmarks.

    Args:
        predicted: Slice pixels (x, y), shape (B, L, 2).
        true: Same shape and frame; NaN where a landmark is missing.
        px_to_mm: In-plane metric of each slice, shape (B, 2, 2), as `SliceGeometry.px_to_mm`: the
            length of `px_to_mm @ pixel_offset` is in the scan's own mm.

    Returns:
        Distance in mm, shape (B, L); NaN where `true` is NaN.

    Raises:
        LandmarkError: If shapes differ or a metric is singular.
    """
    predicted, true, px_to_mm = (np.asarray(a, np.float64) for a in (predicted, true, px_to_mm))
    if predicted.shape != true.shape or predicted.ndim != 3 or predicted.shape[-1] != 2:
        raise LandmarkError(
            f"radial_error_mm takes predicted and true of one shape (B, L, 2), "
            f"got {predicted.shape} and {true.shape}"
        )
    if px_to_mm.shape != (len(true), 2, 2):
        raise LandmarkError(
            f"radial_error_mm takes one (2, 2) metric for each of {len(true)} slices, "
            f"got shape {px_to_mm.shape}"
        )
    if not (np.abs(np.linalg.det(px_to_mm)) > 1e-12).all():
        raise LandmarkError("a slice's pixel-to-mm metric is singular; pixels need a size in mm")
    offset_mm = np.einsum("bij,blj->bli", px_to_mm, predicted - true)
    return np.asarray(np.hypot(offset_mm[..., 0], offset_mm[..., 1]))


def sdr_counts(
    errors_mm: ArrayLike, thresholds_mm: ArrayLike = SDR_THRESHOLDS_MM
) -> tuple[NDArray[np.int64], int]:
    """Hits within each radius, and how many landmarks were scored.

    Args:
        errors_mm: Radial errors in mm, any shape; NaN where there is no truth, infinite where
            the scan came to nothing.
        thresholds_mm: Radii in mm, shape (T,); an error equal to a radius is a hit.

    Returns:
        Hits, shape (T,), and the number of errors that are not NaN.
    """
    errors = np.asarray(errors_mm, dtype=np.float64).ravel()
    errors = errors[~np.isnan(errors)]
    radii = np.asarray(thresholds_mm, dtype=np.float64)
    return (errors[None, :] <= radii[:, None]).sum(axis=1).astype(np.int64), errors.size


def sdr(errors_mm: ArrayLike, thresholds_mm: ArrayLike = SDR_THRESHOLDS_MM) -> Array:
    """Successful detection rate in percent, shape (T,); NaN where nothing was scored.

    Args and masks are those of `sdr_counts`.
    """
    hits, scored = sdr_counts(errors_mm, thresholds_mm)
    if scored == 0:
        return np.full(hits.shape, np.nan)
    return np.asarray(100.0 * hits / scored)


def percent_half_up(hits: int, scored: int, decimals: int = 2) -> str:
    """A percentage from the exact ratio of two counts, rounded half up: 46 of 432 is 10.65.

    Args:
        hits: Successes.
        scored: Trials, above zero.
        decimals: Digits after the point, at least one.

    Raises:
        LandmarkError: If `scored` is not positive or `hits` lies outside 0 to `scored`.
    """
    if scored <= 0 or not 0 <= hits <= scored:
        raise LandmarkError(f"a rate needs 0 <= hits <= scored and scored > 0: {hits} of {scored}")
    unit = 10**decimals
    # Whole numbers all the way: a float would round 0.5 cases by its own error.
    scaled = (2 * int(hits) * 100 * unit + int(scored)) // (2 * int(scored))
    return f"{scaled // unit}.{scaled % unit:0{decimals}d}"


def mean_sd(errors_mm: ArrayLike) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1) in mm of the errors that are finite."""
    errors: NDArray[Any] = np.asarray(errors_mm, dtype=np.float64).ravel()
    errors = errors[np.isfinite(errors)]
    mean = float(errors.mean()) if errors.size else float("nan")
    return mean, float(errors.std(ddof=1)) if errors.size > 1 else float("nan")
