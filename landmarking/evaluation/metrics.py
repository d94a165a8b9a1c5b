"""Radial error and successful detection rate (SDR), with masks.

Definitions of the paper's section 3.3: the Euclidean distance between truth and prediction in mm,
and the share of predictions within a radius. Thresholds are inclusive. A missing landmark is NaN
and is never counted, neither as a success nor as a failure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from landmarking.errors import LandmarkError
from landmarking.geometry import Array

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
        errors_mm: Radial errors in mm, any shape; NaN where there is no truth.
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
    """Mean and sample standard deviation (n - 1) in mm of the errors that are not NaN."""
    errors: NDArray[Any] = np.asarray(errors_mm, dtype=np.float64).ravel()
    errors = errors[~np.isnan(errors)]
    mean = float(errors.mean()) if errors.size else float("nan")
    return mean, float(errors.std(ddof=1)) if errors.size > 1 else float("nan")
