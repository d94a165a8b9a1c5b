"""Files of scans, whatever they are called: header, world and voxels, before any rule is applied.

Read are NIfTI-1 and -2 (one file, or `.hdr` with `.img`), packed or not whatever the name says;
FreeSurfer's MGH; NRRD (pynrrd); and DICOM, as a folder or a multi-frame file (pydicom). What may be
wrong with a head or its header is judged in `scan`.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from landmarking.errors import ScanError
from landmarking.files import file_sha256
from landmarking.geometry import Array

NIFTI = (".nii", ".nii.gz")
PAIR = (".hdr", ".img", ".hdr.gz", ".img.gz")
SUFFIXES = (*NIFTI, ".mgz", ".mgh", ".nrrd", ".nhdr", *PAIR)
"""Endings of file names that are scans; DICOM goes by content."""

KINDS = ".nii, .nii.gz, .mgz, .mgh, .hdr with .img, .nrrd, or a DICOM folder"

UNIT_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
"""NIfTI's units of length; unknown is taken as mm."""

SPARE_BYTES = 4096
"""As many bytes behind the voxels, or as a layer has, mean that the header counts them wrongly."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Opened:
    """A scan of which the header is read.

    Attributes:
        name: What messages call it: a path, or what the caller says.
        shape: Voxels along its axes.
        dtype: Type of the voxels as stored.
        read: Reads the voxels, scaled, in any type; may raise one of `UNREADABLE`.
        sform: Voxel to world RAS in `unit`, shape (4, 4), or None.
        qform: A second one that has to say the same, or None.
        voxel: Voxel sizes that the header states apart from the affines, shape (3,), or None.
        unit: Unit of length that the header states.
        spare: What a sform holds whose code says that it means nothing, shape (4, 4), or None.
        notes: Doubts that did not stop the reading.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], NDArray[Any]]
    sform: Array | None
    qform: Array | None = None
    voxel: Array | None = None
    unit: str = "mm"
    spare: Array | None = None
    notes: tuple[str, ...] = ()


UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    OverflowError,  # an offset beyond every file does not even fit the integers that read it
    MemoryError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    MGHError,
    np.linalg.LinAlgError,
)
"""What reading a header or voxels raises that are damaged."""


def scan_stem(name: str) -> str:
    """A file's name without the ending of a scan; other names stay whole."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.casefold().endswith(suffix):
            return name[: -len(suffix)]
    return name


def scan_files(path: Path) -> tuple[Path, ...]:
    """All files that a scan consists of: one, two of a pair, or those of a DICOM folder."""
    if path.is_dir():
        return tuple(sorted(file for file in path.iterdir() if is_dicom(file)))
    if path.name.casefold().endswith(PAIR):
        return tuple(_pair(path).values())
    return (path,)


def scan_sha256(path: Path) -> str:
    """SHA-256 of the bytes of a scan; of several files, of their digests in order.

    Raises:
        OSError: If a file cannot be read.
    """
    files = scan_files(path)
    if len(files) == 1:
        return file_sha256(files[0])
    return hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its content; hidden files are not."""
    if path.name.startswith(".") or path.name.casefold() == "dicomdir" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def first_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    return str(error).splitlines()[0] if str(error) else "nothing more is known"


def open_file(path: Path) -> Opened:
    """Read the header of a scan.

    Args:
        path: A file, or a folder of DICOM files.

    Raises:
        ScanError: If there is no scan, or none that can be read.
    """
    name = path.name.casefold()
    if path.is_dir():
        return _open_dicom(path)
    if not path.is_file():
        raise ScanError(f"{path}: {_nothing_there(path)}")
    if is_dicom(path):
        return _open_dicom(path)
    if name.endswith(PAIR):
        return _open_pair(path)
    content = _content(path)
    if content[:4] == b"NRRD":
        return _open_nrrd(path)
    if not name.endswith(SUFFIXES):
        raise ScanError(f"{path}: scans are read from {KINDS}; convert it to NIfTI")
    content = _unpacked(path, content)
    if content[:4] == b"NRRD":
        raise ScanError(f"{path}: holds NRRD packed as a whole; unpack it and call it .nrrd")
    if name.endswith((".mgz", ".mgh")) and content[:4] == b"\0\0\0\1":
        return _open_mgh(path, content)
    return _open_nifti(path, {"image": content})


def _nothing_there(path: Path) -> str:
    if path.is_symlink() and re.search(r"annex[/\\]objects", str(path.readlink())):
        return (
            "its content is not on this disk (a link of git-annex to nowhere); "
            f"run `datalad get {path}`"
        )
    if path.is_symlink():
        return f"a scan is a file, found nothing: it links to {path.readlink()}; check the link"
    return "a scan is a file, found nothing; check the path"


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScanError(
            f"{path}: cannot be read ({error.strerror or first_line(error)}); "
            "check its permissions, copy or export it again"
        ) from error
    if not content:
        raise ScanError(f"{path}: the file is empty (0 bytes); copy or export it again")
    if content.startswith(b"version https://git-lfs"):
        raise ScanError(
            f"{path}: holds a pointer of git LFS and not the scan; run `git lfs pull` there"
        )
    if b"annex/objects/" in content[:200]:
        raise ScanError(
            f"{path}: holds a pointer of git-annex and not the scan; run `datalad get {path}`"
        )
    if content[:512].lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ScanError(f"{path}: holds a web page and not the scan; download it again")
    return content


def _unpacked(path: Path, content: bytes) -> bytes:
    """The content without gzip, whatever the name says; what follows the stream is overlooked."""
    if content[:2] != b"\x1f\x8b":
        return content
    parts = []
    try:
        # All members, and each to its end, where its checksum tells of damage.
        while content[:2] == b"\x1f\x8b":
            stream = zlib.decompressobj(wbits=31)
            parts.append(stream.decompress(content) + stream.flush())
            if not stream.eof:
                raise EOFError("it ends too early")
            content = stream.unused_data
    except (EOFError, zlib.error, MemoryError) as error:
        raise ScanError(
            f"{path}: the gzip stream is truncated or damaged ({first_line(error)}); "
            "copy or export it again"
        ) from error
    return b"".join(parts)


def _open_nifti(path: Path, parts: Mapping[str, bytes]) -> Opened:
    single = len(parts) == 1
    head = parts["image" if single else "header"]
    kinds: tuple[Any, ...] = (nib.Nifti1Image, nib.Nifti2Image)
    kinds = kinds if single else (nib.Nifti1Pair, nib.Nifti2Pair)
    for kind in kinds:
        if not kind.header_class.may_contain_header(head[:1024]):
            continue
        try:
            size = kind.header_class.template_dtype.itemsize
            header = kind.header_class(head[:size], check=False)
            _check_header(path, header, len(parts["image"]), single)
            holders = {key: nib.FileHolder(fileobj=io.BytesIO(text)) for key, text in parts.items()}
            return opened_nifti(kind.from_file_map(holders), str(path))
        except (*UNREADABLE, KeyError) as error:
            raise ScanError(
                f"{path}: the NIfTI header is damaged ({first_line(error)}); export it again"
            ) from error
    what = "NIfTI-1 or NIfTI-2" if single else "NIfTI (Analyze states no left and right)"
    raise ScanError(
        f"{path}: the content is not {what}, whatever the name says; convert the scan to NIfTI"
    )


def _check_header(path: Path, header: Any, size: int, single: bool) -> None:
    """Refuse headers that miscount bytes: their voxels would come out shifted or mixed up."""
    if single and bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
        raise ScanError(
            f"{path}: its header is one of a pair (.hdr and .img); put it beside its .img, or "
            "export it again"
        )
    dtype = header.get_data_dtype()
    bits = dtype.itemsize * 8
    if int(header["bitpix"]) != bits:
        raise ScanError(
            f"{path}: the header says {int(header['bitpix'])} bits a voxel and the type {dtype}, "
            f"which has {bits}; export it again"
        )
    offset, least = float(header["vox_offset"]), header.single_vox_offset if single else 0
    if not least <= offset < math.inf or offset % 1:
        raise ScanError(
            f"{path}: vox_offset says that the voxels begin at byte {offset:g}, and the header "
            f"alone has {least}; export it again"
        )
    shape = sorted(int(n) for n in header["dim"][1 : int(header["dim"][0]) + 1] if n != 1)
    spare = size - offset - math.prod(shape) * dtype.itemsize
    # A dimension that is one too small leaves out a layer at least.
    layer = math.prod(shape[:2]) * dtype.itemsize
    if spare >= min(SPARE_BYTES, max(layer, 1)):
        raise ScanError(
            f"{path}: the file has {spare:.0f} bytes more than the voxels of shape "
            f"{header.get_data_shape()} take, so its header is of another scan; export it again"
        )


def opened_nifti(image: Any, name: str) -> Opened:
    """Header of a NIfTI image of nibabel.

    Args:
        image: `Nifti1Image`, `Nifti2Image` or one of a pair.
        name: What messages call it.
    """
    header = image.header
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except UNREADABLE as error:
        raise ScanError(
            f"{name}: the affine cannot be read ({first_line(error)}); export the scan again"
        ) from error
    notes: tuple[str, ...] = ()
    if float(np.nan_to_num(header["scl_slope"])) < 0.0:
        notes = (f"{name}: a negative scl_slope turns dark and bright round",)
    return Opened(
        name=name,
        shape=tuple(map(int, image.shape)),
        dtype=header.get_data_dtype(),
        read=lambda: np.asanyarray(image.dataobj, dtype=np.float32),
        sform=None if sform is None else np.asarray(sform, np.float64),
        qform=None if qform is None else np.asarray(qform, np.float64),
        voxel=np.abs(np.asarray(header["pixdim"][1:4], np.float64)),
        unit=_unit(header),
        spare=_spare(header),
        notes=notes,
    )


def _spare(header: Any) -> Array | None:
    """A sform of code 0, if anything was ever written there; qforms often keep what they had."""
    if int(header["sform_code"]) != 0:
        return None
    rows = np.array([header["srow_x"], header["srow_y"], header["srow_z"]], dtype=np.float64)
    return np.vstack([np.nan_to_num(rows), [0.0, 0.0, 0.0, 1.0]]) if rows.any() else None


def _unit(header: Any) -> str:
    try:
        return str(header.get_xyzt_units()[0])
    except KeyError:
        return "unknown"


def _pair(path: Path) -> dict[str, Path]:
    """Header and image of a pair, whichever of them is named and however they are packed."""
    stem = scan_stem(path.name)
    found = {}
    for key, end in (("header", ".hdr"), ("image", ".img")):
        names = (f"{stem}{end}", f"{stem}{end}.gz", f"{stem}{end.upper()}")
        there = [path.with_name(name) for name in names if path.with_name(name).exists()]
        if not there:
            raise ScanError(
                f"{path}: a scan of two files has a .hdr and an .img, found no {stem}{end}; put it "
                "beside the other"
            )
        found[key] = there[0]
    return found


def _open_pair(path: Path) -> Opened:
    parts = {key: _unpacked(part, _content(part)) for key, part in _pair(path).items()}
    # ITK and others write single files under the name of a pair.
    if parts["header"][344:347] == b"n+1":
        return _open_nifti(path, {"image": parts["header"]})
    return _open_nifti(path, parts)


def _open_mgh(path: Path, content: bytes) -> Opened:
    try:
        image: Any = nib.MGHImage.from_bytes(content)
    except UNREADABLE as error:
        raise ScanError(
            f"{path}: the MGH header is damaged ({first_line(error)}); export it again"
        ) from error
    opened = opened_mgh(image, str(path))
    # nibabel fills in a world where goodRASFlag, a short at byte 28, says that there is none.
    return opened if content[28:30] == b"\0\1" else replace(opened, sform=None, voxel=None)


def opened_mgh(image: Any, name: str) -> Opened:
    """Header of an MGH image of nibabel; arguments as for `opened_nifti`."""
    return Opened(
        name=name,
        shape=tuple(map(int, image.shape)),
        dtype=image.header.get_data_dtype(),
        read=lambda: np.asanyarray(image.dataobj, dtype=np.float32),
        sform=np.asarray(image.affine, np.float64),
        voxel=np.asarray(image.header.get_zooms()[:3], np.float64),
    )


_SPACES = {
    "ras": np.diag([1.0, 1.0, 1.0, 1.0]),
    "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "lps": LPS_TO_RAS,
}


def _open_nrrd(path: Path) -> Opened:
    nrrd = optional("nrrd", "pynrrd", path)
    try:
        # NRRD names units rarely; mm is what Slicer and ITK mean.
        header = nrrd.read_header(str(path))
        data, header = nrrd.read(str(path))
    except (*UNREADABLE, nrrd.NRRDError, KeyError, TypeError, IndexError) as error:
        raise ScanError(
            f"{path}: the NRRD file is damaged ({first_line(error)}); export it again"
        ) from error
    words = str(header.get("space", "")).casefold().replace("-time", "")
    space = "".join(word[:1] for word in words.split("-")) if "-" in words else words
    directions, origin = header.get("space directions"), header.get("space origin")
    if space not in _SPACES or directions is None or origin is None:
        raise ScanError(
            f"{path}: states no space with directions and origin, so left and right are unknown; "
            "save it from Slicer again, as .nrrd or .nii.gz"
        )
    rows = np.array(
        [np.full(3, np.nan) if row is None else row for row in directions], dtype=np.float64
    )
    along = np.asarray(np.isfinite(rows).all(axis=1))
    if along.sum() != 3 or np.shape(origin) != (3,):
        raise ScanError(
            f"{path}: a scan has three axes in space, found {int(along.sum())}; extract one volume"
        )
    others = [size for size, there in zip(data.shape, along, strict=True) if not there]
    order = [*np.flatnonzero(along), *np.flatnonzero(~along)]
    voxels = np.transpose(data, order)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rows[along].T, origin
    return Opened(
        name=str(path),
        shape=(*voxels.shape[:3], *others),
        dtype=data.dtype,
        read=lambda: voxels,
        sform=_SPACES[space] @ affine,
        unit=_nrrd_unit(header.get("space units")),
    )


def _nrrd_unit(units: Any) -> str:
    names = {str(unit).strip().strip('"') for unit in units or ()} or {"mm"}
    known = {"mm": "mm", "millimeter": "mm", "um": "micron", "m": "meter"}
    return known.get(names.pop(), "unknown") if len(names) == 1 else "unknown"


def _open_dicom(path: Path) -> Opened:
    if path.is_dir() and not scan_files(path):
        raise ScanError(
            f"{path}: a scan is a file, found a folder without DICOM files; name the scan itself"
        )
    optional("pydicom", "pydicom", path)
    volume = import_module("landmarking.imaging.dicom").read_dicom(path)
    return Opened(
        name=str(path),
        shape=volume.data.shape,
        dtype=volume.data.dtype,
        read=lambda: volume.data,
        sform=LPS_TO_RAS @ volume.voxel_to_lps,
        notes=volume.notes,
    )


def optional(module: str, package: str, path: Path) -> Any:
    """A library that only some formats need.

    Args:
        module: What is imported.
        package: What is installed.
        path: The scan that needs it.

    Raises:
        ScanError: If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ScanError(
            f'{path}: needs {package}; run `pip install "landmarking[formats]"`, or convert the '
            "scan to NIfTI"
        ) from error


@dataclass(frozen=True, eq=False)
class Volume:
    """A DICOM series as one volume.

    Attributes:
        data: Intensities, shape (I, J, K): along a row, along a column, from slice to slice.
        voxel_to_lps: Shape (4, 4), LPS mm, DICOM's patient frame.
        notes: Doubts, without anything that names the patient.
    """

    data: NDArray[np.float32]
    voxel_to_lps: Array
    notes: tuple[str, ...] = field(default=())
