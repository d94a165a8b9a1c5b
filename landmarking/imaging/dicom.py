"""A DICOM series, in files of one slice or of many frames, as one volume in the patient's frame.

Slices are put in order by their positions (PS3.3 C.7.6.2), never by file names or numbers. Of the
header only geometry and intensities are read: nothing that names a patient leaves this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from landmarking.errors import ScanError
from landmarking.geometry import Array
from landmarking.imaging.formats import Volume, first_line, scan_files

SAME_MM = 0.01
"""Slices closer than this lie at one place."""

EVEN = 0.05
"""Distances between neighbouring slices differ by at most this share."""

STRAIGHT_MM = 0.5
"""A stack leans if its slices move sideways by more than this."""


@dataclass(frozen=True, eq=False)
class _Frame:
    """One slice.

    Attributes:
        position: Centre of its first pixel, LPS mm, shape (3,).
        axes: Directions along a row and along a column, shape (2, 3).
        pixel_mm: Distance between rows, and between columns.
        pixels: Intensities, shape (rows, columns).
    """

    position: Array
    axes: Array
    pixel_mm: tuple[float, float]
    pixels: NDArray[np.float32]


def read_dicom(path: Path) -> Volume:
    """Read the one series of a folder, or a multi-frame file.

    Args:
        path: Folder or file.

    Returns:
        The volume, rescaled to the units that the header states.

    Raises:
        ScanError: If there are several series, slices are missing, lean or lie twice, or the
            pixels cannot be read.
    """
    frames: list[_Frame] = []
    for dataset in _one_series(path):
        frames += _frames(path, dataset)
    return _stacked(path, frames)


def _one_series(path: Path) -> list[Any]:
    series: dict[str, list[Any]] = {}
    files = scan_files(path)
    for file in files:
        try:
            dataset = dcmread(file)
        except (InvalidDicomError, OSError, ValueError, EOFError, AttributeError) as error:
            raise ScanError(
                f"{file}: the DICOM file is damaged ({first_line(error)}); export it again"
            ) from error
        if "PixelData" in dataset:
            series.setdefault(str(dataset.get("SeriesInstanceUID", "")), []).append(dataset)
    if not series:
        raise ScanError(f"{path}: none of its {len(files)} DICOM files holds an image; check it")
    # Localisers and reports lie beside the scan in many exports.
    large = [each for each in series.values() if sum(map(_count, each)) >= 20]
    if len(large) > 1 or (not large and len(series) > 1):
        found = ", ".join(
            f"{each[0].get('SeriesNumber', '?')} ({sum(map(_count, each))} slices)"
            for each in sorted(series.values(), key=lambda each: -len(each))
        )
        raise ScanError(
            f"{path}: holds {len(series)} series, numbers {found}; put the T1 series into a "
            "folder of its own"
        )
    return large[0] if large else next(iter(series.values()))


def _count(dataset: Any) -> int:
    return int(dataset.get("NumberOfFrames", 1) or 1)


def _frames(path: Path, dataset: Any) -> Iterator[_Frame]:
    try:
        pixels = np.asarray(dataset.pixel_array)
    except Exception as error:  # decoders raise what they like
        raise ScanError(
            f"{path}: the pixels cannot be read ({first_line(error)}); convert the series with "
            "dcm2niix"
        ) from error
    if int(dataset.get("SamplesPerPixel", 1)) != 1:
        raise ScanError(
            f"{path}: a scan holds one real number a voxel, found colour; export the magnitude"
        )
    if pixels.ndim == 2:
        pixels = pixels[None]
    for number, frame in enumerate(pixels):
        groups = _groups(dataset, number)
        yield _frame(path, groups, np.asarray(frame, dtype=np.float32))


def _groups(dataset: Any, number: int) -> list[Any]:
    """Where attributes of a frame may stand: its own groups, the shared ones, the file."""
    found = []
    for sequence, index in (
        ("PerFrameFunctionalGroupsSequence", number),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        items = dataset.get(sequence)
        if items is not None and index < len(items):
            found += [element[0] for item in items[index] if (element := _items(item))]
    return [*found, dataset]


def _items(element: Any) -> Any:
    return element.value if element.VR == "SQ" and element.value else None


def _attribute(groups: Sequence[Any], name: str) -> Any:
    return next((group.get(name) for group in groups if group.get(name) is not None), None)


def _frame(path: Path, groups: Sequence[Any], pixels: NDArray[np.float32]) -> _Frame:
    position = _attribute(groups, "ImagePositionPatient")
    axes = _attribute(groups, "ImageOrientationPatient")
    spacing = _attribute(groups, "PixelSpacing")
    try:
        found = (
            np.array(position, dtype=np.float64).reshape(3),
            np.array(axes, dtype=np.float64).reshape(2, 3),
            np.array(spacing, dtype=np.float64).reshape(2),
        )
    except (TypeError, ValueError) as error:
        raise ScanError(
            f"{path}: a slice states no position, orientation or pixel spacing, so its place is "
            "unknown; export the original series"
        ) from error
    slope, offset = (_attribute(groups, key) for key in ("RescaleSlope", "RescaleIntercept"))
    scaled = pixels * float(1 if slope is None else slope) + float(offset or 0)
    if _attribute(groups, "PhotometricInterpretation") == "MONOCHROME1":
        scaled = scaled.max() + scaled.min() - scaled
    return _Frame(found[0], found[1], (float(found[2][0]), float(found[2][1])), scaled)


def _stacked(path: Path, frames: Sequence[_Frame]) -> Volume:
    first = frames[0]
    for frame in frames:
        if frame.pixels.shape != first.pixels.shape or not (
            np.allclose(frame.axes, first.axes, atol=1e-3)
            and np.allclose(frame.pixel_mm, first.pixel_mm, rtol=1e-3)
        ):
            raise ScanError(
                f"{path}: its slices differ in size or direction, as those of a localiser; put "
                "the T1 series into a folder of its own"
            )
    normal = np.cross(*first.axes)
    ordered = sorted(frames, key=lambda frame: float(frame.position @ normal))
    positions = np.array([frame.position for frame in ordered])
    steps = np.diff(positions @ normal)
    if len(ordered) < 2:
        raise ScanError(
            f"{path}: holds one slice; give the folder of the whole series, not a slice or slab"
        )
    if steps.min() < SAME_MM:
        raise ScanError(
            f"{path}: two slices lie at one place, so it holds several volumes (echoes, or phase "
            "and magnitude); put one of them into a folder of its own"
        )
    usual = float(np.median(steps))
    if np.abs(steps - usual).max() > EVEN * usual:
        missing = round(float(steps.max()) / usual) - 1
        raise ScanError(
            f"{path}: its slices are {steps.min():.3g} to {steps.max():.3g} mm apart, so "
            f"{max(missing, 1)} or more are missing; export the whole series"
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    if np.linalg.norm(step - (step @ normal) * normal) * len(positions) > STRAIGHT_MM:
        raise ScanError(
            f"{path}: the stack of slices leans (gantry tilt); resample it, as dcm2niix does"
        )
    matrix = np.eye(4)
    # PixelSpacing is the distance between rows first: it belongs to the direction of columns.
    matrix[:3, 0] = first.axes[0] * first.pixel_mm[1]
    matrix[:3, 1] = first.axes[1] * first.pixel_mm[0]
    matrix[:3, 2] = (step @ normal) * normal
    matrix[:3, 3] = positions[0]
    data = np.stack([frame.pixels.T for frame in ordered], axis=-1)
    return Volume(np.ascontiguousarray(data, dtype=np.float32), matrix)
