import numpy as np
import pytest
from scipy import ndimage

from landmarking.geometry import LEFT, Plane, apply_affine, rigid_matrix
from landmarking.imaging.brain_centre import brain_centre
from landmarking.imaging.levels import Level
from landmarking.imaging.midsagittal import MidsagittalSettings, find_midsagittal_plane
from landmarking.imaging.pyramid import template_level
from landmarking.imaging.symmetry import Frame
from landmarking.imaging.template import load_template

SAGITTAL = Plane(LEFT, 0.0)


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
    plane = SAGITTAL.transformed(motion)
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
