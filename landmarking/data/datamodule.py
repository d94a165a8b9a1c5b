"""Slices to batches: the whole cohort lies on the device, a batch is an index select."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from landmarking.data.prepared import PreparedCohort
from landmarking.data.splits import Split, split_units
from landmarking.errors import CohortError, ConfigError
from landmarking.geometry import Array
from landmarking.imaging.intensity import AIR_SHARE, NORMALISATIONS

if TYPE_CHECKING:
    from landmarking.data.augment import Augmentation

_TINY = 1e-6


@dataclass
class BatchConfig:
    """How batches are made.

    Attributes:
        size: Slices in a batch.
        shuffle: Draw a new order every epoch, from the seed and the epoch's number alone. The
            authors' scripts do not shuffle.
        drop_last: Leave out a last batch that is not full.
        validation_fraction: Share of the training people held out.
        split_by: `person`, or `image` as in the authors' scripts.
    """

    size: int = 256
    shuffle: bool = True
    drop_last: bool = False
    validation_fraction: float = 0.3
    split_by: str = "person"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If the batch size is not positive.
        """
        if self.size < 1:
            raise ConfigError(f"batches.size is at least 1, found {self.size}")


class Batch(NamedTuple):
    """What one step sees.

    Attributes:
        images: Normalised slices, shape (B, 1, H, W).
        points_px: Slice pixels (x, y), shape (B, L, 2); NaN where a landmark is missing.
    """

    images: Tensor
    points_px: Tensor


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

    The order depends on the seed and the epoch alone, so that a resumed run sees what an
    uninterrupted one would have seen.
    """

    def __init__(self, count: int, *, shuffle: bool, seed: int) -> None:
        self.count = count
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """Positions of the epoch's slices, shape (count,), on the CPU."""
        if not self.shuffle:
            return torch.arange(self.count)
        draw = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        return torch.from_numpy(draw)


class DeviceBatches:
    """An iterable of batches whose slices are already on the device.

    Attributes:
        sampler: The order; named as Lightning looks for it.
        batch_sampler: None; Lightning asks.
    """

    batch_sampler = None

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
        """
        self.images = images
        self.points_px = points_px
        self.sampler = order
        self.size = size
        self.normalisation = normalisation
        self.augmentation = augmentation
        self.subjects = torch.arange(len(images)) if subjects is None else subjects
        self.drop_last = drop_last and order.count >= size

    def __len__(self) -> int:
        whole, rest = divmod(self.sampler.count, self.size)
        return whole if self.drop_last or not rest else whole + 1

    def __iter__(self) -> Iterator[Batch]:
        order = self.sampler.order().to(self.images.device, non_blocking=True)
        for chosen in torch.split(order, self.size)[: len(self)]:
            images = self.images.index_select(0, chosen)
            points_px = self.points_px.index_select(0, chosen)
            if self.augmentation is not None:
                subjects = self.subjects.to(chosen.device).index_select(0, chosen)
                images, points_px = self.augmentation(
                    images, points_px, subjects, self.sampler.epoch
                )
            if self.augmentation is not None or self.normalisation == "batch":
                images = normalise_batch(images, self.normalisation)
            yield Batch(images, points_px)


class LandmarkDataModule(pl.LightningDataModule):
    """Training and validation batches of a prepared cohort.

    Attributes:
        split: Who is on which side.
        landmarks: Names of the L landmarks of this run.
        mean_px: Mean position of each over the training side, shape (L, 2): the no-skill
            prediction.
    """

    def __init__(
        self,
        cohort: PreparedCohort,
        *,
        landmarks: Sequence[str],
        train_groups: Sequence[str],
        batches: BatchConfig,
        normalisation: str,
        seed: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Split the cohort; nothing is put on a device yet.

        Args:
            cohort: The prepared cohort.
            landmarks: Names of the landmarks to learn.
            train_groups: Groups to learn from.
            batches: How batches are made.
            normalisation: `image`, `batch` or `none`.
            seed: Seed of split and order.
            augmentation: What changes training batches, never validation ones.

        Raises:
            CohortError: If a group is missing, or a landmark is on no training slice.
            LandmarkError: If the cohort has no such landmark.
            ConfigError: If a setting is out of range.
        """
        super().__init__()
        self.cohort = cohort
        self.landmarks = tuple(landmarks)
        self.columns = [cohort.landmarks.index(name) for name in landmarks]
        self.batches = batches
        self.normalisation = normalisation
        self.seed = seed
        self.augmentation = augmentation
        members = cohort.indices(train_groups)
        units = [_unit(cohort, i, batches.split_by) for i in members]
        self.split: Split = split_units(
            units, fraction=batches.validation_fraction, seed=seed, by=batches.split_by
        )
        held_out = np.array([unit in set(self.split.validation) for unit in units])
        self.train_indices = members[~held_out]
        self.validation_indices = members[held_out]
        self.mean_px = self._mean_px()
        self._tensors: dict[str, tuple[Tensor, Tensor]] = {}

    def _mean_px(self) -> Array:
        points = self.cohort.points_px[self.train_indices][:, self.columns]
        known = np.isfinite(points).all(axis=-1, keepdims=True)
        seen = known.any(axis=(0, 2)).tolist()
        absent = [name for name, any_seen in zip(self.landmarks, seen, strict=True) if not any_seen]
        if absent:
            raise CohortError(
                f"cohort {self.cohort.name}: {', '.join(absent)} is on none of the "
                f"{len(points)} training slices; label it, or leave it out of the landmark set"
            )
        total = np.where(known, points, 0.0).sum(axis=0)
        return np.asarray(total / known.sum(axis=0))

    def tensors(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Slices (n, 1, H, W), normalised unless by batch, and points (n, L, 2), on a device."""
        chosen = np.asarray(indices)
        images = torch.from_numpy(np.array(self.cohort.images[chosen], dtype=np.float32))[:, None]
        if self.normalisation != "batch":
            images = normalise_batch(images, self.normalisation)
        points = np.array(self.cohort.points_px[chosen][:, self.columns], dtype=np.float32)
        return images.to(device), torch.from_numpy(points).to(device)

    def setup(self, stage: str | None = None) -> None:
        """Put both sides on the trainer's device, once."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if not self._tensors:
            self._tensors["train"] = self.tensors(self.train_indices.tolist(), device)
            self._tensors["validation"] = self.tensors(self.validation_indices.tolist(), device)

    def train_dataloader(self) -> DeviceBatches:
        """Batches of the training side, in the order of the epoch."""
        return self._loader("train", self.batches.shuffle, self.batches.drop_last)

    def val_dataloader(self) -> DeviceBatches:
        """Batches of the validation side, always in the same order."""
        return self._loader("validation", shuffle=False, drop_last=False)

    def _loader(self, side: str, shuffle: bool, drop_last: bool) -> DeviceBatches:
        images, points = self._tensors[side]
        return DeviceBatches(
            images,
            points,
            EpochOrder(len(images), shuffle=shuffle, seed=self.seed),
            size=self.batches.size,
            normalisation=self.normalisation,
            drop_last=drop_last,
            augmentation=self.augmentation if side == "train" else None,
            subjects=torch.from_numpy(self.train_indices) if side == "train" else None,
        )


def _unit(cohort: PreparedCohort, index: int, by: str) -> str:
    record = cohort.records[index]
    return record.participant_id if by == "person" else record.scan_id
