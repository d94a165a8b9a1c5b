"""From plain settings or a checkpoint to objects: `_target_` names what makes it.

A new network is one file with a class, or a function, that takes `image_size` and `mean_px`, and
one YAML file that names it; nothing else needs to know.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from importlib.metadata import version
from inspect import isclass, isfunction
from pathlib import Path
from pickle import UnpicklingError  # the error alone: nothing is unpickled here
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from torch import nn

from landmarking.config import current_path, with_current_paths, with_way_out
from landmarking.errors import ConfigError
from landmarking.files import DAMAGED_ARCHIVE, atomic_path

if TYPE_CHECKING:
    import pytorch_lightning as pl


# Objects and their plain descriptions: `_target_` and arguments, as Hydra writes them.
#
# A checkpoint holds plain values only, so that it loads with `weights_only`. What is handed to a
# module as an object (a partial, a dataclass, a function) is kept there as its description, from
# which `build` makes it again.


PLAIN = (str, bool, int, float, type(None))


def describe(value: Any) -> dict[str, Any] | None:
    """Plain description of an object.

    Args:
        value: A description already, a partial of an importable class or function, such a class or
            function itself, or a dataclass instance.

    Returns:
        `_target_` and arguments, with `_partial_` where calling it is left to the receiver; None
        for an object that cannot be made again from plain values, such as a built network.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, partial) and not value.args:
        arguments = {key: _plain(part) for key, part in value.keywords.items()}
        return {"_target_": _path(value.func), **arguments, "_partial_": True}
    if isclass(value) or isfunction(value):
        return {"_target_": _path(value), "_partial_": True}
    if is_dataclass(value) and not isinstance(value, type):
        return {"_target_": _path(type(value)), **_plain(asdict(value))}
    return None


def _path(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, PLAIN):
        return value
    described = describe(value)
    if described is None:
        raise ConfigError(
            f"a {type(value).__name__} is among the arguments of a part of the model, where a "
            "checkpoint keeps plain values; give numbers, texts and lists of them, or the built "
            "object itself"
        )
    return described


def build(value: Any, what: str) -> Any:
    """The object of a description; an object is returned as it is.

    Args:
        value: A mapping with `_target_`, or an object.
        what: Key that it was given as, for messages.

    Raises:
        ConfigError: If there is no such class or function, or it refuses its arguments.
    """
    if not isinstance(value, Mapping):
        return value
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(with_current_paths(value), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError):
            raise cause from error
        found = str(cause or error).strip().splitlines()[0]
        raise ConfigError(
            f"{what}._target_: {value.get('_target_')} cannot be made ({found}); correct {what}"
        ) from error


# From a model's settings to a network: `_target_` names what makes it, the rest are its arguments.
#
# A new network is one file with a class, or a function, that takes `image_size` and `mean_px`, and
# one YAML file that names it; nothing else needs to know. A function says in its annotation that it
# makes a torch module: settings are read from files of other people too, and must not call just
# anything.


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
    target = current_path(str(spec.get("_target_", "")))
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


# Checkpoints as data: whole, ours, and read without running anything that is in them.
#
# Torch does not compare the checksums inside its own archives, so a bit that a disk has lost would
# pass as a weight. They are compared here before anything is read. Loading takes weights and plain
# values only; anything else in a pickle is refused (docs.pytorch.org, "Serialization semantics").


_DAMAGED: tuple[type[Exception], ...] = (
    *DAMAGED_ARCHIVE,
    TypeError,
    AttributeError,
    IndexError,
    UnpicklingError,
)

TO_GO_ON = frozenset({"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"})
"""What a checkpoint holds that a training run goes on from."""


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint as a whole.

    Args:
        path: The file.
        content: Tensors and plain values.

    Raises:
        OSError: If it cannot be written; torch alone would raise another error then.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def save_model(module: pl.LightningModule, path: Path) -> None:
    """Write weights and plain settings, for `LandmarkModule.load_from_checkpoint`."""
    content = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": version("pytorch-lightning"),
    }
    write_checkpoint(path, content)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours on the CPU.

    Raises:
        ConfigError: If it is missing, damaged, holds more than weights and plain values, or is no
            checkpoint of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise ValueError(f"{broken} does not have its checksum")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content["state_dict"], Mapping):
            raise ValueError("it has no weights")
        if not isinstance(content["hyper_parameters"], Mapping):
            raise ValueError("it has no settings")
    except _DAMAGED as error:
        # Torch's own text advises to load without safety; the kind of error is enough.
        raise ConfigError(
            f"{path}: not a model of ours, or a damaged one; restore it "
            "from a copy, or train the run again"
        ) from error
    settings = with_current_paths(content["hyper_parameters"])
    return {**content, "hyper_parameters": settings}


def can_go_on(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a training run can go on from a checkpoint.

    Args:
        path: The checkpoint.
        settings: Hyperparameters of the module that is going to be trained.

    Raises:
        ConfigError: If the checkpoint cannot be read.
    """
    content = read_checkpoint(path)
    return content.keys() >= TO_GO_ON and dict(content["hyper_parameters"]) == dict(settings)
