"""What happens beside the training steps: errors by group, history, checkpoints, TensorBoard."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback, Checkpoint, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger

from landmarking.data.datamodule import LandmarkDataModule
from landmarking.errors import ConfigError
from landmarking.files import atomic_path
from landmarking.geometry import Array
from landmarking.models.losses import RadialErrors
from landmarking.models.module import LandmarkModule, predict_points
from landmarking.training.evaluate import as_bytes

logger = logging.getLogger(__name__)


def due(trainer: pl.Trainer, every_n_epochs: int) -> bool:
    """Whether something done every so many epochs is done now; always after the last one."""
    done = trainer.current_epoch + 1
    return done % every_n_epochs == 0 or done == trainer.max_epochs or trainer.should_stop


def is_debug_run(trainer: pl.Trainer) -> bool:
    """Whether a trainer goes through a few batches only to see that nothing breaks."""
    return bool(getattr(trainer, "fast_dev_run", False))


def _epochs_between(name: str, every_n_epochs: int, least: int = 1) -> int:
    if not isinstance(every_n_epochs, int) or every_n_epochs < least:
        raise ConfigError(
            f"{name}: every_n_epochs counts epochs, {least} or more, found {every_n_epochs!r}; "
            "correct it"
        )
    return every_n_epochs


class GroupErrors(Callback):
    """Radial error by landmark and SDR of every test group, once, when training has ended.

    During training the validation people are watched (`LandmarkModule` logs `val/error_mm` and the
    rest); to look at the test groups before the end is an option that says so, since whoever
    chooses by what it shows has learnt from the test people. Works with any Trainer whose data
    module names its test loaders, as `LandmarkDataModule` does.

    Attributes:
        latest: What was found last: `test/HS/error_mm`, `test/HS/AC/error_mm`, `test/HS/sdr_2mm`.
    """

    def __init__(self, watch_test_groups: bool = False, every_n_epochs: int = 10) -> None:
        """Take the settings.

        Args:
            watch_test_groups: Evaluate the test groups during training too.
            every_n_epochs: How often, then.

        Raises:
            ConfigError: If a number is out of range.
        """
        self.watch_test_groups = watch_test_groups
        self.every_n_epochs = _epochs_between("callbacks.group_errors", every_n_epochs)
        self.latest: dict[str, float] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so if the test people are watched."""
        if self.watch_test_groups and trainer.is_global_zero:
            logger.warning(
                "the test groups are evaluated during training (watch_test_groups=true): settings "
                "chosen by these curves are chosen on the test people"
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate, if the test groups are watched."""
        if self.watch_test_groups and due(trainer, self.every_n_epochs):
            self._evaluate(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the test groups once, and the validation people if nobody has yet."""
        if is_debug_run(trainer):
            return
        self._evaluate(trainer, pl_module)
        if "val/error_mm" not in trainer.callback_metrics and trainer.limit_val_batches:
            assert isinstance(pl_module, LandmarkModule)
            found = group_errors(pl_module, trainer.datamodule.val_dataloader())  # type: ignore[attr-defined]
            self._log(trainer, {f"val/{name}": value for name, value in found.items()})

    def _evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        loaders = data.test_dataloader() if data is not None else None
        if not isinstance(loaders, Mapping):
            raise ConfigError(
                "GroupErrors needs a data module whose test_dataloader names its groups, as "
                "LandmarkDataModule does; pass one as datamodule, or leave the callback out"
            )
        assert isinstance(pl_module, LandmarkModule)
        self.latest = {}
        for group, loader in loaders.items():
            for name, value in group_errors(pl_module, loader).items():
                self.latest[f"test/{group}/{name}"] = value
        self._log(trainer, self.latest)

    @staticmethod
    def _log(trainer: pl.Trainer, found: Mapping[str, float]) -> None:
        trainer.callback_metrics.update({name: torch.tensor(v) for name, v in found.items()})
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        for sink in trainer.loggers:
            sink.log_metrics(dict(found), step=step)


@torch.no_grad()
def group_errors(module: LandmarkModule, loader: Any) -> dict[str, float]:
    """Errors of a module on one loader, without touching its mode.

    Args:
        module: A trained or training module.
        loader: Batches with `px_to_mm`.

    Returns:
        `error_mm`, `sdr_1mm` and so on, `LANDMARK/error_mm`; over all processes.
    """
    errors = RadialErrors(module.landmarks).to(module.device)
    training = module.training
    module.eval()
    for batch in loader:
        errors.update(module(batch.images), batch.points_px, batch.px_to_mm, batch.weight)
    module.train(training)
    return {name: float(value) for name, value in errors.compute().items()}


COLUMNS = {
    "train/loss": "train_loss_px",
    "val/loss": "validation_loss_px",
    "val/error_mm": "validation_error_mm",
}
"""Metrics that history.csv keeps, and the names of its columns."""


class History(Callback):
    """Losses, errors and rate of every epoch, in history.csv.

    Values stay on the device and are fetched together, every so many epochs. The rows travel with
    the checkpoints, so a resumed run has the history of an uninterrupted one; the last epoch's
    metrics do too, and are given once more to loggers that may have lost them.
    """

    def __init__(self, path: str | Path, every_n_epochs: int = 10) -> None:
        """Take the settings.

        Args:
            path: The file.
            every_n_epochs: Epochs between two writings.

        Raises:
            ConfigError: If a number is out of range.
        """
        self.path = Path(path)
        self.every_n_epochs = _epochs_between("callbacks.history", every_n_epochs)
        self.rows: list[dict[str, float]] = []
        self._pending: list[dict[str, Any]] = []
        self._rate = 0.0
        self._validated = False
        self._last: dict[str, float] = {}
        self._again: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Rows so far and the last epoch's metrics, plain values."""
        self._settle()
        return {"rows": [dict(row) for row in self.rows], "last": dict(self._last)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._again = dict(state_dict.get("last", {}))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the loggers again what the epoch of the checkpoint gave."""
        if self._again:
            step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
            for sink in trainer.loggers:
                sink.log_metrics(dict(self._again), step=step)
            self._again = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the rate before the scheduler moves on to the next epoch's."""
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that this epoch has validation metrics of its own."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch's metrics on the device, and write all of them when it is time."""
        metrics = {
            name: value
            for name, value in trainer.callback_metrics.items()
            if name == "train/loss" or (self._validated and name.startswith("val/"))
        }
        row: dict[str, Any] = {"epoch": trainer.current_epoch, "learning_rate": self._rate}
        row |= {COLUMNS[name]: value for name, value in metrics.items() if name in COLUMNS}
        self._pending.append({"row": row, "metrics": {**metrics, "epoch": trainer.current_epoch}})
        if due(trainer, self.every_n_epochs):
            self._settle()
            if trainer.is_global_zero:
                write_history(self.path, self.rows)

    def _settle(self) -> None:
        for entry in self._pending:
            self.rows.append({key: float(value) for key, value in entry["row"].items()})
        if self._pending:
            self._last = {k: float(v) for k, v in self._pending[-1]["metrics"].items()}
        self._pending = []


def write_history(path: Path, rows: list[dict[str, float]]) -> None:
    """Write history.csv as a whole; a value that was not measured is left empty."""
    columns = ["epoch", *COLUMNS.values(), "learning_rate"]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)


class MedianPruning(Callback):
    """Stops a run of a sweep whose best validation error is above the median of the others.

    The median rule of Optuna's MedianPruner (Golovin et al. 2017, Google Vizier, section 3.2.1):
    the others count with their error at the same epoch, read from their history.csv, whatever
    sweeper or launcher started them.
    """

    def __init__(
        self, folder: str | Path, run: str, least_runs: int = 5, warmup_epochs: int = 10
    ) -> None:
        """Take the settings.

        Args:
            folder: Where the runs of the sweep lie.
            run: Name of this one's folder.
            least_runs: No run is stopped before so many others have come as far.
            warmup_epochs: No run is stopped before so many epochs.

        Raises:
            ConfigError: If a number is out of range.
        """
        self.folder, self.run = Path(folder), run
        self.least_runs = _epochs_between("callbacks.pruning", least_runs)
        self.warmup_epochs = _epochs_between("callbacks.pruning", warmup_epochs, least=0)
        self.best = float("inf")
        self.pruned = False

    def state_dict(self) -> dict[str, Any]:
        """The best error so far, plain values."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.best = float(state_dict["best"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare with the others as they were at this epoch."""
        error = trainer.callback_metrics.get("val/error_mm")
        if trainer.sanity_checking or error is None:
            return
        self.best = min(self.best, float(error))
        epoch = trainer.current_epoch
        others = self._others(epoch) if epoch >= self.warmup_epochs else []
        worse = len(others) >= self.least_runs and self.best > float(np.median(others))
        self.pruned = trainer.strategy.reduce_boolean_decision(worse, all=False)
        trainer.should_stop = trainer.should_stop or self.pruned

    def _others(self, epoch: int) -> list[float]:
        """Validation errors of other runs at an epoch, or the last before it."""
        found = []
        for path in sorted(self.folder.glob("*/history.csv")):
            if path.parent.name == self.run:
                continue
            try:
                table = pd.read_csv(path, usecols=["epoch", "validation_error_mm"])
            except (OSError, ValueError):
                continue  # of another version, or just being made
            known = table[table["epoch"] <= epoch]["validation_error_mm"].dropna()
            if len(known) and table["epoch"].max() >= epoch:
                found.append(float(known.iloc[-1]))
        return found


class RunCheckpoint(Checkpoint):
    """The one checkpoint to go on from, with the random state, replaced as a whole.

    Lightning's `ModelCheckpoint` keeps no random state, so that dropout after a restart would
    differ; use it beside this one for the best model.
    """

    def __init__(self, path: str | Path, every_n_epochs: int = 10) -> None:
        """Take the settings.

        Args:
            path: The file.
            every_n_epochs: Epochs between two checkpoints.

        Raises:
            ConfigError: If a number is out of range.
        """
        self.path = Path(path)
        self.every_n_epochs = _epochs_between("callbacks.resume", every_n_epochs)
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
        """Save, every so many epochs and where training is about to stop before its last epoch."""
        whole = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        # Half an epoch is not kept: the run goes on from the whole epochs before it.
        if is_debug_run(trainer) or is_last or not whole or not due(trainer, self.every_n_epochs):
            return
        if not trainer.is_global_zero:
            # Lightning lets the first process write, and all of them wait for it.
            trainer.save_checkpoint(self.path)
            return
        with atomic_path(self.path) as temporary:
            trainer.save_checkpoint(temporary)


class ProgressBar(RichProgressBar):
    """Lightning's, without the last letters of a logger's version."""

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands beside the bar."""
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return shown


def final_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """The trainer's metrics as plain numbers, those that are not finite left out."""
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value for name, value in found.items() if abs(value) < float("inf")}


TRUE_COLOUR = (255, 255, 255)
PREDICTED_COLOUR = (255, 60, 60)
"""White crosses for the truth and red ones for predictions, as in the paper's Figure 6."""


def draw_points(
    image: NDArray[np.uint8], true_px: Array, predicted_px: Array, *, scale: int = 3, arm: int = 4
) -> NDArray[np.uint8]:
    """A slice with crosses at true and predicted landmarks.

    Args:
        image: Slice, shape (H, W).
        true_px: Slice pixels (x, y), shape (L, 2); a NaN point is not drawn.
        predicted_px: Likewise.
        scale: Screen pixels for one slice pixel.
        arm: Half length of a cross, in screen pixels.

    Returns:
        Colours, shape (scale * H, scale * W, 3).
    """
    canvas = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)[..., None].repeat(3, axis=2)
    for points, colour in ((true_px, TRUE_COLOUR), (predicted_px, PREDICTED_COLOUR)):
        # Pixel centres are whole numbers: slice pixel 0 covers screen pixels 0 to scale - 1.
        screen = points[np.isfinite(points).all(axis=1)] * scale + (scale - 1) / 2
        for column, row in np.rint(screen).astype(int):
            for offset in range(-arm, arm + 1):
                for x, y in ((column + offset, row), (column, row + offset)):
                    if 0 <= y < canvas.shape[0] and 0 <= x < canvas.shape[1]:
                        canvas[y, x] = colour
    return canvas


def comparison_layout(groups: Sequence[str], landmarks: Sequence[str]) -> dict[str, Any]:
    """Layout of the custom-scalars page: one chart a group and landmark, all runs in each.

    The runs of a single-landmark sweep log one landmark each under the tag that a multi-landmark
    run uses for it, so that the two meet in one chart.

    Args:
        groups: Names of the test groups.
        landmarks: Names of the landmarks.

    Returns:
        Categories of charts, as `SummaryWriter.add_custom_scalars` takes them.
    """
    where = {"validation": "val", **{group: f"test/{group}" for group in groups}}
    layout: dict[str, Any] = {
        f"{group}: error by landmark (mm)": {
            landmark: ["Multiline", [f"{tag}/{landmark}/error_mm$"]] for landmark in landmarks
        }
        for group, tag in where.items()
    }
    layout["mean error (mm)"] = {
        group: ["Multiline", [f"{tag}/error_mm$"]] for group, tag in where.items()
    }
    layout["loss (px)"] = {"training and validation": ["Multiline", ["(train|val)/loss$"]]}
    return layout


class Pictures(Callback):
    """Slices of validation people with truth and prediction, every so many epochs."""

    def __init__(self, every_n_epochs: int = 20, count: int = 2) -> None:
        """Take the settings.

        Args:
            every_n_epochs: Epochs between two rows of pictures; 0 draws none.
            count: Slices in a row.

        Raises:
            ConfigError: If a number is out of range.
        """
        if every_n_epochs < 0 or count < 1:
            raise ConfigError(
                "callbacks.pictures: every_n_epochs is 0 or more and count 1 or more, found "
                f"{every_n_epochs} and {count}; correct them"
            )
        self.every_n_epochs, self.count = every_n_epochs, count

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lay out the custom-scalars page."""
        data = getattr(trainer, "datamodule", None)
        if data is None or not hasattr(data, "test_groups"):
            return
        layout = comparison_layout(data.test_groups, data.cohort.landmarks.names)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(layout)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw one row under `slices/validation`."""
        every = self.every_n_epochs
        if not every or (trainer.current_epoch + 1) % every:
            return
        assert isinstance(pl_module, LandmarkModule)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                row = picture_row(trainer.datamodule, pl_module, self.count)  # type: ignore[attr-defined]
                step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
                logger.experiment.add_image("slices/validation", row, step, dataformats="HWC")


def picture_row(data: LandmarkDataModule, module: LandmarkModule, count: int) -> NDArray[np.uint8]:
    """The first validation slices side by side, shape (H', W', 3)."""
    chosen = data.validation_indices[:count]
    images = np.asarray(data.cohort.images[chosen], dtype=np.float32)
    predicted = predict_points(module, torch.from_numpy(images)[:, None]).numpy()
    true = data.cohort.points_px[chosen][:, data.columns]
    drawn = [
        draw_points(as_bytes(i), t, p) for i, t, p in zip(images, true, predicted, strict=True)
    ]
    return np.concatenate(drawn, axis=1)


def log_final(
    loggers: list[Any], settings: Mapping[str, Any], metrics: Mapping[str, float]
) -> None:
    """Add the run to TensorBoard's table of hyperparameters, to be ranked by validation error.

    Args:
        loggers: The trainer's loggers.
        settings: Plain configuration; nested keys are joined with dots.
        metrics: Final metrics; the errors of the test groups are shown, not ranked by.
    """
    final = {
        f"final/{name}": value
        for name, value in metrics.items()
        if name == "val/error_mm" or (name.startswith("test/") and name.count("/") == 2)
    }
    ranked = dict(sorted(final.items(), key=lambda item: item[0] != "final/val/error_mm"))
    shown = {name: v for name, v in ranked.items() if name.endswith("/error_mm")}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(_flat(settings), metrics=shown)
        else:
            logger.log_hyperparams(_flat(settings))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float) else str(value)
    return flat
