"""Load a NIfTI scan, refuse what is no three-dimensional head, and turn its axes to PIL."""

from __future__ import annotations

import gzip
import logging
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import orientations as _orientations
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from landmarking.errors import ScanError
from landmarking.geometry import Array, apply_affine

_LOGGER = logging.getLogger(__name__)


SUFFIXES = (".nii", ".nii.gz")
"""File names that `load_scan` takes."""

MIN_EXTENT_MM = 60.0
"""A field of view below this along an axis holds no brain (or its header is not in mm)."""

MAX_EXTENT_MM = 1000.0
"""A field of view above this along an axis is no head (or its header is not in mm)."""

MAX_VOXEL_MM = 10.0
"""Voxels longer than this show no landmark."""

MAX_VOXELS = 1024**3
"""Refused before reading: a damaged header may promise any size."""

_AGREE_MM = 0.1


@dataclass(frozen=True, eq=False)
class Scan:
    """A three-dimensional scan and its place in the world.

    Attributes:
        data: Intensities, float32, shape (I, J, K), finite.
        affine: Voxel to world RAS mm, shape (4, 4).
        name: What messages call it: the file's name without suffix.
        notes: Doubts that did not stop the reading, one sentence each.
    """

    data: NDArray[np.float32]
    affine: Array
    name: str
    notes: tuple[str, ...] = ()

    @property
    def voxel_mm(self) -> Array:
        """Voxel edge lengths in mm, shape (3,)."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))


def load_scan(path: Path) -> Scan:
    """Read a NIfTI-1 or NIfTI-2 file (`.nii`, `.nii.gz`).

    The sform is the world where its code is set, else the qform; a file with neither states no
    left and right and is refused. Where both are set and differ by more than 0.1 mm at a corner,
    the sform is used, which is logged and noted; where one mirrors the other, the file is refused.
    A fourth dimension of length one is dropped.

    Args:
        path: File to read.

    Returns:
        The scan, float32, in the voxel order of the file.

    Raises:
        ScanError: If the file cannot be read, is not 3-D and real-valued, has no usable affine, or
            its intensities are not finite or all the same.
    """
    image = _open(path)
    _check_type(path, image)
    affine, notes = _world(path, image)
    _check_extent(path, image.shape[:3], affine)
    data = _read(path, image)
    _check_values(path, data)
    for note in notes:
        _LOGGER.warning(note)
    return Scan(data, affine, _stem(path), notes)


def _stem(path: Path) -> str:
    name = path.name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.casefold().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _open(path: Path) -> Any:
    if not path.name.casefold().endswith(SUFFIXES):
        raise ScanError(f"{path}: scans are read from .nii or .nii.gz; convert it to NIfTI")
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise ScanError(f"{path}: a scan is a file, found {found}; check the path")
    try:
        content = path.read_bytes()
        if not content:
            raise ScanError(f"{path}: the file is empty (0 bytes); copy or export it again")
        if path.name.casefold().endswith(".gz"):
            # As a whole, because only at the end of a gzip file does its checksum tell of damage.
            content = gzip.decompress(content)
    except OSError as error:
        raise ScanError(
            f"{path}: cannot be read ({_first_line(error)}); "
            "check its permissions, copy or export it again"
        ) from error
    except (EOFError, zlib.error) as error:
        raise ScanError(
            f"{path}: the gzip stream is truncated or damaged ({_first_line(error)}); "
            "copy or export it again"
        ) from error
    return _parsed(path, content)


def _parsed(path: Path, content: bytes) -> Any:
    kinds: tuple[Any, ...] = (nib.Nifti1Image, nib.Nifti2Image)
    for kind in kinds:
        if kind.header_class.may_contain_header(content[:1024]):
            try:
                return kind.from_bytes(content)
            except (OSError, ValueError, ImageFileError, HeaderDataError) as error:
                raise ScanError(
                    f"{path}: the NIfTI header is damaged ({_first_line(error)}); export it again"
                ) from error
    raise ScanError(
        f"{path}: the content is not NIfTI-1 or NIfTI-2, whatever the name says; "
        "convert the scan to NIfTI"
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else "nothing more is known"


def _check_type(path: Path, image: Any) -> None:
    shape = image.shape
    if len(shape) != 3 and not (len(shape) > 3 and set(shape[3:]) == {1}):
        raise ScanError(
            f"{path}: a scan has three dimensions, found shape {shape}; extract one volume"
        )
    if min(shape) < 1 or int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise ScanError(
            f"{path}: a scan has 1 to {MAX_VOXELS} voxels, found shape {shape}; "
            "the header is damaged, export it again"
        )
    proxy: Any = image.dataobj
    dtype: np.dtype[Any] = proxy.dtype
    if dtype.fields is not None or not (
        np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)
    ):
        raise ScanError(
            f"{path}: a scan holds one real number a voxel, found {_type_name(dtype)}; "
            "export the magnitude as integers or floats"
        )


def _type_name(dtype: np.dtype[Any]) -> str:
    return f"colour ({', '.join(dtype.fields)})" if dtype.fields is not None else str(dtype)


def _world(path: Path, image: Any) -> tuple[Array, tuple[str, ...]]:
    header = image.header
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise ScanError(
            f"{path}: the affine cannot be read ({_first_line(error)}); export the scan again"
        ) from error
    affine = sform if sform is not None else qform
    if affine is None:
        raise ScanError(
            f"{path}: neither sform nor qform is set, so left and right are unknown; "
            "export the scan again with its orientation"
        )
    affine = np.asarray(affine, dtype=np.float64)
    _check_affine(path, affine)
    if sform is None or qform is None:
        return affine, ()
    return affine, _compare_forms(path, image.shape[:3], affine, np.asarray(qform, np.float64))


def _check_affine(path: Path, affine: Array) -> None:
    if not np.isfinite(affine).all():
        raise ScanError(f"{path}: the affine holds NaN or Inf; export the scan again")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not (lengths > 0).all():
        raise ScanError(
            f"{path}: voxel sizes must be above zero, found {_numbers(lengths)} mm; "
            "export the scan again"
        )
    # Of the unit axes, so that small voxels are not taken for a singular matrix.
    determinant = float(np.linalg.det(affine[:3, :3] / lengths))
    if abs(determinant) < 1e-3:
        raise ScanError(
            f"{path}: the affine is singular (determinant of its axes {determinant:.1g}); "
            "export the scan again"
        )


def _compare_forms(
    path: Path, shape: tuple[int, ...], sform: Array, qform: Array
) -> tuple[str, ...]:
    if not np.isfinite(qform).all() or np.linalg.det(qform[:3, :3]) == 0.0:
        return (f"{path}: the qform is not a usable affine; the sform is used",)
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise ScanError(
            f"{path}: sform and qform mirror each other, so left and right are in doubt; "
            "set the code of the wrong one to 0"
        )
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    apart = np.linalg.norm(apply_affine(sform, corners) - apply_affine(qform, corners), axis=1)
    if apart.max() <= _AGREE_MM:
        return ()
    return (f"{path}: sform and qform differ by up to {apart.max():.1f} mm; the sform is used",)


def _check_extent(path: Path, shape: tuple[int, ...], affine: Array) -> None:
    voxel_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if voxel_mm.max() > MAX_VOXEL_MM:
        raise ScanError(
            f"{path}: voxels are at most {MAX_VOXEL_MM:.0f} mm long, found {_numbers(voxel_mm)} mm;"
            " check the header's units, or take a finer scan"
        )
    extent_mm = voxel_mm * np.array(shape)
    if extent_mm.min() < MIN_EXTENT_MM or extent_mm.max() > MAX_EXTENT_MM:
        raise ScanError(
            f"{path}: a head's field of view is {MIN_EXTENT_MM:.0f} to {MAX_EXTENT_MM:.0f} mm "
            f"along each axis, found {_numbers(extent_mm)} mm (shape {tuple(shape)}); "
            "give a whole volume in mm, not a slice or slab"
        )


def _numbers(values: Array) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


# An offset beyond every file does not even fit the integers that read it.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    OverflowError,
    MemoryError,
    zlib.error,
    HeaderDataError,
)


def _read(path: Path, image: Any) -> NDArray[np.float32]:
    try:
        with np.errstate(all="ignore"):
            data = np.asanyarray(image.dataobj, dtype=np.float32)
    except _UNREADABLE as error:
        raise ScanError(
            f"{path}: the voxels cannot be read ({_first_line(error)}); "
            "the file is truncated or damaged, copy or export it again"
        ) from error
    return np.ascontiguousarray(data.reshape(image.shape[:3]))


def _check_values(path: Path, data: NDArray[np.float32]) -> None:
    low, high = float(data.min()), float(data.max())
    # min and max propagate NaN, so two passes find every kind of non-finite voxel.
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(np.count_nonzero(~np.isfinite(data)))
        raise ScanError(
            f"{path}: {count} voxels are NaN or infinite; replace them (0 for background)"
        )
    if low == high:
        raise ScanError(f"{path}: every voxel has the value {low:g}; export the scan again")


orientations: Any = _orientations  # nibabel's functions carry no types

_PIL = orientations.axcodes2ornt(("P", "I", "L"))


def to_pil(scan: Scan) -> Scan:
    """Reorder and flip the voxel axes so that they run posterior, inferior, left.

    Exact: voxels are moved, never interpolated, and the affine follows them, so that every voxel
    keeps its world position. An oblique scan stays oblique; its axes are the nearest to PIL.

    Args:
        scan: Scan of shape (I, J, K) in any of the 48 axis orientations.

    Returns:
        The same voxels, contiguous in memory, in the new order; world RAS is unchanged.
    """
    current = orientations.io_orientation(scan.affine)
    change = orientations.ornt_transform(current, _PIL)
    data = np.ascontiguousarray(orientations.apply_orientation(scan.data, change))
    affine = scan.affine @ orientations.inv_ornt_aff(change, scan.data.shape)
    return replace(scan, data=data, affine=affine)
