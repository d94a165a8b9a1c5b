"""The average anatomy that phantoms are bent from, as volumes that can be looked up anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.cohort.face import face_and_neck
from landmarking.geometry import Array
from landmarking.imaging.template import load_template

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume over the template's world, on a grid along its axes.

    Attributes:
        data: Values, float32, shape (X, Y, Z), or (C, X, Y, Z) of several volumes at once.
        origin_mm: World mm of the first voxel's centre, shape (3,).
        spacing_mm: Voxel size.
    """

    data: Float32
    origin_mm: Array
    spacing_mm: float

    def at(self, points_mm: Float32) -> Float32:
        """Values at template points of shape (3, N), linear between voxels; edges go on.

        Returns:
            Shape (N,), or (C, N).
        """
        # Three times as fast as scipy's map_coordinates, which matters for millions of voxels.
        import torch
        from torch.nn.functional import grid_sample

        size = np.array(self.data.shape[-3:], dtype=np.float32)
        scale = (2.0 / (self.spacing_mm * (size - 1.0))).astype(np.float32)
        shift = (self.origin_mm * scale + 1.0).astype(np.float32)
        unit = np.empty((points_mm.shape[1], 3), dtype=np.float32)
        for axis in range(3):
            np.multiply(points_mm[axis], scale[axis], out=unit[:, 2 - axis])
            unit[:, 2 - axis] -= shift[axis]
        grid = torch.from_numpy(unit)[None, :, None, None]
        volume = torch.from_numpy(self.data)[None]
        volume = volume if self.data.ndim == 4 else volume[None]
        values: Any = grid_sample(volume, grid, padding_mode="border", align_corners=True)
        return np.asarray(values.numpy().reshape(*self.data.shape[:-3], -1), dtype=np.float32)

    def nearest(self, points_mm: Float32) -> NDArray[np.uint8]:
        """Values of the nearest voxels as whole numbers, points as in `at`; 0 beyond the grid."""
        scale = np.float32(1.0 / self.spacing_mm)
        padded = self._padded
        flat = np.zeros(points_mm.shape[1], dtype=np.int32)
        for row, low, size in zip(points_mm, self.origin_mm, padded.shape, strict=True):
            # One voxel of margin on each side, and half a voxel to round by cutting off.
            index = row * scale
            index += np.float32(1.5 - low / self.spacing_mm)
            np.clip(index, 0.0, size - 1.0, out=index)
            flat *= np.int32(size)
            flat += index.astype(np.int32)
        return padded.ravel().take(flat)

    @cached_property
    def _padded(self) -> NDArray[np.uint8]:
        return np.pad(self.data.astype(np.uint8), 1)


@dataclass(frozen=True, eq=False)
class Atlas:
    """Average anatomy.

    Attributes:
        average: T1 intensities of the brain, 0 to 1, share of grey and share of white matter.
        smooth: Three volumes on a 2 mm grid. Signed distance from the brain's hull in mm,
            negative within; above zero wherever `labels` may be set, 4.5 mm beyond included; 1
            where every person has folds of their own, 0 in the deep brain and cerebellum.
        labels: Codes of `face.Tissue` around the brain.
        mid_surface_mm: Points of the mid-sagittal plane within the brain, shape (M, 3).
    """

    average: Volume
    smooth: Volume
    labels: Volume
    mid_surface_mm: Array


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Build the atlas once per process."""
    template = load_template()
    origin = template.affine[:3, 3]
    low = np.array([-106.0, -146.0, -166.0])
    labels = face_and_neck(low, 1.5, (142, 178, 188))
    return Atlas(
        average=Volume(_together(template.brain, template.grey, template.white), origin, 1.0),
        smooth=_smooth(template.brain_mask, origin, Volume(_reach(labels), low, 3.0)),
        labels=Volume(labels.astype(np.float32), low, 1.5),
        mid_surface_mm=_mid_surface(template.brain_mask, origin),
    )


# Outline (y, z) on the mid-sagittal plane of what all people share: callosum, ventricles,
# thalamus, brain stem and cerebellum, with a margin of 3 mm.
_DEEP_OUTLINE = (
    (42, 2), (41, 13), (31, 25), (12, 32), (-10, 34), (-31, 29), (-44, 18), (-47, 8), (-58, 8),
    (-92, -24), (-92, -62), (-60, -80), (0, -80), (0, -40), (8, -28), (13, -18), (22, -9), (33, -6),
)  # fmt: skip


def _smooth(mask: NDArray[np.bool_], origin: Array, body: Volume) -> Volume:
    """Distance, face and neck, and cortex on one grid, to be looked up at once."""
    outside = _outside(mask, origin)
    axes = [
        low + outside.spacing_mm * np.arange(size)
        for low, size in zip(outside.origin_mm, outside.data.shape, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).astype(np.float32)
    others = [part.at(points).reshape(outside.data.shape) for part in (body, _cortex(mask, origin))]
    return Volume(_together(outside.data, *others), outside.origin_mm, outside.spacing_mm)


def _together(*volumes: Array | Float32) -> Float32:
    """Volumes as one, of shape (C, X, Y, Z); the values of a voxel are neighbours in memory."""
    return np.moveaxis(np.stack(volumes, axis=-1, dtype=np.float32, casting="same_kind"), -1, 0)


def _cortex(mask: NDArray[np.bool_], origin: Array) -> Volume:
    """1 in the folded cortex and under it, on a 2 mm grid."""
    from skimage.measure import points_in_poly

    half = mask[::2, ::2, ::2]
    x, y, z = np.meshgrid(
        *(origin[axis] + 2.0 * np.arange(half.shape[axis]) for axis in range(3)),
        indexing="ij",
        sparse=True,
    )
    plane = np.stack(np.broadcast_arrays(y, z), axis=-1).reshape(-1, 2)
    midline = points_in_poly(  # type: ignore[no-untyped-call]
        plane, np.array(_DEEP_OUTLINE)
    ).reshape(1, *half.shape[1:])
    nuclei = (x / 34.0) ** 2 + ((y + 8.0) / 36.0) ** 2 + ((z - 6.0) / 22.0) ** 2 < 1.0
    temporal = (z < -18.0 - 0.25 * np.abs(x)) & (y < -36.0)
    deep = (midline & (np.abs(x) < 18.0)) | nuclei | temporal
    return Volume(
        ndimage.gaussian_filter((half & ~deep).astype(np.float32), 1.0), np.array(origin), 2.0
    )


def _reach(labels: NDArray[np.uint8]) -> Float32:
    near = ndimage.binary_dilation(labels[::2, ::2, ::2] > 0, iterations=2)
    return np.asarray(near, dtype=np.float32)


def _outside(mask: NDArray[np.bool_], origin: Array) -> Volume:
    """Distance from the brain with its cord, on a 2 mm grid that holds face and neck."""
    low = np.array([-120.0, -150.0, -170.0])
    size = (121, 141, 141)
    world = [low[axis] + 2.0 * np.arange(size[axis]) for axis in range(3)]
    whole = np.zeros(size, dtype=bool)
    inner = tuple(
        slice(*(np.searchsorted(world[axis], (origin[axis], origin[axis] + mask.shape[axis]))))
        for axis in range(3)
    )
    picks = [
        np.rint(world[axis][inner[axis]] - origin[axis]).astype(int).clip(0, mask.shape[axis] - 1)
        for axis in range(3)
    ]
    whole[inner] = mask[np.ix_(*picks)]
    x, y, z = np.meshgrid(*world, indexing="ij", sparse=True)
    # The hull's end at the bottom of the template is no surface; the cord goes on.
    cord_y = -46.0 - 0.1 * (z + 72.0)
    whole |= (z < -66.0) & ((x / 6.5) ** 2 + ((y - cord_y) / 5.5) ** 2 < 1.0)
    inside = ndimage.distance_transform_edt(whole, sampling=2.0)
    outside = ndimage.distance_transform_edt(~whole, sampling=2.0)
    signed = np.where(whole, 1.0 - inside, outside - 1.0)
    return Volume(ndimage.gaussian_filter(signed.astype(np.float32), 0.7), low, 2.0)


def _mid_surface(mask: NDArray[np.bool_], origin: Array) -> Array:
    column = round(-float(origin[0]))
    rows = np.argwhere(mask[column, ::8, ::8]) * 8.0 + origin[1:]
    return np.column_stack([np.zeros(len(rows)), rows])
