"""Slices out of volumes: exact where splines are, and without aliasing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarking.geometry import SliceGeometry, apply_affine, rigid_matrix
from landmarking.imaging.resample import sample_slice
from landmarking.imaging.scan import Scan

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
