"""From scans to batches: what a Lightning user calls a data module.

`prepare_data` brings scans to slices, with everything that was done before taken from the cache;
`setup` opens the slices and splits people; the loaders keep the whole cohort on the device, so that
a batch is an index select.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmarking.data.augment import Augmentation, AugmentConfig, build_augmentation
from landmarking.data.batches import DeviceBatches, EpochOrder, normalise_batch
from landmarking.data.splits import (
    AdaptConfig,
    Split,
    adapted,
    read_split_table,
    refuse_overlap,
    split_units,
    with_site_apart,
)
from landmarking.errors import CohortError, ConfigError
from landmarking.geometry import Array
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.preparation.prepare import LandmarksConfig, ensure_prepared
from landmarking.preparation.prepared import PreparedCohort
from landmarking.preparation.sources import CohortConfig, site_of

EVALUATION_BATCH = 64
"""Slices at once in test and predict loaders; it changes results only under per-batch
normalisation."""


@dataclass
class DataConfig:
    """How batches are made; the keys of conf/data.

    Attributes:
        batch_size: Slices in a batch.
        shuffle: Draw a new order every epoch, from the seed and the epoch's number alone. The
            authors' scripts do not shuffle.
        drop_last: Leave out a last batch that is not full.
        validation_fraction: Share of the training people held out.
        split_by: `person`, or `image` as in the authors' scripts.
        split: Table of people (`participant_id`, `set`, `fold`) in place of a draw; None draws.
    """

    batch_size: int = 256
    shuffle: bool = True
    drop_last: bool = False
    validation_fraction: float = 0.3
    split_by: str = "person"
    split: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If the batch size is not positive, or a table is to split by image.
        """
        if self.split and self.split_by != "person":
            raise ConfigError("data.split is a table of people; take data.split_by=person")
        if self.batch_size < 1:
            raise ConfigError(f"data.batch_size is at least 1, found {self.batch_size}")


class LandmarkDataModule(pl.LightningDataModule):
    """Scans to slices to batches, for training, validation, test and prediction.

    `LandmarkDataModule("my-study")` is all that a BIDS folder of scans needs.

    Attributes:
        seed: Of the order of slices and of augmentation.
        split_seed: Of the split into training and validation.
    """

    def __init__(
        self,
        cohort: PreparedCohort | CohortConfig | str | Path,
        *,
        landmark: str | None = None,
        landmarks: LandmarksConfig | str = "msp8",
        preprocess: PreprocessSettings | None = None,
        outputs: str | Path = "outputs",
        train_groups: Sequence[str] | None = None,
        test_groups: Sequence[str] | None = None,
        batch_size: int = 64,
        shuffle: bool = True,
        drop_last: bool = False,
        validation_fraction: float = 0.3,
        split_by: str = "person",
        split: str | Path | None = None,
        seed: int = 0,
        split_seed: int = 0,
        augment: AugmentConfig | None = None,
        adapt: AdaptConfig | None = None,
        workers: int | None = None,
        progress: bool = True,
    ) -> None:
        """Keep the settings; nothing is read yet.

        Args:
            cohort: Folder of a BIDS tree (or of a prepared cohort), or where else the scans come
                from, or slices that are prepared already.
            landmark: One name for a single-landmark model, None for all.
            landmarks: The landmark set.
            preprocess: How a scan becomes a slice.
            outputs: Folder of `cache/` and `prepared/`.
            train_groups: Groups to learn from; those of the cohort's configuration if None.
            test_groups: Groups to test on, likewise.
            batch_size: Slices in a batch, and so on as in `DataConfig`.
            shuffle: Draw a new order every epoch.
            drop_last: Leave out a last batch that is not full.
            validation_fraction: Share of the training people held out.
            split_by: `person` or `image`.
            split: Table of people in place of a draw, see `landmarking.data.splits`.
            seed: Seed of order and augmentation.
            split_seed: Seed of the split, apart, so that seeds of one split can be pooled.
            augment: What changes training slices, never others.
            adapt: Learning from a few people of another group.
            workers: Processes that prepare the cohort; None takes all cores.
            progress: Whether a bar is shown meanwhile.

        Raises:
            ConfigError: If a setting is out of range.
        """
        super().__init__()
        self._given = cohort
        self.source = _source(cohort)
        self.landmark = landmark
        self.landmark_set = (
            LandmarksConfig(set=landmarks) if isinstance(landmarks, str) else landmarks
        )
        self.preprocess = preprocess or PreprocessSettings()
        self.outputs = Path(outputs)
        self.train_groups = list(self.source.train_groups if train_groups is None else train_groups)
        self.wanted_tests = list(self.source.test_groups if test_groups is None else test_groups)
        table = str(split) if split else None
        self.batches = DataConfig(
            batch_size, shuffle, drop_last, validation_fraction, split_by, table
        )
        self.seed, self.split_seed = seed, split_seed
        self.augment = augment or AugmentConfig()
        self.adapt = adapt or AdaptConfig()
        self.workers, self.progress = workers, progress
        self._prepared: PreparedCohort | None = None
        self._cohort: PreparedCohort | None = None
        self._augmentation: Augmentation | None = None
        self._on_device: dict[tuple[str, torch.device], tuple[Tensor, ...]] = {}

    def use(self, cohort: PreparedCohort) -> None:
        """Take slices that are prepared already in place of the configured cohort's."""
        self._given = cohort

    def prepare_data(self) -> None:
        """Bring scans to slices: registration, plane, cropping, histogram matching, cached.

        Lightning calls this on one process of each node; the others find the work done.

        Raises:
            LandmarkingError: As `landmarking.preparation.prepare.ensure_prepared` does.
        """
        self._open()

    def _open(self) -> PreparedCohort:
        if isinstance(self._given, PreparedCohort):
            return self._given
        if self._prepared is None:
            self._prepared = ensure_prepared(
                self.source,
                self.landmark_set.build(),
                self.preprocess,
                self.outputs,
                workers=self.workers,
                progress=self.progress,
            )
        return self._prepared

    def setup(self, stage: str | None = None) -> None:
        """Open the slices and split the training groups' people, once.

        Args:
            stage: `fit`, `validate`, `test` or `predict`; only the first needs augmentation.

        Raises:
            CohortError: If a group is missing or empty, or a landmark is on no training slice.
            LandmarkError: If the cohort has no such landmark.
            ConfigError: If a setting is out of range.
        """
        if self._cohort is None:
            self._split_people()
        if stage in (None, "fit") and self._augmentation is None:
            self._augmentation = build_augmentation(
                self.augment,
                seed=self.seed,
                landmarks=self.cohort.landmarks,
                names=self.landmarks,
                preprocess=self.preprocess,
                image_size=self.image_size,
                cohort=self.cohort,
            )

    def _split_people(self) -> None:
        given = self.batches.split
        table = read_split_table(Path(given)) if given else None
        cohort = with_site_apart(self._open(), self.source.leave_out)
        cohort = adapted(cohort, self.adapt, table)
        refuse_overlap(cohort, self.train_groups, self.test_groups)
        names = cohort.landmarks.names if self.landmark is None else (self.landmark,)
        self.columns = [cohort.landmarks.index(name) for name in names]
        self.landmarks = tuple(names)
        self.normalisation = self.preprocess.normalisation
        self.image_size = (int(cohort.images.shape[1]), int(cohort.images.shape[2]))
        members = cohort.indices(self.train_groups)
        units = [_unit(cohort, i, self.batches.split_by) for i in members]
        self.split: Split
        by_fold = bool(self.adapt.group and table is not None and table.folds)
        if table is not None and table.sets and not by_fold:
            self.split = table.split(units)
        else:
            self.split = split_units(
                units,
                fraction=self.batches.validation_fraction,
                seed=self.split_seed,
                by=self.batches.split_by,
            )
        held_out = np.array([unit in set(self.split.validation) for unit in units])
        self.train_indices: NDArray[np.int64] = members[~held_out]
        self.validation_indices: NDArray[np.int64] = members[held_out]
        self.mean_px = _mean_px(cohort, self.train_indices, self.columns, self.landmarks)
        self._cohort = cohort

    @property
    def cohort(self) -> PreparedCohort:
        """The prepared cohort.

        Raises:
            ConfigError: Before `setup`.
        """
        if self._cohort is None:
            raise ConfigError(
                "the data module has not opened its slices yet; call prepare_data() and setup(), "
                "or let a Trainer do so"
            )
        return self._cohort

    @property
    def test_groups(self) -> tuple[str, ...]:
        """Names of the test groups, in the order of the test loaders."""
        return tuple(self.wanted_tests)

    def tensors(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Slices (n, 1, H, W), normalised unless by batch, and points (n, L, 2), on a device."""
        chosen = np.asarray(indices)
        images = torch.from_numpy(np.array(self.cohort.images[chosen], dtype=np.float32))[:, None]
        if self.normalisation != "batch":
            images = normalise_batch(images, self.normalisation)
        points = np.array(self.cohort.points_px[chosen][:, self.columns], dtype=np.float32)
        return images.to(device), torch.from_numpy(points).to(device)

    def train_dataloader(self) -> DeviceBatches:
        """Batches of the training side, in the order of the epoch, augmented."""
        self.setup("fit")
        # Overfitting a few batches, as Lightning means it, needs the same ones every epoch.
        overfits = self.trainer is not None and bool(getattr(self.trainer, "overfit_batches", 0))
        return self._loader(
            "train",
            self.train_indices,
            shuffle=self.batches.shuffle and not overfits,
            drop_last=self.batches.drop_last,
            augmentation=None if overfits else self._augmentation,
            weights=self._weights(),
        )

    def _weights(self) -> Array | None:
        """How often each training slice is drawn, by its site; None where all are alike."""
        if not self.source.weights:
            return None
        by_site = dict(zip(self.source.sites, self.source.weights, strict=True))
        people = (self.cohort.records[i].participant_id for i in self.train_indices)
        return np.array([by_site[site_of(person)] for person in people])

    def val_dataloader(self) -> DeviceBatches:
        """Batches of the validation side, always in the same order."""
        self.setup("validate")
        return self._loader("validation", self.validation_indices, scored=True)

    def test_dataloader(self) -> Mapping[str, DeviceBatches]:
        """One loader a test group, by its name.

        Raises:
            CohortError: If the cohort has no such group.
        """
        self.setup("test")
        return {
            name: self._loader(
                f"test {name}",
                self.cohort.indices([name]),
                size=EVALUATION_BATCH,
                scored=True,
            )
            for name in self.test_groups
        }

    def predict_dataloader(self) -> DeviceBatches:
        """All scans of the cohort, in order; `Batch.rows` number `cohort.records`."""
        self.setup("predict")
        everybody = np.arange(len(self.cohort.records))
        return self._loader("predict", everybody, size=EVALUATION_BATCH, scored=True, shared=False)

    def _loader(
        self,
        side: str,
        indices: NDArray[np.int64],
        *,
        size: int | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        augmentation: Augmentation | None = None,
        scored: bool = False,
        shared: bool = True,
        weights: Array | None = None,
    ) -> DeviceBatches:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        images, points, px_to_mm = self._tensors_of(side, indices, device)
        return DeviceBatches(
            images,
            points,
            EpochOrder(len(images), shuffle=shuffle, seed=self.seed, weights=weights),
            size=size or self.batches.batch_size,
            normalisation=self.normalisation,
            drop_last=drop_last,
            augmentation=augmentation,
            subjects=torch.from_numpy(indices),
            px_to_mm=px_to_mm if scored else None,
            rank=self.trainer.global_rank if self.trainer and shared else 0,
            world=self.trainer.world_size if self.trainer and shared else 1,
        )

    def _tensors_of(
        self, side: str, indices: NDArray[np.int64], device: torch.device
    ) -> tuple[Tensor, ...]:
        key = (side, device)
        if key not in self._on_device:
            chosen = indices.tolist()
            metric = np.array([self.cohort.geometry(i).px_to_mm for i in chosen], dtype=np.float32)
            known = torch.from_numpy(metric.reshape(-1, 2, 2)).to(device)
            self._on_device[key] = (*self.tensors(chosen, device), known)
        return self._on_device[key]


def _source(cohort: PreparedCohort | CohortConfig | str | Path) -> CohortConfig:
    if isinstance(cohort, CohortConfig):
        return cohort
    if isinstance(cohort, PreparedCohort):
        return CohortConfig(name=cohort.name, root=str(cohort.folder or "prepared"))
    name = Path(cohort).resolve().name
    return CohortConfig(kind="bids", name=name, root=str(cohort))


def _mean_px(
    cohort: PreparedCohort,
    indices: NDArray[np.int64],
    columns: Sequence[int],
    landmarks: Sequence[str],
) -> Array:
    """Mean position of each landmark over some slices, shape (L, 2): the baseline's prediction."""
    points = cohort.points_px[indices][:, columns]
    known = np.asarray(np.isfinite(points).all(axis=-1, keepdims=True))
    seen: list[bool] = np.asarray(known.any(axis=(0, 2))).tolist()
    absent = [name for name, any_seen in zip(landmarks, seen, strict=True) if not any_seen]
    if absent:
        raise CohortError(
            f"cohort {cohort.name}: {', '.join(absent)} is on none of the "
            f"{len(points)} training slices; label it, or leave it out of the landmark set"
        )
    total = np.where(known, points, 0.0).sum(axis=0)
    return np.asarray(total / known.sum(axis=0))


def _unit(cohort: PreparedCohort, index: int, by: str) -> str:
    record = cohort.records[index]
    return record.participant_id if by == "person" else record.scan_id
