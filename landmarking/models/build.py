"""From a model's settings to a network: `_target_` names what makes it, the rest are its arguments.

A new network is one file with a class, or a function, that takes `image_size` and `mean_px`, and
one YAML file that names it; nothing else needs to know. A function says in its annotation that it
makes a torch module: settings are read from files of other people too, and must not call just
anything.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_type_hints

from torch import nn

from landmarking.config import with_way_out
from landmarking.errors import ConfigError

GIVEN = ("image_size", "mean_px")
"""Arguments that come from the cohort, never from YAML."""


Factory = Callable[..., nn.Module]

_NAME = "name a class or a function as the files in conf/model do"


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
        ConfigError: If the class or function cannot be found or an argument is unknown or wrong.
    """
    factory = network_class(spec)
    arguments = {key: value for key, value in spec.items() if key != "_target_"}
    if len(image_size) != 2 or min(image_size) < 1 or not all(len(mean) == 2 for mean in mean_px):
        raise ConfigError(
            f"model: slices have rows and columns and landmarks have x and y, found slices of "
            f"{list(image_size)} pixels and means of {[len(mean) for mean in mean_px]} numbers; "
            "prepare the cohort, or train the model, again"
        )
    return make(factory, spec, image_size=image_size, mean_px=mean_px, **arguments)


def make(factory: Factory, spec: Mapping[str, Any], **arguments: Any) -> nn.Module:
    """Call what `network_class` found.

    Raises:
        ConfigError: If it refuses its arguments, or what it makes is no torch module.
    """
    try:
        network = factory(**arguments)
    except ConfigError as error:
        raise ConfigError(with_way_out(error)) from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"model: {spec['_target_']} refused its arguments ({error}); correct them"
        ) from error
    if not isinstance(network, nn.Module):
        made = type(network).__name__
        raise ConfigError(f"model: {spec['_target_']} made a {made}, not a torch module; {_NAME}")
    return network


def network_class(spec: Mapping[str, Any]) -> Factory:
    """The class or function that `_target_` names, after checking that it takes every argument.

    Raises:
        ConfigError: If there is no such class or function, or an argument is unknown.
    """
    factory: Factory = _named(spec)
    if not (_is_class(factory) or _says_it_makes_one(factory)):
        raise ConfigError(
            f"model._target_: {spec['_target_']!r} is not a torch module class, nor a function "
            f"annotated with `-> nn.Module`; {_NAME}"
        )
    for nested in spec.values():
        if isinstance(nested, Mapping) and "_target_" in nested:
            network_class(nested)
    known = {key for key in inspect.signature(factory).parameters if takes(factory, key)}
    known -= set(GIVEN)
    for key in set(spec) - known - {"_target_"}:
        if key not in GIVEN and takes(factory, key):
            continue
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean model.{near[0]}?" if near else f"keys: {', '.join(sorted(known))}"
        name = spec["_target_"].rpartition(".")[2]
        raise ConfigError(f"model.{key}: there is no such setting of {name}; {hint}")
    return factory


def takes(factory: Factory, argument: str) -> bool:
    """Whether a class or function can be given an argument by this name."""
    parameters = inspect.signature(factory).parameters
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if argument in parameters and parameters[argument].kind in by_name:
        return True
    return any(found.kind is inspect.Parameter.VAR_KEYWORD for found in parameters.values())


def functions_in(values: Any) -> Iterator[str]:
    """Every `_target_` within settings, however deep, that is not a torch module class.

    Raises:
        ConfigError: If one cannot be imported.
    """
    if isinstance(values, Mapping):
        if "_target_" in values and not _is_class(_named(values)):
            yield str(values["_target_"])
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from functions_in(value)


def _named(spec: Mapping[str, Any]) -> Any:
    target = str(spec.get("_target_", ""))
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
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


def _is_class(factory: Any) -> bool:
    return isinstance(factory, type) and issubclass(factory, nn.Module)


def _says_it_makes_one(factory: Any) -> bool:
    if isinstance(factory, type) or not callable(factory):
        return False
    try:
        made = get_type_hints(factory).get("return")
    except (AttributeError, NameError, TypeError):
        return False
    return isinstance(made, type) and issubclass(made, nn.Module)
