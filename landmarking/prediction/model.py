"""A trained model that knows all it needs, and one made from training runs without Lightning."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landmarking.config import settings
from landmarking.errors import ConfigError
from landmarking.files import check_sealed, parse_json
from landmarking.geometry import Array
from landmarking.imaging.intensity import Reference, normalise_images
from landmarking.imaging.pipeline import PreprocessSettings, histogram_reference
from landmarking.landmarks import LandmarkSet, landmark_set
from landmarking.prediction.calibration import Calibration, Shape, read_calibration, recorded_shifts
from landmarking.preparation.cache import BASELINE, STAGE_SETTINGS, STAGE_VERSIONS, canonical_json
from landmarking.runs import RunFolder, run_folders

if TYPE_CHECKING:
    from torch import Tensor, nn


VERSION = 1
"""Raised by whoever changes what the same slice and model come to: positions, radii, flags.

`tests/prediction/test_model.py` fails when that was forgotten. Results of another version are made
again, and marked where they lie beside today's.
"""

_AT_ONCE = 32
"""Slices that a network sees together; each is still predicted by itself."""


@dataclass(frozen=True, eq=False)
class Member:
    """One trained network.

    Attributes:
        network: Slices (B, 1, H, W) to slice pixels (B, L, 2), in evaluation mode.
        settings: What it is built from: `network`, `landmarks`, `image_size`, `mean_px` and
            `normalisation`, as a checkpoint's hyperparameters have them.
        facts: Where it comes from: run, seed, epochs, cohort, as far as known.
    """

    network: nn.Module
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def landmarks(self) -> tuple[str, ...]:
        """Names of the landmarks that it predicts, in order."""
        return tuple(self.settings["landmarks"])


@dataclass(frozen=True, eq=False)
class Located:
    """Landmarks on slices.

    Attributes:
        points_px: Slice pixels (x, y), shape (B, L, 2).
        doubt_px: Spread of heatmaps and of members in pixels, shape (B, L); NaN where the model
            has neither.
    """

    points_px: Array
    doubt_px: Array


_FIRST_SETTINGS = (
    *("registration", "slice_size", "crop", "spacing_mm", "normalisation", "midsagittal"),
)
_LATER_SETTINGS = ("intensity",)
"""Settings of slices that came later count in a digest where they are not as they were before."""


@dataclass(frozen=True, eq=False)
class LandmarkModel:
    """Networks with everything that turns a scan into their input and their output into mm.

    Several networks of one landmark are averaged.

    Attributes:
        name: What reports call it.
        landmarks: The landmarks, in the order of all arrays.
        preprocess: Scan to slice.
        reference: What histograms of slices are matched to.
        members: The networks; every landmark is predicted by one or more.
        calibration: Factors from doubt in pixels to radii in mm, or None.
        shape: How landmarks of people lie to one another, or None.
        card: What the model was made of and how well it does, plain values.
        shifts: How many times a network looks at a slice, each time shifted by whole pixels; the
            answers are averaged.
    """

    name: str
    landmarks: LandmarkSet
    preprocess: PreprocessSettings
    reference: Reference
    members: tuple[Member, ...]
    calibration: Calibration | None = None
    shape: Shape | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    shifts: int = 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that decides a position: weights, settings, reference; hexadecimal."""
        digest = hashlib.sha256()
        plain = {
            key: value
            for key, value in asdict(self.preprocess).items()
            if key in _FIRST_SETTINGS or (key in _LATER_SETTINGS and value != BASELINE[key])
        }
        described = [dict(member.settings) for member in self.members]
        looks = [self.shifts] if self.shifts > 1 else []
        parts = [self.landmarks.names, plain, described, *looks]
        digest.update(canonical_json(parts).encode())
        digest.update(self.reference.digest.encode())
        for member in self.members:
            for name, tensor in sorted(member.network.state_dict().items()):
                digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def made_with(self) -> dict[str, Any]:
        """All that decides a result: model, calibration, shape, and versions of our own code."""
        trust = [
            {key: np.asarray(value).tolist() for key, value in vars(part).items()}
            for part in (self.calibration, self.shape)
            if part is not None
        ]
        return {
            "model": self.digest[:16],
            "trust": hashlib.sha256(canonical_json(trust).encode()).hexdigest()[:16],
            "stages": {stage: STAGE_VERSIONS[stage] for stage in STAGE_SETTINGS},
            "prediction": VERSION,
        }

    def locate(self, images: NDArray[np.float32]) -> Located:
        """Find the landmarks on slices, each by itself.

        Networks that were trained with per-batch normalisation see a batch of one.

        Args:
            images: Histogram-matched slices, not normalised, shape (B, H, W).

        Returns:
            Positions and doubt.

        Raises:
            ConfigError: If the slices have another size than the networks were built for.
        """
        looks = [_moved_by(SHIFTS_PX[number], images) for number in range(self.shifts)]
        answers_of = [[_answer(member, look) for look in looks] for member in self.members]
        predicted = [_averaged(answers) for answers in answers_of]
        points = np.full((len(images), len(self.landmarks), 2), np.nan)
        doubt = np.full(points.shape[:2], np.nan)
        for column, name in enumerate(self.landmarks.names):
            answers = [
                (found[:, member.landmarks.index(name)], spread[:, member.landmarks.index(name)])
                for member, (found, spread) in zip(self.members, predicted, strict=True)
                if name in member.landmarks
            ]
            places = np.stack([place for place, _ in answers])
            points[:, column] = places.mean(axis=0)
            doubt[:, column] = _doubt(places, np.stack([spread for _, spread in answers]))
        return Located(points, doubt)


SHIFTS_PX = ((0, 0), (1, 1), (-1, -1), (1, -1), (-1, 1), (2, 0), (0, 2), (-2, 0), (0, -2))
"""Columns and rows that a slice is moved by, one look after the other."""


def _moved_by(shift_px: tuple[int, int], images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Slices moved by whole pixels, to the right and down; what comes in repeats the edge."""
    right, down = shift_px
    wide = np.pad(images, ((0, 0), *((abs(step),) * 2 for step in (down, right))), mode="edge")
    rows, columns = (
        slice(abs(step) - step, abs(step) - step + length)
        for step, length in zip((down, right), images.shape[1:], strict=True)
    )
    return wide[:, rows, columns]


def _averaged(answers: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """One network's places, moved back and averaged, and their spread; see `_answer`."""
    if len(answers) == 1:
        return answers[0]
    places = np.stack(
        [place - np.array(shift) for (place, _), shift in zip(answers, SHIFTS_PX, strict=False)]
    )
    spreads = np.stack([spread for _, spread in answers])
    between = places.var(axis=0).sum(axis=-1)
    within = np.where(np.isfinite(spreads), spreads**2, 0.0).mean(axis=0)
    return places.mean(axis=0), np.sqrt(within + between)


def _doubt(places: Array, spreads: Array) -> Array:
    """Root of the members' mean variance and of the variance between them, shape (B,).

    Args:
        places: Slice pixels of M members, shape (M, B, 2).
        spreads: Spread of their heatmaps in pixels, shape (M, B); NaN where they have none.
    """
    between = places.var(axis=0).sum(axis=-1)
    if len(places) == 1:
        return np.asarray(spreads[0])
    within = np.where(np.isfinite(spreads), spreads**2, 0.0).mean(axis=0)
    return np.asarray(np.sqrt(within + between))


def _answer(member: Member, images: NDArray[np.float32]) -> tuple[Array, Array]:
    """Slice pixels (B, l, 2) and spread in pixels (B, l) of one network, float64."""
    import torch

    height, width = member.settings["image_size"]
    if images.shape[1:] != (height, width):
        raise ConfigError(
            f"the network was trained on slices of {height} x {width} pixels, found "
            f"{images.shape[1]} x {images.shape[2]}; use the preprocess of its own run"
        )
    how = "none" if member.settings["normalisation"] == "none" else "image"
    slices = torch.from_numpy(normalise_images(images, how))[:, None]
    with torch.inference_mode():
        # Few at once, so that memory does not grow with the cohort.
        parts = [points_and_spread(member.network, part) for part in torch.split(slices, _AT_ONCE)]
    points, spread = (torch.cat(part) for part in zip(*parts, strict=True))
    return points.double().numpy(), spread.double().numpy()


def points_and_spread(network: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Ask a network for points and, where it has any, for the spread of its heatmaps.

    Args:
        network: In evaluation mode.
        batch: Normalised slices, shape (B, 1, H, W).

    Returns:
        Slice pixels, shape (B, L, 2), and spread in pixels, shape (B, L), NaN where there is none.
    """
    with_spread: Any = getattr(network, "with_spread", None)
    if with_spread is not None:
        points, spread = with_spread(batch)
        return points, spread
    points = network(batch)
    return points, points[..., 0] * float("nan")


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
    model = replace(model, shifts=recorded_shifts(paths[0]))
    calibration, shape = read_calibration(paths[0], model)
    return replace(model, calibration=calibration, shape=shape)


def trained_runs(path: Path) -> list[RunFolder]:
    """Runs with a model at or one level below a folder, in order of their names.

    Raises:
        ConfigError: If there is none.
    """
    runs = [run for run in run_folders(path) if run.model.is_file() and run.config.is_file()]
    if not runs:
        raise ConfigError(
            f"{path}: no trained run, which has config.yaml and checkpoints/model.ckpt; give the "
            "folder of a finished run or of a study, or train one with landmarking train"
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
        raise ConfigError(f"{folder.model}: not a model of ours; train the run again") from error
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
    from landmarking.models.build import read_checkpoint

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
