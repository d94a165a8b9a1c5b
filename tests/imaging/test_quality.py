"""When no number may come out of a scan, by its figures and on heads that are made nonsense."""

import nibabel as nib
import numpy as np
import pytest

from landmarking.errors import ScanError
from landmarking.imaging.quality import refusal
from landmarking.imaging.scan import Scan, load_scan
from landmarking.imaging.template import block_average, load_template
from landmarking.prediction.package import open_model
from landmarking.prediction.predict import predict_scan

SURE = np.full(8, 2.0)
GOOD = {"registration_quality": 0.7, "reference_correlation": 0.5}


@pytest.mark.parametrize(
    ("figures", "spread", "words"),
    [
        ({}, 2.0, ""),
        ({"registration_quality": 0.34}, 2.0, "registration quality 0.34"),
        ({"reference_correlation": 0.2}, 8.0, "unlike T1"),
        # One alone may be an odd head; the network that is sure knows better.
        ({"reference_correlation": 0.2}, 2.0, ""),
        ({"reference_correlation": 0.4}, 8.0, ""),
        ({"reference_correlation": 0.2}, np.nan, ""),
        ({"registration_quality": float("nan")}, 2.0, ""),
    ],
)
def test_what_is_refused(figures, spread, words):
    reason = refusal(GOOD | figures, np.full(8, spread))
    assert (words in reason) if words else reason == ""


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    template = load_template()
    data, affine = block_average(template.brain, template.affine, 2.0)
    path = tmp_path_factory.mktemp("scans") / "head.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), affine), path)
    return load_scan(path)


def upside_down(data):
    return data[:, :, ::-1]


def inverted(data):
    top = np.percentile(data, 99.5)
    return np.where(data > 0.1 * top, 1.15 * top - data, data)


def vessels(data):
    return np.where(data > np.percentile(data, 99), data, 0.0)


def test_a_head_is_predicted(head):
    assert len(predict_scan(head, open_model()).landmarks) == 8


@pytest.mark.parametrize("change", [upside_down, inverted, vessels])
def test_no_number_comes_out_of_nonsense(head, change):
    data = np.ascontiguousarray(change(head.data)).astype(np.float32)
    with pytest.raises(ScanError, match=r"check the (axes|contrast)"):
        predict_scan(Scan(data, head.affine, "odd"), open_model())
