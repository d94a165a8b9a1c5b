"""Errors in the plane and in space, against numbers worked out by hand."""

import numpy as np
import pytest

from landmarking.errors import LandmarkError
from landmarking.landmarks import write_fcsv
from landmarking.prediction.comparison import compare, comparison_text

# The plane is x = 0.
RECORD = {
    "name": "head",
    "slice": {
        "pixel_to_world": [[0, 0, -1.0, 0], [-1, 0, 0, 75], [0, -1, 0, 75], [0, 0, 0, 1.0]],
        "shape": [150, 150],
    },
    "landmarks": [
        {"name": "AC", "world_mm": [0.0, 3.0, 0.0], "radius_mm": 2.0},
        {"name": "PC", "world_mm": [0.0, -24.0, 0.0], "radius_mm": None},
    ],
}


def test_the_distance_off_the_plane_counts_in_space_only(tmp_path):
    truth = tmp_path / "truth.fcsv"
    write_fcsv(truth, {"AC": np.array([12.0, 0.0, 4.0]), "GENU": np.zeros(3)})
    (error,) = compare(RECORD, truth)
    assert (error.scan, error.landmark, error.radius_mm) == ("head", "AC", 2.0)
    assert error.in_plane_mm == pytest.approx(5.0)
    assert error.distance_mm == pytest.approx(13.0)


def test_the_text_has_means_by_scan_and_of_all(tmp_path):
    truth = tmp_path / "truth.fcsv"
    write_fcsv(truth, {"AC": np.array([0.0, 3.0, 1.0]), "PC": np.array([0.0, -24.0, 3.0])})
    errors = compare(RECORD, truth) + compare({**RECORD, "name": "other"}, truth)
    lines = [line.split() for line in comparison_text(errors).splitlines()]
    assert lines[1] == ["head", "AC", "1.00", "1.00", "2.00"]
    assert lines[3] == ["head", "mean", "2.00", "2.00"]
    assert lines[-1] == ["all", "mean", "2.00", "2.00"]


def test_truth_without_a_landmark_in_common_is_refused(tmp_path):
    truth = tmp_path / "truth.fcsv"
    write_fcsv(truth, {"GENU": np.zeros(3)})
    with pytest.raises(LandmarkError, match="none of AC, PC is in it"):
        compare(RECORD, truth)
