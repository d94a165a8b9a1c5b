"""The AC-PC frame and its files, against the readers of other programs where they are installed."""

from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest

from landmarking.errors import LandmarkError
from landmarking.geometry import LEFT, Plane, apply_affine, rigid_matrix
from landmarking.imaging import transforms
from landmarking.imaging.scan import load_scan
from landmarking.imaging.transforms import Grid

MOVE = rigid_matrix(12, -7, 9, (4, -11, 6))
POINTS = {
    "AC": apply_affine(MOVE, [0, 2, -4]),
    "PC": apply_affine(MOVE, [0, -24, -1.5]),
    "CUL": apply_affine(MOVE, [0, -60, 5]),
}
PLANE = Plane(LEFT, 0.0).transformed(MOVE)
# Stored right to left (FSL's own order) and left to right, with unequal steps.
STORED = {
    "las": np.array([[-1.5, 0, 0, 60], [0, 1.0, 0, -90], [0, 0, 2.0, -50], [0, 0, 0, 1]]),
    "ras": np.array([[1.5, 0, 0, -60], [0, 1.0, 0, -90], [0, 0, 2.0, -50], [0, 0, 0, 1]]),
}
SHAPE = (81, 151, 61)


@pytest.fixture(params=sorted(STORED))
def turned(request, tmp_path):
    """All files of a scan with a ball at every landmark; folder, scan's grid, target's grid."""
    scan = Grid(SHAPE, MOVE @ STORED[request.param])
    turn = transforms.world_to_acpc(POINTS, PLANE)
    target = transforms.acpc_grid(scan, turn)
    voxels = np.moveaxis(np.indices(SHAPE), 0, -1)
    world = apply_affine(scan.affine, voxels)
    image = sum(
        np.exp(-np.sum((world - point) ** 2, axis=-1) / (2 * 3.0**2)) for point in POINTS.values()
    )
    data = np.asarray(1000 * image, np.float32)
    transforms.write_volume(tmp_path / "scan.nii.gz", data, scan.affine)
    loaded = load_scan(tmp_path / "scan.nii.gz")
    transforms.write_volume(
        tmp_path / "acpc.nii.gz", transforms.resampled(loaded, turn, target), target.affine
    )
    transforms.write_itk(tmp_path / "x.tfm", turn)
    transforms.write_minc(tmp_path / "x.xfm", turn)
    transforms.write_fsl(tmp_path / "x.mat", turn, scan, target)
    transforms.write_lta(tmp_path / "x.lta", turn, scan, target)
    return tmp_path, scan, target


def on_the_line(points):
    """AC at the origin, PC straight behind it, whatever brought them there."""
    ac, pc = np.asarray(points[0]), np.asarray(points[1])
    length = np.linalg.norm(POINTS["AC"] - POINTS["PC"])
    return np.allclose(ac, 0, atol=1e-9) and np.allclose(pc, [0, -length, 0], atol=1e-9)


def test_ac_and_pc_lie_on_one_line_and_right_stays_right():
    turn = transforms.world_to_acpc(POINTS, PLANE)
    assert on_the_line([apply_affine(turn, POINTS[name]) for name in ("AC", "PC")])
    assert np.linalg.det(turn) == pytest.approx(1)
    assert apply_affine(turn, apply_affine(MOVE, [10, 2, -4])) == pytest.approx([10, 0, 0])
    assert apply_affine(turn, apply_affine(MOVE, [0, 2, 6]))[2] > 9


def test_no_frame_without_ac_and_pc():
    with pytest.raises(LandmarkError, match="missing: PC"):
        transforms.world_to_acpc({"AC": POINTS["AC"]}, PLANE)
    with pytest.raises(LandmarkError, match=r"at least 5 mm apart, found 0\.0 mm"):
        transforms.world_to_acpc({"AC": POINTS["AC"], "PC": POINTS["AC"]}, PLANE)
    with pytest.raises(LandmarkError, match="found nan"):
        transforms.world_to_acpc({"AC": POINTS["AC"], "PC": np.full(3, np.nan)}, PLANE)


def test_balls_in_the_resampled_scan_are_where_nibabel_says(turned):
    folder, _, _ = turned
    image = nib.load(folder / "acpc.nii.gz")
    data, length = image.get_fdata(), np.linalg.norm(POINTS["AC"] - POINTS["PC"])
    for expected in ([0, 0, 0], [0, -length, 0]):
        near = np.moveaxis(np.indices(data.shape), 0, -1)
        world = apply_affine(image.affine, near)
        weight = np.where(np.linalg.norm(world - expected, axis=-1) < 6, data, 0)
        centre = (world * weight[..., None]).sum((0, 1, 2)) / weight.sum()
        assert centre == pytest.approx(expected, abs=0.1)


def test_minc_is_ras_to_ras(turned):
    folder, _, _ = turned
    text = (folder / "x.xfm").read_text()
    assert text.startswith("MNI Transform File\n")
    body = text.split("Linear_Transform =")[1].rstrip().rstrip(";").split()
    matrix = np.vstack([np.array(body, float).reshape(3, 4), [0, 0, 0, 1]])
    assert on_the_line([apply_affine(matrix, POINTS[name]) for name in ("AC", "PC")])


def test_flirt_goes_by_voxels_in_mm(turned):
    # FSL: mm = voxel * size, the first axis counted from its other end where the image is stored
    # with a positive determinant.
    folder, _, _ = turned
    flirt = np.loadtxt(folder / "x.mat")

    def to_mm(image, world):
        voxel = apply_affine(np.linalg.inv(image.affine), world)
        if np.linalg.det(image.affine) > 0:
            voxel[0] = image.shape[0] - 1 - voxel[0]
        return voxel * image.header.get_zooms()

    scan, acpc = nib.load(folder / "scan.nii.gz"), nib.load(folder / "acpc.nii.gz")
    length = np.linalg.norm(POINTS["AC"] - POINTS["PC"])
    for name, expected in (("AC", [0, 0, 0]), ("PC", [0, -length, 0])):
        there = apply_affine(flirt, to_mm(scan, POINTS[name]))
        assert there == pytest.approx(to_mm(acpc, np.array(expected, float)), abs=1e-3)


def test_simpleitk_moves_the_points_and_the_scan(turned):
    sitk = pytest.importorskip("SimpleITK")
    folder, _, _ = turned
    turn = sitk.ReadTransform(str(folder / "x.tfm"))
    flip = np.array([-1, -1, 1])
    there = [turn.GetInverse().TransformPoint(POINTS[name] * flip) * flip for name in ("AC", "PC")]
    assert on_the_line(there)
    ours = sitk.ReadImage(str(folder / "acpc.nii.gz"), sitk.sitkFloat32)
    scan = sitk.ReadImage(str(folder / "scan.nii.gz"), sitk.sitkFloat32)
    theirs = sitk.GetArrayFromImage(sitk.Resample(scan, ours, turn, sitk.sitkBSpline))
    assert np.abs(theirs - sitk.GetArrayFromImage(ours)).max() < 5  # of 1000


def test_nitransforms_reads_all(turned):
    linear = pytest.importorskip("nitransforms").linear
    folder, _, _ = turned
    length = np.linalg.norm(POINTS["AC"] - POINTS["PC"])
    target, scan = folder / "acpc.nii.gz", folder / "scan.nii.gz"
    for ending, how in (("tfm", "itk"), ("mat", "fsl"), ("lta", "fs")):
        images = {"reference": target, "moving": scan} if how == "fsl" else {}
        turn = linear.load(folder / f"x.{ending}", fmt=how, **images)
        # Its maps go from the reference to the moving image.
        back = turn.map(np.array([[0, 0, 0], [0, -length, 0]], float))
        assert back == pytest.approx(np.array([POINTS["AC"], POINTS["PC"]]), abs=1e-3), ending


def test_lta_geometry_gives_the_images_back(turned):
    folder, scan, target = turned
    lines = [line.split(" = ") for line in (folder / "x.lta").read_text().splitlines()]
    starts = [i for i, line in enumerate(lines) if line[0].endswith("volume info")]
    for (start, end), grid in zip(pairwise([*starts, len(lines)]), (scan, target), strict=True):
        info = {line[0].strip(): line[1] for line in lines[start + 1 : end]}
        axes, middle = (
            np.array([info[f"{a}ras"].split() for a in "xyz"], float).T,
            np.array(info["cras"].split(), float),
        )
        affine = np.eye(4)
        affine[:3, :3] = axes * np.array(info["voxelsize"].split(), float)
        shape = np.array(info["volume"].split(), int)
        affine[:3, 3] = middle - affine[:3, :3] @ (shape / 2)
        assert tuple(shape) == grid.shape
        assert affine == pytest.approx(grid.affine)


def test_labels_are_balls_around_the_points():
    grid = Grid(SHAPE, MOVE @ STORED["ras"])
    labels = transforms.label_map({**POINTS, "outside": np.full(3, 900.0)}, grid)
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    for number, point in enumerate(POINTS.values(), start=1):
        world = apply_affine(grid.affine, np.argwhere(labels == number))
        assert np.linalg.norm(world - point, axis=1).max() <= 2.0
        assert world.mean(axis=0) == pytest.approx(point, abs=0.6)


def test_whole_numbers_are_kept_as_they_are(tmp_path):
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    transforms.write_volume(tmp_path / "a.nii.gz", data, np.eye(4))
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert (np.asarray(image.dataobj) == data).all()
