"""What the Hydra shells in experiments/ share: help, typing errors, and one message on bad input.

Hydra reads the command line and composes the configuration; nothing is done to what a person
types. Help is read from the YAML files as they are written, comments included, which also answers
several times sooner than composing everything. What Hydra refuses is said in one line, with the
nearest right word.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from landmarking.cli import plain_environment
from landmarking.config import CONF, register_resolvers, settings
from landmarking.errors import LandmarkingError

T = TypeVar("T")
R = TypeVar("R")

SCHEMAS = {
    "train": "landmarking.training.settings.TrainingConfig",
    "prepare": "landmarking.preparation.prepare.PrepareConfig",
    "evaluate": "landmarking.training.evaluate.TransferConfig",
    "report": "landmarking.evaluation.report.ReportConfig",
    "framework": "landmarking.shape.framework.FrameworkConfig",
}
"""Dataclasses that name every key of a shell; imported when they are needed."""


def register(name: str) -> None:
    """Give Hydra what conf/NAME.yaml builds on: our resolvers, and the schema NAME_schema.

    Args:
        name: The shell's configuration.
    """
    register_resolvers()
    module, _, schema = SCHEMAS[name].rpartition(".")
    node = getattr(importlib.import_module(module), schema)
    ConfigStore.instance().store(name=f"{name}_schema", node=node)


def start(main: Callable[[], Any], name: str) -> None:
    """Run a shell's Hydra function on the command line.

    The command line itself is Hydra's, word for word. Beside that there is help that answers at
    once, the schema that closes the set of keys, and one line where Hydra refuses something.

    Args:
        main: The function that `hydra.main` made.
        name: The shell's configuration, conf/NAME.yaml.
    """
    plain_environment()
    sys.argv[1:] = _own_configuration(sys.argv[1:])
    if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
        sys.stdout.write(help_text(name))
        return
    # Hydra then leaves every error to us, in place of a traceback for a full disk or a bad file.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with one_message(name):
        register(name)
        main()


def _own_configuration(typed: Sequence[str]) -> list[str]:
    """The command line with a relative folder after --config-path or -cp made absolute.

    Hydra takes it from the script's place, which whoever calls an installed command cannot know.
    """
    words = list(typed)
    for number, word in enumerate(words):
        option, equals, folder = word.partition("=")
        if option not in ("--config-path", "-cp"):
            continue
        if equals and Path(folder).is_dir():
            words[number] = f"{option}={Path(folder).absolute()}"
        elif not equals and number + 1 < len(words) and Path(words[number + 1]).is_dir():
            words[number + 1] = str(Path(words[number + 1]).absolute())
    return words


def answer(config: DictConfig, schema: type[T], run: Callable[[T], R]) -> R:
    """Check a composed configuration, do what it asks, and print what came out.

    On bad input one message goes to stderr and the exit status is 2. A run of a sweep that fails
    lets the others go on; the sweep ends with status 1.

    Args:
        config: As Hydra composed it.
        schema: Dataclass that names every key.
        run: Does the work; its text, or the summary of its result, is printed.

    Returns:
        What `run` returns.
    """
    with _of_a_sweep() if _in_sweep() else one_message(), _nothing_empty():
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        result = run(settings(schema, {str(key): value for key, value in values.items()}))
        text = result.summary() if hasattr(result, "summary") else result
        if text:
            print(text, flush=True)
        if getattr(result, "status", 0):
            # What was left out is said; scripts and sweeps see it by the status.
            if _in_sweep():
                raise HydraException(OTHERS_WENT_ON)
            sys.exit(FAILED)
    return result


@contextmanager
def _nothing_empty() -> Iterator[None]:
    """Take away the folder that Hydra has made where nothing else was put into it."""
    try:
        yield
    finally:
        if HydraConfig.initialized():
            folder = Path(HydraConfig.get().runtime.output_dir)
            if [path.name for path in folder.glob("*")] == [".hydra"]:
                shutil.rmtree(folder, ignore_errors=True)


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
def one_message(name: str = "train") -> Iterator[None]:
    """On a fault that a person can put right: the message alone, and exit status 2.

    A signal that stops the command is answered with where it goes on, and status 128 plus signal.

    Args:
        name: The shell's configuration, conf/NAME.yaml.
    """
    try:
        yield
    except MissingMandatoryValue as error:
        sys.exit(_told(f"{error.full_key}: set it, as in {error.full_key}=DIR"))
    except LandmarkingError as error:
        sys.exit(_told(str(error)))
    except (HydraException, OmegaConfBaseException) as error:
        if str(error) == OTHERS_WENT_ON:
            sys.exit(_told(OTHERS_WENT_ON, FAILED))
        ours = next((e for e in _causes(error) if isinstance(e, LandmarkingError)), None)
        sys.exit(_told(str(ours) if ours else hydras_words(error, name)))
    except OSError as error:
        sys.exit(_told(refused_by_the_system(error)))
    except ValueError as error:
        if not str(error).startswith("Config group override must be"):
            raise
        sys.exit(_told("GROUP=OPTION names a file of conf/GROUP, a word and no number; correct it"))
    except KeyboardInterrupt:
        sys.exit(_told(STOPPED, 128 + signal.SIGINT))
    except SystemExit as stop:
        # Lightning answers Ctrl-C by leaving with status 1, and not a word.
        if stop.code == 1 and isinstance(stop.__context__, KeyboardInterrupt):
            sys.exit(_told(STOPPED, 128 + signal.SIGINT))
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


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


def hydras_words(error: Exception, name: str) -> str:
    """One line for what Hydra refuses, with the nearest right word.

    Args:
        error: Hydra's or OmegaConf's.
        name: The shell's configuration, conf/NAME.yaml.
    """
    text = "\n".join(str(cause) for cause in _causes(error))
    if isinstance(error, OverrideParseException):
        return (
            f"{text.splitlines()[0].partition(': ')[2]}: the command line takes GROUP=OPTION or "
            "KEY=VALUE; quote a value with spaces, =, ~ or letters beyond ASCII twice, "
            "as in 'KEY=\"VALUE\"'"
        )
    if option := re.search(r"Could not (?:find|load) '(\S+)/(\S+)'", text):
        group, choice = option.groups()
        choices = re.findall(r"^\t(\S+)$", text, re.MULTILINE) or _options(CONF / group)
        return f"{group}={choice}: no such choice; {_nearest(choice, choices)}"
    if group := re.search(r"Could not override '(\S+/\S+?)'\.", text):
        return f"{group[1]}: there is no such group; {_nearest(group[1], _groups())}"
    key = re.search(r"^ *full_key: (\S+)", text, re.MULTILINE)
    first = text.splitlines()[0]
    if key and re.search(r"Key '.+' (is )?not in", text):
        added = "; +KEY=VALUE adds one that a class takes and its file leaves out"
        where = f" ({first.partition(':')[0]})" if first.startswith("In '") else ""
        hint = _nearest(key[1], _known_keys(name), listed=False)
        return f"{key[1]}: there is no such setting{where}; {hint}{added}"
    if key and first.startswith(f"Error merging override {key[1]}="):
        value = first.partition("=")[2]
        if "is not a ListConfig" in text:
            return f"{key[1]} takes a list, found {value}; write '{key[1]}=[{value}]'"
        why = next((line for line in text.splitlines() if line.startswith("Value ")), "")
        return f"{key[1]}: {why or f'cannot be {value}'}; correct the value"
    if key:
        value = next((line for line in text.splitlines() if line.startswith("Value ")), first)
        return f"{key[1]}: {value}; correct the value"
    return str(error)


def _known_keys(name: str) -> list[str]:
    """Keys of a shell as the YAML files and its schema have them, dotted."""
    known: set[str] = set()
    for path in (CONF / f"{name}.yaml", *CONF.glob("*/*.yaml"), *CONF.glob("*/*/*.yaml")):
        group = path.parent.relative_to(CONF)
        if group.parts[:1] in (("experiment",), ("launcher",), ("hparams_search",)):
            continue
        values: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        known |= set(_dotted(values, ".".join(group.parts)))
    schema = ConfigStore.instance().repo.get(f"{name}_schema.yaml")
    if schema is not None:
        known |= set(_dotted(OmegaConf.to_container(schema.node, resolve=False)))
    return sorted(known)


def _dotted(values: Any, where: str = "") -> Iterator[str]:
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        if key not in ("defaults", "hydra"):
            path = f"{where}.{key}" if where else str(key)
            yield path
            yield from _dotted(value, path)


def _nearest(word: str, known: Sequence[str], *, listed: bool = True) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"choose one of {', '.join(known)}" if listed else "--help lists them"


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
    lines += ["", f"usage: landmarking {name} [GROUP=OPTION ...] [KEY=VALUE ...]"]
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
