"""A run from cohort to predictions.csv: what it leaves, skips, refuses and survives."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from landmarking.config import settings
from landmarking.data.splits import read_split
from landmarking.errors import CohortError, ConfigError, LandmarkError
from landmarking.evaluation.predictions import read_predictions
from landmarking.models.module import LandmarkModule, predict_points
from landmarking.runs import State
from landmarking.training.evaluate import cohort_images
from landmarking.training.settings import TrainingConfig
from landmarking.training.train import run_training


def run(values, prepared, **changes):
    return run_training(settings(TrainingConfig, values | changes), prepared)


def load(path: Path) -> LandmarkModule:
    return LandmarkModule.load_from_checkpoint(path, weights_only=True).eval()


def test_a_run_leaves_everything_that_its_folder_promises(
    training_values, make_cohort, tensorboard_node
):
    cohort = make_cohort()
    folder = Path(training_values["outputs"]) / "study" / "ml-seed0"
    result = run(training_values, cohort, logger=tensorboard_node(folder), experiment="probe")
    assert result.state is State.NEW
    assert result.folder == Path(training_values["outputs"]) / "study" / "ml-seed0"
    names = {path.name for path in result.folder.iterdir()}
    assert names == {
        "config.yaml", "provenance.json", "split.json", "split.tsv", "checkpoints",
        "predictions.csv", "slices.npz", "scans.csv", "history.csv", "tensorboard", "checksums.txt",
    }  # fmt: skip
    assert [path.name for path in (result.folder / "checkpoints").iterdir()] == ["model.ckpt"]
    frame = read_predictions(result.folder / "predictions.csv")
    assert len(frame) == 4 * 8
    assert set(frame["model"]) == {"ML"}
    assert set(frame["experiment"]) == {"probe"}
    assert set(frame["split_digest"]) == {read_split(result.folder / "split.json").digest}
    facts = json.loads((result.folder / "provenance.json").read_text())
    assert facts["cohort_digest"] == cohort.digest
    assert facts["packages"]["torch"]
    with np.load(result.folder / "slices.npz") as slices:
        assert set(slices.files) == set(frame["scan_id"])
        assert slices[slices.files[0]].dtype == np.uint8


def test_config_yaml_is_resolved_and_gives_the_run_back(training_values, make_cohort):
    result = run(training_values, make_cohort())
    saved = OmegaConf.to_container(OmegaConf.load(result.folder / "config.yaml"), resolve=True)
    config = settings(TrainingConfig, saved)
    assert config == settings(TrainingConfig, training_values)


def test_the_no_skill_prediction_is_the_mean_over_the_training_side(training_values, make_cohort):
    cohort = make_cohort(train=20)
    result = run(training_values, cohort)
    frame = read_predictions(result.folder / "predictions.csv")
    people = set(read_split(result.folder / "split.json").train)
    chosen = [i for i, r in enumerate(cohort.records) if r.participant_id in people]
    expected = cohort.points_px[chosen].mean(axis=0)
    first = frame[frame["scan_id"] == frame["scan_id"][0]]
    np.testing.assert_allclose(first[["mean_x_px", "mean_y_px"]].to_numpy(), expected)


def test_learning_beats_no_skill(training_values, make_cohort):
    training_values["trainer"]["max_epochs"] = 25
    training_values["model"] |= {"dropout": 0.0, "channels": [8, 16]}
    result = run(training_values, make_cohort(train=40, test=4))
    error, floor = result.errors_mm["HS"]
    assert error < 0.7 * floor
    text = (result.folder / "history.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [int(row["epoch"]) for row in rows] == list(range(25))
    assert float(rows[-1]["train_loss_px"]) < 0.5 * float(rows[0]["train_loss_px"])
    assert float(rows[0]["learning_rate"]) == pytest.approx(0.003)
    assert all(row["validation_error_mm"] for row in rows)
    assert result.objective == pytest.approx(float(rows[-1]["validation_error_mm"]))
    assert result.metrics["test/HS/error_mm"] == pytest.approx(error, rel=1e-5)


def test_a_single_landmark_run_is_one_landmark(training_values, make_cohort):
    result = run(training_values, make_cohort(), landmark="PMJ", seed=3)
    assert result.folder.name == "sl-PMJ-seed3"
    frame = read_predictions(result.folder / "predictions.csv")
    assert set(frame["landmark"]) == {"PMJ"}
    assert set(frame["model"]) == {"SL"}
    assert set(frame["seed"]) == {3}


def test_the_checkpoint_predicts_what_was_written(training_values, make_cohort):
    cohort = make_cohort()
    result = run(training_values, cohort)
    module = load(result.folder / "checkpoints" / "model.ckpt")
    images = cohort_images(cohort, cohort.indices(["HS", "DS"]))
    frame = read_predictions(result.folder / "predictions.csv")
    predicted = predict_points(module, images).numpy().astype(np.float64)
    np.testing.assert_array_equal(
        predicted.reshape(-1, 2), frame[["pred_x_px", "pred_y_px"]].to_numpy()
    )


def test_missing_landmarks_are_masked_and_keep_their_rows(training_values, make_cohort):
    cohort = make_cohort(missing=((0, 1), (5, 3), (12, 4)))
    frame = read_predictions(run(training_values, cohort).folder / "predictions.csv")
    gone = frame["true_x_px"].isna()
    assert gone.sum() == 1
    assert list(frame.loc[gone, "landmark"]) == ["CUL"]
    assert np.isfinite(frame["pred_x_px"]).all()


def test_the_same_configuration_twice_is_bitwise_the_same(training_values, make_cohort):
    cohort = make_cohort()
    texts, weights = [], []
    for name in ("one", "two"):
        result = run(training_values, cohort, outputs=training_values["outputs"] + name)
        texts.append((result.folder / "predictions.csv").read_bytes())
        weights.append(load(result.folder / "checkpoints" / "model.ckpt").state_dict())
    assert texts[0] == texts[1]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_finished_run_is_skipped_and_says_so(training_values, make_cohort):
    cohort = make_cohort()
    first = run(training_values, cohort)
    before = (first.folder / "predictions.csv").stat().st_mtime_ns
    training_values["threads"] = None  # does not touch the numbers
    second = run(training_values, cohort)
    assert second.state is State.FINISHED
    assert "already finished" in second.summary()
    assert second.errors_mm == first.errors_mm
    assert (second.folder / "predictions.csv").stat().st_mtime_ns == before


def test_another_configuration_or_cohort_is_refused_with_the_way_out(training_values, make_cohort):
    run(training_values, make_cohort())
    with pytest.raises(ConfigError, match=r"data\.batch_size was 4 and is 2.*overwrite=true"):
        run(training_values, make_cohort(), data={"batch_size": 2})
    with pytest.raises(ConfigError, match="the slices were 0000"):
        run(training_values, make_cohort(seed=1))
    result = run(training_values, make_cohort(), data={"batch_size": 2}, overwrite=True)
    assert result.state is State.NEW


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"landmark": "XY"}, LandmarkError, "XY"),
        ({"cohort": {"root": "x", "test_groups": ["AA"]}}, CohortError, "AA"),
        ({"cohort": {"root": "x", "train_groups": ["BB"]}}, CohortError, "BB"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    training_values, make_cohort, changes, error, words
):
    with pytest.raises(error, match=words):
        run(training_values, make_cohort(), **changes)
    assert not Path(training_values["outputs"]).exists()


def test_outputs_that_cannot_be_written_are_said_at_once(training_values, make_cohort, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"file.*cannot be written.*outputs=DIR"):
        run(training_values, make_cohort(), outputs=str(tmp_path / "file"))


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    training_values, make_cohort, monkeypatch, callback_nodes
):
    folder = Path(training_values["outputs"]) / "study" / "ml-seed0"
    training_values["callbacks"] = callback_nodes(folder, 1)
    cohort = make_cohort()
    saves = []
    real = os.fsync

    def full(descriptor):
        if "last.ckpt" in os.readlink(f"/proc/self/fd/{descriptor}"):
            saves.append(descriptor)
            if len(saves) == 2:
                raise OSError(28, "No space left on device")
        real(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to tell the files apart")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"No space left.*same command goes on"):
        run(training_values, cohort)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    assert run(training_values, cohort).state is State.STARTED


def test_a_stacked_run_leaves_models_that_load_like_those_of_a_sweep(training_values, make_cohort):
    cohort = make_cohort()
    stacked = {"_target_": "landmarking.models.coordinate_cnn.StackedEnsemble"}
    member = training_values["model"]
    result = run(training_values, cohort, model=stacked | {"member": member})
    assert result.folder.name == "sl-stacked-seed0"
    frame = read_predictions(result.folder / "predictions.csv")
    assert set(frame["model"]) == {"SL"}
    assert len(frame) == 4 * 8
    own = run(training_values, cohort, landmark="PMJ")
    module = load(result.folder / "checkpoints" / "members" / "PMJ.ckpt")
    assert module.landmarks == ("PMJ",)
    assert module.hparams["network"] == member
    alone = read_predictions(own.folder / "predictions.csv")
    same = frame[frame["landmark"] == "PMJ"]
    np.testing.assert_allclose(same["pred_x_px"], alone["pred_x_px"], atol=1e-3)
    np.testing.assert_allclose(same["pred_y_px"], alone["pred_y_px"], atol=1e-3)
    predicted = predict_points(module, cohort_images(cohort, cohort.indices(["HS", "DS"])))
    np.testing.assert_allclose(predicted[:, 0, 0], same["pred_x_px"], atol=1e-4)


SCRIPT = """
import json, sys
from landmarking.config import settings
from landmarking.preparation.prepared import load_prepared
from landmarking.training.train import TrainingConfig, run_training
from pathlib import Path
values = json.loads(sys.argv[1])
run_training(settings(TrainingConfig, values), load_prepared(Path(sys.argv[2])))
"""


def test_a_killed_run_goes_on_and_ends_bitwise_the_same(
    training_values, make_cohort, tmp_path, callback_nodes, tensorboard_node
):
    cohort = make_cohort(train=20)
    training_values["trainer"] |= {"max_epochs": 60}
    folder = Path(training_values["outputs"]) / "study" / "ml-seed0"
    training_values["callbacks"] = callback_nodes(folder, 3)
    training_values["logger"] = tensorboard_node(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(training_values), str(cohort.folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        time.sleep(0.05)  # somewhere in the middle of an epoch
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not (folder / "predictions.csv").exists()
    shutil.copy(folder / "checkpoints" / "last.ckpt", tmp_path / "last.ckpt")
    time.sleep(1.1)  # TensorBoard puts its files in order by the second
    resumed = run(training_values, cohort)
    assert resumed.state is State.STARTED
    events = EventAccumulator(str(resumed.folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    for tag in ("train/loss", "val/error_mm"):
        steps = [event.step for event in events.Scalars(tag)]
        assert (len(steps), len(set(steps))) == (60, 60), "one point an epoch, none lost"
    other = tmp_path / "whole" / "study" / "ml-seed0"
    again = {"callbacks": callback_nodes(other, 3), "logger": tensorboard_node(other)}
    whole = run(training_values, cohort, outputs=str(tmp_path / "whole"), **again)
    assert 3 <= torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] + 1 < 60
    for name in ("predictions.csv", "history.csv", "split.json"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    ours = load(resumed.folder / "checkpoints" / "model.ckpt").state_dict()
    theirs = load(whole.folder / "checkpoints" / "model.ckpt").state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
