"""From anatomy to intensities: tissues drawn anew for every head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landmarking.cohort.anatomy import Atlas, Float32
from landmarking.cohort.deformity import Age
from landmarking.cohort.warps import VoxelMap


@dataclass
class PaintSettings:
    """Tissue intensities and texture.

    Attributes:
        skull_mm: Mean thickness of the skull.
        scalp_mm: Mean thickness of the scalp.
        texture: SD of the grain within tissues, as a share of white matter.
    """

    skull_mm: float = 6.0
    scalp_mm: float = 6.0
    texture: float = 0.03


def paint(
    settings: PaintSettings,
    atlas: Atlas,
    warp: VoxelMap,
    age: Age,
    body: np.random.Generator,
    visit: np.random.Generator,
) -> tuple[Float32, NDArray[np.uint8]]:
    """Paint one head.

    Args:
        settings: Ranges.
        atlas: Average anatomy.
        warp: Voxels to template.
        age: Widening of sulci.
        body: Chance of the person, the same at all scans.
        visit: Chance of the scan.

    Returns:
        Intensities, white matter near 1, shape (I, J, K); tissue shares, (3, I, J, K).
    """
    points = warp.grid(slice(None)).reshape(3, -1)
    outside = atlas.outside.at(points)
    inside = outside < 2.0
    image = _shells(settings, outside, points, body, visit)
    tissues = np.zeros((3, outside.size), dtype=np.uint8)
    within = points[:, inside]
    brain, grey, white = (v.at(within) for v in (atlas.brain, atlas.grey, atlas.white))
    fluid = np.clip(1.0 - grey - white, 0.0, 1.0)
    for row, share in zip(tissues, (grey, white, fluid), strict=True):
        row[inside] = np.rint(255.0 * share)
    levels = (visit.uniform(0.55, 0.78), 1.0, visit.uniform(0.1, 0.35))
    flat = levels[0] * grey + levels[1] * white + levels[2] * fluid
    own = np.interp(brain, (0.0, 0.2, 0.65, 0.87), (levels[2], levels[2], levels[0], levels[1]))
    mixed = (0.5 * flat + 0.5 * own).astype(np.float32)
    image[inside] = np.where(brain > 0.05, mixed, image[inside])
    return image.reshape(warp.shape), tissues.reshape(3, *warp.shape)


def _shells(
    settings: PaintSettings,
    outside: Float32,
    points: Float32,
    body: np.random.Generator,
    visit: np.random.Generator,
) -> Float32:
    skull = settings.skull_mm * float(np.exp(0.2 * body.normal()))
    scalp = settings.scalp_mm * float(np.exp(0.25 * body.normal()))
    fluid, bone, fat, muscle = (
        visit.uniform(low, high) for low, high in ((0.1, 0.3), (0.1, 0.3), (0.8, 1.4), (0.4, 0.7))
    )
    edges = np.cumsum([2.5, 0.4 * skull, 0.3 * skull, 0.3 * skull, scalp])
    levels = (fluid, bone, 0.6 * fat, bone, fat, 0.0)
    image = np.asarray(levels, dtype=np.float32)[np.searchsorted(edges, outside)]
    x, y, z = points
    face = (x / 62.0) ** 2 + ((y - 25.0) / 65.0) ** 2 + ((z + 70.0) / 75.0) ** 2 < 1.0
    neck = (x / 58.0) ** 2 + ((y + 45.0) / 55.0) ** 2 < 1.0
    flesh = (face | (neck & (z < -60.0))) & (outside > edges[0])
    image[flesh] = muscle + 0.15 * np.sin(points[:, flesh] / 4.0).sum(0)
    return image
