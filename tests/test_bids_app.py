"""The BIDS App from tree to derivatives: who is done, who is left out, and what each file says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from landmarking.bids_app import GROUP_TABLE, main
from landmarking.imaging.template import block_average, load_template
from landmarking.prediction.msp import write_nifti


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Five scans of four people: one left out by scans.tsv, one person by participants.tsv."""
    root = tmp_path_factory.mktemp("bids") / "tree"
    template = load_template()
    data, affine = block_average(template.brain, template.affine, 2.0)
    for place in ("sub-01/ses-1", "sub-01/ses-2", "sub-02", "sub-03", "sub-04"):
        folder = root / place / "anat"
        folder.mkdir(parents=True)
        write_nifti(folder / f"{place.replace('/', '_')}_T1w.nii.gz", data, affine)
    scans = "filename\texclude\nanat/sub-01_ses-2_T1w.nii.gz\tmotion\n"
    (root / "sub-01/ses-2/sub-01_ses-2_scans.tsv").write_text(scans)
    people = "participant_id\tage\texclude\nsub-01\t31\tn/a\nsub-02\t40\t0\nsub-03\t50\twithdrew\n"
    (root / "participants.tsv").write_text(people)
    broken = root / "sub-04/anat/sub-04_T1w.nii.gz"
    broken.write_bytes(broken.read_bytes()[:5000])
    (root / "dataset_description.json").write_text('{"Name": "t", "BIDSVersion": "1.9.0"}')
    return root


@pytest.fixture(scope="module")
def done(tree, tmp_path_factory):
    output = tmp_path_factory.mktemp("derivatives") / "out"
    words = [str(tree), str(output), "participant", "--labels", "--acpc", "header"]
    return main(words), output


def test_the_broken_scan_fails_alone_and_tables_leave_out_what_they_name(done):
    status, output = done
    assert status == 1
    found = {path.name for path in output.rglob("*_prediction.json")}
    assert found == {"sub-01_ses-1_prediction.json", "sub-02_prediction.json"}
    page = (output / "index.html").read_text()
    assert "2 done" in page
    assert "1 failed; 2 left out by the tree&#39;s tables." in page or "1 failed; 2 left" in page
    assert "sub-01_ses-2_scans.tsv: motion" in page
    assert "participants.tsv: withdrew" in page
    assert "gzip stream is truncated" in page


def test_the_points_stand_in_bids_tables_with_a_sidecar(done):
    stem = done[1] / "sub-01/ses-1/anat/sub-01_ses-1"
    table = pd.read_csv(f"{stem}_desc-msp8_landmarks.tsv", sep="\t")
    record = json.loads(Path(f"{stem}_prediction.json").read_text())
    assert list(table["landmark"]) == [row["name"] for row in record["landmarks"]]
    world = np.array([row["world_mm"] for row in record["landmarks"]])
    np.testing.assert_allclose(table[["x_mm", "y_mm", "z_mm"]], world, atol=1e-9)
    sidecar = json.loads(Path(f"{stem}_desc-msp8_landmarks.json").read_text())
    assert set(table.columns) <= set(sidecar)
    assert sidecar["SpatialReference"] == "orig"
    names = pd.read_csv(f"{stem}_desc-landmarks_dseg.tsv", sep="\t")
    labels = np.asarray(nib.load(f"{stem}_desc-landmarks_dseg.nii.gz").dataobj)
    assert set(names["index"]) == set(np.unique(labels)) - {0}
    ignored = (done[1] / ".bidsignore").read_text()
    assert "*_landmarks.*" in ignored


def test_the_group_level_joins_people_and_says_what_is_missing(done, tree, capsys):
    output = done[1]
    assert main([str(tree), str(output), "group"]) == 1
    told = capsys.readouterr()
    assert "failed:" in told.err
    assert "sub-04_T1w.nii.gz: has no result" in told.err
    assert "sub-03" not in told.err
    table = pd.read_csv(output / GROUP_TABLE, sep="\t")
    assert list(table["participant_id"]) == ["sub-01", "sub-02"]
    assert list(table["age"]) == [31, 40]
    assert table["session_id"].fillna("n/a").tolist() == ["ses-1", "n/a"]
    assert np.isfinite(table["AC_x_mm"]).all()
    assert "motion" in (output / "index.html").read_text()


def test_labels_choose_people_and_sessions_and_unknown_ones_are_refused(tree, tmp_path, capsys):
    output = tmp_path / "out"
    assert main([str(tree), str(output), "participant", "--participant-label", "sub-02"]) == 0
    assert [path.name for path in output.glob("sub-*")] == ["sub-02"]
    words = [str(tree), str(output), "participant", "--participant_label", "09"]
    assert main(words) == 2
    assert "there is no scan of sub-09; it has sub-01" in capsys.readouterr().err
    words = [str(tree), str(output), "participant", "--session-label", "1"]
    assert main(words) == 0
    assert (output / "sub-01/ses-1/anat/sub-01_ses-1_desc-msp8_landmarks.tsv").is_file()


def test_a_table_of_scans_that_cannot_be_read_is_refused(tree, tmp_path, capsys):
    other = tmp_path / "tree"
    shutil.copytree(tree, other)
    (other / "sub-02/sub-02_scans.tsv").write_text("file\texclude\nx\ty\n")
    assert main([str(other), str(tmp_path / "out"), "participant"]) == 2
    assert "sub-02_scans.tsv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_group_without_results_is_refused(tree, tmp_path, capsys):
    assert main([str(tree), str(tmp_path), "group"]) == 2
    assert "holds no results of predict" in capsys.readouterr().err
