"""Mixed precision rounds convolutions and nothing that is a coordinate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from landmarking.models.build import build_network
from landmarking.models.losses import ensemble_loss, euclidean_distance, multi_landmark_loss
from landmarking.models.precision import in_float32
from landmarking.models.stacked import StackedEnsemble

SIDE = 150
MEAN_PX = [[60.0, 80.0], [101.0, 75.5]]
KINDS = (torch.bfloat16, torch.float16)

CNN = {"_target_": "landmarking.models.coordinate_cnn.CoordinateCNN"}
SLIM = {
    **CNN,
    "channels": [8, 16, 32, 32],
    "pools": 3,
    "hidden": [64],
    "dropout": 0.0,
    "stem_pool": 2,
    "initialisation": "kaiming",
    "centred": True,
    "scale_px": 10.0,
}
PAPER = {**CNN, "channels": [8, 16, 32, 32], "hidden": [100, 50], "dropout": 0.0}
HEATMAP = {
    "_target_": "landmarking.models.heatmap.HeatmapNetwork",
    "channels": [8, 12, 16, 24],
}
LIBRARY = {
    "_target_": "landmarking.models.external.LibraryCoordinates",
    "network": {"_target_": f"{__name__}.Classifier"},
    "outputs": "classes",
}
STACKED = {"_target_": "landmarking.models.stacked.StackedEnsemble", "member": SLIM}
NETWORKS = {
    "slim": SLIM,
    "paper": PAPER,
    "heatmap": HEATMAP,
    "stacked": STACKED,
    "library": LIBRARY,
}


class Classifier(nn.Sequential):
    """A network that knows nothing of coordinates."""

    def __init__(self, classes: int) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 37**2, classes)
        )


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A bright and a dark blob on noise, and where they are."""
    points = torch.tensor(MEAN_PX) + 4.0 * torch.randn(count, 2, 2, generator=generator)
    y, x = torch.meshgrid(torch.arange(float(SIDE)), torch.arange(float(SIDE)), indexing="ij")
    away = (x - points[..., :1, None]) ** 2 + (y - points[..., 1:, None]) ** 2
    blobs = torch.exp(-away / 50.0) * torch.tensor([4.0, -4.0])[:, None, None]
    noise = 0.2 * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    return blobs.sum(1, keepdim=True) + noise, points


def trained(spec: dict[str, Any], steps: int = 25) -> nn.Module:
    torch.manual_seed(0)
    net = build_network(spec, image_size=(SIDE, SIDE), mean_px=MEAN_PX)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images, points = draw(8, generator)
        optimizer.zero_grad()
        multi_landmark_loss(net(images), points).backward()
        optimizer.step()
    return net.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_autocast_moves_landmarks_by_less_than_a_twentieth_of_a_pixel(name: str) -> None:
    net = trained(NETWORKS[name])
    images, _ = draw(16, torch.Generator().manual_seed(2))
    ways: list[Callable[[Tensor], Tensor]] = [net]
    if isinstance(net, StackedEnsemble):
        ways.append(net.mapped)
    for forward, kind in itertools.product(ways, KINDS):
        with torch.no_grad():
            exact = forward(images)
            with torch.autocast("cpu", dtype=kind):
                rounded = forward(images)
        assert rounded.dtype == torch.float32
        assert float((rounded - exact).abs().mean()) < 0.05


def test_the_spread_and_its_penalty_are_not_rounded() -> None:
    torch.manual_seed(0)
    net = build_network(HEATMAP, image_size=(SIDE, SIDE), mean_px=MEAN_PX)
    images, _ = draw(2, torch.Generator().manual_seed(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net.heatmaps(images).dtype == torch.float32
        _, spread = net.with_spread(images)
        _, penalty = net(images, with_penalty=True)
    assert spread.dtype == penalty.dtype == torch.float32


@pytest.mark.parametrize("loss", [multi_landmark_loss, ensemble_loss])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_under_autocast_are_those_without(
    loss: Callable[[Tensor, Tensor], Tensor], kind: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(3)
    predicted, true = 150.0 * torch.rand(2, 8, 2, 2, generator=generator)
    true[3, 1] = torch.nan
    predicted.requires_grad_()
    (exact,) = torch.autograd.grad(loss(predicted, true), predicted)
    with torch.autocast("cpu", dtype=kind):
        rounded = loss(predicted, true)
        distance, _ = euclidean_distance(predicted, true)
    assert rounded.dtype == distance.dtype == torch.float32
    assert torch.equal(rounded, loss(predicted, true))
    assert torch.equal(torch.autograd.grad(rounded, predicted)[0], exact)


def test_where_nothing_is_rounded_other_types_are_left_alone() -> None:
    assert in_float32(lambda values: values, torch.ones(1, dtype=torch.float64)).dtype.itemsize == 8
    assert in_float32(lambda values: values, torch.ones(1, device="meta")).is_meta
