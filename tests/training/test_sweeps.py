"""Folds, and tasks that SLURM has lost; the real node is in tests/slurm."""

import json
import os
import pickle
import time

import pytest
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf

from landmarking.config import settings
from landmarking.errors import ConfigError
from landmarking.evaluation.predictions import read_predictions
from landmarking.evaluation.study import load_study
from landmarking.training.settings import TrainingConfig
from landmarking.training.sweeps import LostTasks, TypedWins, queued_tasks, write_lost
from landmarking.training.train import run_training


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Puts a squeue on the path that prints and ends as told."""

    def answer(script):
        path = tmp_path / "bin" / "squeue"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")

    return answer


def test_a_task_gets_a_copy_of_the_callback_that_watches_nothing(tmp_path):
    watching = LostTasks(str(tmp_path), 0.01)
    watching.on_multirun_start(None)
    copy = pickle.loads(pickle.dumps(watching))
    watching.on_multirun_end(None)
    assert (copy.folder, copy.every_s) == (tmp_path, 0.01)


def test_the_queue_is_read_and_a_forgotten_job_is_empty(squeue):
    squeue(
        'case "$*" in *--jobs=7*) echo 7_0; echo 7_3;; *) echo Invalid job id >&2; exit 1;; esac'
    )
    assert queued_tasks(["7", "8"]) == {"7_0", "7_3"}


def test_a_controller_that_does_not_answer_says_nothing_about_tasks(squeue):
    squeue("echo Unable to contact slurm controller >&2; exit 1")
    assert queued_tasks(["7"]) is None


def test_a_lost_task_leaves_a_result_that_says_so(tmp_path):
    task = tmp_path / "7_2_0_result.pkl"
    write_lost(task)
    word, lost = pickle.loads(task.read_bytes())
    assert (word, lost.status) == ("success", JobStatus.FAILED)
    with pytest.raises(Exception, match="task 7_2 was cancelled or killed"):
        raise lost._return_value
    assert list(tmp_path.iterdir()) == [task]


def test_only_tasks_that_stay_away_from_the_queue_are_given_up(tmp_path, squeue):
    squeue("echo 7_0")
    watching = LostTasks(str(tmp_path), 0.01)
    watching.on_multirun_start(None)
    folder = tmp_path / "7_0"
    folder.mkdir()
    for task in ("7_0", "7_1"):
        (folder / f"{task}_submitted.pkl").touch()
    end = time.monotonic() + 30
    while not (folder / "7_1_0_result.pkl").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    watching.on_multirun_end(None)
    assert not (folder / "7_0_0_result.pkl").exists()


def sweep(words, **more):
    """What the sweeper gets of a configuration and a command line."""
    config = OmegaConf.create(
        {"folds": None, "fold": None, **more}
        | {"hydra": {"sweeper": {"params": None}, "overrides": {"task": words}}}
    )
    TypedWins().on_multirun_start(config)
    return config.hydra.sweeper.params


def test_folds_are_swept_unless_they_are_named():
    assert sweep(["folds=3"], folds=3) == {"fold": "0,1,2"}
    assert sweep(["folds=3", "fold=0,2"], folds=3, fold="0,2") is None
    assert sweep(["seed=0,1"]) is None


def test_every_person_is_tested_once_by_the_fold_that_left_them_out(training_values, make_cohort):
    cohort = make_cohort(train=9)
    tested, learnt = [], []
    for fold in range(3):
        config = settings(TrainingConfig, training_values | {"folds": 3, "fold": fold})
        result = run_training(config, cohort)
        rows = read_predictions(result.folder / "predictions.csv")
        assert set(rows["group"]) == {"train"}
        people = set(rows["participant_id"])
        split = json.loads((result.folder / "split.json").read_text())
        assert not people & {*split["train"], *split["validation"]}
        tested += sorted(people)
        learnt.append({*split["train"], *split["validation"]} | people)
        # A run that goes on reads its own configuration again.
        again = settings(TrainingConfig, config.plain())
        assert (again.adapt, again.cohort) == (config.adapt, config.cohort)
    everybody = {r.participant_id for r in cohort.records if r.group == "train"}
    assert sorted(tested) == sorted(everybody)
    assert learnt == [everybody] * 3
    study = load_study(result.folder.parent)
    assert len(study.frame) == sum(r.group == "train" for r in cohort.records) * 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"folds": 3}, "folds=3 is a sweep of 3 runs; add -m, or name one"),
        ({"folds": 1, "fold": 0}, "folds is 2 or more"),
        ({"folds": 3, "fold": 3}, "fold from 0 to folds - 1"),
        ({"folds": 3, "fold": 0, "adapt": {"group": "DS"}}, "both say who is left out"),
        (
            {"folds": 3, "fold": 0, "cohort": {"root": "x", "train_groups": ["a", "b"]}},
            r"folds takes one training group, found cohort.train_groups=\[a,b\]",
        ),
    ],
)
def test_folds_without_sense_are_refused(training_values, values, message):
    with pytest.raises(ConfigError, match=message):
        settings(TrainingConfig, training_values | values)
