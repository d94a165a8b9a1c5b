"""The template around its plane of symmetry, as maps on the pixels of a slice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from landmarking.cohort.shape_model import load_shape_model
from landmarking.geometry import Array
from landmarking.landmarks import landmark_set

if TYPE_CHECKING:
    from landmarking.imaging.pipeline import PreprocessSettings

MARGIN_PX = 30
"""Pixels of the template kept beyond the slice on each side."""

LATERAL_MM = 5
"""The slab reaches from the mid-plane to this distance; the template is symmetric."""

CHANNELS = ("t1", "grey", "white", "distance", "cortex", "cerebellum", "face")
"""Maps of a slab: intensity, tissue probabilities, mm from the brain (negative within), regions."""

BENT = 4
"""The first channels differ from layer to layer, the regions do not."""

# Outlines on the mid-plane, common space (anterior, superior) mm, traced on the template.
_DEEP = (
    (38, 0), (32, 12), (20, 23), (2, 33), (-18, 34), (-35, 29), (-46, 18), (-48, 12), (-54, 13),
    (-88, -20), (-88, -100), (2, -100), (2, -22), (12, -20), (18, -10), (22, -6), (34, -5),
)  # fmt: skip
_CEREBELLUM = (
    (-41, -10), (-48, 2), (-56, 4), (-68, 0), (-84, -22), (-84, -35), (-73, -51), (-56, -50),
    (-45, -42), (-40, -28),
)  # fmt: skip
_FACE = (
    (120, -24), (12, -24), (-6, -30), (-12, -50), (-25, -75), (-60, -56), (-90, -48), (-200, -40),
    (-200, -200), (120, -200),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class TemplateSlab:
    """The template around its plane of symmetry, on the pixels of a slice.

    Attributes:
        pairs: For each lateral step the maps of `CHANNELS`, then once more the first four of
            them from the next step; shape (steps, 11, H + 2 m, W + 2 m), where m is `MARGIN_PX`.
        landmarks_px: AFIDs of the template on the slice, shape (32, 2), without the margin.
        modes_px: Modes of the landmarks' shape in pixels, shape (K, 32, 2).
        mean_px: Mean shape in pixels, shape (32, 2).
        size: Rows and columns (H, W) of the slice.
        spacing_mm: Pixel size.
    """

    pairs: Tensor
    landmarks_px: Tensor
    mean_px: Tensor
    modes_px: Tensor
    size: tuple[int, int]
    spacing_mm: float

    def to(self, device: torch.device) -> TemplateSlab:
        """The same slab on a device."""
        return TemplateSlab(
            self.pairs.to(device),
            self.landmarks_px.to(device),
            self.mean_px.to(device),
            self.modes_px.to(device),
            self.size,
            self.spacing_mm,
        )


def load_slab(settings: PreprocessSettings) -> TemplateSlab:
    """Cut the slab on the pixel grid of a preprocessing, once per process."""
    first, last = settings.crop
    return _slab(settings.slice_size, first, last, settings.spacing_mm)


@lru_cache(maxsize=2)
def _slab(slice_size: int, first: int, last: int, spacing_mm: float) -> TemplateSlab:
    from landmarking.imaging.pipeline import (
        MIDSAGITTAL_COMMON,
        PreprocessSettings,
        slice_geometry,
    )

    settings = PreprocessSettings(slice_size=slice_size, crop=[first, last], spacing_mm=spacing_mm)
    geometry = slice_geometry(MIDSAGITTAL_COMMON, np.eye(4), settings)
    side = last - first + 2 * MARGIN_PX
    y, x = np.mgrid[:side, :side] - float(MARGIN_PX)
    plane_mm = geometry.to_world(np.stack([x, y], axis=-1))
    volumes, regions = _volumes(plane_mm), _regions(plane_mm)
    pairs = np.concatenate([volumes[:, :-1], regions, volumes[:, 1:]])
    model = load_shape_model()
    base = geometry.to_pixel(np.zeros(3))
    return TemplateSlab(
        pairs=_tensor(pairs.swapaxes(0, 1)).contiguous(),
        landmarks_px=_tensor(geometry.to_pixel(landmark_set("afids32").template_mm)),
        mean_px=_tensor(geometry.to_pixel(model.mean_mm)),
        # The map to pixels is affine; its constant part falls out of differences.
        modes_px=_tensor(geometry.to_pixel(model.modes_mm) - base),
        size=(last - first, last - first),
        spacing_mm=spacing_mm,
    )


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _volumes(plane_mm: Array) -> Array:
    """T1, grey, white and distance at all lateral steps, shape (4, D, side, side)."""
    from landmarking.imaging.template import load_template

    template = load_template()
    inverse = np.linalg.inv(template.affine)
    middle = round(float(inverse[0, 3]))
    near = slice(middle - 14, middle + 15)
    mask = template.brain_mask[near]
    # The volume ends within the brainstem; its last planes are carried on below.
    mask = np.pad(mask, ((0, 0), (20, 20), (40, 20)), mode="edge")
    mask[:, :20], mask[:, -20:], mask[:, :, -20:] = False, False, False
    distance = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
    layers = []
    for lateral in range(LATERAL_MM + 1):
        at = plane_mm @ inverse[:3, :3].T + inverse[:3, 3]
        voxels = np.stack([np.full(at.shape[:2], float(middle + lateral)), at[..., 1], at[..., 2]])
        voxels[2] = np.maximum(voxels[2], 0.0)
        parts = [
            ndimage.map_coordinates(volume, voxels, order=1, mode="constant")
            for volume in (template.brain, template.grey, template.white)
        ]
        shifted = np.stack([voxels[0] - near.start, at[..., 1] + 20, at[..., 2] + 40])
        parts.append(ndimage.map_coordinates(distance, shifted, order=1, mode="nearest"))
        layers.append(np.stack(parts))
    return np.stack(layers, axis=1)


def _regions(plane_mm: Array) -> Array:
    """Soft masks of cortex, cerebellum and face, the same at all lateral steps."""
    from matplotlib.path import Path

    flat = plane_mm[..., 1:].reshape(-1, 2)
    shape = plane_mm.shape[:2]
    deep, cerebellum, face = (
        Path(outline).contains_points(flat).reshape(shape)
        for outline in (_DEEP, _CEREBELLUM, _FACE)
    )
    masks = [
        ndimage.gaussian_filter(mask.astype(np.float64), sd)
        for mask, sd in ((~deep, 1.5), (cerebellum, 1.0), (face, 3.0))
    ]
    return np.repeat(np.stack(masks)[:, None], LATERAL_MM, axis=1)
