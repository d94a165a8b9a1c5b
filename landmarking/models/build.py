"""From a model's settings to a network: `_target_` names the class, the rest are its arguments.

A new network is one file with a class that takes `image_size` and `mean_px`, and one YAML file that
names it; nothing else needs to know.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from landmarking.config import with_way_out
from landmarking.errors import ConfigError

GIVEN = ("image_size", "mean_px")
"""Arguments that come from the cohort, never from YAML."""


_NAME = "name a class as the files in conf/model do"


def build_network(
    spec: Mapping[str, Any], *, image_size: Sequence[int], mean_px: Sequence[Sequence[float]]
) -> nn.Module:
    """Build the network that a `model` group describes.

    Args:
        spec: `_target_` and keyword arguments, plain values.
        image_size: Rows and columns (H, W) of a slice.
        mean_px: Mean training position of each landmark, slice pixels, shape (L, 2).

    Returns:
        A module that maps slices (B, 1, H, W) to slice pixels (B, L, 2).

    Raises:
        ConfigError: If the class cannot be found or an argument is unknown or wrong.
    """
    factory = network_class(spec)
    arguments = {key: value for key, value in spec.items() if key != "_target_"}
    if len(image_size) != 2 or min(image_size) < 1 or not all(len(mean) == 2 for mean in mean_px):
        raise ConfigError(
            f"model: slices have rows and columns and landmarks have x and y, found slices of "
            f"{list(image_size)} pixels and means of {[len(mean) for mean in mean_px]} numbers; "
            "prepare the cohort, or train the model, again"
        )
    try:
        network = factory(image_size=image_size, mean_px=mean_px, **arguments)
    except ConfigError as error:
        raise ConfigError(with_way_out(error)) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"model: {spec['_target_']} refused its arguments ({error}); correct them"
        ) from error
    return network


def network_class(spec: Mapping[str, Any]) -> type[nn.Module]:
    """The class that `_target_` names, after checking that it takes every argument given.

    Raises:
        ConfigError: If there is no such class, or an argument is unknown.
    """
    target = str(spec.get("_target_", ""))
    module, _, name = target.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        package = target.partition(".")[0]
        missing = f"package {package} is not installed; pip install {package}, or "
        raise ConfigError(
            f"model._target_: no network {target!r} can be imported; "
            f"{missing if error.name == package else ''}{_NAME}"
        ) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model._target_: no network {target!r} can be imported; {_NAME}"
        ) from error
    if not (isinstance(factory, type) and issubclass(factory, nn.Module)):
        raise ConfigError(f"model._target_: {target!r} is not a torch module class; {_NAME}")
    known = set(inspect.signature(factory).parameters) - set(GIVEN)
    for nested in spec.values():
        if isinstance(nested, Mapping) and "_target_" in nested:
            network_class(nested)
    for key in set(spec) - known - {"_target_"}:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean model.{near[0]}?" if near else f"keys: {', '.join(sorted(known))}"
        raise ConfigError(f"model.{key}: there is no such setting of {name}; {hint}")
    return factory
