"""From a resolved configuration to typed settings: a closed set of keys, with types checked.

The library takes dataclasses. The shells compose YAML with Hydra, resolve it to plain mappings and
call `settings` once per dataclass; a typing error in a key is refused with the nearest right one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from landmarking.errors import ConfigError

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[1]
"""Root of the checkout, to which relative output folders are anchored."""


def settings(schema: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a settings dataclass from a plain mapping, refusing what it does not know.

    Args:
        schema: A dataclass; fields of dataclass type are built likewise.
        values: Plain mapping, as resolved from YAML; missing keys take the schema's defaults.
        where: Dotted path of `values` in the whole configuration, for the messages.

    Returns:
        An instance of `schema`, with its own checks (`__post_init__`) passed.

    Raises:
        ConfigError: If a key is unknown or missing, or a value has the wrong type.
    """
    _refuse_unknown_keys(schema, values, where)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(dict(values)))
        built = OmegaConf.to_object(merged)
    except ConfigError as error:
        raise ConfigError(with_way_out(error)) from error
    except OmegaConfBaseException as error:
        key = ".".join(part for part in (where, getattr(error, "full_key", "")) if part)
        found = str(error).splitlines()[0]
        raise ConfigError(f"{key or schema.__name__}: {found}; {_CORRECT}") from error
    except (TypeError, ValueError) as error:
        # A schema's own check met a value of a kind that it did not think of.
        raise ConfigError(f"{where or schema.__name__}: {error}; {_CORRECT}") from error
    assert isinstance(built, schema)
    return built


def refuse_outside(key: str, name: str) -> None:
    """Refuse a name of an output folder that would lead out of the outputs.

    Args:
        key: Setting that it was given as.
        name: The name; folders within folders are as good.

    Raises:
        ConfigError: If it is empty or absolute, or leads upwards.
    """
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ConfigError(
            f"{key} names a folder within outputs, found {name!r}; give a plain name, and "
            "outputs=DIR for another place"
        )


_CORRECT = "correct the value; --help and the files in conf/ show what fits"


def with_way_out(error: ConfigError) -> str:
    """Message of a check that says what fits and what was found, and what to do about it."""
    message = str(error)
    return message if "; " in message else f"{message}; {_CORRECT}"


def _refuse_unknown_keys(schema: Any, values: Mapping[str, Any], where: str) -> None:
    known = {field.name for field in fields(schema)}
    hints = get_type_hints(schema)
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            prefix = f"{where}." if where else ""
            hint = (
                f"did you mean {prefix}{near[0]}?" if near else f"keys: {', '.join(sorted(known))}"
            )
            raise ConfigError(f"{path}: there is no such setting; {hint}")
        if is_dataclass(hints[key]) and isinstance(value, Mapping):
            _refuse_unknown_keys(hints[key], value, path)


def register_resolvers() -> None:
    """Let YAML write `${project:outputs}` for a folder of this checkout, from any directory."""
    OmegaConf.register_new_resolver("project", _in_project, replace=True)


def _in_project(relative: str) -> str:
    return str(PROJECT / relative)
