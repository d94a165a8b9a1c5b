"""The files of the mid-sagittal plane of one scan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmarking.geometry import Array
from landmarking.prediction.batch import Outcome, Record, attempt
from landmarking.prediction.clock import Clock
from landmarking.prediction.files import read_record
from landmarking.prediction.inputs import Target
from landmarking.prediction.midsagittal import (
    Midsagittal,
    aligned_volume,
    find_midsagittal,
    slice_volume,
)
from landmarking.prediction.predict_jobs import same_bytes
from landmarking.prediction.result import FORMAT
from landmarking.storage import atomic_path, file_sha256, write_text

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
    """

    target: Target
    output: Path
    spacing_mm: float = 1.0
    images: bool = True
    overwrite: bool = False

    def path(self, ending: str) -> Path:
        """A file of the scan's results."""
        return self.output / f"{self.target.stem}{ending}"


def finished(job: MspJob) -> dict[str, Any] | None:
    """The record of a scan whose results are there, of the same bytes and spacing.

    Args:
        job: The scan.
    """
    record = None if job.overwrite else read_record(job.path(RECORD))
    endings = (PLANE, ALIGNED, SLICE) if job.images else (PLANE,)
    if record is None or not all(job.path(ending).is_file() for ending in endings):
        return None
    same = record["spacing_mm"] == job.spacing_mm
    return record if same and same_bytes(job.target.scan, record) else None


def msp_job(job: MspJob) -> Outcome:
    """Find the plane of one scan and write its files.

    Args:
        job: The scan.
    """

    def make(clock: Clock) -> Record:
        job.path(RECORD).unlink(missing_ok=True)
        found = find_midsagittal(job.target.scan, job.spacing_mm, clock)
        if job.images:
            clock.timed("files", lambda: _write_images(job, found))
        write_plane(job.path(PLANE), found)
        record = {
            "format": FORMAT,
            "name": job.target.stem.rpartition("/")[2],
            "scan": str(job.target.scan),
            "scan_sha256": file_sha256(job.target.scan),
            "spacing_mm": job.spacing_mm,
            **found.record(),
        }
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        write_text(job.path(RECORD), text)
        return record

    return attempt(job, make)


def _write_images(job: MspJob, found: Midsagittal) -> None:
    write_nifti(job.path(SLICE), *slice_volume(found))
    write_nifti(job.path(ALIGNED), *aligned_volume(found))


def write_nifti(path: Path, data: NDArray[np.float32], affine: Array) -> None:
    """Write a volume in scanner coordinates, as a whole.

    Args:
        path: A `.nii.gz` file.
        data: Intensities, float32.
        affine: Voxel to world RAS mm, shape (4, 4).

    Raises:
        OSError: If it cannot be written.
    """
    nib: Any = import_module("nibabel")  # its constructors carry no types
    image = nib.Nifti1Image(data, affine)
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
