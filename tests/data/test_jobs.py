import logging
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from landmarking.cohort.bids import ScanRecord
from landmarking.data.cache import StageCache
from landmarking.data.jobs import Job, prepare_scan
from landmarking.data.stage_keys import STAGE_VERSIONS
from landmarking.errors import CacheError
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.landmarks import landmark_set


def job(folder, points="", versions=None):
    """A drawn slice, which takes no registration."""
    image, landmarks = folder / "s1.png", folder / "s1.txt"
    plt.imsave(image, np.random.default_rng(0).random((256, 256)), cmap="gray")
    landmarks.write_text(points)
    record = ScanRecord("s1", "p1", None, "HS", image, landmarks if points else None)
    return Job(
        record,
        "ab" * 32,
        PreprocessSettings(),
        landmark_set("msp8"),
        StageCache(folder / "cache"),
        versions or dict(STAGE_VERSIONS),
    )


def test_a_scan_without_landmarks_has_a_slice_and_no_points(tmp_path):
    done = prepare_scan(job(tmp_path))
    assert done.problem is None
    assert done.staged.image.shape == (150, 150)
    assert np.isnan(done.points_mm).all()


@pytest.mark.parametrize(
    ("points", "problem"),
    [
        ("AC 100", "s1: .* line 1: x and y"),
        ("nose 100 100", "s1: .*s1.txt: holds no landmark of the set msp8"),
        ("AC 300 100", "s1: .*s1.txt: AC outside the scan's field of view"),
    ],
)
def test_a_problem_comes_back_as_one_line(tmp_path, points, problem):
    done = prepare_scan(job(tmp_path, points))
    assert done.problem is not None
    assert re.match(problem, done.problem)
    assert "\n" not in done.problem


def test_a_cache_that_cannot_be_written_stops_everything(tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(CacheError, match="cannot be written"):
        prepare_scan(job(tmp_path))


def test_stages_that_changed_under_way_stops_everything(tmp_path):
    with pytest.raises(CacheError, match=r"changed under way, from versions .*; start again"):
        prepare_scan(job(tmp_path, versions={**STAGE_VERSIONS, "slice": 2}))


def test_what_the_stages_warn_of_is_left_to_the_table(tmp_path, monkeypatch, caplog):
    imaging = logging.getLogger("landmarking.imaging.registration")

    def warn(*_):
        imaging.warning("doubtful")
        raise CacheError("stop")

    monkeypatch.setattr("landmarking.data.jobs.staged_slice", warn)
    with pytest.raises(CacheError, match="stop"):
        prepare_scan(job(tmp_path))
    assert "doubtful" not in caplog.text
    imaging.warning("afterwards")
    assert "afterwards" in caplog.text
