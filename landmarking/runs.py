"""One run, one folder: what is in it, what decided it, and whether it may start or go on.

A run is finished when its predictions.csv exists, which is written last. A folder is only ever
continued or skipped by the same configuration on the same slices; anything else is refused.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from landmarking.config import INSTALLED, PROJECT
from landmarking.errors import ConfigError
from landmarking.files import (
    CHECKSUMS,
    check_sealed,
    not_written,
    parse_json,
    remove_leftovers,
    seal,
    write_text,
)

NOT_DECIDING = frozenset(
    {"outputs", "run_dir", "overwrite", "threads", "workers", "logger", "callbacks", "objective"}
)
"""Settings that may differ when a run is started again: they do not touch its numbers."""

LIMITS = ("max_steps", "max_time", "min_epochs", "min_steps")
"""Settings of the trainer that end a run before its last epoch; more of them goes on with it."""

NOT_DECIDING_OF_TRAINER = (
    "enable_progress_bar",
    "enable_model_summary",
    "enable_checkpointing",
    "profiler",
    "log_every_n_steps",
    "num_sanity_val_steps",
    "detect_anomaly",
    *LIMITS,
)


class State(Enum):
    """What a run's folder says about it."""

    NEW = "new"
    STARTED = "started"
    FINISHED = "finished"
    DEBUG = "debug"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def provenance(self) -> Path:
        """Versions, commit, machine and digests."""
        return self.path / "provenance.json"

    @property
    def split(self) -> Path:
        """Who was trained on and who was held out."""
        return self.path / "split.json"

    @property
    def split_table(self) -> Path:
        """The same with those who were tested, as a table for other tools."""
        return self.path / "split.tsv"

    @property
    def history(self) -> Path:
        """Losses, learning rate and test errors by epoch."""
        return self.path / "history.csv"

    @property
    def checkpoints(self) -> Path:
        """Folder of `last.ckpt`, to go on from, and `model.ckpt`, the result."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """Everything that going on needs; removed when the run is finished."""
        return self.checkpoints / "last.ckpt"

    @property
    def model(self) -> Path:
        """The trained model: weights and plain settings."""
        return self.checkpoints / "model.ckpt"

    @property
    def slices(self) -> Path:
        """Test slices as bytes by scan id, for pictures."""
        return self.path / "slices.npz"

    @property
    def scans(self) -> Path:
        """What became of every test scan: done, flagged, or failed before there was a slice."""
        return self.path / "scans.csv"

    @property
    def predictions(self) -> Path:
        """What was predicted; its presence says that the run is finished."""
        return self.path / "predictions.csv"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's logs."""
        return self.path / "tensorboard"

    def begin(
        self,
        config: Mapping[str, Any],
        digest: str,
        facts: Mapping[str, Any],
        *,
        overwrite: bool,
        today: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> State:
        """Make the folder ready, or say that there is nothing to do.

        Args:
            config: The resolved configuration, plain values.
            digest: Digest of the prepared cohort.
            facts: Provenance to write with a new run.
            overwrite: Remove a run of another configuration instead of refusing it; a finished one
                of the same configuration is trained again too.
            today: Brings a configuration of an earlier version under today's keys, with today's
                defaults for those that it lacks.

        Returns:
            `FINISHED` if there is nothing to do, `STARTED` if there is a checkpoint to go on from.

        Raises:
            ConfigError: If the folder holds a run of another configuration or cohort, or cannot be
                written.
            RunError: If a finished run is not as it was left.
        """
        if overwrite:
            self._clear()
        self._check_same(config, digest, today)
        try:
            remove_leftovers(self.path)
            if self.predictions.exists() and self._may_go_on(config):
                # Results of a run that was stopped early: it is no longer finished.
                self.predictions.unlink()
                (self.path / CHECKSUMS).unlink(missing_ok=True)
                write_text(self.config, OmegaConf.to_yaml(OmegaConf.create(dict(config))))
                return State.STARTED if self.last.exists() else State.NEW
            if self.predictions.exists():
                return State.FINISHED
            if self.last.exists():
                return State.STARTED
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_text(self.config, OmegaConf.to_yaml(OmegaConf.create(dict(config))))
            write_text(self.provenance, json.dumps(dict(facts), indent=1) + "\n")
        except OSError as error:
            raise self.not_written(error) from error
        return State.NEW

    def _clear(self) -> None:
        """Remove what a run has left, but for what Hydra has just written for this one."""
        for path in self.path.glob("*"):
            if path.is_dir() and path.name != ".hydra":
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()

    def facts(self) -> dict[str, Any]:
        """The provenance of a run that has begun, plain values."""
        return dict(parse_json(self.provenance.read_text(encoding="utf-8")))

    def _may_go_on(self, config: Mapping[str, Any]) -> bool:
        """Whether a run that was stopped before its last epoch is asked for more."""
        if not self.facts().get("stopped"):
            return False
        before = self.read_config()
        return bool(_limits(before) != _limits(config))

    def not_written(self, error: OSError) -> ConfigError:
        """What to raise where the system refuses to write here."""
        return ConfigError(not_written(self.path, error, "set outputs=DIR to another folder"))

    def read_config(self) -> dict[str, Any]:
        """The resolved configuration that a run was trained with, plain values.

        Raises:
            ConfigError: If it cannot be read.
            RunError: If it is not the one that the run has written.
        """
        check_sealed(self.path, self.config.name)
        try:
            values = OmegaConf.to_container(OmegaConf.load(self.config), resolve=True)
        except (OSError, OmegaConfBaseException, ValueError, YAMLError) as error:
            raise ConfigError(f"{self.config}: cannot be read ({error}); train it again") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{self.config}: holds no settings; train the run again")
        return {str(key): value for key, value in values.items()}

    def note(self, **facts: Any) -> None:
        """Add plain values to the provenance of a run that has begun."""
        write_text(self.provenance, json.dumps({**self.facts(), **facts}, indent=1) + "\n")

    def seal(self, predictions: Path) -> None:
        """Write the checksums of all results, just before the predictions get their name.

        Args:
            predictions: Where the predictions are now.

        Raises:
            OSError: If a file cannot be read or the folder not be written.
        """
        kept = (self.config, self.provenance, self.split, self.history, self.slices, self.scans)
        files = {str(p.relative_to(self.path)): p for p in (*kept, self.model) if p.exists()}
        seal(self.path, {**files, self.predictions.name: predictions})

    def _check_same(
        self,
        config: Mapping[str, Any],
        digest: str,
        today: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        if not (self.predictions.exists() or self.last.exists()):
            return
        if self.predictions.exists():
            names = (self.config, self.provenance, self.predictions)
            check_sealed(self.path, *(path.name for path in names))
        ways_out = "choose another run= or study=, or replace it with overwrite=true"
        try:
            before: Any = OmegaConf.to_container(OmegaConf.load(self.config), resolve=True)
            old_digest = parse_json(self.provenance.read_text(encoding="utf-8"))["cohort_digest"]
            if not isinstance(before, dict):
                raise ValueError(f"config.yaml holds {type(before).__name__}, not settings")
            before = today(before)
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            YAMLError,
            OmegaConfBaseException,
            ConfigError,
        ) as error:
            raise ConfigError(
                f"{self.path}: a run without a readable config.yaml and provenance.json "
                f"({str(error).splitlines()[0]}); {ways_out}"
            ) from error
        changed = differences(_deciding(before), _deciding(config))
        if old_digest != digest:
            changed.append(f"the slices were {old_digest[:12]} and are {digest[:12]}")
        if changed:
            raise ConfigError(
                f"{self.path} holds a run of another configuration: {'; '.join(changed[:5])}; "
                f"{ways_out}"
            )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> list[str]:
    """Settings that differ between two configurations, in words, by dotted key."""
    found = []
    for key in sorted({*old, *new}, key=str):
        path = f"{where}{key}"
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{path}.")
        elif before != after:
            found.append(f"{path} was {before} and is {after}")
    return found


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in NOT_DECIDING}
    trainer = kept.get("trainer") or {}
    kept["trainer"] = {k: v for k, v in trainer.items() if k not in NOT_DECIDING_OF_TRAINER}
    return kept


def _limits(config: Mapping[str, Any]) -> Any:
    """What may end a run early: limits of the trainer, and callbacks that stop."""
    trainer = config.get("trainer") or {}
    stopping = {
        name: node
        for name, node in (config.get("callbacks") or {}).items()
        if any(word in str(node.get("_target_", "")) for word in ("Stopping", "Pruning"))
    }
    return {name: trainer.get(name) for name in LIMITS}, stopping


def run_folders(path: Path) -> list[RunFolder]:
    """Folders that may hold runs: this one, and those one level below, in order of their names."""
    return [RunFolder(folder) for folder in (path, *sorted(path.glob("*/")))]


def refuse_losses(path: Path) -> None:
    """Refuse to overlook a finished run because its predictions are gone or damaged.

    Args:
        path: Searched with all that is below it.

    Raises:
        RunError: If a run's checksums vouch for predictions that are not there.
    """
    for listing in sorted(path.rglob(CHECKSUMS)):
        run = RunFolder(listing.parent)
        # A run that was stopped between the two files is not finished: it will go on.
        if not run.last.exists():
            check_sealed(run.path, run.predictions.name)


def provenance() -> dict[str, Any]:
    """Plain values that say with what, on what and from which source a run was made.

    Returns:
        `commit` and `modified` (None outside a git checkout), `python`, `platform`, `hardware`,
        `command` and `packages`, the installed versions by name.
    """
    commit = None if INSTALLED else _git("rev-parse", "HEAD")
    changes = None if INSTALLED else _git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": commit,
        "modified": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": _hardware(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "packages": _packages(),
    }


def _hardware() -> str:
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            processor = value.strip()
            break
    return f"{os.cpu_count()} x {processor}"


def _packages() -> dict[str, str]:
    # What another process is installing at this moment may not have a name yet.
    found = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    return dict(sorted(found.items()))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed program and arguments
            ["git", *arguments],  # noqa: S607 - whichever git the user has
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@dataclass(frozen=True)
class Listed:
    """One run as `landmarking runs list` shows it.

    Attributes:
        path: Its folder.
        state: `finished`; `stopped`, which goes on from a checkpoint; or `begun`, without one.
        values: Study, model, experiment, landmark, seed, fold; text, empty where unknown.
        epochs: Epochs that are done.
        val_error_mm: Last validation error, or None.
        test_error_mm: Mean error by test group.
        size_mb: Room on disk.
        changed: Seconds since 1970 at which its table or checkpoint was written last.
    """

    path: Path
    state: str
    values: Mapping[str, str]
    epochs: int
    val_error_mm: float | None
    test_error_mm: Mapping[str, float]
    size_mb: float
    changed: float

    def record(self) -> dict[str, Any]:
        """Plain values, one level deep but for the groups."""
        return {
            "path": str(self.path),
            "state": self.state,
            **self.values,
            "epochs": self.epochs,
            "val_error_mm": self.val_error_mm,
            "test_error_mm": dict(self.test_error_mm),
            "size_mb": round(self.size_mb, 3),
            "changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(self.changed)),
        }


LISTED = ("study", "experiment", "landmark", "seed", "fold")
"""Top-level settings that a list shows."""

_TOP_LEVEL = re.compile(rf"^({'|'.join(LISTED)}): (.*)$", re.MULTILINE)

_NO_RUNS = {"cache", "cohorts", "prepared", "report", "tensorboard", "checkpoints", "mlruns"}


def find_runs(root: Path) -> Iterator[RunFolder]:
    """Run folders at any depth, in the order of their names.

    Args:
        root: A folder of results, a study, or a run.
    """
    folders = [root]
    while folders:
        here = folders.pop()
        run = RunFolder(here)
        if run.config.is_file() and run.provenance.is_file():
            yield run
            continue
        try:
            below = [Path(e.path) for e in os.scandir(here) if e.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        kept = (path for path in below if path.name not in _NO_RUNS and path.name[0] != ".")
        folders += sorted(kept, reverse=True)


def listed(run: RunFolder) -> Listed:
    """What a list shows of a run, from its files as they are; nothing is checked.

    Args:
        run: The run.
    """
    text = _read(run.config)
    values = dict.fromkeys(("study", "model", *LISTED[1:]), "")
    values |= {k: "" if v == "null" else v.strip("'\"") for k, v in _TOP_LEVEL.findall(text)}
    model, errors = _table_of(run.predictions)
    values["model"] = model
    epochs, val = _last_row(run.history)
    files = list(_files(run.path))
    marks = [size_time for name, size_time in files if name in ("predictions.csv", "last.ckpt")]
    times = [when for _, when in marks] or [when for _, (_, when) in files]
    state = "finished" if run.predictions.exists() else "stopped" if run.last.exists() else "begun"
    return Listed(
        run.path,
        state,
        values,
        epochs,
        val,
        errors,
        sum(size for _, (size, _) in files) / 1e6,
        max(times, default=0.0),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _table_of(path: Path) -> tuple[str, dict[str, float]]:
    """Model's label and mean error by group, from predictions.csv."""
    rows = csv.reader(io.StringIO(_read(path)))
    header = next(rows, [])
    try:
        group, error, model = (header.index(key) for key in ("group", "error_mm", "model"))
    except ValueError:
        return "", {}
    errors: dict[str, list[float]] = {}
    label = ""
    for row in rows:
        label = row[model]
        known = errors.setdefault(row[group], [])
        if row[error]:
            known.append(float(row[error]))
    return label, {name: sum(each) / len(each) for name, each in errors.items() if each}


def _last_row(path: Path) -> tuple[int, float | None]:
    """Epochs and the last validation error of history.csv."""
    head, *lines = _read(path).splitlines() or [""]
    column = head.split(",").index("validation_error_mm") if "validation_error_mm" in head else -1
    # Numbers alone stand in it, so that a comma parts columns; the last rows are at the end.
    cells = (line.split(",") for line in reversed(lines))
    known = (row[column] for row in cells if 0 <= column < len(row) and row[column])
    last = next(known, None)
    return len(lines), None if last is None else float(last)


def _files(folder: Path) -> Iterator[tuple[str, tuple[int, float]]]:
    """Name, bytes and time of every file below a folder."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        else:
            about = entry.stat(follow_symlinks=False)
            yield entry.name, (about.st_size, about.st_mtime)


def flat_settings(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Settings by dotted key; lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat_settings(value, f"{where}{key}.")
        else:
            found[f"{where}{key}"] = value
    return found


_OF_PLACE = ("outputs", "run_dir", "run", "overwrite", "threads", "workers", "cohort.root")


def differing_settings(runs: Sequence[RunFolder]) -> dict[str, list[Any]]:
    """Settings in which runs differ, those of places apart.

    Args:
        runs: Two or more.

    Returns:
        By dotted key the value of each run; None also where a run has no such setting.

    Raises:
        ConfigError: If a configuration cannot be read.
        RunError: If one is not what the run has written.
    """
    every = [_without_place(run) for run in runs]
    keys = sorted({key for each in every for key in each if key not in _OF_PLACE})
    columns = {key: [each.get(key) for each in every] for key in keys}
    return {key: values for key, values in columns.items() if any(v != values[0] for v in values)}


def _without_place(run: RunFolder) -> dict[str, Any]:
    """Settings by dotted key; in those that name the run's own folder, RUN_DIR stands for it."""
    values = run.read_config()
    place = str(values.get("run_dir") or run.path)
    return {
        key: value.replace(place, "RUN_DIR") if isinstance(value, str) else value
        for key, value in flat_settings(values).items()
    }


def remove_run(path: Path) -> float:
    """Remove a run's folder with all that is in it.

    Args:
        path: Of a run; anything else is refused.

    Returns:
        MB that it held.

    Raises:
        ConfigError: If it is no run, or cannot be removed.
    """
    run = RunFolder(path)
    if not (run.config.is_file() and run.provenance.is_file()):
        raise ConfigError(f"{path}: is no run (config.yaml, provenance.json), and kept; name a run")
    held = sum(size for _, (size, _) in _files(path)) / 1e6
    try:
        # Without its provenance it is no run any more, also if we are stopped half-way.
        run.predictions.unlink(missing_ok=True)
        run.last.unlink(missing_ok=True)
        shutil.rmtree(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be removed whole ({error.strerror or error})") from error
    return held
