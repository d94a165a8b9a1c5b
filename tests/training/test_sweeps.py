"""Tasks that SLURM has lost; the real node is in tests/slurm."""

import os
import pickle
import time

import pytest
from hydra.core.utils import JobStatus

from landmarking.training.sweeps import LostTasks, queued_tasks, write_lost


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
