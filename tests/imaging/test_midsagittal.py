import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from landmarking.errors import ConfigError, ScanError
from landmarking.geometry import LEFT, Plane, apply_affine, rigid_matrix
from landmarking.imaging.midsagittal import (
    MidsagittalSettings,
    brain_centre,
    find_midsagittal_plane,
)
from landmarking.imaging.symmetry import Frame, Level
from landmarking.imaging.template import load_template, template_level

CENTRE = np.array([3.0, -18.0, 12.0])
SAGITTAL = Plane.from_normal([-1.0, 0.0, 0.0], CENTRE)
LIGHT = MidsagittalSettings(pairs=8_000)
angle = st.floats(-15.0, 15.0)
shift = st.floats(-10.0, 10.0)


def symmetric_head(points_mm):
    """A smooth head with texture, the same at both sides of SAGITTAL; values at any points."""
    across, back, up = np.moveaxis(points_mm - CENTRE, -1, 0)
    across = np.abs(across)
    inside = 1 / (
        1 + np.exp((np.sqrt((across / 70) ** 2 + (back / 88) ** 2 + (up / 75) ** 2) - 1) * 25)
    )
    texture = np.cos(across / 6.0 + 1.0) * np.cos(back / 9.0) * np.cos(up / 7.0) + np.cos(
        across / 9.0 + back / 13.0
    ) * np.cos(up / 11.0 + 2.0)
    return (inside * (100 + 25 * texture)).astype(np.float32)


def grid(shape, spacing):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = CENTRE - (np.array(shape) - 1) / 2 * spacing
    return affine


def posed_head(motion, shape=(62, 70, 62), spacing=(3.0, 3.0, 3.0)):
    affine = grid(shape, np.array(spacing))
    world = apply_affine(affine, np.stack(np.indices(shape), axis=-1))
    return symmetric_head(apply_affine(np.linalg.inv(motion), world)), affine


def compare(found, true, at=CENTRE):
    return found.plane.angle_deg(true), abs(float(found.plane.distance_mm(true.project(at))))


@settings(max_examples=6, deadline=None)
@given(pitch=angle, roll=angle, yaw=angle, x=shift, y=shift, z=shift)
def test_the_plane_of_a_symmetric_head_is_found_in_any_pose(pitch, roll, yaw, x, y, z):
    motion = rigid_matrix(pitch, roll, yaw, (x, y, z), CENTRE)
    volume, affine = posed_head(motion)
    found = find_midsagittal_plane(volume, affine, settings=LIGHT)
    angle_deg, offset_mm = compare(
        found, SAGITTAL.transformed(motion), apply_affine(motion, CENTRE)
    )
    assert angle_deg < 0.06
    assert offset_mm < 0.05
    assert found.score > 0.97
    assert found.plane.normal[0] < 0


@pytest.mark.parametrize(
    ("axes", "signs"), [((1, 2, 0), (-1, -1, -1)), ((2, 0, 1), (1, -1, 1)), ((0, 2, 1), (-1, 1, 1))]
)
def test_axis_order_direction_and_memory_order_change_nothing(axes, signs):
    motion = rigid_matrix(4, -6, 8, (2, 3, 4), CENTRE)
    volume, affine = posed_head(motion)
    expected = find_midsagittal_plane(volume, affine, settings=LIGHT)
    permutation = np.zeros((4, 4))
    permutation[3, 3] = 1.0
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        permutation[old, new] = sign
        permutation[old, 3] = 0 if sign > 0 else volume.shape[old] - 1
    turned = np.transpose(volume, axes)[tuple(slice(None, None, sign) for sign in signs)]
    found = find_midsagittal_plane(turned, affine @ permutation, settings=LIGHT)
    assert compare(found, expected.plane) == pytest.approx((0, 0), abs=0.02)
    fortran = find_midsagittal_plane(np.asfortranarray(volume), affine, settings=LIGHT)
    assert compare(fortran, expected.plane) == pytest.approx((0, 0), abs=1e-3)


@pytest.mark.parametrize("spacing", [(1.4, 2.2, 2.2), (2.2, 2.2, 5.0)])
def test_voxels_need_not_be_cubes(spacing):
    motion = rigid_matrix(5, 7, -9, (1, 2, 3), CENTRE)
    shape = tuple(int(190 / size) for size in spacing)
    volume, affine = posed_head(motion, shape, spacing)
    found = find_midsagittal_plane(volume, affine, settings=LIGHT)
    angle_deg, offset_mm = compare(found, SAGITTAL.transformed(motion))
    assert angle_deg < 0.15
    assert offset_mm < 0.1


def test_a_cropped_side_does_not_pull_the_plane():
    volume, affine = posed_head(rigid_matrix(0, 5, 5, centre_mm=CENTRE))
    true = SAGITTAL.transformed(rigid_matrix(0, 5, 5, centre_mm=CENTRE))
    cut = find_midsagittal_plane(volume[:45], affine, settings=LIGHT)
    angle_deg, offset_mm = compare(cut, true)
    assert angle_deg < 0.06
    assert offset_mm < 0.05


@pytest.mark.parametrize("centre", [(40, 0, 10), (-38, 30, 0), (30, -30, 30), (-35, -30, -20)])
def test_a_blanked_lesion_of_40_mm_is_outvoted(centre):
    motion = rigid_matrix(3, -5, 6, (4, 0, 0), CENTRE)
    volume, affine = posed_head(motion)
    world = apply_affine(affine, np.stack(np.indices(volume.shape), axis=-1))
    lesion = np.linalg.norm(world - CENTRE - centre, axis=-1) < 20
    found = find_midsagittal_plane(np.where(lesion, 0, volume), affine, settings=LIGHT)
    angle_deg, offset_mm = compare(found, SAGITTAL.transformed(motion))
    assert angle_deg < 0.25
    assert offset_mm < 0.2


def test_brightness_that_fades_to_one_side_does_not_move_the_plane():
    volume, affine = posed_head(np.eye(4))
    fading = volume * np.exp(np.linspace(-0.35, 0.35, len(volume)))[:, None, None]
    flat = find_midsagittal_plane(fading, affine, settings=LIGHT, centre_mm=CENTRE)
    uneven = MidsagittalSettings(pairs=8_000, flatten_mm=0)
    raw = find_midsagittal_plane(fading, affine, settings=uneven, centre_mm=CENTRE)
    assert compare(flat, SAGITTAL)[1] < 0.15
    assert compare(raw, SAGITTAL)[1] > 1.0


def test_plain_and_fast_searches_agree_within_the_plain_one_s_last_step():
    motion = rigid_matrix(3, 6, -4, (3, 2, 1), CENTRE)
    volume, affine = posed_head(motion, (46, 52, 46), (4.0, 4.0, 4.0))
    fast = find_midsagittal_plane(volume, affine, settings=LIGHT)
    plain = find_midsagittal_plane(volume, affine, settings=MidsagittalSettings(search="plain"))
    angle_deg, offset_mm = compare(plain, fast.plane)
    assert angle_deg < 0.15
    assert offset_mm < 0.1
    assert plain.score > 0.97


def test_a_start_10_degrees_off_reaches_the_same_plane():
    volume, affine = posed_head(np.eye(4))
    start = SAGITTAL.transformed(rigid_matrix(0, 7, 7, (5, 0, 0), CENTRE))
    found = find_midsagittal_plane(volume, affine, start, settings=LIGHT, centre_mm=CENTRE)
    assert compare(found, SAGITTAL) == pytest.approx((0, 0), abs=0.02)


def test_the_result_is_the_same_bits_again_and_the_volume_is_untouched():
    volume, affine = posed_head(rigid_matrix(2, 3, 4, centre_mm=CENTRE))
    before = volume.copy()
    one, two = (find_midsagittal_plane(volume, affine, settings=LIGHT) for _ in range(2))
    assert one.plane.normal.tobytes() == two.plane.normal.tobytes()
    assert (one.plane.offset_mm, one.score, one.sharpness) == (
        two.plane.offset_mm,
        two.score,
        two.sharpness,
    )
    assert np.array_equal(volume, before)


def test_sharpness_tells_a_blurred_head_from_a_sharp_one():
    volume, affine = posed_head(np.eye(4))
    blurred = ndimage.gaussian_filter(volume, 3.0)
    sharp, blunt = (
        find_midsagittal_plane(data, affine, settings=LIGHT).sharpness for data in (volume, blurred)
    )
    assert sharp > 2 * blunt > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda volume, affine: (volume[..., None], affine), "16 or more voxels"),
        (lambda volume, affine: (volume[:8], affine), r"16 or more voxels.*\(8,"),
        (lambda volume, affine: (volume, np.zeros((4, 4))), "affine is singular"),
        (lambda volume, affine: (np.full_like(volume, np.nan), affine), "NaN or infinite"),
        (lambda volume, affine: (np.full_like(volume, 7.0), affine), "does not vary"),
    ],
)
def test_volumes_without_a_plane_are_refused(change, message):
    volume, affine = posed_head(np.eye(4), (24, 26, 24), (8.0, 8.0, 8.0))
    with pytest.raises(ScanError, match=message):
        find_midsagittal_plane(*change(volume, affine))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": "quick"}, "fast or plain, found 'quick'"),
        ({"pairs": 10}, "pairs is 1000 or more"),
        ({"radius_mm": 0.0}, "above 0"),
        ({"robustness": -1.0}, "not below 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        MidsagittalSettings(**values)


SAGITTAL_HEAD = Plane(LEFT, 0.0)


def posed_template(motion):
    template = load_template()
    corners = apply_affine(template.affine, np.array(list(np.ndindex(2, 2, 2))) * 188)
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = corners.min(axis=0) - 20.0
    matrix = np.linalg.inv(motion @ template.affine) @ grid
    moved = ndimage.affine_transform(template.brain, matrix, output_shape=(115,) * 3, order=1)
    return Level(np.asarray(moved, np.float32), grid)


@pytest.mark.parametrize("size", [0.8, 1.0])
@pytest.mark.parametrize("pose", [(20.0, 8.0, -12.0), (-18.0, -5.0, 9.0)])
def test_the_centre_is_found_from_a_point_three_centimetres_away(pose, size):
    motion = rigid_matrix(*pose, (6.0, -9.0, 4.0)) @ np.diag([size, size, size, 1.0])
    true = apply_affine(motion, template_level(8.0).centre_mm)
    plane = SAGITTAL_HEAD.transformed(motion)
    near = true + rigid_matrix(*pose)[:3, :3] @ np.array([0.0, 20.0, 20.0])
    found = brain_centre(posed_template(motion), Frame.on_plane(plane, near))
    assert found is not None
    assert np.linalg.norm(found - true) < 2.0


def test_no_brain_no_centre():
    noise = np.random.default_rng(0).random((80, 80, 80), dtype=np.float32)
    level = Level(noise, np.diag([2.5, 2.5, 2.5, 1.0]))
    middle = np.full(3, 98.75)
    assert brain_centre(level, Frame.on_plane(Plane.from_normal(LEFT, middle), middle)) is None


def test_a_search_without_centre_turns_about_the_brain_whatever_the_field_of_view():
    motion = rigid_matrix(10.0, 4.0, -6.0)
    whole = posed_template(motion)
    cut = Level(whole.volume[:, :, 30:], whole.affine @ _shift(30))
    settings = MidsagittalSettings(pairs=8_000)
    centres = [
        find_midsagittal_plane(level.volume, level.affine, settings=settings).centre_mm
        for level in (whole, cut)
    ]
    assert np.linalg.norm(centres[0] - centres[1]) < 3.0


def _shift(slices):
    step = np.eye(4)
    step[2, 3] = slices
    return step
