"""One Lightning module for single- and multi-landmark models, and its learning rate.

A single-landmark model is a multi-landmark model with L = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from landmarking.data.batches import Batch, normalise_batch
from landmarking.errors import ConfigError
from landmarking.geometry import Array
from landmarking.models.build import build, build_network, describe
from landmarking.models.coordinate_cnn import StackedEnsemble
from landmarking.models.losses import RadialErrors, WeightedMean, ensemble_loss, multi_landmark_loss

# Learning rate by epoch, as a pure function of its number.
#
# The paper: from 0.005 to 0.0005 by factors of 0.95, "performed multiple times, as necessary, until
# reaching the desired final learning rate at the end of training". ln(0.1) / ln(0.95) is 44.9, so
# there are 45 decays; the last one is clamped at the final rate.


KINDS = ("exponential", "cosine", "constant")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate falls over a run; `_target_` of the files in conf/schedule.

    Attributes:
        kind: `exponential` (the paper), `cosine`, or `constant` (the authors' scripts, which build
            a scheduler and never step it).
        final_rate: Rate of the last epochs; not used by `constant`.
        factor: Factor of one exponential decay.
        warmup_epochs: Epochs of linear rise at the start, before the schedule proper.
    """

    kind: str = "exponential"
    final_rate: float = 0.0005
    factor: float = 0.95
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        if self.kind not in KINDS:
            raise ConfigError(f"schedule.kind is one of {', '.join(KINDS)}, found {self.kind!r}")
        if not 0.0 < self.factor < 1.0:
            raise ConfigError(f"schedule.factor lies between 0 and 1, found {self.factor}")
        if self.final_rate <= 0.0 or self.warmup_epochs < 0:
            raise ConfigError(
                "schedule.final_rate is positive and schedule.warmup_epochs not negative, found "
                f"{self.final_rate} and {self.warmup_epochs}"
            )


def decay_count(initial_rate: float, final_rate: float, factor: float) -> int:
    """Decays by `factor` after which the rate is at or below the final one."""
    if final_rate >= initial_rate:
        return 0
    # A hair's breadth off, so that a ratio that is an exact power does not cost one decay more.
    return math.ceil(math.log(final_rate / initial_rate) / math.log(factor) - 1e-9)


def learning_rate(epoch: int, epochs: int, initial_rate: float, schedule: Schedule) -> float:
    """Learning rate of one epoch.

    Args:
        epoch: Counted from zero.
        epochs: Length of the whole run.
        initial_rate: Rate at the start.
        schedule: How it falls.

    Returns:
        The rate; of the exponential kind, n decays cut the run into n + 1 equal parts, so that the
        last part is trained at the final rate.
    """
    if epoch < schedule.warmup_epochs:
        return initial_rate * (epoch + 1) / (schedule.warmup_epochs + 1)
    if schedule.kind == "constant" or schedule.final_rate >= initial_rate:
        return initial_rate
    position = epoch - schedule.warmup_epochs
    length = max(epochs - schedule.warmup_epochs, 1)
    if schedule.kind == "cosine":
        share = 0.5 * (1.0 + math.cos(math.pi * min(position / max(length - 1, 1), 1.0)))
        return share * initial_rate + (1.0 - share) * schedule.final_rate
    parts = decay_count(initial_rate, schedule.final_rate, schedule.factor) + 1
    decays = min(position * parts // length, parts - 1)
    return max(initial_rate * schedule.factor**decays, schedule.final_rate)


Network = nn.Module | Callable[..., nn.Module] | Mapping[str, Any]
OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
Loss = Callable[[Tensor, Tensor], Tensor]


class LandmarkModule(pl.LightningModule):
    """A network, the Euclidean loss, an optimizer and the paper's schedule.

    Network, optimizer, schedule and loss are handed in, as objects or as descriptions with
    `_target_`. What depends on the data (names of the landmarks, size of the slices, mean position,
    normalisation) is taken from the trainer's `LandmarkDataModule`, unless given, and kept in the
    checkpoint: `LandmarkModule.load_from_checkpoint(path)` needs nothing else, and loads with
    `weights_only`, since all that is kept are plain values.

    Logged by `self.log`: `train/loss`, `val/loss` (pixels, by known landmarks, not by batches),
    `val/error_mm`, `val/sdr_2mm`, `val/AC/error_mm` and so on, and for each test group
    `test/HS/error_mm`, `test/HS/sdr_2mm`, `test/HS/AC/error_mm`.

    Attributes:
        network: Slices (B, 1, H, W) to slice pixels (B, L, 2).
        landmarks: Names of the L landmarks; empty until the data are known.
        normalisation: How slices are normalised before the network.
    """

    network: nn.Module

    def __init__(
        self,
        *,
        network: Network,
        optimizer: OptimizerFactory | Mapping[str, Any] | None = None,
        schedule: Schedule | Callable[[Optimizer], Any] | Mapping[str, Any] | None = None,
        loss: Loss | Mapping[str, Any] | None = None,
        landmarks: Sequence[str] | None = None,
        image_size: Sequence[int] | None = None,
        mean_px: Sequence[Sequence[float]] | None = None,
        normalisation: str | None = None,
        channels_last: bool = False,
    ) -> None:
        """Build the network from the global random state if the data are known.

        Args:
            network: A class or partial that takes `image_size` and `mean_px`, its description, or
                a built network; a checkpoint of the last needs it again to be loaded.
            optimizer: A partial such as `partial(torch.optim.AdamW, lr=0.002)`; by default that of
                conf/optimizer/adam.yaml.
            schedule: A `Schedule`, by epoch (the paper's by default), or a partial of one of
                torch's schedulers.
            loss: Of predicted and true slice pixels (B, L, 2); Eq. 3 by default, which with one
                landmark is Eq. 2.
            landmarks: Names of the L landmarks.
            image_size: Rows and columns (H, W) of a slice.
            mean_px: Mean training position of each landmark, slice pixels, shape (L, 2).
            normalisation: `image`, `batch` or `none`.
            channels_last: Keep images and convolution weights in that memory layout.

        Raises:
            ConfigError: If a setting is unknown or out of range.
        """
        super().__init__()
        optimizer, schedule = _of_an_older_checkpoint(optimizer, schedule)
        self._network = network
        self._optimizer = optimizer or partial(torch.optim.Adam, lr=0.005, fused=True)
        self._schedule = schedule or Schedule()
        self._loss = loss
        self.channels_last = channels_last
        described = {
            "network": None if isinstance(network, nn.Module) else describe(network),
            "optimizer": describe(self._optimizer),
            "schedule": describe(self._schedule),
            "loss": None if loss is None else describe(loss),
            "channels_last": channels_last,
        }
        self.save_hyperparameters(described, logger=False)
        self.landmarks: tuple[str, ...] = ()
        self.normalisation = "image"
        if landmarks is not None and image_size is not None and mean_px is not None:
            self._build(landmarks, image_size, mean_px, normalisation or "image")

    def _build(
        self,
        landmarks: Sequence[str],
        image_size: Sequence[int],
        mean_px: Sequence[Sequence[float]],
        normalisation: str,
    ) -> None:
        known: dict[str, Any] = {
            "landmarks": list(landmarks),
            "image_size": [int(side) for side in image_size],
            "mean_px": [[float(value) for value in mean] for mean in mean_px],
            "normalisation": normalisation,
        }
        self.hparams.update(known)
        self.landmarks, self.normalisation = tuple(landmarks), normalisation
        if isinstance(self._network, nn.Module):
            self.network = self._network
        else:
            spec = describe(self._network) or {}
            self.network = build_network(
                {key: value for key, value in spec.items() if key != "_partial_"},
                image_size=known["image_size"],
                mean_px=known["mean_px"],
            )
        if self.channels_last:
            to_channels_last(self.network)
        # Each member of a stacked ensemble has a loss of its own.
        self.stacked = isinstance(self.network, StackedEnsemble)
        standard: Loss = ensemble_loss if self.stacked else multi_landmark_loss
        self.loss: Loss = standard if self._loss is None else build(self._loss, "loss")
        self.train_loss, self.validation_loss = WeightedMean(), WeightedMean()
        self.validation_errors = RadialErrors(landmarks)
        self.test_errors = nn.ModuleList()
        self._test_names: tuple[str, ...] = ()

    @property
    def is_built(self) -> bool:
        """Whether the data are known and the network is there."""
        return "network" in self._modules

    @property
    def mean_px(self) -> Array:
        """Mean training position of each landmark, slice pixels, shape (L, 2)."""
        return np.array(self.hparams["mean_px"], dtype=np.float64)

    def learn_from(self, data: Any) -> None:
        """Take from a data module what has to be known of the data, and build the network.

        Args:
            data: A `LandmarkDataModule` that is set up, or another with `landmarks`, `image_size`,
                `mean_px` and `normalisation`.

        Raises:
            ConfigError: If it lacks them.
        """
        wanted = ("landmarks", "image_size", "mean_px", "normalisation")
        missing = [name for name in wanted if not hasattr(data, name)]
        if missing:
            raise ConfigError(
                f"LandmarkModule takes {', '.join(wanted)} from the trainer's data module, and "
                f"found no {', '.join(missing)}; pass a LandmarkDataModule as datamodule, or give "
                "them to the module"
            )
        self._build(data.landmarks, data.image_size, data.mean_px.tolist(), data.normalisation)

    def configure_model(self) -> None:
        """Lightning's hook: build the network, unless it is there already."""
        if not self.is_built:
            self.learn_from(getattr(self.trainer, "datamodule", None))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning's hook: build a network that was handed in, from what the checkpoint knows."""
        values = checkpoint.get("hyper_parameters", {})
        if not self.is_built and "image_size" in values:
            self._build(
                values["landmarks"],
                values["image_size"],
                values["mean_px"],
                values["normalisation"],
            )

    def forward(self, images: Tensor, **options: bool) -> Any:
        """Normalised slices (B, 1, H, W) to slice pixels (B, L, 2); options go to the network."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.network(images, **options)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of one batch, in pixels; kept on the device until the epoch's end."""
        if getattr(self.network, "penalised", False):
            predicted, penalty = self(batch.images, with_penalty=True)
        else:
            predicted, penalty = self(batch.images), 0.0
        loss = self.loss(predicted, batch.points_px)
        # A regulariser of the network's own counts in the gradient, not in the recorded loss.
        self._record("train/loss", self.train_loss, loss.detach(), batch)
        total: Tensor = loss * batch.weight + penalty
        return total

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Loss in pixels and errors in mm of one held-out batch."""
        predicted = self(batch.images)
        loss = self.loss(predicted, batch.points_px)
        self._record("val/loss", self.validation_loss, loss, batch)
        if batch.px_to_mm is not None:
            self.validation_errors.update(predicted, batch.points_px, batch.px_to_mm, batch.weight)

    def on_validation_epoch_end(self) -> None:
        """Log the held-out people's errors and SDR."""
        self._log_errors("val", self.validation_errors)

    def on_test_start(self) -> None:
        """Make one metric a test loader, named as the data module names its groups."""
        loaders = self.trainer.test_dataloaders
        names = tuple(loaders) if isinstance(loaders, Mapping) else ()
        count = len(loaders) if isinstance(loaders, Mapping | list | tuple) else 1
        self._test_names = names or tuple(str(i) for i in range(count))
        metrics = [RadialErrors(self.landmarks) for _ in self._test_names]
        self.test_errors = nn.ModuleList(metrics).to(self.device)

    def test_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Errors in mm of one batch of a test group."""
        errors = self.test_errors[dataloader_idx]
        assert isinstance(errors, RadialErrors)
        assert batch.px_to_mm is not None
        errors.update(self(batch.images), batch.points_px, batch.px_to_mm, batch.weight)

    def on_test_epoch_end(self) -> None:
        """Log each test group's errors and SDR."""
        for name, errors in zip(self._test_names, self.test_errors, strict=True):
            assert isinstance(errors, RadialErrors)
            self._log_errors(f"test/{name}", errors)

    def predict_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        """Landmarks of one batch.

        Returns:
            `rows`, those of the prepared cohort, shape (B,); `points_px`, slice pixels (x, y),
            shape (B, L, 2), float32.
        """
        assert batch.rows is not None
        return {"rows": batch.rows, "points_px": self(batch.images).float()}

    def _record(self, name: str, metric: WeightedMean, loss: Tensor, batch: Batch) -> None:
        known = torch.isfinite(batch.points_px).all(dim=-1).sum()
        # The sum over a stacked ensemble's members, back in the size of one landmark's loss.
        each = loss / len(self.landmarks) if self.stacked else loss
        metric.update(each, known if batch.weight > 0.0 else torch.zeros_like(known))
        if self._trainer is not None:  # a step may be called by hand
            self.log(name, metric, on_step=False, on_epoch=True, batch_size=len(batch.images))

    def _log_errors(self, where: str, metric: RadialErrors) -> None:
        for name, value in metric.compute().items():
            shown = name == "error_mm" and where == "val"
            self.log(f"{where}/{name}", value, prog_bar=shown, sync_dist=True)
        metric.reset()

    def configure_optimizers(self) -> Any:
        """The optimizer, and the rate of each epoch as a pure function of its number.

        Raises:
            ConfigError: If the optimizer refuses its settings.
        """
        factory = self._without_fusing(build(self._optimizer, "optimizer"))
        try:
            optimizer = factory(self.parameters())
        except (ValueError, TypeError, IndexError) as error:
            raise ConfigError(
                f"optimizer: it refuses its settings ({error}); correct them"
            ) from error
        schedule = build(self._schedule, "schedule")
        if not isinstance(schedule, Schedule):
            return {"optimizer": optimizer, "lr_scheduler": schedule(optimizer)}
        initial = float(optimizer.defaults["lr"])
        epochs = self._epochs()

        def share(epoch: int) -> float:
            return learning_rate(epoch, epochs, initial, schedule) / initial if initial else 1.0

        scheduler = {"scheduler": LambdaLR(optimizer, share), "interval": "epoch"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _without_fusing(self, factory: Any) -> Any:
        # A fused optimizer divides by the loss scale itself, which clipping would have to see.
        trainer = self.trainer
        clips = bool(trainer.gradient_clip_val) and "mixed" in str(trainer.precision)
        if clips and isinstance(factory, partial) and factory.keywords.get("fused"):
            return partial(factory, fused=False)
        return factory

    def _epochs(self) -> int:
        most = self.trainer.max_epochs or -1
        if most > 0:
            return most
        steps = self.trainer.max_steps
        batches = max(1, int(self.trainer.num_training_batches))
        return max(1, -(-steps // batches))

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


def _of_an_older_checkpoint(optimizer: Any, schedule: Any) -> tuple[Any, Any]:
    """Settings without `_target_`, as checkpoints had them when Adam was the only optimizer."""
    if isinstance(optimizer, Mapping) and optimizer and "_target_" not in optimizer:
        values = dict(optimizer)
        kind = "AdamW" if values.get("weight_decay") else "Adam"
        rate = values.pop("learning_rate", 0.005)
        optimizer = {"_target_": f"torch.optim.{kind}", "_partial_": True, "lr": rate, **values}
    if isinstance(schedule, Mapping) and schedule and "_target_" not in schedule:
        schedule = Schedule(**schedule)
    return optimizer, schedule


def to_channels_last(network: nn.Module) -> None:
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
