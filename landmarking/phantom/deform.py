"""Smooth invertible maps from the voxels of a head to the template, for landmarks too."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.errors import CohortError
from landmarking.geometry import Array, apply_affine

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


# Smooth invertible maps that carry landmarks: from the voxels of a head to the template.
#
# Images are painted by looking back, from each voxel to the template, so the map is built in that
# direction. Its final form is one cubic B-spline over the voxel grid (`VoxelMap`): an analytic
# function, cheap on a whole grid, with an analytic Jacobian. Landmarks are where this very function
# meets the template's landmarks, so they are exact by construction.


Box = tuple[slice, slice, slice]
_CHUNK = 4096
"""Points carried at once, so that what is computed for them stays near the processor."""


@dataclass(frozen=True, eq=False)
class VoxelMap:
    """Cubic B-spline from voxel indices to template world mm.

    Attributes:
        affine: Part of the map that is linear, shape (4, 4).
        coefficients: Spline coefficients of the rest, mm, shape (3, GI, GJ, GK).
        step: Voxels from one knot to the next, by axis, shape (3,).
        shape: Voxels of the grid.
    """

    affine: Array
    coefficients: Array
    step: Array
    shape: tuple[int, int, int]

    def at(self, voxels: Array) -> Array:
        """Template mm, shape (N, 3), of voxel indices of shape (N, 3), which need not be whole."""
        knots = (voxels / self.step + MARGIN).T
        rest = [
            ndimage.map_coordinates(part, knots, order=3, mode="mirror", prefilter=False)
            for part in self.coefficients
        ]
        moved: Array = apply_affine(self.affine, voxels) + np.stack(rest, axis=-1)
        return moved

    def grid(self, every: int = 1, box: Box | None = None) -> Float32:
        """Template mm at every n-th voxel along each axis, shape (3, I, J, K).

        Args:
            every: Take every n-th voxel.
            box: Part of the grid to take; None takes all.
        """
        cuts = box or (slice(None),) * 3
        bases = [basis[cut][::every] for basis, cut in zip(self._bases, cuts, strict=True)]
        first, second, third = bases
        knots = self._whole.shape[1:]
        field = first @ self._whole.reshape(3, knots[0], -1)
        field = second @ field.reshape(3, len(first), *knots[1:])
        return np.asarray(field @ third.T, dtype=np.float32)

    @cached_property
    def _bases(self) -> list[Float32]:
        sizes = zip(self.shape, self.step, self.coefficients.shape[1:], strict=True)
        return [basis(*size) for size in sizes]

    @cached_property
    def _whole(self) -> Float32:
        """Coefficients of the whole map: B-splines add up straight lines exactly."""
        lattice = knots(self.shape, self.step)
        linear = np.moveaxis(apply_affine(self.affine, lattice), -1, 0)
        return np.asarray(self.coefficients + linear, dtype=np.float32)

    def jacobian(self, every: int = 2) -> Float32:
        """Volume ratio, subject to template, at every n-th voxel; positive where invertible."""
        sizes = list(zip(self.shape, self.step, self.coefficients.shape[1:], strict=True))
        value = [basis(*size)[::every] for size in sizes]
        slope = [basis(*size, derivative=True)[::every] for size in sizes]
        columns = []
        for axis in range(3):
            bases = [slope[n] if n == axis else value[n] for n in range(3)]
            part = np.einsum(
                "cxyz,ix,jy,kz->cijk",
                self.coefficients.astype(np.float32),
                *bases,
                optimize=True,
            )
            columns.append(part + self.affine[:3, axis].astype(np.float32)[:, None, None, None])
        a, b, c = columns
        volume = np.einsum("cijk,cijk->ijk", a, np.cross(b, c, axis=0))
        return np.asarray(volume / np.linalg.det(self.affine[:3, :3]), dtype=np.float32)

    def inverse(self, points_mm: Array, tolerance_mm: float = 1e-6) -> Array:
        """Voxel indices, shape (N, 3), that the map sends to template points of that shape.

        Raises:
            CohortError: If the search does not settle, which an invertible map does not do.
        """
        voxels = apply_affine(np.linalg.inv(self.affine), points_mm)
        for _ in range(60):
            miss = self.at(voxels) - points_mm
            if np.abs(miss).max() < tolerance_mm:
                return voxels
            slope = np.stack(
                [(self.at(voxels + h) - self.at(voxels - h)) / 0.02 for h in 0.01 * np.eye(3)],
                axis=-1,
            )
            move = np.linalg.solve(slope, miss[..., None])[..., 0]
            # Long steps may leave the region where the linear picture holds.
            length = np.linalg.norm(move, axis=-1, keepdims=True)
            voxels = voxels - move * np.minimum(1.0, 4.0 / np.maximum(length, 1e-12))
        raise CohortError(f"a phantom's warp cannot be undone: {np.abs(miss).max():.3g} mm remain")


def knots(shape: tuple[int, int, int], step: Array) -> Array:
    """Voxel indices of the knots that a `VoxelMap` needs, shape (GI, GJ, GK, 3)."""
    axes = [
        (np.arange(int(np.ceil((size - 1) / by)) + 2 * MARGIN + 1) - MARGIN) * by
        for size, by in zip(shape, step, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def fit_voxel_map(
    affine: Array, targets_mm: Array, step: Array, shape: tuple[int, int, int]
) -> VoxelMap:
    """Spline that meets given template points at the knots.

    Args:
        affine: Linear part, voxel to template mm, shape (4, 4).
        targets_mm: Template mm at `knots(shape, step)`, shape (GI, GJ, GK, 3).
        step: Voxels from knot to knot, shape (3,).
        shape: Voxels of the grid.
    """
    rest = targets_mm - apply_affine(affine, knots(shape, step))
    coefficients = np.stack(
        [ndimage.spline_filter(rest[..., axis], order=3, mode="mirror") for axis in range(3)]
    )
    return VoxelMap(affine, coefficients, np.asarray(step, dtype=np.float64), shape)


def landmark_flow(
    points_mm: Array,
    start_mm: Array,
    end_mm: Array,
    *,
    lengths_mm: tuple[float, ...] = (14.0, 45.0),
    weights: tuple[float, ...] = (0.5, 0.5),
    noise_mm: float = 0.15,
    steps: int = 4,
) -> Array:
    """Carry points along with landmarks that move from start to end in small steps.

    Each step interpolates the landmarks' displacement by a sum of Gaussian kernels (kriging), a
    smooth map close to the identity; the composition stays invertible where one large step would
    fold. Away from all landmarks nothing moves.

    Args:
        points_mm: Points to carry, shape (N, 3).
        start_mm: Landmarks, shape (L, 3).
        end_mm: Where they go, shape (L, 3).
        lengths_mm: Gaussian SDs of the kernels.
        weights: Their weights, with sum one.
        noise_mm: Landmarks are met to about this distance, which keeps neighbours from tearing.
        steps: Number of steps.

    Returns:
        Carried points, shape (N, 3).
    """
    points = np.array(points_mm, dtype=np.float64)
    motion: Any = (end_mm - start_mm) / steps
    scale = max(float(np.mean(np.sum((end_mm - start_mm) ** 2, axis=-1))), 1e-6)
    for step in range(steps):
        at = start_mm + step * motion
        gram = _kernel(at, at, lengths_mm, weights).astype(np.float64)
        gram[np.diag_indices(len(at))] += noise_mm**2 / scale
        pull = np.linalg.solve(gram, motion)
        for start in range(0, len(points), _CHUNK):
            part = points[start : start + _CHUNK]
            part += _kernel(part, at, lengths_mm, weights) @ pull.astype(np.float32)
    return points


def _kernel(
    points: Array, centres: Array, lengths_mm: tuple[float, ...], weights: tuple[float, ...]
) -> Float32:
    a, b = points.astype(np.float32), centres.astype(np.float32)
    squared = a @ (-2.0 * b.T)
    squared += (a * a).sum(-1)[:, None]
    squared += (b * b).sum(-1)
    np.maximum(squared, 0.0, out=squared)
    total = np.zeros_like(squared)
    for length, weight in zip(lengths_mm, weights, strict=True):
        bell = squared * np.float32(-0.5 / length**2)
        np.exp(bell, out=bell)
        bell *= np.float32(weight)
        total += bell
    return total
