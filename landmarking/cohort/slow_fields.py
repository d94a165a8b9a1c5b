"""Fields of a head that are too smooth to be looked up at every voxel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from landmarking.cohort.anatomy import Atlas, Float32
from landmarking.cohort.texture import texture
from landmarking.cohort.warps import Box, VoxelMap
from landmarking.geometry import Array

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
