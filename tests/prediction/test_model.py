from dataclasses import replace

import numpy as np
import pytest
import torch

from landmarking.errors import ConfigError
from landmarking.models.module import predict_points
from landmarking.prediction.model import model_from_runs, trained_runs
from landmarking.prediction.package import open_model
from landmarking.runs import RunFolder
from landmarking.training.evaluate import load_model

# Several networks as one model, and the doubt they are in.


IMAGES = np.random.default_rng(0).normal(5.0, 2.0, (3, 150, 150)).astype(np.float32)


@pytest.mark.parametrize("normalisation", ["image", "none", "batch"])
def test_positions_are_those_of_evaluation(normalisation, make_run, tmp_path):
    """The road that evaluates a run and the one that predicts single scans agree."""
    folder = make_run(tmp_path / "run", normalisation=normalisation)
    module = load_model(RunFolder(folder))
    tensors = torch.from_numpy(IMAGES)[:, None]
    expected = predict_points(module, tensors, batch_size=1).numpy()
    found = model_from_runs([folder]).locate(IMAGES)
    np.testing.assert_allclose(found.points_px, expected, atol=2e-3)


def test_doubt_of_one_network_is_its_heatmaps_spread(model):
    with torch.inference_mode():
        from landmarking.imaging.intensity import normalise_images

        batch = torch.from_numpy(normalise_images(IMAGES))[:, None]
        spread = model.members[0].network.with_spread(batch)[1]
    np.testing.assert_allclose(model.locate(IMAGES).doubt_px, spread.numpy(), rtol=1e-6)


def test_a_network_without_heatmaps_has_no_doubt_alone_and_some_in_company(
    make_run, dense, tmp_path
):
    for seed in (0, 1):
        make_run(tmp_path / f"seed{seed}", seed=seed, network=dense)
    alone = [model_from_runs([tmp_path / f"seed{seed}"]).locate(IMAGES) for seed in (0, 1)]
    both = model_from_runs([tmp_path]).locate(IMAGES)
    assert np.isnan(alone[0].doubt_px).all()
    np.testing.assert_allclose(both.points_px, (alone[0].points_px + alone[1].points_px) / 2)
    half_apart = np.linalg.norm(alone[0].points_px - alone[1].points_px, axis=-1) / 2
    np.testing.assert_allclose(both.doubt_px, half_apart)


class Brightest(torch.nn.Module):
    """Finds the brightest pixel, wherever it lies."""

    def forward(self, batch):
        flat = batch.flatten(1).argmax(dim=1)
        return torch.stack([flat % batch.shape[-1], flat // batch.shape[-1]], -1)[:, None].float()


def test_shifted_looks_find_the_same_place(model):
    member = replace(
        model.members[0],
        network=Brightest(),
        settings={**model.members[0].settings, "landmarks": ["AC"], "normalisation": "none"},
    )
    alone = replace(model, landmarks=model.landmarks.subset(["AC"]), members=(member,), shifts=9)
    images = IMAGES.copy()
    images[[0, 1, 2], [40, 77, 90], [30, 60, 111]] = 99.0
    found = alone.locate(images)
    assert found.points_px[:, 0].tolist() == [[30, 40], [60, 77], [111, 90]]
    assert np.allclose(found.doubt_px, 0.0)


def test_looks_that_differ_are_averaged_and_count_as_doubt(model):
    once, often = model.locate(IMAGES), replace(model, shifts=5).locate(IMAGES)
    assert not np.allclose(once.points_px, often.points_px)
    assert (often.doubt_px > 0.0).all()


def test_a_sweep_of_single_landmarks_is_one_model_in_the_sets_order(make_run, tmp_path):
    for name in ("PMJ", "AC"):
        make_run(tmp_path / f"sl-{name}", names=(name,), landmark=name, seed=len(name))
    pooled = model_from_runs([tmp_path])
    assert pooled.landmarks.names == ("AC", "PMJ")
    alone = model_from_runs([tmp_path / "sl-PMJ"]).locate(IMAGES)
    np.testing.assert_array_equal(pooled.locate(IMAGES).points_px[:, 1], alone.points_px[:, 0])


def test_slices_of_another_size_are_refused(model):
    with pytest.raises(ConfigError, match="150 x 150 pixels, found 150 x 140"):
        model.locate(IMAGES[:, :, :140])


def test_the_digest_follows_what_decides_a_position(model, make_run, tmp_path):
    same = model_from_runs([make_run(tmp_path / "elsewhere" / "run")])
    other = model_from_runs([make_run(tmp_path / "other", seed=1)])
    assert same.digest == model.digest
    assert other.digest != model.digest
    assert replace(model, name="renamed").digest == model.digest
    preprocess = replace(model.preprocess, registration="affine")
    assert replace(model, preprocess=preprocess).digest != model.digest


# Which runs make one model, and what is said of those that do not.


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
