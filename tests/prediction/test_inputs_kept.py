"""What a person has made or changed is never replaced, and no prediction is taken for truth."""

import csv
import json
import shutil

import numpy as np
import pytest

from landmarking.cli import main
from landmarking.cohort.bids import Layout, read_cohort
from landmarking.landmarks import (
    is_prediction,
    landmark_set,
    read_landmarks,
    write_fcsv,
    write_markups,
)
from landmarking.prediction.batch import read_record

pytestmark = pytest.mark.usefixtures("known_stages")

MANUAL = (
    "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n1,1,2,3,0,0,0,1,1,1,0,AC,,\n"
)


@pytest.fixture
def predict(head_file, run_folder, tmp_path, capsys):
    """The command on one scan, `scan.nii.gz`; gives status, stdout and stderr."""
    scan, out = tmp_path / "scan.nii.gz", tmp_path / "out"
    shutil.copy(head_file, scan)

    def run(*more, output=out, command="predict"):
        words = [command, str(scan), "-o", str(output), *more]
        if command == "predict":
            words += ["--model", str(run_folder), "--no-picture"]
        status = main(words)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def rows(folder):
    with (folder / "landmarks.csv").open(encoding="utf-8", newline="") as file:
        return {row["landmark"]: row for row in csv.DictReader(file)}


def move(path, label, by_mm):
    """As Slicer does: the file is written anew, without what it does not know."""
    points = read_landmarks(path)
    points[label] = points[label] + by_mm
    write = write_markups if path.suffix == ".json" else write_fcsv
    write(path, points)
    return points[label]


def test_inputs_beside_the_scan_are_not_touched(predict, tmp_path):
    manual = [tmp_path / f"scan_landmarks{end}" for end in (".fcsv", ".mrk.json")]
    for path in manual:
        path.write_text(MANUAL)
    assert predict(output=tmp_path)[0] == 0
    assert predict("--overwrite", output=tmp_path)[0] == 0
    assert [path.read_text() for path in manual] == [MANUAL, MANUAL]
    assert not any(map(is_prediction, manual))
    assert is_prediction(tmp_path / "scan_desc-auto_landmarks.fcsv")


@pytest.mark.parametrize("ending", [".mrk.json", ".fcsv"])
def test_inputs_moved_by_hand_are_kept_and_counted(predict, tmp_path, ending):
    out = tmp_path / "out"
    assert predict()[0] == 0
    was = rows(out)["AC"]
    path = out / f"scan_desc-auto_landmarks{ending}"
    place = move(path, "AC", np.array([0.0, 2.0, 0.0]))
    text = path.read_text()

    status, said, _ = predict()
    assert (status, "AC moved by hand, kept" in said) == (0, True)
    now = rows(out)
    np.testing.assert_allclose([float(now["AC"][f"{axis}_mm"]) for axis in "xyz"], place)
    assert [now["AC"][key] for key in ("placed_by", "radius_mm")] == ["hand", ""]
    assert now["PC"]["placed_by"] == was["placed_by"] == "model"
    # Not even where the scan is to be done again, whatever else was removed.
    (out / f"scan_desc-auto_landmarks{'.fcsv' if ending != '.fcsv' else '.mrk.json'}").unlink()
    assert predict()[0] == 0
    status, _, wrong = predict("--overwrite")
    assert status == 1
    assert "was changed since it was written and is kept" in wrong
    assert path.read_text() == text


def test_inputs_saved_again_without_a_change_are_no_corrections(predict, tmp_path):
    predict()
    move(tmp_path / "out" / "scan_desc-auto_landmarks.mrk.json", "AC", np.zeros(3))
    status, said, _ = predict()
    assert (status, "moved by hand" in said) == (0, False)
    assert {row["placed_by"] for row in rows(tmp_path / "out").values()} == {"model"}


def test_inputs_corrected_in_two_ways_are_said(predict, tmp_path):
    predict()
    for ending, step in ((".mrk.json", 1.0), (".fcsv", 2.0)):
        path = tmp_path / "out" / f"scan_desc-auto_landmarks{ending}"
        move(path, "AC", np.array([0.0, step, 0.0]))
    status, _, wrong = predict()
    assert status == 1
    assert "AC was moved here and, to another place" in wrong


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("scan_desc-auto_landmarks.fcsv", "predict"),
        ("scan_prediction.json", "predict"),
        ("scan_aligned.nii.gz", "msp"),
        ("scan_msp.json", "msp"),
    ],
)
def test_inputs_of_another_hand_at_our_places_are_kept(predict, tmp_path, name, command):
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.write_text("mine")
    for more in ((), ("--overwrite",)):
        status, _, wrong = predict(*more, command=command)
        assert status == 1
        assert f"{path}: was not written by this program and is kept" in wrong
    assert path.read_text() == "mine"


def test_inputs_called_landmarks_csv_are_kept_before_any_work(predict, tmp_path):
    table = tmp_path / "out" / "landmarks.csv"
    table.parent.mkdir()
    table.write_text("subject,AC\n1,2\n")
    status, _, wrong = predict()
    assert (status, "was not written by this program" in wrong) == (2, True)
    table.unlink()
    assert predict()[0] == 0
    assert predict()[0] == 0
    table.write_text(table.read_text() + "checked by me\n")
    status, _, wrong = predict()
    assert (status, "was changed since it was written" in wrong) == (2, True)
    assert "checked by me" in table.read_text()


def test_inputs_of_the_first_version_are_known_as_predictions_and_replaced(predict, tmp_path):
    out = tmp_path / "out"
    predict()
    record = json.loads((out / "scan_prediction.json").read_text())
    points = {row["name"]: np.array(row["world_mm"]) for row in record["landmarks"]}
    for path in out.iterdir():
        path.unlink()
    old = {key: value for key, value in record.items() if key != "files"} | {"format": 1}
    (out / "scan_prediction.json").write_text(json.dumps(old))
    write_markups(out / "scan_landmarks.mrk.json", points)
    write_fcsv(out / "scan_landmarks.fcsv", points)
    assert is_prediction(out / "scan_landmarks.fcsv")
    move(out / "scan_landmarks.mrk.json", "AC", np.ones(3))
    assert not is_prediction(out / "scan_landmarks.mrk.json")
    assert predict()[0] == 0
    # The one that was corrected is a person's now.
    assert (out / "scan_landmarks.mrk.json").exists()
    assert not (out / "scan_landmarks.fcsv").exists()
    assert read_record(out / "scan_prediction.json") is not None


def tree(root, head_file):
    image = root / "sub-01/anat/sub-01_T1w.nii.gz"
    image.parent.mkdir(parents=True)
    shutil.copy(head_file, image)
    (root / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tHS\n")
    (root / "dataset_description.json").write_text('{"Name": "mine", "BIDSVersion": "1.9.0"}')
    return root


def test_inputs_in_the_folder_of_truth_stay_the_truth(head_file, run_folder, tmp_path):
    root = tree(tmp_path / "tree", head_file)
    out = root / "derivatives/landmarks"
    truth = out / "sub-01/anat/sub-01_landmarks.fcsv"
    truth.parent.mkdir(parents=True)
    truth.write_text(MANUAL)
    command = ["predict", str(root), "--bids", "-o", str(out), "--model", str(run_folder)]
    assert main([*command, "--no-picture"]) == 0
    assert truth.read_text() == MANUAL
    assert read_cohort(root).scans[0].landmarks == truth
    truth.unlink()
    cohort = read_cohort(root)
    assert cohort.scans[0].landmarks is None
    assert "are not read as truth" in cohort.notes[0]
    asked = read_cohort(root, layout=Layout(predictions=True)).scans[0].landmarks
    assert asked.name == "sub-01_desc-auto_landmarks.mrk.json"


def test_inputs_that_are_a_raw_tree_are_no_output_folder(head_file, run_folder, tmp_path, capsys):
    root = tree(tmp_path / "tree", head_file)
    before = (root / "dataset_description.json").read_text()
    for command, *more in (("predict", "--model", str(run_folder)), ("msp",)):
        assert main([command, str(root), "--bids", "-o", str(root), *more]) == 2
        assert "choose -o" in capsys.readouterr().err
    assert (root / "dataset_description.json").read_text() == before


@pytest.mark.parametrize(
    "words",
    [
        ["pack", "RUN", "--name", "x", "-o", "mine.zip"],
        ["pack", "RUN", "--name", "x", "-o", "new.zip", "--card", "mine.md"],
        ["export", "RUN", "-o", "mine.pt2"],
    ],
)
def test_inputs_of_another_kind_are_not_written_over(words, run_folder, tmp_path, capsys):
    mine = tmp_path / words[-1]
    mine.write_text("mine")
    places = {"RUN": str(run_folder), "new.zip": str(tmp_path / "new.zip"), words[-1]: str(mine)}
    assert main([places.get(word, word) for word in words]) == 2
    assert "it is kept, choose another name" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert not (tmp_path / "new.zip").exists()


def test_inputs_that_are_predictions_are_compared_with_a_word(predict, tmp_path, capsys):
    predict()
    files = [
        tmp_path / f"out/scan{end}" for end in ("_prediction.json", "_desc-auto_landmarks.fcsv")
    ]
    assert main(["compare", *map(str, files)]) == 0
    assert "was written by a model" in capsys.readouterr().err


def test_inputs_that_were_corrected_become_truth_and_no_others(predict, tmp_path, capsys):
    out, root = tmp_path / "out", tmp_path / "tree"
    assert predict()[0] == 0
    gather = ["gather", str(root), "--group", "train", "--results", str(out)]
    assert main(gather) == 2
    assert "nobody has checked anything in it" in capsys.readouterr().err
    record = read_record(out / "scan_prediction.json")
    place = move(out / "scan_desc-auto_landmarks.mrk.json", "AC", np.array([0.0, 2.0, 0.0]))
    assert main(gather) == 0
    (scan,) = read_cohort(root).scans
    assert (scan.scan_id, scan.group) == ("sub-scan", "train")
    assert scan.image.read_bytes() == (tmp_path / "scan.nii.gz").read_bytes()
    points = landmark_set("msp8").arrange(read_landmarks(scan.landmarks))
    model = {row["name"]: row["world_mm"] for row in record["landmarks"]}
    np.testing.assert_allclose(points[0], place, atol=1e-6)
    np.testing.assert_allclose(points[1], model["PC"], atol=1e-6)
    # A second time it is there, and kept.
    assert main(gather) == 2
    assert "is in" in capsys.readouterr().err


def test_inputs_that_are_accepted_are_taken_when_asked_and_rejected_ones_never(
    predict, tmp_path, capsys
):
    out = tmp_path / "out"
    assert predict()[0] == 0
    gather = ["gather", "--group", "train", "--results", str(out)]
    review = out / "review.tsv"
    review.write_text("scan\tstate\treview\tnote\nscan\tfine\taccept\tn/a\n")
    assert main([*gather, str(tmp_path / "one")]) == 2
    assert main([*gather, str(tmp_path / "one"), "--accepted"]) == 0
    assert len(read_cohort(tmp_path / "one").scans) == 1
    review.write_text("scan\tstate\treview\tnote\nscan\tfine\treject\tn/a\n")
    move(out / "scan_desc-auto_landmarks.mrk.json", "AC", np.array([0.0, 2.0, 0.0]))
    assert main([*gather, str(tmp_path / "two"), "--accepted"]) == 2
    assert not (tmp_path / "two").exists()
