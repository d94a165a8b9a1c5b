"""The benchmark of training: both loops run, and the table says what was measured."""

from __future__ import annotations

import re

import pytest

from landmarking.errors import ConfigError
from train import run


def test_plain_and_our_loop_are_timed_beside_each_other():
    table = run(["kinds=ml", "slices=2", "batch=2", "rounds=2", "clock=cpu"])
    row = table.splitlines()[2]
    assert re.fullmatch(r"\| ml \| [\d.]+ \| [\d.]+ \| [\d.]+, [\d.]+ \| [\d,.]+ \|", row)
    assert "batch 2" in table


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="kinds are of sl, ml, stacked"):
        run(["kinds=mll"])
