"""What the Hydra shells in experiments/ share: help, typing errors, and one message on bad input.

Hydra composes the configuration; what a person types is looked at before. Help is read from the
YAML files as they are written, comments included, which also answers several times sooner than
composing everything. A group or an option that does not exist is refused with the nearest right
one, and so is a key, by `landmarking.config.settings`.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from landmarking.config import PROJECT, register_resolvers, settings
from landmarking.errors import ConfigError, LandmarkingError

T = TypeVar("T")

CONF = PROJECT / "conf"


def start(main: Callable[[], Any], name: str) -> None:
    """Run a shell's Hydra function on the command line.

    Args:
        main: The function that `hydra.main` made.
        name: The shell's configuration, conf/NAME.yaml.
    """
    if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
        sys.stdout.write(help_text(name))
        return
    register_resolvers()
    with one_message():
        sys.argv[1:] = admit(sys.argv[1:])
    main()


def answer(config: DictConfig, schema: type[T], run: Callable[[T], str | None]) -> None:
    """Check a composed configuration, do what it asks, and print what came out.

    On bad input one message goes to stderr and the exit status is 2.

    Args:
        config: As Hydra composed it.
        schema: Dataclass that names every key.
        run: Does the work; its text is printed, if there is one.
    """
    with one_message():
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        text = run(settings(schema, {str(key): value for key, value in values.items()}))
        if text:
            print(text)


@contextmanager
def one_message() -> Iterator[None]:
    """On a fault that a person can put right: the message alone, and exit status 2."""
    try:
        yield
    except MissingMandatoryValue as error:
        sys.exit(_told(f"{error.full_key}: set it, as in {error.full_key}=DIR"))
    except LandmarkingError as error:
        sys.exit(_told(str(error)))


def _told(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


def admit(arguments: Sequence[str]) -> list[str]:
    """Check groups and options, and let mistyped keys reach `settings`, which knows the right ones.

    Hydra refuses a key that is not in the YAML before any of our code runs, and in five lines.
    With `++` ahead it takes every key; whether there is such a setting is then for `settings` to
    say. Sweeps (`seed=0,1`), options and Hydra's own keys are left as they are.

    Args:
        arguments: The command line, without the program.

    Returns:
        As many arguments, for Hydra.

    Raises:
        ConfigError: If a group or its option does not exist; names the nearest.
    """
    for argument in arguments:
        _check_group(argument)
    return [f"++{argument}" if _sets_a_value(argument) else argument for argument in arguments]


def _check_group(argument: str) -> None:
    key, equals, value = argument.partition("=")
    group = key.lstrip("+~").partition("@")[0]
    if not equals or group.startswith(("-", "hydra")):
        return
    if not (CONF / group).is_dir():
        if "/" in group:
            raise ConfigError(f"{group}: there is no such group; {_nearest(group, _groups())}")
        return
    for option in value.split(","):
        options = _options(CONF / group)
        if option not in ("null", "", *options):
            raise ConfigError(f"{group}={option}: no such choice; {_nearest(option, options)}")


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _sets_a_value(argument: str) -> bool:
    key, equals, value = argument.partition("=")
    plain = all(part.isidentifier() for part in key.split("."))
    group = (CONF / key).is_dir() or key.startswith("hydra.")
    sweep = "," in value and value[:1] not in "[{'\""
    return bool(equals) and plain and not group and not sweep


def _groups() -> list[str]:
    folders = (path for path in CONF.rglob("*") if path.is_dir())
    return sorted(str(path.relative_to(CONF)) for path in folders)


def _options(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def help_text(name: str) -> str:
    """What a shell takes, from the YAML files.

    Args:
        name: The shell's configuration, conf/NAME.yaml.

    Returns:
        Purpose, groups with their options, experiments, and all keys with defaults and comments.
    """
    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    head, _, rest = text.partition("defaults:\n")
    defaults, _, keys = rest.partition("\n\n")
    lines = [line.removeprefix("# ") for line in head.splitlines()]
    lines += ["", f"usage: python experiments/{name}.py [GROUP=OPTION ...] [KEY=VALUE ...]"]
    lines += _section("Groups:", _group_lines(defaults))
    if "experiment:" in defaults:
        lines += _section("Experiments (experiment=NAME):", _experiment_lines())
    settings_yaml = keys.partition("\nhydra:")[0].rstrip().splitlines()
    lines += _section("Keys, as KEY=VALUE; those of a group as GROUP.KEY=VALUE:", settings_yaml)
    lines += _section("Options:", OPTIONS)
    return "\n".join([*lines, ""])


OPTIONS = (
    "--help      this text",
    "--cfg job   the whole configuration as composed, groups included, and stop",
    "-m          a sweep over values with commas, as in seed=0,1,2",
    "--hydra-help  what else the composing takes",
)


def _section(title: str, lines: Sequence[str] | Iterator[str]) -> list[str]:
    found = [f"  {line}".rstrip() for line in lines]
    return ["", title, *found] if found else []


def _group_lines(defaults: str) -> list[str]:
    chosen = dict(_chosen(defaults))
    names = [
        name
        for name in _groups()
        if name.split("/")[0] in chosen and name != "experiment" and _options(CONF / name)
    ]
    width = max((len(name) for name in names), default=0)
    return [
        f"{name:<{width}}  {', '.join(_marked(_options(CONF / name), chosen.get(name, '')))}"
        for name in names
    ]


def _chosen(defaults: str) -> Iterator[tuple[str, str]]:
    for line in defaults.splitlines():
        group, colon, option = line.strip().removeprefix("- ").partition(":")
        if colon and not group.startswith("override"):
            yield group, option.strip()


def _marked(options: Sequence[str], default: str) -> list[str]:
    return [f"{option} (default)" if option == default else option for option in options]


def _experiment_lines() -> list[str]:
    names = _options(CONF / "experiment")
    width = max(len(name) for name in names)
    return [f"{name:<{width}}  {_purpose(CONF / 'experiment' / f'{name}.yaml')}" for name in names]


def _purpose(path: Path) -> str:
    comments = (
        line.removeprefix("# ")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("# ") and "@package" not in line
    )
    return next(comments, "")
