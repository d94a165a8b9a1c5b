import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection

from landmarking.evaluation.charts import (
    MOST,
    by_error,
    cumulative_errors,
    curve_panels,
    error_bars,
    error_matrix,
    house_style,
    learning_curves,
    loss_panels,
    model_colours,
    model_errors,
    save,
    slug,
)
from landmarking.evaluation.predictions import mean_sd, sdr
from landmarking.evaluation.report import ReportConfig, compute_results, draw_figures, format_tables
from landmarking.evaluation.statistics import ALL, table_1
from landmarking.evaluation.study import load_study

# Charts show the numbers of the tables, and are the same file every time.


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


# Studies of many models: nothing overlaps, and the numbers are those of the tables.


# The better the later in the alphabet, so that order by error is not order by name.
MODELS = {f"a-rather-long-name-{letter}": 3.0 - 0.4 * i for i, letter in enumerate("abcdefg")}


@pytest.fixture(scope="module")
def study_of_many(make_module_study):
    return load_study(make_module_study(names=NAMES, sd_px=MODELS).write())


@pytest.fixture(scope="module")
def results(study_of_many):
    return compute_results(study_of_many, ReportConfig(runs="unused", permutations=100))


def test_models_come_by_their_mean_error(study_of_many):
    means = study_of_many.frame.groupby("model")["error_mm"].mean()
    assert by_error(study_of_many.frame) == list(means.sort_values().index)
    assert by_error(study_of_many.frame) != sorted(MODELS)


def test_the_mean_errors_are_those_of_table_1(study_of_many):
    table = table_1(study_of_many.frame)
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


def test_the_matrix_prints_the_mean_of_every_cell(study_of_many):
    with house_style():
        drawing = error_matrix(study_of_many.frame, "DS", NAMES)
    rows = study_of_many.frame.query("group == 'DS'")
    means = rows.groupby(["model", "landmark"])["error_mm"].mean()
    expected = [f"{means[model, name]:.1f}" for model in by_error(rows) for name in NAMES]
    assert [text.get_text() for text in drawing.figure.axes[0].texts] == expected
    assert drawing.name == "figure4_ds"


def test_every_model_has_a_panel_with_its_curves(study_of_many):
    with house_style():
        drawing = curve_panels(study_of_many.frame)
    panels = [axes for axes in drawing.figure.axes if axes.get_title()]
    assert len(panels) == len(MODELS) + 1
    best = panels[0]
    assert best.get_title() == by_error(study_of_many.frame)[0]
    line = next(line for line in best.lines if line.get_label() == "HS")
    rows = study_of_many.frame[
        (study_of_many.frame["model"] == best.get_title()) & (study_of_many.frame["group"] == "HS")
    ]
    radii, rates = line.get_data()
    assert rates == pytest.approx(sdr(rows["error_mm"], radii))


def test_every_model_has_a_panel_with_its_losses(study_of_many):
    with house_style():
        drawing = loss_panels(study_of_many.runs, by_error(study_of_many.frame))
    panels = [axes for axes in drawing.figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == by_error(study_of_many.frame)
    validation = next(line for line in panels[3].lines if line.get_linestyle() == "-")
    assert np.asarray(validation.get_ydata()) == pytest.approx([22 / (n + 1) for n in range(12)])
    assert loss_panels(study_of_many.runs, ["nobody"]) is None


def test_no_two_words_of_a_figure_overlap(study_of_many, results):
    with house_style():
        for drawing in draw_figures(study_of_many, results):
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


def test_of_many_models_the_best_are_drawn_on_slices_and_said_so(study_of_many, results):
    assert len(MODELS) > MOST
    with house_style():
        drawn = {drawing.name: drawing for drawing in draw_figures(study_of_many, results)}
    shown = drawn["figure6_examples"]
    rows = {axes.get_ylabel() for axes in shown.figure.axes} - {""}
    best = by_error(study_of_many.frame)[:3]
    assert rows == {f"{group}, {model}" for group in ("HS", "DS") for model in best}
    assert shown.caption.endswith("The 3 of 7 models with the least mean error.")


def test_of_many_models_the_table_of_pairs_keeps_to_all_landmarks(study_of_many, results):
    table = next(t for t in format_tables(study_of_many, results) if t.name == "models")
    assert {row[2] for row in table.rows} == {ALL}
    assert "Landmark by landmark: models.csv." in table.notes
    assert set(results.models["landmark"]) == {*NAMES, ALL}
