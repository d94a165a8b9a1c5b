"""Fields of a head: random ones for anatomy and coil, textures, and smooth ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.geometry import Array
from landmarking.phantom.anatomy import Atlas, Volume
from landmarking.phantom.deform import MARGIN, Box, Float32, VoxelMap, basis


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


_SIZE = 64


@dataclass(frozen=True, eq=False)
class Texture:
    """A periodic random field with mean 0 and SD 1.

    Attributes:
        cube: One period and one voxel more, so that look-ups go on across its edge.
        period_mm: Length of the period.
    """

    cube: Volume
    period_mm: float

    def at(self, points_mm: Float32) -> Float32:
        """Values at points of shape (3, N), shape (N,)."""
        return self.cube.at(self._within(points_mm))

    def nearest(self, points_mm: Float32) -> Float32:
        """As `at`, without interpolation: for grain finer than a voxel."""
        points = self._within(points_mm)
        points *= np.float32(1.0 / self.cube.spacing_mm)
        points += np.float32(0.5)
        i, j, k = points.astype(np.int32)
        size = np.int32(_SIZE + 1)
        return np.asarray(self.cube.data.ravel()[(i * size + j) * size + k])

    def _within(self, points_mm: Float32) -> Float32:
        period = np.float32(self.period_mm)
        turns: Float32 = points_mm * (np.float32(1.0) / period)
        np.floor(turns, out=turns)
        turns *= period
        np.subtract(points_mm, turns, out=turns)
        np.maximum(turns, 0.0, out=turns)
        return turns


def texture(rng: np.random.Generator, wavelength_mm: float, width: float = 0.35) -> Texture:
    """Draw a field whose waves have about one length.

    Args:
        rng: Source of chance.
        wavelength_mm: Middle of the band.
        width: SD of the band, as a share of its middle; large values give rougher fields.
    """
    from scipy import fft

    spacing = wavelength_mm / 8.0
    band = _band(width)
    # White noise is white in frequency as well, so that one transform is enough.
    waves = rng.standard_normal((*band.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    waves *= band
    field = fft.irfftn(waves, (_SIZE,) * 3, overwrite_x=True)
    field = np.pad(field / field.std(), (0, 1), mode="wrap")
    return Texture(
        Volume(np.asarray(field, dtype=np.float32), np.zeros(3), spacing), _SIZE * spacing
    )


@lru_cache(maxsize=4)
def _band(width: float) -> Float32:
    """Strength of the waves of a period, shape (S, S, S // 2 + 1); the middle is an eighth."""
    squared = np.fft.fftfreq(_SIZE) ** 2
    half = np.fft.rfftfreq(_SIZE) ** 2
    length = 8.0 * np.sqrt(squared[:, None, None] + squared[:, None] + half)
    band = np.exp(-0.5 * ((length - 1.0) / width) ** 2)
    band[0, 0, 0] = 0.0
    return np.asarray(band, dtype=np.float32)


_PLANES = 8
"""Planes of a block, even; its fields stay near the processor while they are worked on."""


@dataclass(frozen=True, eq=False)
class SlowFields:
    """Fields too smooth to need every voxel.

    Attributes:
        outside: Distance from the brain's hull, mm.
        body: Above zero near face and neck.
        cortex: Where folds are the person's own.
        slow: Texture of the thickness of skull and scalp.
        middle: Texture of muscles and fat.
        fast: Texture of small irregularities.
        ribbon: Texture of the cortex' thickness.
        relief: Texture that is zero where the person's sulci are.
    """

    outside: Float32
    body: Float32
    cortex: Float32
    slow: Float32
    middle: Float32
    fast: Float32
    ribbon: Float32
    relief: Float32


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the layers of one head lie.

    Attributes:
        shells: Distances from the brain at which the layers around it end, mm, shape (7,).
        fields: At every second voxel along each axis, shape (X, Y, Z) each.
        shape: Voxels of the scan.
    """

    shells: Array
    fields: SlowFields
    shape: tuple[int, int, int]

    def blocks(self) -> Iterator[Box]:
        """Boxes that hold all of the head between them; what is left over is air."""
        head = (self.fields.outside < reach_mm(self.shells)) | (self.fields.body > 0.0)
        for first in range(0, self.shape[0], _PLANES):
            box = [slice(first, min(first + _PLANES, self.shape[0]))]
            part = np.any(head[first // 2 : first // 2 + _PLANES // 2 + 1], axis=0)
            for axis in (0, 1):
                found = np.flatnonzero(np.any(part, axis=1 - axis))
                if len(found):
                    end = min(2 * int(found[-1]) + 2, self.shape[axis + 1])
                    box.append(slice(max(2 * int(found[0]) - 2, 0), end))
            if len(box) == 3:
                yield box[0], box[1], box[2]

    def at(self, voxels: Array) -> SlowFields:
        """All fields at voxel indices of shape (N, 3), which need not be whole, shape (N,) each."""
        where = np.asarray(voxels, dtype=np.float64).T / 2.0
        return SlowFields(
            *(
                ndimage.map_coordinates(
                    getattr(self.fields, one.name), where, order=1, mode="nearest"
                )
                for one in fields(SlowFields)
            )
        )

    def block(self, box: Box) -> SlowFields:
        """All fields at every voxel of a box whose first voxels have even numbers, shape (N,)."""
        near = tuple(slice(cut.start // 2, cut.stop // 2 + 1) for cut in box)
        shape = tuple(cut.stop - cut.start for cut in box)
        return SlowFields(
            *(
                _doubled(getattr(self.fields, one.name)[near], shape).ravel()
                for one in fields(SlowFields)
            )
        )


def head_layout(
    atlas: Atlas,
    warp: VoxelMap,
    rng: np.random.Generator,
    skull_mm: float,
    scalp_mm: float,
) -> Layout:
    """Draw the layers and textures of a head, and look all slow fields up.

    Args:
        atlas: Average anatomy.
        warp: Voxels to template.
        rng: Chance of the person.
        skull_mm: Mean thickness of the skull.
        scalp_mm: Mean thickness of the scalp.
    """
    coarse = warp.grid(every=2)
    points = coarse.reshape(3, -1)
    bands = ((60.0, 0.35), (13.0, 0.5), (9.0, 0.5), (9.0, 0.35), (rng.uniform(16.0, 22.0), 0.35))
    textures = [texture(rng, float(length), width) for length, width in bands]
    shells = _shells(rng, skull_mm, scalp_mm)
    outside, body, cortex = atlas.smooth.at(points)
    outside = _with_cisterns(outside, points)
    grid = coarse.shape[1:]

    def near(chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return _with_neighbours(chosen.reshape(grid)).ravel()

    # Most of the voxels are air or deep brain, which need neither folds nor texture.
    folded = np.flatnonzero(near((outside < 1.0) & (cortex > 0.0)))
    head = near((outside < reach_mm(shells)) | (body > 0.0))
    around = np.flatnonzero(head & near(outside > -1.5))
    drawn = np.zeros((5, outside.size), dtype=np.float32)
    where = points[:, around]
    # Muscles run up and down, and so do the seams of fat between them.
    along = where * np.array([[1.0], [1.0], [0.4]], dtype=np.float32)
    # The finer ones have more steps than this grid.
    drawn[0, around] = textures[0].at(where)
    drawn[1, around] = textures[1].nearest(along)
    drawn[2, around] = textures[2].nearest(where)
    where = points[:, folded]
    drawn[3, folded] = textures[3].nearest(where)
    drawn[4, folded] = textures[4].at(where)
    parts = [part.reshape(grid) for part in (outside, body, cortex, *drawn)]
    return Layout(shells, SlowFields(*parts), warp.shape)


def _shells(rng: np.random.Generator, skull_mm: float, scalp_mm: float) -> Array:
    """Distances from the brain, mm, at which the layers from fluid to skin end."""
    skull = skull_mm * float(np.exp(0.2 * rng.normal()))
    scalp = scalp_mm * float(np.exp(0.25 * rng.normal()))
    return np.cumsum([1.8, 0.9, 0.35 * skull, 0.3 * skull, 0.35 * skull, 0.75 * scalp, 2.0])


def reach_mm(shells: Array) -> float:
    """Distance from the brain beyond which an uneven skin is not met."""
    return float(1.4 * shells[-1] + 2.0)


def _with_neighbours(chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The chosen voxels and the 26 about each: all that a linear look-up may ask for."""
    for axis in range(chosen.ndim):
        wider = chosen.copy()
        source, target = chosen.swapaxes(0, axis), wider.swapaxes(0, axis)
        target[1:] |= source[:-1]
        target[:-1] |= source[1:]
        chosen = wider
    return chosen


def _with_cisterns(outside: Float32, points: Float32) -> Float32:
    """Distance from the brain, less where fluid keeps the bone away from it."""
    room = np.zeros_like(outside)
    for centre, reach, depth_mm in (((0, 2, -27), 15.0, 6.0), ((0, -68, -62), 12.0, 4.0)):
        offset = points - np.array(centre, dtype=np.float32)[:, None]
        room += depth_mm * np.exp((offset**2).sum(0) * np.float32(-0.5 / reach**2))
    return np.where(outside > 0.5, np.maximum(outside - room, 0.5), outside)


def _doubled(field: Float32, shape: tuple[int, ...]) -> Float32:
    """Linear interpolation of a field at every second voxel to all of them, edges going on."""
    for axis, size in enumerate(shape):
        out = np.empty((*field.shape[:axis], size, *field.shape[axis + 1 :]), dtype=np.float32)
        # Views with this axis in front; memory stays in the order of the voxels.
        values, filled = field.swapaxes(0, axis), out.swapaxes(0, axis)
        even, between = filled[::2], filled[1::2]
        even[:] = values[: len(even)]
        inner = min(len(between), len(values) - 1)
        np.add(values[:inner], values[1 : inner + 1], out=between[:inner])
        between[:inner] *= np.float32(0.5)
        between[inner:] = values[-1]
        field = out
    return field
