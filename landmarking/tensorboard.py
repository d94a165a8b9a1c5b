"""What TensorBoard shows beside the curves: slices with points, and a table of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from landmarking.callbacks import CallbacksConfig, TestGroup
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
    layout: dict[str, Any] = {
        f"{group}: error by landmark (mm)": {
            landmark: ["Multiline", [f"error_mm/{group}/{landmark}$"]] for landmark in landmarks
        }
        for group in groups
    }
    layout["mean error (mm)"] = {
        group: ["Multiline", [f"error_mm/{group}/mean$"]] for group in groups
    }
    layout["loss (px)"] = {"training and validation": ["Multiline", ["loss_px/.*"]]}
    return layout


class Pictures(Callback):
    """Slices of every test group with truth and prediction, every so many epochs."""

    def __init__(
        self, groups: tuple[TestGroup, ...], config: CallbacksConfig, landmarks: Sequence[str]
    ) -> None:
        """Take the groups, and all landmarks of the set for the page that compares runs."""
        self.groups = groups
        self.config = config
        self.landmarks = landmarks

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lay out the custom-scalars page."""
        layout = comparison_layout([group.name for group in self.groups], self.landmarks)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(layout)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw one row a group under `slices/GROUP`."""
        every = self.config.pictures_every
        if not every or (trainer.current_epoch + 1) % every:
            return
        assert isinstance(pl_module, LandmarkModule)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for group in self.groups:
                    row = picture_row(group, pl_module, self.config.pictures)
                    logger.experiment.add_image(
                        f"slices/{group.name}", row, trainer.current_epoch, dataformats="HWC"
                    )


def picture_row(group: TestGroup, module: LandmarkModule, count: int) -> NDArray[np.uint8]:
    """The first slices of a group side by side, shape (H', W', 3)."""
    predicted = predict_points(module, group.images[:count]).numpy().astype(np.float64)
    images = group.images[:count, 0].cpu().numpy()
    drawn = [
        draw_points(as_bytes(image), true, points)
        for image, true, points in zip(images, group.points_px[:count], predicted, strict=True)
    ]
    return np.concatenate(drawn, axis=1)


def log_final(
    loggers: list[Any], settings: Mapping[str, Any], metrics: Mapping[str, float]
) -> None:
    """Add the run to TensorBoard's table of hyperparameters with its final errors.

    Args:
        loggers: The trainer's loggers.
        settings: Plain configuration; nested keys are joined with dots.
        metrics: Metrics of the last evaluation; those named `.../mean` are the final ones.
    """
    final = {
        f"final_error_mm/{name.split('/')[1]}": value
        for name, value in metrics.items()
        if name.startswith("error_mm/") and name.endswith("/mean")
    }
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(_flat(settings), metrics=final)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float) else str(value)
    return flat
