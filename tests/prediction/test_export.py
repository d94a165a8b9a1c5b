"""Exported graphs say what the model says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from landmarking.errors import ConfigError
from landmarking.prediction import export
from landmarking.prediction.export import SliceToPoints, export_model
from landmarking.prediction.model import model_from_runs

IMAGES = np.random.default_rng(1).normal(5.0, 2.0, (2, 150, 150)).astype(np.float32)


def test_the_graph_pools_averages_and_doubts_as_the_model_does(make_run, dense, tmp_path):
    """Two seeds of two landmarks, one of them with a network of its own kind."""
    make_run(tmp_path / "seed0", names=("AC", "PC"))
    make_run(tmp_path / "seed1", names=("PC", "AC"), seed=1)
    make_run(tmp_path / "seed2", names=("AC",), seed=2, network=dense)
    model = model_from_runs([tmp_path])
    with torch.inference_mode():
        points, doubt = SliceToPoints(model)(torch.from_numpy(IMAGES)[:, None])
    expected = model.locate(IMAGES)
    np.testing.assert_allclose(points.numpy(), expected.points_px, atol=1e-3)
    np.testing.assert_allclose(doubt.numpy(), expected.doubt_px, atol=1e-3)


def test_a_pt2_file_runs_without_our_code_on_any_number_of_slices(model, tmp_path):
    path = tmp_path / "model.pt2"
    assert export_model(model, path) <= 0.01
    graph = torch.export.load(path).module()
    points, _ = graph(torch.from_numpy(IMAGES)[:, None])
    np.testing.assert_allclose(points.detach().numpy(), model.locate(IMAGES).points_px, atol=0.01)
    card = json.loads((tmp_path / "model.pt2.json").read_text())
    assert card["landmarks"] == list(model.landmarks.names)
    assert card["input"]["shape"] == ["batch", 1, 150, 150]


def test_a_graph_that_disagrees_is_not_written(model, tmp_path, monkeypatch):
    def wrong(graph, slices, path):
        path.write_bytes(b"graph")
        return lambda images: (model.locate(images).points_px + 0.02, model.locate(images).doubt_px)

    monkeypatch.setattr(export, "_write_pt2", wrong)
    with pytest.raises(ConfigError, match=r"differs from torch by 0\.0283 mm"):
        export_model(model, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_other_endings_and_missing_packages_are_said(model, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"exported as \.pt2 or \.onnx"):
        export_model(model, tmp_path / "model.pth")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "landmarking\[onnx\]"'):
        export_model(model, tmp_path / "model.onnx")


def test_onnx_agrees_where_it_is_installed(model, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason='needs pip install "landmarking[onnx]"')
    assert export_model(replace(model, name="onnx"), tmp_path / "model.onnx") <= 0.01
