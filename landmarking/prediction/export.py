"""A model's networks as one graph that other programs run, checked when it is written.

`.pt2` is torch's own exported program and needs nothing more; `.onnx` runs without torch and needs
`pip install "landmarking[onnx]"` to be written. Both take histogram-matched slices and normalise
them inside. The scan-to-slice pipeline is not part of the graph; a `.json` beside it says how the
slices are made.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landmarking.data.batches import normalise_batch
from landmarking.errors import ConfigError
from landmarking.files import atomic_path, not_written, write_text
from landmarking.geometry import Array
from landmarking.prediction.model import LandmarkModel, points_and_spread

AGREE_MM = 0.01
"""An exported graph that differs from torch by more is refused."""

_ONNX = ("onnx", "onnxscript", "onnxruntime")

Run = Callable[[NDArray[np.float32]], tuple[Array, Array]]


class SliceToPoints(nn.Module):
    """Slices to points and doubt, as `LandmarkModel.locate` computes them, in one graph."""

    def __init__(self, model: LandmarkModel) -> None:
        """Take the networks of a model.

        Args:
            model: Its members are used as they are, not copied.
        """
        super().__init__()
        self.networks = nn.ModuleList(member.network for member in model.members)
        self.normalisations = [
            "none" if member.settings["normalisation"] == "none" else "image"
            for member in model.members
        ]
        # By landmark: which networks know it, and where.
        self.sources = [
            [
                (number, member.landmarks.index(name))
                for number, member in enumerate(model.members)
                if name in member.landmarks
            ]
            for name in model.landmarks.names
        ]

    def forward(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        """Slices (B, 1, H, W) to slice pixels (B, L, 2) and doubt in pixels (B, L)."""
        answers = [
            points_and_spread(network, normalise_batch(slices, how))
            for network, how in zip(self.networks, self.normalisations, strict=True)
        ]
        points, doubts = [], []
        for source in self.sources:
            places = torch.stack([answers[number][0][:, column] for number, column in source])
            spreads = torch.stack([answers[number][1][:, column] for number, column in source])
            points.append(places.mean(dim=0))
            doubts.append(_doubt(places, spreads))
        return torch.stack(points, dim=1), torch.stack(doubts, dim=1)


def _doubt(places: Tensor, spreads: Tensor) -> Tensor:
    if len(places) == 1:
        return spreads[0]
    between = (places - places.mean(dim=0)).square().mean(dim=0).sum(dim=-1)
    return (spreads.square().nan_to_num(0.0).mean(dim=0) + between).sqrt()


def export_model(model: LandmarkModel, path: Path) -> float:
    """Write a model as a graph and check what is read back against torch.

    Args:
        model: The model.
        path: File ending in `.pt2` or `.onnx`.

    Returns:
        The largest difference of a position in mm.

    Raises:
        ConfigError: If the ending is another, a package is missing, the network cannot be
            exported, or the graph differs by more than 0.01 mm.
    """
    writers = {".pt2": _write_pt2, ".onnx": _write_onnx}
    if path.suffix not in writers:
        raise ConfigError(f"{path}: models are exported as .pt2 or .onnx; choose one of the two")
    if path.suffix == ".onnx":
        _check_onnx()
    graph, slices = SliceToPoints(model).eval(), _example(model)
    try:
        with atomic_path(path) as temporary:
            run = writers[path.suffix](graph, slices, temporary)
            apart_mm = _difference_mm(model, slices, run)
    except OSError as error:
        raise ConfigError(not_written(path, error, "choose another file")) from error
    write_text(path.with_suffix(path.suffix + ".json"), json.dumps(_card(model), indent=1) + "\n")
    return apart_mm


def _check_onnx() -> None:
    missing = [name for name in _ONNX if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f'.onnx needs {", ".join(missing)}; pip install "landmarking[onnx]", or export as .pt2'
        )


def _example(model: LandmarkModel) -> NDArray[np.float32]:
    """Three slices: the template's, and two that differ from it, shape (3, H, W)."""
    from landmarking.imaging.pipeline import finish_slice, template_slice

    template = finish_slice(template_slice(model.preprocess), model.preprocess)
    noise = np.random.default_rng(0).normal(0.0, float(template.std()) / 4, template.shape)
    moved = np.roll(template, (4, -3), axis=(0, 1))
    return np.stack([template, moved, template + noise]).astype(np.float32)


def _write_pt2(graph: nn.Module, slices: NDArray[np.float32], path: Path) -> Run:
    program = _traced(graph, slices)
    # Torch wants a name that ends so; the temporary one does.
    torch.export.save(program, path)
    again = torch.export.load(path).module()

    def run(images: NDArray[np.float32]) -> tuple[Array, Array]:
        with torch.inference_mode():
            points, doubt = again(torch.from_numpy(images)[:, None])
        return points.double().numpy(), doubt.double().numpy()

    return run


def _write_onnx(graph: nn.Module, slices: NDArray[np.float32], path: Path) -> Run:
    import onnxruntime

    program = _traced(graph, slices)
    with _quiet():
        torch.onnx.export(
            program,
            f=path,
            input_names=["slices"],
            output_names=["points_px", "doubt_px"],
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.float32]) -> tuple[Array, Array]:
        points, doubt = session.run(None, {"slices": images[:, None]})
        return np.asarray(points, np.float64), np.asarray(doubt, np.float64)

    return run


def _quiet() -> warnings.catch_warnings[None]:
    # Torch 2.13's exporter calls a part of torch that is on its way out.
    return warnings.catch_warnings(action="ignore", category=FutureWarning)


def _traced(graph: nn.Module, slices: NDArray[np.float32]) -> torch.export.ExportedProgram:
    example = torch.from_numpy(slices)[:, None]
    batch = {0: torch.export.Dim.DYNAMIC}
    try:
        with _quiet():
            return torch.export.export(graph, (example,), dynamic_shapes=(batch,))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the network cannot be exported ({str(error).partition(chr(10))[0]}); use it from "
            "Python"
        ) from error


def _difference_mm(model: LandmarkModel, slices: NDArray[np.float32], run: Run) -> float:
    """The largest difference to torch of a position in mm, on one slice and on several."""
    model = replace(model, shifts=1)  # a graph looks once; whoever calls it may average
    largest = 0.0
    for images in (slices[:1], slices):
        expected = model.locate(images)
        points, doubt = run(images)
        apart = np.linalg.norm(points - expected.points_px, axis=-1).max()
        known = np.isfinite(expected.doubt_px)
        doubt_apart = np.abs(doubt - expected.doubt_px)[known].max(initial=0.0)
        same_unknown = bool((np.isnan(doubt) == ~known).all())
        largest = max(largest, float(apart), float(doubt_apart), 0.0 if same_unknown else np.inf)
    apart_mm = largest * model.preprocess.spacing_mm
    if not apart_mm <= AGREE_MM:
        raise ConfigError(
            f"{model.name}: the exported graph differs from torch by {apart_mm:.4f} mm, more than "
            f"{AGREE_MM}; nothing was written"
        )
    return apart_mm


def _card(model: LandmarkModel) -> dict[str, Any]:
    height, width = model.reference.region.shape
    return {
        "name": model.name,
        "digest": model.digest,
        "input": {
            "name": "slices",
            "shape": ["batch", 1, height, width],
            "what": "histogram-matched mid-sagittal slices, rows inferior, columns posterior",
        },
        "outputs": {
            "points_px": "slice pixels (x, y), by landmark",
            "doubt_px": "spread in pixels, by landmark; NaN where the model has none",
        },
        "landmarks": list(model.landmarks.names),
        "preprocess": asdict(model.preprocess),
        "licence": model.card.get("licence"),
    }
