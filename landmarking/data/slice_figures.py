"""Figures of a slice for quality control that need its pixels or its scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from landmarking.geometry import Array, SliceGeometry, apply_affine


def intensity_figures(
    raw: NDArray[np.float32],
    matched: NDArray[np.float32],
    reference: NDArray[np.float32],
    brain: NDArray[np.bool_],
) -> dict[str, float]:
    """Intensity statistics of a slice.

    Args:
        raw: Slice as resampled, shape (H, W).
        matched: The same after histogram matching, shape (H, W).
        reference: Slice that it was matched to, shape (H, W); of a mean reference any shape.
        brain: Where the brain of a slice is, shape (H, W).

    Returns:
        Mean, standard deviation and percentiles of the raw slice in the scan's own units; its
        relative variation (SD over mean); the correlation with the reference within the brain,
        where the reference is a slice.
    """
    low, middle, high = np.percentile(raw, [1, 50, 99])
    mean, deviation = float(raw.mean(dtype=np.float64)), float(raw.std(dtype=np.float64))
    figures = {
        "raw_mean": mean,
        "raw_sd": deviation,
        "raw_p01": float(low),
        "raw_p50": float(middle),
        "raw_p99": float(high),
        "raw_variation": deviation / mean if mean > 0.0 else float("nan"),
    }
    if matched.shape == reference.shape == brain.shape:
        figures["reference_correlation"] = _correlation(matched[brain], reference[brain])
    return figures


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    if first.size == 0:
        return float("nan")
    a, b = (image.astype(np.float64) - float(image.mean()) for image in (first, second))
    # Sums of NumPy's own, not BLAS, whose last digits follow the number of threads.
    norm = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / norm if norm > 0.0 else float("nan")


def outside_share(geometry: SliceGeometry, shape: Sequence[int], affine: Array) -> float:
    """Share of a slice's pixels that lie outside the scan's field of view, 0 to 1.

    Args:
        geometry: Where the slice lies.
        shape: Voxels of the scan along its three axes.
        affine: Voxel to world RAS mm, shape (4, 4).
    """
    rows, columns = geometry.shape
    y, x = np.mgrid[0:rows, 0:columns]
    voxels = apply_affine(np.linalg.inv(affine), geometry.to_world(np.stack([x, y], axis=-1)))
    inside = (voxels >= -0.5) & (voxels <= np.asarray(shape) - 0.5)
    return float(1.0 - inside.all(axis=-1).mean())
