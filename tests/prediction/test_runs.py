"""Which runs make one model, and what is said of those that do not."""

import pytest

from landmarking.errors import ConfigError
from landmarking.prediction.models import open_model
from landmarking.prediction.runs import model_from_runs, trained_runs


def test_a_folder_without_runs_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no trained run"):
        trained_runs(tmp_path)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"landmark": "AC", "names": ("AC",)}, "differ in label: ML and SL"),
        ({"preprocess": {"registration": "affine"}}, "differ in preprocess"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(second, message, make_run, tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", **second)
    with pytest.raises(ConfigError, match=message):
        model_from_runs([tmp_path])
    assert len(model_from_runs([tmp_path / "b"]).members) == 1


def test_damaged_runs_are_said(make_run, tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "config.yaml").write_text("preprocess: {registation: rigid}")
    with pytest.raises(ConfigError, match=r"did you mean preprocess\.registration"):
        model_from_runs([folder])
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read"):
        model_from_runs([folder])
    (folder / "config.yaml").write_text("landmark: null")
    (folder / "checkpoints" / "model.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match=r"model\.ckpt: not a model of ours"):
        model_from_runs([folder])


def test_opening_a_model_leaves_the_random_state_alone(run_folder):
    import torch

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    open_model([run_folder])
    assert torch.equal(torch.rand(2), expected)
