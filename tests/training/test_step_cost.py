"""What a training step does besides computing: it reads no value back, and stays in float32."""

from __future__ import annotations

from collections import Counter

import pytest
import pytorch_lightning as pl
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from landmarking.data.batches import DeviceBatches, EpochOrder
from landmarking.models.module import LandmarkModule
from landmarking.training.train import quiet


class Watch(TorchDispatchMode):
    """Counts values that are read back (`.item()`, `float()`, `if tensor:`), and float64."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen["read back"] += func is torch.ops.aten._local_scalar_dense.default
        made = result if isinstance(result, tuple | list) else (result,)
        self.seen["float64"] += any(
            isinstance(value, torch.Tensor) and value.dtype == torch.float64 for value in made
        )
        self.seen["operations"] += 1
        return result


class Batches(pl.LightningDataModule):
    def __init__(self, count):
        super().__init__()
        self.count = count

    def train_dataloader(self):
        torch.manual_seed(0)
        images = torch.randn(2 * self.count, 1, 32, 32)
        points = 8 + 16 * torch.rand(2 * self.count, 2, 2)
        order = EpochOrder(len(images), shuffle=True, seed=0)
        return DeviceBatches(images, points, order, size=2, normalisation="image")


def watched(steps, precision, module_class=LandmarkModule):
    torch.manual_seed(0)
    module = module_class(
        network={
            "_target_": "landmarking.models.coordinate_cnn.CoordinateCNN",
            "channels": [4, 8],
            "hidden": [16],
        },
        landmarks=["AC", "PC"],
        image_size=[32, 32],
        mean_px=[[16.0, 16.0]] * 2,
        normalisation="image",
    )
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with quiet(), Watch() as watch:
        trainer.fit(module, Batches(steps))
    return watch.seen


def per_step(precision, module_class=LandmarkModule):
    """What four more steps cost beyond the start and the end of an epoch."""
    few, many = (watched(steps, precision, module_class) for steps in (2, 6))
    return {name: (many[name] - few[name]) / 4 for name in few}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_reads_nothing_back_and_has_no_float64(precision):
    cost = per_step(precision)
    assert cost["operations"] > 20
    assert cost["read back"] == 0
    assert cost["float64"] == 0


def test_a_step_that_reads_its_loss_is_seen():
    class Reads(LandmarkModule):
        def training_step(self, batch, batch_index):
            loss = super().training_step(batch, batch_index)
            assert float(loss.detach().double()) > 0
            return loss

    cost = per_step("32-true", Reads)
    assert cost["read back"] == 1
    assert cost["float64"] >= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_waits_for_nothing():
    device = torch.device("cuda")
    loader = Batches(4).train_dataloader()
    images, points = loader.images.to(device), loader.points_px.to(device)
    on_device = DeviceBatches(images, points, loader.batch_sampler, size=2, normalisation="image")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32 * 32, 4)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    batches = iter(on_device)
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = next(batches)
        loss = (network(batch.images).reshape(-1, 2, 2) - batch.points_px).square().sum(-1).sqrt()
        loss.mean().backward()
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
