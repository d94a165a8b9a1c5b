"""Slices to batches: the whole cohort lies on the device, a batch is an index select."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from landmarking.data.batches import DeviceBatches, EpochOrder, normalise_batch
from landmarking.data.prepared import PreparedCohort
from landmarking.data.splits import Split, split_units
from landmarking.errors import CohortError, ConfigError
from landmarking.geometry import Array

if TYPE_CHECKING:
    from landmarking.data.augment import Augmentation


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
            rank=self.trainer.global_rank if self.trainer and side == "train" else 0,
            world=self.trainer.world_size if self.trainer and side == "train" else 1,
        )


def _unit(cohort: PreparedCohort, index: int, by: str) -> str:
    record = cohort.records[index]
    return record.participant_id if by == "person" else record.scan_id
