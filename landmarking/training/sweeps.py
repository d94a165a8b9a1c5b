"""Hydra's callbacks in sweeps: what is typed wins, the best is found, lost tasks are noticed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

logger = logging.getLogger(__name__)


RESULTS = "optimization_results.yaml"
"""What sweepers that optimise leave in the folder of the sweep."""


class TypedWins(Callback):
    """What is typed takes the place of what an experiment sweeps over; `folds=5` sweeps the folds.

    Hydra would do every run once for each of the experiment's own values.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Drop the experiment's values for keys that the command line names; add the folds."""
        task = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        assert isinstance(task, list)
        typed = OverridesParser.create().parse_overrides([str(override) for override in task])
        keys = {override.get_key_element().lstrip("+~") for override in typed}
        given = OmegaConf.select(config, "hydra.sweeper.params") or {}
        params = dict(given)
        if config.get("folds") and config.get("fold") is None:
            params.setdefault("fold", ",".join(str(fold) for fold in range(config.folds)))
        if OmegaConf.select(config, "hydra.sweeper.storage"):
            # SQLite makes a file, and no folder for it.
            Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in params.items() if key not in keys}
        if kept != dict(given):
            with read_write(config):
                OmegaConf.set_struct(config.hydra.sweeper, False)
                config.hydra.sweeper.params = kept or None


class BestFound(Callback):
    """Says what a sweeper that optimises has found."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the best value and its settings."""
        path = Path(config.hydra.sweep.dir) / RESULTS
        if "Basic" in str(config.hydra.sweeper.get("_target_", "")) or not path.is_file():
            return
        found = OmegaConf.load(path)
        settings = ", ".join(f"{key}={value}" for key, value in found.best_params.items())
        typed = [str(each) for each in config.hydra.overrides.task]
        kept = [each for each in typed if not each.startswith(("study=", "split_seed=", "hparams"))]
        again = " ".join([*kept, *(f"{key}={value}" for key, value in found.best_params.items())])
        value = float(found.best_value)
        sys.stdout.write(
            f"best {config.objective}: {value:.3f} with {settings}; {path}\n"
            "the best of many is better than it will be again; what it is worth on people whom no "
            f"run has been chosen by:\n  landmarking train {again} "
            f"split_seed={int(config.split_seed) + 1} study={config.study}-winner\n"
        )


# A sweep on a SLURM cluster never waits for a task that is gone.
#
# Submitit asks `sacct` for a task's state every ten minutes, and where there is no accounting it
# waits for ever for a task that was cancelled or killed. While a sweep is out, a thread here asks
# `squeue`: a task that is in the queue no more and has left no result gets one that says so, and
# the sweep ends with its message.


_SUBMITTED, _RESULT = "_submitted.pkl", "_0_result.pkl"
_ABSENCES = 3


class LostTasks(Callback):
    """Watches the tasks of a sweep; named under `hydra.callbacks` by conf/launcher/slurm.yaml."""

    def __init__(self, folder: str, every_s: float = 20.0) -> None:
        """Watch nothing yet.

        Args:
            folder: Where submitit keeps the folders of its jobs.
            every_s: Seconds between two looks; a task counts as lost after three.
        """
        self.folder = Path(folder)
        self.every_s = every_s
        self._over = threading.Event()

    def __reduce__(self) -> tuple[type[LostTasks], tuple[str, float]]:
        """The tasks get a copy of every callback: one that watches nothing yet."""
        return type(self), (str(self.folder), self.every_s)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Begin to watch what is submitted from now on."""
        before = set(_tasks(self.folder))
        self._over.clear()
        threading.Thread(target=self._watch, args=(before,), daemon=True).start()

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Leave off."""
        self._over.set()

    def _watch(self, before: set[Path]) -> None:
        absent: dict[Path, int] = {}
        while not self._over.wait(self.every_s):
            open_tasks = [t for t in _tasks(self.folder) if t not in before and not t.exists()]
            queued = queued_tasks({_job(task) for task in open_tasks})
            if queued is None:
                continue
            for task in open_tasks:
                absent[task] = 0 if _name(task) in queued else absent.get(task, 0) + 1
                if absent[task] >= _ABSENCES and not task.exists():
                    write_lost(task)


def _tasks(folder: Path) -> list[Path]:
    """Result files of all submitted tasks, there or not."""
    found = sorted(folder.glob(f"*/*{_SUBMITTED}"))
    return [path.with_name(path.name.removesuffix(_SUBMITTED) + _RESULT) for path in found]


def _name(task: Path) -> str:
    return task.name.removesuffix(_RESULT)


def _job(task: Path) -> str:
    return _name(task).partition("_")[0]


def queued_tasks(jobs: Iterable[str]) -> set[str] | None:
    """Tasks of some jobs that are pending or running, such as `123_4`; None where squeue fails.

    Args:
        jobs: Numbers of jobs.
    """
    found: set[str] = set()
    for job in jobs:
        command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={job}"]
        try:
            done = subprocess.run(  # noqa: S603 - fixed program; the number comes from submitit
                command, capture_output=True, text=True, check=False, timeout=60
            )
        except (OSError, subprocess.SubprocessError) as error:
            logger.warning("squeue cannot be asked (%s)", error)
            return None
        # A job that SLURM has forgotten is an invalid one to it.
        if done.returncode and "Invalid job id" not in done.stderr:
            logger.warning("squeue cannot be asked (%s)", done.stderr.strip())
            return None
        found |= set(done.stdout.split())
    return found


def write_lost(task: Path) -> None:
    """Leave, in a lost task's place, the result that says so.

    Args:
        task: Its result file.
    """
    from submitit.core import utils

    message = (
        f"task {_name(task)} was cancelled or killed before it was done (logs: {task.parent}); "
        "the same command does again what is missing"
    )
    lost = JobReturn(status=JobStatus.FAILED)
    lost.return_value = HydraException(message)
    temporary = task.with_name(f"{task.name}.{os.getpid()}.tmp")
    utils.cloudpickle_dump(("success", lost), temporary)
    temporary.rename(task)
