"""Augmentation of training slices on the device: settings, painted people, warps, noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from landmarking.data.painting import HistogramMatcher, PaintSettings, blurred, paint, scaled
from landmarking.data.people import (
    CohortPeople,
    PeopleSettings,
    TemplatePeople,
    cohort_people,
    load_slab,
)
from landmarking.data.warp import Chance, SliceWarp, knot_count, pose, random_field
from landmarking.errors import ConfigError
from landmarking.landmarks import LandmarkSet, landmark_set

if TYPE_CHECKING:
    from landmarking.imaging.pipeline import PreprocessSettings
    from landmarking.preparation.prepared import PreparedCohort


KINDS = ("none", "random", "synth")
SOURCES = ("people", "cohort", "both")


@dataclass
class AugmentConfig:
    """What happens to a training slice; a size of zero leaves that change out.

    Attributes:
        kind: `none`; `random` changes the slice; `synth` puts a newly drawn and painted person in
            its place.
        turn_deg: SD of the in-plane turn.
        scale: SD of the logarithm of the size, by axis.
        shift_px: SD of the shift, by axis.
        warp_px: SD of a smooth displacement.
        warp_knot_px: Its knot distance.
        contrast: Largest bend of the intensities towards or away from the middle, below 1.
        gamma: SD of the logarithm of gamma.
        bias: Largest SD of the logarithm of a smooth bias field.
        blur_px: Largest SD of a Gaussian blur, by axis.
        noise: Largest SD of noise, as a share of the range of intensities.
        occlusion: Probability that a rectangle is covered.
        artery: Probability that a bright artery is drawn along the front of the genu, as the
            pericallosal artery lies there in T1 scans with inflow; where GENU is a landmark.
        share: Share of slices that `synth` replaces; the rest keeps the cohort's own and is changed
            as `random` does.
        source: Whom `synth` paints: `people`, newly drawn from the template; `cohort`, each slice's
            own person from the tissue maps of the scan, turned, scaled, shifted and warped as
            `random` does; `both`, one or the other by chance. Slices without tissue maps are drawn
            from the template under `both` and stay the cohort's own under `cohort`.
        people: How the people of `synth` differ.
        paint: How they are painted.
    """

    kind: str = "none"
    turn_deg: float = 0.0
    scale: float = 0.0
    shift_px: float = 0.0
    warp_px: float = 0.0
    warp_knot_px: float = 30.0
    contrast: float = 0.0
    gamma: float = 0.0
    bias: float = 0.0
    blur_px: float = 0.0
    noise: float = 0.0
    occlusion: float = 0.0
    artery: float = 0.0
    share: float = 1.0
    source: str = "people"
    people: PeopleSettings = field(default_factory=PeopleSettings)
    paint: PaintSettings = field(default_factory=PaintSettings)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        if self.kind not in KINDS:
            raise ConfigError(f"augment.kind is one of {', '.join(KINDS)}, found {self.kind!r}")
        if self.source not in SOURCES:
            raise ConfigError(
                f"augment.source is one of {', '.join(SOURCES)}, found {self.source!r}"
            )
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and value < 0.0:
                raise ConfigError(f"augment.{item.name} is not negative, found {value}")
        if self.contrast >= 1.0 or max(self.share, self.occlusion, self.artery) > 1.0:
            raise ConfigError(
                "augment.contrast lies below 1; augment.share, augment.occlusion and "
                f"augment.artery are at most 1, found {self.contrast}, {self.share}, "
                f"{self.occlusion} and {self.artery}"
            )
        if self.warp_knot_px < 6.0 * self.warp_px or self.warp_knot_px <= 0.0:
            raise ConfigError(
                f"augment.warp_knot_px is at least six times augment.warp_px, or slices would "
                f"fold, found {self.warp_knot_px} and {self.warp_px}"
            )


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
        self.finish: Callable[[Tensor], Tensor] = (
            scaled
            if preprocess.intensity == "scaled"
            else HistogramMatcher(histogram_reference(preprocess))
        )
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
            Slices, shape (B, 1, H, W), matched or scaled; their points, shape (B, L, 2); whether
            each could be painted, shape (B,).
        """
        if self.own is None:
            maps, points_px = self._drawn(chance)
            could = torch.ones(chance.size, dtype=torch.bool, device=chance.device)
        else:
            maps, points_px, could = self._own(self.own, chance, subjects, points_px)
        images = self.finish(paint(maps, chance, self.config.paint))
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


# Augmentation of training slices, on the device, in batches, image and points together.
#
# Every number comes from (seed, epoch, slice), so that a slice is changed in the same way whatever
# batch it falls into and whether or not the run was interrupted. There is no left-right flip: a
# mid-sagittal slice has a front and a back.


class Augmentation:
    """Changes batches as configured; called by the training side's batches.

    Attributes:
        config: What happens.
        seed: Seed of the run.
    """

    def __init__(
        self,
        config: AugmentConfig,
        *,
        seed: int,
        painter: Painter | None,
        genu: int | None = None,
    ) -> None:
        self.config = config
        self.seed = seed
        self.painter = painter
        self.genu = genu

    @torch.no_grad()
    def __call__(
        self, images: Tensor, points_px: Tensor, subjects: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """Change a batch.

        Args:
            images: Slices, shape (B, 1, H, W), normalised or not.
            points_px: Slice pixels (x, y), shape (B, L, 2); NaN where missing.
            subjects: Numbers of the slices within their cohort, shape (B,).
            epoch: Number of the epoch.

        Returns:
            Slices and points of the same shapes. Points that leave the slice become NaN. Slices
            painted anew are not normalised.
        """
        chance = Chance(self.seed, epoch, subjects.to(images.device))
        if self.painter is None:
            return change(images, points_px, chance, self.config, self.genu)
        new = chance.happens(self.config.share).bool()
        painted, painted_px, could = self.painter(chance, subjects.to(images.device), points_px)
        if self.config.share >= 1.0 and self.painter.paints_all:
            return painted, painted_px
        new &= could
        images, points_px = change(images, points_px, chance, self.config, self.genu)
        images = torch.where(new[:, None, None, None], painted, images)
        return images, torch.where(new[:, None, None], painted_px, points_px)


def build_augmentation(
    config: AugmentConfig,
    *,
    seed: int,
    landmarks: LandmarkSet,
    names: Sequence[str],
    preprocess: PreprocessSettings,
    image_size: tuple[int, int],
    cohort: PreparedCohort | None = None,
) -> Augmentation | None:
    """The configured augmentation, or None for none.

    Args:
        config: What happens.
        seed: Seed of the run.
        landmarks: The cohort's landmark set.
        names: The landmarks of the run, in order.
        preprocess: How the cohort's slices were made; painted ones are finished likewise.
        image_size: Rows and columns (H, W) of the cohort's slices.
        cohort: The cohort whose tissue maps are painted, where `config.source` asks for them.

    Raises:
        ConfigError: If `synth` is asked for landmarks that are no AFIDs, would paint slices of
            another size than the cohort's, or lacks tissue maps to paint.
    """
    if config.kind == "none":
        return None
    genu = list(names).index("GENU") if "GENU" in names else None
    if config.kind == "random":
        return Augmentation(config, seed=seed, painter=None, genu=genu)
    side = preprocess.crop[1] - preprocess.crop[0]
    if tuple(image_size) != (side, side):
        raise ConfigError(
            f"augment=synth paints {side} x {side} pixels, as preprocess.crop says, and the "
            f"cohort's slices have {image_size[0]} x {image_size[1]}; make them agree"
        )
    painter = Painter(config, preprocess, afids_columns(landmarks, names), cohort)
    return Augmentation(config, seed=seed, painter=painter, genu=genu)


def change(
    images: Tensor,
    points_px: Tensor,
    chance: Chance,
    config: AugmentConfig,
    genu: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Geometry, then intensities; shapes and missing points as in `Augmentation.__call__`."""
    size = (images.shape[-2], images.shape[-1])
    warp = random_warp(chance, config, size)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    # Zero is air, and it is what lies beyond the edge of a slice.
    span = torch.where(high > low, high - low, 1.0)
    image = warp.sample((images - low) / span)[:, 0]
    points_px = warp.carry(points_px)
    if config.artery > 0.0 and genu is not None:
        image = with_artery(image, points_px[:, genu], chance, config.artery)
    image = change_intensities(image, chance, config)
    return image[:, None] * span + low, within(points_px, size)


def with_artery(image: Tensor, genu_px: Tensor, chance: Chance, probability: float) -> Tensor:
    """Draw a bright artery along the front of the genu, or leave a slice as it is.

    The artery follows the outline of the callosum, an arc about a point behind the genu, and leaves
    a gap to it or none.

    Args:
        image: Slices from 0 to 1, shape (B, H, W).
        genu_px: The foremost point of the callosum, shape (B, 2); NaN draws nothing.
        chance: Source of numbers.
        probability: Of an artery.
    """
    y = torch.arange(image.shape[-2], device=image.device, dtype=image.dtype)[:, None]
    x = torch.arange(image.shape[-1], device=image.device, dtype=image.dtype)[None, :]
    behind, half, gap = (
        chance.uniform(1, 1, low=low, high=high) for low, high in ((4, 10), (0.6, 1.5), (0, 2.0))
    )
    dx = x - (genu_px[:, 0, None, None] + behind)
    dy = y - (genu_px[:, 1, None, None] + chance.uniform(1, 1, low=-2.0, high=2.0))
    off = torch.hypot(dx, dy) - (behind + gap + half)
    # The angle is zero in front and grows upwards.
    angle = torch.atan2(-dy, -dx)
    below = chance.uniform(1, 1, low=-2.0, high=-0.2)
    above = chance.uniform(1, 1, low=0.2, high=2.2)
    along = torch.sigmoid((angle - below) / 0.1) * torch.sigmoid((above - angle) / 0.1)
    cover = torch.sigmoid((half - off.abs()) / 0.3) * along
    cover = cover * chance.uniform(1, 1, low=0.6, high=1.0)
    cover = cover * chance.happens(probability)[:, None, None]
    bright = chance.uniform(1, 1, low=0.75, high=1.1)
    drawn = torch.maximum(image, image + cover * (bright - image))
    return torch.where(torch.isfinite(drawn), drawn, image)


def change_intensities(image: Tensor, chance: Chance, config: AugmentConfig) -> Tensor:
    """Contrast, gamma, bias, blur, noise and occlusion of slices from 0 to 1, (B, H, W)."""
    size = (image.shape[-2], image.shape[-1])
    bend = config.contrast * chance.uniform(1, 1, low=-1.0, high=1.0)
    # Monotone for |bend| < 1, and it keeps 0, 1/2 and 1.
    image = image + bend * torch.sin(2.0 * torch.pi * image) / (2.0 * torch.pi)
    image = image.clamp(min=0.0) ** torch.exp(config.gamma * chance.normal(1, 1))
    strength = config.bias * chance.uniform(1, 1)
    image = image * torch.exp(strength * random_field(chance, 45.0, size))
    if config.blur_px > 0.0:
        image = blurred(image, config.blur_px * chance.uniform(2))
    if config.noise > 0.0:
        image = image + config.noise * chance.uniform(1, 1) * chance.normal(*size)
    return _covered(image, chance, config.occlusion)


def _covered(image: Tensor, chance: Chance, probability: float) -> Tensor:
    """Cover a rectangle of up to a quarter of each side with one grey."""
    rows, columns = image.shape[-2:]
    y = torch.arange(rows, device=image.device)[:, None] / rows
    x = torch.arange(columns, device=image.device)[None, :] / columns
    middle, half = chance.uniform(2, 1, 1), chance.uniform(2, 1, 1, low=0.02, high=0.125)
    inside = ((x - middle[:, 0]).abs() < half[:, 0]) & ((y - middle[:, 1]).abs() < half[:, 1])
    covers = chance.happens(probability)[:, None, None].bool() & inside
    return torch.where(covers, chance.uniform(1, 1), image)
