"""The benchmark on people: its table, and what it says where the scans are not there."""

import pandas as pd
import pytest

import people
from landmarking.errors import ConfigError


def test_without_the_scans_it_says_so(tmp_path):
    text = people.run([str(tmp_path / "nowhere")])
    assert text.startswith("skipped: ")
    assert "docs/people.md" in text


def test_an_unknown_group_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="people, ten, found 'all'"):
        people.run([str(tmp_path), "group=all"])


def test_far_points_count_as_unflagged_unless_they_or_their_scan_are_flagged():
    frame = pd.DataFrame(
        {
            "scan": ["a", "a", "b", "b"],
            "landmark": ["AC", "PC", "AC", "PC"],
            "error_mm": [3.0, 0.5, 2.6, 0.5],
            "radius_mm": [3.5, 0.4, None, 0.6],
            "flagged": [True, False, False, False],
            "raters_apart_mm": [0.2, 0.4, float("nan"), 0.4],
        }
    )
    lines = people.summary(frame).splitlines()
    assert lines[2] == "| AC | 2.80 | 2.80 | 3.00 | 0.20 | 50 | 2 | 1 |"
    assert lines[4] == "| all | 1.65 | 1.55 | 3.00 | 0.33 | 50 | 2 | 1 |"
    assert lines[-1] == "scans with a flag: 1 of 2"
