"""The `key=value` arguments that every benchmark takes, and its command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from omegaconf import OmegaConf

from landmarking.config import settings
from landmarking.errors import LandmarkingError

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


def main(run: Callable[[list[str]], str]) -> None:
    """Measure what the command line asks for, and print the tables; status 2 on bad input.

    Args:
        run: Takes `key=value` arguments and returns text.
    """
    try:
        text = run(sys.argv[1:])
    except LandmarkingError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if text:
        print(text)
