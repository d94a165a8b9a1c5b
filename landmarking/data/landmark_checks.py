"""Whether landmarks can belong to the scan that they are filed with."""

from __future__ import annotations

import numpy as np

from landmarking.data.stages import StagedSlice
from landmarking.geometry import Array, apply_affine
from landmarking.imaging.pipeline import (
    MIDSAGITTAL_COMMON,
    PreprocessSettings,
    slice_geometry,
)
from landmarking.landmarks import LandmarkSet
from landmarking.quality import off_plane_mm

FAR_OFF_PLANE_MM = 20.0
"""A landmark farther than this from where the template has it, across the plane, is refused."""

_FRAME_MM = 30.0
"""Mean distance from the template's positions at which another frame is considered."""


def landmark_problem(
    points_mm: Array, landmarks: LandmarkSet, staged: StagedSlice, settings: PreprocessSettings
) -> str | None:
    """The first rule that the landmarks of a scan break, in words; None where they fit.

    Args:
        points_mm: World RAS mm, shape (L, 3), NaN where missing.
        landmarks: What they are.
        staged: The slice of their scan, with the scan's shape and affine.
        settings: What the slice was made with.
    """
    known = np.isfinite(points_mm).all(axis=1)
    if not known.any():
        return f"holds no landmark of the set {landmarks.name} ({', '.join(landmarks.names)})"
    if _looks_mirrored(points_mm, landmarks, staged, settings):
        return (
            "the points look like LPS written as RAS: with x and y turned they lie where the "
            "template has them, as given they do not; correct the file's coordinateSystem"
        )
    outside = [
        name
        for name, inside in zip(landmarks.names, _inside(points_mm, staged), strict=True)
        if not inside
    ]
    if outside:
        return (
            f"{', '.join(outside)} outside the scan's field of view; check that the points "
            "belong to this scan and that the frame is right"
        )
    off = off_plane_mm(staged.geometry, points_mm, landmarks.template_mm)
    worst = int(np.nanargmax(np.abs(off)))
    if abs(off[worst]) > FAR_OFF_PLANE_MM:
        return (
            f"{landmarks.names[worst]} is {abs(off[worst]):.0f} mm off the mid-sagittal plane, "
            f"{FAR_OFF_PLANE_MM:.0f} mm are allowed; check the point, or, where the contact sheet "
            "shows a wrong plane, exclude the scan"
        )
    return None


def _inside(points_mm: Array, staged: StagedSlice) -> list[bool]:
    voxels = apply_affine(np.linalg.inv(staged.scan_affine), points_mm)
    missing = np.isnan(voxels).any(axis=1)
    within = np.all((voxels >= -0.5) & (voxels <= np.array(staged.scan_shape) - 0.5), axis=1)
    return [bool(row) for row in np.asarray(within | missing)]


def _looks_mirrored(
    points_mm: Array, landmarks: LandmarkSet, staged: StagedSlice, settings: PreprocessSettings
) -> bool:
    # Compared in the slice's own frame (pixels, and mm to the left), where the registration has
    # put every head at the same place.
    template = slice_geometry(MIDSAGITTAL_COMMON, np.eye(4), settings)
    expected = apply_affine(np.linalg.inv(template.pixel_to_world), landmarks.template_mm)
    to_slice = np.linalg.inv(staged.geometry.pixel_to_world)

    def mean_distance_mm(points: Array) -> float:
        away = (apply_affine(to_slice, points) - expected) * _frame_mm(settings)
        return float(np.nanmean(np.linalg.norm(away, axis=1)))

    as_given = mean_distance_mm(points_mm)
    turned = mean_distance_mm(points_mm * np.array([-1.0, -1.0, 1.0]))
    return as_given > _FRAME_MM and turned < 0.5 * as_given


def _frame_mm(settings: PreprocessSettings) -> Array:
    return np.array([settings.spacing_mm, settings.spacing_mm, 1.0])
