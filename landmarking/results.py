"""What a trained model says about the test groups, written beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmarking.data.prepared import PreparedCohort
from landmarking.evaluation.metrics import mean_sd
from landmarking.evaluation.predictions import (
    RunIdentity,
    ScoredScan,
    build_predictions,
    read_predictions,
    write_predictions,
)
from landmarking.geometry import Array
from landmarking.models.module import LandmarkModule, predict_points
from landmarking.run_folder import RunFolder
from landmarking.storage import atomic_path


def cohort_images(cohort: PreparedCohort, chosen: NDArray[np.int64]) -> Tensor:
    """Slices of a cohort, not normalised, shape (n, 1, H, W), float32."""
    return torch.from_numpy(np.array(cohort.images[chosen], dtype=np.float32))[:, None]


def write_results(
    folder: RunFolder,
    cohort: PreparedCohort,
    module: LandmarkModule,
    identity: RunIdentity,
    *,
    groups: Sequence[str],
    mean_px: Array,
) -> None:
    """Predict the test groups; write their slices as pictures, then the predictions.

    Args:
        folder: The run's folder; its predictions.csv comes last and marks the run as finished.
        cohort: Slices and truth.
        module: The trained model.
        identity: What every row says about the run.
        groups: Groups to predict.
        mean_px: Mean training position of each landmark, slice pixels, shape (L, 2).

    Raises:
        CohortError: If a group has no slice.
        LandmarkError: If the cohort lacks one of the model's landmarks.
    """
    chosen = cohort.indices(groups)
    columns = [cohort.landmarks.index(name) for name in module.landmarks]
    predicted = predict_points(module, cohort_images(cohort, chosen))
    records = [(cohort.records[i], cohort.geometry(i)) for i in chosen.tolist()]
    frame = build_predictions(
        identity,
        [ScoredScan(r.group, r.participant_id, r.scan_id, where) for r, where in records],
        module.landmarks,
        true_px=cohort.points_px[chosen][:, columns],
        true_mm=cohort.points_mm[chosen][:, columns],
        predicted_px=predicted.numpy().astype(np.float64),
        mean_px=mean_px,
    )
    pictures = {cohort.records[i].scan_id: as_bytes(cohort.images[i]) for i in chosen.tolist()}
    with atomic_path(folder.slices) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **pictures)
    with atomic_path(folder.predictions) as temporary:
        write_predictions(temporary, frame)
        folder.seal(temporary)


def as_bytes(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A slice for the eye, shape (H, W): 0.5 to 99.5 % of its intensities over 256 levels."""
    low, high = np.percentile(image, [0.5, 99.5])
    scaled = np.clip((np.asarray(image, np.float64) - low) / max(high - low, 1e-9), 0.0, 1.0)
    return np.asarray(np.rint(255.0 * scaled), dtype=np.uint8)


def mean_errors(path: Path) -> Mapping[str, tuple[float, float]]:
    """Mean error and the baseline's mean error in mm, by group, of a predictions.csv."""
    frame = read_predictions(path)
    return {
        str(group): (mean_sd(rows["error_mm"])[0], mean_sd(rows["mean_error_mm"])[0])
        for group, rows in frame.groupby("group", sort=False)
    }
