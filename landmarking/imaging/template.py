"""The common space: the ICBM152 2009a symmetric average, and coarse volumes to register with it.

Source: Fonov et al. 2011; the average of 152 T1 scans, brain only, 1 mm, with grey and white matter
maps. Its world (RAS mm) is the common space, in which the AFIDs positions of the template live.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.errors import ScanError
from landmarking.geometry import Array, apply_affine
from landmarking.imaging.scan import Scan

_FILES = {
    "brain": "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
    "grey": "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz",
    "white": "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz",
}


@dataclass(frozen=True, eq=False)
class Template:
    """The template's volumes on one 1 mm grid.

    Attributes:
        brain: T1 intensities of the brain, 0 outside it, at most 1; float32, shape (197, 233, 189).
        brain_mask: Brain with its ventricles and sulci, no holes, same grid.
        affine: Voxel to common space (RAS mm), shape (4, 4).
        digest: SHA-256 of the three files' bytes, hexadecimal.
    """

    brain: NDArray[np.float32]
    brain_mask: NDArray[np.bool_]
    affine: Array
    digest: str

    # Of the tissues a prediction needs nothing, and reading them takes half a second.
    @cached_property
    def grey(self) -> NDArray[np.float32]:
        """Grey matter probability, 0 to 1, same grid."""
        return _volume("grey")

    @cached_property
    def white(self) -> NDArray[np.float32]:
        """White matter probability, 0 to 1, same grid."""
        return _volume("white")


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the template once per process; treat the arrays as read-only, they are shared.

    Raises:
        ScanError: If nilearn is not installed or no longer ships the files.
    """
    paths = {name: _folder() / file for name, file in _FILES.items()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise ScanError(
            f"template: nilearn's data folder has no {', '.join(missing)}; "
            "install the nilearn version named in constraints.txt"
        )
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths.values())).hexdigest()
    brain = _volume("brain")
    outside, _ = ndimage.label(brain <= 0.0)
    mask = np.asarray(outside != outside[0, 0, 0])
    mask.setflags(write=False)
    image: Any = nib.load(paths["brain"])
    return Template(brain, mask, np.asarray(image.affine, dtype=np.float64), digest)


def _folder() -> Path:
    # The files are found without importing nilearn, which takes two seconds.
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise ScanError("template: nilearn is not installed; install this package's dependencies")
    return Path(spec.origin).parent / "datasets" / "data"


def _volume(name: str) -> NDArray[np.float32]:
    image: Any = nib.load(_folder() / _FILES[name])
    volume = np.asarray(np.asanyarray(image.dataobj), dtype=np.float32)
    volume = np.asarray(volume / volume.max(), dtype=np.float32)
    volume.setflags(write=False)
    return volume


_FINE_MM = 4.0
_MARGIN_MM = 6.0
_FLOOR = 0.05
_FILTERS = {4.0: (2.5, 12.0), 8.0: (5.0, 20.0)}


def block_average(
    data: NDArray[np.float32], affine: Array, spacing_mm: float
) -> tuple[NDArray[np.float32], Array]:
    """Average whole blocks of voxels, so that voxels grow to at most `spacing_mm`.

    Args:
        data: Intensities, shape (I, J, K).
        affine: Voxel to world, shape (4, 4).
        spacing_mm: Wanted voxel size; an axis that is already coarser is left alone.

    Returns:
        The averages, smaller in shape, and their affine; voxels left over at the far end of an
        axis are dropped.
    """
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    blocks = [max(1, int(spacing_mm / size + 1e-6)) for size in sizes]
    for axis, block in enumerate(blocks):
        kept = data.shape[axis] // block
        shape = (*data.shape[:axis], kept, block, *data.shape[axis + 1 :])
        trimmed = np.take(data, np.arange(kept * block), axis=axis) if block > 1 else data
        data = trimmed.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    # The first block's centre lies half a block, less half a voxel, from the first voxel's.
    coarse = affine @ np.diag([*blocks, 1.0])
    coarse[:3, 3] = apply_affine(affine, (np.array(blocks) - 1) / 2)
    return data, coarse


def _blur(data: NDArray[np.float32], affine: Array, sigma_mm: float) -> NDArray[np.float32]:
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    blurred = ndimage.gaussian_filter(data, sigma_mm / sizes, mode="nearest", truncate=3.0)
    return np.asarray(blurred, dtype=np.float32)


def local_contrast(
    data: NDArray[np.float32], affine: Array, blur_mm: float, reach_mm: float
) -> NDArray[np.float32]:
    """Blur, then take off the local mean and divide by the local deviation.

    What is left knows neither the bias field nor the contrast of the scan, and fat counts no more
    than any other edge.

    Args:
        data: Intensities of about 0 to 1, shape (I, J, K).
        affine: Voxel to world, shape (4, 4).
        blur_mm: Deviation of the Gaussian that smooths.
        reach_mm: Deviation of the Gaussian that weighs the neighbourhood.

    Returns:
        Local contrast, about -3 to 3, same shape.
    """
    smooth = _blur(data, affine, blur_mm)
    residual = smooth - _blur(smooth, affine, reach_mm)
    power = _blur(residual**2, affine, reach_mm)
    # The floor keeps the noise of air from being blown up to the contrast of tissue.
    return np.asarray(residual / np.sqrt(power + _FLOOR**2), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Volume:
    """Local contrast of a scan on voxels of about 4 mm, for the levels of 4 and of 8 mm.

    Attributes:
        fine: For the level of 4 mm, shape (I, J, K).
        coarse: The same grid, blurred for the level of 8 mm.
        affine: Voxel to scan world RAS mm, shape (4, 4).
    """

    fine: NDArray[np.float32]
    coarse: NDArray[np.float32]
    affine: Array

    def sample(self, points_mm: Array, spacing_mm: float) -> tuple[Array, NDArray[np.bool_]]:
        """Local contrast at world points (N, 3), trilinear, and which of them lie inside."""
        voxels = apply_affine(np.linalg.inv(self.affine), points_mm).T
        upper = np.array(self.fine.shape)[:, None] - 1
        inside = np.asarray(((voxels >= -0.5) & (voxels <= upper + 0.5)).all(axis=0))
        data = self.coarse if spacing_mm > _FINE_MM else self.fine
        values = ndimage.map_coordinates(data, voxels, order=1, mode="nearest", prefilter=False)
        return np.asarray(values, dtype=np.float64), inside

    def on_world_grid(self, spacing_mm: float) -> tuple[Array, Array, Array]:
        """Resample the coarse volume along the world's axes.

        Returns:
            Local contrast and 0/1 insides, both (X, Y, Z), and the world of the first voxel, (3,).
        """
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(self.fine.shape) - 1)
        world = apply_affine(self.affine, corners)
        low, high = world.min(axis=0), world.max(axis=0)
        shape = tuple(int(n) for n in np.floor((high - low) / spacing_mm) + 1)
        grid = np.indices(shape).reshape(3, -1).T * spacing_mm + low
        values, inside = self.sample(grid, spacing_mm)
        return values.reshape(shape), inside.reshape(shape).astype(np.float64), low


def scan_volume(scan: Scan) -> Volume:
    """Prepare a scan: 4 mm blocks, background to 0, fat clipped, local contrast at two levels."""
    data, affine = block_average(scan.data, scan.affine, _FINE_MM)
    low = float(np.percentile(data, 2.0))
    head = data[data > low + 0.5 * (float(data.mean()) - low)]
    # Fat can be twice as bright as white matter and would lead the correlation.
    high = float(np.percentile(head, 95.0)) if head.size else float(data.max())
    scaled = np.clip((data - low) / max(high - low, 1e-12), 0.0, 1.0).astype(np.float32)
    return Volume(
        local_contrast(scaled, affine, *_FILTERS[4.0]),
        local_contrast(scaled, affine, *_FILTERS[8.0]),
        affine,
    )


@dataclass(frozen=True, eq=False)
class Level:
    """Points of the template about the brain, with values and derivatives, at one spacing.

    Attributes:
        spacing_mm: Distance of the points.
        points_mm: Common space, shape (N, 3).
        values: Local contrast of the template there, shape (N,).
        steepest_descent: Derivative of the values with respect to shift (3), rotation (3) and
            stretch (xx, yy, zz, yz, xz, xy) about the centre, shape (N, 12).
        centre_mm: Centre of the brain, shape (3,).
        volume: Local contrast of the template on the 4 mm grid.
        mask: 0/1 brain with margin on the same grid.
        affine: 4 mm voxel to common space, shape (4, 4).
    """

    spacing_mm: float
    points_mm: Array
    values: Array
    steepest_descent: Array
    centre_mm: Array
    volume: NDArray[np.float32]
    mask: NDArray[np.float32]
    affine: Array

    @cached_property
    def _box(self) -> tuple[Array, tuple[int, int, int]]:
        radius = float(np.linalg.norm(self.points_mm - self.centre_mm, axis=1).max())
        half = int(np.ceil(radius / self.spacing_mm))
        edge = 2 * half + 1
        return self.centre_mm - half * self.spacing_mm, (edge, edge, edge)

    @property
    def box_shape(self) -> tuple[int, int, int]:
        """Shape of a cube that holds the brain in every rotation."""
        return self._box[1]

    @property
    def box_origin_mm(self) -> Array:
        """Common space of the cube's first voxel, shape (3,)."""
        return self._box[0]

    def moved(self, motion: Array) -> tuple[Array, Array]:
        """Template values and mask after a motion about the centre, both of `box_shape`."""
        origin, shape = self._box
        grid = np.indices(shape).reshape(3, -1).T * self.spacing_mm + origin
        voxels = apply_affine(np.linalg.inv(motion @ self.affine), grid).T
        values = ndimage.map_coordinates(self.volume, voxels, order=1, mode="constant")
        mask = ndimage.map_coordinates(self.mask, voxels, order=0, mode="constant")
        return values.reshape(shape).astype(float), mask.reshape(shape).astype(float)


@lru_cache(maxsize=4)
def template_level(spacing_mm: float) -> Level:
    """The template at 4 or 8 mm, made once per process."""
    template = load_template()
    data, affine = block_average(template.brain, template.affine, _FINE_MM)
    brain, _ = block_average(template.brain_mask.astype(np.float32), template.affine, _FINE_MM)
    # A margin takes in the shell of fluid, which is dark with and without a skull about it.
    distance = ndimage.distance_transform_edt(brain < 0.5) * _FINE_MM
    mask = distance <= _MARGIN_MM
    blurred = local_contrast(data, affine, *_FILTERS[spacing_mm])
    gradient = np.stack([np.gradient(blurred, _FINE_MM, axis=axis) for axis in range(3)], axis=-1)
    stride = round(spacing_mm / _FINE_MM)
    chosen = np.zeros_like(mask)
    chosen[::stride, ::stride, ::stride] = mask[::stride, ::stride, ::stride]
    points = apply_affine(affine, np.argwhere(chosen))
    centre = apply_affine(affine, np.argwhere(brain > 0.5).mean(axis=0))
    return Level(
        spacing_mm=spacing_mm,
        points_mm=points,
        values=blurred[chosen].astype(np.float64),
        steepest_descent=_steepest_descent(points - centre, gradient[chosen].astype(np.float64)),
        centre_mm=centre,
        volume=blurred,
        mask=mask.astype(np.float32),
        affine=affine,
    )


def _steepest_descent(arms: Array, gradient: Array) -> Array:
    x, y, z = arms.T
    gx, gy, gz = gradient.T
    # A rotation vector w moves a point by w x arm, and g . (w x arm) = w . (arm x g).
    turn = np.cross(arms, gradient)
    stretch = [gx * x, gy * y, gz * z, gy * z + gz * y, gx * z + gz * x, gx * y + gy * x]
    return np.column_stack([gradient, turn, *stretch])
