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
        ({"_target_": "landmarking.models.nothing.Net"}, "no network"),
        ({"_target_": TARGET + "s"}, "no network"),
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
