import numpy as np
import pytest

from landmarking.geometry import SliceGeometry
from landmarking.imaging.quality import intensity_figures, landmark_flags, outside_share, scan_flags
from landmarking.imaging.scan import Scan

GEOMETRY = SliceGeometry(
    np.array([[0, 0, -1, 0], [-1, 0, 0, 9], [0, -1, 0, 19], [0, 0, 0, 1]], dtype=float), (20, 10)
)


def affine(r=-2.0, a=0.0, s=0.0, voxel_mm=1.0):
    matrix = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    matrix[:3, 3] = r, a, s
    return matrix


@pytest.mark.parametrize(
    ("shape", "placed", "expected"),
    [
        ((5, 10, 20), affine(), 0.0),
        ((5, 5, 20), affine(), 0.5),
        ((5, 10, 20), affine(s=4.0), 0.2),
        ((5, 10, 20), affine(r=1.0), 1.0),
        ((5, 10, 20), affine(r=0.5), 0.0),
        ((5, 5, 10), affine(a=0.5, s=0.5, voxel_mm=2.0), 0.0),
    ],
)
def test_the_share_outside_counts_pixels_without_a_voxel(shape, placed, expected):
    assert outside_share(GEOMETRY, shape, placed) == pytest.approx(expected)


def test_intensity_figures_follow_their_definitions():
    rng = np.random.default_rng(0)
    raw = rng.gamma(2, 50, (30, 40)).astype(np.float32)
    reference = rng.normal(0, 1, (30, 40)).astype(np.float32)
    matched = (0.3 * reference + rng.normal(0, 1, (30, 40))).astype(np.float32)
    brain = rng.random((30, 40)) < 0.4
    figures = intensity_figures(raw, matched, reference, brain)
    assert figures["raw_mean"] == pytest.approx(raw.mean(), rel=1e-5)
    assert figures["raw_variation"] == pytest.approx(raw.std() / raw.mean(), rel=1e-5)
    assert figures["raw_p50"] == pytest.approx(np.median(raw))
    expected = np.corrcoef(matched[brain], reference[brain])[0, 1]
    assert figures["reference_correlation"] == pytest.approx(expected, abs=1e-6)


def test_a_mean_reference_has_no_correlation_and_a_dark_slice_no_variation():
    zeros = np.zeros((4, 4), np.float32)
    figures = intensity_figures(zeros, zeros, np.zeros(1024, np.float32), zeros > 0)
    assert "reference_correlation" not in figures
    assert np.isnan(figures["raw_variation"])
    same = intensity_figures(zeros, zeros, zeros, zeros == 0)
    assert np.isnan(same["reference_correlation"])


# Fixed rules that say what to look at.


GOOD = {
    "registration_ok": True,
    "registration_quality": 0.9,
    "symmetry_score": 0.9,
    "symmetry_sharpness": 0.05,
    "notes": "",
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ""),
        ({"registration_ok": False, "registration_quality": 0.41}, "registration is doubtful (0.4"),
        ({"symmetry_score": 0.3}, "symmetry is low (0.30)"),
        ({"symmetry_sharpness": 0.001}, "the plane is a guess"),
        ({"notes": "sform and qform differ"}, "sform and qform differ"),
        ({"symmetry_score": float("nan")}, ""),
    ],
)
def test_scans(change, expected):
    found = scan_flags({**GOOD, **change})
    assert len(found) == bool(expected)
    assert "".join(found).startswith(expected)


def test_landmarks():
    """Pixels of 1 mm; voxels reach from x = -10 to 10, y and z from -50 to 50 mm."""
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = (-10, -50, -50)
    scan = Scan(np.zeros((21, 101, 101), np.float32), affine, "scan")
    matrix = np.array([[0, 0, -1.0, 0], [-1, 0, 0, 75], [0, -1, 0, 75], [0, 0, 0, 1.0]])
    geometry = SliceGeometry(matrix, (150, 150))
    points = np.array([[0, 0, 0], [0, 60, 0], [0, 0, 70], [0, 0, 0]])
    doubt = np.array([1.0, 1.0, 1.0, 5.5])
    found = landmark_flags(scan, geometry, points, doubt, "radius")
    assert found[0] == ()
    assert found[1] == ("outside the scan",)
    assert found[2] == ("outside the scan", "5.5 mm from the border of the slice")
    assert found[3] == ("the model is in doubt (radius 5.5 mm)",)
