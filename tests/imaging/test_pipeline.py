"""Scan to slice and back: what is drawn in the head is found again in world mm."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from landmarking.config import settings as typed
from landmarking.errors import ConfigError, ScanError
from landmarking.geometry import LEFT, Plane, SliceGeometry, apply_affine, rigid_matrix
from landmarking.imaging.intensity import save_reference
from landmarking.imaging.pipeline import (
    DISTANCE_LOW_MM,
    DISTANCE_STEP_MM,
    MIDSAGITTAL_COMMON,
    PreprocessSettings,
    extract_slice,
    finish_slice,
    histogram_reference,
    reference_slice,
    sample_slice,
    slice_geometry,
    template_slice,
    tissue_maps,
)
from landmarking.imaging.scan import Scan
from landmarking.landmarks import landmark_set

LANDMARKS_MM = landmark_set("msp8").template_mm
DEFAULT = PreprocessSettings()
MOTION = rigid_matrix(18, -12, 10, (15, -10, 20), (0, -18, 0))


@pytest.fixture(scope="module")
def scan(whole_head, posed):
    return posed(whole_head, MOTION)


@pytest.fixture(scope="module")
def extracted(scan):
    return extract_slice(scan, DEFAULT)


def test_landmarks_lie_where_the_templates_do_and_within_the_margin(extracted):
    world = apply_affine(MOTION, LANDMARKS_MM)
    pixels = extracted.geometry.to_pixel(world)
    # The agreed grid: column x has A = 112 - x, row y has S = 120 - y, and the crop starts at 50.
    expected = np.stack([112 - LANDMARKS_MM[:, 1], 120 - LANDMARKS_MM[:, 2]], axis=-1) - 50

    assert np.abs(pixels - expected).max() < 2.0
    assert pixels.min() > 10.0
    assert pixels.max() < 139.0
    assert np.abs(extracted.geometry.distance_mm(world)).max() < 1.0


def test_the_slice_is_the_crop_and_has_its_figures(extracted):
    assert extracted.image.shape == extracted.geometry.shape == (150, 150)
    assert extracted.image.dtype == np.float32
    assert extracted.qc["registration_ok"] is True
    assert 0.5 < extracted.qc["registration_quality"] <= 1.0
    assert 0.5 < extracted.qc["symmetry_score"] <= 1.0
    assert all(isinstance(value, float | int | str | bool) for value in extracted.qc.values())


def test_a_point_drawn_in_the_head_is_found_at_its_world_position(scan):
    """A bright ball on the plane comes back in world mm, through every stage."""
    plane = extract_slice(scan, DEFAULT).geometry.plane
    target = plane.project(apply_affine(MOTION, [0.0, -10.0, 30.0]))
    voxels = np.moveaxis(np.indices(scan.data.shape), 0, -1)
    distance2 = ((apply_affine(scan.affine, voxels) - target) ** 2).sum(axis=-1)
    ball = np.exp(-distance2 / 50.0).astype(np.float32)
    marked = Scan(scan.data + 20 * ball, scan.affine, scan.name)

    found = extract_slice(marked, DEFAULT)

    bright = np.where(found.image > 4.0, found.image - 4.0, 0.0)
    row, column = ndimage.center_of_mass(bright)
    assert np.linalg.norm(found.geometry.to_world([column, row]) - target) < 0.3


def test_a_slice_shows_what_the_template_shows(extracted):
    """Same anatomy at the same pixels: the matched slice correlates with the template's."""
    brain = histogram_reference(DEFAULT).region
    matched = finish_slice(extracted.image, DEFAULT)

    assert np.corrcoef(matched[brain], reference_slice(DEFAULT)[brain])[0, 1] > 0.8


@pytest.mark.parametrize("codes", ["RAS", "LPI", "AIL", "SPR", "PIL"])
def test_the_orientation_of_the_file_does_not_matter(codes, scan, extracted):
    change = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(scan.affine), nib.orientations.axcodes2ornt(codes)
    )
    stored = Scan(
        nib.orientations.apply_orientation(scan.data, change),
        scan.affine @ nib.orientations.inv_ornt_aff(change, scan.data.shape),
        scan.name,
    )

    again = extract_slice(stored, DEFAULT)

    assert np.abs(again.image - extracted.image).max() < 1e-4
    assert np.allclose(again.geometry.pixel_to_world, extracted.geometry.pixel_to_world, atol=1e-6)


def test_affine_slices_measure_the_scans_own_millimetres(brain_only, posed):
    small = np.diag([0.9, 0.85, 0.9, 1.0])
    affine = extract_slice(posed(brain_only, small), replace(DEFAULT, registration="affine"))

    # In common space 10 pixels are 10 mm; this head is smaller, and its millimetres are fewer.
    lengths = np.linalg.norm(affine.geometry.px_to_mm @ (10 * np.eye(2)), axis=0)

    assert lengths == pytest.approx([8.5, 9.0], abs=0.15)
    assert np.linalg.norm(affine.geometry.pixel_to_world[:3, 2]) == pytest.approx(1.0)
    pixels = affine.geometry.to_pixel(apply_affine(small, LANDMARKS_MM))
    expected = np.stack([62 - LANDMARKS_MM[:, 1], 70 - LANDMARKS_MM[:, 2]], axis=-1)
    assert np.abs(pixels - expected).max() < 1.5


@settings(max_examples=40)
@given(*[st.floats(-20, 20)] * 3, st.tuples(*[st.floats(-40, 40)] * 3), st.floats(0.5, 3.0))
def test_the_grid_follows_plane_and_registration(pitch, roll, yaw, shift, spacing):
    motion = rigid_matrix(pitch, roll, yaw, shift)
    preprocess = PreprocessSettings(slice_size=100, crop=[10, 80], spacing_mm=spacing)
    plane = Plane.from_normal([-1.0, 0.05, -0.03], [2.0, 0, 0]).transformed(motion)

    geometry = slice_geometry(plane, np.linalg.inv(motion), preprocess)

    assert geometry.plane.angle_deg(plane) < 1e-5
    assert abs(geometry.plane.offset_mm - plane.offset_mm) < 1e-6
    assert geometry.px_to_mm == pytest.approx(spacing * np.eye(2), abs=1e-9)
    # The middle of the uncropped grid stays put, whatever the spacing.
    middle = geometry.to_world([49.5 - 10, 49.5 - 10])
    assert apply_affine(np.linalg.inv(motion), middle)[1:] == pytest.approx([-15.5, -7.5], abs=0.3)


def test_the_default_grid_is_the_agreed_one():
    geometry = slice_geometry(MIDSAGITTAL_COMMON, np.eye(4), DEFAULT)

    assert np.allclose(geometry.to_world([0, 0]), [0, 62, 70])
    assert np.allclose(geometry.to_world([149, 149]), [0, -87, -79])
    assert np.array_equal(geometry.pixel_to_world[:3, 2], LEFT)


def test_the_reference_is_the_templates_slice_and_recorded():
    reference = histogram_reference(DEFAULT)

    assert reference is histogram_reference(PreprocessSettings())
    assert np.array_equal(reference.image, template_slice(DEFAULT))
    assert reference.source == "template"
    assert reference.region.sum() > 8000


def test_a_scan_or_a_recorded_mean_can_be_the_reference(scan, extracted, tmp_path):
    path = tmp_path / "sub-1_T1w.nii.gz"
    image = nib.Nifti1Image(scan.data, scan.affine)
    nib.save(image, path)
    save_reference(tmp_path / "mean.npy", np.linspace(5, 6, 100))

    to_itself = finish_slice(extracted.image, replace(DEFAULT, histogram_reference=str(path)))
    to_mean = finish_slice(
        extracted.image, replace(DEFAULT, histogram_reference=str(tmp_path / "mean.npy"))
    )

    brain = histogram_reference(DEFAULT).region
    assert np.abs(to_itself - extracted.image)[brain].max() < 0.02
    assert to_mean.min() >= 5.0
    assert to_mean.max() <= 6.0


def test_a_missing_reference_is_named(tmp_path):
    missing = replace(DEFAULT, histogram_reference=str(tmp_path / "mean.npy"))

    with pytest.raises(ScanError, match=r"mean\.npy"):
        finish_slice(np.zeros((150, 150), np.float32), missing)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"registration": "similarity"}, "registration is one of rigid, affine, none"),
        ({"normalisation": "scan"}, "normalisation is one of image, batch, none"),
        ({"crop": [50]}, "crop is"),
        ({"crop": [200, 50]}, "crop is"),
        ({"crop": [50, 300]}, "crop is"),
        ({"slice_size": 100_000}, "slice_size is 1 to 4096 pixels, found 100000"),
        ({"spacing_mm": 0.0}, "spacing_mm must be above zero"),
        ({"slice_sise": 256}, "slice_size"),
    ],
)
def test_settings_out_of_range_are_refused(values, says):
    with pytest.raises(ConfigError, match=says):
        typed(PreprocessSettings, values)


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
