"""Phantom people: the shape of one as a warp, and a scan of the head with exact landmarks."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmarking.errors import CohortError, ConfigError
from landmarking.geometry import Array, Plane, apply_affine
from landmarking.landmarks import landmark_set
from landmarking.phantom.anatomy import load_atlas
from landmarking.phantom.deform import VoxelMap, fit_voxel_map, knots, landmark_flow
from landmarking.phantom.fields import RandomField, random_field
from landmarking.phantom.paint import PaintSettings, paint
from landmarking.phantom.scanner import (
    ScannerFrame,
    ScannerSettings,
    acquire,
    reoriented,
    scanner_frame,
)
from landmarking.phantom.shape import (
    Age,
    AgeingSettings,
    DownSyndromeSettings,
    LocalScaling,
    ageing,
    down_syndrome,
    load_shape_model,
    scaled,
)


def generator(seed: int, group: str, *numbers: int) -> np.random.Generator:
    """Source of chance of one subject, the same in any order and process."""
    entropy = (seed, zlib.crc32(group.encode()), *numbers)
    return np.random.default_rng(np.random.SeedSequence(entropy))


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One person's shape, on the voxel grid of one scan.

    Attributes:
        warp: Voxels to the template.
        voxels: Landmarks of `afids32`, in voxel indices, shape (32, 3).
        jacobian_min: Smallest volume ratio of the warp; above zero.
        warp_scale: Share of the variation drawn that was kept for the warp to be invertible.
        age: Age and atrophy.
    """

    warp: VoxelMap
    voxels: Array
    jacobian_min: float
    warp_scale: float
    age: Age


def anatomy(settings: PhantomSettings, subject: Subject, frame: ScannerFrame) -> Anatomy:
    """Draw a person's shape; scans of one person share it but for the years between them.

    Raises:
        CohortError: If no invertible warp is found.
    """
    rng = generator(settings.seed, subject.group, subject.index, 0)
    age = ageing(settings.ageing, rng, subject.group, subject.scan)
    changes = list(age.changes)
    if subject.group == "DS":
        changes += down_syndrome(settings.syndrome, rng)
    person_mm = load_shape_model().sample(rng)
    stretch = np.exp(settings.warp.size_sd * rng.standard_normal(3))
    low, high = np.array([-130.0, -170.0, -190.0]), np.array([130.0, 150.0, 130.0])
    sizes = settings.warp
    scales = ((8.0, sizes.fine_mm), (18.0, sizes.middle_mm), (45.0, sizes.coarse_mm))
    drawn = _Drawn(person_mm, stretch, random_field(rng, low, high, scales), tuple(changes))
    for scale in (1.0, 0.75, 0.5, 0.25):
        warp = _voxel_map(drawn, frame, settings.warp.knot_mm, scale)
        smallest = float(warp.jacobian(every=3).min())
        if smallest > 0.05:
            voxels = warp.inverse(landmark_set("afids32").template_mm)
            return Anatomy(warp, voxels, smallest, scale, age)
    raise CohortError(
        f"phantom: no invertible warp found (Jacobian {smallest:.2f} at a quarter of the sizes "
        "set); lower the sizes under warp"
    )


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What was drawn for a person: landmarks, stretch of the head, free variation, changes."""

    landmarks_mm: Array
    stretch: Array
    field: RandomField
    changes: tuple[LocalScaling, ...]


def _voxel_map(drawn: _Drawn, frame: ScannerFrame, knot_mm: float, scale: float) -> VoxelMap:
    """Voxels to the template, with a share of the variation drawn.

    Looking back from the scan: pose, changes by age and syndrome, size, the way from the person's
    landmarks, and the free variation, for which the landmarks' goals make up in advance.
    """
    template_mm = landmark_set("afids32").template_mm
    step = knot_mm / frame.voxel_mm
    to_head = np.linalg.inv(frame.pose) @ frame.affine
    lattice = knots(frame.shape, step)
    head_mm = apply_affine(to_head, lattice.reshape(-1, 3))
    field = drawn.field.scaled(scale)
    start = template_mm + scale * (drawn.landmarks_mm - template_mm)
    linear = _linear_part(start, template_mm, drawn.stretch)
    points = apply_affine(linear, scaled(head_mm, drawn.changes))
    points = landmark_flow(points, apply_affine(linear, start), field.undone(template_mm))
    targets = field.displaced(points).reshape(lattice.shape)
    return fit_voxel_map(linear @ to_head, targets, step, frame.shape)


def _linear_part(person_mm: Array, template_mm: Array, stretch: Array) -> Array:
    """Person to template: scaling by axis about the landmarks' centre, shape (4, 4)."""
    centre, goal = person_mm.mean(0), template_mm.mean(0)
    size = np.sum((person_mm - centre) * (template_mm - goal), 0)
    size /= np.sum((person_mm - centre) ** 2, 0)
    # Deep landmarks say little about the outer head; half of what they say is taken for it.
    scale = (0.5 * size + 0.5 * size.mean()) / stretch
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = goal - scale * centre
    return matrix


# Phantom heads: a real average brain, bent to the anatomy of new people, with exact landmarks.
#
# `make_head` is a pure function of the settings and a subject: the same bytes alone, in any order
# and in any process.


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
