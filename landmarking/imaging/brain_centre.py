"""The brain's centre from its plane of symmetry, by a rough fit of the template at 8 mm.

Mirror pairs about another point give another plane, because hemispheres differ; the outline of a
head moves with its pose, its neck and the field of view, its brain does not. With the plane known,
four numbers are left to try: pitch, size, and the place on the plane.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from landmarking.geometry import Array, apply_affine, rigid_matrix
from landmarking.imaging.levels import Level
from landmarking.imaging.pyramid import Volume, scan_volume, template_level
from landmarking.imaging.registration import MIN_OVERLAP, Fit, about, fit_quality, refine
from landmarking.imaging.scan import Scan
from landmarking.imaging.symmetry import Frame

QUALITY_THRESHOLD = 0.45
"""Correlation at 8 mm below which no brain was recognised; random places reach about 0.3."""

_GRID_MM = 8.0
_PITCHES_DEG = (-24.0, -12.0, 0.0, 12.0, 24.0)
_SIZES = (0.76, 0.86, 0.97)
_ANTERIOR_MM = (-24.0, -12.0, 0.0, 12.0, 24.0)
_SUPERIOR_MM = (-36.0, -24.0, -12.0, 0.0, 12.0, 24.0)
_EVERY = 9
"""One in so many of the template's points is looked at while places are tried."""
_KEEP = 6


def brain_centre(finest: Level, frame: Frame) -> Array | None:
    """Centre of the brain in world RAS mm, shape (3,), or None where no brain is recognised.

    Args:
        finest: The scan's volume and affine.
        frame: Its plane of symmetry, about a point within about 30 mm of the centre.
    """
    volume = scan_volume(Scan(finest.volume, finest.affine, "volume"))
    level = template_level(_GRID_MM)
    starts = _best_places(volume, _places(frame))
    # As in the registration: without stretching, size would be traded for place.
    rigid = sorted((refine(volume, level, start, 6, 6) for start in starts), key=fit_quality)
    free = [refine(volume, level, fit.common_to_world, 12, 12) for fit in rigid[-2:]]
    best: Fit = max(free, key=fit_quality)
    if best.quality < QUALITY_THRESHOLD:
        return None
    return apply_affine(best.common_to_world, level.centre_mm)


def _places(frame: Frame) -> list[Array]:
    """Common-to-world matrices with the template's plane on the plane found."""
    posterior, superior, left = frame.axes
    axes = np.stack([-left, -posterior, superior], axis=1)
    centre = template_level(_GRID_MM).centre_mm
    matrices = []
    for pitch, size, ahead, up in product(_PITCHES_DEG, _SIZES, _ANTERIOR_MM, _SUPERIOR_MM):
        matrix = about(centre, size * axes @ rigid_matrix(pitch, 0.0, 0.0)[:3, :3])
        matrix[:3, 3] += frame.centre_mm + axes @ (0.0, ahead, up) - centre
        matrices.append(matrix)
    return matrices


def _best_places(volume: Volume, matrices: list[Array]) -> list[Array]:
    """The few matrices under which the template correlates best with the scan."""
    level = template_level(_GRID_MM)
    points, template = level.points_mm[::_EVERY], level.values[::_EVERY]
    world = np.concatenate([apply_affine(matrix, points) for matrix in matrices])
    values, inside = (part.reshape(-1, len(points)) for part in volume.sample(world, _GRID_MM))
    share = inside.mean(axis=1)
    count = np.maximum(inside.sum(axis=1, keepdims=True), 1)
    head = (values - (values * inside).sum(axis=1, keepdims=True) / count) * inside
    brain = (template - (template * inside).sum(axis=1, keepdims=True) / count) * inside
    power = np.einsum("ij,ij->i", head, head) * np.einsum("ij,ij->i", brain, brain)
    score = np.einsum("ij,ij->i", head, brain) / np.sqrt(np.maximum(power, 1e-9)) * np.sqrt(share)
    best = np.argsort(-np.where(share < MIN_OVERLAP, -1.0, score), kind="stable")
    return [matrices[index] for index in best[:_KEEP]]
