"""The same input gets the same verdict in check_only, in prepare and in predict."""

import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from landmarking.errors import CohortError, ScanError
from landmarking.imaging.registration import Registration
from landmarking.landmarks import read_landmarks, write_markups
from landmarking.prediction.batch import Clock
from landmarking.prediction.msp import find_midsagittal
from landmarking.preparation import prepare as module
from landmarking.preparation import stages
from landmarking.preparation.prepare import PrepareConfig, run_preparation
from landmarking.preparation.sources import CohortConfig

SCRIPT = Path(__file__).parent / "preparation_stand_in.py"
specification = importlib.util.spec_from_file_location("preparation_stand_in", SCRIPT)
stand_in = importlib.util.module_from_spec(specification)
specification.loader.exec_module(stand_in)


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    stand_in.install(tmp_path / "calls.txt", replace=monkeypatch.setattr)
    return stand_in.make_cohort(tmp_path / "noise")


@pytest.fixture
def run(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "open_cohort", lambda *_, **__: cohort)
    chosen = CohortConfig("bids", root=str(cohort.root))

    def command(**more):
        outputs = str(tmp_path / "outputs")
        return run_preparation(PrepareConfig(outputs, chosen, workers=1, progress=False, **more))

    return command


def mirrored(scan):
    """Points in LPS under a header that says RAS, as old Slicer wrote them."""
    points = {name: point * [-1, -1, 1] for name, point in read_landmarks(scan.landmarks).items()}
    write_markups(scan.landmarks, points)


def elsewhere(scan):
    write_markups(scan.landmarks, {"AC": np.array([0.0, 500.0, 0.0])})


def truncated(scan):
    scan.image.write_bytes(scan.image.read_bytes()[:999])


def gone(scan):
    scan.image.unlink()
    scan.image.symlink_to("../.git/annex/objects/a/b/c.nii.gz")


def stretched(scan):
    image = nib.load(scan.image)
    data = np.asarray(image.dataobj)
    image = nib.Nifti1Image(data, image.affine)
    image.header["pixdim"][1:4] = 4.6
    nib.save(image, scan.image)


BAD = {
    "points in LPS under RAS": (mirrored, "look like LPS written as RAS"),
    "points of another scan": (elsewhere, "outside the scan's field of view"),
    "a truncated scan": (truncated, "truncated or damaged"),
    "a scan that is not there": (gone, "datalad get"),
    "a stretched scan": (stretched, "--allow-scaled"),
}


@pytest.mark.parametrize("example", BAD)
def test_inputs_get_one_verdict_and_stop_no_other(cohort, run, example):
    spoil, words = BAD[example]
    assert "problems: none" in run(check_only=True)
    spoil(cohort.scans[1])
    with pytest.raises(CohortError) as caught:
        run(check_only=True)
    (checked,) = [line for line in str(caught.value).splitlines() if "sub-01: " in line]
    assert words in checked
    summary = run()
    assert summary.status == 1
    assert "3 slices" in summary
    assert "left out: 1" in summary
    assert checked in summary
    with pytest.raises(CohortError) as caught:
        run(skip_bad=False)
    assert checked.strip(" -") in str(caught.value)


def test_inputs_that_are_all_fine_end_with_status_0(run):
    assert run().status == 0


def test_inputs_stretched_are_read_on_request_and_refused_again_from_the_cache(
    cohort, run, monkeypatch
):
    stretched(cohort.scans[1])
    allowed = CohortConfig("bids", root=str(cohort.root), allow_scaled=True)
    outputs = str(cohort.root.parent / "outputs")
    config = PrepareConfig(outputs, allowed, workers=1, progress=False)
    assert "4 slices" in run_preparation(config)
    with pytest.raises(CohortError, match="--allow-scaled"):
        run(skip_bad=False)


def test_inputs_without_a_head_are_refused_in_the_same_words(cohort, run, monkeypatch):
    lost = Registration(np.eye(4), 0.1, False, "rigid")
    for place in (stages, importlib.import_module("landmarking.prediction.msp")):
        monkeypatch.setattr(place, "register_stage", lambda *_: lost)
        monkeypatch.setattr(place, "plane_stage", REAL_PLANE)
    with pytest.raises(CohortError) as caught:
        run(check_only=True)
    with pytest.raises(ScanError) as predicted:
        find_midsagittal(cohort.scans[0].image, 4.0, Clock())
    words = str(predicted.value).partition(": ")[2]
    assert words.startswith("no T1 head in its usual position was found")
    assert str(caught.value).count(words) == len(cohort.scans)


REAL_PLANE = stages.plane_stage
