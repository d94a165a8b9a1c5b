"""What a run consists of, packed models and configurations, each with a good input."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from mutations import Target
from omegaconf import OmegaConf
from readers import in_place, zipped

from landmarking.config import settings
from landmarking.data.splits import read_split
from landmarking.evaluation.predictions import read_predictions
from landmarking.evaluation.study import Run, load_study
from landmarking.prediction.model import model_from_runs
from landmarking.prediction.package import read_package, write_package
from landmarking.runs import RunFolder
from landmarking.training.evaluate import load_model, read_run_config
from landmarking.training.settings import TrainingConfig


def run_targets(run: Path, work: Path) -> Iterator[Target]:
    """Targets of every reader of a finished run.

    Args:
        run: The run.
        work: An empty folder for what readers need beside the file.
    """
    yield from run_files(run, work)
    yield from packages(run, work)
    yield from configurations(run)


def run_files(run: Path, work: Path) -> Iterator[Target]:
    """What a finished run consists of, without its checksums: the readers stand alone."""
    folder = work / "run"
    shutil.copytree(run, folder)
    (folder / "checksums.txt").unlink(missing_ok=True)
    rows = read_predictions(folder / "predictions.csv")

    def alone() -> Run:
        return Run(folder, rows)

    readers: tuple[tuple[str, Callable[[Path], object], tuple[str, ...]], ...] = (
        ("predictions.csv", lambda f: read_predictions(f / "predictions.csv"), ("text", "bytes")),
        ("predictions.csv", lambda f: load_study(f).frame, ("text",)),
        ("split.json", lambda f: read_split(f / "split.json"), ("json", "text", "bytes")),
        ("config.yaml", lambda f: read_run_config(RunFolder(f)), ("text", "bytes")),
        ("config.yaml", lambda f: alone().config, ("text", "bytes")),
        ("provenance.json", lambda f: alone().provenance, ("json", "text", "bytes")),
        ("history.csv", lambda f: alone().history, ("text", "bytes")),
        ("slices.npz", lambda f: alone().slices, ("bytes",)),
        ("checkpoints/model.ckpt", lambda f: load_model(RunFolder(f)), ("bytes",)),
    )
    for name, read_it, kinds in readers:
        good = (folder / name).read_bytes()
        read = in_place(folder / name, partial(read_it, folder))
        yield Target(f"run: {name}", good, read, Path(name).name, kinds)
    yield Target(
        "run: model.ckpt, hostile settings",
        json.dumps(_hyper_parameters(folder)).encode(),
        _with_settings(folder),
        "h.json",
        ("json",),
    )


def _hyper_parameters(folder: Path) -> dict[str, Any]:
    import torch

    content = torch.load(folder / "checkpoints" / "model.ckpt", weights_only=True)
    return dict(content["hyper_parameters"])


def _with_settings(folder: Path) -> Callable[[Path], object]:
    import torch

    model = folder / "checkpoints" / "model.ckpt"
    whole = model.read_bytes()
    content = torch.load(model, weights_only=True)

    def read(path: Path) -> object:
        torch.save({**content, "hyper_parameters": json.loads(path.read_bytes())}, model)
        try:
            return load_model(RunFolder(folder))
        finally:
            model.write_bytes(whole)

    return read


def packages(run: Path, work: Path) -> Iterator[Target]:
    """A packed model, as a whole and its card."""
    packed = work / "model.zip"
    write_package(packed, model_from_runs([run]), {})
    with zipfile.ZipFile(packed) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    card = members.pop("card.json")
    yield Target("packed model", packed.read_bytes(), read_package, "m.zip", ("bytes",))
    read = zipped(read_package, "card.json", members, ".zip")
    yield Target("packed model: card", card, read, "c.json", ("json", "text"))


def configurations(run: Path) -> Iterator[Target]:
    """A whole configuration of a training run, with wrong keys, types and sizes."""
    plain = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True)

    def check(path: Path) -> object:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            return None
        config = settings(TrainingConfig, values)
        return config.landmarks.build(), config.preprocess.window, config.run_name, config.plain()

    yield Target("configuration", json.dumps(plain).encode(), check, "c.json", ("json",))

    def check_yaml(path: Path) -> object:
        try:
            values = yaml.safe_load(path.read_bytes())
        except (yaml.YAMLError, UnicodeDecodeError, ValueError):
            return None  # Hydra's own message names file and line
        path.write_text(json.dumps(values, default=str))
        return check(path)

    good = yaml.safe_dump(plain).encode()
    yield Target("configuration, as YAML", good, check_yaml, "c.yaml", ("text",))
