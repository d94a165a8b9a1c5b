"""The common space."""

import nibabel as nib
import numpy as np
import pytest

from landmarking.errors import ScanError
from landmarking.geometry import apply_affine
from landmarking.imaging import template as module
from landmarking.imaging.template import load_template
from landmarking.landmarks import landmark_set


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
