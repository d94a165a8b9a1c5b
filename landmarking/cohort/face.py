"""Skull base, face and neck of the average head, drawn from simple solids.

nilearn's template ends at the brain. What lies below it fills a third of every mid-sagittal slice,
so it is drawn here: clivus, sinuses, airway, palate, tongue, spine, cord, muscles, fat, orbits and
ears. Positions were read off the anatomy of ordinary T1 scans and are approximate on purpose; every
phantom bends and textures them anew.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from landmarking.geometry import Array

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
