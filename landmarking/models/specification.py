"""Objects and their plain descriptions: `_target_` and arguments, as Hydra writes them.

A checkpoint holds plain values only, so that it loads with `weights_only`. What is handed to a
module as an object (a partial, a dataclass, a function) is kept there as its description, from
which `build` makes it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from functools import partial
from inspect import isclass, isfunction
from typing import Any

from landmarking.errors import ConfigError

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
        return instantiate(dict(value), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError):
            raise cause from error
        found = str(cause or error).strip().splitlines()[0]
        raise ConfigError(
            f"{what}._target_: {value.get('_target_')} cannot be made ({found}); correct {what}"
        ) from error
