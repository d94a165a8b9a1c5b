"""predictions.csv: exact round trip, and every way in which a file can lie."""

import numpy as np
import pandas as pd
import pytest

from landmarking.errors import PredictionsError
from landmarking.evaluation.predictions import (
    COLUMNS,
    check_predictions,
    read_predictions,
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
