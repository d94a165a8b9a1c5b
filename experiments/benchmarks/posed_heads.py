"""Heads moved by known poses, with noise, uneven brightness and cropped edges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from landmarking.geometry import Array, apply_affine, rigid_matrix

MARGIN_MM = 8.0


@dataclass(frozen=True, eq=False)
class PosedHead:
    """A head as another scan of it could look.

    Attributes:
        volume: Float32, shape (I, J, K), 1 mm voxels.
        affine: Voxel index to world RAS mm, shape (4, 4).
        motion: Rigid map from the world of the original to this one's, shape (4, 4).
    """

    volume: Array
    affine: Array
    motion: Array


def posed_heads(volume: Array, affine: Array, count: int, seed: int) -> Iterator[PosedHead]:
    """Move a head by random poses, to 15 degrees about each axis and 10 mm along each.

    Args:
        volume: The original, shape (I, J, K).
        affine: Voxel index to world RAS mm, shape (4, 4).
        count: Number of poses.
        seed: Decides them all.

    Yields:
        Resampled by cubic splines on a grid that is cropped by up to 24 mm on every side, with a
        bias field of about 15 % (SD) and Rician noise of 2 to 5 % of the bright tissues.
    """
    spline = ndimage.spline_filter(volume.astype(np.float32), order=3, output=np.float32)
    corners = apply_affine(
        affine, np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.shape) - 1)
    )
    low, high = corners.min(axis=0) - MARGIN_MM, corners.max(axis=0) + MARGIN_MM
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        pitch, roll, yaw = rng.uniform(-15.0, 15.0, 3)
        shift = rng.uniform(-10.0, 10.0, 3)
        motion = rigid_matrix(pitch, roll, yaw, shift, (low + high) / 2.0)
        first, last = low + rng.uniform(0.0, 24.0, 3), high - rng.uniform(0.0, 24.0, 3)
        grid = np.eye(4)
        grid[:3, 3] = first
        shape = tuple(int(length) for length in last - first)
        moved = ndimage.affine_transform(
            spline,
            np.linalg.inv(affine) @ np.linalg.inv(motion) @ grid,
            output_shape=shape,
            prefilter=False,
        )
        yield PosedHead(scanned(np.maximum(moved, 0.0), rng), grid, motion)


def scanned(volume: Array, rng: np.random.Generator) -> Array:
    """Add a bias field of about 15 % (SD) and Rician noise of 2 to 5 % of the bright tissues."""
    axes = [np.linspace(-1.0, 1.0, length, dtype=np.float32) for length in volume.shape]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    slope, bend = rng.normal(0.0, 0.18, 3), rng.normal(0.0, 0.06, 6)
    linear = slope[0] * x + slope[1] * y + slope[2] * z
    squares = bend[0] * x * x + bend[1] * y * y + bend[2] * z * z
    products = bend[3] * x * y + bend[4] * y * z + bend[5] * x * z
    biased = volume * np.exp(linear + squares + products).astype(np.float32)
    bright = float(np.percentile(biased[::4, ::4, ::4][biased[::4, ::4, ::4] > biased.mean()], 95))
    noise = np.float32(bright * rng.uniform(0.02, 0.05))
    real, imaginary = rng.standard_normal((2, *volume.shape), dtype=np.float32) * noise
    return np.asarray(np.hypot(biased + real, imaginary), dtype=np.float32)
