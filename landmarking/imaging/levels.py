"""Coarser copies of a volume, and values with gradients at any point of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landmarking.geometry import Array, apply_affine

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Level:
    """One volume of several, from fine to coarse.

    Attributes:
        volume: Intensities, shape (I, J, K), at least two voxels along each axis.
        affine: Voxel index to world RAS mm, shape (4, 4).
    """

    volume: Array
    affine: Array

    @property
    def world_to_voxel(self) -> Array:
        """Inverse of the affine, shape (4, 4)."""
        return np.linalg.inv(self.affine)

    def centres_mm(self) -> Array:
        """World position of every voxel's centre, shape (I, J, K, 3)."""
        grid = np.stack(np.meshgrid(*map(np.arange, self.volume.shape), indexing="ij"), axis=-1)
        return apply_affine(self.affine, grid)


def block_mean(level: Level, factors: Sequence[int]) -> Level:
    """Average blocks of voxels; what does not fill a block at an axis' end is left out.

    Args:
        level: Volume to shrink, any memory order.
        factors: Voxels that become one, per axis.

    Returns:
        The smaller volume, float32 and C-contiguous, with the affine that keeps every block's
        centre where it was.
    """
    volume = level.volume
    # Sums of strided views cost a tenth of a mean over a reshaped array when they walk memory in
    # order; nibabel gives Fortran order, for which the walk starts at the other end.
    axes = (2, 1, 0) if volume.flags.f_contiguous else (0, 1, 2)
    for axis in axes:
        volume = _block_sum(volume, axis, factors[axis])
    scale = np.float32(1.0 / np.prod(factors))
    step = np.diag([*map(float, factors), 1.0])
    # Voxel 0 of the result is centred between voxels 0 and factor - 1.
    step[:3, 3] = (np.asarray(factors) - 1.0) / 2.0
    return Level(np.ascontiguousarray(volume, dtype=np.float32) * scale, level.affine @ step)


def _block_sum(volume: Array, axis: int, factor: int) -> Array:
    if factor == 1:
        return volume
    front = np.moveaxis(volume, axis, 0)
    length = len(front) // factor * factor
    total = front[0:length:factor] + front[1:length:factor]
    for offset in range(2, factor):
        total += front[offset:length:factor]
    return np.moveaxis(total, 0, axis)


def coarser_levels(level: Level, spacings_mm: Sequence[float]) -> list[Level]:
    """Volumes of about the given voxel sizes, each made from the one before.

    Args:
        level: Volume to start from.
        spacings_mm: Voxel sizes to reach, ascending; an axis already coarser is left as it is, and
            none falls below four voxels.

    Returns:
        One level per size, in the same order.
    """
    levels = []
    for spacing in spacings_mm:
        wanted = np.round(spacing / np.linalg.norm(level.affine[:3, :3], axis=0))
        factors = np.maximum(1, np.minimum(wanted, np.array(level.volume.shape) // 4))
        level = block_mean(level, factors.astype(int).tolist())
        levels.append(level)
    return levels


def trilinear(volume: Array, voxels: Array) -> tuple[Array, Array, Mask]:
    """Values and gradients of the trilinear interpolant.

    Args:
        volume: C-contiguous float32, shape (I, J, K).
        voxels: Positions in voxel indices, float32, shape (3, N).

    Returns:
        Values of shape (N,), gradients per voxel of shape (3, N), and a mask of shape (N,): False
        where a position lies outside the volume, whose value means nothing.
    """
    last = np.array(volume.shape)[:, None] - 2
    floor = np.floor(voxels).astype(np.int32)
    inside: Mask = np.all((floor >= 0) & (floor <= last), axis=0)
    floor = np.clip(floor, 0, last).astype(np.int32)
    x, y, z = (voxels - floor).astype(np.float32)
    columns, planes = volume.shape[2], volume.shape[1] * volume.shape[2]
    base = floor[0] * planes + floor[1] * columns + floor[2]
    flat = volume.ravel()
    # Eight neighbours, interpolated along z, then y, then x; the differences met on the way are
    # the gradient.
    edges, rises = [], []
    for corner in (0, columns, planes, planes + columns):
        near = flat.take(base + corner)
        rises.append(flat.take(base + (corner + 1)) - near)
        edges.append(near + z * rises[-1])
    step_front, step_back = edges[1] - edges[0], edges[3] - edges[2]
    front, back = edges[0] + y * step_front, edges[2] + y * step_back
    rise_front = rises[0] + y * (rises[1] - rises[0])
    rise_back = rises[2] + y * (rises[3] - rises[2])
    slopes = [
        back - front,
        step_front + x * (step_back - step_front),
        rise_front + x * (rise_back - rise_front),
    ]
    return front + x * slopes[0], np.stack(slopes), inside
