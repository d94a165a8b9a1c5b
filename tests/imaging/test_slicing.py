import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarking.errors import ScanError
from landmarking.geometry import SliceGeometry, apply_affine, rigid_matrix
from landmarking.imaging.scan import Scan
from landmarking.imaging.slicing import DISTANCE_LOW_MM, DISTANCE_STEP_MM, sample_slice, tissue_maps

# Slices out of volumes: exact where splines are, and without aliasing.


ANGLE = st.floats(-25.0, 25.0)
AXES = np.array([[0.0, 0, -1, 0], [-1, 0, 0, 20], [0, -1, 0, 20], [0, 0, 0, 1]])


def volume_of(function, spacing=(1.0, 1.0, 1.0), pose=None, extent_mm=70.0):
    """A function of the world (points (N, 3) to values), sampled on a grid about the origin."""
    spacing = np.array(spacing)
    shape = np.ceil(extent_mm / spacing).astype(int)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (shape - 1) / 2
    affine = (np.eye(4) if pose is None else pose) @ affine
    points = apply_affine(affine, np.indices(shape).reshape(3, -1).T)
    return Scan(function(points).reshape(shape).astype(np.float32), affine, "volume")


def smooth(points):
    return 100 + 30 * np.cos(points @ [0.11, -0.07, 0.05]) + points @ [0.3, 0.2, -0.4]


@settings(max_examples=15)
@given(ANGLE, ANGLE, ANGLE, st.sampled_from([(1, 1, 1), (0.8, 1.2, 1.5), (5, 1, 1), (1, 1, 5)]))
def test_a_smooth_function_is_read_where_the_geometry_says(pitch, roll, yaw, spacing):
    """World and slice agree whatever the orientation of voxels and slice."""
    scan = volume_of(smooth, spacing, rigid_matrix(3, 2, 1, (1, 2, 3)), extent_mm=90.0)
    geometry = SliceGeometry(rigid_matrix(pitch, roll, yaw) @ AXES, (41, 41))

    image = sample_slice(scan, geometry)

    y, x = np.mgrid[0:41, 0:41]
    expected = smooth(geometry.to_world(np.stack([x, y], axis=-1)))
    assert np.abs(image - expected)[8:-8, 8:-8].max() < 0.25


def test_on_the_grid_voxels_are_copied():
    rng = np.random.default_rng(0)
    scan = volume_of(lambda points: rng.uniform(size=len(points)), extent_mm=41.0)
    geometry = SliceGeometry(AXES, (41, 41))

    image = sample_slice(scan, geometry)

    assert np.allclose(image, scan.data[20, ::-1, ::-1].T, atol=1e-5)


def test_a_bright_point_is_seen_at_its_world_position():
    target = np.array([0.0, 5.3, -7.6])
    scan = volume_of(lambda p: np.exp(-((p - target) ** 2).sum(1) / 8), (1.2, 0.9, 1.1))
    geometry = SliceGeometry(AXES, (41, 41))

    image = sample_slice(scan, geometry)

    y, x = np.mgrid[0:41, 0:41]
    centroid = [(image * x).sum() / image.sum(), (image * y).sum() / image.sum()]
    assert np.allclose(centroid, geometry.to_pixel(target), atol=0.05)


def test_fine_voxels_do_not_alias():
    """Stripes of 0.9 mm on 0.3 mm voxels are grey at 1 mm a pixel, not a false pattern."""
    stripes = volume_of(
        lambda points: np.cos(2 * np.pi * points[:, 1] / 0.9), (2.0, 0.3, 2.0), extent_mm=60.0
    )

    image = sample_slice(stripes, SliceGeometry(AXES, (41, 41)))

    assert np.abs(image[5:-5, 5:-5]).max() < 0.35


def test_nothing_is_averaged_across_the_plane():
    """A sheet of one voxel keeps its full brightness, with thick voxels across it as well."""
    for thickness in (0.6, 1.0, 5.0):
        scan = volume_of(lambda p: np.abs(p[:, 0]) < 1e-6, (thickness, 1.0, 1.0), extent_mm=45.0)

        image = sample_slice(scan, SliceGeometry(AXES, (41, 41)))

        assert image[20, 20] == pytest.approx(1.0, abs=1e-4)


def test_outside_the_field_of_view_is_the_scans_darkest():
    scan = volume_of(lambda points: 50 + points[:, 0], extent_mm=30.0)
    geometry = SliceGeometry(AXES, (81, 81))

    image = sample_slice(scan, geometry)

    assert (image[60:] == scan.data.min()).all()
    assert image[20, 20] == pytest.approx(50.0, abs=0.01)


def test_a_slice_beside_the_volume_is_blank():
    scan = volume_of(smooth, extent_mm=20.0)
    beside = AXES.copy()
    beside[0, 3] = 500.0

    image = sample_slice(scan, SliceGeometry(beside, (5, 6)))

    assert image.shape == (5, 6)
    assert (image == scan.data.min()).all()


def test_values_stay_within_those_of_the_scan():
    scan = volume_of(lambda points: points[:, 1] > 0.3)

    image = sample_slice(scan, SliceGeometry(rigid_matrix(10) @ AXES, (41, 41)))

    assert image.min() >= 0.0
    assert image.max() <= 1.0


# Tissue maps on a slice: the place, the shares and the distance.


SAGITTAL = np.array([[0, 0, -1, 0], [-1, 0, 0, 30], [0, -1, 0, 30], [0, 0, 0, 1]], dtype=float)
CENTRE = np.array([3.0, -4.0, 5.0])


def write_ball(folder, full=255, radius=20.0, core=8.0, affine=None):
    """A brain that is a ball with a core of fluid and a rind of grey matter, off the plane."""
    affine = np.diag([1.1, 0.9, 1.0, 1.0]) if affine is None else affine.copy()
    shape = (60, 70, 64)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    away = np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3] - CENTRE, axis=-1)
    fluid = np.clip(core + 0.5 - away, 0, 1)
    grey = np.clip(radius + 0.5 - away, 0, 1) * np.clip(away - radius + 4.5, 0, 1)
    white = np.clip(radius + 0.5 - away, 0, 1) - fluid - grey
    paths = []
    for name, share in (("GM", grey), ("WM", white), ("CSF", fluid)):
        data = np.rint(255 * share).astype(np.uint8) if full == 255 else share.astype(np.float32)
        paths.append(folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(data, affine), paths[-1])
    return paths


def distances(geometry, centre=CENTRE):
    y, x = np.mgrid[: geometry.shape[0], : geometry.shape[1]]
    return np.linalg.norm(geometry.to_world(np.stack([x, y], axis=-1)) - centre, axis=-1)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("full", [255, 1])
def test_maps_lie_where_the_world_says(tmp_path, full, turned):
    turn = rigid_matrix(9.0, -6.0, 14.0, (0.0, 0.0, 0.0)) if turned else np.eye(4)
    files = write_ball(tmp_path, full, affine=turn @ np.diag([1.1, 0.9, 1.0, 1.0]))
    geometry = SliceGeometry(rigid_matrix(4.0, 5.0, -3.0, (1.0, 2.0, 0.0)) @ SAGITTAL, (61, 64))
    maps = tissue_maps(files, geometry)
    assert maps.shape == (4, 61, 64)
    away = distances(geometry)
    fluid = np.clip(8.5 - away, 0, 1)
    assert np.abs(maps[2] / 255.0 - fluid).max() < 0.25
    brain = np.clip(20.5 - away, 0, 1)
    assert np.abs(maps[:3].sum(0, dtype=int) / 255.0 - brain).max() < 0.25
    assert np.abs(maps[0] / 255.0 - brain * np.clip(away - 15.5, 0, 1)).max() < 0.25
    distance = maps[3] * DISTANCE_STEP_MM + DISTANCE_LOW_MM
    near = away < 34.0
    assert np.abs(distance - (away - 20.0))[near].max() < 1.6
    assert abs((distance - (away - 20.0))[near].mean()) < 0.4


def test_a_brain_elsewhere_leaves_nothing(tmp_path):
    far = SAGITTAL.copy()
    far[0, 3] = 300.0
    maps = tissue_maps(write_ball(tmp_path), SliceGeometry(far, (61, 64)))
    assert maps.max() == 0


def test_an_image_is_no_map(tmp_path):
    files = write_ball(tmp_path)
    data = np.random.default_rng(0).integers(0, 900, (60, 70, 64)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.eye(4)), files[0])
    with pytest.raises(ScanError, match=r"GM.nii.gz: a tissue map holds shares from 0 to 1"):
        tissue_maps(files, SliceGeometry(SAGITTAL, (61, 64)))
