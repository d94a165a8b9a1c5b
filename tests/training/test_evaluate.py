"""A finished study on another cohort: same models, new predictions, printed errors."""

from __future__ import annotations

import pytest
import torch

from landmarking.config import settings
from landmarking.errors import CohortError, ConfigError, RunError
from landmarking.evaluation.predictions import read_predictions
from landmarking.files import seal
from landmarking.prediction.package import open_model
from landmarking.runs import RunFolder
from landmarking.training import evaluate
from landmarking.training.evaluate import TransferConfig, evaluate_runs, finished_runs, load_model
from landmarking.training.settings import TrainingConfig
from landmarking.training.train import run_training


def test_every_run_of_a_study_predicts_the_other_cohort(
    training_values, make_cohort, monkeypatch, tmp_path
):
    first = make_cohort()
    for landmark in (None, "PMJ"):
        run_training(settings(TrainingConfig, training_values | {"landmark": landmark}), first)
    other = make_cohort(seed=1, missing=((14, 3),))
    monkeypatch.setattr(evaluate, "ensure_prepared", lambda *_a, **_k: other)
    outputs = training_values["outputs"]
    values = {"outputs": outputs, "runs": f"{outputs}/study", "cohort": {"root": "nowhere"}}
    result = evaluate_runs(settings(TransferConfig, values | {"groups": ["HS", "DS"]}))
    assert result.folder.name == "study-on-synthetic"
    assert {path.name for path in result.folder.iterdir()} == {"ml-seed0", "sl-PMJ-seed0"}
    frame = read_predictions(result.folder / "ml-seed0" / "predictions.csv")
    assert set(frame["cohort_digest"]) == {other.digest}
    assert len(frame) == 4 * 8
    assert frame["true_x_px"].isna().sum() == 1
    mean = load_model(RunFolder(tmp_path / "outputs" / "study" / "ml-seed0")).mean_px
    assert frame["mean_x_px"].iloc[0] == mean[0, 0]
    lines = result.summary().splitlines()
    assert lines[-1] == str(result.folder)
    assert lines[1].startswith("ML on DS: ")
    assert "over 15 points" in lines[1]
    assert lines[3].startswith("SL on DS: ")


def test_without_a_finished_run_there_is_nothing_to_evaluate(tmp_path):
    with pytest.raises(ConfigError, match="no finished run"):
        finished_runs(tmp_path)


@pytest.mark.parametrize("lost", ["predictions.csv", "checkpoints/model.ckpt"])
def test_a_finished_run_that_has_lost_a_file_is_not_left_out(tmp_path, lost):
    for name in ("a", "b"):
        run = RunFolder(tmp_path / name)
        run.checkpoints.mkdir(parents=True)
        for path in (run.model, run.predictions):
            path.write_text(name)
        files = {str(path.relative_to(run.path)): path for path in (run.model, run.predictions)}
        seal(run.path, files)
    assert [run.path.name for run in finished_runs(tmp_path)] == ["a", "b"]
    (tmp_path / "b" / lost).unlink()
    with pytest.raises(RunError, match=f"b/{lost}: cannot be read .*restore it from a copy"):
        finished_runs(tmp_path)


def test_a_damaged_checkpoint_is_said(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.ckpt"):
        load_model(folder)
    folder.checkpoints.mkdir()
    folder.model.write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match=r"model\.ckpt"):
        load_model(folder)


def test_people_learnt_from_are_refused_or_marked(training_values, make_cohort, monkeypatch):
    cohort = make_cohort()
    run_training(settings(TrainingConfig, training_values), cohort)
    monkeypatch.setattr(evaluate, "ensure_prepared", lambda *_a, **_k: cohort)
    outputs = training_values["outputs"]
    values = {"outputs": outputs, "runs": f"{outputs}/study", "cohort": {"root": "nowhere"}}
    everybody = values | {"groups": ["train", "HS"]}
    with pytest.raises(CohortError, match=r"has learnt from sub-000, .* 7 more of .*train, HS"):
        evaluate_runs(settings(TransferConfig, everybody))
    result = evaluate_runs(settings(TransferConfig, everybody | {"allow_learnt_from": True}))
    assert set(result.rows["model"]) == {"ML (people learnt from)"}
    result = evaluate_runs(settings(TransferConfig, values))
    assert set(result.rows["group"]) == {"HS", "DS"}, "the test groups, unless told otherwise"
    assert set(result.rows["model"]) == {"ML"}


def test_a_run_does_not_start_from_one_that_knows_its_test_people(training_values, make_cohort):
    cohort = make_cohort(test=8)
    adapt = {"group": "DS", "people": 2, "folds": 2}
    learns = {"train_groups": ["DS-adapt"], "test_groups": ["DS"]}
    source = training_values["cohort"] | learns

    def run(name, fold, start=""):
        values = {"run": name, "cohort": source, "adapt": {**adapt, "fold": fold, "start": start}}
        return run_training(settings(TrainingConfig, training_values | values), cohort).folder

    first = run("first", 0)
    same_people = run("again", 0, str(first))
    with pytest.raises(
        CohortError, match=r"adapt\.start: .*first has learnt from sub-\d+, sub-\d+,"
    ):
        run("other", 1, str(first))
    with pytest.raises(CohortError, match=r"adapt\.start: .*again has learnt from sub-"):
        run("other", 1, str(same_people))
    assert not (first.parent / "other").exists(), "nothing is left of what was refused"


def test_a_run_starts_from_a_model_that_ships(training_values, make_cohort):
    cohort = make_cohort(size=64)
    network = {"_target_": "landmarking.models.heatmap.HeatmapNetwork"}
    network |= {"channels": [16, 24, 32, 48, 64, 64]}
    values = training_values | {"model": network, "adapt": {"start": "painted"}}
    values |= {"optimizer": values["optimizer"] | {"lr": 0.0}}
    run = run_training(settings(TrainingConfig, values), cohort)
    trained = load_model(RunFolder(run.folder)).network.head.weight
    shipped = open_model(("painted",)).members[0].network.head.weight
    assert torch.equal(trained, shipped)
    other = training_values | {"run": "other", "landmark": "AC", "adapt": {"start": "painted"}}
    with pytest.raises(ConfigError, match=r"painted predicts AC, PC, .* and this run AC; take"):
        run_training(settings(TrainingConfig, other), cohort)
