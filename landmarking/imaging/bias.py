"""Slow changes of brightness across a head, and volumes freed from them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from landmarking.geometry import Array
from landmarking.imaging.levels import Level, Mask


def head_mask(level: Level) -> Mask:
    """Voxels that are not air: above 0.3 of the mean of those above the mean.

    Args:
        level: Volume whose background is dark, of 4 to 8 mm voxels, in which noise is averaged out.

    Returns:
        Mask of the volume's shape; empty where the volume does not vary.
    """
    volume = level.volume
    above: Mask = np.greater(volume, volume.mean())
    if not above.any():
        return above
    mask: Mask = np.greater(volume, 0.3 * volume[above].mean())
    return mask


def flattened(fine: Level, coarse: Level, width_mm: float) -> Level:
    """Divide a volume by the local mean of the head's brightness.

    A coil that is brighter on one side makes a symmetric head unequal, and a search for symmetry
    would answer by moving the plane. The mean is symmetric where the head is.

    Args:
        fine: Volume to flatten.
        coarse: Block average of the same volume, from which the mean is taken.
        width_mm: Standard deviation of the Gaussian that the mean is weighted with.

    Returns:
        Volume on the grid of `fine`, about 1 in the head.
    """
    mask = head_mask(coarse).astype(np.float32)
    sigma = width_mm / np.linalg.norm(coarse.affine[:3, :3], axis=0)
    count = _smooth(mask, sigma) + 0.02
    mean = float(coarse.volume[mask > 0].mean())
    field = np.full_like(mask, mean)
    # Where the head ends the mean is one-sided and falls short of the slope; what is left after
    # one division is found by the next.
    for _ in range(3):
        # Far from the head there is nothing to average, and the field stays as it is.
        field *= (_smooth(coarse.volume / field * mask, sigma) + 0.02) / count
    return Level((fine.volume / _upsampled(field, coarse, fine)).astype(np.float32), fine.affine)


def _smooth(volume: Array, sigma: Array) -> Array:
    smooth = ndimage.gaussian_filter(volume, sigma, mode="constant", truncate=3.0)
    return np.maximum(np.asarray(smooth, dtype=np.float32), 0.0)


def _upsampled(field: Array, coarse: Level, fine: Level) -> Array:
    """Linear interpolation from coarse to fine, axis by axis, as three matrix products."""
    matrix = coarse.world_to_voxel @ fine.affine
    for axis, length in enumerate(fine.volume.shape):
        last = field.shape[axis] - 1
        # Blocks keep the axes: a coarse index depends on the fine index of the same axis alone.
        position = np.clip(np.arange(length) * matrix[axis, axis] + matrix[axis, 3], 0, last)
        weights = np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(last + 1)))
        product = np.tensordot(weights.astype(np.float32), field, axes=(1, axis))
        field = np.moveaxis(product, 0, axis)
    return field
