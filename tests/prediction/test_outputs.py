"""Files that other programs open: Slicer's schema, the same mm, rows of the table."""

import csv
import json

import numpy as np
import pytest

from landmarking.geometry import SliceGeometry
from landmarking.landmarks import read_landmarks
from landmarking.prediction.batch import read_record
from landmarking.prediction.outputs import write_scan_files
from landmarking.prediction.predict import PredictedLandmark, Prediction, Section
from landmarking.prediction.summary import write_table

GEOMETRY = SliceGeometry(
    np.array([[0.02, 0, -1.0, 0.5], [-1, 0, -0.02, 62], [0, -1, 0, 70], [0, 0, 0, 1.0]]), (150, 150)
)


def make_prediction(radius=1.25):
    rng = np.random.default_rng(0)
    pixels = rng.uniform(40, 100, (2, 2))
    flags = ((), ("the model is in doubt, a lot (radius 6.0 mm)",))
    return Prediction(
        name="sub-01_T1w",
        scan="scans/sub-01_T1w.nii.gz",
        scan_sha256="ab" * 32,
        model="test",
        landmark_set="msp8",
        model_digest="cd" * 32,
        coverage=None if radius is None else 0.9,
        landmarks=tuple(
            PredictedLandmark(
                name, title, GEOMETRY.to_world(pixel), pixel, 1.1, radius, flags=reasons
            )
            for name, title, pixel, reasons in zip(
                ("AC", "PC"), ("anterior", "posterior"), pixels, flags, strict=True
            )
        ),
        image=rng.normal(size=(150, 150)).astype(np.float32),
        geometry=GEOMETRY,
        quality={"symmetry_score": 0.9, "registration_quality": float("nan"), "notes": ""},
        flags=(),
        sections=(
            Section("axial", rng.normal(size=(20, 20)).astype(np.float32), np.full((2, 2), np.nan)),
        ),
        seconds={"read": 0.1, "cpu": 0.2},
    )


def test_the_checker_sees_breaches(check_markups, tmp_path):
    prediction = make_prediction()
    write_scan_files(prediction, tmp_path, "a", picture=False)
    path = tmp_path / "a_desc-auto_landmarks.mrk.json"
    body = json.loads(path.read_text())
    body["markups"][0]["coordinateSystem"] = "RASS"
    body["markups"][0]["controlPoints"][0]["position"] = [1.0, "2", 3.0]
    body["markups"][0]["controlPoints"][1]["visibility"] = 1
    path.write_text(json.dumps(body))
    assert check_markups(path) == ["coordinateSystem", "position", "visibility"]


def test_slicers_files_follow_the_schema_and_read_back_to_the_same_mm(check_markups, tmp_path):
    prediction = make_prediction()
    write_scan_files(prediction, tmp_path, "sub-01/sub-01", picture=False)
    markups, fcsv = (
        tmp_path / f"sub-01/sub-01_desc-auto_landmarks{end}" for end in (".mrk.json", ".fcsv")
    )

    assert check_markups(markups) == []
    assert json.loads(markups.read_text())["markups"][0]["coordinateSystem"] == "LPS"
    for path in (markups, fcsv):
        found = read_landmarks(path)
        assert list(found) == ["AC", "PC"]
        for name, point in prediction.points_mm.items():
            np.testing.assert_array_equal(found[name], point)


def test_notes_say_radius_and_reasons_and_keep_the_columns(tmp_path):
    write_scan_files(make_prediction(), tmp_path, "a", picture=False)
    (markup,) = json.loads((tmp_path / "a_desc-auto_landmarks.mrk.json").read_text())["markups"]
    notes = [point["description"] for point in markup["controlPoints"]]
    assert notes[0] == "anterior; within 1.2 mm at 90%"
    assert notes[1].endswith("look at it: the model is in doubt, a lot (radius 6.0 mm)")
    rows = (tmp_path / "a_desc-auto_landmarks.fcsv").read_text().splitlines()[4:]
    assert [row.count(",") for row in rows] == [13, 13]


def test_the_table_holds_every_scan_of_the_folder(tmp_path):
    prediction = make_prediction()
    write_scan_files(prediction, tmp_path, "b/second", picture=False)
    write_scan_files(make_prediction(radius=None), tmp_path, "first", picture=False)
    (tmp_path / "damaged_prediction.json").write_text("{")
    rows = list(csv.DictReader(write_table(tmp_path).read_text().splitlines()))
    assert [(row["scan"], row["landmark"]) for row in rows] == [
        ("b/second", "AC"),
        ("b/second", "PC"),
        ("first", "AC"),
        ("first", "PC"),
    ]
    world = [[float(row[f"{axis}_mm"]) for axis in "xyz"] for row in rows[:2]]
    np.testing.assert_array_equal(world, list(prediction.points_mm.values()))
    assert [row["radius_mm"] for row in rows] == ["1.25", "1.25", "", ""]
    assert [row["flagged"] for row in rows] == ["False", "True", "False", "True"]


def test_a_record_says_where_the_slice_lies_and_has_no_nan(tmp_path):
    written = write_scan_files(make_prediction(), tmp_path, "a", picture=False)
    record = read_record(tmp_path / "a_prediction.json")
    assert record == written
    geometry = SliceGeometry.from_dict(record["slice"])
    for row in record["landmarks"]:
        np.testing.assert_allclose(geometry.to_world(row["pixel"]), row["world_mm"], atol=1e-12)
    assert record["quality"]["registration_quality"] is None


def test_records_of_another_version_are_not_read(tmp_path):
    (tmp_path / "a_prediction.json").write_text('{"format": 0}')
    assert read_record(tmp_path / "a_prediction.json") is None
    assert read_record(tmp_path / "none_prediction.json") is None


@pytest.mark.parametrize("radius", [1.25, None])
def test_the_picture_is_drawn_with_and_without_radii(radius, tmp_path):
    write_scan_files(make_prediction(radius), tmp_path, "a")
    header = (tmp_path / "a_qc.png").read_bytes()[:8]
    assert header == b"\x89PNG\r\n\x1a\n"
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".fcsv", ".png"}
