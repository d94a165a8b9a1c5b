"""People to be painted: new ones from the template's mid slab, or a cohort's tissue maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import grid_sample

from landmarking.data.warp import (
    Chance,
    SliceWarp,
    interpolating,
    knot_count,
    knot_pixels,
    pose,
    random_field,
    thin_plate,
)
from landmarking.errors import ConfigError
from landmarking.geometry import Array
from landmarking.imaging.pipeline import DISTANCE_LOW_MM, DISTANCE_STEP_MM, MAPS
from landmarking.landmarks import landmark_set
from landmarking.phantom.shape import load_shape_model

if TYPE_CHECKING:
    from landmarking.imaging.pipeline import PreprocessSettings
    from landmarking.preparation.prepared import PreparedCohort


MARGIN_PX = 30
"""Pixels of the template kept beyond the slice on each side."""

LATERAL_MM = 5
"""The slab reaches from the mid-plane to this distance; the template is symmetric."""

CHANNELS = ("t1", "grey", "white", "distance", "cortex", "cerebellum", "face")
"""Maps of a slab: intensity, tissue probabilities, mm from the brain (negative within), regions."""

BENT = 4
"""The first channels differ from layer to layer, the regions do not."""

# Outlines on the mid-plane, common space (anterior, superior) mm, traced on the template.
_DEEP = (
    (38, 0), (32, 12), (20, 23), (2, 33), (-18, 34), (-35, 29), (-46, 18), (-48, 12), (-54, 13),
    (-88, -20), (-88, -100), (2, -100), (2, -22), (12, -20), (18, -10), (22, -6), (34, -5),
)  # fmt: skip
_CEREBELLUM = (
    (-41, -10), (-48, 2), (-56, 4), (-68, 0), (-84, -22), (-84, -35), (-73, -51), (-56, -50),
    (-45, -42), (-40, -28),
)  # fmt: skip
_FACE = (
    (120, -24), (12, -24), (-6, -30), (-12, -50), (-25, -75), (-60, -56), (-90, -48), (-200, -40),
    (-200, -200), (120, -200),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class TemplateSlab:
    """The template around its plane of symmetry, on the pixels of a slice.

    Attributes:
        pairs: For each lateral step the maps of `CHANNELS`, then once more the first four of
            them from the next step; shape (steps, 11, H + 2 m, W + 2 m), where m is `MARGIN_PX`.
        landmarks_px: AFIDs of the template on the slice, shape (32, 2), without the margin.
        modes_px: Modes of the landmarks' shape in pixels, shape (K, 32, 2).
        mean_px: Mean shape in pixels, shape (32, 2).
        size: Rows and columns (H, W) of the slice.
        spacing_mm: Pixel size.
    """

    pairs: Tensor
    landmarks_px: Tensor
    mean_px: Tensor
    modes_px: Tensor
    size: tuple[int, int]
    spacing_mm: float

    def to(self, device: torch.device) -> TemplateSlab:
        """The same slab on a device."""
        return TemplateSlab(
            self.pairs.to(device),
            self.landmarks_px.to(device),
            self.mean_px.to(device),
            self.modes_px.to(device),
            self.size,
            self.spacing_mm,
        )


def load_slab(settings: PreprocessSettings) -> TemplateSlab:
    """Cut the slab on the pixel grid of a preprocessing, once per process."""
    first, last = settings.crop
    return _slab(settings.slice_size, first, last, settings.spacing_mm)


@lru_cache(maxsize=2)
def _slab(slice_size: int, first: int, last: int, spacing_mm: float) -> TemplateSlab:
    from landmarking.imaging.pipeline import MIDSAGITTAL_COMMON, PreprocessSettings, slice_geometry

    settings = PreprocessSettings(slice_size=slice_size, crop=[first, last], spacing_mm=spacing_mm)
    geometry = slice_geometry(MIDSAGITTAL_COMMON, np.eye(4), settings)
    side = last - first + 2 * MARGIN_PX
    y, x = np.mgrid[:side, :side] - float(MARGIN_PX)
    plane_mm = geometry.to_world(np.stack([x, y], axis=-1))
    volumes, regions = _volumes(plane_mm), _regions(plane_mm)
    pairs = np.concatenate([volumes[:, :-1], regions, volumes[:, 1:]])
    model = load_shape_model()
    base = geometry.to_pixel(np.zeros(3))
    return TemplateSlab(
        pairs=_tensor(pairs.swapaxes(0, 1)).contiguous(),
        landmarks_px=_tensor(geometry.to_pixel(landmark_set("afids32").template_mm)),
        mean_px=_tensor(geometry.to_pixel(model.mean_mm)),
        # The map to pixels is affine; its constant part falls out of differences.
        modes_px=_tensor(geometry.to_pixel(model.modes_mm) - base),
        size=(last - first, last - first),
        spacing_mm=spacing_mm,
    )


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _volumes(plane_mm: Array) -> Array:
    """T1, grey, white and distance at all lateral steps, shape (4, D, side, side)."""
    from landmarking.imaging.template import load_template

    template = load_template()
    inverse = np.linalg.inv(template.affine)
    middle = round(float(inverse[0, 3]))
    near = slice(middle - 14, middle + 15)
    mask = template.brain_mask[near]
    # The volume ends within the brainstem; its last planes are carried on below.
    mask = np.pad(mask, ((0, 0), (20, 20), (40, 20)), mode="edge")
    mask[:, :20], mask[:, -20:], mask[:, :, -20:] = False, False, False
    distance = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
    layers = []
    for lateral in range(LATERAL_MM + 1):
        at = plane_mm @ inverse[:3, :3].T + inverse[:3, 3]
        voxels = np.stack([np.full(at.shape[:2], float(middle + lateral)), at[..., 1], at[..., 2]])
        voxels[2] = np.maximum(voxels[2], 0.0)
        parts = [
            ndimage.map_coordinates(volume, voxels, order=1, mode="constant")
            for volume in (template.brain, template.grey, template.white)
        ]
        shifted = np.stack([voxels[0] - near.start, at[..., 1] + 20, at[..., 2] + 40])
        parts.append(ndimage.map_coordinates(distance, shifted, order=1, mode="nearest"))
        layers.append(np.stack(parts))
    return np.stack(layers, axis=1)


def _regions(plane_mm: Array) -> Array:
    """Soft masks of cortex, cerebellum and face, the same at all lateral steps."""
    from matplotlib.path import Path

    flat = plane_mm[..., 1:].reshape(-1, 2)
    shape = plane_mm.shape[:2]
    deep, cerebellum, face = (
        Path(outline).contains_points(flat).reshape(shape)
        for outline in (_DEEP, _CEREBELLUM, _FACE)
    )
    masks = [
        ndimage.gaussian_filter(mask.astype(np.float64), sd)
        for mask, sd in ((~deep, 1.5), (cerebellum, 1.0), (face, 3.0))
    ]
    return np.repeat(np.stack(masks)[:, None], LATERAL_MM, axis=1)


# New people drawn from the template: its mid slab, bent to shapes of real people.
#
# Landmark shapes come from the modes of 60 people (`landmarking.phantom.shape`), everything else
# that varies from smooth random fields. The result is a set of warped tissue maps with exact
# landmarks, which `landmarking.data.painting` turns into images.


@dataclass
class PeopleSettings:
    """How people differ; lengths in mm (pixels of 1 mm), angles in degrees, all one SD.

    Attributes:
        shape_sd: Amounts of the 60 people's modes, 1 for as they are.
        frame_mm: Displacement of points around the head, each by itself.
        size: Size of the head by axis, as a share.
        fine_mm: Unmarked displacement with details of about 10 mm.
        coarse_mm: Likewise of about 40 mm.
        lateral_mm: Distance of the plane from the middle, overall and bent.
        turn_deg: In-plane turn that registration leaves.
        shift_mm: In-plane shift that it leaves.
        scale: Size that it leaves, as a share.
    """

    shape_sd: float = 1.15
    frame_mm: float = 3.5
    size: float = 0.05
    fine_mm: float = 0.5
    coarse_mm: float = 1.2
    lateral_mm: float = 0.8
    turn_deg: float = 4.0
    shift_mm: float = 3.5
    scale: float = 0.04


@dataclass(frozen=True, eq=False)
class People:
    """Drawn people, ready to be painted.

    Attributes:
        maps: Warped maps, shape (B, 7, H, W), see `CHANNELS`.
        points_px: AFIDs projected onto the slice, shape (B, L, 2); all 32, or those asked for.
    """

    maps: Tensor
    points_px: Tensor


@dataclass
class TemplatePeople:
    """Draws people from the template.

    Attributes:
        slab: The template.
        settings: How they differ.
        columns: Which of the 32 AFIDs are followed; all if None.
    """

    slab: TemplateSlab
    settings: PeopleSettings = field(default_factory=PeopleSettings)
    columns: tuple[int, ...] | None = None

    def draw(self, chance: Chance) -> People:
        """Draw one person for each subject of the chance.

        Args:
            chance: Source of numbers, of B subjects.
        """
        warp = self._warp(chance)
        wanted = list(range(32)) if self.columns is None else list(self.columns)
        points = warp.carry(self.slab.landmarks_px[wanted].expand(chance.size, -1, -1))
        return People(self._look(warp, chance), points)

    def _warp(self, chance: Chance) -> SliceWarp:
        """From a person's pixels to the template's: pose, then shape, then unmarked variation."""
        settings, (rows, columns) = self.settings, self.slab.size
        step = 5.0
        counts = (knot_count(rows, step), knot_count(columns, step))
        knots = knot_pixels(counts, step, chance.device)
        matrix, shift = self._pose(chance)
        posed = knots @ matrix.transpose(1, 2) + shift[:, None]
        person, template = self._controls(chance)
        residual = thin_plate(person, template, posed) - posed
        size = (counts[0], counts[1])
        fine = random_field(chance, 2.0, size, 2) * (settings.fine_mm / self.slab.spacing_mm)
        coarse = random_field(chance, 6.0, size, 2) * (settings.coarse_mm / self.slab.spacing_mm)
        values = residual.reshape(-1, *counts, 2).movedim(-1, 1) + fine + coarse
        return SliceWarp(matrix, shift, interpolating(values), step, self.slab.size)

    def _pose(self, chance: Chance) -> tuple[Tensor, Tensor]:
        settings, (rows, columns) = self.settings, self.slab.size
        turn = torch.deg2rad(settings.turn_deg * chance.normal())
        scale = torch.exp(settings.scale * chance.normal(1)).expand(-1, 2)
        shift = settings.shift_mm / self.slab.spacing_mm * chance.normal(2)
        return pose(turn, scale, shift, ((columns - 1) / 2, (rows - 1) / 2))

    def _controls(self, chance: Chance) -> tuple[Tensor, Tensor]:
        """Landmarks of the mid-line and a loose frame: of the person and of the template."""
        settings, slab = self.settings, self.slab
        amounts = settings.shape_sd * chance.normal(len(slab.modes_px)).clamp(-3.0, 3.0)
        shape = slab.mean_px + torch.einsum("bk,klc->blc", amounts, slab.modes_px)
        inner = torch.tensor(_midline(), device=shape.device)
        frame = _frame(slab.size, shape.device)
        centre = frame.mean(0)
        size = torch.exp(settings.size * chance.normal(1, 2))
        loose = settings.frame_mm / slab.spacing_mm * chance.normal(len(frame), 2)
        person = torch.cat([shape[:, inner], centre + size * (frame - centre) + loose], dim=1)
        template = torch.cat([slab.landmarks_px[inner], frame])
        return person, template.expand(chance.size, -1, -1)

    def _look(self, warp: SliceWarp, chance: Chance) -> Tensor:
        """Maps at the warped pixels, on a plane that is bent a little off the middle."""
        settings, pairs = self.settings, self.slab.pairs
        rows, columns = pairs.shape[-2:]
        bent = settings.lateral_mm * random_field(chance, 35.0, self.slab.size)
        offset = settings.lateral_mm * chance.normal(1, 1)
        # Two neighbouring layers are enough: the plane bends by less than their distance.
        layer = offset.abs().clamp(max=len(pairs) - 1.0).floor()
        share = ((offset + bent).abs() - layer).clamp(0.0, 1.0)[:, None]
        span = torch.tensor([columns - 1, rows - 1], device=pairs.device, dtype=torch.float32)
        at = 2.0 * (warp.grid() + MARGIN_PX) / span - 1.0
        near = layer.flatten().long()
        pair = self.slab.pairs.index_select(0, near)
        looked = grid_sample(pair, at, padding_mode="border", align_corners=True)
        first, second = looked[:, :BENT], looked[:, len(CHANNELS) :]
        bent_maps = first + share * (second - first)
        return torch.cat([bent_maps, looked[:, BENT : len(CHANNELS)]], dim=1)


@lru_cache(maxsize=1)
def _midline() -> list[int]:
    whole = landmark_set("afids32")
    return [
        next(i for i, other in enumerate(whole.landmarks) if other.afid == landmark.afid)
        for landmark in landmark_set("msp10").landmarks
    ]


@lru_cache(maxsize=8)
def _frame(size: tuple[int, int], device: torch.device) -> Tensor:
    """Points on an ellipse around the brain, a little beyond the slice, shape (14, 2)."""
    rows, columns = size
    angle = torch.arange(14, device=device) * (2.0 * torch.pi / 14)
    x = columns * (0.5 + 0.58 * torch.cos(angle))
    y = rows * (0.47 + 0.58 * torch.sin(angle))
    return torch.stack([x, y], dim=-1)


_TONES = (0.44, 0.82, 0.24)
"""Intensities that grey matter, white matter and fluid have in the template."""


@dataclass(frozen=True, eq=False)
class CohortPeople:
    """Maps of a cohort's people, kept as bytes.

    Attributes:
        tissues: Tissue maps, see `landmarking.imaging.pipeline`, uint8, shape (N, 4, H, W).
        regions: Soft masks of cortex, cerebellum and face, uint8, shape (N, 3, H, W).
        known: Whether a slice has tissue maps, shape (N,).
    """

    tissues: Tensor
    regions: Tensor
    known: Tensor

    def to(self, device: torch.device) -> CohortPeople:
        """The same people on a device."""
        return CohortPeople(self.tissues.to(device), self.regions.to(device), self.known.to(device))

    def maps(self, subjects: Tensor, warp: SliceWarp) -> Tensor:
        """Maps of some people, warped.

        Args:
            subjects: Numbers of the slices within their cohort, shape (B,).
            warp: Where each pixel looks; beyond the edge a slice's border goes on.

        Returns:
            Maps as `CHANNELS` names them, shape (B, 7, H, W).
        """
        chosen = torch.cat([self.tissues[subjects], self.regions[subjects]], dim=1)
        rows, columns = chosen.shape[-2:]
        span = torch.tensor([columns - 1, rows - 1], device=chosen.device, dtype=torch.float32)
        at = 2.0 * warp.grid() / span - 1.0
        maps = grid_sample(chosen.float(), at, padding_mode="border", align_corners=True)
        shares = maps[:, :3] / 255.0
        tones = torch.tensor(_TONES, device=maps.device)[:, None, None]
        t1 = (tones * shares).sum(1, keepdim=True)
        distance = maps[:, 3:4] * DISTANCE_STEP_MM + DISTANCE_LOW_MM
        return torch.cat([t1, shares[:, :2], distance, maps[:, len(MAPS) :] / 255.0], dim=1)


def cohort_people(cohort: PreparedCohort, slab: TemplateSlab, columns: list[int]) -> CohortPeople:
    """Maps of all people of a cohort.

    Args:
        cohort: The prepared cohort.
        slab: The template, whose regions are laid over each slice by its landmarks.
        columns: Position of each of the cohort's landmarks within `afids32`.

    Raises:
        ConfigError: If no scan of the cohort has tissue maps.
    """
    if cohort.tissues is None:
        raise ConfigError(
            f"augment.source: cohort {cohort.name} has no tissue maps to paint; take "
            "augment.source=people, or put maps beside the scans as "
            "derivatives/*/sub-*/anat/*_label-{GM,WM,CSF}_probseg.nii.gz and prepare it again"
        )
    tissues = torch.from_numpy(np.array(cohort.tissues))
    template_px = slab.landmarks_px[columns].cpu().numpy()
    regions = [_cohort_regions(slab, points, template_px) for points in cohort.points_px]
    return CohortPeople(tissues, torch.stack(regions), (tissues[:, :3] > 0).flatten(1).any(1))


def _cohort_regions(slab: TemplateSlab, points_px: Array, template_px: Array) -> Tensor:
    """The template's regions on one slice, as bytes, shape (3, H, W)."""
    matrix = torch.from_numpy(_to_template(points_px, template_px)).float()
    rows, columns = slab.size
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    at = torch.stack([x, y, torch.ones_like(x)], dim=-1).float() @ matrix
    masks = slab.pairs[:1, BENT : len(CHANNELS)].cpu()
    span = torch.tensor([masks.shape[-1] - 1, masks.shape[-2] - 1])
    at = 2.0 * (at + MARGIN_PX) / span - 1.0
    found = grid_sample(masks, at[None], padding_mode="border", align_corners=True)
    return (255.0 * found[0]).round().to(torch.uint8)


def _to_template(points_px: Array, template_px: Array) -> Array:
    """Least-squares affine map from a slice to the template's, shape (3, 2)."""
    known = np.isfinite(points_px).all(axis=-1)
    if known.sum() < 4:
        # Registration has brought the slice near the template's already.
        return np.eye(3, 2)
    source = np.column_stack([points_px[known], np.ones(known.sum())])
    return np.asarray(np.linalg.lstsq(source, template_px[known], rcond=None)[0])
