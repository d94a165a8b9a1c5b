import json

import numpy as np
import pytest

from landmarking.errors import LandmarkError
from landmarking.landmarks import landmark_set, read_landmarks, write_fcsv, write_markups

POINTS = {"AC": np.array([0.1, 2.5, -4.8]), "PC": np.array([-0.3, -25.1, -2.1])}


def test_msp8_is_the_default_set_of_the_paper_protocol_in_order():
    assert landmark_set("msp8").names == ("AC", "PC", "ICS", "PMJ", "CUL", "IMS", "GENU", "SPLE")
    assert [item.afid for item in landmark_set("msp8").landmarks] == [1, 2, 3, 4, 10, 11, 19, 20]


def test_midline_landmarks_of_the_template_lie_near_its_mid_plane():
    assert np.abs(landmark_set("msp10").template_mm[:, 0]).max() < 0.2


def test_paired_landmarks_mirror_each_other_on_the_symmetric_template():
    by_name = {item.name: item.template_mm for item in landmark_set("afids32").landmarks}
    for name, right in by_name.items():
        if name.startswith("R_"):
            left = by_name["L_" + name[2:]]
            np.testing.assert_allclose(right, [-left[0], left[1], left[2]], atol=1.0)


def test_ac_pc_distance_of_the_template_is_that_of_an_adult_head():
    ac, pc = landmark_set("msp8").template_mm[:2]
    assert 26 < np.linalg.norm(ac - pc) < 29


@pytest.mark.parametrize("name", ["msp9", "", "AFIDS32"])
def test_unknown_set_names_the_known_ones(name):
    with pytest.raises(LandmarkError, match="msp8, msp10, afids32"):
        landmark_set(name)


def test_subset_keeps_the_order_asked_for_and_refuses_strangers_and_doubles():
    msp8 = landmark_set("msp8")
    assert msp8.subset(["SPLE", "AC"]).names == ("SPLE", "AC")
    with pytest.raises(LandmarkError, match="'XX' is not in the set msp8"):
        msp8.subset(["XX"])
    with pytest.raises(LandmarkError, match="once each"):
        msp8.subset(["AC", "AC"])


@pytest.mark.parametrize("label", ["AC", "ac", "anterior commissure", "1"])
def test_arrange_matches_by_name_title_or_number(label):
    points = landmark_set("msp8").arrange({label: POINTS["AC"], "left ear": np.zeros(3)})
    np.testing.assert_array_equal(points[0], POINTS["AC"])
    assert np.isnan(points[1:]).all()


def test_arrange_refuses_two_labels_of_one_landmark():
    with pytest.raises(LandmarkError, match="AC comes 2 times, as AC, 1"):
        landmark_set("msp8").arrange({"AC": POINTS["AC"], "1": POINTS["AC"]})


@pytest.mark.parametrize(("write", "name"), [(write_markups, "a.mrk.json"), (write_fcsv, "a.fcsv")])
def test_files_give_the_same_bits_back(tmp_path, write, name):
    path = tmp_path / name
    write(path, {**POINTS, "GENU": np.full(3, np.nan)})
    back = read_landmarks(path)
    assert list(back) == ["AC", "PC"]
    for label, point in POINTS.items():
        np.testing.assert_array_equal(back[label], point)


def test_markups_are_written_in_lps_as_slicer_does(tmp_path):
    write_markups(tmp_path / "a.mrk.json", POINTS)
    (markup,) = json.loads((tmp_path / "a.mrk.json").read_text())["markups"]
    assert markup["coordinateSystem"] == "LPS"
    assert markup["controlPoints"][0]["position"] == [-0.1, -2.5, -4.8]


@pytest.mark.parametrize(
    ("frame", "expected"),
    [("0", [1, 2, 3]), ("RAS", [1, 2, 3]), ("1", [-1, -2, 3]), ("LPS", [-1, -2, 3])],
)
def test_fcsv_of_any_slicer_version_comes_back_in_ras(tmp_path, frame, expected):
    path = tmp_path / "old.fcsv"
    path.write_text(
        f"# Markups fiducial file version = 4.6\n# CoordinateSystem = {frame}\n"
        "vtkMRMLMarkupsFiducialNode_1,1,2,3,0,0,0,1,1,1,0,1,AC,vtkMRMLScalarVolumeNode1\n"
    )
    np.testing.assert_array_equal(read_landmarks(path)["1"], expected)


MARKUPS = '{{"markups": [{{"coordinateSystem": {frame}, "controlPoints": [{points}]}}]}}'
AC = '{"label": "AC", "position": [1, 2, 3]}'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "are read from .mrk.json or .fcsv"),
        ("a.mrk.json", "{", "not a 3D Slicer Markups file"),
        ("a.mrk.json", "[]", "not a 3D Slicer Markups file"),
        ("a.mrk.json", '{"markups": []}', "not a 3D Slicer Markups file"),
        ("a.mrk.json", MARKUPS.format(frame='"IJK"', points=AC), "RAS or LPS, found 'IJK'"),
        ("a.mrk.json", MARKUPS.format(frame='["LPS"]', points=AC), "RAS or LPS, found"),
        ("a.mrk.json", MARKUPS.format(frame='"LPS"', points=AC + "," + AC), "comes twice"),
        (
            "a.mrk.json",
            MARKUPS.format(frame='"LPS"', points='{"label": "AC", "position": [1, NaN, 3]}'),
            "three finite coordinates",
        ),
        (
            "a.mrk.json",
            MARKUPS.format(frame='"LPS"', points='{"label": "AC", "position": [1, 2]}'),
            "three finite coordinates",
        ),
        ("a.fcsv", "1,1,2,3,0,0,0,1,1,1,0,AC,,\n", "stated as RAS or LPS, found None"),
        ("a.fcsv", "# CoordinateSystem = LPS\n1,2,3\n", "14 columns"),
        ("a.fcsv", "# CoordinateSystem = LPS\n1,x,2,3,0,0,0,1,1,1,0,AC,,\n", "three finite"),
    ],
)
def test_bad_files_are_named_with_the_rule(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(LandmarkError, match=message) as caught:
        read_landmarks(path)
    assert str(path) in str(caught.value)


def test_missing_and_binary_files_are_named(tmp_path):
    with pytest.raises(LandmarkError, match="cannot be read"):
        read_landmarks(tmp_path / "absent.fcsv")
    (tmp_path / "b.fcsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LandmarkError, match="cannot be read"):
        read_landmarks(tmp_path / "b.fcsv")


def test_points_without_a_position_are_left_out(tmp_path):
    path = tmp_path / "a.mrk.json"
    unplaced = '{"label": "PC", "position": [0, 0, 0], "positionStatus": "undefined"}'
    path.write_text(MARKUPS.format(frame='"RAS"', points=f"{AC},{unplaced}"))
    assert list(read_landmarks(path)) == ["AC"]
