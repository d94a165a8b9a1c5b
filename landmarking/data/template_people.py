"""New people drawn from the template: its mid slab, bent to shapes of real people.

Landmark shapes come from the modes of 60 people (`landmarking.cohort.shape_model`), everything else
that varies from smooth random fields. The result is a set of warped tissue maps with exact
landmarks, which `landmarking.data.painting` turns into images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from landmarking.data.chance import Chance
from landmarking.data.template_slab import BENT, CHANNELS, MARGIN_PX, TemplateSlab
from landmarking.data.warp import (
    SliceWarp,
    interpolating,
    knot_count,
    knot_pixels,
    pose,
    random_field,
    thin_plate,
)
from landmarking.landmarks import landmark_set


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
