from dataclasses import replace
from pathlib import Path

import pytest

from landmarking.cohort.records import Cohort, ScanRecord
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.landmarks import landmark_set
from landmarking.preparation.assembly import cohort_digest, combined_digest, input_digests
from landmarking.preparation.cache import UNREAD

IMAGE, POINTS = Path("image"), Path("points")
SCAN = ScanRecord("s1", "p1", None, "HS", IMAGE, POINTS, 31.0, "F")
COHORT = Cohort("demo", Path("root"), (SCAN,), simulated=False)
DIGESTS = {IMAGE: "aa", POINTS: "bb"}
MSP8 = landmark_set("msp8")


def digest(cohort=COHORT, landmarks=MSP8, settings=None, digests=None):
    return cohort_digest(cohort, landmarks, settings or PreprocessSettings(), digests or DIGESTS)


@pytest.mark.parametrize(
    "changed",
    [
        {"cohort": replace(COHORT, name="other")},
        {"cohort": replace(COHORT, simulated=True)},
        {"cohort": replace(COHORT, scans=(replace(SCAN, group="DS"),))},
        {"cohort": replace(COHORT, scans=(replace(SCAN, age=32.0),))},
        {"cohort": replace(COHORT, scans=(replace(SCAN, participant_id="p2"),))},
        {"cohort": replace(COHORT, scans=(replace(SCAN, landmarks=None),))},
        {"landmarks": landmark_set("msp10")},
        {"landmarks": MSP8.subset(["PC", "AC"])},
        {"settings": PreprocessSettings(registration="affine")},
        {"digests": {IMAGE: "ab", POINTS: "bb"}},
        {"digests": {IMAGE: "aa", POINTS: "bc"}},
    ],
)
def test_whatever_decides_a_cohort_moves_its_digest(changed):
    assert digest(**changed) != digest()


def test_tissue_maps_move_the_digest_by_their_bytes():
    maps = (Path("gm"), Path("wm"), Path("csf"))
    cohort = replace(COHORT, scans=(replace(SCAN, tissues=maps),))
    digests = {**DIGESTS, **dict(zip(maps, ("1", "2", "3"), strict=True))}
    with_maps = digest(cohort, digests=digests)
    assert with_maps != digest()
    assert digest(cohort, digests={**digests, maps[2]: "4"}) != with_maps


@pytest.mark.parametrize(
    "changed",
    [
        {"cohort": replace(COHORT, root=Path("elsewhere"))},
        {"settings": PreprocessSettings(normalisation="batch")},
    ],
)
def test_place_and_normalisation_do_not(changed):
    assert digest(**changed) == digest()


def test_input_bytes_are_told_by_one_digest_wherever_the_cohort_lies():
    first, second = (tuple(Path(place, name) for name in ("1", "2", "3")) for place in "ab")
    digests = dict(zip(first + second, "xyzxyz", strict=True))

    def cohort(paths):
        other = replace(SCAN, scan_id="s2", image=paths[1], landmarks=None, tissues=(paths[2],))
        scans = (replace(SCAN, image=paths[0], landmarks=None), other)
        return Cohort(paths[0].parent.name, paths[0].parent, scans)

    one = combined_digest(cohort(first), digests)
    assert combined_digest(cohort(second), digests) == one
    backwards = replace(cohort(first), scans=cohort(first).scans[::-1])
    assert combined_digest(backwards, digests) == one
    for path in first:
        assert combined_digest(cohort(first), {**digests, path: "changed"}) != one


def test_a_file_that_cannot_be_read_stops_no_other(tmp_path):
    absent = tmp_path / "absent.nii"
    cohort = replace(COHORT, scans=(replace(SCAN, image=absent, landmarks=None),))
    assert input_digests(cohort, tmp_path, 1) == {absent: UNREAD}
