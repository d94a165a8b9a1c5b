"""Augmentation of training slices, on the device, in batches, image and points together.

Every number comes from (seed, epoch, slice), so that a slice is changed in the same way whatever
batch it falls into and whether or not the run was interrupted. There is no left-right flip: a
mid-sagittal slice has a front and a back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from landmarking.data.augment_config import AugmentConfig
from landmarking.data.chance import Chance
from landmarking.data.painter import Painter, afids_columns, random_warp, within
from landmarking.data.painting import blurred
from landmarking.data.warp import random_field
from landmarking.errors import ConfigError
from landmarking.landmarks import LandmarkSet

if TYPE_CHECKING:
    from landmarking.data.prepared import PreparedCohort
    from landmarking.imaging.pipeline import PreprocessSettings


class Augmentation:
    """Changes batches as configured; called by the training side's batches.

    Attributes:
        config: What happens.
        seed: Seed of the run.
    """

    def __init__(self, config: AugmentConfig, *, seed: int, painter: Painter | None) -> None:
        self.config = config
        self.seed = seed
        self.painter = painter

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
            return change(images, points_px, chance, self.config)
        new = chance.happens(self.config.share).bool()
        painted, painted_px, could = self.painter(chance, subjects.to(images.device), points_px)
        if self.config.share >= 1.0 and self.painter.paints_all:
            return painted, painted_px
        new &= could
        images, points_px = change(images, points_px, chance, self.config)
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
    if config.kind == "random":
        return Augmentation(config, seed=seed, painter=None)
    side = preprocess.crop[1] - preprocess.crop[0]
    if tuple(image_size) != (side, side):
        raise ConfigError(
            f"augment=synth paints {side} x {side} pixels, as preprocess.crop says, and the "
            f"cohort's slices have {image_size[0]} x {image_size[1]}; make them agree"
        )
    painter = Painter(config, preprocess, afids_columns(landmarks, names), cohort)
    return Augmentation(config, seed=seed, painter=painter)


def change(
    images: Tensor, points_px: Tensor, chance: Chance, config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """Geometry, then intensities; shapes and missing points as in `Augmentation.__call__`."""
    size = (images.shape[-2], images.shape[-1])
    warp = random_warp(chance, config, size)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    # Zero is air, and it is what lies beyond the edge of a slice.
    span = torch.where(high > low, high - low, 1.0)
    image = warp.sample((images - low) / span)[:, 0]
    image = change_intensities(image, chance, config)
    return image[:, None] * span + low, within(warp.carry(points_px), size)


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
