"""A model's settings lead to a network, or to the nearest right name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landmarking.errors import ConfigError
from landmarking.models.build import build_network, functions_in, network_class
from landmarking.models.coordinate_cnn import CoordinateCNN

TARGET = "landmarking.models.coordinate_cnn.CoordinateCNN"


def made(image_size: object, mean_px: list[list[float]], width: int = 4) -> CoordinateCNN:
    return CoordinateCNN(
        image_size=image_size, mean_px=mean_px, channels=[width], hidden=[3], dropout=0.0
    )


def made_with_more(**settings: object) -> nn.Module:
    return made(**settings)


def unannotated(image_size, mean_px):
    return made(image_size, mean_px)


def liar(image_size, mean_px) -> nn.Module:
    return "network"


@pytest.mark.parametrize("name", ["made", "made_with_more"])
def test_a_function_makes_a_network(name):
    spec = {"_target_": f"{__name__}.{name}", "width": 2}
    network = build_network(spec, image_size=(8, 8), mean_px=[[1.0, 2.0]])
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 2)
    assert network.feature_count == 2 * 4 * 4


def test_a_function_that_makes_something_else_is_refused():
    with pytest.raises(ConfigError, match="liar made a str, not a torch module"):
        build_network({"_target_": f"{__name__}.liar"}, image_size=(8, 8), mean_px=[[1.0, 2.0]])


def test_functions_are_found_however_deep():
    inner = {"_target_": TARGET, "x": [{"y": {"_target_": "os.system"}}]}
    spec = {"_target_": f"{__name__}.made", "member": inner}
    assert list(functions_in(spec)) == [f"{__name__}.made", "os.system"]
    assert list(functions_in({"_target_": TARGET, "channels": [2]})) == []


def test_builds_what_is_named():
    spec = {"_target_": TARGET, "channels": [2], "hidden": [3]}
    network = build_network(spec, image_size=(8, 8), mean_px=[[1.0, 2.0]])
    assert isinstance(network, CoordinateCNN)
    assert network.feature_count == 2 * 4 * 4


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"_target_": TARGET, "chanels": [2]}, r"model\.chanels.*did you mean model\.channels"),
        ({"_target_": TARGET, "qqqq": 2}, r"model\.qqqq.*keys: .*channels"),
        ({"_target_": TARGET, "mean_px": [[0, 0]]}, r"model\.mean_px"),
        (
            {"_target_": "landmarking.models.nothing.Net"},
            r"no network .* imported; name a class or",
        ),
        ({"_target_": TARGET + "s"}, "no network"),
        ({"_target_": "absent_library.Net"}, "absent_library is not installed; pip install abs"),
        ({"_target_": "math.sqrt"}, "not a torch module class, nor a function annotated"),
        ({"_target_": "subprocess.getoutput", "cmd": "true"}, "not a torch module"),
        ({"_target_": "pathlib.Path"}, "not a torch module"),
        ({"_target_": f"{__name__}.unannotated"}, "annotated with `-> nn.Module`; name a"),
        ({"_target_": f"{__name__}.made", "widht": 3}, r"model\.widht.*did you mean model\.width"),
        ({"_target_": f"{__name__}.made_with_more", "mean_px": 3}, r"model\.mean_px"),
        ({"_target_": TARGET, "nested": {"_target_": "os.system"}}, "'os.system' is not a torch"),
        ({"_target_": ""}, "no network"),
        ({}, "no network"),
    ],
)
def test_refuses(spec, words):
    with pytest.raises(ConfigError, match=words):
        network_class(spec)


def test_a_wrong_value_is_the_users_mistake():
    with pytest.raises(ConfigError, match="refused its arguments"):
        build_network(
            {"_target_": TARGET, "channels": [2], "hidden": 3},
            image_size=(8, 8),
            mean_px=[[0.0, 0.0]],
        )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image_size": (8,)}, "rows and columns .*again"),
        ({"image_size": (8, 0)}, "rows and columns .*again"),
        ({"mean_px": [[1.0]]}, "landmarks have x and y, .*again"),
        ({"hidden": [0]}, r"model\.hidden are 1 or more each, found \[2\] and \[0\]; correct"),
        ({"channels": [-2]}, r"model\.channels .*found \[-2\]"),
        ({"dropout": 1.0}, "dropout < 1, found 1.0; correct"),
    ],
)
def test_what_no_network_can_be_made_of_is_refused_with_a_way_out(given, words):
    arguments = {"image_size": (8, 8), "mean_px": [[1.0, 2.0]], "channels": [2], "hidden": [3]}
    arguments |= given
    size, means = arguments.pop("image_size"), arguments.pop("mean_px")
    with pytest.raises(ConfigError, match=words):
        build_network({"_target_": TARGET, **arguments}, image_size=size, mean_px=means)
