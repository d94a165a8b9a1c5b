"""Trees and tables of other hands: what is read, what is left out and said, what is refused.

A new example is one line of a table. `-k inputs` runs all such tables.
"""

import nibabel as nib
import numpy as np
import pytest

from landmarking.cohort.bids import gather, main, read_cohort, scan_path
from landmarking.cohort.records import read_participants
from landmarking.errors import CohortError, LandmarkError
from landmarking.landmarks import landmark_set, read_landmarks, write_fcsv, write_markups
from landmarking.preparation.sources import CohortConfig, group_remarks

MSP8 = landmark_set("msp8")
POINTS = dict(zip(MSP8.names, MSP8.template_mm, strict=True))
HEAD = "participant_id\tgroup\tage\tsex\texclude\n"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


@pytest.fixture
def tree(tmp_path):
    """Two people with a scan and landmarks each."""
    for person in ("sub-01", "sub-02"):
        touch(scan_path(tmp_path, person))
        write_markups(place(tmp_path, f"{person}_landmarks.mrk.json"), POINTS)
    (tmp_path / "participants.tsv").write_text(
        f"{HEAD}sub-01\tHS\t30\tF\tn/a\nsub-02\tHS\t31\tM\tn/a\n"
    )
    return tmp_path


def place(root, name):
    folder = root / "derivatives/landmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


# What the table holds, as bytes or text, and what is read: (group, age, sex, exclude) of sub-01.
TABLES = {
    "NA of R, with quotation marks": (
        '"participant_id"\t"group"\t"age"\t"sex"\t"exclude"\n"sub-01"\t"HS"\tNA\tNA\tNA\n',
        ("HS", None, None, ""),
    ),
    "zeros of pandas": (f"{HEAD}sub-01\tHS\t30.0\tF\t0.0\n", ("HS", 30.0, "F", "")),
    "ones of pandas": (f"{HEAD}sub-01\tHS\t30.0\tF\t1.0\n", ("HS", 30.0, "F", "1.0")),
    "FALSE of R": (f"{HEAD}sub-01\tHS\t30\tF\tFALSE\n", ("HS", 30.0, "F", "")),
    "gaps of pandas": (f"{HEAD}sub-01\tHS\t\t\tNaN\n", ("HS", None, None, "")),
    "a reason": (f"{HEAD}sub-01\tHS\t30\tF\tmoved\n", ("HS", 30.0, "F", "moved")),
    "an open quotation mark": (
        f'{HEAD}sub-01\tHS\t30\tF\t"5 years\n',
        ("HS", 30.0, "F", '"5 years'),
    ),
    "byte order mark": (f"\ufeff{HEAD}sub-01\tHS\t30\tF\t\n", ("HS", 30.0, "F", "")),
    "UTF-16 of Excel": (f"{HEAD}sub-01\tHS\t30\tF\t\n".encode("utf-16"), ("HS", 30.0, "F", "")),
    "lines of Windows": (
        f"{HEAD}sub-01\tHS\t30\tF\t\n".replace("\n", "\r\n"),
        ("HS", 30.0, "F", ""),
    ),
    "lines of an old Mac": (
        f"{HEAD}sub-01\tHS\t30\tF\t\n".replace("\n", "\r"),
        ("HS", 30.0, "F", ""),
    ),
    "blank lines": (f"{HEAD}\nsub-01\tHS\t30\tF\t\n\t\t\t\t\n", ("HS", 30.0, "F", "")),
    "an id without sub-": (f"{HEAD}01\tHS\t30\tF\t\n", ("HS", 30.0, "F", "")),
    "age in a class": (f"{HEAD}sub-01\tHS\t89+\tF\t\n", ("HS", 89.0, "F", "")),
}

REFUSED = {
    "commas": ("participant_id,group\nsub-01,HS\n", "columns are separated by tabs"),
    "another case": ("Participant_ID\tGroup\nsub-01\tHS\n", "Group is to be called group"),
    "Latin-1": (f"{HEAD}sub-01\tHS\t30\tF\tM\u00fcller\n".encode("latin-1"), "no UTF-8"),
    "two columns of one name": ("participant_id\tgroup\tgroup\nsub-01\tHS\tHS\n", "two columns"),
    "a row short of cells": (f"{HEAD}sub-01\tHS\n", "5 cells expected, found 2"),
    "no group": (f"{HEAD}sub-01\tNA\t\t\t\n", "needs an id that starts with sub- and a group"),
    "everybody excluded": (
        f"{HEAD}sub-01\tHS\t\t\tyes\nsub-02\tHS\t\t\tyes\n",
        "all 2 people with a scan are left out",
    ),
}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("example", TABLES)
def test_inputs_of_people_are_read(tree, example):
    content, expected = TABLES[example]
    write(tree / "participants.tsv", content)
    row = read_participants(tree)["sub-01"]
    assert (row.group, row.age, row.sex, row.exclude) == expected


@pytest.mark.parametrize("example", REFUSED)
def test_inputs_of_people_are_refused_in_words(tree, example):
    content, words = REFUSED[example]
    write(tree / "participants.tsv", content)
    with pytest.raises(CohortError) as caught:
        read_cohort(tree)
    assert words in str(caught.value)
    assert "Error" not in str(caught.value)


def test_inputs_with_ids_without_zeros_are_one_line_that_names_the_nearest(tree):
    text = (tree / "participants.tsv").read_text().replace("sub-0", "sub-")
    (tree / "participants.tsv").write_text(text)
    with pytest.raises(CohortError) as caught:
        read_cohort(tree)
    (problem,) = caught.value.problems
    assert "calls sub-1 what is called sub-01 in the tree, and 1 more" in problem


def other_space(root):
    write_markups(place(root, "sub-01_space-MNI152NLin2009cAsym_landmarks.mrk.json"), POINTS)


def own_space(root):
    place(root, "sub-01_landmarks.mrk.json").rename(
        place(root, "sub-01_space-T1w_landmarks.mrk.json")
    )


def plain_json(root):
    place(root, "sub-01_landmarks.mrk.json").rename(place(root, "sub-01_landmarks.json"))


def wrong_ending(root):
    place(root, "sub-01_landmarks.mrk.json").rename(place(root, "sub-01_points.fcsv"))


def linked(root):
    folder = root / "derivatives/landmarks"
    folder.rename(root.parent / f"{root.name}-points")
    folder.symlink_to(root.parent / f"{root.name}-points")
    (folder / "loop").symlink_to(folder)


def linked_people(root):
    (root / "sub-01").rename(root.parent / f"{root.name}-01")
    (root / "sub-01").symlink_to(root.parent / f"{root.name}-01")


def made_from_raw(root):
    touch(root / "sub-01/anat/sub-01_space-MNI152NLin6Asym_desc-preproc_T1w.nii.gz")


def both_formats(root):
    write_fcsv(place(root, "sub-01_landmarks.fcsv"), POINTS)


def predicted(root):
    made = {"generated_by": "landmarking 0.1.0, model test"}
    write_markups(place(root, "sub-01_landmarks.mrk.json"), POINTS, **made)


def description_with_mark(root):
    (root / "dataset_description.json").write_text('\ufeff{"Name": "x", "Simulated": false}')


def capitals(root):
    place(root, "sub-01_landmarks.mrk.json").rename(place(root, "sub-01_landmarks.MRK.JSON"))


# What is done to the tree, whether sub-01 has landmarks then, and words of what is said.
TREES = {
    "points in another space": (other_space, True, "lies in space-MNI152NLin2009cAsym"),
    "points in the scan's space": (own_space, True, ""),
    "points as .json": (plain_json, True, ""),
    "points in capitals": (capitals, True, ""),
    "points under another name": (wrong_ending, False, "sub-01_points.fcsv: is not read"),
    "points behind links": (linked, True, ""),
    "people behind links": (linked_people, True, ""),
    "points in both formats": (both_formats, True, ""),
    "points of a model": (predicted, False, "were written by a model"),
    "a scan made from the scan": (made_from_raw, True, "made from the scan beside it"),
    "byte order mark": (description_with_mark, True, ""),
}


@pytest.mark.parametrize("example", TREES)
def test_inputs_of_trees_are_read_or_said(tree, example):
    change, known, words = TREES[example]
    change(tree)
    cohort = read_cohort(tree, skip_bad=True)
    assert [scan.scan_id for scan in cohort.scans] == ["sub-01", "sub-02"]
    assert (cohort.scans[0].landmarks is not None) == known
    said = [*cohort.bad, *cohort.notes]
    assert [words in line for line in said] == ([True] if words else [])


def test_inputs_that_are_bad_leave_the_others_alone(tree):
    touch(scan_path(tree, "sub-09"))
    touch(tree / "sub-02/anat/sub-03_T1w.nii.gz")
    write_fcsv(place(tree, "sub-07_landmarks.fcsv"), POINTS)
    with (tree / "participants.tsv").open("a") as table:
        table.write("sub-05\tHS\t\t\t\n")
    cohort = read_cohort(tree, skip_bad=True)
    assert len(cohort.scans) == 2
    assert len(cohort.bad) == 4
    with pytest.raises(CohortError) as caught:
        read_cohort(tree)
    assert set(caught.value.problems) == set(cohort.bad)


@pytest.mark.parametrize(
    ("train", "test", "bad", "notes"),
    [
        ([], ["HS"], [], []),
        (["train"], ["HS"], [], ["names train, and no scan"]),
        ([], ["hs"], ["group HS (2 scans) is in neither"], ["names hs, and no scan"]),
        ([], [], [], ["group HS (2 scans) is in neither"]),
    ],
)
def test_inputs_of_groups_that_no_list_names_are_said(tree, train, test, bad, notes):
    config = CohortConfig("bids", root=str(tree), train_groups=train, test_groups=test)
    found = group_remarks(config, read_cohort(tree))
    for lines, expected in zip(found, (bad, notes), strict=True):
        assert len(lines) == len(expected)
        assert all(words in line for words, line in zip(expected, lines, strict=True))


# Gathering scans.


def scan(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    affine[:3, 3] = -95.0, -130.0, -90.0
    data = np.random.default_rng(0).integers(0, 200, (32, 38, 32)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def test_inputs_of_one_person_stay_one_person(tmp_path):
    files = [
        scan(tmp_path / "in" / f"{name}.nii.gz")
        for name in ("sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-01_run-2", "Patient_7 a,b=c")
    ]
    root = tmp_path / "tree"
    gather(root, "HS", [(path, None) for path in files])
    found = {each.scan_id: (each.participant_id, each.session) for each in read_cohort(root).scans}
    assert found == {
        "sub-01_ses-1": ("sub-01", "ses-1"),
        "sub-01_ses-2": ("sub-01", "ses-2"),
        "sub-01_run-2": ("sub-01", None),
        "sub-Patient7abc": ("sub-Patient7abc", None),
    }
    with pytest.raises(CohortError, match=r"sub-01 is in .* already, in the group HS"):
        gather(root, "DS", [(scan(tmp_path / "sub-01_ses-3.nii"), None)])
    with pytest.raises(CohortError, match="sub-01_ses-1 is in"):
        gather(root, "HS", [(files[0], None)])


def test_inputs_gathered_before_keep_their_tables(tmp_path):
    root = tmp_path / "tree"
    gather(root, "HS", [(scan(tmp_path / "a.nii.gz"), None)])
    table = root / "participants.tsv"
    table.write_text("participant_id\tsite\tgroup\r\nsub-a\tBarcelona\tHS\r\n")
    (root / "dataset_description.json").write_text('{"Name": "my own words"}')
    gather(root, "DS", [(scan(tmp_path / "b.nii.gz"), None)])
    assert table.read_text().splitlines() == [
        "participant_id\tsite\tgroup",
        "sub-a\tBarcelona\tHS",
        "sub-b\tn/a\tDS",
    ]
    assert "my own words" in (root / "dataset_description.json").read_text()


def test_inputs_with_equals_signs_and_a_bad_one_among_them(tmp_path, capsys):
    good, points = scan(tmp_path / "a=b" / "p=1.nii.gz"), tmp_path / "a=b" / "p=1.fcsv"
    write_fcsv(points, POINTS)
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan")
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "tree"), "--group", "HS", f"{good}={points}", str(bad)])
    said = capsys.readouterr()
    assert end.value.code == 1
    assert "1 of 2 scans added" in said.out
    assert "left out" in said.err
    assert "bad.nii.gz" in said.err
    (found,) = read_cohort(tmp_path / "tree").scans
    np.testing.assert_allclose(read_landmarks(found.landmarks)["AC"], POINTS["AC"])


def test_inputs_that_a_model_has_written_are_not_gathered_as_truth(tmp_path):
    image = scan(tmp_path / "a.nii.gz")
    write_fcsv(tmp_path / "a.fcsv", POINTS, generated_by="landmarking 0.1.0, model test")
    with pytest.raises(LandmarkError, match="is no truth"):
        gather(tmp_path / "tree", "HS", [(image, tmp_path / "a.fcsv")])


def test_inputs_into_a_folder_that_cannot_be_made_are_one_message(tmp_path, capsys):
    image = scan(tmp_path / "a.nii.gz")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "file" / "tree"), "--group", "HS", str(image)])
    assert end.value.code == 2
    assert "cannot be written" in capsys.readouterr().err
