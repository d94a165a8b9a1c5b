"""Names and pictures that TensorBoard gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from landmarking.config import settings
from landmarking.evaluation.predictions import read_predictions
from landmarking.training.callbacks import (
    PREDICTED_COLOUR,
    TRUE_COLOUR,
    comparison_layout,
    draw_points,
)
from landmarking.training.settings import TrainingConfig
from landmarking.training.train import run_training


def scalars(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events, events.Tags()


def test_names_are_those_that_a_lightning_user_looks_for(
    training_values, make_cohort, tensorboard_node
):
    folder = Path(training_values["outputs"]) / "study" / "ml-seed0"
    pictures = {"_target_": "landmarking.training.callbacks.Pictures", "every_n_epochs": 1}
    training_values |= {
        "logger": tensorboard_node(folder),
        "callbacks": {"pictures": pictures},
    }
    result = run_training(settings(TrainingConfig, training_values), make_cohort())
    events, tags = scalars(result.folder)
    expected = {"train/loss", "val/loss", "val/error_mm", "val/sdr_2mm", "val/PMJ/error_mm"}
    expected |= {"test/HS/error_mm", "test/DS/PMJ/error_mm", "test/HS/sdr_2mm"}
    assert expected | {"final/val/error_mm", "final/test/HS/error_mm"} <= set(tags["scalars"])
    assert set(tags["images"]) == {"slices/validation"}
    steps_in_an_epoch = 2
    assert [event.step for event in events.Scalars("train/loss")] == [1, 3, 5]
    assert len(events.Scalars("test/HS/error_mm")) == 1, "the test groups are looked at once"
    assert events.Scalars("test/HS/error_mm")[0].step == 3 * steps_in_an_epoch
    rows = read_predictions(result.folder / "predictions.csv")
    means = rows.groupby("group")["error_mm"].mean()
    assert abs(means["HS"] - means["DS"]) > 1e-3
    for group in ("HS", "DS"):
        for name in (f"test/{group}/error_mm", f"final/test/{group}/error_mm"):
            assert events.Scalars(name)[-1].value == pytest.approx(means[group], rel=1e-4), name


def test_the_test_groups_are_watched_only_when_asked_for_and_that_is_said(
    training_values, make_cohort, tensorboard_node, caplog
):
    folder = Path(training_values["outputs"]) / "study" / "ml-seed0"
    watching = {
        "_target_": "landmarking.training.callbacks.GroupErrors",
        "watch_test_groups": True,
        "every_n_epochs": 2,
    }
    training_values |= {"logger": tensorboard_node(folder), "callbacks": {"errors": watching}}
    result = run_training(settings(TrainingConfig, training_values), make_cohort())
    events, _ = scalars(result.folder)
    assert len(events.Scalars("test/HS/error_mm")) == 3, "epochs 2 and 3, and the end"
    assert "chosen on the test people" in caplog.text


def test_crosses_lie_where_the_points_are():
    image = np.zeros((10, 20), dtype=np.uint8)
    true = np.array([[3.0, 2.0], [np.nan, np.nan]])
    canvas = draw_points(image, true, np.array([[15.0, 7.0], [99.0, 99.0]]), scale=3, arm=2)
    assert canvas.shape == (30, 60, 3)
    assert tuple(canvas[7, 10]) == TRUE_COLOUR  # the middle of slice pixel (3, 2)
    assert tuple(canvas[22, 46]) == PREDICTED_COLOUR
    assert (canvas.any(axis=-1)).sum() == 2 * 9


def test_a_sweep_and_a_multi_landmark_run_meet_in_one_chart_a_landmark():
    layout = comparison_layout(["HS"], ["AC", "PC"])
    assert layout["HS: error by landmark (mm)"] == {
        "AC": ["Multiline", ["test/HS/AC/error_mm$"]],
        "PC": ["Multiline", ["test/HS/PC/error_mm$"]],
    }
