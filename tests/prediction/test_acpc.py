"""`predict --acpc` from scan to files: where nibabel, SimpleITK and scipy find AC and PC."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from landmarking.cli import main
from landmarking.geometry import apply_affine
from landmarking.imaging.template import block_average, load_template
from landmarking.prediction.msp import write_nifti

PEOPLE = Path(__file__).parents[3] / "shared/people"
WITHIN_MM = 0.1


@pytest.fixture(scope="module", params=["template, turned", "a real person"])
def scan(request, tmp_path_factory):
    if request.param == "a real person":
        path = PEOPLE / "ds000011/sub-11/anat/sub-11_T1w.nii.gz"
        if not path.is_file():
            pytest.skip("the scans are not at ../shared")
        return path
    template = load_template()
    data, affine = block_average(template.brain, template.affine, 2.0)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    tilt[:3, 3] = 5.0, -20.0, 12.0
    path = tmp_path_factory.mktemp("scan") / "head.nii.gz"
    write_nifti(path, data, tilt @ affine)
    return path


@pytest.fixture(scope="module", params=["header", "resample"])
def turned(request, scan, tmp_path_factory):
    """Path of the results without endings, and AC and PC in the scan's world, RAS mm."""
    out = tmp_path_factory.mktemp("out")
    words = ["predict", str(scan), "-o", str(out), "--acpc", request.param, "--no-picture"]
    assert main(words) == 0
    record = next(out.glob("*_prediction.json"))
    points = {row["name"]: row["world_mm"] for row in json.loads(record.read_text())["landmarks"]}
    stem = str(record).removesuffix("_prediction.json")
    return stem, request.param, np.array([points["AC"], points["PC"]])


def is_acpc(points):
    ac, pc = points
    length = np.linalg.norm(ac - pc)
    return np.abs([*ac, pc[0], pc[1] + length, pc[2]]).max() < WITHIN_MM


def test_simpleitk_brings_ac_and_pc_onto_one_line(turned):
    stem, _, points = turned
    flip = np.array([-1.0, -1.0, 1.0])
    # ITK maps points of the new image to the old one.
    turn = SimpleITK.ReadTransform(f"{stem}_from-T1w_to-ACPC_xfm.tfm").GetInverse()
    assert is_acpc([np.array(turn.TransformPoint(p * flip)) * flip for p in points])
    assert not is_acpc(points)


def test_nibabel_finds_them_there_by_the_header_alone(turned, scan):
    stem, how, points = turned
    image, raw = nib.load(f"{stem}_space-ACPC_T1w.nii.gz"), nib.load(scan)
    if how == "header":
        kept = np.asarray(raw.dataobj, float)
        np.testing.assert_allclose(image.dataobj, kept, rtol=0, atol=1e-6 * kept.max())
        voxels = apply_affine(np.linalg.inv(raw.affine), points)
        assert is_acpc(apply_affine(image.affine, voxels))
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)


def test_scipy_resamples_the_scan_to_the_same_image(turned, scan):
    """The turn of the .xfm file and scipy's interpolation give the image that we have written."""
    stem, _, points = turned
    text = Path(f"{stem}_from-T1w_to-ACPC_xfm.xfm").read_text()
    numbers = text.split("Linear_Transform =")[1].rstrip().rstrip(";").split()
    turn = np.vstack([np.array(numbers, float).reshape(3, 4), [0, 0, 0, 1]])
    assert is_acpc(apply_affine(turn, points))
    image, raw = nib.load(f"{stem}_space-ACPC_T1w.nii.gz"), nib.load(scan)
    back = np.linalg.inv(raw.affine) @ np.linalg.inv(turn) @ image.affine
    theirs = ndimage.affine_transform(
        raw.get_fdata(), back[:3, :3], back[:3, 3], output_shape=image.shape, order=1
    )
    middle = tuple(slice(n // 4, -(n // 4)) for n in image.shape)
    assert np.corrcoef(theirs[middle].ravel(), image.get_fdata()[middle].ravel())[0, 1] > 0.97
