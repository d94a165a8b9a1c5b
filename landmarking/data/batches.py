"""Batches on the device: an index select, an augmentation and a normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from landmarking.errors import ConfigError
from landmarking.geometry import Array
from landmarking.imaging.intensity import AIR_SHARE, NORMALISATIONS

if TYPE_CHECKING:
    from landmarking.data.augment import Augmentation


_TINY = 1e-6


class Batch(NamedTuple):
    """What one step sees.

    Attributes:
        images: Normalised slices, shape (B, 1, H, W).
        points_px: Slice pixels (x, y), shape (B, L, 2); NaN where a landmark is missing.
        weight: Of its loss; one, unless several processes share a batch. With zero the batch is a
            stand-in that keeps a process in step with the others, and counts nowhere.
        px_to_mm: In-plane metric of each slice, shape (B, 2, 2); where errors in mm are wanted.
        rows: Rows of the prepared cohort, shape (B,); likewise.
    """

    images: Tensor
    points_px: Tensor
    weight: float = 1.0
    px_to_mm: Tensor | None = None
    rows: Tensor | None = None


def normalise_batch(images: Tensor, how: str) -> Tensor:
    """Mean-variance normalisation of slices, as `imaging.intensity.normalise` on the device.

    Args:
        images: Slices, shape (B, 1, H, W).
        how: `image` (each slice by its own mean and deviation), `batch` (all by those of the batch,
            as in the authors' scripts: a prediction then depends on its neighbours) or `none`.

    Returns:
        Slices of the same shape; a constant image becomes zero.

    Raises:
        ConfigError: If `how` is none of the three.
    """
    if how not in NORMALISATIONS:
        raise ConfigError(
            f"preprocess.normalisation is one of {', '.join(NORMALISATIONS)}, found {how!r}"
        )
    if how == "none":
        return images
    dims = (1, 2, 3) if how == "image" else (0, 1, 2, 3)
    low, high = images.amin(dims, keepdim=True), images.amax(dims, keepdim=True)
    mean, deviation = _moments(images, images > low + AIR_SHARE * (high - low), dims)
    # Without anything above the air but one level, all pixels count; a constant image is zero.
    whole_mean, whole_deviation = _moments(images, torch.ones_like(images, dtype=torch.bool), dims)
    plain = deviation <= _TINY * (high - low)
    mean = torch.where(plain, whole_mean, mean)
    deviation = torch.where(plain, whole_deviation, deviation)
    constant = high - low <= _TINY * low.abs().clamp(min=1.0)
    return torch.where(constant, 0.0, (images - mean) / torch.where(constant, 1.0, deviation))


def _moments(values: Tensor, chosen: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    # Sums of masked values: nothing here depends on how many there are, or waits for the device.
    count = chosen.sum(dims, keepdim=True).clamp(min=1)
    mean = torch.where(chosen, values, 0.0).sum(dims, keepdim=True) / count
    apart = torch.where(chosen, values - mean, 0.0)
    return mean, (apart.square().sum(dims, keepdim=True) / count).sqrt()


class EpochOrder:
    """Order of the slices in each epoch; Lightning tells it the epoch through `set_epoch`.

    It is its own `sampler`, as Lightning looks for one behind a loader's `batch_sampler`.

    The order depends on the seed and the epoch alone, so that a resumed run sees what an
    uninterrupted one would have seen.
    """

    def __init__(
        self, count: int, *, shuffle: bool, seed: int, weights: Array | None = None
    ) -> None:
        """Keep the settings.

        Args:
            count: Number of slices.
            shuffle: Draw a new order every epoch.
            seed: Of the draws.
            weights: How often each slice is drawn, shape (count,); as many as before come in an
                epoch, some of them twice. None takes each once.
        """
        self.weights = None if weights is None else weights / weights.sum()
        self.count = count
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0

    @property
    def sampler(self) -> EpochOrder:
        """Itself."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """Positions of the epoch's slices, shape (count,), on the CPU."""
        if not self.shuffle:
            return torch.arange(self.count)
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.weights is None:
            draw = rng.permutation(self.count)
        else:
            draw = rng.choice(self.count, self.count, p=self.weights)
        return torch.from_numpy(draw)


class DeviceBatches:
    """An iterable of batches whose slices are already on the device.

    Attributes:
        batch_sampler: The order; named as Lightning looks for it. There is no `sampler`: Lightning
            would take it for that of a `DataLoader`, and replace it.
    """

    def __init__(
        self,
        images: Tensor,
        points_px: Tensor,
        order: EpochOrder,
        *,
        size: int,
        normalisation: str,
        drop_last: bool = False,
        augmentation: Augmentation | None = None,
        subjects: Tensor | None = None,
        px_to_mm: Tensor | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Hold the tensors.

        Args:
            images: Slices, shape (N, 1, H, W); already normalised if `normalisation` is not
                `batch`.
            points_px: Slice pixels, shape (N, L, 2).
            order: Order of the N slices.
            size: Slices in a batch.
            normalisation: `batch` is done here; the others only after an augmentation.
            drop_last: Leave out a last batch that is not full.
            augmentation: What changes a batch before it is seen.
            subjects: Numbers of the N slices within the cohort, which the augmentation goes by.
            px_to_mm: In-plane metrics, shape (N, 2, 2), for batches that are scored in mm.
            rank: Which of several processes this is; each sees its share of every batch.
            world: Number of processes that train one model.
        """
        self.images = images
        self.points_px = points_px
        self.batch_sampler = order
        self.px_to_mm = px_to_mm
        self.size = size
        self.normalisation = normalisation
        self.augmentation = augmentation
        self.subjects = torch.arange(len(images)) if subjects is None else subjects
        self.drop_last = drop_last and order.count >= size
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        whole, rest = divmod(self.batch_sampler.count, self.size)
        return whole if self.drop_last or not rest else whole + 1

    def __iter__(self) -> Iterator[Batch]:
        order = self.batch_sampler.order().to(self.images.device, non_blocking=True)
        for whole in torch.split(order, self.size)[: len(self)]:
            share, weight = self._share(whole)
            # What is normalised by the batch needs all of it.
            chosen = whole if self.normalisation == "batch" else whole[share]
            images = self.images.index_select(0, chosen)
            points_px = self.points_px.index_select(0, chosen)
            if self.augmentation is not None:
                subjects = self.subjects.to(chosen.device).index_select(0, chosen)
                images, points_px = self.augmentation(
                    images, points_px, subjects, self.batch_sampler.epoch
                )
            if self.augmentation is not None or self.normalisation == "batch":
                images = normalise_batch(images, self.normalisation)
            if self.normalisation == "batch":
                images, points_px = images[share], points_px[share]
            yield Batch(images, points_px, weight, *self._beside(whole[share]))

    def _beside(self, chosen: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.px_to_mm is None:
            return None, None
        subjects = self.subjects.to(chosen.device).index_select(0, chosen)
        return self.px_to_mm.index_select(0, chosen), subjects

    def _share(self, whole: Tensor) -> tuple[slice, float]:
        if self.world == 1:
            return slice(None), 1.0
        known = torch.isfinite(self.points_px.index_select(0, whole)).all(dim=-1).sum(dim=-1)
        share = slice(self.rank, None, self.world)
        if self.rank >= len(whole):
            # Every process has to take part in every step.
            return slice(0, 1), 0.0
        # Gradients are averaged over processes; so weighted, that is the gradient of the batch.
        return share, self.world * int(known[share].sum()) / max(1, int(known.sum()))
