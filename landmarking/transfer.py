"""A finished run or study on another cohort: the same models, slices made the same way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from landmarking.checkpoints import read_checkpoint
from landmarking.cohort.sources import CohortConfig
from landmarking.config import settings
from landmarking.data.prepared import PreparedCohort
from landmarking.data.splits import read_split
from landmarking.errors import ConfigError
from landmarking.evaluation.metrics import mean_sd
from landmarking.evaluation.predictions import RunIdentity, read_predictions
from landmarking.geometry import Array
from landmarking.models.module import LandmarkModule
from landmarking.preparation import ensure_prepared
from landmarking.provenance import provenance
from landmarking.results import write_results
from landmarking.run_folder import RunFolder, refuse_losses, run_folders
from landmarking.seal import check_sealed
from landmarking.storage import write_text
from landmarking.training_config import TrainingConfig, upgrade


@dataclass
class TransferConfig:
    """What `experiments/evaluate.py` takes.

    Attributes:
        outputs: Folder of all results.
        runs: A run's folder, or a study's with runs in it.
        cohort: The cohort to evaluate on.
        groups: Its groups; None takes all.
        workers: Processes that prepare the cohort; None takes all cores.
        progress: Whether to draw a progress bar meanwhile.
    """

    outputs: str
    runs: str
    cohort: CohortConfig
    groups: list[str] | None = None
    workers: int | None = None
    progress: bool = True


@dataclass(frozen=True)
class TransferResult:
    """What an evaluation left behind.

    Attributes:
        folder: Study folder of the new predictions.
        rows: All predictions, with the columns of predictions.csv.
    """

    folder: Path
    rows: pd.DataFrame

    def summary(self) -> str:
        """Mean error +- SD and no-skill error in mm of each model and group, pooled."""
        lines = []
        for (model, group), rows in self.rows.groupby(["model", "group"], sort=False):
            scored = rows.dropna(subset=["error_mm"])
            if scored.empty:
                lines.append(f"{model} on {group}: {len(rows)} predictions, no truth to compare")
                continue
            mean, deviation = mean_sd(scored["error_mm"])
            floor, _ = mean_sd(scored["mean_error_mm"])
            lines.append(
                f"{model} on {group}: {mean:.2f} +- {deviation:.2f} mm over {len(scored)} points "
                f"(no skill {floor:.2f})"
            )
        return "\n".join([*lines, str(self.folder)])


def evaluate_runs(config: TransferConfig) -> TransferResult:
    """Predict another cohort with every finished run of a study.

    The slices are prepared with the settings that the run was trained with.

    Raises:
        ConfigError: If there is no finished run, or a folder cannot be read or written.
        LandmarkingError: As `ensure_prepared` does.
    """
    frames, study = [], Path()
    for folder in finished_runs(Path(config.runs)):
        trained = read_run_config(folder)
        cohort = ensure_prepared(
            config.cohort,
            trained.landmarks.build(),
            trained.preprocess,
            Path(config.outputs),
            workers=config.workers,
            progress=config.progress,
        )
        target = evaluate_run(folder, trained, cohort, config)
        study = target.path.parent
        frames.append(read_predictions(target.predictions))
    return TransferResult(study, pd.concat(frames, ignore_index=True))


def finished_runs(path: Path) -> Sequence[RunFolder]:
    """Finished runs at or one level below a folder, in order of their names.

    Raises:
        ConfigError: If there is none.
    """
    refuse_losses(path)
    runs = [run for run in run_folders(path) if run.predictions.exists()]
    for run in runs:
        check_sealed(run.path, str(run.model.relative_to(run.path)))
    runs = [run for run in runs if run.model.exists()]
    if not runs:
        raise ConfigError(
            f"runs: {path} holds no finished run with a model; train one with experiments/train.py"
        )
    return runs


def read_run_config(folder: RunFolder) -> TrainingConfig:
    """The configuration that a run was trained with.

    Raises:
        ConfigError: If its config.yaml cannot be read or has unknown keys.
        RunError: If it is not the one that the run has written.
    """
    return settings(TrainingConfig, upgrade(folder.read_config()))


def load_model(folder: RunFolder) -> LandmarkModule:
    """A run's trained model on the CPU, in evaluation mode.

    Raises:
        ConfigError: If the checkpoint is missing, damaged or no model of ours.
        RunError: If it is not the one that the run has written.
    """
    check_sealed(folder.path, str(folder.model.relative_to(folder.path)))
    content = read_checkpoint(folder.model)
    try:
        module = LandmarkModule(**content["hyper_parameters"])
        module.load_state_dict(content["state_dict"])
    except (ConfigError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{folder.model}: its settings and weights make no model ({type(error).__name__}); "
            "restore it from a copy, or train the run again"
        ) from error
    return module.eval()


def start_from(module: LandmarkModule, run: Path) -> None:
    """Give a module the weights of a finished run.

    Raises:
        ConfigError: If the run has no model, or one of another shape.
    """
    weights = load_model(RunFolder(run)).network.state_dict()
    try:
        module.network.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(
            f"adapt.start: the model of {run} does not fit; take its model, landmarks and "
            f"preprocess ({str(error).splitlines()[0]})"
        ) from error


def evaluate_run(
    folder: RunFolder, trained: TrainingConfig, cohort: PreparedCohort, config: TransferConfig
) -> RunFolder:
    """Predict a prepared cohort with one run; returns the folder of the new predictions.

    Raises:
        ConfigError: If the new folder cannot be written, or the slices have another size.
        CohortError: If a group is missing.
    """
    module = load_model(folder)
    study = f"{trained.study}-on-{cohort.name}"
    target = RunFolder(Path(config.outputs) / study / folder.path.name)
    check_sealed(folder.path, folder.split.name)
    split = read_split(folder.split)
    identity = RunIdentity(
        study=study,
        run=folder.path.name,
        model=trained.model_label,
        experiment=trained.experiment,
        seed=trained.seed,
        cohort=cohort.name,
        cohort_digest=cohort.digest,
        simulated=cohort.simulated,
        split_digest=split.digest,
    )
    facts = {**provenance(), "seed": trained.seed, "cohort": cohort.name}
    facts |= {"cohort_digest": cohort.digest, "model": str(folder.model)}
    groups = cohort.groups if config.groups is None else config.groups
    mean_px: Array = module.mean_px
    try:
        target.path.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder.config, target.config)
        shutil.copy(folder.split, target.split)
        write_text(target.provenance, json.dumps(facts, indent=1) + "\n")
        write_results(target, cohort, module, identity, groups=groups, mean_px=mean_px)
    except OSError as error:
        raise target.not_written(error) from error
    return target
