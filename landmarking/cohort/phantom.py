"""Phantom heads: a real average brain, bent to the anatomy of new people, with exact landmarks.

`make_head` is a pure function of the settings and a subject: the same bytes alone, in any order and
in any process.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmarking.cohort.anatomy import load_atlas
from landmarking.cohort.deformity import AgeingSettings, DownSyndromeSettings
from landmarking.cohort.painting import PaintSettings, paint
from landmarking.cohort.person import anatomy, generator
from landmarking.cohort.scanner import ScannerSettings, acquire, reoriented, scanner_frame
from landmarking.cohort.warps import VoxelMap
from landmarking.errors import ConfigError
from landmarking.geometry import Array, Plane, apply_affine

VERSION = 3
"""Raised whenever the same settings give other bytes, so that old trees are made anew."""


@dataclass
class WarpSettings:
    """Variation of shape beyond the landmarks.

    Attributes:
        knot_mm: Knot distance of the final spline.
        fine_mm: Displacement SD, by component, of the field with the finest scale (8 mm).
        middle_mm: Likewise of the field of 18 mm.
        coarse_mm: Likewise of the field of 45 mm, which also makes left differ from right.
        size_sd: SD of the head's length, width and height each, as a share.
    """

    knot_mm: float = 6.0
    fine_mm: float = 0.5
    middle_mm: float = 1.1
    coarse_mm: float = 2.0
    size_sd: float = 0.03


@dataclass
class PhantomSettings:
    """Everything that decides a phantom cohort.

    Attributes:
        label: Name of the preset; it becomes part of the cohort's name.
        seed: Seed of the whole cohort; every subject derives its own from it.
        train: Number of scans in group `train`.
        healthy: Number of scans in group `HS`.
        down_syndrome: Number of scans in group `DS`.
        scans_per_person: Mean number of scans of one person in `train` (1 to 5 each).
        keep_tissues: Whether grey, white and fluid maps are kept as a derivative.
        warp: Shape variation.
        ageing: Atrophy, in a share of `train`.
        syndrome: Differences of the group `DS`.
        paint: Tissue intensities and texture.
        scanner: Pose, field of view, voxels and artefacts.
    """

    label: str = "demo"
    seed: int = 0
    train: int = 128
    healthy: int = 24
    down_syndrome: int = 24
    scans_per_person: float = 1.0
    keep_tissues: bool = True
    warp: WarpSettings = field(default_factory=WarpSettings)
    ageing: AgeingSettings = field(default_factory=AgeingSettings)
    syndrome: DownSyndromeSettings = field(default_factory=DownSyndromeSettings)
    paint: PaintSettings = field(default_factory=PaintSettings)
    scanner: ScannerSettings = field(default_factory=ScannerSettings)

    def __post_init__(self) -> None:
        """Refuse counts that make no cohort.

        Raises:
            ConfigError: If a count is negative or all are zero.
        """
        counts = (self.train, self.healthy, self.down_syndrome)
        if min(counts) < 0 or sum(counts) == 0:
            raise ConfigError(
                "phantom: train, healthy and down_syndrome are numbers of scans, zero or more and "
                f"not all zero; found {counts}"
            )
        if not 1.0 <= self.scans_per_person <= 4.0:
            raise ConfigError(
                f"phantom: scans_per_person lies between 1 and 4, found {self.scans_per_person}"
            )

    def digest(self) -> str:
        """Hexadecimal digest of all that decides one head; numbers of heads are left out."""
        values = asdict(self)
        for key in ("label", "train", "healthy", "down_syndrome"):
            del values[key]
        text = json.dumps({"version": VERSION, **values}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Subject:
    """Whom and what to make.

    Attributes:
        group: `train`, `HS` or `DS`.
        index: Number of the person within the group, from 0.
        scan: Number of the scan of this person, from 0.
    """

    group: str
    index: int
    scan: int = 0


@dataclass(frozen=True, eq=False)
class Head:
    """A phantom head with its truth.

    Attributes:
        data: Intensities, int16, shape (I, J, K).
        tissues: Shares of grey matter, white matter and fluid, uint8 of 0 to 255, shape
            (3, I, J, K).
        affine: Voxel to world RAS mm, shape (4, 4).
        landmarks_mm: All landmarks of `afids32` in world RAS mm, shape (32, 3).
        plane: The true mid-sagittal plane, world RAS: least squares of the bent mid-surface.
        record: Plain numbers that describe the head, for its JSON file.
    """

    data: NDArray[np.int16]
    tissues: NDArray[np.uint8]
    affine: Array
    landmarks_mm: Array
    plane: Plane
    record: dict[str, Any]


def make_head(settings: PhantomSettings, subject: Subject) -> Head:
    """Make one phantom head.

    Args:
        settings: Settings of the cohort.
        subject: Group and numbers of person and scan; scans of a person share the anatomy.

    Raises:
        CohortError: If no invertible warp is found, which the settings' sizes can bring about.
    """
    visit = generator(settings.seed, subject.group, subject.index, 1 + subject.scan)
    frame = scanner_frame(settings.scanner, visit)
    body = anatomy(settings, subject, frame)
    plane, bend_mm = _true_plane(body.warp, frame.affine)
    texture_seed = generator(settings.seed, subject.group, subject.index, 1000)
    image, tissues = paint(settings.paint, load_atlas(), body.warp, body.age, texture_seed, visit)
    data = acquire(settings.scanner, image, frame, visit)
    data, tissues, affine = reoriented(data, tissues, frame)
    record = {
        "age": body.age.years,
        "atrophy": body.age.atrophy,
        "jacobian_min": body.jacobian_min,
        "warp_scale": body.warp_scale,
        "plane_normal": plane.normal.tolist(),
        "plane_offset_mm": plane.offset_mm,
        "plane_bend_mm": bend_mm,
        "voxel_mm": frame.voxel_mm.tolist(),
        "orientation": frame.codes,
    }
    landmarks = apply_affine(frame.affine, body.voxels)
    return Head(data, tissues, affine, landmarks, plane, record)


def _true_plane(warp: VoxelMap, affine: Array) -> tuple[Plane, float]:
    """Least-squares plane of the bent mid-surface, and the RMS distance of that from it."""
    surface = apply_affine(affine, warp.inverse(load_atlas().mid_surface_mm))
    centre = surface.mean(0)
    _, singular, rows = np.linalg.svd(surface - centre, full_matrices=False)
    return Plane.from_normal(rows[2], centre), float(singular[2] / np.sqrt(len(surface)))
