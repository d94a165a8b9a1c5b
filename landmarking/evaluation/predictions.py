"""The schema of predictions.csv: the only input of tables and figures.

One row per run, scan and landmark, unrounded, with what is true and what was predicted in both
frames: slice pixels (x, y) and the scan's world (RAS mm). Reading recomputes the errors from the
coordinates, so a file that was edited or written wrongly is refused before it reaches a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from landmarking.errors import PredictionsError
from landmarking.evaluation.metrics import radial_error_mm
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
