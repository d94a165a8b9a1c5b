"""Images along the plane lie on the scan, in its own world."""

import json

import nibabel as nib
import numpy as np
import pytest

from landmarking.geometry import LEFT, Plane, apply_affine, rigid_matrix
from landmarking.imaging.midsagittal import MidsagittalPlane
from landmarking.imaging.registration import Registration
from landmarking.imaging.scan import Scan
from landmarking.prediction import msp
from landmarking.prediction.batch import Clock, Target
from landmarking.prediction.msp import (
    MspJob,
    aligned_volume,
    find_midsagittal,
    msp_finished,
    msp_job,
    slice_volume,
)

# Head to world: turned, tilted, nodded and moved.
MOTION = rigid_matrix(6, -8, 10, (4, -3, 5))


def brightness(points_mm):
    """A smooth world, not symmetric, so that any wrong place shows."""
    x, y, z = np.moveaxis(np.asarray(points_mm), -1, 0)
    return 100 + 30 * np.sin(x / 17) + 20 * np.cos(y / 23) + 25 * np.sin((z + y) / 29)


@pytest.fixture(scope="module")
def scan():
    affine = np.diag([3.0, 2.9, 3.1, 1.0])
    affine[:3, 3] = (-100, -120, -110)
    affine = rigid_matrix(0, 3, -4) @ affine
    voxels = np.moveaxis(np.indices((66, 80, 70)), 0, -1)
    data = brightness(apply_affine(affine, voxels)).astype(np.float32)
    return Scan(data, affine, "smooth")


@pytest.fixture(scope="module")
def stages():
    """Registration and plane as they are known to be."""
    registration = Registration(np.linalg.inv(MOTION), 0.9, True, "rigid")
    plane = MidsagittalPlane(Plane(LEFT, 0.0).transformed(MOTION), 0.8, 0.1, np.zeros(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(msp, "register_stage", lambda *_: registration)
        patch.setattr(msp, "plane_stage", lambda *_: plane)
        yield


@pytest.fixture(scope="module")
def found(scan, stages):
    return find_midsagittal(scan, 2.5, Clock())


@pytest.fixture(scope="module")
def aligned(found):
    return aligned_volume(found)


def inside(scan, world, margin):
    voxels = apply_affine(np.linalg.inv(scan.affine), world)
    upper = np.array(scan.data.shape) - 1 - margin
    return ((voxels >= margin) & (voxels <= upper)).all(axis=-1)


@pytest.mark.parametrize("layers", ["one", "all"])
def test_every_voxel_shows_what_the_scan_has_at_its_world_place(layers, found, aligned, scan):
    data, matrix = slice_volume(found) if layers == "one" else aligned
    world = apply_affine(matrix, np.moveaxis(np.indices(data.shape), 0, -1))
    known = inside(scan, world, 3.0)
    assert known.sum() > 1000
    np.testing.assert_allclose(data[known], brightness(world)[known], atol=0.15)
    far = ~inside(scan, world, -1.0)
    assert (data[far] == scan.data.min()).all()
    assert nib.aff2axcodes(matrix) == ("R", "A", "S")


def test_the_volume_holds_the_whole_scan_with_the_plane_in_its_middle(found, aligned, scan):
    data, matrix = aligned
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(scan.data.shape) - 1)
    voxels = apply_affine(np.linalg.inv(matrix), apply_affine(scan.affine, corners))
    assert voxels.min() >= -1e-6
    assert (voxels <= np.array(data.shape) - 1 + 1e-6).all()
    assert data.shape[0] % 2 == 1
    middle = apply_affine(matrix, [[data.shape[0] // 2, y, z] for y in (0, 50) for z in (0, 60)])
    np.testing.assert_allclose(found.plane.distance_mm(middle), 0.0, atol=1e-9)


def test_the_slice_is_a_part_of_the_middle_layer(found, aligned):
    _, matrix = slice_volume(found)
    volume, whole = aligned
    offset = apply_affine(np.linalg.inv(whole), apply_affine(matrix, [0, 0, 0]))
    np.testing.assert_allclose(offset, np.round(offset), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(matrix[:3, :3], axis=0), 2.5, atol=1e-9)
    assert volume.shape[0] // 2 == round(offset[0])


def test_the_aligned_frame_undoes_turn_and_tilt(found):
    to_world = found.aligned_to_world
    np.testing.assert_allclose(to_world[:3, :3], MOTION[:3, :3], atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(to_world[:3, :3]), 1.0)
    # Yaw is applied last and is the turn of the right-left axis seen from above.
    assert found.tilt_deg[0] == pytest.approx(10.0)
    turned = rigid_matrix(roll_deg=-8.0)[:3, 0]
    assert np.sign(found.tilt_deg[1]) == np.sign(-turned[2])


def test_files_carry_the_world_and_slicers_plane(scan, stages, check_markups, tmp_path):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(scan.data, scan.affine), path)
    job = MspJob(Target(path, "sub/scan"), tmp_path / "out", spacing_mm=4.0)
    outcome = msp_job(job)
    assert outcome.problem is None

    found = find_midsagittal(path, 4.0, Clock())
    data, matrix = aligned_volume(found)
    image = nib.load(tmp_path / "out/sub/scan_aligned.nii.gz")
    np.testing.assert_allclose(image.affine, matrix, atol=1e-4)
    np.testing.assert_allclose(image.get_qform(), matrix, atol=1e-3)
    assert np.abs(image.get_fdata() - data).max() < 0.01
    assert nib.load(tmp_path / "out/sub/scan_slice.nii.gz").shape == (1, 64, 64)

    markup_file = tmp_path / "out/sub/scan_msp.mrk.json"
    assert check_markups(markup_file) == []
    (markup,) = json.loads(markup_file.read_text())["markups"]
    base = np.array(markup["baseToNode"]).reshape(4, 4)
    np.testing.assert_allclose(np.linalg.det(base[:3, :3]), 1.0)
    np.testing.assert_allclose(base[:3, 2], -found.plane.normal, atol=1e-9)
    np.testing.assert_allclose(found.plane.distance_mm(base[:3, 3]), 0.0, atol=1e-9)
    np.testing.assert_array_equal(base[:3, 2], markup["normal"])

    assert msp_finished(job) == outcome.record
    assert msp_finished(MspJob(job.target, job.output, spacing_mm=1.0)) is None
