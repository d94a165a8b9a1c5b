import json

import pytest

from landmarking.cohort.bids import (
    AFIDS_LAYOUT,
    Participant,
    landmark_path,
    read_cohort,
    read_participants,
    scan_path,
    tissue_paths,
    write_description,
    write_participants,
)
from landmarking.errors import CohortError


def test_people_left_out_are_kept_in_the_table(tmp_path):
    people = [
        Participant("sub-01", "train", 74.5, "F"),
        Participant("sub-03", "DS", None, exclude="moved"),
    ]
    write_participants(tmp_path, people)
    assert read_participants(tmp_path) == {row.participant_id: row for row in people}


def test_a_tree_says_what_it_is(tmp_path):
    write_description(tmp_path, "three people", simulated=True)
    description = json.loads((tmp_path / "dataset_description.json").read_text())
    assert (description["Name"], description["Simulated"]) == ("three people", True)


def test_tissue_maps_are_named_after_their_scan(tmp_path):
    image = scan_path(tmp_path, "sub-02", "ses-1").with_suffix("")
    grey, _, _ = tissue_paths(tmp_path / "derivatives/x", image, tmp_path)
    folder = tmp_path / "derivatives/x/sub-02/ses-1/anat"
    assert grey == folder / "sub-02_ses-1_label-GM_probseg.nii.gz"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


@pytest.fixture
def tree(tmp_path):
    """Three sessions of one person, a scan without landmarks, an .fcsv, a person left out."""
    people = [
        Participant("sub-01", "train", 74.5, "F"),
        Participant("sub-02", "HS"),
        Participant("sub-03", "DS", exclude="moved"),
    ]
    write_participants(tmp_path, people)
    write_description(tmp_path, "three people")
    for session in ("ses-01", "ses-02", "ses-03"):
        touch(scan_path(tmp_path, "sub-01", session))
    touch(scan_path(tmp_path, "sub-02"))
    touch(scan_path(tmp_path, "sub-03"))
    touch(landmark_path(tmp_path, "sub-01", "ses-01"))
    touch(tmp_path / "derivatives/landmarks/anywhere/sub-01_ses-02_landmarks.fcsv")
    return tmp_path


def test_reads_people_sessions_and_landmarks(tree):
    cohort = read_cohort(tree, name="mine")
    assert [scan.scan_id for scan in cohort.scans] == [
        "sub-01_ses-01",
        "sub-01_ses-02",
        "sub-01_ses-03",
        "sub-02",
    ]
    first, second, third, other = cohort.scans
    assert {scan.participant_id for scan in (first, second, third)} == {"sub-01"}
    assert (first.session, first.group, first.age, first.sex) == ("ses-01", "train", 74.5, "F")
    assert first.landmarks == landmark_path(tree, "sub-01", "ses-01")
    assert second.landmarks is not None
    assert second.landmarks.suffix == ".fcsv"
    assert third.landmarks is None
    assert (other.session, other.age, other.sex) == (None, None, None)
    assert (cohort.name, cohort.groups, cohort.simulated) == ("mine", ("train", "HS"), False)


def test_a_scan_is_left_out_by_its_own_table_and_its_person_stays(tree):
    table = tree / "sub-01/ses-02/sub-01_ses-02_scans.tsv"
    table.write_text("filename\texclude\nanat/sub-01_ses-02_T1w.nii.gz\tmotion\n")
    (tree / "sub-01/ses-03/sub-01_ses-03_scans.tsv").write_text(
        "filename\texclude\nanat/sub-01_ses-03_T1w.nii.gz\tn/a\n"
    )
    cohort = read_cohort(tree)
    assert [scan.scan_id for scan in cohort.scans] == ["sub-01_ses-01", "sub-01_ses-03", "sub-02"]
    assert "1 scan(s) are left out by the column exclude of scans.tsv" in cohort.notes
    table.write_text("file\nx\n")
    with pytest.raises(CohortError, match=r"sub-01_ses-02_scans\.tsv"):
        read_cohort(tree)


def test_selects_groups_and_names_the_missing_one(tree):
    cohort = read_cohort(tree)
    assert [scan.scan_id for scan in cohort.select(["HS"])] == ["sub-02"]
    with pytest.raises(CohortError, match=r"no group DS; its groups are train, HS"):
        cohort.select(["HS", "DS"])


def test_all_problems_come_at_once(tree):
    text = (tree / "participants.tsv").read_text()
    text = text.replace("74.5", "old") + "sub-02\tHS\tn/a\tn/a\tn/a\nsub-04\tHS\tn/a\tn/a\tn/a\n"
    (tree / "participants.tsv").write_text(text)
    touch(scan_path(tree, "sub-09"))
    touch(landmark_path(tree, "sub-02"))
    touch(landmark_path(tree, "sub-02").with_name("sub-02_landmarks.fcsv"))
    touch(landmark_path(tree, "sub-08"))
    touch(tree / "sub-02/anat/sub-05_T1w.nii.gz")
    with pytest.raises(CohortError) as caught:
        read_cohort(tree)
    expected = (
        "age 'old'",
        "sub-02 comes twice",
        "sub-04 has no scan",
        "sub-09 is not in participants.tsv",
        "sub-02: has two landmark files",
        "sub-08_landmarks.mrk.json: belongs to no scan",
        "must begin with sub-02",
    )
    for text in expected:
        assert sum(text in problem for problem in caught.value.problems) == 1, text
    assert len(caught.value.problems) == len(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("", "no column participant_id, group"),
        ("participant_id\tgroup\n01\tHS\n", "starts with sub-"),
        ("participant_id\tgroup\nsub-01\tn/a\n", "a group"),
        ("participant_id\tgroup\nsub-01 HS\n", "2 cells expected, found 1"),
    ],
)
def test_a_wrong_table_is_described(tmp_path, text, message):
    if text is not None:
        (tmp_path / "participants.tsv").write_text(text)
    with pytest.raises(CohortError, match=message):
        read_cohort(tmp_path)


def test_simulated_is_what_the_tree_says_of_itself(tree):
    write_description(tree, "heads", simulated=True)
    assert read_cohort(tree).simulated
    (tree / "dataset_description.json").write_text("[]")
    with pytest.raises(CohortError, match="not a JSON object"):
        read_cohort(tree)


def test_afids_layout_matches_files_by_their_entities(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-P001\nsub-P002\n")
    touch(tmp_path / "sub-P001/anat/sub-P001_acq-MP2RAGE_run-01_T1w.nii.gz")
    touch(tmp_path / "sub-P002/anat/sub-P002_T1w.nii.gz")
    truth = tmp_path / "derivatives/afids_groundtruth"
    touch(truth / "sub-P001/anat/sub-P001_acq-MP2RAGE_run-01_desc-groundtruth_afids.fcsv")
    touch(truth / "sub-P002/anat/sub-P002_afids.fcsv")
    cohort = read_cohort(tmp_path, layout=AFIDS_LAYOUT)
    assert all(scan.landmarks is not None for scan in cohort.scans)
    assert cohort.groups == ("HS",)
    with pytest.raises(CohortError, match="no column group"):
        read_cohort(tmp_path)


def test_tissue_maps_are_found_in_any_derivative_that_has_all_three(tree):
    first, second = scan_path(tree, "sub-01", "ses-01"), scan_path(tree, "sub-02")
    for path in tissue_paths(tree / "derivatives/fmriprep", first, tree):
        touch(path)
    for path in tissue_paths(tree / "derivatives/fmriprep", second, tree)[:2]:
        touch(path)
    scans = {scan.scan_id: scan for scan in read_cohort(tree).scans}
    assert [path.name for path in scans["sub-01_ses-01"].tissues] == [
        f"sub-01_ses-01_label-{label}_probseg.nii.gz" for label in ("GM", "WM", "CSF")
    ]
    assert scans["sub-02"].tissues is None
    assert scans["sub-01_ses-02"].tissues is None


def test_files_that_begin_with_a_dot_are_nobodys(tree):
    before = read_cohort(tree)
    image = scan_path(tree, "sub-02")
    touch(image.with_name(f"._{image.name}"))
    touch(image.with_name(f".tmp-host-1-00aa-{image.name}"))
    touch(tree / "derivatives/landmarks/._sub-01_landmarks.mrk.json")
    assert read_cohort(tree) == before
