"""Axial and coronal views of a scan in its own world, with the trace of the mid-sagittal plane."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from landmarking.geometry import Array, Plane, apply_affine
from landmarking.imaging.scan import Scan
from landmarking.prediction.result import Section

HALF_MM = 110.0
"""The views reach this far from the landmarks' middle."""

_STEP_MM = 1.0


def draw_sections(scan: Scan, plane: Plane, middle_mm: Array) -> tuple[Section, Section]:
    """Cut an axial and a coronal view through a point.

    Args:
        scan: Scan in any voxel order.
        plane: Its mid-sagittal plane.
        middle_mm: World RAS mm that both views go through, shape (3,).

    Returns:
        Views of 1 mm pixels along the scan's own world axes, as a radiologist looks at them: the
        right hand on the left of the picture, front or top upward.
    """
    left, down_axial, down_coronal = np.array([-1.0, 0, 0]), np.array([0, -1.0, 0]), [0, 0, -1.0]
    axial = _section(scan, plane, middle_mm, left, down_axial)
    coronal = _section(scan, plane, middle_mm, left, np.array(down_coronal))
    z, y = middle_mm[2], middle_mm[1]
    return (
        Section(f"axial, S = {z:.0f} mm", *axial),
        Section(f"coronal, A = {y:.0f} mm", *coronal),
    )


def _section(
    scan: Scan, plane: Plane, middle_mm: Array, right: Array, down: Array
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], Array]:
    steps = np.arange(-HALF_MM, HALF_MM + _STEP_MM / 2, _STEP_MM)
    world = middle_mm + steps[None, :, None] * right + steps[:, None, None] * down
    voxels = apply_affine(np.linalg.inv(scan.affine), world)
    image = ndimage.map_coordinates(
        scan.data, np.moveaxis(voxels, -1, 0), order=1, cval=float(scan.data.min())
    )
    return np.asarray(image, np.float32), _trace(plane, middle_mm, right, down, len(steps))


def _trace(plane: Plane, middle_mm: Array, right: Array, down: Array, pixels: int) -> Array:
    """Where the plane crosses the first and the last row of a view, shape (2, 2)."""
    across, along = float(plane.normal @ right), float(plane.normal @ down)
    if abs(across) < 1e-6:
        return np.full((2, 2), np.nan)
    half = (pixels - 1) / 2
    ends = []
    for row in (0.0, pixels - 1.0):
        y_mm = (row - half) * _STEP_MM
        x_mm = -(float(plane.distance_mm(middle_mm)) + along * y_mm) / across
        ends.append((x_mm / _STEP_MM + half, row))
    return np.array(ends)
