"""The average head that phantoms are bent from: a real brain in drawn bone, face and neck.

nilearn's template ends at the brain. What lies below it fills a third of every mid-sagittal slice,
so it is drawn here: clivus, sinuses, airway, palate, tongue, spine, cord, muscles, fat, orbits and
ears. Positions were read off the anatomy of ordinary T1 scans and are approximate on purpose; every
phantom bends and textures them anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.geometry import Array
from landmarking.imaging.template import load_template

Labels = NDArray[np.uint8]


class Tissue(IntEnum):
    """Codes of the tissues outside the brain; `NONE` leaves a voxel to the shells of the vault."""

    NONE = 0
    FLUID = 1
    BONE = 2
    MARROW = 3
    FAT = 4
    MUSCLE = 5
    AIR = 6
    MUCOSA = 7
    CORD = 8
    SKIN = 9


class _Canvas:
    """A label volume that solids are drawn into, later ones over earlier ones."""

    def __init__(self, low_mm: Array, spacing_mm: float, shape: tuple[int, int, int]) -> None:
        self.labels: Labels = np.zeros(shape, dtype=np.uint8)
        self._axes = [
            (low + spacing_mm * np.arange(size)).astype(np.float32)
            for low, size in zip(low_mm, shape, strict=True)
        ]

    def ellipsoid(
        self,
        tissue: Tissue,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        pitch_deg: float = 0.0,
        *,
        below: float = np.inf,
        power: float = 2.0,
    ) -> None:
        """Fill an ellipsoid, pitched about the left-right axis and cut off above a height.

        A power above two makes the solid boxier.
        """
        reach = (radii[0], max(radii[1:]), max(radii[1:]))
        box = tuple(
            slice(*np.searchsorted(axis, (mid - r, mid + r)))
            for axis, mid, r in zip(self._axes, centre, reach, strict=True)
        )
        x, y, z = np.meshgrid(
            *(axis[cut] for axis, cut in zip(self._axes, box, strict=True)),
            indexing="ij",
            sparse=True,
        )
        a = np.deg2rad(pitch_deg)
        front, up = y - centre[1], z - centre[2]
        along = np.cos(a) * front + np.sin(a) * up
        across = -np.sin(a) * front + np.cos(a) * up
        inside = (
            np.abs((x - centre[0]) / radii[0]) ** power
            + np.abs(along / radii[1]) ** power
            + np.abs(across / radii[2]) ** power
        ) < 1.0
        self.labels[box][inside & (z < below)] = tissue

    def both(
        self,
        tissue: Tissue,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        pitch_deg: float = 0.0,
    ) -> None:
        """Fill an ellipsoid on the right and its mirror image on the left."""
        self.ellipsoid(tissue, centre, radii, pitch_deg)
        self.ellipsoid(tissue, (-centre[0], centre[1], centre[2]), radii, pitch_deg)


def face_and_neck(low_mm: Array, spacing_mm: float, shape: tuple[int, int, int]) -> Labels:
    """Tissue codes around the brain on a grid over the template's world.

    Args:
        low_mm: World mm of the first voxel, shape (3,).
        spacing_mm: Voxel size.
        shape: Voxels of the grid.

    Returns:
        Codes of `Tissue`, shape `shape`.
    """
    canvas = _Canvas(low_mm, spacing_mm, shape)
    _flesh(canvas)
    _skull_base(canvas)
    _airways(canvas)
    _spine(canvas)
    return canvas.labels


def _flesh(canvas: _Canvas) -> None:
    layers = ((Tissue.SKIN, 0.0), (Tissue.FAT, 2.5), (Tissue.MUSCLE, 8.0))
    for tissue, depth in layers:
        canvas.ellipsoid(tissue, (0, 24, -66), (67 - depth, 68 - depth, 74 - depth), below=-5)
        canvas.ellipsoid(tissue, (0, 88, -52), (13 - depth / 3, 16 - depth / 3, 20 - depth / 2), 25)
        canvas.ellipsoid(
            tissue, (0, -44, -140), (61 - depth, 68 - depth, 112), 6, below=-42, power=3.0
        )
    # Cheeks, the fat before the neck muscles at the back, and the ears.
    canvas.both(Tissue.FAT, (42, 48, -72), (16, 18, 22))
    canvas.ellipsoid(Tissue.FAT, (0, -90, -82), (26, 12, 42), 12)
    canvas.both(Tissue.MUSCLE, (17, -82, -72), (13, 15, 34), 12)
    canvas.both(Tissue.MUSCLE, (24, -66, -95), (13, 12, 40))
    canvas.both(Tissue.SKIN, (80, -26, -36), (6, 14, 24), 15)
    # Orbits: fat, globe, muscle cone.
    canvas.both(Tissue.FAT, (32, 52, -36), (18, 28, 17), -4)
    canvas.both(Tissue.MUSCLE, (30, 46, -36), (5, 20, 5), -4)
    canvas.both(Tissue.FLUID, (33, 66, -35), (12.5, 12.5, 12.5))


def _skull_base(canvas: _Canvas) -> None:
    # Petrous bones with air cells, middle fossa floor, and the occipital bone behind the brain.
    canvas.both(Tissue.BONE, (46, -28, -44), (28, 14, 14), 0)
    canvas.both(Tissue.AIR, (56, -34, -52), (10, 10, 13))
    canvas.both(Tissue.BONE, (34, 12, -44), (24, 24, 6), -8)
    canvas.ellipsoid(Tissue.BONE, (0, 44, -32), (30, 34, 5), 4)
    canvas.ellipsoid(Tissue.BONE, (0, -84, -55), (40, 30, 5), -38)
    canvas.ellipsoid(Tissue.MARROW, (0, -92, -48), (34, 12, 2.2), -38)
    # Clivus: marrow between two tables, from the sella to the front rim of the foramen magnum.
    canvas.ellipsoid(Tissue.BONE, (0, -12, -48), (16, 25, 8.5), 55)
    canvas.ellipsoid(Tissue.MARROW, (0, -11.5, -48), (14, 22, 5.5), 55)
    canvas.ellipsoid(Tissue.MUCOSA, (0, 6, -29), (7, 6, 4))
    canvas.ellipsoid(Tissue.BONE, (0, 20, -35), (20, 24, 15))
    canvas.ellipsoid(Tissue.BONE, (0, 74, -20), (22, 9, 18), 15)
    # Upper jaw and hard palate.
    canvas.ellipsoid(Tissue.BONE, (0, 48, -78), (24, 26, 4), -4)
    canvas.ellipsoid(Tissue.MARROW, (0, 64, -84), (20, 9, 11))
    canvas.both(Tissue.BONE, (42, 12, -88), (5, 10, 34), 8)
    canvas.ellipsoid(Tissue.MARROW, (0, 62, -122), (24, 9, 12))


def _airways(canvas: _Canvas) -> None:
    canvas.ellipsoid(Tissue.AIR, (0, 20, -35), (15, 17, 11.5), 6)
    canvas.ellipsoid(Tissue.AIR, (0, 76, -18), (15, 5, 11), 15)
    canvas.both(Tissue.AIR, (31, 42, -66), (13, 17, 15))
    canvas.ellipsoid(Tissue.MUCOSA, (0, 46, -56), (17, 34, 20))
    canvas.ellipsoid(Tissue.BONE, (0, 46, -54), (1.5, 32, 18))
    canvas.ellipsoid(Tissue.MUCOSA, (0, 2, -70), (16, 15, 12))
    canvas.ellipsoid(Tissue.AIR, (0, 6, -68), (10, 12, 9), -30)
    canvas.ellipsoid(Tissue.AIR, (0, -6, -102), (9, 5, 38), 3)
    canvas.ellipsoid(Tissue.MUSCLE, (0, 38, -100), (22, 32, 18), -8)
    canvas.ellipsoid(Tissue.MUCOSA, (0, 12, -88), (10, 12, 5), -35)


def _spine(canvas: _Canvas) -> None:
    lean = 0.12
    # Front arch of the atlas, dens and vertebral bodies, then canal, cord and spinous processes.
    canvas.ellipsoid(Tissue.BONE, (0, -12, -77), (14, 4.5, 6.5))
    canvas.ellipsoid(Tissue.MARROW, (0, -12, -77), (11, 2.2, 4.2))
    for height in range(-84, -180, -16):
        y = -23.0 + lean * (height + 84)
        radii = (7.5, 7.5, 17.0) if height == -84 else (11.0, 9.0, 8.2)
        middle = height if height == -84 else height - 4
        canvas.ellipsoid(Tissue.BONE, (0, y, middle), radii, power=3.0)
        inner = (radii[0] - 2, radii[1] - 2, radii[2] - 2)
        canvas.ellipsoid(Tissue.MARROW, (0, y, middle), inner, power=3.0)
        canvas.ellipsoid(Tissue.BONE, (0, y - 38, middle - 2), (4.5, 12, 4.8), 22)
        canvas.ellipsoid(Tissue.MARROW, (0, y - 38, middle - 2), (2.6, 9, 2.6), 22)
    canvas.ellipsoid(Tissue.FLUID, (0, -47 - lean * 30, -112), (9.5, 8.5, 70), 83 - 90, power=3.0)
    canvas.ellipsoid(Tissue.CORD, (0, -46 - lean * 30, -116), (6.5, 5.0, 64), 83 - 90, power=3.0)


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
        labels: Codes of `Tissue` around the brain.
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
