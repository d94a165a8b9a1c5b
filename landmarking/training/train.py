"""One training run, from a configuration to predictions.csv."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from landmarking.config import RUN_DIR, settings
from landmarking.data.datamodule import LandmarkDataModule
from landmarking.data.splits import write_split, write_split_table
from landmarking.errors import ConfigError
from landmarking.evaluation.predictions import RunIdentity
from landmarking.files import file_lock, not_written
from landmarking.models.build import build, can_go_on, read_checkpoint, save_model
from landmarking.models.module import LandmarkModule
from landmarking.preparation.cache import stage_key
from landmarking.preparation.prepared import PreparedCohort
from landmarking.processes import available_cores, keep_freed_memory
from landmarking.runs import RunFolder, State, provenance
from landmarking.training.callbacks import (
    GroupErrors,
    History,
    ProgressBar,
    RunCheckpoint,
    final_metrics,
    is_debug_run,
    log_final,
)
from landmarking.training.evaluate import mean_errors, refuse_start, start_from, write_results
from landmarking.training.settings import TrainerConfig, TrainingConfig, upgrade

logger = logging.getLogger(__name__)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's banners, and its warnings about choices made here, from the console."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Lightning 2.6 calls a part of torch 2.13 that is on its way out.
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        # Losses are logged by epoch, so the interval between logged steps does not matter.
        warnings.filterwarnings("ignore", "The number of training batches", UserWarning)
        # Slices lie on the device: there is nothing for worker processes to do.
        warnings.filterwarnings("ignore", ".*does not have many workers", UserWarning)
        # On a cluster's login node, or under sbatch without srun: one process is what is wanted.
        warnings.filterwarnings("ignore", "The `srun` command is available", UserWarning)
        # A run that early stopping has ended goes on without it.
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`", UserWarning)
        # A benchmark trains without validation.
        warnings.filterwarnings("ignore", "You defined a `validation_step`", UserWarning)
        yield


__all__ = ["RunResult", "TrainingConfig", "run_training", "train"]


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        folder: Its folder; of a debug run, one that is gone again.
        state: How it was found: `NEW` was trained, `STARTED` resumed, `FINISHED` skipped.
        errors_mm: Mean error and the baseline's (always the mean position), by group.
        metrics: Lightning's metrics at the end.
        objective: Value of the metric that sweepers optimise; NaN where it was not measured.
        stopped: Why training ended before its last epoch, and what goes on with it; empty if not.
    """

    folder: Path
    state: State
    errors_mm: Mapping[str, tuple[float, float]]
    metrics: Mapping[str, float] = field(default_factory=dict)
    objective: float = float("nan")
    stopped: str = ""

    def summary(self) -> str:
        """One line for the console; empty where another process has the results."""
        if self.state is State.DEBUG:
            return "debug run (trainer.fast_dev_run): went through; nothing is kept"
        if not self.errors_mm:
            return ""
        did = {State.NEW: "trained", State.STARTED: "resumed", State.FINISHED: "already finished"}
        groups = ", ".join(
            f"{group} {error:.2f} mm (baseline {floor:.2f})"
            for group, (error, floor) in self.errors_mm.items()
        )
        lines = [f"{self.folder.name}: {did[self.state]}; {groups}; {self.folder}"]
        return "\n".join([*lines, f"  {self.stopped}"] if self.stopped else lines)


def train(config: TrainingConfig) -> RunResult:
    """Prepare the configured cohort where it is not there yet, and run.

    Raises:
        LandmarkingError: As `run_training` does.
    """
    return run_training(config)


def run_training(config: TrainingConfig, cohort: PreparedCohort | None = None) -> RunResult:
    """Train one model and predict the test groups; go on or skip where a run was started before.

    Args:
        config: The run.
        cohort: Its slices, in place of what the configuration names.

    Returns:
        Where the results lie, and the errors.

    Raises:
        ConfigError: If a setting is wrong, or the folder holds another run or cannot be written.
        CohortError: If the cohort cannot be used, or a group or landmark is missing.
        LandmarkError: If the cohort has no such landmark.
    """
    if not config.cohort.test_groups:
        raise ConfigError(
            "cohort.test_groups: a run ends with the errors of at least one test group, found "
            "none; name them, as in cohort.test_groups=[HS,DS]"
        )
    data = config.datamodule()
    if cohort is not None:
        data.use(cohort)
    data.prepare_data()
    data.setup("fit")
    data.cohort.indices(data.test_groups)
    if config.adapt.start:
        refuse_start(Path(config.adapt.start), data)
    if config.trainer.fast_dev_run:
        with tempfile.TemporaryDirectory() as folder:
            _fit(config, data, RunFolder(Path(folder)), resume=False)
        return RunResult(config.folder.path, State.DEBUG, {})
    return _Run(config, data).go()


class _Run:
    """One run in its folder; the trainer knows which of several processes this is."""

    def __init__(self, config: TrainingConfig, data: LandmarkDataModule) -> None:
        self.config, self.data, self.folder = config, data, config.folder
        self.facts: dict[str, Any] = {}

    def go(self) -> RunResult:
        if launched_rank(self.config.trainer):
            return self._take_part()
        try:
            # Equal runs that start together wait for each other, and find the second's work done.
            with file_lock(self._lock()):
                state = self._begin()
                if state is not State.FINISHED:
                    self._train_and_predict(resume=state is State.STARTED)
        except OSError as error:
            again = "set outputs=DIR; with space, the same command goes on from the last checkpoint"
            raise ConfigError(not_written(self.folder.path, error, again)) from error
        facts = self.folder.facts()
        metrics = facts.get("metrics", {})
        return RunResult(
            self.folder.path,
            state,
            mean_errors(self.folder.predictions),
            metrics,
            float(metrics.get(self.config.objective, float("nan"))),
            str(facts.get("stopped", "")),
        )

    def _begin(self) -> State:
        data, config = self.data, self.config
        facts = {**provenance(), "seed": config.seed, "cohort": data.cohort.name}
        facts |= {"cohort_digest": data.cohort.digest, "split_digest": data.split.digest}
        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name()
        return self.folder.begin(
            config.plain(),
            data.cohort.digest,
            facts,
            overwrite=config.overwrite,
            today=lambda values: settings(TrainingConfig, upgrade(values)).plain(),
        )

    def _take_part(self) -> RunResult:
        # One of several processes that train one model: all files are the first one's.
        if self.folder.predictions.exists() and not self.config.overwrite:
            return RunResult(self.folder.path, State.FINISHED, {})
        resume = self.folder.last.exists()
        _fit(self.config, self.data, self.folder, resume=resume)
        return RunResult(self.folder.path, State.STARTED if resume else State.NEW, {})

    def _lock(self) -> Path:
        name = stage_key("run", 1, str(self.folder.path))[:12]
        return Path(self.config.outputs) / "cache" / "locks" / f"run-{name}.lock"

    def _train_and_predict(self, *, resume: bool) -> None:
        started = time.monotonic()
        write_split(self.folder.split, self.data.split)
        cohort, chosen = self.data.cohort, self.data.cohort.indices(self.data.test_groups)
        tested = {cohort.records[index].participant_id for index in chosen}
        fold = self.config.adapt.fold if self.config.adapt.group else None
        write_split_table(self.folder.split_table, self.data.split, tested, fold)
        module, metrics, stopped = _fit(self.config, self.data, self.folder, resume=resume)
        wall = round(time.monotonic() - started, 1)
        self.folder.note(training_wall_s=wall, resumed=resume, metrics=metrics, stopped=stopped)
        write_results(
            self.folder,
            self.data.cohort,
            module,
            self._identity(),
            groups=self.data.test_groups,
            mean_px=self.data.mean_px,
        )
        if not stopped:
            self.folder.last.unlink(missing_ok=True)

    def _identity(self) -> RunIdentity:
        config, data = self.config, self.data
        return RunIdentity(
            study=config.study,
            run=self.folder.path.name,
            model=config.model_label,
            experiment=config.experiment,
            seed=config.seed,
            cohort=data.cohort.name,
            cohort_digest=data.cohort.digest,
            simulated=data.cohort.simulated,
            split_digest=data.split.digest,
        )


def launched_rank(trainer: TrainerConfig) -> int:
    """Rank among processes that were started from outside for one model; 0 if it is the only one.

    Lightning's own environment plugins are asked, and only where the trainer takes more than one
    process: ranks that an outer job has left in the environment are none of ours.

    Args:
        trainer: Settings of the trainer.

    Raises:
        ConfigError: If Lightning refuses the environment.
    """
    if trainer.devices in (1, "1", [0]) and trainer.num_nodes == 1:
        return 0
    for kind in (TorchElasticEnvironment, SLURMEnvironment):
        if kind.detect():
            try:
                return int(kind().global_rank())
            except (RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"trainer.devices: Lightning refuses the job that it is started in ({error}); "
                    "correct the job, or take trainer.devices=1"
                ) from error
    return int(LightningEnvironment().local_rank())


def _fit(
    config: TrainingConfig, data: LandmarkDataModule, folder: RunFolder, *, resume: bool
) -> tuple[LandmarkModule, dict[str, float], str]:
    if config.speed.keep_memory:
        keep_freed_memory()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif "SLURM_CPUS_PER_TASK" in os.environ:
        torch.set_num_threads(available_cores())
    pl.seed_everything(config.seed, verbose=False)
    module = LandmarkModule(
        network=config.model,
        optimizer=config.optimizer,
        schedule=config.schedule,
        loss=config.loss or None,
        channels_last=config.speed.channels_last,
    )
    module.learn_from(data)
    resume = resume and _resumable(folder.last, module)
    if config.adapt.start and not resume:
        start_from(module, Path(config.adapt.start))
    if config.speed.compile:
        module.network.compile(mode=config.speed.compile_mode)
    with quiet(), _known_to_other_processes(folder):
        trainer = _trainer(config, folder, resume=resume)
        # Weights only: a checkpoint is data, and loading one must not run what is put there.
        try:
            trainer.fit(module, data, ckpt_path=folder.last if resume else None, weights_only=True)
        except SIGTERMException:
            # Lightning's own leaves with status 0, as if the run were finished.
            sys.exit(f"{folder.path}: stopped; the same command goes on from the last checkpoint")
    metrics = final_metrics(trainer)
    if trainer.is_global_zero and not is_debug_run(trainer):
        _keep(config, folder, trainer, module, metrics)
    return module, metrics, _stopped(trainer)


def _keep(
    config: TrainingConfig,
    folder: RunFolder,
    trainer: pl.Trainer,
    module: LandmarkModule,
    metrics: Mapping[str, float],
) -> None:
    decisive = ("model", "optimizer", "schedule", "data", "speed", "trainer")
    shown = {key: value for key, value in config.plain().items() if key in decisive}
    shown |= {"model_label": config.model_label, "landmark": config.landmark, "seed": config.seed}
    log_final(trainer.loggers, shown, metrics)
    for sink in trainer.loggers:
        sink.finalize("success")
    save_model(module, folder.model)
    if module.stacked:
        for name in module.landmarks:
            save_model(module.member(name), folder.checkpoints / "members" / f"{name}.ckpt")


def _trainer(config: TrainingConfig, folder: RunFolder, *, resume: bool) -> pl.Trainer:
    callbacks = [build(node, f"callbacks.{name}") for name, node in config.callbacks.items()]
    for kind, make in (
        (GroupErrors, GroupErrors),
        (History, lambda: History(folder.history)),
        (RunCheckpoint, lambda: RunCheckpoint(folder.last)),
    ):
        if not any(isinstance(callback, kind) for callback in callbacks):
            callbacks.append(make())
    has_bar = any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks)
    if config.trainer.enable_progress_bar and not has_bar:
        callbacks.append(ProgressBar())
    if config.trainer.fast_dev_run:
        callbacks = [c for c in callbacks if not isinstance(c, History | RunCheckpoint)]
    sinks = [] if config.trainer.fast_dev_run else _loggers(config, folder, resume=resume)
    try:
        trainer = pl.Trainer(
            **config.trainer.arguments(),
            default_root_dir=folder.path,
            logger=sinks or False,
            callbacks=callbacks,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        found = str(error).splitlines()[0]
        raise ConfigError(
            f"trainer: Lightning refuses what it is given ({found}); correct trainer.*"
        ) from error
    # Taken from the environment at import: an outer job's rank is not this run's.
    rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]
    return trainer


def _loggers(config: TrainingConfig, folder: RunFolder, *, resume: bool) -> list[Any]:
    step = _resumed_step(folder.last) if resume else None
    sinks = []
    for name, node in config.logger.items():
        more = {}
        if step is not None and str(node.get("_target_", "")).endswith(".TensorBoardLogger"):
            # What was logged after the checkpoint is going to be logged again.
            more["purge_step"] = max(step - 1, 0)
        sinks.append(build({**node, **more}, f"logger.{name}"))
    return sinks


def _resumed_step(path: Path) -> int:
    loops: Any = read_checkpoint(path)["loops"]
    return int(loops["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"])


def _stopped(trainer: pl.Trainer) -> str:
    """Why training ended before its last epoch, with the way on; empty if it did not."""
    epochs, most = trainer.current_epoch, trainer.max_epochs or 0
    if is_debug_run(trainer) or epochs >= most:
        return ""
    early = trainer.early_stopping_callbacks
    if any(getattr(callback, "stopped_epoch", 0) for callback in early):
        reason, way = "early stopping", "leave early_stopping out"
    elif any(getattr(callback, "pruned", False) for callback in getattr(trainer, "callbacks", ())):
        reason, way = "pruning", "leave pruning out"
    elif 0 <= trainer.max_steps <= trainer.global_step:
        reason, way = f"trainer.max_steps={trainer.max_steps}", "raise trainer.max_steps"
    else:
        reason, way = "trainer.max_time or a callback", "raise trainer.max_time"
    return (
        f"stopped by {reason} after {epochs} of {most} epochs; {way} and the same command goes on"
    )


@contextmanager
def _known_to_other_processes(folder: RunFolder) -> Iterator[None]:
    """Let processes that Lightning starts for this model find its folder."""
    if RUN_DIR in os.environ:
        yield
        return
    os.environ[RUN_DIR] = str(folder.path)
    try:
        yield
    finally:
        del os.environ[RUN_DIR]


def _resumable(path: Path, module: LandmarkModule) -> bool:
    # Training is repeatable, so that starting anew costs time and changes no number.
    try:
        if can_go_on(path, module.hparams):
            return True
        found = "it belongs to another model"
    except ConfigError as error:
        found = str(error)
    logger.warning("%s cannot be gone on from (%s); training starts anew", path, found)
    return False
