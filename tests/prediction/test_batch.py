import pytest

from landmarking.errors import ConfigError, ScanError
from landmarking.prediction.batch import Outcome, Target, attempt, find_scans, is_bids, run_jobs
from landmarking.prediction.outputs import PredictJob

# One scan's trouble is that scan's alone.


def make_job(tmp_path, name):
    return PredictJob(Target(tmp_path / f"{name}.nii", name), tmp_path / "out", (), {})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ScanError("SCAN: every voxel is\n zero"), "SCAN: every voxel is zero"),
        (OSError(28, "No space left on device"), "cannot be written (No space left on device)"),
        (MemoryError(), "too little memory"),
        (ZeroDivisionError("division"), "a defect of this program (test_batch.py, line"),
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


# Which files are scans, and what their results are called.


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def stems(targets):
    return [target.stem for target in targets]


def test_a_folder_gives_every_nifti_below_it_and_keeps_its_sub_folders(tmp_path):
    touch(tmp_path, "a/T1.nii.gz", "b/T1.nii", "c.NII.GZ", "d.txt", ".hidden/e.nii", "out/f.nii")
    touch(tmp_path, "a/._T1.nii.gz")
    assert stems(find_scans([tmp_path], tmp_path / "out")) == ["a/T1", "b/T1", "c"]


def test_a_bids_tree_gives_its_t1w_scans_only(tmp_path):
    touch(
        tmp_path,
        "dataset_description.json",
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii",
        "derivatives/other/sub-01/anat/sub-01_T1w.nii.gz",
        "sourcedata/sub-01_T1w.nii.gz",
    )
    first = "sub-01/ses-1/anat/sub-01_ses-1"
    out = tmp_path / "derivatives" / "landmarking"
    assert is_bids(tmp_path)
    assert stems(find_scans([tmp_path], out)) == [f"{first}_T1w", "sub-02/anat/sub-02_T1w"]
    assert stems(find_scans([tmp_path], out, bids=True)) == [first, "sub-02/anat/sub-02"]


def test_files_keep_their_order_and_any_name(tmp_path):
    touch(tmp_path, "z.nii", "a.nii.gz", "scan.mgz")
    found = find_scans([tmp_path / n for n in ("z.nii", "a.nii.gz", "scan.mgz")], tmp_path / "out")
    assert stems(found) == ["z", "a", "scan"]


def test_two_scans_are_never_written_as_one(tmp_path):
    touch(tmp_path, "a/T1.nii", "b/T1.nii.gz")
    with pytest.raises(ConfigError, match="would both be written as T1"):
        find_scans([tmp_path / "a/T1.nii", tmp_path / "b/T1.nii.gz"], tmp_path / "out")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        find_scans([tmp_path / "none.nii"], tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="there are no"):
        find_scans([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(ConfigError, match="--bids takes one BIDS tree"):
        find_scans([tmp_path / "empty"], tmp_path / "out", bids=True)
