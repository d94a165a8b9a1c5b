"""One scan's trouble is that scan's alone."""

import pytest

from landmarking.errors import ScanError
from landmarking.prediction.batch import Outcome, attempt, run_jobs
from landmarking.prediction.inputs import Target
from landmarking.prediction.predict_jobs import PredictJob


def make_job(tmp_path, name):
    return PredictJob(Target(tmp_path / f"{name}.nii", name), tmp_path / "out", (), "")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ScanError("SCAN: every voxel is\n zero"), "SCAN: every voxel is zero"),
        (OSError(28, "No space left on device"), "cannot be written (No space left on device)"),
        (MemoryError(), "too little memory"),
        (ZeroDivisionError("division"), "a defect of this program (ZeroDivisionError: division)"),
    ],
)
def test_every_trouble_is_one_line_that_names_the_scan(error, message, tmp_path):
    job = make_job(tmp_path, "a")

    def fail(clock):
        raise error

    outcome = attempt(job, fail)
    assert outcome.record is None
    assert message in outcome.problem
    assert str(job.target.scan) in outcome.problem
    assert "\n" not in outcome.problem


def test_time_and_memory_are_taken(tmp_path):
    job = make_job(tmp_path, "a")
    outcome = attempt(job, lambda clock: clock.timed("work", lambda: {"done": 1}))
    assert outcome.record == {"done": 1}
    assert outcome.problem is None
    assert set(outcome.seconds) == {"work", "cpu"}
    assert outcome.peak_mib > 10.0


def test_outcomes_keep_the_order_and_finished_ones_are_not_done_again(tmp_path):
    jobs = [make_job(tmp_path, name) for name in "abc"]
    worked, told = [], []

    def work(job):
        worked.append(job.target.stem)
        return Outcome(job.target, {"name": job.target.stem})

    def finished(job):
        return {"name": "b before"} if job.target.stem == "b" else None

    found = run_jobs(jobs, work, finished, 1, told.append)
    assert [outcome.record["name"] for outcome in found] == ["a", "b before", "c"]
    assert worked == ["a", "c"]
    assert [outcome.reused for outcome in found] == [False, True, False]
    assert len(told) == 3
