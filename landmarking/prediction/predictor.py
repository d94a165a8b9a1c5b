"""One scan through the imaging pipeline and a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmarking.data.slice_figures import intensity_figures, outside_share
from landmarking.geometry import Array
from landmarking.imaging.intensity import match_histogram
from landmarking.imaging.orientation import to_pil
from landmarking.imaging.pipeline import Slice, plane_stage, register_stage, slice_stage
from landmarking.imaging.scan import Scan, load_scan
from landmarking.prediction.clock import Clock
from landmarking.prediction.flags import landmark_flags, scan_flags
from landmarking.prediction.model import LandmarkModel
from landmarking.prediction.result import PredictedLandmark, ScanPrediction
from landmarking.prediction.sections import draw_sections
from landmarking.storage import file_sha256


def predict_scan(source: Path | Scan, model: LandmarkModel) -> ScanPrediction:
    """Find the landmarks of one scan.

    Args:
        source: NIfTI file, or a scan that is loaded already.
        model: The model.

    Returns:
        Landmarks in the scan's world, with the slice and what to look at.

    Raises:
        ScanError: If the scan cannot be read or is no head.
        ConfigError: If the model does not fit its own preprocessing.
    """
    clock = Clock()
    scan = clock.timed("read", lambda: load_scan(source) if isinstance(source, Path) else source)
    canonical = clock.timed("read", lambda: to_pil(scan))
    cut, image = slice_for_model(canonical, model, clock)
    located = clock.timed("network", lambda: model.locate(image[None]))
    points_px, doubt_px = located.points_px[0], located.doubt_px[0]
    points_mm = cut.geometry.to_world(points_px)
    middle = np.asarray(points_mm.mean(axis=0))
    is_file = isinstance(source, Path)
    return ScanPrediction(
        name=scan.name,
        scan=str(source) if is_file else "",
        scan_sha256=file_sha256(source) if isinstance(source, Path) else "",
        model=model.name,
        model_digest=model.digest,
        coverage=None if model.calibration is None else model.calibration.coverage,
        landmarks=_landmarks(model, canonical, cut, points_px, doubt_px),
        image=image,
        geometry=cut.geometry,
        quality=cut.qc,
        flags=scan_flags(cut.qc),
        sections=clock.timed("views", lambda: draw_sections(canonical, cut.geometry.plane, middle)),
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
        The raw slice with its figures, and its histogram-matched image, shape (H, W).
    """
    clock, settings = clock or Clock(), model.preprocess
    registration = clock.timed("registration", lambda: register_stage(canonical, settings))
    found = clock.timed("plane", lambda: plane_stage(canonical, registration, settings))
    cut = clock.timed("slice", lambda: slice_stage(canonical, registration, found, settings))
    image = clock.timed("intensity", lambda: match_histogram(cut.image, model.reference))
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
    pixel_mm = float(np.linalg.norm(cut.geometry.pixel_to_world[:3, 0]))
    doubt_mm, what = (doubt_px * pixel_mm, "spread") if radii is None else (radii, "radius")
    reasons = landmark_flags(scan, cut.geometry, points_mm, doubt_mm, what)
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


SMALLEST_DOUBT_PX = 0.05
"""Doubt below it counts as this much, so that no radius is zero."""


def scores(doubt_px: Array) -> Array:
    """What radii are proportional to: the doubt, or one where a model has none."""
    return np.where(np.isfinite(doubt_px), np.maximum(doubt_px, SMALLEST_DOUBT_PX), 1.0)
