"""Fields of a head that are too smooth to be looked up at every voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landmarking.cohort.anatomy import Atlas, Float32
from landmarking.cohort.texture import texture
from landmarking.cohort.warps import VoxelMap
from landmarking.geometry import Array


@dataclass(frozen=True, eq=False)
class SlowFields:
    """Fields too smooth to need every voxel, each of shape (N,), and the layers of the head.

    Attributes:
        shells: Distances from the brain at which the layers around it end, mm, shape (7,).
        outside: Distance from the brain's hull, mm.
        cortex: Where folds are the person's own.
        body: Above zero near face and neck.
        slow: Texture of the thickness of skull and scalp.
        middle: Texture of muscles and fat.
        fast: Texture of small irregularities.
    """

    shells: Array
    outside: Float32
    cortex: Float32
    body: Float32
    slow: Float32
    middle: Float32
    fast: Float32


def slow_fields(
    atlas: Atlas,
    warp: VoxelMap,
    rng: np.random.Generator,
    skull_mm: float,
    scalp_mm: float,
) -> SlowFields:
    """Draw the layers and textures around the brain, and look all slow fields up.

    Args:
        atlas: Average anatomy.
        warp: Voxels to template.
        rng: Chance of the person.
        skull_mm: Mean thickness of the skull.
        scalp_mm: Mean thickness of the scalp.
    """
    coarse = warp.grid(every=2)
    points = coarse.reshape(3, -1)
    textures = (texture(rng, 60.0), texture(rng, 13.0, 0.5), texture(rng, 9.0, 0.5))
    shells = _shells(rng, skull_mm, scalp_mm)
    outside = _with_cisterns(atlas.outside.at(points), points)
    body = atlas.body.at(points)
    grid = coarse.shape[1:]

    def near(chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return _with_neighbours(chosen.reshape(grid)).ravel()

    # Most of the voxels are air or deep brain, which need neither folds nor texture.
    folded = np.flatnonzero(near(outside < 1.0))
    head = near((outside < reach_mm(shells)) | (body > 0.0))
    around = np.flatnonzero(head & near(outside > -1.5))
    cortex, slow, middle, fast = np.zeros((4, outside.size), dtype=np.float32)
    cortex[folded] = atlas.cortex.at(points[:, folded])
    where = points[:, around]
    # Muscles run up and down, and so do the seams of fat between them.
    along = where * np.array([[1.0], [1.0], [0.4]], dtype=np.float32)
    slow[around], fast[around] = textures[0].at(where), textures[2].at(where)
    middle[around] = textures[1].at(along)
    fields = (outside, cortex, body, slow, middle, fast)
    whole = [_doubled(field.reshape(grid), warp.shape).ravel() for field in fields]
    return SlowFields(shells, *whole)


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


def _doubled(field: Float32, shape: tuple[int, int, int]) -> Float32:
    """Linear interpolation of a field at every second voxel to all of them."""
    for axis, size in enumerate(shape):
        out = np.empty((*field.shape[:axis], size, *field.shape[axis + 1 :]), dtype=np.float32)
        # Views with this axis in front; memory stays in the order of the voxels.
        values, filled = field.swapaxes(0, axis), out.swapaxes(0, axis)
        filled[::2] = values
        between, halves = filled[1:-1:2], (0.5 * field).swapaxes(0, axis)
        np.add(halves[: len(between)], halves[1 : len(between) + 1], out=between)
        if size % 2 == 0:
            filled[-1] = values[-1]
        field = out
    return field
