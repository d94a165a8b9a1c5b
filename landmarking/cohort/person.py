"""One phantom person's shape: landmarks, size, free variation, age and syndrome as one warp."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from landmarking.cohort.deformity import Age, LocalScaling, ageing, down_syndrome, scaled
from landmarking.cohort.random_fields import RandomField, random_field
from landmarking.cohort.scanner import ScannerFrame
from landmarking.cohort.shape_model import load_shape_model
from landmarking.cohort.warps import VoxelMap, fit_voxel_map, knots, landmark_flow
from landmarking.errors import CohortError
from landmarking.geometry import Array, apply_affine
from landmarking.landmarks import landmark_set

if TYPE_CHECKING:
    from landmarking.cohort.phantom import PhantomSettings, Subject


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
