"""The AC-PC frame of a head, the scan turned to it, and the turn in the form of other programs.

The *AC-PC frame* is RAS mm with its origin at AC: y runs from PC to AC, x is the right-hand side of
the mid-sagittal plane, z is up. So AC and PC have x = 0 and z = 0.

Every file holds the same rigid map, scan to AC-PC, each as its program reads it:

- ITK and 3D Slicer (`.tfm`): LPS, and from the output to the input, as resampling needs it; Slicer
  turns the map round when it loads the file, so that a scan put under it moves to AC-PC.
- FSL (`.mat`, FLIRT): from the voxels of the scan to those of the resampled scan, in mm, with the
  first axis mirrored where an image is not stored left-handed.
- FreeSurfer (`.lta`, type 1): RAS to RAS, with both images' geometry.
- MINC (`.xfm`): RAS to RAS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.errors import LandmarkError
from landmarking.files import atomic_path, write_text
from landmarking.geometry import Array, Plane, apply_affine
from landmarking.imaging.scan import Scan

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

NEAREST_MM = 5.0
"""AC and PC lie 20 to 30 mm apart; closer than this they give no direction."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an image lie.

    Attributes:
        shape: Voxels along each axis.
        affine: Voxel to world RAS mm, shape (4, 4).
    """

    shape: tuple[int, int, int]
    affine: Array

    @property
    def steps_mm(self) -> Array:
        """Size of a voxel, shape (3,)."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))


def world_to_acpc(points_mm: Mapping[str, Array], plane: Plane) -> Array:
    """The rigid map from a scan's world to its AC-PC frame.

    Args:
        points_mm: World RAS mm, shape (3,), with `AC` and `PC`.
        plane: The mid-sagittal plane; its normal says where right is.

    Returns:
        Homogeneous matrix, shape (4, 4), determinant 1.

    Raises:
        LandmarkError: If AC or PC is missing, or they are too close to give a direction.
    """
    missing = [name for name in ("AC", "PC") if name not in points_mm]
    if missing:
        raise LandmarkError(f"the AC-PC frame needs AC and PC; missing: {', '.join(missing)}")
    front = np.asarray(points_mm["AC"], float) - np.asarray(points_mm["PC"], float)
    length = float(np.linalg.norm(front))
    if not length >= NEAREST_MM:
        raise LandmarkError(
            f"the AC-PC frame needs AC and PC at least {NEAREST_MM:.0f} mm apart, "
            f"found {length:.1f} mm"
        )
    front /= length
    right = -plane.normal - (-plane.normal @ front) * front
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, front, np.cross(right, front)])
    matrix[:3, 3] = -matrix[:3, :3] @ np.asarray(points_mm["AC"], float)
    return matrix


def acpc_grid(scan: Grid, to_acpc: Array, step_mm: float | None = None) -> Grid:
    """Voxels along the AC-PC axes that hold the whole scan; AC is the centre of one.

    Args:
        scan: The scan's voxels.
        to_acpc: Scan's world to AC-PC, shape (4, 4).
        step_mm: Size of a voxel; None takes the scan's smallest.
    """
    step = float(scan.steps_mm.min()) if step_mm is None else step_mm
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(scan.shape) - 1)
    ends = apply_affine(to_acpc @ scan.affine, corners) / step
    low, high = np.floor(ends.min(axis=0)), np.ceil(ends.max(axis=0))
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = low * step
    first, second, third = (int(n) for n in high - low + 1)
    return Grid((first, second, third), affine)


def resampled(scan: Scan, to_acpc: Array, grid: Grid) -> NDArray[np.float32]:
    """A scan on the voxels of the AC-PC frame, by cubic splines, once.

    Args:
        scan: The scan.
        to_acpc: Its world to AC-PC, shape (4, 4).
        grid: Where the result lies.

    Returns:
        Intensities, float32; outside the scan its lowest.
    """
    lowest, highest = float(scan.data.min()), float(scan.data.max())
    to_voxel = np.linalg.inv(to_acpc @ scan.affine) @ grid.affine
    data = ndimage.affine_transform(
        scan.data,
        to_voxel[:3, :3],
        to_voxel[:3, 3],
        output_shape=grid.shape,
        output=np.float32,
        order=3,
        cval=lowest,
    )
    return np.clip(data, lowest, highest, out=data)


def label_map(
    points_mm: Mapping[str, Array], grid: Grid, radius_mm: float = 2.0
) -> NDArray[np.uint8]:
    """Balls around landmarks, numbered from 1 in their order.

    Args:
        points_mm: World RAS mm, shape (3,), by landmark.
        grid: Where the result lies.
        radius_mm: Of a ball; the voxel nearest to a landmark within the image is always in it.

    Returns:
        Numbers, uint8; where balls meet, the nearer landmark's.
    """
    labels = np.zeros(grid.shape, np.uint8)
    nearest = np.full(grid.shape, np.inf)
    to_voxel = np.linalg.inv(grid.affine)
    reach = np.ceil(radius_mm * np.linalg.norm(to_voxel[:3, :3], axis=1)).astype(int) + 1
    for number, point in enumerate(points_mm.values(), start=1):
        centre = np.rint(apply_affine(to_voxel, point)).astype(int)
        low, high = np.maximum(centre - reach, 0), np.minimum(centre + reach + 1, grid.shape)
        if not (low < high).all():
            continue
        box = tuple(slice(*ends) for ends in zip(low, high, strict=True))
        voxels = np.moveaxis(np.mgrid[box], 0, -1)
        away = np.linalg.norm(apply_affine(grid.affine, voxels) - point, axis=-1)
        ball = ((away <= radius_mm) | (voxels == centre).all(axis=-1)) & (away < nearest[box])
        labels[box][ball] = number
        nearest[box][ball] = away[ball]
    return labels


def write_volume(path: Path, data: NDArray[Any], affine: Array) -> None:
    """Write a volume in a frame of its own, without loss.

    Args:
        path: A `.nii.gz` file.
        data: Intensities; whole numbers of 16 bits are kept as such.
        affine: Voxel to RAS mm, shape (4, 4).

    Raises:
        OSError: If it cannot be written.
    """
    nib: Any = import_module("nibabel")  # its constructors carry no types
    if data.dtype.kind == "f" and abs(data).max() < 2**15 and (data == np.rint(data)).all():
        data = data.astype(np.int16)
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=2)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def write_itk(path: Path, to_acpc: Array) -> None:
    """Write a map for ITK and 3D Slicer (`.tfm`)."""
    matrix = _LPS @ np.linalg.inv(to_acpc) @ _LPS
    numbers = [*matrix[:3, :3].ravel(), *matrix[:3, 3]]
    text = (
        "#Insight Transform File V1.0\n#Transform 0\n"
        "Transform: AffineTransform_double_3_3\n"
        f"Parameters: {' '.join(repr(float(number)) for number in numbers)}\n"
        "FixedParameters: 0 0 0\n"
    )
    write_text(path, text)


def flirt_matrix(to_acpc: Array, scan: Grid, reference: Grid) -> Array:
    """The map as FLIRT has it: mm along the voxels of two images, shape (4, 4).

    Args:
        to_acpc: Scan's world to AC-PC.
        scan: Voxels of the scan as it is stored.
        reference: Voxels of the resampled scan.
    """
    back = np.linalg.inv(reference.affine) @ to_acpc @ scan.affine
    return np.asarray(_flirt_mm(reference) @ back @ np.linalg.inv(_flirt_mm(scan)))


def _flirt_mm(grid: Grid) -> Array:
    """Voxels to FLIRT's mm: the first axis runs to the left."""
    matrix = np.diag([*grid.steps_mm, 1.0])
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        matrix[0, 3] = (grid.shape[0] - 1) * matrix[0, 0]
        matrix[0, 0] *= -1
    return matrix


def write_fsl(path: Path, to_acpc: Array, scan: Grid, reference: Grid) -> None:
    """Write a map for FSL (`flirt -applyxfm -init`); arguments as in `flirt_matrix`."""
    rows = flirt_matrix(to_acpc, scan, reference)
    write_text(path, "".join(f"{_row(row)}\n" for row in rows))


def write_lta(path: Path, to_acpc: Array, scan: Grid, reference: Grid) -> None:
    """Write a map for FreeSurfer (`.lta`); arguments as in `flirt_matrix`."""
    rows = "".join(f"{_row(row)}\n" for row in to_acpc)
    text = (
        "type      = 1 # LINEAR_RAS_TO_RAS\nnxforms   = 1\n"
        "mean      = 0.0000 0.0000 0.0000\nsigma     = 1.0000\n1 4 4\n"
        f"{rows}src volume info\n{_volume_info(scan)}dst volume info\n{_volume_info(reference)}"
    )
    write_text(path, text)


def _volume_info(grid: Grid) -> str:
    axes = grid.affine[:3, :3] / grid.steps_mm
    middle = apply_affine(grid.affine, np.array(grid.shape) / 2)
    lines = [
        "valid = 1  # volume info valid",
        "filename = unknown",
        f"volume = {' '.join(str(n) for n in grid.shape)}",
        f"voxelsize = {_row(grid.steps_mm)}",
        *(f"{name}ras   = {_row(axis)}" for name, axis in zip("xyz", axes.T, strict=True)),
        f"cras   = {_row(middle)}",
    ]
    return "".join(f"{line}\n" for line in lines)


def write_minc(path: Path, to_acpc: Array) -> None:
    """Write a map for MINC (`.xfm`)."""
    rows = "\n".join(_row(row) for row in to_acpc[:3])
    write_text(
        path, f"MNI Transform File\n\nTransform_Type = Linear;\nLinear_Transform =\n{rows};\n"
    )


def _row(numbers: Array) -> str:
    return " ".join(f"{float(number):.15e}" for number in numbers)
