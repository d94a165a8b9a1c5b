"""Predict the landmarks of a scan: the Python call, pipeline and model, the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.errors import ConfigError, LandmarkingError, ScanError
from landmarking.files import not_written
from landmarking.geometry import Array, Plane, SliceGeometry, apply_affine
from landmarking.imaging.intensity import finished
from landmarking.imaging.pipeline import Slice, plane_stage, register_stage, slice_stage
from landmarking.imaging.quality import (
    intensity_figures,
    landmark_flags,
    outside_share,
    refusal,
    scan_flags,
)
from landmarking.imaging.scan import Scan, as_scan, scan_sha256, to_pil
from landmarking.prediction.batch import FORMAT, Clock
from landmarking.prediction.model import LandmarkModel
from landmarking.prediction.package import open_model

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class PredictedLandmark:
    """One landmark of one scan.

    Attributes:
        name: Short name, such as `AC`.
        title: Full anatomical name.
        world_mm: World RAS mm of the scan, shape (3,).
        pixel: Slice pixel (x, y), shape (2,).
        doubt_px: The model's own doubt in slice pixels, or None where it has none.
        radius_mm: Radius that holds the truth with the model's coverage, or None without
            calibration.
        flags: Reasons to look at it.
    """

    name: str
    title: str
    world_mm: Array
    pixel: Array
    doubt_px: float | None = None
    radius_mm: float | None = None
    flags: tuple[str, ...] = ()


POINT_COLUMNS = {
    "landmark": "Short name, docs/landmarks.md",
    "x_mm": "World RAS of the scan, mm to the right",
    "y_mm": "World RAS of the scan, mm to the front",
    "z_mm": "World RAS of the scan, mm upward",
    "x_px": "Column of the mid-sagittal slice, pixels",
    "y_px": "Row of the mid-sagittal slice, pixels",
    "radius_mm": "Radius that holds the truth with the model's coverage, mm",
    "flagged": "Whether a person should look at it",
    "flags": "Why",
}
"""Columns of a prediction's table, with what they mean."""


@dataclass(frozen=True, eq=False)
class Section:
    """A view of the scan along its own world axes, with the trace of the plane.

    Attributes:
        title: `axial` or `coronal`, and where.
        image: Intensities, shape (H, W); columns run to the left of the head, so that the right
            hand is on the left of the picture.
        trace: Ends of the plane's line, (x, y) in pixels, shape (2, 2); NaN if it misses the view.
    """

    title: str
    image: NDArray[np.float32]
    trace: Array


@dataclass(frozen=True, eq=False)
class Prediction:
    """Everything about one scan.

    Attributes:
        name: The scan's name, without folder and suffix.
        scan: Its path as given; empty for a scan that was given as an array.
        scan_sha256: Digest of the file; empty likewise.
        model: Name of the model.
        model_digest: What decides its positions.
        landmark_set: Name of the set that the landmarks are of, such as `msp8`.
        made_with: All that decides the result, see `LandmarkModel.made_with`.
        coverage: Probability with which a radius holds the truth, or None.
        landmarks: The landmarks in the model's order.
        image: The slice that the model saw, matched or scaled, float32, shape (H, W).
        geometry: Where the slice lies in the scan's world.
        quality: Figures of the pipeline by name.
        flags: Reasons to look at the whole scan.
        sections: Axial and coronal view for the picture.
        seconds: Time on the clock by stage, and processor time as `cpu`.
    """

    name: str
    scan: str
    scan_sha256: str
    model: str
    model_digest: str
    landmark_set: str
    coverage: float | None
    landmarks: tuple[PredictedLandmark, ...]
    image: NDArray[np.float32]
    geometry: SliceGeometry
    quality: Mapping[str, float | str | bool]
    flags: tuple[str, ...]
    sections: tuple[Section, ...] = ()
    made_with: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def points_mm(self) -> dict[str, Array]:
        """World RAS mm, shape (3,), by landmark."""
        return {landmark.name: landmark.world_mm for landmark in self.landmarks}

    @property
    def plane(self) -> Plane:
        """The mid-sagittal plane in world RAS mm."""
        return self.geometry.plane

    def to_dataframe(self) -> pd.DataFrame:
        """One row a landmark, `POINT_COLUMNS`; positions unrounded."""
        import pandas as pd

        rows = [
            {
                "landmark": each.name,
                **dict(zip(("x_mm", "y_mm", "z_mm"), each.world_mm, strict=True)),
                **dict(zip(("x_px", "y_px"), each.pixel, strict=True)),
                "radius_mm": each.radius_mm,
                "flagged": bool(each.flags or self.flags),
                "flags": "; ".join((*each.flags, *(f"scan: {flag}" for flag in self.flags))),
            }
            for each in self.landmarks
        ]
        return pd.DataFrame(rows, columns=list(POINT_COLUMNS))

    def save(self, folder: str | Path, name: str | None = None) -> Path:
        """Write what `landmarking predict` writes: landmark files, picture, record.

        Args:
            folder: Output folder, made if need be.
            name: What the files are called; by default as the scan.

        Returns:
            Path of the `.mrk.json` for 3D Slicer.

        Raises:
            ConfigError: If a file of somebody else lies there, or it cannot be written.
        """
        from landmarking.prediction.outputs import MARKUPS, write_scan_files

        stem = name or self.name
        try:
            write_scan_files(self, Path(folder), stem)
        except OSError as error:
            path = Path(folder) / stem
            raise ConfigError(not_written(path, error, "choose another folder")) from error
        return Path(folder) / f"{stem}{MARKUPS}"

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; positions unrounded."""
        return {
            "format": FORMAT,
            "name": self.name,
            "scan": self.scan,
            "scan_sha256": self.scan_sha256,
            "model": self.model,
            "model_digest": self.model_digest,
            "made_with": dict(self.made_with),
            "frame": "world RAS mm",
            "coverage": self.coverage,
            "flags": list(self.flags),
            "landmarks": [_landmark_record(landmark) for landmark in self.landmarks],
            "plane": {"normal": self.plane.normal.tolist(), "offset_mm": self.plane.offset_mm},
            "slice": self.geometry.to_dict(),
            "quality": {key: _plain(value) for key, value in self.quality.items()},
            "seconds": dict(self.seconds),
        }


def _landmark_record(landmark: PredictedLandmark) -> dict[str, Any]:
    return {
        "name": landmark.name,
        "title": landmark.title,
        "world_mm": landmark.world_mm.tolist(),
        "pixel": landmark.pixel.tolist(),
        "doubt_px": landmark.doubt_px,
        "radius_mm": landmark.radius_mm,
        "flags": list(landmark.flags),
    }


def _plain(value: float | str | bool) -> float | str | bool | None:
    # JSON has no NaN.
    return None if isinstance(value, float) and not np.isfinite(value) else value


HALF_MM = 110.0
"""The views reach this far from the landmarks' middle."""

_STEP_MM = 1.0


def draw_sections(scan: Scan, plane: Plane, middle_mm: Array) -> tuple[Section, Section]:
    """Cut an axial and a coronal view through a point.

    Args:
        scan: Scan in any voxel order.
        plane: Its mid-sagittal plane.
        middle_mm: World RAS mm that both views go through, shape (3,).

    Returns:
        Views of 1 mm pixels along the scan's own world axes, as a radiologist looks at them: the
        right hand on the left of the picture, front or top upward.
    """
    left, down_axial, down_coronal = np.array([-1.0, 0, 0]), np.array([0, -1.0, 0]), [0, 0, -1.0]
    axial = _section(scan, plane, middle_mm, left, down_axial)
    coronal = _section(scan, plane, middle_mm, left, np.array(down_coronal))
    z, y = middle_mm[2], middle_mm[1]
    return (
        Section(f"axial, S = {z:.0f} mm", *axial),
        Section(f"coronal, A = {y:.0f} mm", *coronal),
    )


def _section(
    scan: Scan, plane: Plane, middle_mm: Array, right: Array, down: Array
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], Array]:
    steps = np.arange(-HALF_MM, HALF_MM + _STEP_MM / 2, _STEP_MM)
    world = middle_mm + steps[None, :, None] * right + steps[:, None, None] * down
    voxels = apply_affine(np.linalg.inv(scan.affine), world)
    image = ndimage.map_coordinates(
        scan.data, np.moveaxis(voxels, -1, 0), order=1, cval=float(scan.data.min())
    )
    return np.asarray(image, np.float32), _trace(plane, middle_mm, right, down, len(steps))


def _trace(plane: Plane, middle_mm: Array, right: Array, down: Array, pixels: int) -> Array:
    """Where the plane crosses the first and the last row of a view, shape (2, 2)."""
    across, along = float(plane.normal @ right), float(plane.normal @ down)
    if abs(across) < 1e-6:
        return np.full((2, 2), np.nan)
    half = (pixels - 1) / 2
    ends = []
    for row in (0.0, pixels - 1.0):
        y_mm = (row - half) * _STEP_MM
        x_mm = -(float(plane.distance_mm(middle_mm)) + along * y_mm) / across
        ends.append((x_mm / _STEP_MM + half, row))
    return np.array(ends)


def predict_scan(
    source: Path | Scan, model: LandmarkModel, *, allow_scaled: bool = False
) -> Prediction:
    """Find the landmarks of one scan.

    Args:
        source: File or DICOM folder, or a scan that is loaded already.
        model: The model.
        allow_scaled: Read a scan whose header stretches its voxels.

    Returns:
        Landmarks in the scan's world, with the slice and what to look at.

    Raises:
        ScanError: If the scan cannot be read or shows no T1 head, so that no number would mean
            anything.
        ConfigError: If the model does not fit its own preprocessing.
    """
    clock = Clock()
    scan = clock.timed("read", lambda: as_scan(source, allow_scaled=allow_scaled))
    canonical = clock.timed("read", lambda: to_pil(scan))
    cut, image = slice_for_model(canonical, model, clock)
    located = clock.timed("network", lambda: model.locate(image[None]))
    points_px, doubt_px = located.points_px[0], located.doubt_px[0]
    if reason := refusal(cut.qc, doubt_px * pixel_mm(cut.geometry)):
        raise ScanError(f"{scan.name}: {reason}")
    points_mm = cut.geometry.to_world(points_px)
    middle = np.asarray(points_mm.mean(axis=0))
    is_file = isinstance(source, Path)
    return Prediction(
        name=scan.name,
        scan=str(source) if is_file else "",
        scan_sha256=scan_sha256(source) if isinstance(source, Path) else "",
        model=model.name,
        model_digest=model.digest,
        landmark_set=model.landmarks.name,
        coverage=None if model.calibration is None else model.calibration.coverage,
        landmarks=_landmarks(model, canonical, cut, points_px, doubt_px),
        image=image,
        geometry=cut.geometry,
        quality=cut.qc,
        flags=scan_flags(cut.qc),
        sections=clock.timed("views", lambda: draw_sections(canonical, cut.geometry.plane, middle)),
        made_with=model.made_with,
        seconds=clock.all(),
    )


def slice_for_model(
    canonical: Scan, model: LandmarkModel, clock: Clock | None = None
) -> tuple[Slice, NDArray[np.float32]]:
    """The slice of a scan as a cohort's preparation makes it, by the same stages.

    Args:
        canonical: Scan in PIL order.
        model: Says how slices are made and matched.
        clock: Takes the time of each stage.

    Returns:
        The raw slice with its figures, and its matched or scaled image, shape (H, W).
    """
    clock, settings = clock or Clock(), model.preprocess
    registration = clock.timed("registration", lambda: register_stage(canonical, settings))
    found = clock.timed("plane", lambda: plane_stage(canonical, registration, settings))
    cut = clock.timed("slice", lambda: slice_stage(canonical, registration, found, settings))
    image = clock.timed(
        "intensity", lambda: finished(cut.image, model.reference, settings.intensity)
    )
    reference = model.reference
    figures = intensity_figures(cut.image, image, reference.image, reference.region)
    outside = outside_share(cut.geometry, canonical.data.shape, canonical.affine)
    qc = {**cut.qc, "outside_share": outside, **figures}
    return Slice(cut.image, cut.geometry, qc), image


def _landmarks(
    model: LandmarkModel, scan: Scan, cut: Slice, points_px: Array, doubt_px: Array
) -> tuple[PredictedLandmark, ...]:
    points_mm = cut.geometry.to_world(points_px)
    radii = (
        None if model.calibration is None else model.calibration.radius(scores(doubt_px[None]))[0]
    )
    spread_mm = doubt_px * pixel_mm(cut.geometry)
    doubt_mm, what = (spread_mm, "spread") if radii is None else (radii, "radius")
    reasons = landmark_flags(scan, cut.geometry, points_mm, doubt_mm, what)
    if model.shape is not None:
        in_plane = points_px @ cut.geometry.px_to_mm.T
        odd = model.shape.implausible(in_plane[None])[0]
        reasons = [(*r, IMPLAUSIBLE) if o else r for r, o in zip(reasons, odd, strict=True)]
    return tuple(
        PredictedLandmark(
            name=landmark.name,
            title=landmark.title,
            world_mm=points_mm[index],
            pixel=points_px[index],
            doubt_px=float(doubt_px[index]) if np.isfinite(doubt_px[index]) else None,
            radius_mm=None if radii is None else float(radii[index]),
            flags=reasons[index],
        )
        for index, landmark in enumerate(model.landmarks.landmarks)
    )


def pixel_mm(geometry: SliceGeometry) -> float:
    """Side of a pixel of a slice in the scan's own mm."""
    return float(np.linalg.norm(geometry.pixel_to_world[:3, 0]))


IMPLAUSIBLE = "lies where the other landmarks of a head would not let it"

SMALLEST_DOUBT_PX = 0.05
"""Doubt below it counts as this much, so that no radius is zero."""


def scores(doubt_px: Array) -> Array:
    """What radii are proportional to: the doubt, or one where a model has none."""
    return np.where(np.isfinite(doubt_px), np.maximum(doubt_px, SMALLEST_DOUBT_PX), 1.0)


def predict(
    scan: Any,
    *,
    affine: Any = None,
    model: str | Path | Sequence[str | Path] | None = None,
    allow_scaled: bool = False,
) -> Prediction:
    """Find the landmarks of a T1 scan.

    Args:
        scan: A file or DICOM folder (docs/inputs.md), an image of nibabel or SimpleITK, an array
            with `affine`, or a scan from `landmarking.imaging.scan.load_scan`.
        affine: Of an array, shape (I, J, K): voxel to world RAS mm, shape (4, 4).
        model: None for the model that ships with the package; a packed model (`.zip`); a folder of
            one's own run or study, or several.
        allow_scaled: Read a scan whose header stretches its voxels, as in template space.

    Returns:
        Landmarks in the scan's world RAS mm, with radii, flags, the slice and its geometry.

    Raises:
        ScanError: If the scan cannot be read or is no three-dimensional head.
        ConfigError: If the model cannot be opened.

    Example:
        >>> found = predict("scan.nii.gz")  # doctest: +SKIP
        >>> found.points_mm["AC"]  # doctest: +SKIP
        array([ 0.3,  1.8, -4.2])
    """
    source = (
        Path(scan)
        if isinstance(scan, str | Path)
        else as_scan(scan, affine, allow_scaled=allow_scaled)
    )
    return predict_scan(source, open_model(_sources(model)), allow_scaled=allow_scaled)


def _sources(model: str | Path | Sequence[str | Path] | None) -> Sequence[str | Path]:
    if model is None:
        return ()
    return (model,) if isinstance(model, str | Path) else model


def predict_many(
    scans: Iterable[Any],
    *,
    model: str | Path | Sequence[str | Path] | None = None,
    allow_scaled: bool = False,
) -> Iterator[Prediction | LandmarkingError]:
    """Find the landmarks of many scans, one after another as they are asked for.

    Safe in several threads or processes at once; the model is opened once a process.

    Args:
        scans: Each as for `predict`, arrays apart; read only when its turn comes.
        model: As for `predict`.
        allow_scaled: As for `predict`.

    Yields:
        In the order of the scans the prediction, or what is wrong with the scan: a bad scan does
        not stop the others.

    Raises:
        ConfigError: If the model cannot be opened.

    Example:
        >>> for found in predict_many(Path("scans").glob("*.nii.gz")):  # doctest: +SKIP
        ...     print(found if isinstance(found, Exception) else found.points_mm["AC"])
    """
    opened = open_model(_sources(model))
    for scan in scans:
        try:
            source = (
                Path(scan)
                if isinstance(scan, str | Path)
                else as_scan(scan, allow_scaled=allow_scaled)
            )
            found: Prediction | LandmarkingError = predict_scan(
                source, opened, allow_scaled=allow_scaled
            )
        except ScanError as error:
            found = error
        yield found
