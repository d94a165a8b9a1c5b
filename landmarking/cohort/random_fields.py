"""Smooth random fields: displacement of anatomy, and bias of a scanner's coil."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from landmarking.cohort.splines import MARGIN, Float32, basis
from landmarking.geometry import Array


@dataclass(frozen=True, eq=False)
class RandomField:
    """Smooth random displacement field on a lattice over the template's world.

    Attributes:
        values: Displacement in mm at the lattice points, shape (3, X, Y, Z).
        origin_mm: World mm of the first lattice point, shape (3,).
        spacing_mm: Distance of lattice points.
    """

    values: Array
    origin_mm: Array
    spacing_mm: float

    def displaced(self, points_mm: Array, steps: int = 2) -> Array:
        """Points, shape (N, 3), after flowing along the field in a number of small steps."""
        points = np.array(points_mm, dtype=np.float64)
        for _ in range(steps):
            at = ((points - self.origin_mm) / self.spacing_mm).T
            move = [
                ndimage.map_coordinates(part, at, order=1, mode="nearest") for part in self.values
            ]
            points += np.stack(move, axis=-1) / steps
        return points

    def scaled(self, factor: float) -> RandomField:
        """The same field with all displacements multiplied."""
        return RandomField(factor * self.values, self.origin_mm, self.spacing_mm)

    def undone(self, points_mm: Array, steps: int = 2) -> Array:
        """Points that `displaced` sends to the given ones, shape (N, 3), to about 1e-4 mm."""
        guess = np.array(points_mm, dtype=np.float64)
        for _ in range(30):
            guess += points_mm - self.displaced(guess, steps)
        return guess


def random_field(
    rng: np.random.Generator,
    low_mm: Array,
    high_mm: Array,
    scales: tuple[tuple[float, float], ...],
    spacing_mm: float = 6.0,
) -> RandomField:
    """Sum of smooth random fields of several scales.

    Args:
        rng: Source of chance.
        low_mm: Lower corner of the box, world mm, shape (3,).
        high_mm: Upper corner, shape (3,).
        scales: Pairs of smoothing length (Gaussian SD, mm) and displacement SD by component (mm).
        spacing_mm: Lattice spacing; well below the smallest smoothing length.
    """
    size = tuple(int(n) for n in np.ceil((high_mm - low_mm) / spacing_mm) + 1)
    values = np.zeros((3, *size))
    for length_mm, sd_mm in scales:
        for axis in range(3):
            noise = ndimage.gaussian_filter(
                rng.standard_normal(size), length_mm / spacing_mm, mode="reflect", truncate=3.0
            )
            values[axis] += sd_mm * noise / max(float(noise.std()), 1e-9)
    return RandomField(values, np.asarray(low_mm, dtype=np.float64), spacing_mm)


@dataclass(frozen=True, eq=False)
class SmoothField:
    """Smooth field over a voxel grid: a cubic spline.

    Attributes:
        along: B-splines of the knots at the voxels of the first axis, shape (I, G).
        across: Values at the knots of the first axis, shape (G, J, K).
    """

    along: Float32
    across: Float32

    def planes(self, first: int = 0, last: int | None = None) -> Float32:
        """Values at planes of the first axis, shape (last - first, J, K)."""
        values: Float32 = np.tensordot(self.along[first:last], self.across, 1)
        return values


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, int, int], voxel_mm: Array, knot_mm: float
) -> SmoothField:
    """Draw a smooth field: normal coefficients, mean 0 and SD near 1.

    Args:
        rng: Source of chance.
        shape: Voxels of the grid.
        voxel_mm: Voxel size, shape (3,).
        knot_mm: Knot distance, near half of the wavelength.
    """
    along, second, third = (
        basis(size, knot_mm / by, int(size * by / knot_mm) + 2 * MARGIN)
        for size, by in zip(shape, voxel_mm, strict=True)
    )
    weights = rng.standard_normal(
        [basis.shape[1] for basis in (along, second, third)], dtype=np.float32
    )
    # A cubic B-spline series of unit noise has variance 0.479 along each axis, on average.
    weights /= np.float32(0.479**1.5)
    return SmoothField(along, np.asarray(second @ weights @ third.T, dtype=np.float32))
