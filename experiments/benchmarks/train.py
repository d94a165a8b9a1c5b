"""Training speed: a plain eager loop, as a researcher would write it, beside ours."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from arguments import main, read_arguments
from landmarking.data.batches import DeviceBatches, EpochOrder
from landmarking.errors import ConfigError
from landmarking.models.module import LandmarkModule
from landmarking.processes import keep_freed_memory
from landmarking.training.train import quiet

PROTOCOL_SCANS = round(0.7 * 1837)
"""Scans of one epoch of the paper's protocol."""

PROTOCOL_EPOCHS = {"sl": 8 * 5_000, "ml": 10_000, "stacked": 5_000}


@dataclass
class TrainBenchmark:
    """What to measure.

    Attributes:
        kinds: Of `sl`, `ml` and `stacked`, separated by commas.
        slices: Slices of 150 x 150 in the training set.
        batch: Slices in a batch.
        epochs: Epochs of one measurement; one more goes ahead of each, unmeasured.
        rounds: Measurements of each, alternating.
        threads: Threads of torch; 0 takes the default.
        accelerator: As Lightning's Trainer takes it.
        precision: Ours, as Lightning's Trainer takes it; the plain loop is always fp32.
        compile: Whether ours is compiled.
        clock: `wall`, or `cpu` for processor time, which a busy machine disturbs less.
    """

    kinds: str = "sl,ml,stacked"
    slices: int = 32
    batch: int = 16
    epochs: int = 1
    rounds: int = 2
    threads: int = 0
    accelerator: str = "cpu"
    precision: str = "32-true"
    compile: bool = False
    clock: str = "wall"

    def now(self) -> float:
        """Seconds by the chosen clock."""
        return time.process_time() if self.clock == "cpu" else time.perf_counter()


def run(arguments: list[str]) -> str:
    """Measure samples a second of both, alternating in one process, and project the protocol.

    Args:
        arguments: `key=value` for the fields of `TrainBenchmark`.

    Returns:
        A Markdown table.

    Raises:
        ConfigError: If an argument is unknown or of the wrong type.
    """
    config = read_arguments(TrainBenchmark, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    rows = [
        "| model | plain, slices/s | ours, slices/s | ratio, each round | protocol, hours |",
        "|---|---|---|---|---|",
    ]
    rows += [_row(kind, config) for kind in config.kinds.split(",")]
    device = torch.cuda.get_device_name() if config.accelerator != "cpu" else "CPU"
    where = f"{device}, {torch.get_num_threads()} threads, batch {config.batch}"
    return "\n".join([*rows, "", f"{where}; {_memory()}; {config.clock} time, alternating."])


def _row(kind: str, config: TrainBenchmark) -> str:
    if kind not in PROTOCOL_EPOCHS:
        raise ConfigError(f"kinds are of {', '.join(PROTOCOL_EPOCHS)}, found {kind!r}")
    landmarks = 1 if kind == "sl" else 8
    rng = np.random.default_rng(0)
    images = rng.normal(size=(config.slices, 150, 150)).astype(np.float32)
    points = rng.uniform(40, 110, (config.slices, landmarks, 2)).astype(np.float32)
    pairs = []
    with _process() as plain_process, _process() as our_process:
        for _ in range(config.rounds):
            # A plain loop has no stack: it trains the eight networks one after the other.
            truth = points[:, :1] if kind == "stacked" else points
            plain = plain_process.submit(plain_rate, images, truth, config).result()
            ours = our_process.submit(our_rate, kind, images, points, config).result()
            pairs.append((plain / 8 if kind == "stacked" else plain, ours))
    plain, ours = np.median(pairs, axis=0)
    hours = PROTOCOL_SCANS * PROTOCOL_EPOCHS[kind] / ours / 3600
    ratios = ", ".join(f"{b / a:.2f}" for a, b in pairs)
    return f"| {kind} | {plain:.1f} | {ours:.1f} | {ratios} | {hours:,.1f} |"


def _process() -> ProcessPoolExecutor:
    """A process of its own: ours tells its C library how to treat memory, a plain loop does not."""
    return ProcessPoolExecutor(
        1, get_context("spawn"), torch.set_num_threads, (torch.get_num_threads(),)
    )


def plain_network(landmarks: int) -> nn.Module:
    """The paper's network in the order of its text, from torch's own layers."""
    layers: list[nn.Module] = []
    previous = 1
    for width in (32, 64, 128, 256):
        layers += [nn.Conv2d(previous, width, 3, padding=1), nn.BatchNorm2d(width)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        previous = width
    dense = [nn.Linear(20_736, 1000), nn.ReLU(), nn.Dropout(0.5)]
    dense += [nn.Linear(1000, 500), nn.ReLU(), nn.Dropout(0.5), nn.Linear(500, 2 * landmarks)]
    return nn.Sequential(*layers, nn.Flatten(), *dense)


def plain_rate(
    images: NDArray[np.float32], points: NDArray[np.float32], config: TrainBenchmark
) -> float:
    """Slices a second of an eager fp32 loop over host batches."""
    device = torch.device("cuda" if config.accelerator in ("gpu", "cuda") else "cpu")
    network = plain_network(points.shape[1]).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
    data = TensorDataset(torch.from_numpy(images)[:, None], torch.from_numpy(points))
    loader = DataLoader(data, batch_size=config.batch, shuffle=True)
    start = 0.0
    for epoch in range(config.epochs + 1):
        if epoch == 1:
            start = config.now()
        total = 0.0
        for batch_images, batch_points in loader:
            predicted = network(batch_images.to(device)).reshape(len(batch_images), -1, 2)
            distance = (predicted - batch_points.to(device)).pow(2).sum(-1).sqrt()
            loss = distance.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
    return config.epochs * len(images) / (config.now() - start)


class _Clock(pl.Callback):
    """Time from the end of the first epoch to the end of the last."""

    def __init__(self, config: TrainBenchmark) -> None:
        self.config = config
        self.ends: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(self.config.now())


def our_rate(
    kind: str,
    images: NDArray[np.float32],
    points: NDArray[np.float32],
    config: TrainBenchmark,
) -> float:
    """Slices a second of our module under Lightning's Trainer."""
    member = {"_target_": "landmarking.models.coordinate_cnn.CoordinateCNN"}
    stacked = {"_target_": "landmarking.models.coordinate_cnn.StackedEnsemble", "member": member}
    module = LandmarkModule(
        network=stacked if kind == "stacked" else member,
        landmarks=[str(number) for number in range(points.shape[1])],
        image_size=[150, 150],
        mean_px=[[75.0, 75.0]] * points.shape[1],
        normalisation="image",
        channels_last=True,
    )
    if config.compile:
        module.network.compile()
    keep_freed_memory()
    clock = _Clock(config)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=config.epochs + 1,
            accelerator=config.accelerator,
            devices=1,
            precision=config.precision,  # type: ignore[arg-type]
            callbacks=[clock],
            logger=False,
            default_root_dir=Path(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, _Batches(images, points, config))
    return config.epochs * len(images) / (clock.ends[-1] - clock.ends[0])


class _Batches(pl.LightningDataModule):
    def __init__(
        self, images: NDArray[np.float32], points: NDArray[np.float32], config: TrainBenchmark
    ) -> None:
        super().__init__()
        self.arrays = (torch.from_numpy(images)[:, None], torch.from_numpy(points))
        self.size = config.batch

    def train_dataloader(self) -> DeviceBatches:
        images, points = self._on_device()
        order = EpochOrder(len(images), shuffle=True, seed=0)
        return DeviceBatches(images, points, order, size=self.size, normalisation="image")

    def _on_device(self) -> Iterator[Tensor]:
        assert self.trainer is not None
        return (array.to(self.trainer.strategy.root_device) for array in self.arrays)


def _memory() -> str:
    if torch.cuda.is_available():
        return f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the device"
    resource = import_module("resource")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return f"peak {peak:.1f} GiB of a process"


if __name__ == "__main__":
    main(run)
