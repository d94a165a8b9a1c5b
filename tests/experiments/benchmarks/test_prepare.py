import pytest

from landmarking.cohort.records import Cohort, ScanRecord
from prepare import Timing, opening, report


def test_the_report_gives_seconds_a_scan_and_their_ratio(tmp_path):
    scans = tuple(
        ScanRecord(f"s{i}", f"p{i}", None, "HS", tmp_path / "x.nii", None) for i in range(4)
    )
    timings = [
        Timing("cold", 1, 8.0, 7.0, {"read": 0.4, "registration": 6.0}),
        Timing("warm", 1, 0.4, 0.4, {}),
        Timing("finished", 1, 0.04, 0.04, {}),
        Timing("cold", 2, 4.0, 7.7, {"read": 0.6, "registration": 6.4}),
        Timing("warm", 2, 0.4, 0.4, {}),
        Timing("finished", 2, 0.04, 0.04, {}),
    ]
    text = report(Cohort("demo", tmp_path, scans), timings)
    assert text.startswith("4 scans of demo; ")
    assert "| cold, clock | 2.0000 | 1.0000 | 2.00 |" in text
    assert "| cold, processor | 1.7500 | 1.9250 | 0.91 |" in text
    assert "| registration | 1.5000 | 1.6000 |" in text
    assert "| plane | 0.0000 | 0.0000 |" in text


def test_an_unknown_argument_is_refused(capsys):
    from landmarking.errors import ConfigError
    from prepare import run

    with pytest.raises(ConfigError, match="there is no such setting; did you mean scans"):
        run(["scan=3"])


def test_slices_are_opened_mapped_into_memory(tmp_path):
    text = opening(tmp_path / "opened", 20)
    assert text.startswith("20 slices (2 MB) opened in ")
    assert "mapped into memory" in text
