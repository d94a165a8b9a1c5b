"""The paper's network pinned down: shapes, parameters, first weights; both variants."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from landmarking.errors import ConfigError
from landmarking.models.build import build_network
from landmarking.models.coordinate_cnn import CoordinateCNN

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
