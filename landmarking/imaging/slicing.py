"""A slice cut out of a volume in one interpolation, and tissue maps on its pixels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.errors import ScanError
from landmarking.geometry import Array, SliceGeometry, apply_affine
from landmarking.imaging.scan import Scan, load_scan

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


# Tissue maps of a scan on the pixels of its slice.
#
# Maps of grey matter, white matter and fluid, be they a segmentation or a phantom's own truth, let
# training paint a person's slice anew in other contrasts. They are looked up by world coordinates,
# so their grid may differ from the scan's.


MAPS = ("grey", "white", "fluid", "distance")
"""Maps of a slice: shares of the tissues, 255 for all, and the distance from the brain."""

DISTANCE_STEP_MM, DISTANCE_LOW_MM = 0.25, -20.0
"""A distance of d mm is stored as (d + 20) / 0.25: from -20 mm, deep within, to 43.75 mm."""

_REACH = 12
"""Planes looked at to either side of the slice's, each 2 mm from the next, and pixels beyond it."""


def tissue_maps(files: Sequence[Path], geometry: SliceGeometry) -> NDArray[np.uint8]:
    """Cut tissue maps along a slice.

    Args:
        files: NIfTI files of the shares of grey matter, white matter and fluid, from 0 to 1, or to
            255 where they are whole numbers.
        geometry: Where the slice lies, in the world that the files share with the scan.

    Returns:
        The maps of `MAPS`, shape (4, H, W); all zero where the brain is not met.

    Raises:
        ScanError: If a file cannot be read or holds no shares.
    """
    scans = [load_scan(path) for path in files]
    full = 255.0 if max(float(scan.data.max()) for scan in scans) > 1.0 else 1.0
    for path, scan in zip(files, scans, strict=True):
        if scan.data.min() < 0.0 or scan.data.max() > full:
            raise ScanError(
                f"{path}: a tissue map holds shares from 0 to 1 (or to 255), found "
                f"{scan.data.min():g} to {scan.data.max():g}"
            )
    rows, columns = geometry.shape
    layers = np.arange(-_REACH, _REACH + 1, 2)
    lateral, y, x = np.meshgrid(
        layers,
        np.arange(-_REACH, rows + _REACH),
        np.arange(-_REACH, columns + _REACH),
        indexing="ij",
    )
    world_mm = apply_affine(geometry.pixel_to_world, np.stack([x, y, lateral], axis=-1))
    inner = (len(layers) // 2, slice(_REACH, -_REACH), slice(_REACH, -_REACH))
    brain = np.sum([_sampled(scan, world_mm) for scan in scans], axis=0) >= 0.5 * full
    if not brain.any():
        return np.zeros((len(MAPS), rows, columns), dtype=np.uint8)
    lengths = np.linalg.norm(geometry.pixel_to_world[:3, :2], axis=0)
    distance = _signed_distance(brain, (2.0, float(lengths[1]), float(lengths[0])))[inner]
    shares = [_sampled(scan, world_mm[inner]) * (255.0 / full) for scan in scans]
    code = (distance - DISTANCE_LOW_MM) / DISTANCE_STEP_MM
    return np.asarray(np.rint(np.stack([*shares, code]).clip(0.0, 255.0)), dtype=np.uint8)


def _sampled(scan: Scan, world_mm: Array) -> Array:
    """Linear interpolation at world points, shape (..., 3) to (...); zero outside the volume."""
    voxels = np.moveaxis(apply_affine(np.linalg.inv(scan.affine), world_mm), -1, 0)
    return np.asarray(ndimage.map_coordinates(scan.data, voxels, order=1, mode="constant"))


def _signed_distance(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> Array:
    """Distance from a mask's surface, which lies half a step outside its voxels' centres."""
    half = 0.5 * min(spacing[1:])
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    return np.where(mask, half - inside, outside - half)
