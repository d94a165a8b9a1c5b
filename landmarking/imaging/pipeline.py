"""Scan to slice: the stages in order.

    canonical PIL -> registration -> mid-sagittal plane -> one resampling -> crop

The slice lies on the mid-sagittal plane that was found in the scan's own world; the common space
only decides where on that plane the pixels lie. Every slice keeps its geometry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmarking.errors import ConfigError, ScanError
from landmarking.geometry import LEFT, Array, Plane, SliceGeometry, apply_affine
from landmarking.imaging.intensity import (
    INTENSITIES,
    NORMALISATIONS,
    Reference,
    finished,
    read_reference,
)
from landmarking.imaging.midsagittal import (
    MidsagittalPlane,
    MidsagittalSettings,
    find_midsagittal_plane,
)
from landmarking.imaging.quality import NO_HEAD, no_head
from landmarking.imaging.registration import CENTRE_MM, Registration, register
from landmarking.imaging.scan import Scan, load_scan, to_pil
from landmarking.imaging.slicing import sample_slice
from landmarking.imaging.template import load_template, template_level

GRID_CENTRE_MM = np.array([0.0, -15.5, -7.5])
"""Common space of the middle of the slice grid: 256 pixels of 1 mm reach from A = 112 to -143."""

MIDSAGITTAL_COMMON = Plane(LEFT, 0.0)
"""The template's plane of symmetry, x = 0 of the common space."""

LARGEST_SLICE = 4096
"""Rows and columns; a head at 0.1 mm fits."""


@dataclass
class PreprocessSettings:
    """What decides a slice.

    Attributes:
        registration: `rigid`, `affine` or `none`.
        slice_size: Rows and columns before the crop.
        crop: First row and column kept, and the first not kept.
        spacing_mm: Pixel size in common space.
        histogram_reference: `template`, or the path of a scan or of a recorded reference.
        normalisation: `image`, `batch` or `none`.
        midsagittal: Settings of the plane search.
        intensity: `matched` to the histogram of the reference, or `scaled` by the slice's own
            percentiles.
    """

    registration: str = "rigid"
    slice_size: int = 256
    crop: list[int] = field(default_factory=lambda: [50, 200])
    spacing_mm: float = 1.0
    histogram_reference: str = "template"
    normalisation: str = "image"
    midsagittal: MidsagittalSettings = field(default_factory=MidsagittalSettings)
    intensity: str = "matched"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is out of range or a choice unknown.
        """
        _choice("registration", self.registration, ("rigid", "affine", "none"))
        _choice("intensity", self.intensity, INTENSITIES)
        _choice("normalisation", self.normalisation, NORMALISATIONS)
        if not 1 <= self.slice_size <= LARGEST_SLICE:
            raise ConfigError(f"slice_size is 1 to {LARGEST_SLICE} pixels, found {self.slice_size}")
        if len(self.crop) != 2 or not 0 <= self.crop[0] < self.crop[1] <= self.slice_size:
            raise ConfigError(
                f"crop is [first, last + 1] within 0 to slice_size ({self.slice_size}), "
                f"found {self.crop}"
            )
        if not self.spacing_mm > 0.0:
            raise ConfigError(f"spacing_mm must be above zero, found {self.spacing_mm}")

    @property
    def window(self) -> slice:
        """Rows and columns that the crop keeps."""
        return slice(self.crop[0], self.crop[1])


def _choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key} is one of {', '.join(choices)}, found {value!r}")


@dataclass(frozen=True, eq=False)
class Slice:
    """A mid-sagittal slice and where it lies.

    Attributes:
        image: Intensities, float32, shape (H, W), rows inferior, columns posterior.
        geometry: Its place in the scan's world.
        qc: Figures for quality control, by name.
    """

    image: NDArray[np.float32]
    geometry: SliceGeometry
    qc: dict[str, float | str | bool]


def extract_slice(scan: Scan, settings: PreprocessSettings) -> Slice:
    """Find the mid-sagittal plane of a scan and cut the cropped slice on it.

    Args:
        scan: Scan as loaded.
        settings: What decides the slice.

    Returns:
        The slice with raw intensities, resampled once from the native voxels.
    """
    canonical = to_pil(scan)
    registration = register_stage(canonical, settings)
    found = plane_stage(canonical, registration, settings)
    return slice_stage(canonical, registration, found, settings)


def register_stage(canonical: Scan, settings: PreprocessSettings) -> Registration:
    """Where the scan's world lies in the common space; depends on `registration` only.

    Args:
        canonical: Scan in PIL order.
        settings: What decides the slice.
    """
    return register(canonical, settings.registration)


def plane_stage(
    canonical: Scan, registration: Registration, settings: PreprocessSettings
) -> MidsagittalPlane:
    """The mid-sagittal plane in the scan's world; depends on `midsagittal` only.

    Args:
        canonical: Scan in PIL order.
        registration: Its place in the common space, where the search starts.
        settings: What decides the slice.

    Raises:
        ScanError: If the registration has found no head.
    """
    # NaN compares as false: of a registration that was not looked for, nothing is known.
    if registration.method != "none" and not registration.quality >= NO_HEAD:
        raise ScanError(f"{canonical.name}: {no_head(registration.quality)}")
    common_to_world = np.linalg.inv(registration.world_to_common)
    return find_midsagittal_plane(
        canonical.data,
        canonical.affine,
        MIDSAGITTAL_COMMON.transformed(common_to_world),
        settings=settings.midsagittal,
        centre_mm=apply_affine(common_to_world, template_level(8.0).centre_mm),
    )


def slice_stage(
    canonical: Scan,
    registration: Registration,
    found: MidsagittalPlane,
    settings: PreprocessSettings,
) -> Slice:
    """Lay the pixels on the plane and resample; depends on slice size, crop and spacing.

    Args:
        canonical: Scan in PIL order.
        registration: Its place in the common space, which the pixels follow.
        found: Its mid-sagittal plane.
        settings: What decides the slice.
    """
    geometry = slice_geometry(found.plane, registration.world_to_common, settings)
    image = sample_slice(canonical, geometry)
    return Slice(image, geometry, _quality(canonical, registration, found))


def finish_slice(image: Array, settings: PreprocessSettings) -> NDArray[np.float32]:
    """Match or scale the intensities of a cropped slice; normalisation is for batches.

    Args:
        image: Raw intensities, shape (H, W), as `extract_slice` gives them.
        settings: Which of both, and which reference.

    Returns:
        Intensities, float32, shape (H, W).
    """
    return finished(image, histogram_reference(settings), settings.intensity)


def reference_slice(settings: PreprocessSettings) -> NDArray[np.float32]:
    """Intensities of the reference, shape (H, W), or (Q,) of a mean reference."""
    return histogram_reference(settings).image


def histogram_reference(settings: PreprocessSettings) -> Reference:
    """What the histograms of slices are matched to, made once per process.

    Args:
        settings: `histogram_reference` is `template`, a scan (`.nii`, `.nii.gz`: its own slice), or
            a recorded reference (`.npy`); slice size, crop and spacing are those of the slices.

    Raises:
        ScanError: If `histogram_reference` names a file that cannot be read.
    """
    first, last = settings.crop
    return _reference(
        settings.histogram_reference, settings.slice_size, first, last, settings.spacing_mm
    )


@lru_cache(maxsize=4)
def _reference(source: str, slice_size: int, first: int, last: int, spacing_mm: float) -> Reference:
    settings = PreprocessSettings(slice_size=slice_size, crop=[first, last], spacing_mm=spacing_mm)
    # The brain of the template is where the brain of a registered slice is, within millimetres.
    region = template_slice(settings, "brain_mask") > 0.5
    if source == "template":
        image = template_slice(settings)
    elif source.endswith(".npy"):
        image = read_reference(Path(source))
    else:
        image = extract_slice(load_scan(Path(source)), settings).image
    return Reference(image, region, source)


def template_slice(settings: PreprocessSettings, volume: str = "brain") -> NDArray[np.float32]:
    """A cropped slice of the template on its plane of symmetry, by the same road as a scan's.

    Args:
        settings: Slice size, crop and spacing.
        volume: Which of the template's volumes: `brain`, `grey`, `white` or `brain_mask`.
    """
    template = load_template()
    data = np.asarray(getattr(template, volume), dtype=np.float32)
    geometry = slice_geometry(MIDSAGITTAL_COMMON, np.eye(4), settings)
    return sample_slice(Scan(data, template.affine, "template"), geometry)


def slice_geometry(
    plane: Plane, world_to_common: Array, settings: PreprocessSettings
) -> SliceGeometry:
    """Lay the cropped pixel grid of the common space on a plane of the scan's world.

    Args:
        plane: Mid-sagittal plane in the scan's world.
        world_to_common: Matrix, shape (4, 4), from the registration.
        settings: Slice size, spacing and crop.

    Returns:
        Geometry of the cropped slice.
    """
    common = plane.transformed(world_to_common)
    posterior = np.array([0.0, -1.0, 0.0])
    posterior -= (posterior @ common.normal) * common.normal
    posterior /= np.linalg.norm(posterior)
    inferior = np.cross(posterior, common.normal)
    # Laid from the point that the registration serves best, so that a small tilt of the plane
    # moves pixels least where the landmarks are.
    anchor = common.project(CENTRE_MM)
    middle = (settings.slice_size - 1) / 2
    offset_px = middle + (GRID_CENTRE_MM - CENTRE_MM)[1:] / settings.spacing_mm
    pixel_to_common = np.eye(4)
    pixel_to_common[:3, 0] = posterior * settings.spacing_mm
    pixel_to_common[:3, 1] = inferior * settings.spacing_mm
    pixel_to_common[:3, 3] = anchor - pixel_to_common[:3, :2] @ offset_px
    matrix = np.linalg.inv(world_to_common) @ pixel_to_common
    # Off the plane, distance is the scan's own mm along the plane's normal.
    matrix[:3, 2] = plane.normal
    whole = SliceGeometry(matrix, (settings.slice_size, settings.slice_size))
    return whole.cropped(settings.window, settings.window)


def _quality(
    scan: Scan, registration: Registration, found: MidsagittalPlane
) -> dict[str, float | str | bool]:
    return {
        "registration_method": registration.method,
        "registration_quality": registration.quality,
        "registration_ok": registration.ok,
        "registration_starts": registration.starts,
        "symmetry_score": found.score,
        "symmetry_sharpness": found.sharpness,
        "notes": "; ".join(scan.notes),
    }
