"""Trained models on test groups: their own cohort's after training, or those of another cohort."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmarking.config import settings
from landmarking.data.datamodule import LandmarkDataModule
from landmarking.data.splits import named, people_learnt_from, read_split
from landmarking.errors import CohortError, ConfigError
from landmarking.evaluation.predictions import (
    RunIdentity,
    ScoredScan,
    build_predictions,
    mean_sd,
    read_predictions,
    write_predictions,
)
from landmarking.files import atomic_path, check_sealed, file_sha256, write_text
from landmarking.geometry import Array
from landmarking.models.build import read_checkpoint
from landmarking.models.module import LandmarkModule, predict_points
from landmarking.prediction.package import open_model, packed_path, read_card
from landmarking.preparation.assembly import STATE_COLUMNS, scan_states
from landmarking.preparation.prepare import ensure_prepared
from landmarking.preparation.prepared import PreparedCohort
from landmarking.preparation.sources import CohortConfig
from landmarking.runs import RunFolder, provenance, refuse_losses, run_folders
from landmarking.training.settings import TrainingConfig, upgrade


def cohort_images(cohort: PreparedCohort, chosen: NDArray[np.int64]) -> Tensor:
    """Slices of a cohort, not normalised, shape (n, 1, H, W), float32."""
    return torch.from_numpy(np.array(cohort.images[chosen], dtype=np.float32))[:, None]


def write_results(
    folder: RunFolder,
    cohort: PreparedCohort,
    module: LandmarkModule,
    identity: RunIdentity,
    *,
    groups: Sequence[str],
    mean_px: Array,
) -> None:
    """Predict the test groups; write what became of their scans, pictures, then the predictions.

    Args:
        folder: The run's folder; its predictions.csv comes last and marks the run as finished.
        cohort: Slices and truth.
        module: The trained model.
        identity: What every row says about the run.
        groups: Groups to predict.
        mean_px: Mean training position of each landmark, slice pixels, shape (L, 2).

    Raises:
        CohortError: If a group has no slice.
        LandmarkError: If the cohort lacks one of the model's landmarks.
    """
    chosen = cohort.indices(groups)
    columns = [cohort.landmarks.index(name) for name in module.landmarks]
    predicted = predict_points(module, cohort_images(cohort, chosen))
    records = [(cohort.records[i], cohort.geometry(i)) for i in chosen.tolist()]
    frame = build_predictions(
        identity,
        [ScoredScan(r.group, r.participant_id, r.scan_id, where) for r, where in records],
        module.landmarks,
        true_px=cohort.points_px[chosen][:, columns],
        true_mm=cohort.points_mm[chosen][:, columns],
        predicted_px=predicted.numpy().astype(np.float64),
        mean_px=mean_px,
    )
    pictures = {cohort.records[i].scan_id: as_bytes(cohort.images[i]) for i in chosen.tolist()}
    with atomic_path(folder.slices) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **pictures)
    states = pd.DataFrame(scan_states(cohort, groups), columns=list(STATE_COLUMNS))
    with atomic_path(folder.scans) as temporary:
        states.to_csv(temporary, index=False, lineterminator="\n")
    with atomic_path(folder.predictions) as temporary:
        write_predictions(temporary, frame)
        folder.seal(temporary)


def as_bytes(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A slice for the eye, shape (H, W): 0.5 to 99.5 % of its intensities over 256 levels."""
    low, high = np.percentile(image, [0.5, 99.5])
    scaled = np.clip((np.asarray(image, np.float64) - low) / max(high - low, 1e-9), 0.0, 1.0)
    return np.asarray(np.rint(255.0 * scaled), dtype=np.uint8)


def mean_errors(path: Path) -> Mapping[str, tuple[float, float]]:
    """Mean error and the baseline's mean error in mm, by group, of a predictions.csv."""
    frame = read_predictions(path)
    return {
        str(group): (mean_sd(rows["error_mm"])[0], mean_sd(rows["mean_error_mm"])[0])
        for group, rows in frame.groupby("group", sort=False)
    }


@dataclass
class TransferConfig:
    """What `experiments/evaluate.py` takes.

    Attributes:
        outputs: Folder of all results.
        runs: A run's folder, or a study's with runs in it.
        cohort: The cohort to evaluate on.
        groups: Its groups; None takes its test groups, or all where it has none of these.
        allow_learnt_from: Evaluate on people whom a run has learnt from too; the model's name then
            says so in every table.
        workers: Processes that prepare the cohort; None takes all cores.
        progress: Whether to draw a progress bar meanwhile.
    """

    outputs: str
    runs: str
    cohort: CohortConfig
    groups: list[str] | None = None
    allow_learnt_from: bool = False
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
        """Mean error +- SD and the baseline's error in mm of each model and group, pooled."""
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
                f"(baseline {floor:.2f})"
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
            f"runs: {path} holds no finished run with a model; train one with landmarking train"
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
            f"{folder.model}: its settings and weights make no model; "
            "restore it from a copy, or train the run again"
        ) from error
    return module.eval()


LEARNT_FROM = " (people learnt from)"
"""Added to the name of a model in tables over people whom it has learnt from."""


def _groups(cohort: PreparedCohort, config: TransferConfig) -> list[str]:
    if config.groups is not None:
        return config.groups
    tests = [group for group in config.cohort.test_groups if group in cohort.groups]
    return tests or list(cohort.groups)


def learnt_people(folder: RunFolder, cohort: PreparedCohort, source: CohortConfig) -> set[str]:
    """People of a cohort whom a run, or a run that it started from, trained on or validated by.

    A run's cohort is this one if it has the same folder or the same slices.

    Args:
        folder: A finished run.
        cohort: The prepared cohort.
        source: Where the cohort comes from.

    Returns:
        Participant ids; empty if the run learnt from another cohort.
    """
    trained = read_run_config(folder)
    same_slices = folder.facts().get("cohort_digest") == cohort.digest
    found: set[str] = set()
    if same_slices or Path(trained.cohort.root).resolve() == Path(source.root).resolve():
        check_sealed(folder.path, folder.split.name)
        found = people_learnt_from(read_split(folder.split), cohort)
    before = RunFolder(Path(trained.adapt.start))
    if trained.adapt.start and before.config.exists():
        found |= learnt_people(before, cohort, source)
    return found


def refuse_start(run: Path, data: LandmarkDataModule) -> None:
    """Make sure that a run to start from has not learnt from anybody who is to be tested.

    Args:
        run: Its folder, or a packed model.
        data: What is learnt from and tested on.

    Raises:
        CohortError: If it has.
    """
    folder, cohort = RunFolder(run), data.cohort
    if packed := packed_path(run):
        learnt = {fact.get("cohort_digest") for fact in read_card(packed).get("members", [])}
        if cohort.digest in learnt:
            raise CohortError(
                f"adapt.start: {run} has learnt from cohort {cohort.name}, nobody can tell from "
                "whom of it; start from the folder of a run, or from another model"
            )
    if packed or not folder.config.exists():
        return  # a folder that is no run is refused in words where its weights are read
    tested = {r.participant_id for r in cohort.records if r.group in data.test_groups}
    if seen := tested & learnt_people(folder, cohort, data.source):
        raise CohortError(
            f"adapt.start: {run} has learnt from {named(seen)}, of the test groups "
            f"{', '.join(data.test_groups)}; start from a run that has not, or test other people"
        )


def start_from(module: LandmarkModule, run: Path) -> None:
    """Give a module the weights of a finished run, of a packed model or of the one that ships.

    Raises:
        ConfigError: If there is no such model, or one of another shape.
    """
    if packed_path(run):
        member = open_model((run,)).members[0]
        weights, known = member.network.state_dict(), member.landmarks
    else:
        trained = load_model(RunFolder(run))
        weights, known = trained.network.state_dict(), trained.landmarks
    if known != module.landmarks:
        raise ConfigError(
            f"adapt.start: {run} predicts {', '.join(known)}, and this run "
            f"{', '.join(module.landmarks)}; take the same landmarks"
        )
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
        CohortError: If a group is missing, or somebody in it has been learnt from.
    """
    groups = _groups(cohort, config)
    tested = {cohort.records[i].participant_id for i in cohort.indices(groups)}
    seen = tested & learnt_people(folder, cohort, config.cohort)
    if seen and not config.allow_learnt_from:
        raise CohortError(
            f"{folder.path}: has learnt from {named(seen)} of the groups {', '.join(groups)}; name "
            "others, groups=[...], or take allow_learnt_from=true, which marks the model in tables"
        )
    module = load_model(folder)
    study = f"{trained.study}-on-{cohort.name}"
    target = RunFolder(Path(config.outputs) / study / folder.path.name)
    check_sealed(folder.path, folder.split.name)
    split = read_split(folder.split)
    identity = RunIdentity(
        study=study,
        run=folder.path.name,
        model=trained.model_label + (LEARNT_FROM if seen else ""),
        experiment=trained.experiment,
        seed=trained.seed,
        cohort=cohort.name,
        cohort_digest=cohort.digest,
        simulated=cohort.simulated,
        split_digest=split.digest,
    )
    facts = {**provenance(), "seed": trained.seed, "cohort": cohort.name}
    facts |= {"cohort_digest": cohort.digest, "model": str(folder.model.resolve())}
    facts["model_sha256"] = file_sha256(folder.model)
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
