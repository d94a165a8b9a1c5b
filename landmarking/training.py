"""One training run, from a configuration to predictions.csv."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.exceptions import SIGTERMException

from landmarking.callbacks import GroupEvaluation, History, RunCheckpoint, TestGroup
from landmarking.checkpoints import can_go_on, save_model
from landmarking.data.adaptation import adapted
from landmarking.data.augment import build_augmentation
from landmarking.data.cache import stage_key
from landmarking.data.datamodule import LandmarkDataModule
from landmarking.data.prepared import PreparedCohort
from landmarking.data.splits import write_split
from landmarking.errors import ConfigError
from landmarking.evaluation.predictions import RunIdentity
from landmarking.memory import keep_freed_memory
from landmarking.models.module import LandmarkModule, OptimizerConfig
from landmarking.models.schedule import ScheduleConfig
from landmarking.preparation import ensure_prepared
from landmarking.processes import available_cores, this_rank
from landmarking.provenance import provenance
from landmarking.quiet import quiet
from landmarking.results import cohort_images, mean_errors, write_results
from landmarking.run_folder import RunFolder, State
from landmarking.storage import file_lock, not_written
from landmarking.tensorboard import Pictures, log_final
from landmarking.training_config import TrainingConfig
from landmarking.transfer import start_from

__all__ = ["RunResult", "TrainingConfig", "run_training", "train"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        folder: Its folder.
        state: How it was found: `NEW` was trained, `STARTED` resumed, `FINISHED` skipped.
        errors_mm: Mean error and mean error without skill, by group.
    """

    folder: Path
    state: State
    errors_mm: Mapping[str, tuple[float, float]]

    def summary(self) -> str:
        """One line for the console; empty where another process has the results."""
        if not self.errors_mm:
            return ""
        did = {State.NEW: "trained", State.STARTED: "resumed", State.FINISHED: "already finished"}
        groups = ", ".join(
            f"{group} {error:.2f} mm (no skill {floor:.2f})"
            for group, (error, floor) in self.errors_mm.items()
        )
        return f"{self.folder.name}: {did[self.state]}; {groups}; {self.folder}"


def run_training(config: TrainingConfig, cohort: PreparedCohort) -> RunResult:
    """Train one model and predict the test groups; go on or skip where a run was started before.

    Args:
        config: The run.
        cohort: Its prepared cohort.

    Returns:
        Where the results lie and the mean errors.

    Raises:
        ConfigError: If a setting is wrong, or the folder holds another run or cannot be written.
        CohortError: If a group or landmark is missing.
        LandmarkError: If the cohort has no such landmark.
    """
    folder = config.folder
    cohort = adapted(cohort, config.adapt)
    names = cohort.landmarks.names if config.landmark is None else (config.landmark,)
    data = LandmarkDataModule(
        cohort,
        landmarks=names,
        train_groups=config.cohort.train_groups,
        batches=config.batches,
        normalisation=config.preprocess.normalisation,
        seed=config.seed,
        augmentation=build_augmentation(
            config.augment,
            seed=config.seed,
            landmarks=cohort.landmarks,
            names=names,
            preprocess=config.preprocess,
            image_size=(cohort.images.shape[1], cohort.images.shape[2]),
            cohort=cohort,
        ),
    )
    cohort.indices(config.cohort.test_groups)
    facts = {**provenance(), "seed": config.seed, "cohort": cohort.name}
    facts |= {"cohort_digest": cohort.digest, "split_digest": data.split.digest}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    if this_rank():
        return _take_part(config, data)
    try:
        # Equal runs that start together wait for each other, and find the second's work done.
        with file_lock(_lock(config)):
            state = folder.begin(config.plain(), cohort.digest, facts, overwrite=config.overwrite)
            if state is not State.FINISHED:
                _train_and_predict(config, data, folder, resume=state is State.STARTED)
    except OSError as error:
        again = "set outputs=DIR; with space, the same command goes on from the last checkpoint"
        raise ConfigError(not_written(folder.path, error, again)) from error
    return RunResult(folder.path, state, mean_errors(folder.predictions))


def _take_part(config: TrainingConfig, data: LandmarkDataModule) -> RunResult:
    # One of several processes that train one model: all files are the first one's.
    folder = config.folder
    if folder.predictions.exists() and not config.overwrite:
        return RunResult(folder.path, State.FINISHED, {})
    resume = folder.last.exists()
    _fit(config, data, folder, resume=resume)
    return RunResult(folder.path, State.STARTED if resume else State.NEW, {})


def _lock(config: TrainingConfig) -> Path:
    name = stage_key("run", 1, config.study, config.run_name)[:12]
    return Path(config.outputs) / "cache" / "locks" / f"run-{name}.lock"


def _train_and_predict(
    config: TrainingConfig, data: LandmarkDataModule, folder: RunFolder, *, resume: bool
) -> None:
    started = time.monotonic()
    write_split(folder.split, data.split)
    module = _fit(config, data, folder, resume=resume)
    folder.note(training_wall_s=round(time.monotonic() - started, 1), resumed=resume)
    write_results(
        folder,
        data.cohort,
        module,
        _identity(config, data),
        groups=config.cohort.test_groups,
        mean_px=data.mean_px,
    )
    folder.last.unlink(missing_ok=True)


def _identity(config: TrainingConfig, data: LandmarkDataModule) -> RunIdentity:
    return RunIdentity(
        study=config.study,
        run=config.run_name,
        model=config.model_label,
        experiment=config.experiment,
        seed=config.seed,
        cohort=data.cohort.name,
        cohort_digest=data.cohort.digest,
        simulated=data.cohort.simulated,
        split_digest=data.split.digest,
    )


def _fit(
    config: TrainingConfig, data: LandmarkDataModule, folder: RunFolder, *, resume: bool
) -> LandmarkModule:
    if config.speed.keep_memory:
        keep_freed_memory()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif "SLURM_CPUS_PER_TASK" in os.environ:
        torch.set_num_threads(available_cores())
    pl.seed_everything(config.seed, verbose=False)
    module = LandmarkModule(
        network=config.model,
        landmarks=list(data.landmarks),
        image_size=list(data.cohort.images.shape[1:]),
        mean_px=data.mean_px.tolist(),
        normalisation=data.normalisation,
        optimizer=_plain_fields(config.optimizer),
        schedule=_plain_fields(config.schedule),
        channels_last=config.speed.channels_last,
    )
    resume = resume and _resumable(folder.last, module)
    if config.adapt.start and not resume:
        start_from(module, Path(config.adapt.start))
    if config.speed.compile:
        module.network.compile(mode=config.speed.compile_mode)
    evaluation = GroupEvaluation(_test_groups(config, data), config.callbacks)
    callbacks: list[pl.Callback] = [
        evaluation,
        History(folder.history, evaluation, config.callbacks),
        Pictures(evaluation.groups, config.callbacks, data.cohort.landmarks.names),
        RunCheckpoint(folder.last, config.callbacks.checkpoint_every),
    ]
    with quiet():
        try:
            trainer = pl.Trainer(
                **config.trainer,
                default_root_dir=folder.path,
                logger=_tensorboard(config, folder),
                callbacks=callbacks,
                num_sanity_val_steps=0,
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            found = str(error).splitlines()[0]
            raise ConfigError(
                f"trainer: Lightning refuses what it is given ({found}); correct trainer.*"
            ) from error
        # Weights only: a checkpoint is data, and loading one must not run what is put there.
        try:
            trainer.fit(module, data, ckpt_path=folder.last if resume else None, weights_only=True)
        except SIGTERMException:
            # Lightning's own leaves with status 0, as if the run were finished.
            sys.exit(f"{folder.path}: stopped; the same command goes on from the last checkpoint")
    if this_rank():
        return module
    decisive = ("model", "optimizer", "schedule", "batches", "speed", "trainer")
    shown = {key: value for key, value in config.plain().items() if key in decisive}
    shown |= {"model_label": config.model_label, "landmark": config.landmark, "seed": config.seed}
    log_final(trainer.loggers, shown, evaluation.latest)
    save_model(module, folder.model)
    if module.stacked:
        for name in module.landmarks:
            save_model(module.member(name), folder.checkpoints / "members" / f"{name}.ckpt")
    return module


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


def _plain_fields(config: OptimizerConfig | ScheduleConfig) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


def _tensorboard(config: TrainingConfig, folder: RunFolder) -> Any:
    if not config.logger.tensorboard:
        return False
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(folder.path, name="", version="tensorboard", default_hp_metric=False)


def _test_groups(config: TrainingConfig, data: LandmarkDataModule) -> tuple[TestGroup, ...]:
    cohort = data.cohort
    groups = []
    for name in config.cohort.test_groups:
        chosen = cohort.indices([name])
        images = cohort_images(cohort, chosen)
        metric = np.array([cohort.geometry(int(index)).px_to_mm for index in chosen])
        points = np.asarray(cohort.points_px[chosen][:, data.columns])
        groups.append(TestGroup(name, images, points, metric))
    return tuple(groups)


def train(config: TrainingConfig) -> RunResult:
    """Prepare the configured cohort where it is not there yet, and run.

    Raises:
        LandmarkingError: As `ensure_prepared` and `run_training` do.
    """
    cohort = ensure_prepared(
        config.cohort,
        config.landmarks.build(),
        config.preprocess,
        Path(config.outputs),
        workers=config.workers,
    )
    return run_training(config, cohort)
