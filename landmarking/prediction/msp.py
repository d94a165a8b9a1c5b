"""The mid-sagittal plane of a scan, images along it in the scan's world, and their files.

The *aligned frame* has its x axis along the plane's normal to the right, y to the front and z up
within the plane, turned as the registration has the head, and its origin on the plane, between
where the commissures are expected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.errors import ScanError
from landmarking.files import atomic_path, write_text
from landmarking.geometry import Array, Plane, SliceGeometry, apply_affine
from landmarking.imaging.pipeline import (
    PreprocessSettings,
    plane_stage,
    register_stage,
    slice_stage,
)
from landmarking.imaging.quality import refusal, scan_flags
from landmarking.imaging.registration import CENTRE_MM
from landmarking.imaging.scan import Scan, as_scan, scan_sha256, to_pil
from landmarking.prediction.batch import (
    FORMAT,
    Clock,
    Outcome,
    Record,
    Target,
    Writer,
    attempt,
    changed_files,
    read_record,
    refuse_changed,
    remove_results,
    write_set,
)
from landmarking.prediction.outputs import same_bytes

REACH_MM = 256.0
"""Edge of the square that the mid-sagittal slice covers."""


@dataclass(frozen=True, eq=False)
class Midsagittal:
    """The plane of a scan.

    Attributes:
        scan: The scan in PIL order.
        geometry: Where the mid-sagittal slice lies.
        image: The slice, float32, shape (rows, columns).
        origin_mm: Origin of the aligned frame in world RAS mm, shape (3,).
        quality: Figures of the pipeline.
    """

    scan: Scan
    geometry: SliceGeometry
    image: NDArray[np.float32]
    origin_mm: Array
    quality: Mapping[str, float | str | bool]

    @property
    def plane(self) -> Plane:
        """The plane in world RAS mm."""
        return self.geometry.plane

    @property
    def aligned_to_world(self) -> Array:
        """Aligned frame (right, front, up in mm) to world RAS mm, shape (4, 4), rigid."""
        matrix = np.eye(4)
        posterior, inferior = self.geometry.pixel_to_world[:3, :2].T
        matrix[:3, 0] = -self.plane.normal
        matrix[:3, 1] = -posterior / np.linalg.norm(posterior)
        matrix[:3, 2] = -inferior / np.linalg.norm(inferior)
        matrix[:3, 3] = self.origin_mm
        return matrix

    @property
    def tilt_deg(self) -> tuple[float, float]:
        """Yaw (turned to the left) and roll (tilted to the right shoulder), degrees.

        Of the plane against the scan's own sagittal direction.
        """
        right, front, up = -self.plane.normal
        return (
            float(np.rad2deg(np.arctan2(front, right))),
            float(np.rad2deg(np.arctan2(-up, right))),
        )

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        yaw, roll = self.tilt_deg
        to_world = self.aligned_to_world
        return {
            "frame": "world RAS mm",
            "plane": {"normal": self.plane.normal.tolist(), "offset_mm": self.plane.offset_mm},
            "yaw_deg": yaw,
            "roll_deg": roll,
            "aligned_to_world": to_world.tolist(),
            "world_to_aligned": np.linalg.inv(to_world).tolist(),
            "flags": list(scan_flags(self.quality)),
            "quality": {
                key: None if isinstance(value, float) and not np.isfinite(value) else value
                for key, value in self.quality.items()
            },
        }


def find_midsagittal(
    source: Path | Scan, spacing_mm: float, clock: Clock, *, allow_scaled: bool = False
) -> Midsagittal:
    """Find the plane of a scan, as the pipeline does for a model's slices.

    Args:
        source: File or DICOM folder, or a scan.
        spacing_mm: Pixel size of the slice.
        clock: Takes the time of each stage.
        allow_scaled: Read a scan whose header stretches its voxels.

    Raises:
        ScanError: If the scan cannot be read or is no head.
    """
    size = round(REACH_MM / spacing_mm)
    settings = PreprocessSettings(slice_size=size, crop=[0, size], spacing_mm=spacing_mm)
    scan = clock.timed("read", lambda: as_scan(source, allow_scaled=allow_scaled))
    canonical = clock.timed("read", lambda: to_pil(scan))
    registration = clock.timed("registration", lambda: register_stage(canonical, settings))
    found = clock.timed("plane", lambda: plane_stage(canonical, registration, settings))
    cut = clock.timed("slice", lambda: slice_stage(canonical, registration, found, settings))
    if reason := refusal(cut.qc, np.full(0, np.nan)):
        raise ScanError(f"{scan.name}: {reason}")
    middle = apply_affine(np.linalg.inv(registration.world_to_common), CENTRE_MM)
    return Midsagittal(
        canonical, cut.geometry, cut.image, cut.geometry.plane.project(middle), cut.qc
    )


def msp(
    scan: Any, *, affine: Any = None, spacing_mm: float = 1.0, allow_scaled: bool = False
) -> Midsagittal:
    """Find the mid-sagittal plane of a T1 scan; nothing is written.

    Args:
        scan: As for `landmarking.predict`.
        affine: Of an array: voxel to world RAS mm, shape (4, 4).
        spacing_mm: Pixel size of the slice.
        allow_scaled: Read a scan whose header stretches its voxels.

    Returns:
        Plane in the scan's world RAS mm, slice, aligned frame and figures.

    Raises:
        ScanError: If the scan cannot be read or is no head.

    Example:
        >>> msp("scan.nii.gz").plane.normal  # doctest: +SKIP
        array([-0.99994,  0.0101 ,  0.0032 ])
    """
    is_path = isinstance(scan, str | Path)
    source = Path(scan) if is_path else as_scan(scan, affine, allow_scaled=allow_scaled)
    return find_midsagittal(source, spacing_mm, Clock(), allow_scaled=allow_scaled)


def slice_volume(found: Midsagittal) -> tuple[NDArray[np.float32], Array]:
    """The mid-sagittal slice as a volume of one layer.

    Args:
        found: The plane.

    Returns:
        Intensities, float32, shape (1, columns, rows), axes right, front and up; and the matrix
        from voxel to world RAS mm, shape (4, 4).
    """
    matrix = _right_front_up(found.geometry, found.image.shape, layers_to_left=0.0)
    return np.ascontiguousarray(found.image.T[None, ::-1, ::-1]), matrix


def aligned_volume(found: Midsagittal) -> tuple[NDArray[np.float32], Array]:
    """The whole scan, resampled once so that the plane is its middle layer.

    The voxels of that layer are pixels of the mid-sagittal slice, or lie on the same grid.

    Args:
        found: The plane.

    Returns:
        Intensities, float32, axes right, front and up; and the matrix from voxel to world RAS mm,
        shape (4, 4). Voxels outside the scan hold its lowest intensity.
    """
    shape, matrix = _aligned_grid(found)
    scan = found.scan
    lowest, highest = float(scan.data.min()), float(scan.data.max())
    coefficients = ndimage.spline_filter(scan.data, 3, output=np.float32, mode="mirror")
    to_voxel = np.linalg.inv(scan.affine) @ matrix
    data = ndimage.affine_transform(
        coefficients,
        to_voxel[:3, :3],
        to_voxel[:3, 3],
        output_shape=shape,
        output=np.float32,
        order=3,
        cval=lowest,
        prefilter=False,
    )
    return np.clip(data, lowest, highest, out=data), matrix


def _aligned_grid(found: Midsagittal) -> tuple[tuple[int, int, int], Array]:
    """Voxels that hold the whole scan, on the slice's own grid; the same number on either side."""
    geometry, scan = found.geometry, found.scan
    step_mm = float(np.linalg.norm(geometry.pixel_to_world[:3, 0]))
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(scan.data.shape) - 1)
    pixels = apply_affine(
        np.linalg.inv(geometry.pixel_to_world), apply_affine(scan.affine, corners)
    )
    low = np.floor(pixels[:, :2].min(axis=0)).astype(int)
    high = np.ceil(pixels[:, :2].max(axis=0)).astype(int) + 1
    layers = int(np.ceil(np.abs(pixels[:, 2]).max() / step_mm))
    whole = geometry.cropped(slice(low[0], high[0]), slice(low[1], high[1]))
    matrix = _right_front_up(whole, whole.shape, layers_to_left=float(layers))
    return (2 * layers + 1, whole.shape[1], whole.shape[0]), matrix


def _right_front_up(
    geometry: SliceGeometry, shape: tuple[int, ...], layers_to_left: float
) -> Array:
    """Voxel (right, front, up) to world of a slice's grid, whose pixels run back and down."""
    rows, columns = shape
    step_mm = float(np.linalg.norm(geometry.pixel_to_world[:3, 0]))
    turn = np.array(
        [
            [0.0, -1.0, 0.0, columns - 1.0],
            [0.0, 0.0, -1.0, rows - 1.0],
            [-step_mm, 0.0, 0.0, layers_to_left * step_mm],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    return np.asarray(geometry.pixel_to_world @ turn)


RECORD = "_msp.json"
PLANE = "_msp.mrk.json"
ALIGNED = "_aligned.nii.gz"
SLICE = "_slice.nii.gz"

PLANE_MM = 200.0
"""Edge of the square that Slicer draws."""


@dataclass(frozen=True)
class MspJob:
    """One scan whose plane is wanted.

    Attributes:
        target: The scan and the names of its results.
        output: Folder of the results.
        spacing_mm: Voxel size of the images.
        images: Whether to write them.
        overwrite: Do again what is finished.
        allow_scaled: Read scans whose header stretches their voxels.
    """

    target: Target
    output: Path
    spacing_mm: float = 1.0
    images: bool = True
    overwrite: bool = False
    allow_scaled: bool = False

    @property
    def stem(self) -> Path:
        """Path of the scan's results without their endings."""
        return self.output / self.target.stem

    @property
    def endings(self) -> tuple[str, ...]:
        """Endings of the files beside the record."""
        return (PLANE, ALIGNED, SLICE) if self.images else (PLANE,)

    def path(self, ending: str) -> Path:
        """A file of the scan's results."""
        return self.output / f"{self.target.stem}{ending}"


def msp_finished(job: MspJob) -> dict[str, Any] | None:
    """The record of a scan whose results are there, of the same bytes and spacing.

    Args:
        job: The scan.
    """
    record = None if job.overwrite else read_record(job.path(RECORD))
    if record is None or changed_files(job.stem, RECORD, job.endings):
        return None
    if not all(job.path(ending).is_file() for ending in job.endings):
        return None
    same = record["spacing_mm"] == job.spacing_mm
    return record if same and same_bytes(job.target.scan, record) else None


def msp_job(job: MspJob) -> Outcome:
    """Find the plane of one scan and write its files.

    Args:
        job: The scan.
    """

    def make(clock: Clock) -> Record:
        refuse_changed(job.stem, RECORD, job.endings)
        remove_results(job.stem, RECORD)
        found = find_midsagittal(
            job.target.scan, job.spacing_mm, clock, allow_scaled=job.allow_scaled
        )
        writers: dict[str, Writer] = {PLANE: lambda path: write_plane(path, found)}
        if job.images:
            writers[SLICE] = lambda path: write_nifti(path, *slice_volume(found), found.scan.zero)
            writers[ALIGNED] = lambda path: write_nifti(
                path, *aligned_volume(found), found.scan.zero
            )
        record = {
            "format": FORMAT,
            "name": job.target.stem.rpartition("/")[2],
            "scan": str(job.target.scan),
            "scan_sha256": scan_sha256(job.target.scan),
            "spacing_mm": job.spacing_mm,
            **found.record(),
        }
        return clock.timed("files", lambda: write_set(job.stem, RECORD, record, writers))

    return attempt(job, make)


def write_nifti(path: Path, data: NDArray[np.float32], affine: Array, zero: float = 0.0) -> None:
    """Write a volume in scanner coordinates, as a whole.

    Args:
        path: A `.nii.gz` file.
        data: Intensities, float32.
        affine: Voxel to world RAS mm, shape (4, 4).
        zero: What `data` has as 0, see `Scan.zero`.

    Raises:
        OSError: If it cannot be written.
    """
    nib: Any = import_module("nibabel")  # its constructors carry no types
    image = nib.Nifti1Image(data + np.float32(zero) if zero else data, affine)
    # 65,536 levels between the lowest and the highest intensity, in half the bytes.
    image.set_data_dtype(np.int16)
    # Aligned to the anatomy of another file: both forms say the same.
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=2)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def write_plane(path: Path, found: Midsagittal) -> None:
    """Write the plane for 3D Slicer (Markups, schema 1.0.3), in RAS as the file says.

    Slicer takes centre and axes from `baseToNode`; the plane's own z axis is its normal.

    Args:
        path: A `.mrk.json` file.
        found: The plane.

    Raises:
        OSError: If it cannot be written.
    """
    origin, axes = found.origin_mm, found.aligned_to_world[:3, :3]
    # The plane's x, y and z are the head's front, up and right: right-handed.
    base = np.eye(4)
    base[:3, :3], base[:3, 3] = axes[:, [1, 2, 0]], origin
    half = PLANE_MM / 2
    markup = {
        "type": "Plane",
        "coordinateSystem": "RAS",
        "coordinateUnits": "mm",
        "locked": True,
        "fixedNumberOfControlPoints": True,
        "planeType": "pointNormal",
        "sizeMode": "absolute",
        "center": origin.tolist(),
        "normal": base[:3, 2].tolist(),
        "objectToBase": np.eye(4).ravel().tolist(),
        "baseToNode": base.ravel().tolist(),
        "orientation": base[:3, :3].ravel().tolist(),
        "size": [PLANE_MM, PLANE_MM, 0.0],
        "planeBounds": [-half, half, -half, half],
        "controlPoints": [
            {
                "id": "1",
                "label": "MSP",
                "position": origin.tolist(),
                "positionStatus": "defined",
                "selected": True,
                "locked": True,
                "visibility": True,
            }
        ],
        "display": {"visibility": True, "opacity": 0.4, "color": [0.34, 0.71, 0.91]},
    }
    schema = (
        "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/"
        "Resources/Schema/markups-schema-v1.0.3.json#"
    )
    write_text(path, json.dumps({"@schema": schema, "markups": [markup]}, indent=1) + "\n")
