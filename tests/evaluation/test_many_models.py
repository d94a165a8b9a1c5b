"""Studies of many models: nothing overlaps, and the numbers are those of the tables."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from landmarking.evaluation.many_models import (
    MOST,
    by_error,
    curve_panels,
    error_matrix,
    loss_panels,
    model_errors,
)
from landmarking.evaluation.metrics import sdr
from landmarking.evaluation.report import ReportConfig, compute_results, draw_figures, format_tables
from landmarking.evaluation.runs import load_study
from landmarking.evaluation.style import house_style
from landmarking.evaluation.summary import ALL, table_1

NAMES = ("AC", "PC")
# The better the later in the alphabet, so that order by error is not order by name.
MODELS = {f"a-rather-long-name-{letter}": 3.0 - 0.4 * i for i, letter in enumerate("abcdefg")}


@pytest.fixture(scope="module")
def study(make_module_study):
    return load_study(make_module_study(names=NAMES, sd_px=MODELS).write())


@pytest.fixture(scope="module")
def results(study):
    return compute_results(study, ReportConfig(runs="unused", resamples=100, permutations=100))


def test_models_come_by_their_mean_error(study):
    means = study.frame.groupby("model")["error_mm"].mean()
    assert by_error(study.frame) == list(means.sort_values().index)
    assert by_error(study.frame) != sorted(MODELS)


def test_the_mean_errors_are_those_of_table_1(study):
    table = table_1(study.frame, resamples=100)
    with house_style():
        axes = model_errors(table).figure.axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    groups = {"Down syndrome (DS)": "DS", "healthy subjects (HS)": "HS"}
    assert {container.get_label() for container in axes.containers} == set(groups)
    for container in axes.containers:
        cells = table[table["group"] == groups[container.get_label()]].set_index("model")
        x, y = container.lines[0].get_data()
        assert x == pytest.approx(cells.loc[labels, "mean_mm"].to_numpy())
        assert np.round(y) == pytest.approx(range(len(labels)))
        ends = np.array([s[:, 0] for s in container.lines[2][0].get_segments()])
        interval = cells.loc[labels, ["mean_mm_low", "mean_mm_high"]].to_numpy()
        assert ends == pytest.approx(interval)
    assert model_errors(table[table["model"].isin([labels[0], labels[1], "no skill"])]) is None


def test_the_matrix_prints_the_mean_of_every_cell(study):
    with house_style():
        drawing = error_matrix(study.frame, "DS", NAMES)
    rows = study.frame.query("group == 'DS'")
    means = rows.groupby(["model", "landmark"])["error_mm"].mean()
    expected = [f"{means[model, name]:.1f}" for model in by_error(rows) for name in NAMES]
    assert [text.get_text() for text in drawing.figure.axes[0].texts] == expected
    assert drawing.name == "figure4_ds"


def test_every_model_has_a_panel_with_its_curves(study):
    with house_style():
        drawing = curve_panels(study.frame)
    panels = [axes for axes in drawing.figure.axes if axes.get_title()]
    assert len(panels) == len(MODELS) + 1
    best = panels[0]
    assert best.get_title() == by_error(study.frame)[0]
    line = next(line for line in best.lines if line.get_label() == "HS")
    rows = study.frame[(study.frame["model"] == best.get_title()) & (study.frame["group"] == "HS")]
    radii, rates = line.get_data()
    assert rates == pytest.approx(sdr(rows["error_mm"], radii))


def test_every_model_has_a_panel_with_its_losses(study):
    with house_style():
        drawing = loss_panels(study.runs, by_error(study.frame))
    panels = [axes for axes in drawing.figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == by_error(study.frame)
    validation = next(line for line in panels[3].lines if line.get_linestyle() == "-")
    assert np.asarray(validation.get_ydata()) == pytest.approx([22 / (n + 1) for n in range(12)])
    assert loss_panels(study.runs, ["nobody"]) is None


def test_no_two_words_of_a_figure_overlap(study, results):
    with house_style():
        for drawing in draw_figures(study, results):
            canvas = FigureCanvasAgg(drawing.figure)
            canvas.draw()
            renderer = canvas.get_renderer()
            titles = [axes.title for axes in drawing.figure.axes if axes.get_title()]
            titles += [t for axes in drawing.figure.axes for t in axes.get_yticklabels()]
            titles = [text for text in titles if any(map(str.isalpha, text.get_text()))]
            boxes = [text.get_window_extent(renderer) for text in titles]
            whole = drawing.figure.bbox.padded(1)
            for index, box in enumerate(boxes):
                words = f"{drawing.name}: {titles[index].get_text()}"
                assert whole.containsx(box.x0), words
                assert whole.containsx(box.x1), words
                others = [o for o in boxes[index + 1 :] if o.bounds != box.bounds]
                assert not any(box.overlaps(other) for other in others), words


def test_of_many_models_the_best_are_drawn_on_slices_and_said_so(study, results):
    assert len(MODELS) > MOST
    with house_style():
        drawn = {drawing.name: drawing for drawing in draw_figures(study, results)}
    shown = drawn["figure6_examples"]
    rows = {axes.get_ylabel() for axes in shown.figure.axes} - {""}
    best = by_error(study.frame)[:3]
    assert rows == {f"{group}, {model}" for group in ("HS", "DS") for model in best}
    assert shown.caption.endswith("The 3 of 7 models with the least mean error.")


def test_of_many_models_the_table_of_pairs_keeps_to_all_landmarks(study, results):
    table = next(t for t in format_tables(study, results) if t.name == "models")
    assert {row[2] for row in table.rows} == {ALL}
    assert "Landmark by landmark: models.csv." in table.notes
    assert set(results.models["landmark"]) == {*NAMES, ALL}
