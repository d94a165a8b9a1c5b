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
from landmarking.geometry import LEFT, Plane, apply_affine, rigid_matrix
from landmarking.imaging.intensity import save_reference
from landmarking.imaging.pipeline import (
    MIDSAGITTAL_COMMON,
    PreprocessSettings,
    extract_slice,
    finish_slice,
    histogram_reference,
    reference_slice,
    slice_geometry,
    template_slice,
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
