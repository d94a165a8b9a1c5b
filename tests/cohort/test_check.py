import nibabel as nib
import numpy as np
import pytest

from landmarking.cohort.bids import gather, landmark_path, main, read_cohort, scan_path
from landmarking.cohort.records import Finding, check_prepared
from landmarking.errors import CohortError, LandmarkError
from landmarking.landmarks import landmark_set, write_fcsv, write_markups

MSP8 = landmark_set("msp8")
POINTS = dict(zip(MSP8.names, MSP8.template_mm, strict=True))


def scan(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    affine[:3, 3] = -95.0, -130.0, -90.0
    data = np.random.default_rng(0).integers(0, 200, (32, 38, 32)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture
def tree(tmp_path):
    files = tmp_path / "files"
    scans = [scan(files / f"p{n}.nii.gz") for n in range(4)]
    write_fcsv(files / "p0.fcsv", POINTS)
    write_markups(files / "p1.mrk.json", {name: POINTS[name] for name in ("AC", "PC")})
    root = tmp_path / "tree"
    gather(root, "HS", [(scans[0], files / "p0.fcsv"), (scans[1], files / "p1.mrk.json")])
    main([str(root), "--group", "DS", str(scans[2])])
    return root


def test_gathered_scans_make_a_cohort(tree):
    cohort = read_cohort(tree)
    assert [(item.scan_id, item.group) for item in cohort.scans] == [
        ("sub-p0", "HS"),
        ("sub-p1", "HS"),
        ("sub-p2", "DS"),
    ]
    assert cohort.scans[0].landmarks == landmark_path(tree, "sub-p0")
    copied = (tree.parent / "files/p0.nii.gz").read_bytes()
    assert scan_path(tree, "sub-p0").read_bytes() == copied
    assert not cohort.simulated


def test_a_check_counts_what_is_there_and_lists_what_is_not(tree):
    cohort = read_cohort(tree)
    known = np.zeros((3, 8), dtype=bool)
    known[0], known[1, :2] = True, True
    said = [(None, ()), (None, ("a doubt",)), ("sub-p2: truncated; copy it again", ())]
    check = check_prepared(
        cohort,
        MSP8,
        [Finding(s, *w, k) for s, w, k in zip(cohort.scans, said, known, strict=True)],
    )
    assert check.problems == ("sub-p2: truncated; copy it again",)
    assert check.notes == (
        "sub-p1: a doubt",
        "sub-p1: has no ICS, PMJ, CUL, IMS, GENU, SPLE; masked everywhere",
    )
    assert "HS: 2 scans of 2 people, 10 of 16 landmarks of msp8\n" in check.text
    assert "DS: 1 scans of 1 people, 0 of 8 landmarks of msp8, 1 scans without landmarks" in (
        check.text
    )


def test_gathering_refuses_what_it_cannot_use(tree, tmp_path):
    files = tmp_path / "files"
    with pytest.raises(CohortError, match="sub-p2 is in"):
        gather(tree, "HS", [(files / "p2.nii.gz", None)])
    with pytest.raises(CohortError, match="there is none here"):
        gather(tree, "HS", [(files / "p9.nii.gz", None)])
    write_fcsv(files / "p3.fcsv", {"nose": np.zeros(3)})
    with pytest.raises(LandmarkError, match="no landmark of the AFIDs protocol"):
        gather(tree, "HS", [(files / "p3.nii.gz", files / "p3.fcsv")])
    with pytest.raises(SystemExit):
        main([str(tree), "--group", "HS", str(files / "p9.nii.gz")])
    assert len(read_cohort(tree).scans) == 3
