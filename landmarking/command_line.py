"""What the Hydra shells in experiments/ share: help, typing errors, and one message on bad input.

Hydra composes the configuration; what a person types is looked at before. Help is read from the
YAML files as they are written, comments included, which also answers several times sooner than
composing everything. A group or an option that does not exist is refused with the nearest right
one, and so is a key, by `landmarking.config.settings`.
"""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

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
    # Hydra then leaves every error to us, in place of a traceback for a full disk or a bad file.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with one_message():
        sys.argv[1:] = admit(sys.argv[1:])
        main()


def answer(config: DictConfig, schema: type[T], run: Callable[[T], str | None]) -> None:
    """Check a composed configuration, do what it asks, and print what came out.

    On bad input one message goes to stderr and the exit status is 2. A run of a sweep that fails
    lets the others go on; the sweep ends with status 1.

    Args:
        config: As Hydra composed it.
        schema: Dataclass that names every key.
        run: Does the work; its text is printed, if there is one.
    """
    with _of_a_sweep() if _in_sweep() else one_message():
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        text = run(settings(schema, {str(key): value for key, value in values.items()}))
        if text:
            print(text, flush=True)


def _in_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


@contextmanager
def _of_a_sweep() -> Iterator[None]:
    try:
        with one_message():
            yield
    except SystemExit as stop:
        if stop.code != BAD_INPUT:
            raise
        # Hydra keeps this one until all runs of the sweep are done, and raises it then.
        raise HydraException(OTHERS_WENT_ON) from stop


@contextmanager
def one_message() -> Iterator[None]:
    """On a fault that a person can put right: the message alone, and exit status 2.

    A signal that stops the command is answered with where it goes on, and status 128 plus signal.
    """
    try:
        yield
    except MissingMandatoryValue as error:
        sys.exit(_told(f"{error.full_key}: set it, as in {error.full_key}=DIR"))
    except LandmarkingError as error:
        sys.exit(_told(str(error)))
    except (HydraException, OmegaConfBaseException) as error:
        failed = str(error) == OTHERS_WENT_ON
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else ""
        if isinstance(error, OverrideParseException):
            cause = "correct the command line: GROUP=OPTION or KEY=VALUE"
        sys.exit(_told(f"{error}\n{cause}".strip(), FAILED if failed else BAD_INPUT))
    except OSError as error:
        sys.exit(_told(refused_by_the_system(error)))
    except KeyboardInterrupt:
        sys.exit(_told(STOPPED, 128 + signal.SIGINT))
    except SystemExit as stop:
        # Lightning answers Ctrl-C by leaving with status 1, and not a word.
        if stop.code == 1 and isinstance(stop.__context__, KeyboardInterrupt):
            sys.exit(_told(STOPPED, 128 + signal.SIGINT))
        raise


BAD_INPUT, FAILED = 2, 1
"""Exit statuses: of bad input, and of a sweep in which a run failed."""

STOPPED = "stopped; the same command goes on where it was left"

OTHERS_WENT_ON = (
    "a run of the sweep failed, see its message; the others went on, and the same command does "
    "again what is missing"
)


def refused_by_the_system(error: OSError) -> str:
    """A message for a full disk, a missing permission and the like."""
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror or error}; free space there or mend its permissions, or choose "
        "another outputs=DIR; the same command goes on where it was left"
    )


def _told(message: str, status: int = 2) -> int:
    print(message, file=sys.stderr, flush=True)
    return status


def admit(arguments: Sequence[str]) -> list[str]:
    """Check groups and options, and let mistyped keys reach `settings`, which knows the right ones.

    Hydra refuses a key that is not in the YAML before any of our code runs, and in five lines.
    With `++` ahead it takes every key; whether there is such a setting is then for `settings` to
    say. Sweeps (`seed=0,1`), options and Hydra's own keys are left as they are. What is typed takes
    the place of what an experiment sweeps over; Hydra would do every run once for each old value.

    Args:
        arguments: The command line, without the program.

    Returns:
        Arguments for Hydra.

    Raises:
        ConfigError: If a group or its option does not exist; names the nearest.
    """
    for argument in arguments:
        _check_group(argument)
    admitted = [f"++{argument}" if _sets_a_value(argument) else argument for argument in arguments]
    return [*_rest_of_the_sweep(arguments), *admitted]


def _rest_of_the_sweep(arguments: Sequence[str]) -> list[str]:
    """What an experiment sweeps over and nobody has typed, if somebody has typed a part of it."""
    typed = dict(argument.lstrip("+").split("=", 1) for argument in arguments if "=" in argument)
    swept = _swept(typed.get("experiment", ""))
    if not swept.keys() & typed.keys():
        return []
    rest = (f"{key}={values}" for key, values in swept.items() if key not in typed)
    return ["hydra.sweeper.params=null", *rest]


def _swept(experiment: str) -> dict[str, str]:
    """What an experiment, and those that it builds on, sweep over."""
    path = CONF / "experiment" / f"{experiment}.yaml"
    if not path.is_file():
        return {}
    values: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    found: dict[str, str] = {}
    for entry in values.get("defaults", []):
        if isinstance(entry, str):
            found |= _swept(entry)
    params = values.get("hydra", {}).get("sweeper", {}).get("params", {})
    return found | {str(key): str(value) for key, value in params.items()}


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
    return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}"


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
