"""From anatomy to intensities: tissues, folds and shells drawn anew for every head."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from landmarking.geometry import Array
from landmarking.phantom.anatomy import Atlas, Float32, Tissue
from landmarking.phantom.deform import VoxelMap
from landmarking.phantom.fields import Layout, SlowFields, Texture, head_layout, texture
from landmarking.phantom.shape import Age

_INNERMOST_MM, _DEPTH_MM = -1.5, 1.0 / 32.0
"""Distance from the brain at which the table of the shells begins, and its step."""
_TONES = np.linspace(0.0, 1.0, 1025)
"""Intensities of the average brain at which their curve is tabulated."""


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
    return Painter.of(settings, atlas, warp, age, body, visit).volume()


@dataclass(frozen=True, eq=False)
class _Brush:
    """What is the same in all of a head.

    Attributes:
        settings: Ranges.
        atlas: Average anatomy.
        palette: Intensities of the scan.
        age: Widening of sulci.
        shells: Distances from the brain at which the layers around it end, mm, shape (7,).
        vault: Intensities by distance from the brain, in steps of `_DEPTH_MM`.
        grain: Texture within tissues.
        cleft: Textures of the cleft between the hemispheres: its way and its width.
    """

    settings: PaintSettings
    atlas: Atlas
    palette: Palette
    age: Age
    shells: Array
    vault: Float32
    grain: Texture
    cleft: tuple[Texture, Texture]


def _brush(
    settings: PaintSettings,
    atlas: Atlas,
    age: Age,
    shells: Array,
    body: np.random.Generator,
    visit: np.random.Generator,
) -> _Brush:
    palette = _palette(settings, visit)
    depth = np.arange(_INNERMOST_MM, shells[-1] + 1.0, _DEPTH_MM, dtype=np.float32)
    grain, way, width = texture(body, 5.0, 0.6), texture(body, 40.0), texture(body, 14.0)
    vault = _vault(palette, depth, shells)
    vault[[0, -1]] = 0.0
    return _Brush(settings, atlas, palette, age, shells, vault, grain, (way, width))


@dataclass(frozen=True, eq=False)
class Painter:
    """One head, ready to be painted: all of its voxels, or any points, such as those of a plane.

    Attributes:
        warp: Voxels to template.
        layout: Where its layers lie.
        brush: What is the same in all of it.
    """

    warp: VoxelMap
    layout: Layout
    brush: _Brush

    @classmethod
    def of(
        cls,
        settings: PaintSettings,
        atlas: Atlas,
        warp: VoxelMap,
        age: Age,
        body: np.random.Generator,
        visit: np.random.Generator,
    ) -> Painter:
        """Draw what is drawn once a head; arguments as of `paint`."""
        layout = head_layout(atlas, warp, body, settings.skull_mm, settings.scalp_mm)
        return cls(warp, layout, _brush(settings, atlas, age, layout.shells, body, visit))

    def volume(self) -> tuple[Float32, NDArray[np.uint8]]:
        """Intensities of all voxels, shape (I, J, K), and tissue shares, shape (3, I, J, K)."""
        image = np.zeros(self.warp.shape, dtype=np.float32)
        tissues = np.zeros((3, *self.warp.shape), dtype=np.uint8)
        for box in self.layout.blocks():
            points = self.warp.grid(box=box)
            size = points.shape[1:]
            colours, shares = _block(self.brush, points.reshape(3, -1), self.layout.block(box))
            image[box] = colours.reshape(size)
            tissues[:, *box] = shares.reshape(3, *size)
        return image, tissues

    def at(self, voxels: Array) -> tuple[Float32, NDArray[np.uint8]]:
        """The same head at any points, without a volume.

        Args:
            voxels: Voxel indices, which need not be whole, shape (N, 3); those of a plane make the
                slice that would be cut from the volume, sharper by one interpolation.

        Returns:
            Intensities, shape (N,), and tissue shares, shape (3, N).
        """
        points = np.asarray(self.warp.at(voxels).T, dtype=np.float32)
        return _block(self.brush, np.ascontiguousarray(points), self.layout.at(voxels))


def _block(brush: _Brush, points: Float32, rough: SlowFields) -> tuple[Float32, NDArray[np.uint8]]:
    """Intensities, shape (N,), and tissue shares, shape (3, N), of some voxels."""
    image = _around(brush, points, rough)
    tissues = np.zeros((3, len(image)), dtype=np.uint8)
    within = np.flatnonzero(rough.outside < 1.0)
    if not len(within):
        return image, tissues
    inner, cortex = points.take(within, axis=1), rough.cortex[within]
    # Folds of the medial wall differ from person to person, and the average's mid-plane is a blur
    # of fluid and cortex: the tissue seen there is that of 4 mm to the side, and a cleft is cut.
    aside = inner.copy()
    aside[0] = np.copysign(np.hypot(inner[0], 4.0 * cortex), inner[0])
    brain, grey, white = brush.atlas.average.at(aside)
    relief, ribbon = rough.relief[within], rough.ribbon[within]
    own = brush.settings.folds * cortex
    folds = _shares(grey, white, own, relief, ribbon, brush.age)
    _cut_cleft(folds, inner, own, brush.cleft)
    # The template's brain ends in a soft rim; beyond it the shells go on.
    solid = np.clip(brain / 0.08 - 0.5, 0.0, 1.0)
    solid *= np.clip(0.5 - rough.outside[within], 0.0, 1.0)
    painted = _brain(brush, brain, cortex, inner, folds)
    image[within] += solid * (painted - image[within])
    folds *= 255.0 * (brain > 0.02)
    tissues[:, within] = np.rint(folds, out=folds)
    return image, tissues


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
    grey: Float32, white: Float32, own: Float32, relief: Float32, ribbon: Float32, age: Age
) -> Float32:
    """Shares of grey matter, white matter and fluid in the brain, shape (3, N).

    The average's cortex is a blur of 152 people's folds. Sheets on which a random relief is zero
    look like sulci: fluid lies on them, a ribbon of grey matter beside them, white matter between.
    """
    from_sulcus = np.abs(relief + 0.25 * ribbon)
    width = 0.3 + 0.25 * age.sulci_mm + 0.06 * ribbon
    average = np.clip(1.0 - grey - white, 0.0, 1.0)
    sulcus = own * _ramp(width - from_sulcus, 0.0, 0.25) * np.clip(1.4 - 1.6 * white, 0.0, 1.0)
    soft = average + 0.2 * own * ribbon + 0.15 * age.sulci_mm * own
    fluid = np.maximum((1.0 - own) * average + own * _ramp(soft, 0.5, 0.5), sulcus)
    # Deep white matter has no ribbon; only its rim is reshaped.
    rim = 0.4 * (np.minimum(from_sulcus, 2.0) - 0.9) + 0.08 * ribbon
    core = white + own * rim * np.clip(1.3 - white, 0.0, 1.0)
    solid = (1.0 - own) * white / np.maximum(grey + white, 1e-3) + own * _ramp(core, 0.5, 0.35)
    solid = np.clip(solid, 0.0, 1.0)
    return np.stack([(1.0 - fluid) * (1.0 - solid), (1.0 - fluid) * solid, fluid])


def _cut_cleft(
    shares: Float32, points: Float32, own: Float32, textures: tuple[Texture, Texture]
) -> None:
    """Put fluid between the hemispheres, a sheet that wanders about the mid-plane."""
    near = np.flatnonzero((np.abs(points[0]) < 7.0) & (own > 0.0))
    if not len(near):
        return
    flat = points[:, near]
    side = flat[0].copy()
    flat[0] = 0.0
    middle = 1.2 * textures[0].at(flat)
    width = 0.25 + 0.4 * np.exp(0.7 * textures[1].at(flat))
    cleft = own[near] * _ramp(width - np.abs(side - middle), 0.0, 1.2)
    before = shares[:, near]
    fluid = np.maximum(before[2], cleft)
    before[:2] *= (1.0 - fluid) / np.maximum(1.0 - before[2], 1e-6)
    before[2] = fluid
    shares[:, near] = before


def _brain(
    brush: _Brush, brain: Float32, cortex: Float32, points: Float32, shares: Float32
) -> Float32:
    palette = brush.palette
    levels = np.array([palette.grey, 1.0, palette.fluid], dtype=np.float32)
    flat = levels @ shares
    # Thalamus, pallidum and brain stem lie between grey and white, as the average shows.
    tones = np.interp(_TONES, (0.0, 0.22, 0.64, 0.88), levels[[2, 2, 0, 1]]).astype(np.float32)
    index = (brain * np.float32(len(_TONES) - 1) + np.float32(0.5)).astype(np.int32)
    own = tones.take(index, mode="clip")
    mixed = flat + (0.85 - 0.7 * cortex) * (own - flat)
    falx = (
        cortex
        * _ramp(0.5 - np.abs(points[0]), 0.0, 0.8)
        * np.clip(points[2] / 20.0 - 1.5, 0.0, 1.0)
    )
    mixed += 0.6 * falx * (palette.dura - mixed)
    mixed *= 1.0 + brush.settings.grain * brush.grain.nearest(points)
    return np.asarray(mixed, dtype=np.float32)


def _around(brush: _Brush, points: Float32, rough: SlowFields) -> Float32:
    """Intensities outside the brain: shells of the vault, and the face and neck below."""
    grain, shells = brush.settings.grain, brush.shells
    # Distance from the brain over a thickness that varies around the head.
    depth = rough.outside + 0.3 * rough.fast
    depth /= 1.0 + 0.12 * rough.slow
    steps = depth * np.float32(1.0 / _DEPTH_MM)
    steps += np.float32(0.5 - _INNERMOST_MM / _DEPTH_MM)
    np.clip(steps, 0.0, len(brush.vault) - 1.0, out=steps)
    image = brush.vault.take(steps.astype(np.int32))
    image *= 1.0 + grain * rough.fast
    low = np.flatnonzero((rough.body > 0.0) & (rough.outside > 0.5))
    if not len(low):
        return image
    where, fast, middle = points.take(low, axis=1), rough.fast[low], rough.middle[low]
    moved = where + np.stack([0.5 * fast, 0.8 * middle, 0.8 * fast])
    labels = brush.atlas.labels.nearest(moved)
    # At the base of the skull fluid and the inner table come first.
    flesh = (labels > 0) & (depth[low] > np.where(where[2] < -60.0, shells[0], shells[2]))
    flesh |= (labels == Tissue.CORD) | ((labels == Tissue.FLUID) & (where[2] < -64.0))
    painted = _flesh(brush.palette, labels[flesh], fast[flesh], middle[flesh])
    image[low[flesh]] = painted * (1.0 + grain * fast[flesh])
    return image


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
