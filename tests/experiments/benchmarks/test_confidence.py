"""The benchmark of confidence: copies come back to their place, tables say what radii held."""

from __future__ import annotations

import numpy as np
import pytest

from confidence import ConfidenceBenchmark, Doubted, _copies, _tables, run
from landmarking.errors import ConfigError
from landmarking.prediction.model import Located


class Brightest:
    """Finds the brightest pixel, wherever it lies."""

    def locate(self, images):
        flat = images.reshape(len(images), -1).argmax(axis=1)
        rows, columns = np.divmod(flat, images.shape[2])
        points = np.stack([columns, rows], axis=-1)[:, None].astype(np.float64)
        return Located(points, np.full(points.shape[:2], np.nan))


def test_predictions_on_moved_copies_are_moved_back():
    images = np.random.default_rng(0).uniform(0.0, 1.0, (3, 40, 50)).astype(np.float32)
    where = [(20, 25), (10, 12), (30, 40)]
    for image, (row, column) in zip(images, where, strict=True):
        image[row, column] = 2.0
    copies = list(_copies(Brightest(), images, 6))
    assert len(copies) == 6
    for points in copies:
        assert points[:, 0].tolist() == [[column, row] for row, column in where]


def doubted(error_of_hs: float) -> Doubted:
    """Twenty to calibrate on with errors of one to twenty times their doubt, and five HS."""
    groups = ("validation",) * 20 + ("HS",) * 5
    errors = np.concatenate([np.arange(1.0, 21.0), error_of_hs + 0.001 * np.arange(5)])[:, None]
    rising = np.arange(1.0, 26.0)[:, None]
    return Doubted(groups, ("AC",), errors, {"none": np.ones((25, 1)), "spread": rising})


def test_radii_come_from_validation_and_are_tried_on_the_rest():
    config = ConfidenceBenchmark(runs="x", cohort="y")
    # The 19th of 20 errors is the radius that holds 90 % of people like them.
    held = "\n".join(_tables(doubted(18.5), config))
    assert "| HS | AC | 100 (57 to 100) | 5 | 19.00 |" in held
    missed = "\n".join(_tables(doubted(19.5), config))
    assert "| HS | AC | 0 (0 to 43) | 5 | 19.00 |" in missed
    assert "Errors above 5 mm: 5; radii above it: 5; precision 1.00, recall 1.00." in missed
    assert "| spread | 1.00 | 1.00 |" in held
    assert "| validation | AC" not in held


def test_runs_and_cohort_have_to_be_said():
    with pytest.raises(ConfigError, match=r"confidence\.cohort: set it"):
        run(["runs=outputs/heatmap"])
