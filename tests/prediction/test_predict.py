import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest

import landmarking
from landmarking.errors import ConfigError, ScanError
from landmarking.files import file_sha256
from landmarking.geometry import apply_affine
from landmarking.imaging.scan import load_scan
from landmarking.landmarks import landmark_set, read_landmarks
from landmarking.prediction.predict import POINT_COLUMNS, predict_scan
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


def test_the_table_of_a_prediction_has_what_the_landmarks_have(found):
    table = found.to_dataframe()
    assert list(table.columns) == list(POINT_COLUMNS)
    np.testing.assert_array_equal(
        table[["x_mm", "y_mm", "z_mm"]], np.array(list(found.points_mm.values()))
    )
    assert list(table["flagged"]) == [bool(m.flags or found.flags) for m in found.landmarks]


def test_a_saved_prediction_is_what_the_command_writes_and_keeps_a_persons_file(found, tmp_path):
    path = found.save(tmp_path / "out")
    read = landmark_set("msp8").arrange(read_landmarks(path))
    np.testing.assert_allclose(read, np.array(list(found.points_mm.values())), atol=1e-3)
    assert (tmp_path / "out/head_T1w_qc.png").is_file()
    path.write_text(path.read_text().replace("Markup", "Own"))
    with pytest.raises(ConfigError, match="was changed since it was written and is kept"):
        found.save(tmp_path / "out")


def test_many_scans_come_one_by_one_and_a_bad_one_does_not_stop_the_others(
    head_file, run_folder, tmp_path, known_stages
):
    alone = landmarking.predict(head_file, model=str(run_folder))
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan")
    asked = []

    def scans():
        for path in (head_file, bad, str(head_file)):
            asked.append(path)
            yield path

    several = landmarking.predict_many(scans(), model=str(run_folder))
    first = next(several)
    assert asked == [head_file]
    second, third = several
    assert isinstance(second, ScanError)
    assert "bad.nii.gz" in str(second)
    for each in (first, third):
        np.testing.assert_array_equal(each.points_mm["AC"], alone.points_mm["AC"])


def test_threads_share_the_model_and_give_the_same(head_file, run_folder, known_stages):
    alone = landmarking.predict(head_file, model=str(run_folder))
    with ThreadPoolExecutor(3) as pool:
        work = [
            pool.submit(landmarking.predict, head_file, model=str(run_folder)) for _ in range(3)
        ]
        results = [each.result() for each in work]
    for each in results:
        for name, point in alone.points_mm.items():
            np.testing.assert_allclose(each.points_mm[name], point, atol=1e-4)


def test_the_plane_of_a_scan_in_python_is_the_commands(head_file, known_stages):
    plane = landmarking.msp(nib.load(head_file)).plane
    from_file = landmarking.msp(str(head_file)).plane
    np.testing.assert_allclose(plane.normal, from_file.normal, atol=1e-6)
    assert abs(plane.offset_mm - from_file.offset_mm) < 1e-4
    assert abs(abs(plane.normal[0]) - 1.0) < 0.02


def test_the_package_lists_what_it_offers():
    assert set(landmarking.__all__) <= set(dir(landmarking))
    for name in landmarking.__all__:
        assert getattr(landmarking, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'predicts'"):
        landmarking.predicts  # noqa: B018
