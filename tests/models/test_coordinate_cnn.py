from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from landmarking.errors import ConfigError
from landmarking.models.build import build_network
from landmarking.models.coordinate_cnn import CoordinateCNN, StackedEnsemble, in_float32
from landmarking.models.losses import ensemble_loss, euclidean_distance, multi_landmark_loss

# The paper's network pinned down: shapes, parameters, first weights; both variants.


CONF = Path(__file__).parents[2] / "conf" / "model"


def from_yaml(name: str, landmarks: int, **changes: object) -> nn.Module:
    spec = {}
    for part in (["paper"] if name == "code" else []) + [name]:
        spec |= yaml.safe_load((CONF / f"{part}.yaml").read_text())
    spec.pop("defaults", None)
    mean = [[70.0, 80.0]] * landmarks
    return build_network(spec | changes, image_size=(150, 150), mean_px=mean)


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


CONVOLUTIONS = 388_800  # weights and biases of 1-32-64-128-256 at 3 x 3, and batch normalisation
PAPER_HEAD = 20_736 * 1000 + 1000 + 1000 * 500 + 500
CODE_HEAD = 82_944 * 1000 + 1000 + 1000 * 500 + 500


@pytest.mark.parametrize(
    ("name", "landmarks", "features", "parameters"),
    [
        ("paper", 1, 20_736, CONVOLUTIONS + PAPER_HEAD + 501 * 2),
        ("paper", 8, 20_736, CONVOLUTIONS + PAPER_HEAD + 501 * 16),
        ("code", 1, 82_944, CONVOLUTIONS + CODE_HEAD + 501 * 2),
        ("code", 8, 82_944, CONVOLUTIONS + CODE_HEAD + 501 * 16),
    ],
)
def test_features_and_parameters(name, landmarks, features, parameters):
    with torch.device("meta"):
        network = from_yaml(name, landmarks, initialisation="torch")
    assert network.feature_count == features
    assert count(network) == parameters


def test_total_numbers_of_parameters():
    with torch.device("meta"):
        assert count(from_yaml("paper", 1, initialisation="torch")) == 21_627_302
        assert count(from_yaml("paper", 8, initialisation="torch")) == 21_634_316
        assert count(from_yaml("code", 1, initialisation="torch")) == 83_835_302


@pytest.mark.parametrize(
    ("name", "sides"), [("paper", [75, 37, 18, 9]), ("code", [75, 37, 18, 18])]
)
def test_layer_shapes(name, sides):
    shapes: list[tuple[int, ...]] = []
    network = from_yaml(name, 8, hidden=[10, 5])
    for layer in [*network.features, *network.head]:
        layer.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape)))
    assert network.eval()(torch.randn(2, 1, 150, 150)).shape == (2, 8, 2)
    blocks = [(2, width, side, side) for width, side in zip([32, 64, 128, 256], sides, strict=True)]
    assert shapes == [*blocks, *[(2, 10)] * 3, *[(2, 5)] * 3, (2, 16)]


def test_blocks_are_convolution_normalisation_pool_and_relu_then_dropout_in_the_head():
    network = from_yaml("paper", 1, hidden=[10, 5])
    kinds = [type(layer) for layer in network.features[0]]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ReLU]
    assert network.features[0][0].kernel_size == (3, 3)
    assert network.features[0][0].padding == (1, 1)
    dense = [nn.Linear, nn.ReLU, nn.Dropout]
    assert [type(layer) for layer in network.head] == [*dense, *dense, nn.Linear]
    assert {layer.p for layer in network.head if isinstance(layer, nn.Dropout)} == {0.5}


def test_pooling_ahead_of_the_relu_gives_the_paper_s_numbers_and_gradients():
    """Convolution, normalisation, ReLU, pool as the text has it, with the same weights."""
    torch.manual_seed(0)
    network = CoordinateCNN(
        image_size=(16, 16), mean_px=[[0.0, 0.0]], channels=(3, 4), hidden=(5,), dropout=0.0
    )
    images = torch.randn(6, 1, 16, 16)
    ours = network(images)
    ours.sum().backward()
    learned = [(name, w) for name, w in network.named_parameters() if w.requires_grad]
    gradients = {name: weight.grad.clone() for name, weight in learned}
    network.zero_grad()
    values = images
    for convolution, normalisation, pool, _ in network.features:
        values = pool(nn.functional.relu(normalisation(convolution(values))))
    text = network.head(values.flatten(1)).unflatten(1, (1, 2))
    text.sum().backward()
    torch.testing.assert_close(ours, text)
    for name, gradient in gradients.items():
        torch.testing.assert_close(network.get_parameter(name).grad, gradient, msg=name)


def test_the_paper_s_first_weights_are_from_n_0_0_1_and_biases_are_zero():
    torch.manual_seed(1)
    network = from_yaml("paper", 8, hidden=[200, 100])
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layer.weight.detach().flatten()
            spread = 4.0 / weight.numel() ** 0.5  # four standard errors
            assert abs(weight.mean().item()) < 0.1 * spread
            assert weight.std().item() == pytest.approx(0.1, rel=spread)
            # Kurtosis tells a normal from a uniform distribution, 3 against 1.8.
            assert (weight**4).mean().item() / 0.1**4 == pytest.approx(3.0, abs=10 * spread)
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
        if isinstance(layer, nn.BatchNorm2d):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight))
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


def test_the_slim_network_starts_at_the_mean_position():
    mean = [[60.0, 80.0], [90.0, 75.5]]
    spec = yaml.safe_load((CONF / "slim.yaml").read_text())
    network = build_network(spec, image_size=(150, 150), mean_px=mean).eval()
    predicted = network(torch.randn(3, 1, 150, 150))
    torch.testing.assert_close(predicted, torch.tensor(mean).expand(3, 2, 2))


def test_the_biases_that_stand_still_have_no_gradient_but_rounding():
    torch.manual_seed(0)
    network = CoordinateCNN(image_size=(16, 16), mean_px=[[0.0, 0.0]], channels=(3, 4), hidden=(5,))
    frozen = {name: w for name, w in network.named_parameters() if not w.requires_grad}
    assert set(frozen) == {"features.0.0.bias", "features.1.0.bias"}
    for weight in frozen.values():
        weight.requires_grad_(True)
    network.double()(torch.randn(6, 1, 16, 16, dtype=torch.float64)).sum().backward()
    for name in frozen:
        gradient = network.get_parameter(name).grad
        assert gradient.abs().max().item() < 1e-12
    assert network.features[0][0].weight.grad.abs().max().item() > 1e-3


@pytest.mark.parametrize("image_size", [(150, 150), (64, 48), (37, 91)])
def test_is_sized_by_computation(image_size):
    network = CoordinateCNN(
        image_size=image_size, mean_px=[[0.0, 0.0]], channels=(2, 3), hidden=(4,)
    )
    assert network(torch.randn(2, 1, *image_size)).shape == (2, 1, 2)


def test_a_stem_halves_the_image():
    network = CoordinateCNN(
        image_size=(32, 32), mean_px=[[0.0, 0.0]], channels=(2,), hidden=(3,), stem_pool=2
    )
    assert network.feature_count == 2 * 8 * 8


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"pools": 3}, "pools"),
        ({"dropout": 1.0}, "dropout"),
        ({"initialisation": "xavier"}, "initialisation"),
        ({"image_size": (3, 3)}, "leave nothing"),
    ],
)
def test_refuses(changes, word):
    arguments = {"image_size": (32, 32), "mean_px": [[0.0, 0.0]], "channels": (2, 2)} | changes
    with pytest.raises(ConfigError, match=word):
        CoordinateCNN(**arguments)


# Mixed precision rounds convolutions and nothing that is a coordinate.


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
STACKED = {"_target_": "landmarking.models.coordinate_cnn.StackedEnsemble", "member": SLIM}
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
