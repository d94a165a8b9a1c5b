"""Fixed rules that say which scans and landmarks a person should look at."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from landmarking.geometry import Array, SliceGeometry, apply_affine
from landmarking.imaging.scan import Scan
from landmarking.quality import LOW_MARGIN_MM, crop_margin_mm

LOW_SYMMETRY = 0.6
"""Eq. 1 at the plane below this is lower than on any head that was looked at; see docs."""

LOW_SHARPNESS = 0.01
"""A plane may move by 2 mm at the cost of less than this: it is a guess."""

LARGE_DOUBT_MM = 5.0
"""A radius (or, without calibration, a spread) above this is flagged."""


def scan_flags(quality: Mapping[str, float | str | bool]) -> tuple[str, ...]:
    """Reasons to look at a whole scan.

    Args:
        quality: Figures of the pipeline by name.
    """
    reasons = []
    if quality.get("registration_ok") is False:
        reasons.append(f"registration is doubtful ({_number(quality, 'registration_quality'):.2f})")
    if _number(quality, "symmetry_score") < LOW_SYMMETRY:
        reasons.append(f"symmetry is low ({_number(quality, 'symmetry_score'):.2f})")
    if _number(quality, "symmetry_sharpness") < LOW_SHARPNESS:
        reasons.append("the plane is a guess: symmetry hardly falls beside it")
    if quality.get("notes"):
        reasons.append(str(quality["notes"]))
    return tuple(reasons)


def _number(quality: Mapping[str, float | str | bool], key: str) -> float:
    # NaN compares as false: a figure that is not known flags nothing.
    value = quality.get(key)
    return float(value) if isinstance(value, int | float) else float("nan")


def landmark_flags(
    scan: Scan, geometry: SliceGeometry, points_mm: Array, doubt_mm: Array, what: str
) -> list[tuple[str, ...]]:
    """Reasons to look at single landmarks.

    Args:
        scan: Says where voxels are.
        geometry: Where the slice lies.
        points_mm: World RAS mm, shape (L, 3).
        doubt_mm: Confidence radius, or the heatmap's spread without one, shape (L,).
        what: Which of the two, for the message.

    Returns:
        Reasons by landmark, L of them.
    """
    voxels = apply_affine(np.linalg.inv(scan.affine), points_mm)
    within = (voxels >= -0.5) & (voxels <= np.array(scan.data.shape) - 0.5)
    margins = crop_margin_mm(geometry, points_mm)
    found = []
    for index in range(len(points_mm)):
        reasons = []
        if not within[index].all():
            reasons.append("outside the scan")
        if margins[index] < LOW_MARGIN_MM:
            reasons.append(f"{margins[index]:.1f} mm from the border of the slice")
        if doubt_mm[index] > LARGE_DOUBT_MM:
            reasons.append(f"the model is in doubt ({what} {doubt_mm[index]:.1f} mm)")
        found.append(tuple(reasons))
    return found
