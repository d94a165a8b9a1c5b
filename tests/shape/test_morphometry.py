"""Measures by hand, their spread against drawn points, agreement against published figures."""

import numpy as np
import pandas as pd
import pytest

from landmarking.cli import main
from landmarking.errors import ConfigError, LandmarkError
from landmarking.landmarks import landmark_set, write_fcsv
from landmarking.shape.morphometry import (
    MEASURES,
    RADIUS_TO_SD,
    agreement,
    angle,
    area,
    by_person,
    compare,
    icc_2_1,
    measure,
    overview,
    person_of,
    read_points,
    write,
)

MSP8 = landmark_set("msp8")
POINTS = dict(zip(MSP8.names, MSP8.template_mm * [0, 1, 1], strict=True))


def values(points, radii=None):
    return measure(points, radii).set_index("measure")


def test_distances_angles_and_areas_by_hand():
    square = [np.array(p, float) for p in ((0, 0, 0), (0, 2, 0), (0, 2, 2), (0, 0, 2))]
    assert area(*square) == pytest.approx(4.0)
    assert area(*square[:3]) == pytest.approx(2.0)
    shifted = [corner + np.array([7.0, -3.0, 5.0]) for corner in square]
    assert area(*shifted) == pytest.approx(4.0)
    assert angle(square[0], square[1], square[0], square[2]) == pytest.approx(45.0)
    assert angle(square[0], square[1], square[1], square[0]) == pytest.approx(180.0)
    found = values(POINTS)
    expected = np.linalg.norm(POINTS["AC"] - POINTS["PC"])
    assert found.loc["AC-PC", "value"] == pytest.approx(expected)
    assert 26.0 < expected < 30.0


def test_turning_a_head_changes_nothing_and_its_size_what_it_should():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = {name: turn @ point + [5, 6, 7] for name, point in POINTS.items()}
    larger = {name: 1.1 * point for name, point in POINTS.items()}
    before, after, grown = values(POINTS), values(turned), values(larger)
    np.testing.assert_allclose(after["value"], before["value"])
    power = before["unit"].map({"mm": 1, "mm2": 2, "degrees": 0})
    np.testing.assert_allclose(grown["value"], before["value"] * 1.1**power)


def test_the_spread_is_that_of_drawn_points():
    rng = np.random.default_rng(0)
    radii = {name: 0.5 + 0.1 * number for number, name in enumerate(POINTS)}
    drawn = []
    for _ in range(1500):
        moved = {
            name: point + np.array([0, *rng.normal(0, radii[name] / RADIUS_TO_SD, 2)])
            for name, point in POINTS.items()
        }
        drawn.append(values(moved)["value"].to_numpy())
    found = values(POINTS, radii)["sd"]
    np.testing.assert_allclose(found, np.std(drawn, axis=0), rtol=0.08)
    within = np.linalg.norm(rng.normal(0, 1 / RADIUS_TO_SD, (20_000, 2)), axis=1) <= 1.0
    assert within.mean() == pytest.approx(0.9, abs=0.01)


def test_a_missing_landmark_leaves_out_its_measures_alone():
    points = {name: point for name, point in POINTS.items() if name != "CUL"}
    found = values(points | {"PMJ": np.full(3, np.nan)})
    lost = {each.name for each in MEASURES if {"CUL", "PMJ"} & set(each.points)}
    assert set(found.index[found["value"].isna()]) == lost
    assert found["sd"].isna().all()


def people(count, rng, scale=1.0, sd=1.0):
    return {
        f"sub-{number:02d}": (
            {n: scale * p + [0, *rng.normal(0, sd, 2)] for n, p in POINTS.items()},
            dict.fromkeys(POINTS, 1.0),
        )
        for number in range(count)
    }


def test_the_landmarks_own_share_of_the_spread():
    """People who differ by their landmarks' error alone: it is all of the spread."""
    rows = by_person(people(300, np.random.default_rng(1), sd=1.0 / RADIUS_TO_SD))
    shares = overview(rows).set_index("measure")["error_share"]
    assert shares["AC-PC"] == pytest.approx(1.0, abs=0.2)
    wide = by_person(people(300, np.random.default_rng(1), sd=10.0 / RADIUS_TO_SD))
    assert overview(wide).set_index("measure")["error_share"]["AC-PC"] < 0.05


def test_a_smaller_head_is_found_and_its_age_taken_out():
    rng = np.random.default_rng(2)
    all_people = people(40, rng)
    small = people(40, rng, scale=0.93)
    both = {f"a-{k}": v for k, v in all_people.items()} | {f"b-{k}": v for k, v in small.items()}
    rows = by_person(both)
    groups = {name: name[0] for name in both}
    found = compare(rows, groups).set_index("measure")
    assert found.loc["callosal length", "p_holm"] < 0.01
    assert found.loc["callosal length", "difference"] == pytest.approx(0.07 * 68, abs=1.5)
    assert (found["p_holm"] >= found["p_value"]).all()
    size = {name: 1.0 if name.startswith("a") else 0.0 for name in both}
    without = compare(rows, groups, size).set_index("measure")
    np.testing.assert_allclose(without["difference"], 0.0, atol=1e-9)
    with pytest.raises(LandmarkError, match=r"two groups .* found a \(40\)"):
        compare(rows, dict.fromkeys(all_people, "a") | {f"a-{n}": "a" for n in ()})


def test_agreement_by_pencil():
    """Shrout and Fleiss 1979, table 2: six targets, four judges, ICC(2,1) is 0.29."""
    judged = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert icc_2_1(np.array(judged, float)) == pytest.approx(0.29, abs=0.005)
    first = by_person(people(12, np.random.default_rng(3)))
    same = agreement(first, first)
    np.testing.assert_allclose(same["bias"], 0.0)
    np.testing.assert_allclose(same["icc"], 1.0)
    moved = first.assign(value=first["value"] + 2.0)
    found = agreement(moved, first)
    np.testing.assert_allclose(found[["bias", "low", "high"]], 2.0)
    assert (found["icc"] < 1.0).all()


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("sub-03/anat/sub-03_T1w", "sub-03"),
        ("ds000011_sub-05", "sub-05"),
        ("a/Colin27_T1w", "Colin27"),
        ("Colin27_afids", "Colin27"),
    ],
)
def test_who_a_scan_is_of(name, person):
    assert person_of(name) == person


def test_the_command_writes_tables_and_a_picture(tmp_path, capsys):
    files = []
    for person, (points, _) in people(6, np.random.default_rng(4)).items():
        files.append(tmp_path / f"{person}_landmarks.fcsv")
        write_fcsv(files[-1], points)
    table = tmp_path / "participants.tsv"
    lines = [f"sub-0{i}\t{'f' if i % 2 else 'm'}\t{20 + i}" for i in range(6)]
    table.write_text("participant_id\tsex\tage\n" + "\n".join(lines) + "\n")
    words = ["morphometry", *map(str, files), "-o", str(tmp_path / "out")]
    more = ["--participants", str(table), "--by", "sex", "--covariate", "age"]
    assert main([*words, *more, "--truth", *map(str, files)]) == 0
    said = capsys.readouterr().out
    assert "morphometry.png" in said
    for name in ("measures", "overview", "groups", "agreement"):
        frame = pd.read_csv(tmp_path / "out" / f"morphometry_{name}.csv")
        assert len(frame) == len(MEASURES) * (6 if name == "measures" else 1)
    assert main([*words, "--by", "sex"]) == 2
    assert "give that file" in capsys.readouterr().err
    assert main([*words, *more[:2], "--by", "height"]) == 2
    assert "has no column height" in capsys.readouterr().err


def test_what_is_no_table_and_who_comes_twice_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(LandmarkError, match=r"no landmarks.csv of predict \(columns scan"):
        read_points(tmp_path / "a.csv")
    for name in ("a_sub-01.fcsv", "b_sub-01.fcsv"):
        write_fcsv(tmp_path / name, POINTS)
    with pytest.raises(ConfigError, match="found sub-01 again"):
        write(sorted(tmp_path.glob("*.fcsv")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
