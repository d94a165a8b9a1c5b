import numpy as np
import pytest

from landmarking.benchmarks import msp
from landmarking.errors import ConfigError


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
