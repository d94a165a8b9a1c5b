"""Frames and maps: every round trip under a millionth of a millimetre."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarking.errors import LandmarkError
from landmarking.geometry import LEFT, Plane, SliceGeometry, apply_affine, rigid_matrix

finite = st.floats(-200.0, 200.0)
points3 = st.tuples(finite, finite, finite).map(np.array)
angles = st.floats(-60.0, 60.0)
poses = st.builds(rigid_matrix, angles, angles, angles, points3, points3)


@st.composite
def affines(draw):
    """Voxel to world: one of the 48 orientations, anisotropic, then turned to any oblique pose."""
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    sizes = draw(st.tuples(*[st.floats(0.3, 6.0)] * 3))
    axes = np.eye(4)
    axes[:3, :3] = (np.eye(3)[list(order)] * signs * np.array(sizes)).T
    return draw(poses) @ axes


@st.composite
def planes(draw):
    """Mid-sagittal planes: normals within 60 degrees of the left."""
    normal = np.array([-1.0, draw(st.floats(-1, 1)), draw(st.floats(-1, 1))])
    return Plane.from_normal(normal, draw(points3))


@st.composite
def geometries(draw):
    """Slices in any pose, with pixels of any size and a shear, as an affine registration gives."""
    pixel = np.eye(4)
    pixel[:3, :3] = [
        [0, 0, -1],
        [-draw(st.floats(0.3, 3)), draw(st.floats(-0.5, 0.5)), 0],
        [0, 0, 0],
    ]
    pixel[2, 1] = -draw(st.floats(0.3, 3))
    return SliceGeometry(
        draw(poses) @ pixel, (draw(st.integers(1, 300)), draw(st.integers(1, 300)))
    )


@given(affines(), points3)
def test_world_goes_to_voxel_and_back(affine, point):
    voxel = apply_affine(np.linalg.inv(affine), point)

    assert np.allclose(apply_affine(affine, voxel), point, rtol=0, atol=1e-6)


@given(geometries(), st.tuples(finite, finite).map(np.array))
def test_pixel_goes_to_world_and_back(geometry, pixel):
    world = geometry.to_world(pixel)

    assert np.allclose(geometry.to_pixel(world), pixel, rtol=0, atol=1e-6)
    assert abs(geometry.distance_mm(world)) < 1e-6


@given(geometries(), points3)
def test_a_world_point_splits_into_foot_and_distance(geometry, point):
    """Also for sheared slices: the third column is the unit normal, so the foot is orthogonal."""
    foot = geometry.to_world(geometry.to_pixel(point))

    assert np.allclose(foot + geometry.distance_mm(point) * geometry.plane.normal, point, atol=1e-6)
    assert np.allclose(foot, geometry.plane.project(point), rtol=0, atol=1e-6)


@given(geometries(), st.tuples(finite, finite), st.tuples(finite, finite))
def test_px_to_mm_keeps_every_length(geometry, first, second):
    in_world = np.linalg.norm(geometry.to_world(first) - geometry.to_world(second))
    in_slice = np.linalg.norm(geometry.px_to_mm @ (np.array(first) - second))

    assert in_slice == pytest.approx(in_world, abs=1e-6)


@given(geometries(), st.integers(0, 50), st.integers(0, 50), st.tuples(finite, finite))
def test_a_crop_moves_pixels_and_not_the_world(geometry, x, y, pixel):
    cropped = geometry.cropped(slice(x, x + 20), slice(y, y + 30))

    assert cropped.shape == (30, 20)
    assert np.allclose(
        cropped.to_world(np.array(pixel)), geometry.to_world(np.add(pixel, (x, y))), atol=1e-6
    )


@given(geometries())
def test_json_gives_the_same_geometry_back(geometry):
    again = SliceGeometry.from_dict(json.loads(json.dumps(geometry.to_dict())))

    assert np.array_equal(again.pixel_to_world, geometry.pixel_to_world)
    assert again.shape == geometry.shape


@given(geometries())
def test_a_mirrored_slice_is_refused(geometry):
    with pytest.raises(LandmarkError, match="mirrored"):
        SliceGeometry(geometry.pixel_to_world @ np.diag([-1.0, 1, 1, 1]), geometry.shape)


@given(planes(), points3)
def test_reflection_keeps_the_plane_and_swaps_the_sides(plane, point):
    mirrored = apply_affine(plane.reflection(), point)

    assert plane.distance_mm(mirrored) == pytest.approx(-plane.distance_mm(point), abs=1e-6)
    assert np.allclose(plane.project(mirrored), plane.project(point), atol=1e-6)
    assert np.allclose(apply_affine(plane.reflection(), mirrored), point, atol=1e-6)


@given(planes(), points3, st.floats(-25, 25), st.floats(-20, 20), st.floats(-20, 20), points3)
def test_a_plane_moves_with_its_points(plane, point, pitch, roll, yaw, shift):
    # A shear beside the motion: what lies on the plane stays on it, whatever the affine.
    shear = np.eye(4)
    shear[0, 1] = 0.2
    motion = rigid_matrix(pitch, roll, yaw, shift) @ shear
    on_plane = plane.project(point)

    moved = plane.transformed(motion)

    assert abs(moved.distance_mm(apply_affine(motion, on_plane))) < 1e-6
    assert moved.normal @ LEFT > 0


@given(angles, angles, angles, points3, points3)
def test_a_rigid_matrix_keeps_lengths_and_hands(pitch, roll, yaw, shift, centre):
    matrix = rigid_matrix(pitch, roll, yaw, shift, centre)

    assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    assert np.allclose(apply_affine(matrix, centre), centre + shift, atol=1e-9)


# Directions of positive angles: what moves where, in world RAS.
@pytest.mark.parametrize(
    ("angle", "point", "expected"),
    [
        ("pitch_deg", [0, 1, 0], [0, 0, 1]),
        ("roll_deg", [0, 0, 1], [1, 0, 0]),
        ("yaw_deg", [1, 0, 0], [0, 1, 0]),
    ],
)
def test_a_quarter_turn_is_right_handed(angle, point, expected):
    assert np.allclose(apply_affine(rigid_matrix(**{angle: 90.0}), point), expected, atol=1e-12)


@given(st.floats(1e-6, 30.0))
def test_small_angles_between_planes_are_not_lost(angle):
    plane = Plane(LEFT, 0.0)

    turned = plane.transformed(rigid_matrix(yaw_deg=angle))

    assert plane.angle_deg(turned) == pytest.approx(angle, rel=1e-6)


@settings(max_examples=20)
@given(points3)
def test_nan_stays_nan_and_others_do_not_become_it(point):
    points = np.stack([point, np.full(3, np.nan)])

    mapped = apply_affine(rigid_matrix(1, 2, 3), points)

    assert np.isfinite(mapped[0]).all()
    assert np.isnan(mapped[1]).all()


@pytest.mark.parametrize(
    ("normal", "says"),
    [([0, 0, 0], "length"), ([np.nan, 0, 0], "length"), ([0, 1, 0], "left-right")],
)
def test_a_plane_without_a_side_is_refused(normal, says):
    with pytest.raises(LandmarkError, match=says):
        Plane.from_normal(normal, [0, 0, 0])


@pytest.mark.parametrize(("shape", "points"), [((3, 3), (5, 3)), ((4, 4), (5, 2)), ((4, 4), ())])
def test_shapes_that_do_not_fit_are_refused(shape, points):
    with pytest.raises(LandmarkError, match="apply_affine"):
        apply_affine(np.eye(*shape), np.zeros(points))


def test_left_is_a_direction():
    assert np.linalg.norm(LEFT) == 1.0
    assert LEFT[0] < 0.0  # world x runs to the right
