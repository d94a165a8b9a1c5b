"""Fixed rules that say what to look at."""

import numpy as np
import pytest

from landmarking.geometry import SliceGeometry
from landmarking.imaging.scan import Scan
from landmarking.prediction.flags import landmark_flags, scan_flags

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
