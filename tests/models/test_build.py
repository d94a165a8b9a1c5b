"""A model's settings lead to a network, or to the nearest right name."""

from __future__ import annotations

import pytest

from landmarking.errors import ConfigError
from landmarking.models.build import build_network, network_class
from landmarking.models.coordinate_cnn import CoordinateCNN

TARGET = "landmarking.models.coordinate_cnn.CoordinateCNN"


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
        ({"_target_": "landmarking.models.nothing.Net"}, r"no network .* imported; name a class"),
        ({"_target_": TARGET + "s"}, "no network"),
        ({"_target_": "absent_library.Net"}, "absent_library is not installed; pip install abs"),
        ({"_target_": "math.sqrt"}, "not a torch module"),
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
