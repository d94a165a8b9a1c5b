"""From a resolved configuration to typed settings: a closed set of keys, with types checked.

The library takes dataclasses. The shells compose YAML with Hydra, resolve it to plain mappings and
call `settings` once per dataclass; a typing error in a key is refused with the nearest right one.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from landmarking.errors import ConfigError

T = TypeVar("T")

MOVED = {
    "landmarking.callbacks": "landmarking.training.callbacks",
    "landmarking.models.schedule": "landmarking.models.module",
    "landmarking.models.stacked": "landmarking.models.coordinate_cnn",
    "landmarking.tensorboard": "landmarking.training.callbacks",
}
"""Modules whose classes older configurations and checkpoints name, and where these are now."""

PACKAGE = Path(__file__).resolve().parent

INSTALLED = (PACKAGE / "conf").is_dir()
"""Whether this is an installed wheel, which brings conf/ and experiments/ within the package."""

PROJECT = PACKAGE if INSTALLED else PACKAGE.parent
"""What conf/ and experiments/ lie in: the root of the checkout, or the installed package."""

CONF = PROJECT / "conf"


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


NOT_IN_NAMES = (
    *("experiment", "landmark", "seed", "outputs", "study", "run", "run_dir", "label", "variant"),
    *("fold", "folds"),
    *("objective", "threads", "workers", "overwrite", "launcher", "hparams_search", "logger"),
    *("callbacks", "cohort.root", "cohort.test_root", "cohort.parts"),
    "trainer.enable_progress_bar",
    *("trainer.enable_model_summary", "trainer.profiler", "trainer.max_steps", "trainer.max_time"),
    *("trainer.fast_dev_run", "trainer.accelerator", "trainer.devices", "trainer.num_nodes"),
)
"""Keys and groups on the command line, with all below them, that make no run of its own name."""

RUN_DIR = "LANDMARKING_RUN_DIR"
"""Environment variable that tells the other processes of one model its folder."""


def register_resolvers() -> None:
    """Give YAML what it writes as `${project:outputs}`, `${run_name:}`, `${run_dir:}` and so on."""
    for name, resolver in (
        ("project", _in_project),
        ("overrides", _overrides),
        ("one_of_a_sweep", _one_of_a_sweep),
        ("run_name", _run_name),
        ("run_dir", _run_dir),
    ):
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def results_folder(relative: str = "outputs") -> Path:
    """A folder of results: in the checkout, or for an installed command where it was called."""
    return (Path.cwd() if INSTALLED else PROJECT) / relative


def _in_project(relative: str) -> str:
    return str(results_folder(relative))


def _overrides() -> str:
    """What the command line changes, as `optimizer.lr-0.002_augment-none`; fit for a folder."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return ""
    hydra = HydraConfig.get()
    left_out = (*NOT_IN_NAMES, *hydra.job.config.override_dirname.exclude_keys)
    named = []
    for override in OmegaConf.to_container(hydra.overrides.task, resolve=False) or ():
        key = str(override).partition("=")[0].lstrip("+~").partition("@")[0]
        if not any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in left_out):
            named.append(re.sub(r"[^\w.+-]+", "-", str(override)).strip("-"))
    text = "_".join(sorted(named))
    if len(text) <= LONGEST_VARIANT:
        return text
    return hashlib.sha256(text.encode()).hexdigest()[:12]


LONGEST_VARIANT = 120
"""Characters; what is longer becomes a hash."""


def folder_name(
    label: str,
    landmark: str | None,
    seed: int,
    variant: str,
    *,
    stacked: bool = False,
    fold: int | None = None,
) -> str:
    """Name of a run's folder, such as `ml-seed0` or `sl-AC-fold2-seed0_optimizer.lr-0.002`."""
    middle = "-stacked" if stacked else ""
    middle += "" if landmark is None else f"-{landmark}"
    middle += "" if fold is None else f"-fold{fold}"
    return f"{label.lower()}{middle}-seed{seed}" + (f"_{variant}" if variant else "")


def _one_of_a_sweep() -> str:
    raise ConfigError(
        "landmark: this experiment trains one landmark a run and none is named; sweep over "
        "them with -m landmark=AC,PC,ICS,PMJ,CUL,IMS,GENU,SPLE, or name one: landmark=AC"
    )


def _run_name(*, _root_: Any) -> str:
    fold = _root_.get("fold") if _root_.get("folds") else None
    if _root_.run:
        return str(_root_.run) + ("" if fold is None else f"-fold{fold}")
    stacked = str(_root_.model.get("_target_", "")).endswith(".StackedEnsemble")
    single = stacked or _root_.landmark is not None
    label = str(_root_.label or ("SL" if single else "ML"))
    return folder_name(
        label, _root_.landmark, _root_.seed, _root_.variant, stacked=stacked, fold=fold
    )


def _run_dir(*, _root_: Any) -> str:
    if RUN_DIR in os.environ and "LOCAL_RANK" in os.environ:
        return os.environ[RUN_DIR]
    name = _run_name(_root_=_root_)
    refuse_outside("study", str(_root_.study))
    refuse_outside("run", name)
    return str(Path(_root_.outputs) / _root_.study / name)


def current_path(target: str) -> str:
    """The dotted path of a class today, from one that an earlier version may have written."""
    module, _, name = target.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else target


def with_current_paths(values: Any) -> Any:
    """Plain settings with every `_target_` within them as it is called today."""
    if isinstance(values, Mapping):
        return {
            key: current_path(value)
            if key == "_target_" and isinstance(value, str)
            else with_current_paths(value)
            for key, value in values.items()
        }
    return [with_current_paths(value) for value in values] if isinstance(values, list) else values
