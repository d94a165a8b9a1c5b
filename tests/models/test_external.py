"""Networks of other libraries find landmarks by being named in YAML."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from landmarking.errors import ConfigError
from landmarking.models.build import build_network
from landmarking.models.heatmap import ExpectationNetwork

CONF = Path(__file__).parents[2] / "conf" / "model"
SIZE = (31, 42)
MEAN_PX = [[20.0, 12.0], [30.0, 8.0]]


class Numbers(nn.Module):
    """A classifier: as many copies of the mean brightness as there are classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None].expand(-1, self.classes)


class Maps(nn.Module):
    """A segmentation network: the image itself, times a gain, as many times as there are maps."""

    def __init__(self, maps: int, gain: float = 1.0) -> None:
        super().__init__()
        self.maps, self.gain = maps, gain

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * images.expand(-1, self.maps, -1, -1)


def create_model(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """As timm makes its networks: most arguments go on to the class."""
    if name != "numbers":
        raise RuntimeError(f"Unknown model ({name})")
    return Numbers(**kwargs)


class Halves(Maps):
    """Maps of half the size."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[..., ::2, ::2]


def build(kind: str, inner: Callable[..., nn.Module], outputs: str, **arguments: Any) -> nn.Module:
    inside = arguments.pop("inside", {})
    spec = {
        "_target_": f"landmarking.models.external.Library{kind}",
        "network": {"_target_": f"{__name__}.{inner.__name__}", **inside},
        "outputs": outputs,
        **arguments,
    }
    return build_network(spec, image_size=SIZE, mean_px=MEAN_PX)


def test_numbers_are_offsets_from_the_mean_position_in_units_of_the_scale() -> None:
    net = build("Coordinates", Numbers, "classes", scale_px=4.0)
    points = net(torch.stack([torch.zeros(1, *SIZE), torch.full((1, *SIZE), 0.5)]))
    torch.testing.assert_close(points[0], torch.tensor(MEAN_PX))
    torch.testing.assert_close(points[1], torch.tensor(MEAN_PX) + 2.0)


def test_a_function_that_passes_its_arguments_on_makes_the_network() -> None:
    net = build("Coordinates", create_model, "classes", inside={"name": "numbers"}, scale_px=4.0)
    assert isinstance(net.network, Numbers)
    torch.testing.assert_close(net(torch.zeros(1, 1, *SIZE))[0], torch.tensor(MEAN_PX))


@pytest.mark.parametrize("pool", [1, 2, 3])
def test_maps_point_at_the_same_place_whatever_the_pool(pool: int) -> None:
    net = build("Heatmaps", Maps, "maps", pool=pool, inside={"gain": 2.0})
    assert isinstance(net, ExpectationNetwork)
    y, x = torch.meshgrid(torch.arange(31.0), torch.arange(42.0), indexing="ij")
    # Twice this is the logarithm of a bump of SD 2.5, and still is after averaging over pixels.
    image = -((x - 20.4) ** 2 + (y - 12.7) ** 2) / (4 * 2.5**2)
    points, spread = net.with_spread(image[None, None])
    torch.testing.assert_close(points[0], torch.tensor([[20.4, 12.7]] * 2), rtol=0, atol=1e-3)
    torch.testing.assert_close(spread[0], torch.full((2,), 2.5 * 2**0.5), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "inner", "arguments", "said"),
    [
        ("Coordinates", Numbers, {"outputs": "clases"}, r"Numbers has no argument 'clases'"),
        ("Coordinates", Numbers, {"pool": 0}, r"model\.pool is 1 or more, found 0"),
        ("Coordinates", Maps, {"outputs": "maps"}, r"Maps gives \(1, 4, 31, 42\) .*\(1, 4\) is ne"),
        ("Coordinates", create_model, {"inside": {"name": "nmbers"}}, r"_model .*Unknown .*nmbers"),
        (
            "Coordinates",
            create_model,
            {"inside": {"name": "numbers"}, "outputs": "clases"},
            r"create_model refused its arguments .*'clases'",
        ),
        ("Heatmaps", Numbers, {}, r"Numbers gives \(1, 2\) .*\(1, 2, 31, 42\) is needed"),
        ("Heatmaps", Halves, {"outputs": "maps"}, r"gives \(1, 2, 16, 21\)"),
        ("Heatmaps", Maps, {"outputs": "maps", "pool": 50}, r"takes no slice of 31 x 42 .*pool"),
        ("Heatmaps", Maps, {"outputs": "maps", "inside": {"gian": 1}}, "did you mean model.gain"),
        ("Heatmaps", Maps, {"outputs": "maps", "spread_weight": -1}, "spread_weight is not neg"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    kind: str, inner: Callable[..., nn.Module], arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        build(kind, inner, **{"outputs": "classes", **arguments})


@pytest.mark.parametrize("name", ["monai_unet", "monai_efficientnet", "timm_resnet"])
def test_the_networks_of_libraries_learn_where_they_are_installed(name: str) -> None:
    library = name.partition("_")[0]
    pytest.importorskip(library, reason=f'needs pip install "landmarking[{library}]"')
    torch.manual_seed(0)
    spec = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    net = build_network(spec, image_size=(75, 70), mean_px=MEAN_PX)
    assert net.training
    points = net(torch.randn(2, 1, 75, 70))
    assert points.shape == (2, 2, 2)
    points.sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())
