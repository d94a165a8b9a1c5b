"""Scan to slice: the stages in order.

    canonical PIL -> registration -> mid-sagittal plane -> one resampling -> crop

The slice lies on the mid-sagittal plane that was found in the scan's own world; the common space
only decides where on that plane the pixels lie. Every slice keeps its geometry.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

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


_MARGIN = 12
"""Voxels kept about the slice for the spline's filter, whose response falls by 3.7 a voxel."""


def sample_slice(scan: Scan, geometry: SliceGeometry) -> NDArray[np.float32]:
    """Intensities of a scan on a slice, by cubic B-splines.

    Where voxels are finer than pixels, each pixel is the mean of a few points spread over its area
    within the plane, so that detail finer than a pixel does not alias. Nothing is averaged across
    the plane.

    Args:
        scan: Scan in its own voxels and world.
        geometry: Where the pixels lie in that world.

    Returns:
        Intensities, float32, shape `geometry.shape`; pixels outside the field of view hold the
        lowest intensity of the scan.
    """
    rows, columns = geometry.shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    offsets = _offsets(scan, geometry)
    to_voxel = np.linalg.inv(scan.affine)
    total = np.zeros(geometry.shape, dtype=np.float64)
    points = [np.stack([x + dx, y + dy], axis=-1) for dx, dy in offsets]
    voxels = [apply_affine(to_voxel, geometry.to_world(part)) for part in points]
    window = _window(np.concatenate([part.reshape(-1, 3) for part in voxels]), scan.data.shape)
    if window is None:
        return np.full(geometry.shape, scan.data.min(), dtype=np.float32)
    coefficients = ndimage.spline_filter(scan.data[window], 3, output=np.float32, mode="mirror")
    start = np.array([part.start for part in window])
    lowest, highest = float(scan.data.min()), float(scan.data.max())
    for part in voxels:
        total += _interpolate(coefficients, part - start, lowest)
    # Splines overshoot beside scalp and air; a scan has no values beyond its own range.
    return np.clip(total / len(offsets), lowest, highest).astype(np.float32)


def _offsets(scan: Scan, geometry: SliceGeometry) -> list[tuple[float, float]]:
    """Points (x, y) within a pixel, in pixels from its centre."""
    pixel_mm = np.linalg.norm(geometry.pixel_to_world[:3, :2], axis=0)
    counts = np.maximum(1, np.ceil(pixel_mm / scan.voxel_mm.min() - 0.1).astype(int))
    spread = [(np.arange(count) + 0.5) / count - 0.5 for count in counts]
    return list(itertools.product(*(values.tolist() for values in spread)))


def _window(voxels: Array, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """The part of the volume that the points touch, or None if they all lie outside."""
    low = np.maximum(np.floor(voxels.min(axis=0)).astype(int) - _MARGIN, 0)
    high = np.minimum(np.ceil(voxels.max(axis=0)).astype(int) + _MARGIN + 1, shape)
    if (high - low < 2).any():
        return None
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _interpolate(coefficients: NDArray[np.float32], voxels: Array, outside: float) -> Array:
    # "mirror" is the boundary that the coefficients were made for; half a voxel beyond the last
    # centre still belongs to that voxel.
    values = ndimage.map_coordinates(
        coefficients, np.moveaxis(voxels, -1, 0), order=3, mode="mirror", prefilter=False
    )
    upper = np.array(coefficients.shape) - 0.5
    inside = ((voxels >= -0.5) & (voxels <= upper)).all(axis=-1)
    return np.where(inside, values, outside)


# Tissue maps of a scan on the pixels of its slice.
#
# Maps of grey matter, white matter and fluid, be they a segmentation or a phantom's own truth, let
# training paint a person's slice anew in other contrasts. They are looked up by world coordinates,
# so their grid may differ from the scan's.


MAPS = ("grey", "white", "fluid", "distance")
"""Maps of a slice: shares of the tissues, 255 for all, and the distance from the brain."""

DISTANCE_STEP_MM, DISTANCE_LOW_MM = 0.25, -20.0
"""A distance of d mm is stored as (d + 20) / 0.25: from -20 mm, deep within, to 43.75 mm."""

_REACH = 12
"""Planes looked at to either side of the slice's, each 2 mm from the next, and pixels beyond it."""


def tissue_maps(files: Sequence[Path], geometry: SliceGeometry) -> NDArray[np.uint8]:
    """Cut tissue maps along a slice.

    Args:
        files: NIfTI files of the shares of grey matter, white matter and fluid, from 0 to 1, or to
            255 where they are whole numbers.
        geometry: Where the slice lies, in the world that the files share with the scan.

    Returns:
        The maps of `MAPS`, shape (4, H, W); all zero where the brain is not met.

    Raises:
        ScanError: If a file cannot be read or holds no shares.
    """
    scans = [load_scan(path) for path in files]
    full = 255.0 if max(float(scan.data.max()) for scan in scans) > 1.0 else 1.0
    for path, scan in zip(files, scans, strict=True):
        if scan.data.min() < 0.0 or scan.data.max() > full:
            raise ScanError(
                f"{path}: a tissue map holds shares from 0 to 1 (or to 255), found "
                f"{scan.data.min():g} to {scan.data.max():g}"
            )
    rows, columns = geometry.shape
    layers = np.arange(-_REACH, _REACH + 1, 2)
    lateral, y, x = np.meshgrid(
        layers,
        np.arange(-_REACH, rows + _REACH),
        np.arange(-_REACH, columns + _REACH),
        indexing="ij",
    )
    world_mm = apply_affine(geometry.pixel_to_world, np.stack([x, y, lateral], axis=-1))
    inner = (len(layers) // 2, slice(_REACH, -_REACH), slice(_REACH, -_REACH))
    brain = np.sum([_sampled(scan, world_mm) for scan in scans], axis=0) >= 0.5 * full
    if not brain.any():
        return np.zeros((len(MAPS), rows, columns), dtype=np.uint8)
    lengths = np.linalg.norm(geometry.pixel_to_world[:3, :2], axis=0)
    distance = _signed_distance(brain, (2.0, float(lengths[1]), float(lengths[0])))[inner]
    shares = [_sampled(scan, world_mm[inner]) * (255.0 / full) for scan in scans]
    code = (distance - DISTANCE_LOW_MM) / DISTANCE_STEP_MM
    return np.asarray(np.rint(np.stack([*shares, code]).clip(0.0, 255.0)), dtype=np.uint8)


def _sampled(scan: Scan, world_mm: Array) -> Array:
    """Linear interpolation at world points, shape (..., 3) to (...); zero outside the volume."""
    voxels = np.moveaxis(apply_affine(np.linalg.inv(scan.affine), world_mm), -1, 0)
    return np.asarray(ndimage.map_coordinates(scan.data, voxels, order=1, mode="constant"))


def _signed_distance(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> Array:
    """Distance from a mask's surface, which lies half a step outside its voxels' centres."""
    half = 0.5 * min(spacing[1:])
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    return np.where(mask, half - inside, outside - half)
