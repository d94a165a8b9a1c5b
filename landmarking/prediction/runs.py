"""Models from one's own training runs, read without the training framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from landmarking.config import settings
from landmarking.errors import ConfigError
from landmarking.imaging.pipeline import PreprocessSettings, histogram_reference
from landmarking.landmarks import LandmarkSet, landmark_set
from landmarking.prediction.calibration import read_calibration
from landmarking.prediction.model import LandmarkModel, Member
from landmarking.run_folder import RunFolder, run_folders
from landmarking.seal import check_sealed
from landmarking.storage import parse_json

_PREFIX = "network."


def model_from_runs(paths: Sequence[Path]) -> LandmarkModel:
    """One model of one or more trained runs.

    Runs of different landmarks are pooled, as those of a single-landmark sweep; runs of the same
    landmark, such as those of several seeds, are averaged.

    Args:
        paths: Folders of runs, or folders with runs in them.

    Raises:
        ConfigError: If there is no trained run, a run cannot be read, or the runs do not belong
            together.
        RunError: If a file is not the one that its run has written.
    """
    folders = [folder for path in paths for folder in trained_runs(path)]
    configs = [folder.read_config() for folder in folders]
    _refuse_mixture(folders, configs)
    members = tuple(map(_member, folders, configs))
    preprocess = settings(PreprocessSettings, configs[0].get("preprocess") or {}, "preprocess")
    model = LandmarkModel(
        name=_name(paths, folders),
        landmarks=_landmarks(configs[0], members),
        preprocess=preprocess,
        reference=histogram_reference(preprocess),
        members=members,
    )
    if len(paths) > 1:
        return model
    return replace(model, calibration=read_calibration(paths[0], model))


def trained_runs(path: Path) -> list[RunFolder]:
    """Runs with a model at or one level below a folder, in order of their names.

    Raises:
        ConfigError: If there is none.
    """
    runs = [run for run in run_folders(path) if run.model.is_file() and run.config.is_file()]
    if not runs:
        raise ConfigError(
            f"{path}: no trained run, which has config.yaml and checkpoints/model.ckpt; give the "
            "folder of a finished run or of a study, or train one with experiments/train.py"
        )
    return runs


def _refuse_mixture(folders: Sequence[RunFolder], configs: Sequence[Mapping[str, Any]]) -> None:
    kinds = [_kind(config) for config in configs]
    for what in kinds[0]:
        found = list(dict.fromkeys(str(kind[what]) for kind in kinds))
        if len(found) > 1:
            odd = next(i for i, kind in enumerate(kinds) if str(kind[what]) != found[0])
            raise ConfigError(
                f"{folders[0].path} and {folders[odd].path} differ in {what}: {found[0]} and "
                f"{found[1]}; give runs that belong together, as --model RUN_DIR [RUN_DIR ...]"
            )


def _kind(config: Mapping[str, Any]) -> dict[str, Any]:
    """What runs of one model share."""
    network = dict(config.get("model") or {})
    alone = config.get("landmark") is not None or "member" in network
    preprocess = settings(PreprocessSettings, config.get("preprocess") or {}, "preprocess")
    return {
        "label": config.get("label") or ("SL" if alone else "ML"),
        "landmarks": config.get("landmarks"),
        "preprocess": {k: v for k, v in asdict(preprocess).items() if k != "normalisation"},
    }


def _member(folder: RunFolder, config: Mapping[str, Any]) -> Member:
    checkpoint = _checkpoint(folder)
    keys = ("network", "landmarks", "image_size", "mean_px", "normalisation")
    try:
        described = {key: checkpoint["hyper_parameters"][key] for key in keys}
        weights = {
            name.removeprefix(_PREFIX): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith(_PREFIX)
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{folder.model}: not a model of ours ({error!r}); train the run again"
        ) from error
    return build_member(described, weights, run_facts(folder, config), str(folder.model))


def run_facts(folder: RunFolder, config: Mapping[str, Any]) -> dict[str, Any]:
    """Where a network comes from, as far as the run's own files say.

    Args:
        folder: The run.
        config: Its resolved configuration.
    """
    made = _json(folder.provenance)
    split = _json(folder.split)
    return {
        "run": folder.path.resolve().name,
        "study": config.get("study"),
        "experiment": config.get("experiment"),
        "label": _kind(config)["label"],
        "seed": config.get("seed"),
        "epochs": (config.get("trainer") or {}).get("max_epochs"),
        "cohort": (config.get("cohort") or {}).get("name"),
        "train_groups": (config.get("cohort") or {}).get("train_groups"),
        "augment": config.get("augment"),
        "people": len(split["train"]) if "train" in split else None,
        "cohort_digest": made.get("cohort_digest"),
        "commit": made.get("commit"),
        "hardware": made.get("gpu") or made.get("hardware"),
        "training_wall_s": made.get("training_wall_s"),
    }


def _json(path: Path) -> dict[str, Any]:
    """A file that tells more about a run where it is there."""
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); train the run again") from error
    return values if isinstance(values, dict) else {}


def _checkpoint(folder: RunFolder) -> Mapping[str, Any]:
    # Torch takes seconds to import, which `--help` and wrong arguments need not wait for.
    from landmarking.checkpoints import read_checkpoint

    check_sealed(folder.path, str(folder.model.relative_to(folder.path)))
    return read_checkpoint(folder.model)


def build_member(
    described: Mapping[str, Any], weights: Mapping[str, Any], facts: Mapping[str, Any], where: str
) -> Member:
    """A network with its weights, in evaluation mode; the global random state stays as it is.

    Args:
        described: `Member.settings`.
        weights: Tensors by name, as the network's `state_dict` has them.
        facts: `Member.facts`.
        where: What messages call it.

    Raises:
        ConfigError: If the weights do not fit the settings.
    """
    import torch

    from landmarking.models.build import build_network

    with torch.random.fork_rng(devices=[]):
        network = build_network(
            described["network"],
            image_size=described["image_size"],
            mean_px=described["mean_px"],
        )
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ConfigError(
            f"{where}: the weights do not fit their network ({str(error).splitlines()[0]}); "
            "the code has changed since, or the file is damaged"
        ) from error
    return Member(network.eval(), described, facts)


def _landmarks(config: Mapping[str, Any], members: Sequence[Member]) -> LandmarkSet:
    chosen = config.get("landmarks") or {}
    every = landmark_set(str(chosen.get("set", "msp8")))
    ordered = every.subset(chosen["only"]) if chosen.get("only") else every
    known = {name for member in members for name in member.landmarks}
    return ordered.subset([name for name in ordered.names if name in known])


def _name(paths: Sequence[Path], folders: Sequence[RunFolder]) -> str:
    if len(folders) == 1:
        path = folders[0].path.resolve()
        return f"{path.parent.name}/{path.name}"
    return "+".join(dict.fromkeys(path.resolve().name for path in paths))
