"""Cubic B-splines on the voxels of one axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
MARGIN = 3
"""Knots kept beyond the grid on each side, where the spline's end conditions have died out."""


def basis(size: int, step: float, count: int, *, derivative: bool = False) -> Float32:
    """Cubic B-splines of the knots at all voxels of one axis, shape (size, count)."""
    offset = np.arange(size)[:, None] / step + MARGIN - np.arange(count)[None, :]
    t = np.abs(offset)
    if derivative:
        inner, outer = 1.5 * t * t - 2.0 * t, -0.5 * (2.0 - t) ** 2
        values = np.sign(offset) / step * np.where(t < 1, inner, np.where(t < 2, outer, 0.0))
    else:
        inner, outer = 2.0 / 3.0 - t * t + 0.5 * t**3, (2.0 - t) ** 3 / 6.0
        values = np.where(t < 1, inner, np.where(t < 2, outer, 0.0))
    return values.astype(np.float32)
