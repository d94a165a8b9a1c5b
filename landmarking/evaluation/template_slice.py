"""The template's mid slice in the grid of a study's slices, as a map to draw errors on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from landmarking.evaluation.runs import Study
from landmarking.geometry import Array
from landmarking.imaging.template import load_template
from landmarking.landmarks import landmark_set

_CENTRE_A_MM, _CENTRE_S_MM = -15.5, -7.5


@dataclass(frozen=True)
class Grid:
    """The slice grid in common space: pixel (x, y) lies at A = a0 - x * step, S = s0 - y * step."""

    a0_mm: float
    s0_mm: float
    step_mm: float
    size: int


def study_grid(study: Study) -> Grid:
    """Grid of a study's slices, from the preprocessing in its runs' configurations.

    A run without a recorded configuration has the paper's grid: 256 pixels of 1 mm, [50:200].
    """
    recorded = (run.config.get("preprocess") for run in study.runs)
    found: dict[str, Any] = next((value for value in recorded if isinstance(value, dict)), {})
    step = float(found.get("spacing_mm", 1.0))
    start, stop = (int(edge) for edge in found.get("crop", (50, 200)))
    reach = (int(found.get("slice_size", 256)) - 1) / 2 - start
    return Grid(_CENTRE_A_MM + reach * step, _CENTRE_S_MM + reach * step, step, stop - start)


def template_slice(study: Study) -> Array:
    """The template's plane x = 0, shape (size, size), 0 to 1, in the grid of the study's slices."""
    grid, template = study_grid(study), load_template()
    y, x = np.mgrid[: grid.size, : grid.size] * grid.step_mm
    world = np.stack([np.zeros_like(x), grid.a0_mm - x, grid.s0_mm - y, np.ones_like(x)], axis=-1)
    voxels = world @ np.linalg.inv(template.affine).T
    return ndimage.map_coordinates(template.brain, np.moveaxis(voxels[..., :3], -1, 0), order=1)


def template_positions_px(study: Study) -> dict[str, Array]:
    """Template positions of the study's landmarks, slice pixels, shape (2,); others left out."""
    grid, every = study_grid(study), landmark_set("afids32")
    positions: dict[str, Array] = {}
    for name in study.landmarks:
        if name in every.names:
            _, a, s = every.template_mm[every.index(name)]
            positions[name] = np.array([grid.a0_mm - a, grid.s0_mm - s]) / grid.step_mm
    return positions
