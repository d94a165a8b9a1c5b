"""What a prediction gives back: landmarks in world mm, how far to trust them, and the slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmarking.geometry import Array, Plane, SliceGeometry

FORMAT = 1
"""Version of the JSON record; a record of another version is made again."""


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
class ScanPrediction:
    """Everything about one scan.

    Attributes:
        name: The scan's name, without folder and suffix.
        scan: Its path as given; empty for a scan that was given as an array.
        scan_sha256: Digest of the file; empty likewise.
        model: Name of the model.
        model_digest: What decides its positions.
        coverage: Probability with which a radius holds the truth, or None.
        landmarks: The landmarks in the model's order.
        image: The slice that the model saw, histogram-matched, float32, shape (H, W).
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
    coverage: float | None
    landmarks: tuple[PredictedLandmark, ...]
    image: NDArray[np.float32]
    geometry: SliceGeometry
    quality: Mapping[str, float | str | bool]
    flags: tuple[str, ...]
    sections: tuple[Section, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def points_mm(self) -> dict[str, Array]:
        """World RAS mm, shape (3,), by landmark."""
        return {landmark.name: landmark.world_mm for landmark in self.landmarks}

    @property
    def plane(self) -> Plane:
        """The mid-sagittal plane in world RAS mm."""
        return self.geometry.plane

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; positions unrounded."""
        return {
            "format": FORMAT,
            "name": self.name,
            "scan": self.scan,
            "scan_sha256": self.scan_sha256,
            "model": self.model,
            "model_digest": self.model_digest,
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
