"""Folds become points of a curve, held against the model that they started from."""

import numpy as np
import pandas as pd
import pytest
import yaml

from landmarking.evaluation.charts import adaptation_curve, house_style
from landmarking.evaluation.comparisons import UNADAPTED, adaptation, adaptation_table
from landmarking.evaluation.report import ReportConfig, run_report
from landmarking.evaluation.study import load_study

PEOPLE = 6


@pytest.fixture
def studies(make_study):
    """A study of two folds for 5 and for 10 people, and where they started from."""
    knobs = {"people": {"DS": PEOPLE}, "names": ("AC", "PC"), "sd_px": {}}
    start = make_study("start", **knobs)
    start.write_errors("heatmap-seed0", "heatmap", np.full((PEOPLE, 2), 2.0))
    study = make_study("adapted", **knobs)
    for learnt, errors in ((5, (1.5, 1.9)), (10, (1.0, 1.5))):
        for fold, error in enumerate(errors):
            study.split = f"split-{learnt}-{fold}"
            run = f"tuned-{learnt}-fold{fold}"
            study.write_errors(run, f"tuned-{learnt}", np.full((PEOPLE, 2), error))
            keep_fold(study.folder / run, fold)
            adapt = {"group": "DS", "people": learnt, "fold": fold, "folds": 2}
            adapt["start"] = str(start.folder / "heatmap-seed0")
            (study.folder / run / "config.yaml").write_text(yaml.safe_dump({"adapt": adapt}))
    return start, study


def keep_fold(run, fold):
    """Leave every second person in the predictions of a run."""
    lines = (run / "predictions.csv").read_text().splitlines(keepends=True)
    names = [f"sub-DS{number:02d}_" for number in range(fold, PEOPLE, 2)]
    kept = [line for line in lines[1:] if any(name in line for name in names)]
    (run / "predictions.csv").write_text("".join([lines[0], *kept]))


def points_of(folder):
    return adaptation(load_study(folder), permutations=200)


def test_every_person_is_tested_once_and_held_against_the_start(studies):
    _, study = studies
    points = points_of(study.folder)
    assert list(zip(points["way"], points["learnt_from"], strict=True)) == [
        (UNADAPTED, 0),
        ("tuned", 5),
        ("tuned", 10),
    ]
    assert list(points["people"]) == [PEOPLE] * 3
    assert points["mean_mm"].to_numpy() == pytest.approx([2.0, 1.7, 1.25])
    assert points["difference_mm"].to_numpy()[1:] == pytest.approx([-0.3, -0.75])
    assert points["change_percent"].to_numpy()[1:] == pytest.approx([-15.0, -37.5])
    # Six people, all of them better: two of 64 sign vectors are as extreme.
    assert points["p_value"].to_numpy()[1:] == pytest.approx([2 / 64, 2 / 64])
    table = adaptation_table(points)
    assert table.rows[0][6:] == ("-",) * 5
    assert table.rows[2][0] == "tuned"
    assert table.rows[2][8] == "-38"


def test_the_curve_goes_through_the_points(studies):
    points = points_of(studies[1].folder)
    with house_style():
        drawing = adaptation_curve(points)
        assert drawing is not None
        axes = drawing.figure.axes[0]
        line = next(
            line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"
        )
        assert np.log(np.asarray(line.get_xdata(), dtype=float)) == pytest.approx(
            np.log([5, 10]), abs=0.1
        )
        assert np.asarray(line.get_ydata()) == pytest.approx([1.7, 1.25])
        assert adaptation_curve(points[points["learnt_from"] != 5]) is None


@pytest.mark.parametrize("loss", ["cohort", "gone", "people"])
def test_a_start_that_does_not_know_these_people_is_no_yardstick(studies, loss):
    start, study = studies
    path = start.folder / "heatmap-seed0" / "predictions.csv"
    if loss == "gone":
        path.unlink()
    elif loss == "people":
        keep_fold(path.parent, 0)
    else:
        path.write_text(path.read_text().replace(start.digest, "0ther0000000"))
    points = points_of(study.folder)
    assert set(points["way"]) == {"tuned"}
    assert "difference_mm" not in points
    assert adaptation_table(points).rows[0][6:] == ("-",) * 5


def test_a_study_that_adapts_nothing_has_no_such_rows(make_study):
    folder = make_study(names=("AC", "PC"), slices=False).write()
    points = adaptation(load_study(folder))
    assert points.equals(pd.DataFrame())
    assert adaptation_curve(points) is None


def test_the_report_has_table_and_curve_without_being_asked_to_mix(studies):
    folder = studies[1].folder
    run_report(ReportConfig(runs=str(folder), resamples=100, permutations=100))
    assert "| tuned" in (folder / "report/tables/adaptation.md").read_text()
    assert (folder / "report/figures/adaptation_curve.png").exists()
    unrounded = pd.read_csv(folder / "report/tables/adaptation.csv")
    assert unrounded["change_percent"].iloc[-1] == pytest.approx(-37.5)
    assert "People learnt from" in (folder / "report/index.html").read_text()
