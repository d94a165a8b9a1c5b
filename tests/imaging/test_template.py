import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from landmarking.errors import ScanError
from landmarking.geometry import apply_affine, rigid_matrix
from landmarking.imaging import template as module
from landmarking.imaging.registration import _motion
from landmarking.imaging.scan import Scan
from landmarking.imaging.template import (
    block_average,
    load_template,
    local_contrast,
    scan_volume,
    template_level,
)
from landmarking.landmarks import landmark_set

# The common space.


def test_the_grid_is_the_one_that_the_slices_are_laid_on():
    template = load_template()

    assert template.brain.shape == (197, 233, 189)
    assert np.array_equal(template.affine[:3, :3], np.eye(3))
    assert np.array_equal(template.affine[:3, 3], [-98, -134, -72])
    assert template.brain.dtype == np.float32
    assert (template.brain.min(), template.brain.max()) == (0.0, 1.0)
    assert len(template.digest) == 64


def test_it_is_read_once_and_cannot_be_written():
    template = load_template()

    assert load_template() is template
    with pytest.raises(ValueError, match="read-only"):
        template.brain[0, 0, 0] = 1.0


def test_volumes_share_a_symmetric_grid():
    template = load_template()

    for volume in (template.grey, template.white, template.brain_mask):
        assert volume.shape == template.brain.shape
    # x = 0 lies on the middle voxel, so that the common plane is the grid's own.
    assert apply_affine(template.affine, [98, 0, 0])[0] == 0.0
    assert np.abs(template.brain - template.brain[::-1]).mean() < 1e-3


def test_the_mask_has_no_holes_and_holds_the_landmarks():
    template = load_template()
    voxels = np.rint(
        apply_affine(np.linalg.inv(template.affine), landmark_set("msp8").template_mm)
    ).astype(int)

    assert template.brain_mask[tuple(voxels.T)].all()
    assert 1.7e6 < template.brain_mask.sum() < 2.1e6
    assert template.brain_mask[template.brain > 0].all()


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_folder", lambda: tmp_path)
    load_template.cache_clear()
    try:
        with pytest.raises(ScanError, match=r"has no mni_icbm152_t1.*constraints\.txt"):
            load_template()
    finally:
        load_template.cache_clear()


def test_codes_of_the_grid_are_ras():
    assert nib.aff2axcodes(load_template().affine) == ("R", "A", "S")


# Coarse volumes.


@pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0), (0.7, 1.3, 5.0), (2.0, 4.1, 1.9)])
def test_block_averages_keep_world_positions(sizes):
    """The mean of a linear ramp is its value at the block's centre."""
    affine = rigid_matrix(20, 10, -15, (5, -3, 2)) @ np.diag([*sizes, 1.0])
    voxels = np.indices((23, 17, 19)).reshape(3, -1).T
    ramp = apply_affine(affine, voxels) @ [1.0, -2.0, 3.0]

    coarse, coarse_affine = block_average(
        ramp.reshape(23, 17, 19).astype(np.float32), affine, spacing_mm=4.0
    )

    at_centres = apply_affine(coarse_affine, np.indices(coarse.shape).reshape(3, -1).T)
    assert np.allclose(coarse.ravel(), at_centres @ [1.0, -2.0, 3.0], atol=1e-3)
    assert (np.linalg.norm(coarse_affine[:3, :3], axis=0) <= np.maximum(4.0, sizes) + 1e-9).all()


def test_local_contrast_forgets_gain_and_bias():
    rng = np.random.default_rng(0)
    texture = rng.uniform(0.2, 0.8, (30, 30, 30)).astype(np.float32)
    bias = np.exp(np.linspace(-0.5, 0.5, 30, dtype=np.float32))[:, None, None]
    affine = np.diag([4.0, 4.0, 4.0, 1.0])

    plain, biased = (local_contrast(v, affine, 4.0, 12.0) for v in (texture, texture * bias))

    def correlation(first, second):
        return np.corrcoef(first.ravel(), second.ravel())[0, 1]

    assert correlation(plain, biased) > 0.94
    assert correlation(plain, biased) > correlation(texture, texture * bias) + 0.2
    assert np.abs(plain).max() < 5.0


def test_sampling_tells_inside_from_outside():
    data = np.random.default_rng(0).uniform(size=(20, 20, 20)).astype(np.float32)
    volume = scan_volume(Scan(data, np.diag([4.0, 4.0, 4.0, 1.0]), "s"))

    _, inside = volume.sample(np.array([[0.0, 0, 0], [76, 76, 76], [-3, 0, 0], [0, 79, 0]]), 4.0)

    assert inside.tolist() == [True, True, False, False]


def test_steepest_descent_is_the_derivative():
    """Against finite differences of the template itself, for all twelve parameters."""
    level = template_level(8.0)

    def values(step):
        points = apply_affine(_motion(step, level.centre_mm), level.points_mm)
        voxels = apply_affine(np.linalg.inv(level.affine), points).T
        return ndimage.map_coordinates(level.volume, voxels, order=1)

    for parameter in range(12):
        size = 4.0 if parameter < 3 else 4.0 / 70.0
        step = np.eye(12)[parameter] * size
        numeric = (values(step) - values(-step)) / (2 * size)
        analytic = level.steepest_descent[:, parameter]
        assert np.corrcoef(numeric, analytic)[0, 1] > 0.95
        assert numeric.std() == pytest.approx(analytic.std(), rel=0.1)
