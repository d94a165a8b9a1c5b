"""Paint tissue maps as T1 slices, anew for every subject and epoch.

What differs from scanner to scanner and from person to person is drawn by chance: contrast of the
tissues, the folds of the cortex, what lies around the brain (fluid, bone, marrow, scalp, neck and
face), bias field, resolution, ringing, noise and field of view. Slices are finished as real ones
are: their histogram is matched to the same reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from landmarking.data.people import CHANNELS
from landmarking.data.warp import Chance, random_field
from landmarking.errors import ConfigError
from landmarking.imaging.intensity import BRIGHTEST, Reference


@dataclass
class PaintSettings:
    """Ranges that chance draws from; intensities are shares of white matter's.

    Attributes:
        grey: Lowest and highest grey matter.
        fluid: Lowest and highest cerebrospinal fluid.
        folds: Largest share of the cortex that is folded anew.
        noise: Largest standard deviation of noise.
        blur_px: Smallest and largest standard deviation of the point spread.
        bias: Largest standard deviation of the logarithm of the bias field.
        cut: Share of slices that the field of view cuts off.
    """

    grey: tuple[float, float] = (0.45, 0.85)
    fluid: tuple[float, float] = (0.02, 0.40)
    folds: float = 1.0
    noise: float = 0.07
    blur_px: tuple[float, float] = (0.3, 1.3)
    bias: float = 0.25
    cut: float = 0.35

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a range is upside down or a size negative.
        """
        for name in ("grey", "fluid", "blur_px"):
            low, high = getattr(self, name)
            if not 0.0 <= low <= high:
                raise ConfigError(f"paint.{name} is [low, high] from 0 up, found [{low}, {high}]")
        for name in ("folds", "noise", "bias", "cut"):
            if getattr(self, name) < 0.0:
                raise ConfigError(f"paint.{name} is not negative, found {getattr(self, name)}")


def paint(maps: Tensor, chance: Chance, settings: PaintSettings) -> Tensor:
    """Paint maps as slices, before histogram matching.

    Args:
        maps: Maps of the subjects, shape (B, 7, H, W), see `CHANNELS`.
        chance: Source of numbers.
        settings: Ranges.

    Returns:
        Slices, shape (B, 1, H, W), from zero up.
    """
    at = {name: maps[:, index] for index, name in enumerate(CHANNELS)}
    size = (maps.shape[-2], maps.shape[-1])
    levels = _Levels.draw(chance, settings)
    brain = _brain(at, levels, chance, size)
    brain = _folds(brain, at, levels, chance, size, settings)
    outside = _outside(at, levels, chance, size)
    share = torch.sigmoid(-2.5 * at["distance"])
    image = share * brain + (1.0 - share) * outside
    return scan_like(image.clamp(min=0.0), chance, settings)[:, None]


@dataclass(frozen=True, eq=False)
class _Levels:
    """Intensities of the tissues, each of shape (B, 1, 1)."""

    white: Tensor
    grey: Tensor
    fluid: Tensor

    @classmethod
    def draw(cls, chance: Chance, settings: PaintSettings) -> _Levels:
        grey = chance.uniform(1, 1, low=settings.grey[0], high=settings.grey[1])
        fluid = chance.uniform(1, 1, low=settings.fluid[0], high=settings.fluid[1])
        return cls(torch.ones_like(grey), grey, torch.minimum(fluid, grey - 0.12))


def _brain(at: dict[str, Tensor], levels: _Levels, chance: Chance, size: tuple[int, int]) -> Tensor:
    """Tissue maps in the drawn contrast, blended with the template's own intensities."""
    grey, white, t1 = at["grey"], at["white"], at["t1"]
    fluid = (1.0 - grey - white).clamp(min=0.0)
    tissue = levels.white * white + levels.grey * grey + levels.fluid * fluid
    # The template's intensities through a curve that sends its tissues to the drawn levels.
    low, middle, high = 0.24, 0.44, 0.82
    rise = (t1 - low) / (middle - low)
    own = levels.fluid + (levels.grey - levels.fluid) * rise
    upper = levels.grey + (levels.white - levels.grey) * (t1 - middle) / (high - middle)
    own = torch.where(t1 < middle, own, upper).clamp(min=0.0)
    blend = chance.uniform(1, 1, low=0.15, high=1.0)
    image = blend * own + (1.0 - blend) * tissue
    texture = random_field(chance, 3.0, size) + random_field(chance, 9.0, size)
    return image * (1.0 + chance.uniform(1, 1, high=0.05) * texture)


def _folds(
    image: Tensor,
    at: dict[str, Tensor],
    levels: _Levels,
    chance: Chance,
    size: tuple[int, int],
    settings: PaintSettings,
) -> Tensor:
    """Fold the cortex and the cerebellum anew, in some regions more than in others."""
    mix = chance.uniform(1, 1)
    relief = mix * random_field(chance, 4.0, size) + (1.0 - mix) * random_field(chance, 7.0, size)
    relief = relief / relief.std(dim=(1, 2), keepdim=True)
    # Sulci run where the relief crosses zero; gyri have their white core far from there.
    width = chance.uniform(1, 1, low=0.08, high=0.4)
    sulcus = torch.exp(-((relief / width) ** 2))
    core = torch.sigmoid((relief.abs() - chance.uniform(1, 1, low=0.6, high=1.8)) / 0.15)
    folded = levels.grey + (levels.white - levels.grey) * core * chance.uniform(1, 1)
    folded = folded + (levels.fluid - folded) * sulcus * chance.uniform(1, 1, low=0.2)
    where = torch.sigmoid(2.0 * random_field(chance, 16.0, size) + 2.0 * chance.normal(1, 1))
    share = settings.folds * where * at["cortex"] * chance.uniform(1, 1, low=0.2)
    image = image + share * (folded - image)
    # The plane cuts falx and fluid between the hemispheres where the brain bends away.
    gap = torch.sigmoid(6.0 * (random_field(chance, 14.0, size) - chance.uniform(1, 1, high=4.0)))
    image = image + 0.9 * gap * at["cortex"] * (levels.fluid - image)
    leaves = random_field(chance, 2.2, size) * at["cerebellum"]
    return image * (1.0 + 0.18 * chance.uniform(1, 1) ** 2 * leaves)


def _outside(
    at: dict[str, Tensor], levels: _Levels, chance: Chance, size: tuple[int, int]
) -> Tensor:
    """Fluid, bone, marrow and scalp by distance from the brain; face and neck by chance."""
    distance = at["distance"] + 0.8 * random_field(chance, 12.0, size)
    thickness = ((0.3, 5.0), (0.5, 3.0), (0.0, 6.0), (0.5, 3.0), (2.0, 9.0))
    ends = torch.cumsum(
        torch.cat([chance.uniform(1, 1, low=low, high=high) for low, high in thickness], 1), 1
    )
    bone = chance.uniform(1, 1, high=0.2)
    inside = (
        levels.fluid,
        bone,
        chance.uniform(1, 1, low=0.1, high=1.1),
        bone,
        chance.uniform(1, 1, low=0.5, high=1.6),
        chance.uniform(1, 1, high=0.04),
    )
    image = inside[0]
    for number in range(len(thickness)):
        step = torch.sigmoid(2.0 * (distance - ends[:, number, :, None]))
        image = image + (inside[number + 1] - inside[number]) * step
    below = _face(chance, size)
    deep = torch.sigmoid(1.5 * (at["distance"] - chance.uniform(1, 1, low=0.5, high=5.0)))
    image = image + at["face"] * deep * (below - image)
    image = image * (1.0 + 0.15 * random_field(chance, 3.0, size))
    # Vessels, pituitary, pineal and other spots, bright or dark.
    spots = torch.sigmoid(6.0 * (random_field(chance, 3.0, size) - 1.7))
    return image + spots * (chance.uniform(1, 1, high=1.3) - image) * chance.uniform(1, 1)


def _face(chance: Chance, size: tuple[int, int]) -> Tensor:
    """Patches of air, bone, muscle and fat."""
    relief = random_field(chance, 10.0, size) + 0.6 * random_field(chance, 4.0, size)
    air, bone, muscle, fat = (
        chance.uniform(1, 1, low=low, high=high)
        for low, high in ((0.0, 0.05), (0.05, 0.3), (0.15, 0.7), (0.4, 1.5))
    )
    offset = 0.6 * chance.normal(1, 1) - 0.3
    image = air + (bone - air) * torch.sigmoid(8.0 * (relief + 0.9 + offset))
    image = image + (muscle - bone) * torch.sigmoid(8.0 * (relief + 0.2 + offset))
    return image + (fat - muscle) * torch.sigmoid(8.0 * (relief - 0.8 + offset))


def scan_like(image: Tensor, chance: Chance, settings: PaintSettings) -> Tensor:
    """Bias field, resolution, ringing, noise and field of view, shape (B, H, W) to the same."""
    size = (image.shape[-2], image.shape[-1])
    bias = chance.uniform(1, 1, high=settings.bias) * random_field(chance, 45.0, size)
    image = image * torch.exp(bias)
    low, high = settings.blur_px
    image = blurred(image, chance.uniform(2, low=low, high=high))
    ring = chance.happens(0.3)[:, None, None] * chance.uniform(1, 1, high=0.8)
    image = (image + ring * (image - blurred(image, torch.full_like(ring[:, 0], 1.2)))).clamp(min=0)
    # Rician: the length of a complex number with noise in both parts; resampling smooths it.
    noise = blurred(chance.normal(2, *size).flatten(0, 1), torch.full((1, 1), 0.6))
    real, imaginary = noise.reshape(-1, 2, *size).transpose(0, 1)
    # Most scans have little; the blur above has taken about half of the deviation.
    sd = 1.8 * settings.noise * chance.uniform(1, 1) ** 2
    image = torch.hypot(image + sd * real, sd * imaginary)
    return image * _field_of_view(chance, size, settings.cut)


def _field_of_view(chance: Chance, size: tuple[int, int], share: float) -> Tensor:
    """One within the field of view, zero beyond a slanted line at the bottom or elsewhere."""
    rows, columns = size
    y = torch.arange(rows, device=chance.device)[:, None] / rows
    x = torch.arange(columns, device=chance.device)[None, :] / columns
    below = chance.uniform(1, 1, low=0.82, high=1.0) + 0.05 * chance.normal(1, 1) * (x - 0.5)
    left = chance.uniform(1, 1, low=-0.2, high=0.1) + 0.1 * chance.normal(1, 1) * (y - 0.5)
    cut_below = chance.happens(share)[:, None, None] * (y > below)
    cut_left = chance.happens(0.3 * share)[:, None, None] * (x < left)
    return (1.0 - cut_below) * (1.0 - cut_left)


def blurred(images: Tensor, sd_px: Tensor) -> Tensor:
    """Gaussian blur of each image by its own width.

    Args:
        images: Shape (B, H, W).
        sd_px: Standard deviation (x, y), shape (B, 2), (B, 1) or (1, 1).

    Returns:
        Shape (B, H, W); edges are repeated outwards.
    """
    reach = 4
    sd = sd_px.to(images.device).expand(len(images), 2).clamp(min=0.05)
    offset = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offset / sd[..., None]) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    spread = pad(images[None], (reach, reach, reach, reach), mode="replicate")
    spread = conv2d(spread, kernel[:, 0][:, None, None, :], groups=len(images))
    return conv2d(spread, kernel[:, 1][:, None, :, None], groups=len(images))[0]


class HistogramMatcher:
    """Histogram matching on the device, as `landmarking.imaging.intensity` does it for scans."""

    def __init__(self, reference: Reference, bins: int = 4096) -> None:
        """Keep the reference's inverse distribution.

        Args:
            reference: What the pipeline matches to, with the region that counts.
            bins: Levels that intensities are told apart by.
        """
        values, counts = np.unique(reference.values, return_counts=True)
        quantiles = np.cumsum(counts) / counts.sum()
        table = np.interp(np.linspace(0.0, 1.0, 4 * bins), quantiles, values)
        self.bins = bins
        self.table = torch.from_numpy(table.astype(np.float32))
        self.region = torch.from_numpy(reference.region.copy()).flatten()
        self.darkest = float(reference.image.min())

    def __call__(self, images: Tensor) -> Tensor:
        """Match each of the images, shape (B, 1, H, W), to the reference."""
        self.table, self.region = self.table.to(images.device), self.region.to(images.device)
        flat = images.flatten(1)
        darkest = flat.amin(1, keepdim=True)
        counts_here = self.region & (flat > darkest)
        low = torch.where(counts_here, flat, torch.inf).amin(1, keepdim=True)
        high = torch.where(counts_here, flat, -torch.inf).amax(1, keepdim=True)
        share = (flat - low) / (high - low).clamp(min=1e-9)
        level = (share.clamp(0.0, 1.0) * (self.bins - 1)).round().long()
        counts = torch.zeros(len(flat), self.bins, device=images.device)
        counts.scatter_add_(1, level, counts_here.to(torch.float32))
        rank = counts.cumsum(1) / counts.sum(1, keepdim=True).clamp(min=1.0)
        matched = self.table[(rank * (len(self.table) - 1)).round().long()].gather(1, level)
        # Below all that counts, a straight line leads to the reference's darkest.
        below = ((flat - darkest) / (low - darkest).clamp(min=1e-9)).clamp(0.0, 1.0)
        matched = torch.where(flat < low, self.darkest + below * (matched - self.darkest), matched)
        empty = ~counts_here.any(1, keepdim=True)
        return torch.where(empty, self.darkest, matched).reshape(images.shape)


def scaled(images: Tensor) -> Tensor:
    """Scale images, shape (B, 1, H, W), as `landmarking.imaging.intensity.scaled` does one."""
    flat = images.flatten(1)
    last = flat.shape[1] - 1
    # Neighbouring order statistics instead of the interpolation between them: no image has so few
    # pixels that one could tell.
    low = flat.kthvalue(1 + round(0.01 * last), dim=1, keepdim=True).values
    high = flat.kthvalue(1 + round(0.99 * last), dim=1, keepdim=True).values
    share = (flat - low) / (high - low).clamp(min=1e-6)
    return share.clamp(0.0, BRIGHTEST).reshape(images.shape)
