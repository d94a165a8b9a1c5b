"""Names and pictures that TensorBoard gets."""

from __future__ import annotations

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from landmarking.callbacks import group_metrics
from landmarking.config import settings
from landmarking.tensorboard import PREDICTED_COLOUR, TRUE_COLOUR, comparison_layout, draw_points
from landmarking.training import TrainingConfig, run_training


def test_names_are_grouped_and_carry_their_units(training_values, make_cohort):
    training_values |= {"logger": {"tensorboard": True}}
    training_values["callbacks"] = {"pictures_every": 1, "pictures": 2, "evaluate_every": 2}
    result = run_training(settings(TrainingConfig, training_values), make_cohort())
    events = EventAccumulator(str(result.folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    expected = {"loss_px/train", "loss_px/validation", "learning_rate", "error_mm/HS/mean"}
    expected |= {"error_mm/DS/PMJ", "sdr_percent/HS/2mm", "final_error_mm/HS"}
    assert expected <= set(tags["scalars"])
    assert set(tags["images"]) == {"slices/HS", "slices/DS"}
    assert [event.step for event in events.Scalars("loss_px/train")] == [0, 1, 2]
    assert [event.step for event in events.Scalars("error_mm/HS/mean")] == [1, 2]


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
        "AC": ["Multiline", ["error_mm/HS/AC$"]],
        "PC": ["Multiline", ["error_mm/HS/PC$"]],
    }
    for landmarks in (("AC",), ("AC", "PC")):
        assert "error_mm/HS/AC" in group_metrics("HS", landmarks, np.ones((3, len(landmarks))))
