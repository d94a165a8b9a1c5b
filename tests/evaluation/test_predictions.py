"""predictions.csv: exact round trip, and every way in which a file can lie."""

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landmarking.errors import LandmarkError, PredictionsError
from landmarking.evaluation.predictions import (
    COLUMNS,
    SDR_THRESHOLDS_MM,
    check_predictions,
    mean_sd,
    percent_half_up,
    radial_error_mm,
    read_predictions,
    sdr,
    sdr_counts,
    write_predictions,
)


@pytest.fixture(scope="module")
def written(make_module_study):
    study = make_module_study(missing=(("sub-HS01_ses-01", "PC"),), slices=False)
    study.write_run("ml-seed0", "ML", study.names, seed=0)
    return read_predictions(study.folder / "ml-seed0" / "predictions.csv")


@pytest.fixture
def frame(written):
    return written.copy()


def test_a_table_comes_back_bit_for_bit(frame, tmp_path):
    write_predictions(tmp_path / "again.csv", frame[list(reversed(frame.columns))])

    back = read_predictions(tmp_path / "again.csv")

    pd.testing.assert_frame_equal(back, frame, check_exact=True)
    assert tuple(back.columns) == COLUMNS
    assert back["simulated"].dtype == bool
    assert back["seed"].dtype == np.int64


def test_names_that_look_like_numbers_or_gaps_stay_text(frame, tmp_path):
    frame["participant_id"], frame["group"] = "007", "NA"
    write_predictions(tmp_path / "p.csv", frame)

    back = read_predictions(tmp_path / "p.csv")

    assert set(back["participant_id"]) == {"007"}
    assert set(back["group"]) == {"NA"}


@pytest.mark.parametrize("simulated", [True, False])
def test_inputs_that_went_through_r_are_read(frame, tmp_path, simulated):
    frame = frame.assign(simulated=simulated)
    path = tmp_path / "predictions.csv"
    assert frame.isna().any(axis=None), "a landmark is missing"
    text = frame.to_csv(index=False, na_rep="NA")
    path.write_text(text.replace("True", "TRUE").replace("False", "FALSE"))
    found = read_predictions(path)
    assert found["simulated"].tolist() == frame["simulated"].tolist()
    assert found["error_mm"].isna().tolist() == frame["error_mm"].isna().tolist()


def test_a_missing_landmark_keeps_its_row_without_truth(frame):
    row = frame[(frame["scan_id"] == "sub-HS01_ses-01") & (frame["landmark"] == "PC")].iloc[0]

    assert np.isnan(row[["true_x_px", "true_r_mm", "off_plane_mm", "error_mm"]].astype(float)).all()
    assert np.isfinite(row["pred_x_px"])
    assert len(frame) == 11 * 8


def test_errors_follow_from_the_world_coordinates(frame):
    known = frame.dropna(subset=["error_mm"])
    apart = (
        known[["true_r_mm", "true_a_mm", "true_s_mm"]].to_numpy()
        - known[["pred_r_mm", "pred_a_mm", "pred_s_mm"]].to_numpy()
    )
    in_plane = np.sqrt((apart**2).sum(axis=1) - known["off_plane_mm"] ** 2)

    np.testing.assert_allclose(known["error_mm"], in_plane, atol=1e-9)
    # One pixel is one mm here, so the no-skill error is the pixel distance to the mean position.
    no_skill = np.hypot(
        known["mean_x_px"] - known["true_x_px"], known["mean_y_px"] - known["true_y_px"]
    )
    np.testing.assert_allclose(known["mean_error_mm"], no_skill, atol=1e-9)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("error_mm", 3.21, "error_mm does not follow"),
        ("error_mm", -1.0, "error_mm does not follow"),
        ("mean_error_mm", 99.0, "mean_error_mm does not follow"),
        ("off_plane_mm", 4.0, "error_mm does not follow"),
        ("pred_x_px", np.nan, "not a finite number"),
        ("pred_r_mm", np.inf, "not a finite number"),
        ("true_x_px", np.nan, "given together"),
        ("group", "", "empty"),
        ("scan_id", "sub-HS00_ses-01", "comes again"),
    ],
)
def test_a_false_row_is_named(frame, column, value, words):
    frame.loc[16, column] = value

    with pytest.raises(PredictionsError, match=words) as caught:
        check_predictions(frame, "somewhere.csv")

    assert "somewhere.csv: line 18" in str(caught.value)


def test_missing_columns_and_rows_are_named(frame):
    with pytest.raises(PredictionsError, match="need the columns seed, error_mm"):
        check_predictions(frame.drop(columns=["seed", "error_mm"]), "x")
    with pytest.raises(PredictionsError, match="no rows"):
        check_predictions(frame.iloc[:0], "x")


@pytest.mark.parametrize(("column", "value"), [("simulated", "perhaps"), ("seed", "one")])
def test_wrong_types_are_named(frame, column, value):
    frame[column] = value

    with pytest.raises(PredictionsError, match=f"{column} is True or False|wrong type"):
        check_predictions(frame, "x")


@pytest.mark.parametrize("content", [None, "", "\x00\x01", 'a,b\n1,"2\n'])
def test_no_table_is_one_message(tmp_path, content):
    path = tmp_path / "predictions.csv"
    if content is not None:
        path.write_text(content)

    with pytest.raises(PredictionsError, match=r"predictions\.csv"):
        read_predictions(path)


def test_a_refused_table_leaves_the_old_file(frame, tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, frame)
    before = path.read_bytes()
    frame.loc[0, "error_mm"] = 50.0

    with pytest.raises(PredictionsError):
        write_predictions(path, frame)

    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["predictions.csv"]


def test_a_prediction_on_the_spot_is_no_mistake(frame):
    exact = frame.copy()
    for axis in "ras":
        exact[f"pred_{axis}_mm"] = exact[f"true_{axis}_mm"]
    exact["pred_x_px"], exact["pred_y_px"] = exact["true_x_px"], exact["true_y_px"]
    known = exact["error_mm"].notna()
    exact.loc[known, ["error_mm", "off_plane_mm"]] = 0.0
    exact.loc[~known, [f"pred_{axis}_mm" for axis in "ras"]] = frame.loc[
        ~known, [f"pred_{axis}_mm" for axis in "ras"]
    ]
    exact.loc[~known, ["pred_x_px", "pred_y_px"]] = frame.loc[~known, ["pred_x_px", "pred_y_px"]]
    assert check_predictions(exact, "p")["error_mm"].max() == 0.0


@pytest.mark.parametrize("off_mm", [0.05, -0.05])
def test_an_error_that_its_coordinates_do_not_have_is_refused(frame, off_mm):
    row = frame["error_mm"].idxmin()
    edited = frame.copy()
    edited.loc[row, "error_mm"] = abs(edited.loc[row, "error_mm"] + off_mm)
    with pytest.raises(PredictionsError, match="error_mm"):
        check_predictions(edited, "p")


def test_radial_error_equals_a_plain_loop_with_anisotropic_sheared_pixels():
    rng = np.random.default_rng(0)
    predicted, true = rng.normal(70, 20, (2, 5, 8, 2))
    true[1, 3] = np.nan
    metric = np.array([[[0.8, 0.1], [0.0, 1.2]]] * 4 + [[[2.0, 0.0], [0.0, 0.5]]])

    found = radial_error_mm(predicted, true, metric)

    for b in range(5):
        for landmark in range(8):
            x, y = predicted[b, landmark] - true[b, landmark]
            (p, q), (r, s) = metric[b]
            expected = math.sqrt((p * x + q * y) ** 2 + (r * x + s * y) ** 2)
            np.testing.assert_allclose(found[b, landmark], expected, rtol=1e-12)
    assert np.isnan(found).sum() == 1


@pytest.mark.parametrize(
    ("predicted", "true", "metric", "words"),
    [
        (np.zeros((2, 8, 2)), np.zeros((2, 7, 2)), np.eye(2)[None].repeat(2, 0), "one shape"),
        (np.zeros((2, 2)), np.zeros((2, 2)), np.eye(2)[None].repeat(2, 0), "one shape"),
        (np.zeros((2, 8, 2)), np.zeros((2, 8, 2)), np.eye(2)[None], "metric for each of 2"),
        (np.zeros((1, 8, 2)), np.zeros((1, 8, 2)), np.zeros((1, 2, 2)), "singular"),
    ],
)
def test_radial_error_says_what_does_not_fit(predicted, true, metric, words):
    with pytest.raises(LandmarkError, match=words):
        radial_error_mm(predicted, true, metric)


def test_thresholds_are_inclusive_and_missing_landmarks_do_not_count():
    errors = [0.5, 1.0, np.nextafter(1.0, 2.0), 2.0, np.nan, 9.0]

    hits, scored = sdr_counts(errors, (1.0, 2.0, 5.0))

    assert hits.tolist() == [2, 4, 4]
    assert scored == 5
    np.testing.assert_allclose(sdr(errors, (1.0, 2.0, 5.0)), [40, 80, 80])


def test_nothing_scored_is_no_rate_rather_than_zero():
    assert np.isnan(sdr([np.nan, np.nan])).all()
    assert math.isnan(mean_sd([np.nan])[0])


@given(st.integers(1, 2000), st.integers(0, 2000), st.integers(1, 4))
def test_rates_round_half_up_from_the_exact_ratio(scored, hits, decimals):
    hits = min(hits, scored)
    exact = Fraction(100 * hits, scored) * 10**decimals
    rounded = math.floor(exact + Fraction(1, 2))

    text = percent_half_up(hits, scored, decimals)

    assert Fraction(text) == Fraction(rounded, 10**decimals)
    assert len(text.split(".")[1]) == decimals


@pytest.mark.parametrize(
    ("hits", "scored", "text"),
    [(46, 432, "10.65"), (433, 696, "62.21"), (1, 800, "0.13"), (0, 3, "0.00"), (3, 3, "100.00")],
)
def test_known_rates(hits, scored, text):
    assert percent_half_up(hits, scored) == text


@pytest.mark.parametrize(("hits", "scored"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(hits, scored):
    with pytest.raises(LandmarkError, match="hits"):
        percent_half_up(hits, scored)


def test_mean_and_sample_deviation_leave_missing_landmarks_out():
    mean, deviation = mean_sd([1.0, np.nan, 2.0, 6.0])

    assert mean == 3.0
    assert deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


def test_one_error_has_a_mean_and_no_deviation():
    mean, deviation = mean_sd([2.5])
    assert mean == 2.5
    assert math.isnan(deviation)


@pytest.mark.parametrize(("mm", "fits"), [(0.009, True), (0.011, False)])
def test_an_error_of_the_mean_position_may_be_off_by_a_hundredth(frame, mm, fits):
    """Where the mean position lies on the truth, nothing but rounding may stand in the table."""
    row = frame["error_mm"].idxmax()
    edited = frame.copy()
    edited.loc[row, ["mean_x_px", "mean_y_px"]] = edited.loc[
        row, ["true_x_px", "true_y_px"]
    ].to_numpy(float)
    edited.loc[row, "mean_error_mm"] = mm
    if fits:
        check_predictions(edited, "p")
    else:
        with pytest.raises(PredictionsError, match="mean_error_mm does not follow"):
            check_predictions(edited, "p")


def test_two_errors_have_a_deviation_and_the_radii_are_the_papers():
    assert mean_sd([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2.0)))
    assert SDR_THRESHOLDS_MM == (1.0, 2.0, 3.0, 4.0, 5.0)


def test_an_error_of_the_mean_position_that_is_far_too_small_is_refused(frame):
    row = frame["mean_error_mm"].idxmax()
    for factor, fits in ((0.45, False), (0.6, True), (1.9, True), (2.2, False)):
        edited = frame.copy()
        edited.loc[row, "mean_error_mm"] *= factor
        if fits:
            check_predictions(edited, "p")
        else:
            with pytest.raises(PredictionsError, match="mean_error_mm does not follow"):
                check_predictions(edited, "p")
