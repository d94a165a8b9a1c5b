"""What TensorBoard shows beside the curves: slices with points, and a table of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from landmarking.data.datamodule import LandmarkDataModule
from landmarking.errors import ConfigError
from landmarking.geometry import Array
from landmarking.models.module import LandmarkModule, predict_points
from landmarking.results import as_bytes

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
