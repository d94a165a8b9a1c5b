"""The `key=value` arguments that every benchmark takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from omegaconf import OmegaConf

from landmarking.config import settings

T = TypeVar("T")


def read_arguments(schema: type[T], arguments: Sequence[str], where: str = "") -> T:
    """Settings of a benchmark from its command line.

    Args:
        schema: Its dataclass.
        arguments: `key=value` for the fields; the rest keeps its default.
        where: Put ahead of a key in messages.

    Raises:
        ConfigError: If a key is unknown or missing, or a value has the wrong type.
    """
    values = OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments)))
    assert isinstance(values, dict)
    return settings(schema, {str(key): value for key, value in values.items()}, where)
