"""Cut a slice out of a volume, in one interpolation from the native voxels."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.geometry import Array, SliceGeometry, apply_affine
from landmarking.imaging.scan import Scan

_MARGIN = 12
"""Voxels kept about the slice for the spline's filter, whose response falls by 3.7 a voxel."""


def sample_slice(scan: Scan, geometry: SliceGeometry) -> NDArray[np.float32]:
    """Intensities of a scan on a slice, by cubic B-splines.

    Where voxels are finer than pixels, each pixel is the mean of a few points spread over its area
    within the plane, so that detail finer than a pixel does not alias. Nothing is averaged across
    the plane.

    Args:
        scan: Scan in its own voxels and world.
        geometry: Where the pixels lie in that world.

    Returns:
        Intensities, float32, shape `geometry.shape`; pixels outside the field of view hold the
        lowest intensity of the scan.
    """
    rows, columns = geometry.shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    offsets = _offsets(scan, geometry)
    to_voxel = np.linalg.inv(scan.affine)
    total = np.zeros(geometry.shape, dtype=np.float64)
    points = [np.stack([x + dx, y + dy], axis=-1) for dx, dy in offsets]
    voxels = [apply_affine(to_voxel, geometry.to_world(part)) for part in points]
    window = _window(np.concatenate([part.reshape(-1, 3) for part in voxels]), scan.data.shape)
    if window is None:
        return np.full(geometry.shape, scan.data.min(), dtype=np.float32)
    coefficients = ndimage.spline_filter(scan.data[window], 3, output=np.float32, mode="mirror")
    start = np.array([part.start for part in window])
    lowest, highest = float(scan.data.min()), float(scan.data.max())
    for part in voxels:
        total += _interpolate(coefficients, part - start, lowest)
    # Splines overshoot beside scalp and air; a scan has no values beyond its own range.
    return np.clip(total / len(offsets), lowest, highest).astype(np.float32)


def _offsets(scan: Scan, geometry: SliceGeometry) -> list[tuple[float, float]]:
    """Points (x, y) within a pixel, in pixels from its centre."""
    pixel_mm = np.linalg.norm(geometry.pixel_to_world[:3, :2], axis=0)
    counts = np.maximum(1, np.ceil(pixel_mm / scan.voxel_mm.min() - 0.1).astype(int))
    spread = [(np.arange(count) + 0.5) / count - 0.5 for count in counts]
    return list(itertools.product(*(values.tolist() for values in spread)))


def _window(voxels: Array, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """The part of the volume that the points touch, or None if they all lie outside."""
    low = np.maximum(np.floor(voxels.min(axis=0)).astype(int) - _MARGIN, 0)
    high = np.minimum(np.ceil(voxels.max(axis=0)).astype(int) + _MARGIN + 1, shape)
    if (high - low < 2).any():
        return None
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _interpolate(coefficients: NDArray[np.float32], voxels: Array, outside: float) -> Array:
    # "mirror" is the boundary that the coefficients were made for; half a voxel beyond the last
    # centre still belongs to that voxel.
    values = ndimage.map_coordinates(
        coefficients, np.moveaxis(voxels, -1, 0), order=3, mode="mirror", prefilter=False
    )
    upper = np.array(coefficients.shape) - 0.5
    inside = ((voxels >= -0.5) & (voxels <= upper)).all(axis=-1)
    return np.where(inside, values, outside)
