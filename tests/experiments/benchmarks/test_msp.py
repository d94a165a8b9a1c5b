import numpy as np
import pytest

import msp
from landmarking.errors import ConfigError
from landmarking.geometry import Plane
from landmarking.imaging.midsagittal import MidsagittalPlane
from posed_heads import PosedHead


def test_unknown_settings_are_refused_before_anything_is_measured():
    with pytest.raises(ConfigError, match=r"msp\.pose: .* did you mean msp\.poses\?"):
        msp.run(["pose=3"])


def test_noreal_heads_make_no_rows(tmp_path):
    assert msp.real_heads(tmp_path / "absent") == []


def test_rows_are_tables_in_markdown_and_csv():
    rows = [
        {"head": "A"} | msp._spread("angle deg", [1.0, 2.0, 3.0]) | msp._spread("offset mm", []),
    ]
    assert msp._markdown(rows)[0].split(" | ")[1:3] == ["angle deg, median", "angle deg, p95"]
    assert msp._csv(rows)[1] == "A,2.000,2.900,3.000,-,-,-"
    assert msp._number(np.mean, [1.0, 2.0], 1) == "1.5"


def test_searches_share_poses_and_heads_share_their_number(monkeypatch):
    plane = Plane.from_normal([-1.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    made, found = [], []

    def posed(volume, affine, count, seed):
        for number in range(count):
            made.append((seed, number))
            motion = np.eye(4)
            motion[0, 3] = 2.0
            yield PosedHead(volume, affine, motion)

    def find(volume, affine, search):
        found.append(search)
        return MidsagittalPlane(plane, 0.9, 0.1, np.zeros(3)), 0.5, 1.25

    monkeypatch.setattr(msp, "posed_heads", posed)
    monkeypatch.setattr(msp, "_found", find)
    heads = [msp.Subject3D(name, np.zeros((2, 2, 2)), np.eye(4)) for name in ("a", "b")]
    counts = {"plain": 0, "fast": 5, "prepare": 3}
    rows = msp.pose_rows("heads", heads, counts, seed=10)
    assert made == [(10, 0), (10, 1), (10, 2), (11, 0), (11, 1)]
    assert found.count("fast") == 5 + 2
    assert found.count("prepare") == 3 + 2
    assert [(row["search"], row["poses"]) for row in rows] == [("fast", "5"), ("prepare", "3")]
    # The head moved by 2 mm and the plane did not.
    assert rows[0]["offset mm, median"] == "2.000"
    assert rows[0]["angle deg, max"] == "0.000"
    assert [row["registration CPU s"] for row in rows] == ["-", "1.25"]
