"""The installed command, from what is typed to files, messages and exit status."""

import csv
import gzip
import json
import pickle
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from landmarking.cli import main
from landmarking.cohort.bids import Layout, read_cohort
from landmarking.files import file_sha256
from landmarking.landmarks import read_landmarks
from landmarking.prediction.batch import Target
from landmarking.prediction.outputs import PredictJob

pytestmark = pytest.mark.usefixtures("known_stages")

COMMANDS = ("predict", "msp", "compare", "info", "calibrate", "pack", "export")


def test_help_imports_nothing_that_is_slow():
    code = (
        "import sys\n"
        "from landmarking.cli import main\n"
        "for words in [['--help'], *([name, '--help'] for name in sys.argv[1:])]:\n"
        "    try:\n"
        "        main(words)\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0\n"
        "print({'numpy', 'torch', 'nibabel', 'rich', 'omegaconf'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *COMMANDS], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"
    assert done.stdout.count("exit status:") == 1 + len(COMMANDS)
    assert all(f"\n    {name}" in done.stdout for name in COMMANDS)


@pytest.fixture(scope="module")
def folder(head_file, tmp_path_factory):
    """One good scan, one truncated, one of four dimensions."""
    root = tmp_path_factory.mktemp("folder")
    shutil.copy(head_file, root / "good.nii.gz")
    content = head_file.read_bytes()
    (root / "truncated.nii.gz").write_bytes(content[: len(content) // 2])
    image = nib.load(head_file)
    four = np.repeat(np.asarray(image.dataobj)[..., None], 2, axis=-1)
    nib.save(nib.Nifti1Image(four, image.affine), root / "series.nii.gz")
    return root


@pytest.fixture(scope="module")
def predicted(folder, run_folder, known_stages, tmp_path_factory):
    """Exit status and output folder of the command on that folder."""
    output = tmp_path_factory.mktemp("out") / "results"
    status = main(["predict", str(folder), "-o", str(output), "--model", str(run_folder)])
    return status, output


def test_one_result_two_clear_reports_and_status_1(predicted, folder, run_folder, capsys, model):
    status, output = predicted
    assert status == 1
    names = {path.name for path in output.iterdir()}
    assert names == {
        "good_desc-auto_landmarks.mrk.json",
        "good_desc-auto_landmarks.fcsv",
        "good_qc.png",
        "good_prediction.json",
        "landmarks.csv",
        "landmarks_wide.csv",
        "index.html",
        "landmarks.json",
        ".landmarks.csv.lock",
    }
    assert len((output / "landmarks.csv").read_text().splitlines()) - 1 == len(model.landmarks)
    # Again: the good one is finished, the bad ones are tried and reported again.
    before = {path: path.stat().st_mtime_ns for path in output.glob("good_*")}
    assert main(["predict", str(folder), "-o", str(output), "--model", str(run_folder)]) == 1
    assert {path: path.stat().st_mtime_ns for path in output.glob("good_*")} == before
    said = capsys.readouterr()
    assert "good: was finished" in said.out
    assert "0 done, 1 finished before, 2 failed" in said.out
    failed = said.err.splitlines()
    assert len(failed) == 2
    assert "series.nii.gz" in failed[0]
    assert "truncated or damaged" in failed[1]
    assert all(line.startswith("failed: ") for line in failed)


def test_another_scan_of_the_same_name_or_another_model_is_done_again(
    predicted, folder, run_folder, make_run, tmp_path, capsys
):
    output = tmp_path / "out"
    shutil.copytree(predicted[1], output)
    scan = tmp_path / "good.nii.gz"
    scan.write_bytes(gzip.compress(gzip.decompress((folder / "good.nii.gz").read_bytes()), 1))
    command = ["predict", str(scan), "-o", str(output), "--no-picture", "--json", "--model"]
    assert main([*command, str(run_folder)]) == 0
    first = json.loads(capsys.readouterr().out)["scans"][0]
    assert first["reused"] is False
    assert first["result"]["scan_sha256"] == file_sha256(scan)
    other = make_run(tmp_path / "other", seed=1)
    assert main([*command, str(other)]) == 0
    second = json.loads(capsys.readouterr().out)["scans"][0]
    assert second["reused"] is False
    assert second["result"]["landmarks"][0]["pixel"] != first["result"]["landmarks"][0]["pixel"]
    assert main([*command, str(other)]) == 0
    assert json.loads(capsys.readouterr().out)["scans"][0]["reused"] is True


def test_results_of_another_version_are_done_again_and_marked_where_they_stay(
    predicted, folder, run_folder, tmp_path, capsys
):
    output = tmp_path / "out"
    shutil.copytree(predicted[1], output)
    path = output / "good_prediction.json"
    record = json.loads(path.read_text())
    record["made_with"]["prediction"] = 0
    path.write_text(json.dumps(record))
    (output / "other_prediction.json").write_text(json.dumps(record))
    command = ["predict", str(folder / "good.nii.gz"), "-o", str(output), "--no-picture"]

    assert main([*command, "--json", "--model", str(run_folder)]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["scans"][0]["reused"] is False
    assert first["stale"] == ["other"]
    assert main([*command, "--model", str(run_folder)]) == 0
    said = capsys.readouterr().out
    assert "made with another model or version of the program; predict it again (other)" in said
    assert "made with another model" in (output / "index.html").read_text()
    rows = list(csv.DictReader((output / "landmarks.csv").read_text().splitlines()))
    made = {row["scan"]: row["made_with"] for row in rows}
    assert made["good"] != made["other"]
    assert len(made["good"]) == 12


def test_compare_and_truth_print_the_same_errors(predicted, run_folder, folder, capsys):
    output = predicted[1]
    truth = output / "good_desc-auto_landmarks.fcsv"
    assert main(["compare", str(output / "good_prediction.json"), str(truth), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)["errors"]
    assert len(alone) == 8
    assert max(error["distance_mm"] for error in alone) < 1e-9
    command = ["predict", str(folder / "good.nii.gz"), "-o", str(output), "--json"]
    assert main([*command, "--model", str(run_folder), "--truth", str(truth)]) == 0
    assert json.loads(capsys.readouterr().out)["errors"] == alone


def test_bids_in_and_bids_derivatives_out_that_our_own_reader_takes(
    head_file, run_folder, tmp_path, capsys
):
    root = tmp_path / "study"
    scan = root / "sub-01" / "ses-a" / "anat" / "sub-01_ses-a_T1w.nii.gz"
    scan.parent.mkdir(parents=True)
    shutil.copy(head_file, scan)
    (root / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tHS\n")
    output = root / "derivatives" / "landmarks"
    command = ["predict", str(root), "-o", str(output), "--bids", "--model", str(run_folder)]
    assert main([*command, "--no-picture", "--timing"]) == 0
    said = capsys.readouterr().out
    assert "start-up" in said
    assert "MiB at most" in said
    assert json.loads((output / "dataset_description.json").read_text())["DatasetType"] == (
        "derivative"
    )
    markups = output / "sub-01/ses-a/anat/sub-01_ses-a_desc-auto_landmarks.mrk.json"
    assert next(iter(read_landmarks(markups))) == "AC"
    # A prediction is no truth, unless it is asked for.
    cohort = read_cohort(root)
    assert cohort.scans[0].landmarks is None
    assert "written by a model" in cohort.notes[0]
    (record,) = read_cohort(root, layout=Layout(predictions=True)).scans
    assert record.landmarks == markups


def test_msp_writes_and_resumes(head_file, tmp_path, capsys):
    command = ["msp", str(head_file), "-o", str(tmp_path), "--spacing", "4"]
    assert main(command) == 0
    assert main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert "yaw" in said[0]
    assert "was finished" in said[2]
    record = json.loads((tmp_path / "head_T1w_msp.json").read_text())
    # The template is symmetric about x = 0.
    np.testing.assert_allclose(record["plane"]["normal"], [-1, 0, 0], atol=0.01)
    assert main(["msp", str(head_file), "-o", str(tmp_path), "--spacing", "0"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "none.nii", "-o", "OUT"], "there is no such file or folder"),
        (["predict", "SCAN", "-o", "OUT", "--model", "none.zip"], "there is no such model"),
        (["predict", "SCAN", "-o", "SCAN/out"], "the folder cannot be made"),
        (["predict", "SCAN", "-o", "OUT", "--truth", "a", "b"], "--truth takes one file a scan"),
        (["predict", "SCAN", "-o", "OUT", "--truth", "none.fcsv"], "none.fcsv"),
        (["compare", "SCAN"], "compare takes pairs"),
        (["compare", "SCAN", "SCAN"], "not a <name>_prediction.json"),
        (["export", "-o", "model.pth"], "exported as .pt2 or .onnx"),
    ],
)
def test_what_cannot_be_started_is_one_message_and_status_2(
    arguments, message, head_file, tmp_path, capsys
):
    places = {"OUT": str(tmp_path / "out"), "SCAN": str(head_file)}
    filled = [places.get(word, word.replace("SCAN/", f"{head_file}/")) for word in arguments]
    assert main(filled) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("landmarking: ")
    assert message in said.err
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_argparses_status_2(capsys):
    with pytest.raises(SystemExit) as end:
        main(["predict", "a.nii", "-o", "out", "--workers", "0"])
    assert end.value.code == 2
    assert "at least 1, found 0" in capsys.readouterr().err


def test_info_says_what_ships(capsys):
    assert main(["info"]) == 0
    assert "licence of the weights" in capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["landmarks"]["AC"] == "anterior commissure"


def test_jobs_travel_to_other_processes(tmp_path):
    job = PredictJob(Target(tmp_path / "a.nii", "a"), tmp_path, (), {"model": "digest"})
    assert pickle.loads(pickle.dumps(job)) == job
