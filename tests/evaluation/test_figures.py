"""Charts show the numbers of the tables, and are the same file every time."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from landmarking.evaluation.figures import cumulative_errors, error_bars, learning_curves, slug
from landmarking.evaluation.metrics import mean_sd, sdr
from landmarking.evaluation.runs import load_study
from landmarking.evaluation.style import house_style, model_colours, save

NAMES = ("AC", "PC")


@pytest.fixture(scope="module")
def study(make_module_study):
    made = make_module_study(names=NAMES, missing=(("sub-HS03_ses-01", "PC"),), slices=False)
    return load_study(made.write())


def test_bars_are_means_whiskers_deviations_and_dots_the_points(study):
    with house_style():
        axes = error_bars(study.frame, "HS", NAMES).figure.axes[0]

    heights = [bar.get_height() for bar in axes.patches]
    rows = study.frame.query("group == 'HS'")
    cells = [
        rows[(rows["model"] == model) & (rows["landmark"] == name)]["error_mm"]
        for model in ("SL", "ML")
        for name in NAMES
    ]
    np.testing.assert_allclose(heights, [cell.mean() for cell in cells])
    dots = [c.get_offsets() for c in axes.collections if isinstance(c, PathCollection)]
    drawn = sorted(np.concatenate([np.asarray(offsets)[:, 1] for offsets in dots]))
    np.testing.assert_allclose(drawn, sorted(rows["error_mm"].dropna()))
    segments = [
        segment
        for lines in axes.collections
        if hasattr(lines, "get_segments")
        for segment in lines.get_segments()
    ]
    ends = [(m - d, m + d) for m, d in (mean_sd(cell) for cell in cells)]
    np.testing.assert_allclose([segment[:, 1] for segment in segments], ends)
    assert axes.get_ylabel() == "error (mm)"


def test_curves_are_the_detection_rate_at_every_radius(study):
    with house_style():
        drawing = cumulative_errors(study.frame)

    line = next(line for line in drawing.figure.axes[0].lines if line.get_label() == "ML, DS")
    radii, rates = line.get_data()
    errors = study.frame.query("model == 'ML' and group == 'DS'")["error_mm"]
    np.testing.assert_allclose(rates, sdr(errors, radii))
    assert drawing.figure.axes[0].get_xlabel() == "radius (mm)"


def test_learning_curves_draw_what_history_holds(study):
    with house_style():
        drawing = learning_curves(study.runs)

    assert [axes.get_title() for axes in drawing.figure.axes] == ["SL (2 runs)", "ML (1 run)"]
    ml = study.runs[0].history
    train, validation = drawing.figure.axes[1].lines
    np.testing.assert_allclose(train.get_ydata(), ml["train_loss_px"])
    np.testing.assert_allclose(validation.get_ydata(), ml["validation_loss_px"])


def test_runs_without_history_have_no_curves(make_study):
    folder = make_study(names=NAMES, slices=False).write()
    for path in folder.rglob("history.csv"):
        path.unlink()

    assert learning_curves(load_study(folder).runs) is None


def test_files_are_the_same_bytes_when_drawn_again(study, tmp_path):
    for name in ("first", "second"):
        with house_style():
            save(error_bars(study.frame, "DS", NAMES).figure, tmp_path / name, "bars")

    for suffix in (".png", ".pdf"):
        first, second = ((tmp_path / n / f"bars{suffix}").read_bytes() for n in ("first", "second"))
        assert first == second
        assert b"CreationDate" not in first
        assert b"Matplotlib" not in first


def test_models_keep_their_colours_and_differ():
    colours = model_colours(["SL", "ML", "no skill", "heat", "other"])

    assert (colours["SL"], colours["ML"]) == ("#E69F00", "#0072B2")
    assert len(set(colours.values())) == 5


def test_a_slug_is_safe_in_a_file_name():
    assert slug("7T/Group é") == "7t-group"
