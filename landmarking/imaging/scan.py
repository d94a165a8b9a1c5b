"""Load a scan, refuse what is no three-dimensional head, and turn its axes to PIL.

One set of rules for every road: files of any format, images of nibabel and SimpleITK, and arrays.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import orientations as _orientations
from numpy.typing import NDArray

from landmarking.errors import ScanError
from landmarking.geometry import Array, apply_affine
from landmarking.imaging.formats import (
    LPS_TO_RAS,
    UNIT_MM,
    UNREADABLE,
    Opened,
    first_line,
    open_file,
    opened_mgh,
    opened_nifti,
    scan_sha256,
    scan_stem,
)

__all__ = ["Scan", "as_scan", "load_scan", "scan_sha256", "to_pil"]

_LOGGER = logging.getLogger(__name__)


MIN_EXTENT_MM = 60.0
"""A field of view below this along an axis holds no brain (or its header is not in mm)."""

MAX_EXTENT_MM = 1000.0
"""A field of view above this along an axis is no head (or its header is not in mm)."""

MAX_VOXEL_MM = 10.0
"""Voxels longer than this show no landmark."""

MIN_VOXELS = 30
"""Fewer slices than this, along any axis, show no landmark."""

MAX_VOXELS = 1024**3
"""Refused before reading: a damaged header may promise any size."""

MAX_SKEW = 0.002
"""Largest cosine between two axes; 0.1 degrees move a point at the border by 0.3 mm."""

SAME_SIZE = 0.01
"""Voxel sizes of affine and header differ by at most this share."""

AGREE_MM, AGREE_DEG = 1.0, 2.0
"""Sform and qform that differ by more, at a corner or in angle, are refused."""

_NOTED_MM = 0.1

MIN_FINITE = 0.02
"""A scan with fewer finite voxels than this share holds no head."""

MASK_SHARE = 0.05
"""Voxels that are not finite are the background of a mask from this share on."""

ALLOW_SCALED = (
    "where that is meant (a scan in template space), say --allow-scaled (allow_scaled=true), and "
    "positions are in that space's mm; else export the scan again"
)

SCALED = "the affine stretches the voxels"
"""Begins the note of a scan that was read with `allow_scaled`."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A three-dimensional scan and its place in the world.

    Attributes:
        data: Intensities, float32, shape (I, J, K), finite.
        affine: Voxel to world RAS mm, shape (4, 4).
        name: What messages call it: the file's name without suffix.
        notes: Doubts that did not stop the reading, one sentence each.
        zero: Intensity in the file that `data` has as 0.
    """

    data: NDArray[np.float32]
    affine: Array
    name: str
    notes: tuple[str, ...] = ()
    zero: float = 0.0

    @property
    def voxel_mm(self) -> Array:
        """Voxel edge lengths in mm, shape (3,)."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))


def load_scan(path: Path, *, allow_scaled: bool = False) -> Scan:
    """Read a scan: NIfTI (one file or a pair), MGH, NRRD or DICOM (a folder, or many frames).

    What a name promises is not believed: packed and plain files are told by their content. The
    sform is the world where its code is set, else the qform; a file with neither states no left
    and right and is refused. So are forms that differ by over 1 mm at a corner or 2 degrees, axes
    that are not at right angles, and a world that stretches the voxels. Smaller doubts are logged
    and noted. Dimensions of length one are dropped; voxels that are not finite are background.

    Args:
        path: File or folder to read.
        allow_scaled: Read a scan whose world stretches its voxels, as in template space.

    Returns:
        The scan, float32, in the voxel order of the file.

    Raises:
        ScanError: If the file cannot be read, is not 3-D and real-valued, has no usable affine, or
            holds no picture.
    """
    return checked(open_file(path), scan_stem(path.name), allow_scaled=allow_scaled)


def as_scan(
    source: Any, affine: Any = None, *, name: str = "scan", allow_scaled: bool = False
) -> Scan:
    """A scan from whatever holds one, by the same rules as a file.

    Args:
        source: Path, `Scan`, image of nibabel or SimpleITK, or array of shape (I, J, K).
        affine: Of an array: voxel to world RAS mm, shape (4, 4).
        name: What messages call it, where it has no file.
        allow_scaled: As for `load_scan`.

    Raises:
        ScanError: As `load_scan`, or if it is none of these.
    """
    if isinstance(source, Scan):
        return source
    if isinstance(source, str | Path):
        return load_scan(Path(source), allow_scaled=allow_scaled)
    opened = _opened(source, affine, name)
    return checked(opened, name, allow_scaled=allow_scaled)


def _opened(source: Any, affine: Any, name: str) -> Opened:
    if isinstance(source, np.ndarray):
        matrix = None if affine is None else np.asarray(affine, dtype=np.float64)
        if matrix is None or matrix.shape != (4, 4):
            raise ScanError(
                f"{name}: an array needs affine=MATRIX, voxel to world RAS mm of shape (4, 4), "
                f"found {None if matrix is None else matrix.shape}; give it"
            )
        return Opened(name, source.shape, source.dtype, lambda: source, matrix)
    if hasattr(source, "GetDirection") and hasattr(source, "GetOrigin"):
        return _opened_itk(source, name)
    header = getattr(source, "header", None)
    if hasattr(header, "get_sform"):
        return opened_nifti(source, name)
    if header is not None and hasattr(source, "dataobj"):
        if hasattr(header, "get_vox2ras"):
            return opened_mgh(source, name)
        dtype = header.get_data_dtype()
        read = lambda: np.asanyarray(source.dataobj)  # noqa: E731
        return Opened(name, tuple(source.shape), dtype, read, source.affine)
    raise ScanError(
        f"{name}: a scan is a path, an image of nibabel or SimpleITK, or an array with affine=, "
        f"found {type(source).__name__}; give one of these"
    )


def _opened_itk(image: Any, name: str) -> Opened:
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ScanError(
            f"{name}: a scan has three dimensions and one number a voxel, found "
            f"{image.GetDimension()} and {image.GetNumberOfComponentsPerPixel()}; "
            "extract one volume"
        )
    array = import_module("SimpleITK").GetArrayFromImage(image)
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    # ITK's arrays run slice, row, column.
    return Opened(name, array.T.shape, array.dtype, lambda: array.T, LPS_TO_RAS @ matrix)


def checked(opened: Opened, stem: str, *, allow_scaled: bool = False) -> Scan:
    """Apply every rule to a scan whose header is read, and read its voxels.

    Args:
        opened: The scan.
        stem: Its name without ending.
        allow_scaled: As for `load_scan`.

    Raises:
        ScanError: If it breaks a rule.
    """
    name = opened.name
    _check_type(name, opened)
    affine, notes = _world(name, opened, allow_scaled)
    _check_extent(name, opened.shape[:3], affine)
    data, more = _check_values(name, _read(name, opened))
    data, zero, last = _from_zero(name, data)
    notes = (*opened.notes, *notes, *more, *last)
    for note in notes:
        _LOGGER.warning(note)
    return Scan(data, affine, stem, notes, zero)


def _check_type(name: str, opened: Opened) -> None:
    shape, dtype = opened.shape, opened.dtype
    if len(shape) != 3 and not (len(shape) > 3 and set(shape[3:]) == {1}):
        raise ScanError(
            f"{name}: a scan has three dimensions, found shape {shape}; extract one volume"
        )
    if min(shape) < 1 or int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise ScanError(
            f"{name}: a scan has 1 to {MAX_VOXELS} voxels, found shape {shape}; "
            "the header is damaged, export it again"
        )
    if dtype.fields is not None or not (
        np.issubdtype(dtype, np.integer)
        or np.issubdtype(dtype, np.floating)
        or np.issubdtype(dtype, np.bool_)
    ):
        raise ScanError(
            f"{name}: a scan holds one real number a voxel, found {_type_name(dtype)}; "
            "export the magnitude as integers or floats"
        )


def _type_name(dtype: np.dtype[Any]) -> str:
    return f"colour ({', '.join(dtype.fields)})" if dtype.fields is not None else str(dtype)


def _world(name: str, opened: Opened, allow_scaled: bool) -> tuple[Array, tuple[str, ...]]:
    affine = opened.sform if opened.sform is not None else opened.qform
    if affine is None:
        raise ScanError(
            f"{name}: neither sform nor qform is set, so left and right are unknown; "
            "export the scan again with its orientation"
        )
    unit_mm, notes = _unit_mm(name, opened, affine)
    affine = _in_mm(affine, unit_mm)
    _check_affine(name, affine)
    if opened.sform is not None and opened.qform is not None:
        qform = _in_mm(opened.qform, unit_mm)
        notes += _compare_forms(name, opened.shape[:3], affine, qform, allow_scaled)
    notes += _compare_spare(name, opened, affine, unit_mm)
    if opened.voxel is not None:
        notes += _compare_sizes(name, affine, opened.voxel * unit_mm, allow_scaled)
    return affine, notes


def _in_mm(affine: Array, unit_mm: float) -> Array:
    return np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ affine


def _unit_mm(name: str, opened: Opened, affine: Array) -> tuple[float, tuple[str, ...]]:
    """The unit in mm, unless a head only has its size in mm whatever the header says."""
    unit_mm = UNIT_MM.get(opened.unit, 1.0)
    if unit_mm == 1.0:
        return 1.0, ()
    extent = np.linalg.norm(affine[:3, :3], axis=0) * opened.shape[:3]
    if _is_head(extent * unit_mm) or not _is_head(extent):
        return unit_mm, ()
    note = f"{name}: the header's unit is {opened.unit}, and its sizes are those of a head in mm"
    return 1.0, (note,)


def _is_head(extent_mm: Array) -> bool:
    return bool(extent_mm.min() >= MIN_EXTENT_MM and extent_mm.max() <= MAX_EXTENT_MM)


def _check_affine(name: str, affine: Array) -> None:
    if not np.isfinite(affine).all():
        raise ScanError(f"{name}: the affine holds NaN or Inf; export the scan again")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not (lengths > 0).all():
        raise ScanError(
            f"{name}: voxel sizes must be above zero, found {_numbers(lengths)} mm; "
            "export the scan again"
        )
    if not np.allclose(affine[3], [0.0, 0.0, 0.0, 1.0]):
        raise ScanError(
            f"{name}: the last row of an affine is 0 0 0 1, found {_numbers(affine[3])}; give "
            "voxel to world RAS mm"
        )
    # Of the unit axes, so that small voxels are not taken for a singular matrix.
    axes = affine[:3, :3] / lengths
    determinant = float(np.linalg.det(axes))
    if abs(determinant) < 1e-3:
        raise ScanError(
            f"{name}: the affine is singular (determinant of its axes {determinant:.1g}); "
            "export the scan again"
        )
    skew = float(np.abs((axes.T @ axes)[np.triu_indices(3, 1)]).max())
    if skew > MAX_SKEW:
        raise ScanError(
            f"{name}: the axes of a scan are at right angles, found "
            f"{90.0 - np.rad2deg(np.arcsin(min(skew, 1.0))):.1f} degrees (sheared, as after an "
            "affine registration); resample it on a grid of its own, or export it again"
        )


def _compare_forms(
    name: str, shape: tuple[int, ...], sform: Array, qform: Array, allow_scaled: bool
) -> tuple[str, ...]:
    if not np.isfinite(qform).all() or np.linalg.det(qform[:3, :3]) == 0.0:
        return (f"{name}: the qform is not a usable affine; the sform is used",)
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise ScanError(
            f"{name}: sform and qform mirror each other, so left and right are in doubt; "
            "set the code of the wrong one to 0"
        )
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    apart = np.linalg.norm(apply_affine(sform, corners) - apply_affine(qform, corners), axis=1)
    angle = _angle_deg(sform, qform)
    if (apart.max() > AGREE_MM or angle > AGREE_DEG) and not allow_scaled:
        raise ScanError(
            f"{name}: sform and qform differ by up to {apart.max():.1f} mm and {angle:.1f} degrees "
            f"({AGREE_MM:g} mm and {AGREE_DEG:g} degrees are allowed), so the place of the head is "
            "in doubt; set the code of the wrong one to 0 (nibabel: "
            "image.set_qform(None, code=0)), or, where the sform leads to template space, say "
            "--allow-scaled (allow_scaled=true)"
        )
    if apart.max() <= _NOTED_MM:
        return ()
    return (f"{name}: sform and qform differ by up to {apart.max():.1f} mm; the sform is used",)


def _compare_spare(name: str, opened: Opened, affine: Array, unit_mm: float) -> tuple[str, ...]:
    """A note where a sform of code 0 holds something else than the qform that is used."""
    if opened.spare is None:
        return ()
    spare = _in_mm(opened.spare, unit_mm)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(opened.shape[:3]) - 1)
    apart = np.linalg.norm(apply_affine(spare, corners) - apply_affine(affine, corners), axis=1)
    if apart.max() <= AGREE_MM:
        return ()
    return (
        f"{name}: the sform, whose code is 0, holds another place of the head; the qform is used",
    )


def _angle_deg(first: Array, second: Array) -> float:
    """Angle of the rotation between two affines, without their scales."""
    axes = [matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (first, second)]
    turn = axes[0] @ axes[1].T
    return float(np.rad2deg(np.arccos(np.clip((np.trace(turn) - 1.0) / 2.0, -1.0, 1.0))))


def _compare_sizes(
    name: str, affine: Array, voxel_mm: Array, allow_scaled: bool
) -> tuple[str, ...]:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if np.allclose(lengths, voxel_mm, rtol=SAME_SIZE, atol=0.0):
        return ()
    what = f"{SCALED}: they are {_numbers(voxel_mm)} mm, and {_numbers(lengths)} mm in its world"
    if not allow_scaled:
        raise ScanError(f"{name}: {what}; {ALLOW_SCALED}")
    return (f"{name}: {what}",)


def _check_extent(name: str, shape: tuple[int, ...], affine: Array) -> None:
    voxel_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if voxel_mm.max() > MAX_VOXEL_MM:
        raise ScanError(
            f"{name}: voxels are at most {MAX_VOXEL_MM:.0f} mm long, found {_numbers(voxel_mm)} mm;"
            " check the header's units, or take a finer scan"
        )
    extent_mm = voxel_mm * np.array(shape)
    if not _is_head(extent_mm):
        raise ScanError(
            f"{name}: a head's field of view is {MIN_EXTENT_MM:.0f} to {MAX_EXTENT_MM:.0f} mm "
            f"along each axis, found {_numbers(extent_mm)} mm (shape {tuple(shape)}); "
            "give a whole volume in mm, not a slice or slab"
        )
    if min(shape) < MIN_VOXELS:
        raise ScanError(
            f"{name}: a scan has at least {MIN_VOXELS} slices along each axis, found shape "
            f"{tuple(shape)}; take a three-dimensional T1 scan"
        )


def _numbers(values: Array) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _read(name: str, opened: Opened) -> NDArray[np.float32]:
    try:
        with np.errstate(all="ignore"):
            data = np.asarray(opened.read(), dtype=np.float32)
    except UNREADABLE as error:
        raise ScanError(
            f"{name}: the voxels cannot be read ({first_line(error)}); "
            "the file is truncated or damaged, copy or export it again"
        ) from error
    return np.ascontiguousarray(data.reshape(opened.shape[:3]))


MAX_VALUE = 1e30
"""No scanner writes such intensities; what reaches them is as good as infinite."""


def _check_values(
    name: str, data: NDArray[np.float32]
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    low, high = float(data.min()), float(data.max())
    notes: tuple[str, ...] = ()
    # min and max propagate NaN, so two passes find every kind of non-finite voxel.
    if not (low > -MAX_VALUE and high < MAX_VALUE):
        finite = np.abs(data) < MAX_VALUE
        share = float(finite.mean())
        if share < MIN_FINITE:
            raise ScanError(
                f"{name}: {1.0 - share:.1%} of the voxels are NaN or infinite; export the scan "
                "again"
            )
        low, high = float(data[finite].min()), float(data[finite].max())
        # Zero is background, unless the scan has values below it.
        data = np.where(finite, data, np.float32(min(low, 0.0)))
        # A mask is meant to be there; single voxels are not.
        if share > 1.0 - MASK_SHARE:
            count = int(data.size - np.count_nonzero(finite))
            notes = (f"{name}: {count} voxels are NaN or infinite and taken as background",)
    if low == high:
        raise ScanError(f"{name}: every voxel has the value {low:g}; export the scan again")
    return data, notes


LOW_SHARE = 0.05
"""Intensities below zero count from this share of the intensity range on; ringing stays below."""


def _from_zero(
    name: str, data: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float, tuple[str, ...]]:
    """Intensities that begin at zero, as air has it in MRI.

    An offset as in CT numbers (air at -1024), ratios about zero (MP2RAGE, -0.5 to 0.5) and brains
    that were standardised (outside 0, inside on both sides of it) are shifted.

    Returns:
        Intensities, what was 0 before, and doubts.
    """
    sample = data[::3, ::3, ::3]
    low, high = (float(value) for value in np.percentile(sample, [2.0, 99.5]))
    if low >= 0.0 or low >= -LOW_SHARE * (high - low):
        return data, 0.0, ()
    notes: tuple[str, ...] = ()
    outside = data == 0.0
    if float(np.count_nonzero(outside)) > 0.2 * data.size and high > 0.0:
        data = np.where(outside, np.float32(low), data)
        notes = (f"{name}: zero stands for background among values below and above it",)
    # The border of a scan shows air, or nothing.
    faces = [np.take(sample, end, axis) for axis in range(3) for end in (0, -1)]
    air = float(np.median(np.concatenate([face.ravel() for face in faces])))
    floor = air if air < low + 0.1 * (high - low) else low
    return np.maximum(data - np.float32(floor), np.float32(0.0)), floor, notes


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
