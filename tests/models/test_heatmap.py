"""The heatmap network: expectation, spread, and learning."""

import pytest
import torch

from landmarking.errors import ConfigError
from landmarking.models.heatmap import HeatmapNetwork


def network(landmarks: int = 2, **arguments: object) -> HeatmapNetwork:
    torch.manual_seed(0)
    settings: dict[str, object] = {"channels": (4, 6, 8), **arguments}
    return HeatmapNetwork(image_size=(30, 42), mean_px=[(0.0, 0.0)] * landmarks, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(30, 42), (31, 45), (150, 150)])
def test_any_size_gives_points_and_normalised_heatmaps(size: tuple[int, int], stride: int) -> None:
    net = HeatmapNetwork(
        image_size=size, mean_px=[(0.0, 0.0)] * 3, channels=(4, 6, 8), stride=stride
    ).eval()
    images = torch.randn(2, 1, *size)
    heatmaps = net.heatmaps(images)
    torch.testing.assert_close(heatmaps.sum((2, 3)), torch.ones(2, 3))
    points, spread = net.with_spread(images)
    assert points.shape == (2, 3, 2)
    assert spread.shape == (2, 3)
    assert points.dtype == torch.float32
    torch.testing.assert_close(net(images), points)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_points_and_spread_are_mean_and_deviation_in_image_pixels(
    stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(stride=stride)
    height, width = len(net.rows), len(net.columns)
    y, x = torch.meshgrid(torch.arange(height) * 1.0, torch.arange(width) * 1.0, indexing="ij")
    bump = torch.exp(-((x * stride - 20.4) ** 2 + (y * stride - 12.7) ** 2) / (2 * 3.0**2))
    heatmap = (bump / bump.sum()).expand(1, 2, -1, -1)
    monkeypatch.setattr(net, "heatmaps", lambda images: heatmap)
    points, spread = net.with_spread(torch.zeros(1, 1, 30, 42))
    torch.testing.assert_close(points[0, 0], torch.tensor([20.4, 12.7]), rtol=0, atol=0.02)
    # Two axes of variance 9 each.
    torch.testing.assert_close(spread[0, 0], torch.tensor(18.0).sqrt(), rtol=0, atol=0.05)


def test_it_learns_to_point_at_a_blob_between_the_pixels() -> None:
    net = network(landmarks=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(30.0), torch.arange(42.0), indexing="ij")

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        points = 5.0 + torch.rand(count, 2, generator=generator) * torch.tensor([31.0, 19.0])
        away = (x - points[:, :1, None]) ** 2 + (y - points[:, 1:, None]) ** 2
        return torch.exp(-away / 8.0)[:, None] * 3.0, points[:, None]

    for _ in range(60):
        images, points = draw(8)
        found, spread = net.with_spread(images)
        loss = (found - points).norm(dim=-1).mean() + net.penalty(spread)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    images, points = draw(64)
    with torch.no_grad():
        found, spread = net.with_spread(images)
    # Guessing the middle misses by 9 pixels.
    assert float((found - points).norm(dim=-1).mean()) < 1.5
    assert float(spread.mean()) < 6.0


def test_the_penalty_pulls_the_spread_to_its_target() -> None:
    net = network(spread_weight=0.5, spread_target_px=2.0)
    assert float(net.penalty(torch.tensor([[2.0, 2.0]]))) == 0.0
    assert float(net.penalty(torch.tensor([[5.0, 1.0]]))) == pytest.approx(0.5 * (3 + 1) / 2)


def test_channels_last_gives_the_same_points() -> None:
    net = network().eval()
    images = torch.randn(2, 1, 30, 42)
    plain = net(images)
    fast = net.to(memory_format=torch.channels_last)(
        images.contiguous(memory_format=torch.channels_last)
    )
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"channels": (8,)}, "model.channels"),
        ({"stride": 3}, "model.stride is 1, 2 or 4"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"spread_target_px": 0.0}, "model.spread_target_px"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        network(**arguments)
