import subprocess
import sys

import numpy as np
import pytest

import landmarking
from landmarking.files import file_sha256
from landmarking.geometry import apply_affine
from landmarking.imaging.scan import load_scan
from landmarking.prediction.predict import predict_scan
from landmarking.preparation.cache import StageCache
from landmarking.preparation.stages import staged_slice

# One pipeline: what a model sees of a scan is what it was trained on.


@pytest.fixture(scope="module")
def found(head_file, model):
    return predict_scan(head_file, model)


def test_slices_of_training_and_prediction_are_identical(head_file, model, found, tmp_path):
    cache = StageCache(tmp_path)
    trained_on = staged_slice(head_file, file_sha256(head_file), model.preprocess, cache)

    np.testing.assert_array_equal(found.image, trained_on.image)
    np.testing.assert_array_equal(found.geometry.pixel_to_world, trained_on.geometry.pixel_to_world)
    assert found.quality == trained_on.qc


def test_positions_are_pixels_of_that_slice_in_the_scans_world(found, model):
    pixels = np.array([landmark.pixel for landmark in found.landmarks])
    np.testing.assert_array_equal(pixels, model.locate(found.image[None]).points_px[0])
    world = np.array(list(found.points_mm.values()))
    flat = np.column_stack([pixels, np.zeros(len(pixels))])
    np.testing.assert_allclose(apply_affine(found.geometry.pixel_to_world, flat), world, atol=1e-9)
    assert np.abs(found.plane.distance_mm(world)).max() < 1e-9
    assert list(found.points_mm) == list(model.landmarks.names)


def test_a_loaded_scan_gives_the_same(head_file, model, known_stages):
    from_file, scan = predict_scan(head_file, model), load_scan(head_file)
    again = predict_scan(scan, model)
    np.testing.assert_array_equal(
        np.array(list(again.points_mm.values())), np.array(list(from_file.points_mm.values()))
    )
    assert (again.scan, again.scan_sha256) == ("", "")
    assert from_file.scan_sha256 == file_sha256(head_file)


# The Python call.


def test_the_call_takes_paths_and_names_and_gives_what_the_pipeline_gives(
    head_file, run_folder, model, known_stages
):
    found = landmarking.predict(str(head_file), model=str(run_folder))
    expected = predict_scan(head_file, model)
    assert found.name == "head_T1w"
    assert found.scan == str(head_file)
    for name, point in expected.points_mm.items():
        np.testing.assert_array_equal(found.points_mm[name], point)


def test_the_package_is_imported_without_torch():
    code = "import sys, landmarking; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="has no attribute 'predictt'"):
        _ = landmarking.predictt
