import json
import re
import socket
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from landmarking.cohort.bids import read_cohort, write_description
from landmarking.errors import CohortError
from landmarking.imaging.scan import load_scan
from landmarking.landmarks import landmark_set, read_landmarks
from landmarking.phantom.dataset import planned_scans, record_path, write_phantom_cohort


def content(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory, coarse):
    root = tmp_path_factory.mktemp("cohort")
    write_phantom_cohort(root, coarse, workers=1, progress=False)
    return root


def test_the_tree_is_a_cohort(tree, coarse):
    cohort = read_cohort(tree)
    assert cohort.simulated
    assert {group: len(cohort.select([group])) for group in cohort.groups} == {
        "train": 3,
        "HS": 1,
        "DS": 1,
    }
    assert all(scan.session is not None for scan in cohort.select(["train"]))
    landmarks = landmark_set("afids32")
    for record in cohort.scans:
        scan = load_scan(record.image)
        points = landmarks.arrange(read_landmarks(record.landmarks))
        voxels = np.linalg.inv(scan.affine) @ np.c_[points, np.ones(32)].T
        assert (voxels[:3] > 0).all()
        assert (np.array(scan.data.shape) - 1 > voxels[:3].T).all()
        assert scan.data.max() > 3 * np.median(scan.data)
        assert record.age is not None


def test_tissue_maps_lie_on_the_grid_of_their_scan(tree):
    record = read_cohort(tree).scans[0]
    folder = tree / "derivatives/tissues" / record.image.parent.relative_to(tree)
    maps = sorted(folder.glob(f"{record.scan_id}_label-*_probseg.nii.gz"))
    assert [path.name.split("label-")[1][:3] for path in maps] == ["CSF", "GM_", "WM_"]
    scan = load_scan(record.image)
    for path in maps:
        share = load_scan(path)
        assert share.data.shape == scan.data.shape
        assert share.affine == pytest.approx(scan.affine)


def test_two_workers_write_the_same_bytes(tree, tmp_path, coarse):
    write_phantom_cohort(tmp_path, coarse, workers=2, progress=False)
    assert content(tmp_path) == content(tree)


def test_a_build_says_how_many_seconds_a_head_took(tmp_path, coarse, capsys):
    small = replace(coarse, train=0, scans_per_person=1.0, keep_tissues=False)
    write_phantom_cohort(tmp_path, small)
    said = capsys.readouterr()
    number = r"\d+\.\d\d s of one core a head, with its files\n"
    assert re.search(rf"made 2 phantom heads in \d+ s: {number}", said.err)
    assert said.out == ""
    write_phantom_cohort(tmp_path, small)
    assert "made" not in capsys.readouterr().err


def test_complete_heads_stay_and_others_are_made_again(tree, coarse):
    before = content(tree)
    plan = planned_scans(coarse)
    times = {path: path.stat().st_mtime_ns for path in tree.rglob("*.nii.gz")}
    record_path(tree, plan[1]).unlink()
    other = record_path(tree, plan[3])
    other.write_text(other.read_text().replace(coarse.digest(), "0" * 16))
    write_phantom_cohort(tree, coarse, workers=1, progress=False)
    assert content(tree) == before
    changed = {path.name for path, at in times.items() if path.stat().st_mtime_ns != at}
    made = {name.split("_label")[0].split("_T1w")[0] for name in changed}
    assert made == {
        "_".join(part for part in (plan[n].participant_id, plan[n].session) if part) for n in (1, 3)
    }


def test_more_heads_leave_the_first_as_they_are(coarse):
    longer = planned_scans(replace(coarse, train=9))
    assert planned_scans(coarse)[:3] == longer[:3]


def test_scans_of_a_person_follow_the_mean_asked_for(coarse):
    plan = planned_scans(replace(coarse, train=1837, scans_per_person=2.6))
    people = {scan.participant_id for scan in plan if scan.subject.group == "train"}
    assert len(plan) == 1837 + 2
    assert 1837 / len(people) == pytest.approx(2.6, abs=0.1)
    assert {scan.subject.scan for scan in plan} == set(range(5))


def test_a_smaller_cohort_leaves_no_strangers_in_the_tree(tmp_path, coarse):
    small = replace(coarse, train=0, scans_per_person=1.0, keep_tissues=False)
    write_phantom_cohort(tmp_path, small, progress=False)
    write_phantom_cohort(tmp_path, replace(small, healthy=0), progress=False)
    assert [scan.group for scan in read_cohort(tmp_path).scans] == ["DS"]
    assert not (tmp_path / "derivatives/tissues").exists()
    assert len(list(tmp_path.rglob("*_T1w.nii.gz"))) == 1
    assert len(list(tmp_path.rglob("*_landmarks.mrk.json"))) == 1


def test_other_peoples_folders_are_refused(tmp_path, coarse):
    (tmp_path / "thesis.txt").write_text("a year's work")
    with pytest.raises(CohortError, match="a folder with other files"):
        write_phantom_cohort(tmp_path, coarse, progress=False)
    write_description(tmp_path, "real scans")
    with pytest.raises(CohortError, match="a cohort of real scans"):
        write_phantom_cohort(tmp_path, coarse, progress=False)
    assert json.loads((tmp_path / "dataset_description.json").read_text())["Name"] == "real scans"


def test_what_a_killed_build_left_is_cleared_away(tmp_path, coarse):
    small = replace(coarse, train=0, scans_per_person=1.0, keep_tissues=False)
    write_phantom_cohort(tmp_path, small, progress=False)
    before = content(tmp_path)
    plan = planned_scans(small)
    record_path(tmp_path, plan[0]).write_text('{"digest": ')
    dead = subprocess.Popen(["true"])
    dead.wait()
    image = read_cohort(tmp_path).scans[0].image
    owner = f"{socket.gethostname()}-{dead.pid}"
    image.with_name(f".tmp-{owner}-00aa-{image.name}").write_bytes(b"half")
    write_phantom_cohort(tmp_path, small, progress=False)
    assert content(tmp_path) == before


def test_a_folder_whose_description_cannot_be_read_is_left_alone(tmp_path, coarse):
    (tmp_path / "dataset_description.json").write_text("{")
    with pytest.raises(CohortError, match="a cohort of real scans"):
        write_phantom_cohort(tmp_path, coarse, progress=False)
