"""Landmark files of other hands: a table of what is read, and of what is refused in words.

A new example is one line. `-k inputs` runs all such tables.
"""

import json

import numpy as np
import pytest

from landmarking.errors import LandmarkError
from landmarking.landmarks import landmark_set, read_landmarks

HEAD = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
NEW = f"{HEAD}# columns = {COLUMNS},positionStatus,autoCreated\n"


def row(x, y, z, label="AC", end=",,"):
    return f"1,{x},{y},{z},0,0,0,1,1,1,0,{label}{end}\n"


def markups(*points, **keys):
    frame = {"coordinateSystem": "LPS"} | keys
    frame = {key: value for key, value in frame.items() if value is not None}
    return json.dumps({"markups": [{**frame, "controlPoints": list(points)}]})


def point(label="AC", position=(-1.0, -2.0, 3.0), **more):
    return {"label": label, "position": list(position), **more}


READ = {
    # name of the example: file, its text, points in RAS mm
    "status 0 and 3 of new Slicer": (
        "a.fcsv",
        NEW
        + row(-1, -2, 3, end=",,,2,0")
        + row(0, 0, 0, "ICS", ",,,0,0")
        + row(0, 0, 0, "PMJ", ",,,3,0"),
        {"AC": (1, 2, 3)},
    ),
    "columns in another order": (
        "a.fcsv",
        HEAD + "# columns = label,x,y,z\nAC,-1,-2,3\n",
        {"AC": (1, 2, 3)},
    ),
    "byte order mark, fcsv": ("a.fcsv", "\ufeff" + HEAD + row(-1, -2, 3), {"AC": (1, 2, 3)}),
    "byte order mark, json": ("a.mrk.json", "\ufeff" + markups(point()), {"AC": (1, 2, 3)}),
    "quoted comma in the description": (
        "a.fcsv",
        HEAD + row(-1, -2, 3, end=',"left, right",'),
        {"AC": (1, 2, 3)},
    ),
    "no frame is LPS": ("a.mrk.json", markups(point(), coordinateSystem=None), {"AC": (1, 2, 3)}),
    "centimetres": ("a.mrk.json", markups(point(), coordinateUnits="cm"), {"AC": (10, 20, 30)}),
    "micrometres": (
        "a.mrk.json",
        markups(point(), coordinateUnits="um"),
        {"AC": (0.001, 0.002, 0.003)},
    ),
    "unit by its code": (
        "a.mrk.json",
        markups(point(), coordinateUnits=["mm", "UCUM", "millimeter"]),
        {"AC": (1, 2, 3)},
    ),
    "frame in small letters": (
        "a.mrk.json",
        markups(point(), coordinateSystem="lps"),
        {"AC": (1, 2, 3)},
    ),
    "a blank of no width": ("a.mrk.json", markups(point("AC\u200b")), {"AC": (1, 2, 3)}),
    "undefined point": (
        "a.mrk.json",
        markups(point(), point("PC", (0, 0, 0), positionStatus="undefined")),
        {"AC": (1, 2, 3)},
    ),
    "blanks about a label": ("a.mrk.json", markups(point(" AC\u00a0")), {"AC": (1, 2, 3)}),
}

REFUSED = {
    "decimal commas": ("a.fcsv", HEAD + row("-0,5", "4,3", "-4,1"), "decimals with a point"),
    "unknown unit": (
        "a.mrk.json",
        markups(point(), coordinateUnits="inch"),
        "coordinateUnits is one of",
    ),
    "unit that is a list": (
        "a.mrk.json",
        markups(point(), coordinateUnits=["mm"]),
        "coordinateUnits",
    ),
    "two lists": (
        "a.mrk.json",
        json.dumps({"markups": [{"controlPoints": []}, {"controlPoints": []}]}),
        "found 2 lists; save each list",
    ),
    "a list without points": ("a.mrk.json", '{"markups": [{}]}', "no `controlPoints`"),
    "no JSON": ("a.mrk.json", "label,x,y,z", "which is JSON"),
    "another program's JSON": ("a.json", '{"AC": [1, 2, 3]}', "which has `markups`"),
    "no position": ("a.mrk.json", markups({"label": "AC"}), "three finite coordinates"),
}


@pytest.mark.parametrize("example", READ)
def test_inputs_that_are_fine_are_read(tmp_path, example):
    name, text, expected = READ[example]
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_landmarks(tmp_path / name)
    assert found.keys() == expected.keys()
    for label, place in expected.items():
        np.testing.assert_allclose(found[label], place)


@pytest.mark.parametrize("example", REFUSED)
def test_inputs_that_are_not_are_refused_in_words(tmp_path, example):
    name, text, words = REFUSED[example]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(LandmarkError) as caught:
        read_landmarks(tmp_path / name)
    message = str(caught.value)
    assert words in message
    assert str(tmp_path / name) in message
    assert "Error" not in message


def test_inputs_numbered_by_slicer_are_found_by_their_names():
    points = {"AC-1": np.array([1.0, 2, 3]), "GENU-7": np.array([4.0, 5, 6])}
    arranged = landmark_set("msp8").arrange(points)
    assert np.isfinite(arranged).all(axis=1).tolist() == [True, *[False] * 5, True, False]
