import numpy as np
import pytest

from landmarking.errors import ConfigError
from landmarking.geometry import apply_affine
from landmarking.imaging.scan import Scan
from registration import KINDS, Outcome, posed_scan, real_heads, run, table


def outcome(head, margin_mm, ok=True):
    return Outcome(head, "1 mm", margin_mm, 0.8 if ok else 0.4, ok, 0.5)


def test_rows_count_scans_within_the_margin_and_marked_ones():
    outcomes = [outcome("A", 10.0), outcome("A", 9.9), outcome("B", -3.0, ok=False)]
    rows = table("head", outcomes, lambda one: one.head)
    assert rows[2] == "| A | 2 | 50 % | 9.9 | 0.80 | 0.80 | 0 | 0.50 |"
    assert rows[3] == "| B | 1 | 0 % | -3.0 | 0.40 | 0.40 | 1 | 0.50 |"
    assert rows[4].startswith("| all | 3 | 33 % | -3.0 |")


@pytest.mark.parametrize("number", [2, 4])
def test_a_spot_lies_where_the_motion_takes_it(number):
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -100.0
    spot_mm = np.array([8.0, -12.0, 4.0])
    world = apply_affine(affine, np.stack(np.indices((50, 50, 50)), axis=-1))
    blob = np.exp(-np.sum((world - spot_mm) ** 2, axis=-1) / 128).astype(np.float32) * 1000

    scan, motion = posed_scan(Scan(blob, affine, "x"), KINDS[number], np.random.default_rng(3))

    voxels = np.argwhere(scan.data > 0.5 * scan.data.max())
    centre = np.average(voxels, axis=0, weights=scan.data[tuple(voxels.T)])
    expected = apply_affine(motion, spot_mm)
    assert apply_affine(scan.affine, centre) == pytest.approx(expected, abs=1.5)
    assert np.linalg.det(motion[:3, :3]) == pytest.approx(1.0)


def test_no_real_heads_make_no_rows(tmp_path):
    assert list(real_heads(tmp_path / "absent")) == []


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match=r"did you mean registration\.poses"):
        run(["pose=3"])
