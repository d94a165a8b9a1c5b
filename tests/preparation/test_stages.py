import nibabel as nib
import numpy as np
import pytest

from landmarking.files import file_sha256
from landmarking.geometry import rigid_matrix
from landmarking.imaging.pipeline import PreprocessSettings, extract_slice, finish_slice
from landmarking.imaging.scan import load_scan
from landmarking.imaging.template import load_template
from landmarking.preparation.cache import STAGES, StageCache, key_settings, stage_keys
from landmarking.preparation.stages import staged_slice

SETTINGS = PreprocessSettings()


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """The template's brain at 2 mm, nodded and turned."""
    path = tmp_path_factory.mktemp("head") / "sub-1_T1w.nii.gz"
    template = load_template()
    affine = rigid_matrix(6, 3, -4, (5, -3, 8)) @ template.affine @ np.diag([2.0, 2, 2, 1])
    nib.save(nib.Nifti1Image(template.brain[::2, ::2, ::2].astype(np.float32), affine), path)
    return path


def test_stage_by_stage_gives_what_the_pipeline_gives_in_one(head, tmp_path):
    cache, digest = StageCache(tmp_path), file_sha256(head)
    staged = staged_slice(head, digest, SETTINGS, cache)
    assert tuple(staged.seconds) == STAGES
    whole = extract_slice(load_scan(head), SETTINGS)
    np.testing.assert_array_equal(staged.image, finish_slice(whole.image, SETTINGS))
    np.testing.assert_array_equal(staged.geometry.pixel_to_world, whole.geometry.pixel_to_world)
    assert {key: staged.qc[key] for key in whole.qc} == whole.qc
    again = staged_slice(head, digest, SETTINGS, cache)
    assert again.seconds == {}
    assert dict(again.qc) == dict(staged.qc)
    np.testing.assert_array_equal(again.image, staged.image)
    # Registration and plane come back from their files to the last bit: so does the slice.
    for path in [*(tmp_path / "slice").rglob("*.*"), *(tmp_path / "intensity").rglob("*.*")]:
        path.unlink()
    recut = staged_slice(head, digest, SETTINGS, cache)
    assert tuple(recut.seconds) == ("read", "slice", "intensity")
    np.testing.assert_array_equal(recut.image, staged.image)
    np.testing.assert_array_equal(recut.geometry.pixel_to_world, staged.geometry.pixel_to_world)


def test_a_reference_file_is_known_by_its_bytes_and_not_by_its_name(tmp_path):
    paths = [tmp_path / name for name in ("a.npy", "b.npy")]
    for path in paths:
        path.write_bytes(b"reference")
    keys = [stage_keys("x", PreprocessSettings(histogram_reference=str(path))) for path in paths]
    assert keys[0] == keys[1]
    paths[1].write_bytes(b"another")
    other = stage_keys("x", PreprocessSettings(histogram_reference=str(paths[1])))
    assert other["intensity"] != keys[0]["intensity"]
    assert other["slice"] == keys[0]["slice"]


def test_normalisation_is_no_matter_of_slices():
    assert "normalisation" not in key_settings(SETTINGS)
    assert stage_keys("x", SETTINGS) == stage_keys("x", PreprocessSettings(normalisation="none"))
