"""Points on slices: right scan, right place, right spread."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from landmarking.evaluation.charts import house_style
from landmarking.evaluation.pictures import (
    ellipse_axes,
    error_ellipses,
    examples,
    landmark_figure,
    template_positions_px,
    template_slice,
    worst_prediction,
)
from landmarking.evaluation.study import load_study

NAMES = ("AC", "PC", "GENU")


@pytest.fixture(scope="module")
def study(make_module_study):
    return load_study(make_module_study(names=NAMES).write())


@pytest.fixture(autouse=True)
def _style():
    with house_style():
        yield


def drawn(axes, which):
    """Offsets of the which-th scatter of an axes, shape (n, 2)."""
    return np.asarray(axes.collections[which].get_offsets())


def test_figure_3_marks_the_truth_of_one_slice(study):
    drawing = landmark_figure(study.frame, study.slices)

    axes = drawing.figure.axes[0]
    scan = next(scan for scan in study.slices if f"({scan})" in drawing.caption)
    rows = study.frame.query("scan_id == @scan and model == 'ML'")
    assert {text.get_text() for text in axes.texts} == set(NAMES)
    assert sorted(map(tuple, drawn(axes, 0))) == sorted(
        map(tuple, rows[["true_x_px", "true_y_px"]].to_numpy())
    )
    np.testing.assert_array_equal(axes.images[0].get_array(), study.slices[scan])


def test_figure_6_shows_best_median_and_worst_of_each_group(study):
    drawing = examples(study.frame, study.slices)

    assert len(drawing.figure.axes) == 2 * 2 * 3
    ranked = study.frame.query("group == 'DS'").groupby("scan_id")["error_mm"].mean().sort_values()
    for axes, scan in zip(drawing.figure.axes[:3], ranked.index[[0, 2, 4]], strict=True):
        rows = study.frame.query("scan_id == @scan and model == 'ML'")
        np.testing.assert_array_equal(axes.images[0].get_array(), study.slices[scan])
        np.testing.assert_allclose(drawn(axes, 0), rows[["pred_x_px", "pred_y_px"]])
        np.testing.assert_allclose(drawn(axes, 1), rows[["true_x_px", "true_y_px"]])
        # What the model says lies above the truth, or a hit would hide it.
        assert axes.collections[0].get_zorder() > axes.collections[1].get_zorder()
        assert axes.get_title().endswith(f"{rows['error_mm'].mean():.1f} mm")
    words = [{text.get_text() for text in axes.texts} for axes in drawing.figure.axes]
    assert words == [{*NAMES, "10 mm"}, *[set()] * 11]


def test_a_worst_prediction_lies_within_its_view(study):
    row = study.frame.sort_values("error_mm").iloc[-1]

    axes = worst_prediction(row, study.slices).figure.axes[0]

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for x, y in ((row["true_x_px"], row["true_y_px"]), (row["pred_x_px"], row["pred_y_px"])):
        assert left < x < right
        assert top < y < bottom


@pytest.mark.parametrize(("angle_deg", "long", "short"), [(30.0, 3.0, 1.0), (-70.0, 2.0, 0.5)])
def test_the_ellipse_holds_95_percent_and_lies_along_the_spread(angle_deg, long, short):
    turn = np.deg2rad(angle_deg)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    covariance = rotation @ np.diag([long**2, short**2]) @ rotation.T

    width, height, angle = ellipse_axes(covariance)

    assert (angle - angle_deg + 90) % 180 - 90 == pytest.approx(0.0, abs=1e-9)
    points = np.random.default_rng(0).normal(size=(40_000, 2)) * [long, short]
    inside = (points[:, 0] / (width / 2)) ** 2 + (points[:, 1] / (height / 2)) ** 2 <= 1
    assert inside.mean() == pytest.approx(0.95, abs=0.005)


def test_ellipses_are_centred_on_the_mean_error_at_the_landmarks_place(study):
    places = {name: np.array([10.0 * i, 50.0]) for i, name in enumerate(NAMES)}

    drawing = error_ellipses(study.frame, None, places, step_mm=0.5)

    axes = drawing.figure.axes[1]
    rows = study.frame.query("group == 'HS' and model == 'SL' and landmark == 'PC'")
    # On the plane x = 0, a pixel goes one step to the back and one down; 2 pixels are 1 mm.
    world = [rows[[f"{side}_{axis}_mm" for axis in "as"]].to_numpy() for side in ("pred", "true")]
    offset = (world[1] - world[0]) / 0.5
    centres = [ellipse.center for ellipse in axes.patches]
    expected = places["PC"] + offset.mean(axis=0)
    assert "6 people" in axes.get_title()
    assert min(np.hypot(*(np.array(centre) - expected)) for centre in centres) < 1e-9
    assert len(axes.patches) == 2 * len(NAMES)
    # Ten mm are twenty pixels of half a mm.
    assert np.ptp(axes.lines[0].get_xdata()) == 20.0


def test_studies_without_slices_or_known_places_have_no_such_figure(study):
    assert landmark_figure(study.frame, {}) is None
    assert examples(study.frame, {}) is None
    assert error_ellipses(study.frame, None, {}) is None


def test_template_positions_lie_on_their_anatomy(study):
    background, places = template_slice(study), template_positions_px(study)

    # The paper's grid: A = 62 - x, S = 70 - y; AC at A 2.55, S -4.82 on the template.
    np.testing.assert_allclose(places["AC"], [59.4479, 74.8172])
    assert background.shape == (150, 150)
    # The genu is bright callosal white matter; the top left corner lies outside the head.
    x, y = np.rint(places["GENU"]).astype(int)
    assert background[y - 2 : y + 3, x - 2 : x + 6].max() > 0.75
    assert background[:5, :5].max() == 0.0


def test_models_keep_their_colours_in_legend_and_ellipses(make_study):
    made = make_study(names=("AC",), sd_px={"heat": 1.0, "slim": 2.0})
    frame = load_study(made.write()).frame
    with house_style():
        drawing = error_ellipses(frame, None, {"AC": np.array([60.0, 70.0])})
    legend = {
        line.get_color() for line in drawing.figure.axes[0].lines if len(line.get_xdata()) == 0
    }
    rings = {to_hex(patch.get_edgecolor()).upper() for patch in drawing.figure.axes[0].patches}
    assert len(legend) == 2
    assert rings == legend
