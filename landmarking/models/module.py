"""One Lightning module for single- and multi-landmark models: SL is L = 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from landmarking.data.batches import Batch, normalise_batch
from landmarking.errors import ConfigError
from landmarking.geometry import Array
from landmarking.models.build import build_network
from landmarking.models.losses import ensemble_loss, multi_landmark_loss
from landmarking.models.schedule import ScheduleConfig, learning_rate
from landmarking.models.stacked import StackedEnsemble


@dataclass
class OptimizerConfig:
    """Adam and its settings.

    Attributes:
        learning_rate: Rate at the start.
        betas: Decay of the two moments.
        weight_decay: L2 penalty; with a value above zero it is decoupled (AdamW).
        fused: One kernel for all weights; the same numbers within rounding.
    """

    learning_rate: float = 0.005
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    fused: bool = True

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        if not 0.0 < self.learning_rate < math.inf or not 0.0 <= self.weight_decay < math.inf:
            raise ConfigError(
                "optimizer.learning_rate is positive and optimizer.weight_decay not negative, "
                f"found {self.learning_rate} and {self.weight_decay}"
            )
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(
                f"optimizer.betas are two numbers from 0 to below 1, found {list(self.betas)}"
            )


class LandmarkModule(pl.LightningModule):
    """A network, the Euclidean loss and Adam with the paper's schedule.

    Everything given is a plain value and is saved with the checkpoint, which therefore loads with
    `weights_only` and needs no other file.

    Attributes:
        network: Slices (B, 1, H, W) to slice pixels (B, L, 2).
        landmarks: Names of the L landmarks.
        normalisation: How slices are normalised before the network.
    """

    def __init__(
        self,
        *,
        network: Mapping[str, Any],
        landmarks: Sequence[str],
        image_size: Sequence[int],
        mean_px: Sequence[Sequence[float]],
        normalisation: str,
        optimizer: Mapping[str, Any] | None = None,
        schedule: Mapping[str, Any] | None = None,
        channels_last: bool = False,
    ) -> None:
        """Build the network from the global random state.

        Args:
            network: `_target_` and arguments, see `build_network`.
            landmarks: Names of the L landmarks.
            image_size: Rows and columns (H, W) of a slice.
            mean_px: Mean training position of each landmark, slice pixels, shape (L, 2).
            normalisation: `image`, `batch` or `none`.
            optimizer: Fields of `OptimizerConfig`.
            schedule: Fields of `ScheduleConfig`.
            channels_last: Keep images and convolution weights in that memory layout.

        Raises:
            ConfigError: If a setting is unknown or out of range.
        """
        super().__init__()
        self.save_hyperparameters()
        self.landmarks = tuple(landmarks)
        self.normalisation = normalisation
        self.optimizer_config = OptimizerConfig(**(optimizer or {}))
        self.schedule_config = ScheduleConfig(**(schedule or {}))
        self.channels_last = channels_last
        self.network = build_network(network, image_size=image_size, mean_px=mean_px)
        if channels_last:
            to_channels_last(self.network)
        # Each member of a stacked ensemble has a loss of its own.
        self.stacked = isinstance(self.network, StackedEnsemble)
        self.loss = ensemble_loss if self.stacked else multi_landmark_loss
        self.train_loss: list[Tensor] = []
        self.validation_loss: list[Tensor] = []

    @property
    def mean_px(self) -> Array:
        """Mean training position of each landmark, slice pixels, shape (L, 2)."""
        return np.array(self.hparams["mean_px"], dtype=np.float64)

    def forward(self, images: Tensor, **options: bool) -> Any:
        """Normalised slices (B, 1, H, W) to slice pixels (B, L, 2); options go to the network."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.network(images, **options)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of one batch, in pixels; kept on the device until somebody asks for it."""
        if getattr(self.network, "penalised", False):
            predicted, penalty = self(batch.images, with_penalty=True)
        else:
            predicted, penalty = self(batch.images), 0.0
        loss = self.loss(predicted, batch.points_px) * batch.weight
        self.train_loss.append(self._per_landmark(loss.detach()))
        # A regulariser of the network's own counts in the gradient, not in the recorded loss.
        total: Tensor = loss + penalty
        return total

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Loss of one held-out batch, in pixels."""
        loss = self.loss(self(batch.images), batch.points_px)
        self.validation_loss.append(self._per_landmark(loss))

    def _per_landmark(self, loss: Tensor) -> Tensor:
        # The sum over a stacked ensemble's members, back in the size of one landmark's loss.
        return loss / len(self.landmarks) if self.stacked else loss

    def configure_optimizers(self) -> Any:
        """Adam, and the rate of each epoch as a pure function of its number."""
        config = self.optimizer_config
        kind = torch.optim.AdamW if config.weight_decay > 0.0 else torch.optim.Adam
        adam = kind(
            self.parameters(),
            lr=config.learning_rate,
            betas=(config.betas[0], config.betas[1]),
            weight_decay=config.weight_decay,
            fused=config.fused,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(adam, self._share_of_initial_rate)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

    def _share_of_initial_rate(self, epoch: int) -> float:
        initial = self.optimizer_config.learning_rate
        epochs = self.trainer.max_epochs or 1
        return learning_rate(epoch, epochs, initial, self.schedule_config) / initial

    def member(self, name: str) -> LandmarkModule:
        """One network of a stacked ensemble as the module that a run of its own would have left.

        Args:
            name: Its landmark.
        """
        assert isinstance(self.network, StackedEnsemble)
        index = self.landmarks.index(name)
        values = dict(self.hparams)
        network, mean_px = dict(values.pop("network"))["member"], values.pop("mean_px")
        values["landmarks"] = [name]
        alone = LandmarkModule(network=network, mean_px=[mean_px[index]], **values)
        alone.network.load_state_dict(self.network.member_state(index))
        return alone.train(self.training)


def to_channels_last(network: torch.nn.Module) -> None:
    """Keep the convolution weights of a network in channels-last layout, in place."""
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def predict_points(module: LandmarkModule, images: Tensor, *, batch_size: int = 64) -> Tensor:
    """Predict slice pixels without touching the module's mode.

    Args:
        module: A trained or training module.
        images: Slices as they left preprocessing, not normalised, shape (N, 1, H, W), on any
            device.
        batch_size: Slices at once; it changes the result only under per-batch normalisation.

    Returns:
        Slice pixels (x, y), shape (N, L, 2), float32, on the CPU.

    Raises:
        ConfigError: If the slices have another size than those that the network was built for.
    """
    expected = tuple(module.hparams["image_size"])
    if tuple(images.shape[-2:]) != expected:
        raise ConfigError(
            f"the network was trained on slices of {expected[0]} x {expected[1]} pixels, found "
            f"{images.shape[-2]} x {images.shape[-1]}; prepare them with the run's own preprocess"
        )
    training = module.training
    module.eval()
    parts = [
        module(normalise_batch(part.to(module.device), module.normalisation))
        for part in torch.split(images, batch_size)
    ]
    module.train(training)
    return torch.cat(parts).float().cpu()
