import hashlib
import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from landmarking.errors import CohortError
from landmarking.imaging.intensity import Reference
from landmarking.imaging.pipeline import PreprocessSettings, tissue_maps
from landmarking.landmarks import landmark_set, read_landmarks, write_markups
from landmarking.preparation.assembly import scan_states
from landmarking.preparation.cache import STAGES
from landmarking.preparation.prepare import (
    LandmarksConfig,
    ensure_prepared,
    prepare,
    prepare_cohort,
)

SCRIPT = Path(__file__).parent / "preparation_stand_in.py"
specification = importlib.util.spec_from_file_location("preparation_stand_in", SCRIPT)
stand_in = importlib.util.module_from_spec(specification)
specification.loader.exec_module(stand_in)

LANDMARKS = stand_in.LANDMARKS
SETTINGS = PreprocessSettings()


@pytest.fixture
def cohort(tmp_path):
    return stand_in.make_cohort(tmp_path / "noise")


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "calls.txt"
    stand_in.install(path, replace=monkeypatch.setattr)
    return path


def prepared(cohort, tmp_path, settings=SETTINGS, landmarks=LANDMARKS):
    return prepare(cohort, landmarks, settings, tmp_path / "outputs", workers=1)


def content(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_prepared_cohort_holds_every_scan_in_order_with_its_landmarks(cohort, log, tmp_path):
    done = prepared(cohort, tmp_path)
    result = done.prepared
    assert [record.scan_id for record in result.records] == [scan.scan_id for scan in cohort.scans]
    assert result.groups == ("train", "HS", "DS")
    assert result.simulated
    assert result.images.shape == (4, 150, 150)
    for index, scan in enumerate(cohort.scans):
        points = LANDMARKS.arrange(read_landmarks(scan.landmarks))
        np.testing.assert_allclose(result.points_mm[index], points, atol=1e-9)
        # In the template's world, column x has A = 112 - 50 - x and row y has S = 120 - 50 - y.
        expected = np.stack([62 - points[:, 1], 70 - points[:, 2]], axis=1)
        np.testing.assert_allclose(result.points_px[index], expected, atol=1e-9)
    assert result.folder == tmp_path / "outputs" / "prepared" / f"noise-{result.digest[:12]}"
    assert sorted(content(result.folder)) == [
        "contact-sheet-01.png",
        "images.npy",
        "index.json",
        "qc.csv",
    ]
    assert done.computed == dict.fromkeys(STAGES, 4)


def test_a_finished_cohort_is_opened_and_not_made_again(cohort, log, tmp_path):
    first = prepared(cohort, tmp_path)
    before = content(first.prepared.folder)
    again = prepared(cohort, tmp_path)
    assert (first.reused, again.reused) == (False, True)
    assert again.prepared.digest == first.prepared.digest
    assert content(again.prepared.folder) == before
    assert len(stand_in.calls(log)) == 8


@pytest.mark.parametrize(
    ("change", "recomputed"),
    [
        ({"normalisation": "batch"}, None),
        ({"histogram_reference": "SCAN"}, ("intensity",)),
        ({"crop": [40, 190]}, ("read", "slice", "intensity")),
        ({"spacing_mm": 1.1}, ("read", "slice", "intensity")),
        ({"pairs": 5000}, ("read", "plane", "slice", "intensity")),
        ({"registration": "affine"}, STAGES),
    ],
)
def test_a_setting_recomputes_only_what_depends_on_it(
    cohort, log, tmp_path, monkeypatch, change, recomputed
):
    prepared(cohort, tmp_path)
    if "pairs" in change:
        change = {"midsagittal": replace(SETTINGS.midsagittal, **change)}
    if "histogram_reference" in change:
        # The reference itself comes from a scan, which takes the real stages; any slice will do.
        change = {"histogram_reference": str(cohort.scans[0].image)}
        reference = Reference(np.eye(150, dtype=np.float32), np.ones((150, 150), bool), "any")
        for module in ("landmarking.preparation.stages", "landmarking.preparation.assembly"):
            name = f"{module}.histogram_reference"
            monkeypatch.setattr(name, lambda _: reference)
        monkeypatch.setattr("landmarking.preparation.stages.finish_slice", lambda image, _: image)
    done = prepared(cohort, tmp_path, replace(SETTINGS, **change))
    assert done.reused is (recomputed is None)
    assert done.computed == dict.fromkeys(recomputed or (), 4)


def test_a_cohort_and_outputs_that_were_moved_are_not_made_again(cohort, log, tmp_path):
    first = prepared(cohort, tmp_path)
    before = content(first.prepared.folder)
    moved, there = tmp_path / "there" / "noise", tmp_path / "there" / "outputs"
    moved.parent.mkdir()
    cohort.root.rename(moved)
    (tmp_path / "outputs").rename(there)
    scans = tuple(
        replace(scan, image=moved / scan.image.name, landmarks=moved / scan.landmarks.name)
        for scan in cohort.scans
    )
    elsewhere = replace(cohort, root=moved, scans=scans)
    again = prepare(elsewhere, LANDMARKS, SETTINGS, there, workers=1)
    assert again.reused
    assert again.prepared.folder == there / "prepared" / first.prepared.folder.name
    shutil.rmtree(there / "prepared")
    cached = prepare(elsewhere, LANDMARKS, SETTINGS, there, workers=1)
    assert (cached.reused, cached.computed) == (False, {})
    assert content(cached.prepared.folder) == before


def test_a_changed_scan_is_made_again_and_the_others_are_kept(cohort, log, tmp_path):
    first = prepared(cohort, tmp_path)
    changed, other = cohort.scans[1].image, cohort.scans[0].image
    changed.write_bytes(other.read_bytes())
    done = prepared(cohort, tmp_path)
    assert done.prepared.digest != first.prepared.digest
    # Its bytes are those of another scan now, whose slice serves it as well.
    assert done.computed == {}
    np.testing.assert_array_equal(done.prepared.images[1], first.prepared.images[0])


def test_landmarks_people_and_landmark_set_decide_the_cohort_but_no_slice(cohort, log, tmp_path):
    first = prepared(cohort, tmp_path)
    scan = cohort.scans[0]
    moved = replace(cohort, scans=(replace(scan, group="HS"), *cohort.scans[1:]))
    regrouped = prepared(moved, tmp_path)
    fewer = prepared(cohort, tmp_path, landmarks=landmark_set("msp10"))
    write_markups(scan.landmarks, {"AC": LANDMARKS.template_mm[0]})
    single = prepared(cohort, tmp_path)
    digests = {done.prepared.digest for done in (first, regrouped, fewer, single)}
    assert len(digests) == 4
    assert regrouped.computed == fewer.computed == single.computed == {}
    assert np.isnan(single.prepared.points_px[0, 1:]).all()
    assert np.isfinite(single.prepared.points_px[0, 0]).all()


def with_tissues(cohort, chosen):
    """The cohort with tissue maps for some scans: left of the mid-plane white, right grey."""
    scans = list(cohort.scans)
    for index in chosen:
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[:3, 3] = -91.0, -120.0, -80.0
        right = np.zeros((91, 110, 90), np.uint8)
        right[46:] = 255
        paths = tuple(cohort.root / f"{index}_{label}.nii.gz" for label in ("GM", "WM", "CSF"))
        for path, share in zip(paths, (right, 255 - right, right // (5 + index)), strict=True):
            nib.save(nib.Nifti1Image(share, affine), path)
        scans[index] = replace(scans[index], tissues=paths)
    return replace(cohort, scans=tuple(scans))


def test_tissue_maps_go_along_on_the_pixels_of_their_slices(cohort, log, tmp_path):
    plain = prepared(cohort, tmp_path)
    mapped = with_tissues(cohort, [1, 2])
    done = prepared(mapped, tmp_path)
    assert plain.prepared.tissues is None
    assert done.prepared.digest != plain.prepared.digest
    assert done.computed == {"tissues": 2}, "slices are those that were made without maps"
    np.testing.assert_array_equal(done.prepared.images, plain.prepared.images)
    maps = done.prepared.tissues
    assert maps.shape == (4, 4, 150, 150)
    assert maps[[0, 3]].max() == 0
    # The mid-plane lies half way between the last white voxel and the first grey one.
    assert np.abs(maps[1:3, 0, 70, 70].astype(int) - 127).max() <= 1
    assert np.abs(maps[1:3, 1, 70, 70].astype(int) - 127).max() <= 1


def test_tissue_maps_are_cut_once_and_again_where_they_change(cohort, log, tmp_path, monkeypatch):
    cut = []

    def counted(files, geometry):
        cut.append(files[0].name)
        return tissue_maps(files, geometry)

    monkeypatch.setattr("landmarking.preparation.stages.tissue_maps", counted)
    mapped = with_tissues(cohort, [0, 1])
    first = prepared(mapped, tmp_path).prepared
    write_markups(cohort.scans[0].landmarks, {"AC": LANDMARKS.template_mm[0]})
    assert prepared(mapped, tmp_path).computed == {}
    assert cut == ["0_GM.nii.gz", "1_GM.nii.gz"]
    mapped.scans[1].tissues[1].write_bytes(mapped.scans[1].tissues[0].read_bytes())
    again = prepared(mapped, tmp_path).prepared
    assert cut[2:] == ["1_GM.nii.gz"]
    np.testing.assert_array_equal(again.tissues[0], first.tissues[0])
    np.testing.assert_array_equal(again.tissues[1, 1], first.tissues[1, 0])


def test_damaged_results_are_made_again_with_the_same_bytes(cohort, log, tmp_path):
    first = prepared(cohort, tmp_path)
    before = content(first.prepared.folder)
    (first.prepared.folder / "images.npy").write_bytes(b"short")
    for path in (tmp_path / "outputs" / "cache" / "intensity").rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:-8])
    again = prepared(cohort, tmp_path)
    assert again.computed == {"intensity": 4}
    assert content(again.prepared.folder) == before


def test_a_table_for_people_that_was_changed_is_written_again(cohort, log, tmp_path):
    folder = prepared(cohort, tmp_path).prepared.folder
    before = content(folder)
    for spoil in (lambda path: path.write_text("scan_id"), Path.unlink):
        spoil(folder / "qc.csv")
        again = prepared(cohort, tmp_path)
        assert (again.reused, again.computed) == (False, {})
        assert content(folder) == before
    assert prepared(cohort, tmp_path).reused


def test_all_bad_scans_are_listed_at_once_and_the_good_ones_are_kept(cohort, log, tmp_path):
    broken, misplaced, empty = cohort.scans[:3]
    broken.image.write_bytes(broken.image.read_bytes()[:1000])
    write_markups(misplaced.landmarks, {"AC": np.array([0.0, 500.0, 0.0])})
    write_markups(empty.landmarks, {"nose": np.array([0.0, 90.0, 0.0])})
    with pytest.raises(CohortError, match="3 of 4 scans cannot be used") as caught:
        prepared(cohort, tmp_path)
    assert len(caught.value.problems) == 3
    for scan, problem in zip(cohort.scans, caught.value.problems, strict=False):
        assert scan.scan_id in problem
        assert "\n" not in problem
    assert "AC outside the scan's field of view" in caught.value.problems[1]
    assert "holds no landmark of the set msp8" in caught.value.problems[2]
    assert not (tmp_path / "outputs" / "prepared").exists()
    good = replace(cohort, scans=cohort.scans[3:])
    assert prepared(good, tmp_path).computed == {}


def test_bad_scans_are_left_out_listed_and_remembered_on_request(cohort, log, tmp_path):
    broken, misplaced, gone = cohort.scans[:3]
    broken.image.write_bytes(broken.image.read_bytes()[:1000])
    write_markups(misplaced.landmarks, {"AC": np.array([0.0, 500.0, 0.0])})
    gone.image.unlink()
    outputs = tmp_path / "outputs"
    for reused in (False, True):
        done = prepare(cohort, LANDMARKS, SETTINGS, outputs, workers=1, skip_bad=True)
        assert done.reused is reused
        assert [record.scan_id for record in done.prepared.records] == [cohort.scans[3].scan_id]
        assert len(done.skipped) == 3
        assert "truncated or damaged" in done.skipped[0]
    rows = (done.prepared.folder / "skipped.csv").read_text().splitlines()
    assert rows[0] == "scan_id,problem,participant_id,group"
    assert [row.split(",")[0] for row in rows[1:]] == [scan.scan_id for scan in cohort.scans[:3]]
    states = scan_states(done.prepared, done.prepared.groups)
    assert {row["scan_id"]: row["state"] for row in states if row["state"] == "failed"} == {
        scan.scan_id: "failed" for scan in cohort.scans[:3] if scan.group in done.prepared.groups
    }
    assert states[0]["scan_id"] == cohort.scans[3].scan_id
    assert states[0]["state"] in ("done", "flagged")
    # What is there was made without them: whoever wants all is told.
    with pytest.raises(CohortError, match="3 of 4 scans cannot be used"):
        prepare(cohort, LANDMARKS, SETTINGS, outputs, workers=1)


def test_a_missing_file_is_named(cohort, log, tmp_path):
    cohort.scans[1].image.unlink()
    with pytest.raises(CohortError, match=r"sub-01_T1w.nii.gz: a scan is a file, found nothing"):
        prepared(cohort, tmp_path)


def script(function, root, outputs):
    return [sys.executable, str(SCRIPT), function, str(root), str(outputs)]


def is_running(process_id):
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to find the worker processes")
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    root, outputs, log = tmp_path / "noise", tmp_path / "outputs", tmp_path / "noise" / "calls.txt"
    with subprocess.Popen(script("prepare_in_processes", root, outputs)) as process:
        while len(stand_in.calls(log)) < 9:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    workers = {int(number) for _, _, number in stand_in.calls(log)}
    assert process.pid not in workers
    deadline = time.monotonic() + 20
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
    assert not (outputs / "prepared").exists()
    stand_in.install(log, replace=monkeypatch.setattr)
    cohort = stand_in.make_cohort(root, 12)
    again = prepare(cohort, LANDMARKS, SETTINGS, outputs, workers=1)
    registered = [scan for stage, scan, _ in stand_in.calls(log) if stage == "registration"]
    assert len(set(registered)) == 12
    assert len(registered) <= 12 + 2, "only what was under way is made again"
    assert not list((outputs / "prepared").rglob(".tmp-*"))
    whole = prepare(cohort, LANDMARKS, SETTINGS, tmp_path / "whole", workers=1)
    assert content(again.prepared.folder) == content(whole.prepared.folder)


def test_eight_processes_prepare_one_cohort_once(tmp_path):
    root, outputs = tmp_path / "noise", tmp_path / "outputs"
    subprocess.run(script("prepare_eight_times", root, outputs), check=True, timeout=200)
    planes = [scan for stage, scan, _ in stand_in.calls(root / "calls.txt") if stage == "plane"]
    assert len(planes) == len(set(planes)) == 6
    assert len(list((outputs / "prepared").iterdir())) == 1


def test_ensure_prepared_opens_the_configured_cohort_once(cohort, log, tmp_path, monkeypatch):
    from landmarking.preparation.sources import CohortConfig

    monkeypatch.setattr("landmarking.preparation.prepare.open_cohort", lambda *_, **__: cohort)
    config = CohortConfig(kind="bids", root=str(cohort.root))
    first = ensure_prepared(config, LANDMARKS, SETTINGS, tmp_path / "outputs", 1)
    again = ensure_prepared(config, LANDMARKS, SETTINGS, tmp_path / "outputs")
    assert again.digest == first.digest
    assert len(stand_in.calls(log)) == 8
    assert prepare_cohort(cohort, LANDMARKS, SETTINGS, tmp_path / "outputs").digest == first.digest


def test_landmarks_are_chosen_by_set_and_name():
    assert LandmarksConfig().build() == landmark_set("msp8")
    assert LandmarksConfig("msp10", ["PG", "AC"]).build().names == ("PG", "AC")


def test_finished_scans_are_found_without_being_read_again(cohort, log, tmp_path, monkeypatch):
    prepared(cohort, tmp_path)
    read = []
    monkeypatch.setattr("landmarking.preparation.cache.file_sha256", read.append)
    assert prepared(cohort, tmp_path).reused
    assert read == []
