"""The cohort of real people: its landmarks come with the project, its scans do not."""

import math

import numpy as np
import pytest

from landmarking.cohort.tree import PEOPLE_FOLDER, PEOPLE_GROUPS, raters, read_people
from landmarking.config import PROJECT
from landmarking.errors import CohortError
from landmarking.landmarks import landmark_set, read_landmarks

FILES = {group: sorted((PEOPLE_FOLDER / group).glob("*.fcsv")) for group in PEOPLE_GROUPS}


@pytest.fixture
def tree(tmp_path):
    """Both data sets with empty scans."""
    for landmarks in (path for files in FILES.values() for path in files):
        dataset, _, person = landmarks.stem.partition("_")
        folder = tmp_path / dataset / person / "anat"
        folder.mkdir(parents=True)
        (folder / f"{person}_T1w.nii.gz").touch()
    table = "participant_id\tage\tgender\tgroup\nsub-03\t47\tf\tdepr\nsub-04\tn/a\tm\tdepr\n"
    (tmp_path / "ds002748" / "participants.tsv").write_text(table)
    return tmp_path


def test_the_tree_is_read_with_our_landmarks(tree):
    cohort = read_people(tree)
    assert [len(cohort.select([group])) for group in PEOPLE_GROUPS] == [47, 10]
    assert len({scan.participant_id for scan in cohort.scans}) == 57
    scan = next(scan for scan in cohort.scans if scan.scan_id == "ds002748_sub-03")
    assert (scan.group, scan.sex, scan.age) == ("ten", "F", 47.0)
    assert scan.image.parts[-4:-1] == ("ds002748", "sub-03", "anat")
    assert not cohort.simulated


def test_missing_scans_are_all_named_with_the_way_to_get_them(tree):
    for person in ("sub-03", "sub-05"):
        (tree / "ds002748" / person / "anat" / f"{person}_T1w.nii.gz").unlink()
    with pytest.raises(CohortError, match="datalad install") as caught:
        read_people(tree)
    assert len(caught.value.problems) == 2
    assert "ds002748/sub-05" in str(caught.value)


def test_every_person_has_landmarks_that_lie_as_in_a_head():
    names = set(landmark_set("msp8").names)
    for path in (path for files in FILES.values() for path in files):
        points = read_landmarks(path)
        assert points.keys() == names
        forward = points["AC"] - points["PC"]
        assert 21.0 < np.linalg.norm(forward) < 33.0, path
        assert forward[1] > 0, "AC lies in front of PC, in RAS"
        assert points["GENU"] @ forward > points["AC"] @ forward > points["SPLE"] @ forward


def test_the_ten_are_placed_by_more_raters_than_the_others():
    ten = [value for path in FILES["ten"] for value in raters(path).values()]
    others = [value for path in FILES["people"] for value in raters(path).values()]
    assert np.nanmean([apart for _, apart in ten]) == pytest.approx(0.39, abs=0.005)
    assert np.mean([count for count, _ in ten]) > 3 > np.mean([count for count, _ in others])
    assert all(math.isnan(apart) == (count == 1) for count, apart in [*ten, *others])


@pytest.mark.skipif(
    not (PROJECT.parent / "shared" / "people").is_dir(), reason="the scans are not at ../shared"
)
def test_the_scans_are_there():
    assert len(read_people(PROJECT.parent / "shared" / "people").scans) == 57
