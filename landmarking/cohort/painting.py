"""From anatomy to intensities: tissues, folds and shells drawn anew for every head."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from landmarking.cohort.anatomy import Atlas, Float32
from landmarking.cohort.deformity import Age
from landmarking.cohort.face import Tissue
from landmarking.cohort.slow_fields import SlowFields, reach_mm, slow_fields
from landmarking.cohort.texture import texture
from landmarking.cohort.warps import VoxelMap
from landmarking.geometry import Array


@dataclass
class PaintSettings:
    """Tissue intensities and texture.

    Intensities are relative to white matter, smallest and largest, over the T1 contrasts in use
    (MPRAGE, SPGR; 1.5 to 7 T). All sizes are [A].

    Attributes:
        grey: Grey matter.
        fluid: Cerebrospinal fluid.
        bone: Compact bone.
        marrow: Marrow of skull and spine.
        fat: Fat of scalp, face and neck.
        muscle: Muscle.
        skull_mm: Mean thickness of the skull.
        scalp_mm: Mean thickness of the scalp.
        folds: Strength of a person's own folds against the average's, 0 to 1.
        grain: SD of the grain within tissues.
    """

    grey: list[float] = field(default_factory=lambda: [0.55, 0.82])
    fluid: list[float] = field(default_factory=lambda: [0.08, 0.35])
    bone: list[float] = field(default_factory=lambda: [0.05, 0.25])
    marrow: list[float] = field(default_factory=lambda: [0.4, 1.2])
    fat: list[float] = field(default_factory=lambda: [0.8, 1.7])
    muscle: list[float] = field(default_factory=lambda: [0.35, 0.7])
    skull_mm: float = 6.5
    scalp_mm: float = 6.5
    folds: float = 0.8
    grain: float = 0.025


@dataclass(frozen=True, eq=False)
class Palette:
    """Intensities of one scan, white matter at 1."""

    grey: float
    fluid: float
    bone: float
    marrow: float
    fat: float
    muscle: float
    dura: float


def paint(
    settings: PaintSettings,
    atlas: Atlas,
    warp: VoxelMap,
    age: Age,
    body: np.random.Generator,
    visit: np.random.Generator,
) -> tuple[Float32, NDArray[np.uint8]]:
    """Paint one head.

    Args:
        settings: Ranges.
        atlas: Average anatomy.
        warp: Voxels to template.
        age: Widening of sulci.
        body: Chance of the person, the same at all scans.
        visit: Chance of the scan.

    Returns:
        Intensities, white matter near 1, shape (I, J, K); tissue shares, (3, I, J, K).
    """
    rough = slow_fields(atlas, warp, body, settings.skull_mm, settings.scalp_mm)
    palette = _palette(settings, visit)
    points = warp.grid().reshape(3, -1)
    image = _around(settings, atlas, palette, points, rough)
    outside = rough.outside
    within = np.flatnonzero(outside < 1.0)
    inner, cortex = points[:, within], rough.cortex[within]
    # Folds of the medial wall differ from person to person, and the average's mid-plane is a blur
    # of fluid and cortex: the tissue seen there is that of 4 mm to the side, and a cleft is cut.
    aside = inner.copy()
    aside[0] = np.copysign(np.sqrt(inner[0] ** 2 + (4.0 * cortex) ** 2), inner[0])
    average = atlas.average.at(aside)
    folds = _shares(settings, average[1], average[2], cortex, inner, age, body)
    # The template's brain ends in a soft rim; beyond it the shells go on.
    solid = np.clip(average[0] / 0.08 - 0.5, 0.0, 1.0) * np.clip(0.5 - outside[within], 0.0, 1.0)
    painted = _brain(settings, palette, average[0], cortex, inner, folds, body)
    image[within] += solid * (painted - image[within])
    tissues = np.zeros((3, outside.size), dtype=np.uint8)
    tissues[:, within] = np.rint(255.0 * folds * (average[0] > 0.02))
    return image.reshape(warp.shape), tissues.reshape(3, *warp.shape)


def _palette(settings: PaintSettings, rng: np.random.Generator) -> Palette:
    names = ("grey", "fluid", "bone", "marrow", "fat", "muscle")
    levels = {}
    for name in names:
        low, high = getattr(settings, name)
        levels[name] = float(rng.uniform(low, high))
    # Fluid is always the darkest soft tissue, with room below grey matter.
    levels["fluid"] = min(levels["fluid"], 0.6 * levels["grey"])
    return Palette(**levels, dura=float(rng.uniform(0.15, 0.45)))


def _ramp(values: Array, middle: Array | float, width: float) -> Float32:
    """0 to 1 across a border, for partial volumes."""
    return np.asarray(np.clip((values - middle) / width + 0.5, 0.0, 1.0), dtype=np.float32)


def _shares(
    settings: PaintSettings,
    grey: Float32,
    white: Float32,
    cortex: Float32,
    points: Float32,
    age: Age,
    rng: np.random.Generator,
) -> Float32:
    """Shares of grey matter, white matter and fluid in the brain, shape (3, N).

    The average's cortex is a blur of 152 people's folds. Sheets on which a random field is zero
    look like sulci: fluid lies on them, a ribbon of grey matter beside them, white matter between.
    """
    own = settings.folds * cortex
    ribbon = texture(rng, 9.0).at(points)
    field = texture(rng, float(rng.uniform(16.0, 22.0))).at(points)
    from_sulcus = np.abs(field + 0.25 * ribbon)
    width = 0.3 + 0.25 * age.sulci_mm + 0.06 * ribbon
    average = np.clip(1.0 - grey - white, 0.0, 1.0)
    sulcus = own * _ramp(width - from_sulcus, 0.0, 0.25) * np.clip(1.4 - 1.6 * white, 0.0, 1.0)
    soft = average + 0.2 * own * ribbon + 0.15 * age.sulci_mm * own
    fluid = np.maximum.reduce(
        [(1.0 - own) * average + own * _ramp(soft, 0.5, 0.5), sulcus, own * _cleft(points, rng)]
    )
    # Deep white matter has no ribbon; only its rim is reshaped.
    rim = 0.4 * (np.minimum(from_sulcus, 2.0) - 0.9) + 0.08 * ribbon
    core = white + own * rim * np.clip(1.3 - white, 0.0, 1.0)
    solid = (1.0 - own) * white / np.maximum(grey + white, 1e-3) + own * _ramp(core, 0.5, 0.35)
    solid = np.clip(solid, 0.0, 1.0)
    return np.stack([(1.0 - fluid) * (1.0 - solid), (1.0 - fluid) * solid, fluid])


def _cleft(points: Float32, rng: np.random.Generator) -> Float32:
    """Fluid between the hemispheres, a sheet that wanders about the mid-plane."""
    flat = points.copy()
    flat[0] = 0.0
    near = np.flatnonzero(np.abs(points[0]) < 7.0)
    flat = flat[:, near]
    middle = 1.2 * texture(rng, 40.0).at(flat)
    width = 0.25 + 0.4 * np.exp(0.7 * texture(rng, 14.0).at(flat))
    share = np.zeros(points.shape[1], dtype=np.float32)
    share[near] = _ramp(width - np.abs(points[0, near] - middle), 0.0, 1.2)
    return share


def _brain(
    settings: PaintSettings,
    palette: Palette,
    brain: Float32,
    cortex: Float32,
    points: Float32,
    shares: Float32,
    rng: np.random.Generator,
) -> Float32:
    levels = np.array([palette.grey, 1.0, palette.fluid], dtype=np.float32)
    flat = levels @ shares
    # Thalamus, pallidum and brain stem lie between grey and white, as the average shows.
    own = np.interp(brain, (0.0, 0.22, 0.64, 0.88), (*levels[[2, 2, 0, 1]],)).astype(np.float32)
    mixed = flat + (0.85 - 0.7 * cortex) * (own - flat)
    falx = (
        cortex
        * _ramp(0.5 - np.abs(points[0]), 0.0, 0.8)
        * np.clip(points[2] / 20.0 - 1.5, 0.0, 1.0)
    )
    mixed += 0.6 * falx * (palette.dura - mixed)
    grain = texture(rng, 5.0, 0.6).at(points)
    return np.asarray(mixed * (1.0 + settings.grain * grain), dtype=np.float32)


def _around(
    settings: PaintSettings,
    atlas: Atlas,
    palette: Palette,
    points: Float32,
    rough: SlowFields,
) -> Float32:
    """Intensities outside the brain: shells of the vault, and the face and neck below."""
    shells = rough.shells
    image = np.zeros(rough.outside.size, dtype=np.float32)
    rind = np.flatnonzero((rough.outside > -1.5) & (rough.outside < reach_mm(shells)))
    depth = _depth(rough, rind)
    image[rind] = _vault(palette, depth, shells) * (1.0 + settings.grain * rough.fast[rind])
    low = np.flatnonzero((rough.body > 0.0) & (rough.outside > 0.5))
    where, fast, middle = points[:, low], rough.fast[low], rough.middle[low]
    labels = atlas.labels.nearest(where + np.stack([0.5 * fast, 0.8 * middle, 0.8 * fast]))
    # At the base of the skull fluid and the inner table come first.
    depth = _depth(rough, low)
    flesh = (labels > 0) & (depth > np.where(where[2] < -60.0, shells[0], shells[2]))
    flesh |= (labels == Tissue.CORD) | ((labels == Tissue.FLUID) & (where[2] < -64.0))
    painted = _flesh(palette, labels[flesh], fast[flesh], middle[flesh])
    image[low[flesh]] = painted * (1.0 + settings.grain * fast[flesh])
    return image


def _depth(rough: SlowFields, chosen: NDArray[np.intp]) -> Float32:
    """Distance from the brain over a thickness that varies around the head."""
    uneven = rough.outside[chosen] + 0.3 * rough.fast[chosen]
    return np.asarray(uneven / (1.0 + 0.12 * rough.slow[chosen]), dtype=np.float32)


def _vault(palette: Palette, depth: Float32, shells: Array) -> Float32:
    p = palette
    diploe = 0.5 * p.marrow + 0.5 * p.bone
    skin = 0.5 * p.fat + 0.5 * p.muscle
    levels = (p.fluid, p.dura, p.bone, diploe, p.bone, p.fat, skin, 0.0)
    image = np.full(depth.shape, levels[0], dtype=np.float32)
    for edge, lower, upper in zip(shells, levels[:-1], levels[1:], strict=True):
        image += (upper - lower) * _ramp(depth, float(edge), 1.0)
    return image


def _flesh(palette: Palette, labels: NDArray[np.uint8], grain: Float32, slow: Float32) -> Float32:
    p = palette
    table = np.zeros(len(Tissue), dtype=np.float32)
    table[[Tissue.FLUID, Tissue.BONE, Tissue.MARROW, Tissue.FAT]] = p.fluid, p.bone, p.marrow, p.fat
    table[[Tissue.MUSCLE, Tissue.AIR, Tissue.MUCOSA, Tissue.CORD]] = p.muscle, 0.02, 0.85, 0.92
    table[Tissue.SKIN] = 0.5 * p.fat + 0.5 * p.muscle
    image = table[labels]
    # Fat runs between muscles, and air between the folds of the nose.
    seam = 0.8 * _ramp(0.12 - np.abs(slow), 0.0, 0.2)
    image += np.where(labels == Tissue.MUSCLE, seam * (0.8 * p.fat - image), 0.0)
    image += np.where(labels == Tissue.MUCOSA, _ramp(grain, 0.5, 0.6) * (0.05 - image), 0.0)
    image *= 1.0 + np.where(labels == Tissue.FAT, 0.15, 0.06) * slow
    return image
