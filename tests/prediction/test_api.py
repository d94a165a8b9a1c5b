"""The Python call."""

import subprocess
import sys

import numpy as np
import pytest

import landmarking
from landmarking.prediction.predictor import predict_scan


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
