"""What happens beside the training steps: test errors, history, checkpoints."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from torch import Tensor

from landmarking.errors import ConfigError
from landmarking.evaluation.metrics import SDR_THRESHOLDS_MM, radial_error_mm, sdr
from landmarking.geometry import Array
from landmarking.models.module import LandmarkModule, predict_points
from landmarking.storage import atomic_path


@dataclass
class CallbacksConfig:
    """How often what is looked at; an epoch's end is the only time the device is waited for.

    Attributes:
        evaluate_every: Epochs between two evaluations of the test groups.
        history_every: Epochs between two writings of history and losses.
        checkpoint_every: Epochs between two checkpoints to go on from.
        pictures_every: Epochs between two rows of pictures in TensorBoard; 0 draws none.
        pictures: Slices of each group in a row.
    """

    evaluate_every: int = 10
    history_every: int = 10
    checkpoint_every: int = 10
    pictures_every: int = 0
    pictures: int = 2

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a number is out of range.
        """
        if min(self.evaluate_every, self.history_every, self.checkpoint_every) < 1:
            raise ConfigError("callbacks: *_every count epochs, at least 1")
        if self.pictures_every < 0 or self.pictures < 1:
            raise ConfigError(
                "callbacks.pictures_every is 0 or more and callbacks.pictures 1 or more"
            )


def due(trainer: pl.Trainer, every: int) -> bool:
    """Whether something done every so many epochs is done now; always after the last one."""
    done = trainer.current_epoch + 1
    return done % every == 0 or done == trainer.max_epochs


@dataclass(frozen=True, eq=False)
class TestGroup:
    """Slices of one test group with their truth.

    Attributes:
        name: Name of the group.
        images: Slices, not normalised, shape (B, 1, H, W), on the training device.
        points_px: True slice pixels, shape (B, L, 2); NaN where missing.
        px_to_mm: In-plane metric of each slice, shape (B, 2, 2).
    """

    name: str
    images: Tensor
    points_px: Array
    px_to_mm: Array

    def errors_mm(self, predicted_px: Array) -> Array:
        """Radial error of predictions (B, L, 2), shape (B, L); NaN where there is no truth."""
        return radial_error_mm(predicted_px, self.points_px, self.px_to_mm)


def group_metrics(name: str, landmarks: tuple[str, ...], errors_mm: Array) -> dict[str, float]:
    """Errors and detection rates of one group under TensorBoard's names.

    Args:
        name: Name of the group.
        landmarks: Names of the L landmarks.
        errors_mm: Radial errors, shape (B, L); NaN where there is no truth.

    Returns:
        `error_mm/GROUP/mean`, `error_mm/GROUP/LANDMARK` and `sdr_percent/GROUP/2mm` and so on;
        a landmark without truth in the group is left out.
    """
    scored = np.isfinite(errors_mm)
    found = {}
    if scored.any():
        found[f"error_mm/{name}/mean"] = float(errors_mm[scored].mean())
        rates = sdr(errors_mm)
        for radius, rate in zip(SDR_THRESHOLDS_MM, rates.tolist(), strict=True):
            found[f"sdr_percent/{name}/{radius:g}mm"] = float(rate)
    for column, landmark in enumerate(landmarks):
        if scored[:, column].any():
            mean = float(errors_mm[scored[:, column], column].mean())
            found[f"error_mm/{name}/{landmark}"] = mean
    return found


class GroupEvaluation(Callback):
    """Error and SDR of every test group, every so many epochs.

    Attributes:
        latest: Metrics of the last evaluation, by TensorBoard's names.
    """

    def __init__(self, groups: tuple[TestGroup, ...], config: CallbacksConfig) -> None:
        self.groups = groups
        self.config = config
        self.latest: dict[str, float] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Predict every group and log what came out."""
        if not due(trainer, self.config.evaluate_every):
            return
        assert isinstance(pl_module, LandmarkModule)
        self.latest = {}
        for group in self.groups:
            predicted = predict_points(pl_module, group.images).numpy().astype(np.float64)
            self.latest |= group_metrics(
                group.name, pl_module.landmarks, group.errors_mm(predicted)
            )
        _log(trainer, self.latest, trainer.current_epoch)


class History(Callback):
    """Losses, rate and test errors of every epoch, in history.csv and TensorBoard.

    Losses stay on the device and are fetched together, every so many epochs. The rows travel with
    the checkpoints, so a resumed run has the history of an uninterrupted one.
    """

    def __init__(self, path: Path, evaluation: GroupEvaluation, config: CallbacksConfig) -> None:
        self.path = path
        self.evaluation = evaluation
        self.config = config
        self.rows: list[dict[str, float]] = []
        self._pending: list[dict[str, Any]] = []
        self._rate = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Rows so far, plain values."""
        self._settle()
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.rows = [dict(row) for row in state_dict["rows"]]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the rate before the scheduler moves on to the next epoch's."""
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch's losses on the device, and write all of them when it is time."""
        assert isinstance(pl_module, LandmarkModule)
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch,
            "train_loss_px": _over_processes(trainer, torch.stack(pl_module.train_loss).mean()),
            "learning_rate": self._rate,
        }
        if pl_module.validation_loss:
            row["validation_loss_px"] = torch.stack(pl_module.validation_loss).mean()
        if due(trainer, self.config.evaluate_every):
            for group in self.evaluation.groups:
                mean = self.evaluation.latest.get(f"error_mm/{group.name}/mean")
                if mean is not None:
                    row[f"{group.name}_error_mm"] = mean
        pl_module.train_loss, pl_module.validation_loss = [], []
        self._pending.append(row)
        if due(trainer, self.config.history_every):
            self._flush(trainer)

    def _settle(self) -> list[dict[str, float]]:
        fresh = [{key: float(value) for key, value in row.items()} for row in self._pending]
        self.rows += fresh
        self._pending = []
        return fresh

    def _flush(self, trainer: pl.Trainer) -> None:
        names = {
            "train_loss_px": "loss_px/train",
            "validation_loss_px": "loss_px/validation",
            "learning_rate": "learning_rate",
        }
        for row in self._settle():
            known = {name: row[key] for key, name in names.items() if key in row}
            _log(trainer, known, int(row["epoch"]))
        groups = [f"{group.name}_error_mm" for group in self.evaluation.groups]
        if trainer.is_global_zero:
            write_history(self.path, self.rows, groups)


def write_history(path: Path, rows: list[dict[str, float]], extra: list[str]) -> None:
    """Write history.csv as a whole; a value that was not measured is left empty."""
    columns = ["epoch", "train_loss_px", "validation_loss_px", "learning_rate", *extra]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)


class RunCheckpoint(Checkpoint):
    """The one checkpoint to go on from, with the random state, replaced as a whole.

    Lightning's own keeps no random state, so that dropout after a restart would differ.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Random state of the CPU and of every CUDA device."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random state until training starts."""
        self._restored = state_dict

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the random numbers where the checkpoint was written."""
        if self._restored is not None:
            torch.set_rng_state(self._restored["cpu"])
            if self._restored["cuda"]:
                torch.cuda.set_rng_state_all(self._restored["cuda"])
            self._restored = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, every so many epochs; the last one is left to the finished model."""
        if due(trainer, self.every) and trainer.current_epoch + 1 != trainer.max_epochs:
            if not trainer.is_global_zero:
                # Lightning lets the first process write, and all of them wait for it.
                trainer.save_checkpoint(self.path)
                return
            with atomic_path(self.path) as temporary:
                trainer.save_checkpoint(temporary)


def _over_processes(trainer: pl.Trainer, loss: Tensor) -> Tensor:
    if trainer.world_size == 1:
        return loss
    reduced = trainer.strategy.reduce(loss, reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced


def _log(trainer: pl.Trainer, metrics: Mapping[str, float], epoch: int) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=epoch)
