"""Slices painted anew: people drawn from the template, or a cohort's own from its tissue maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from landmarking.data.augment_config import AugmentConfig
from landmarking.data.chance import Chance
from landmarking.data.cohort_people import CohortPeople, cohort_people
from landmarking.data.painting import HistogramMatcher, paint
from landmarking.data.template_people import TemplatePeople
from landmarking.data.template_slab import load_slab
from landmarking.data.warp import SliceWarp, knot_count, pose
from landmarking.errors import ConfigError
from landmarking.landmarks import LandmarkSet, landmark_set

if TYPE_CHECKING:
    from landmarking.data.prepared import PreparedCohort
    from landmarking.imaging.pipeline import PreprocessSettings


def afids_columns(landmarks: LandmarkSet, names: Sequence[str]) -> list[int]:
    """Positions of landmarks within `afids32`.

    Raises:
        ConfigError: If one is not among them.
    """
    numbers = [landmark.afid for landmark in landmark_set("afids32").landmarks]
    wanted = [landmarks.landmarks[landmarks.index(name)] for name in names]
    absent = [landmark.name for landmark in wanted if landmark.afid not in numbers]
    if absent:
        raise ConfigError(
            f"augment=synth paints the 32 AFIDs, found {', '.join(absent)}; take augment=strong"
        )
    return [numbers.index(landmark.afid) for landmark in wanted]


class Painter:
    """Paints people as finished slices.

    Attributes:
        paints_all: Whether every slice can be painted; without, a batch need not be waited for.
    """

    def __init__(
        self,
        config: AugmentConfig,
        preprocess: PreprocessSettings,
        columns: list[int],
        cohort: PreparedCohort | None = None,
    ) -> None:
        """Hold the maps of those who will be painted.

        Args:
            config: Whom to paint and how.
            preprocess: How the cohort's slices were made.
            columns: Positions of the run's landmarks within `afids32`.
            cohort: The cohort whose tissue maps are painted; None paints people alone.

        Raises:
            ConfigError: If tissue maps are asked for and there are none.
        """
        from landmarking.imaging.pipeline import histogram_reference

        self.config = config
        slab = load_slab(preprocess)
        self.people = TemplatePeople(slab, config.people, tuple(columns))
        self.match = HistogramMatcher(histogram_reference(preprocess))
        self.own: CohortPeople | None = None
        if config.source != "people":
            if cohort is None:
                raise ConfigError(f"augment.source={config.source} needs a cohort to paint")
            names = cohort.landmarks.names
            self.own = cohort_people(cohort, slab, afids_columns(cohort.landmarks, names))
        self.paints_all = self.own is None or config.source == "both" or bool(self.own.known.all())

    def __call__(
        self, chance: Chance, subjects: Tensor, points_px: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Paint a batch.

        Args:
            chance: Source of numbers, of B subjects.
            subjects: Numbers of the slices within the cohort, shape (B,).
            points_px: Their landmarks, shape (B, L, 2); NaN where missing.

        Returns:
            Slices, shape (B, 1, H, W), histogram-matched; their points, shape (B, L, 2); whether
            each could be painted, shape (B,).
        """
        if self.own is None:
            maps, points_px = self._drawn(chance)
            could = torch.ones(chance.size, dtype=torch.bool, device=chance.device)
        else:
            maps, points_px, could = self._own(self.own, chance, subjects, points_px)
        images = self.match(paint(maps, chance, self.config.paint))
        return images, within(points_px, (images.shape[-2], images.shape[-1])), could

    def _drawn(self, chance: Chance) -> tuple[Tensor, Tensor]:
        self.people.slab = self.people.slab.to(chance.device)
        people = self.people.draw(chance)
        return people.maps, people.points_px

    def _own(
        self, own: CohortPeople, chance: Chance, subjects: Tensor, points_px: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        self.own = own = own.to(chance.device)
        rows, columns = own.tissues.shape[-2:]
        warp = random_warp(chance, self.config, (rows, columns))
        maps, points_px = own.maps(subjects, warp), warp.carry(points_px)
        known = own.known[subjects]
        if self.config.source == "cohort":
            return maps, points_px, known
        other_maps, other_px = self._drawn(chance)
        mine = chance.happens(0.5).bool() & known
        maps = torch.where(mine[:, None, None, None], maps, other_maps)
        points_px = torch.where(mine[:, None, None], points_px, other_px)
        return maps, points_px, torch.ones_like(known)


def within(points_px: Tensor, size: tuple[int, int]) -> Tensor:
    """Points, with those outside a slice of size (H, W) turned into NaN."""
    limit = torch.tensor([size[1] - 1, size[0] - 1], device=points_px.device)
    inside = ((points_px >= 0.0) & (points_px <= limit)).all(dim=-1, keepdim=True)
    return torch.where(inside, points_px, torch.nan)


def random_warp(chance: Chance, config: AugmentConfig, size: tuple[int, int]) -> SliceWarp:
    """Draw pose and smooth warp of each slice of a batch."""
    turn = torch.deg2rad(config.turn_deg * chance.normal())
    scale = torch.exp(config.scale * chance.normal(2).clamp(-3.0, 3.0))
    shift = config.shift_px * chance.normal(2)
    matrix, constant = pose(turn, scale, shift, ((size[1] - 1) / 2, (size[0] - 1) / 2))
    coefficients = None
    if config.warp_px > 0.0:
        knots = (knot_count(size[0], config.warp_knot_px), knot_count(size[1], config.warp_knot_px))
        # Splines of white noise are smoother than it by about this factor.
        coefficients = 1.5 * config.warp_px * chance.normal(2, *knots).clamp(-2.5, 2.5)
    return SliceWarp(matrix, constant, coefficients, config.warp_knot_px, size)
