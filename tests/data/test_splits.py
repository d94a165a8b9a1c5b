"""Splits: nobody on both sides, the same for the same seed, and back from the file."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarking.data.splits import Split, read_split, split_by_person, split_units, write_split
from landmarking.errors import CohortError, ConfigError

people = st.lists(st.integers(0, 50).map("sub-{}".format), min_size=2, max_size=80)


@settings(deadline=None)
@given(people.filter(lambda names: len(set(names)) > 1), st.floats(0.05, 0.95), st.integers(0, 9))
def test_everybody_is_on_exactly_one_side(names, fraction, seed):
    split = split_by_person(names, fraction=fraction, seed=seed)
    assert set(split.train) | set(split.validation) == set(names)
    assert not set(split.train) & set(split.validation)
    assert split.train
    assert split.validation
    if 1 <= round(fraction * len(set(names))) < len(set(names)):
        assert len(split.validation) == round(fraction * len(set(names)))


def test_seventy_thirty():
    split = split_by_person([f"sub-{n}" for n in range(100)], fraction=0.3, seed=0)
    assert (len(split.train), len(split.validation)) == (70, 30)


def test_the_seed_decides_and_the_order_of_scans_does_not():
    names = [f"sub-{n}" for n in range(30)]
    first = split_by_person(names, fraction=0.3, seed=1)
    assert first == split_by_person([*reversed(names), *names], fraction=0.3, seed=1)
    assert first.digest != split_by_person(names, fraction=0.3, seed=2).digest


def test_the_file_gives_the_split_back(tmp_path):
    split = split_units(["a", "b", "c"], fraction=0.4, seed=5, by="image")
    write_split(tmp_path / "split.json", split)
    assert read_split(tmp_path / "split.json") == split
    assert read_split(tmp_path / "split.json").digest == split.digest


@pytest.mark.parametrize("text", [None, "{", "[]", '{"train": ["a"]}', '{"train": 3}'])
def test_a_file_that_is_no_split_is_refused(tmp_path, text):
    path = tmp_path / "split.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CohortError, match=r"split\.json"):
        read_split(path)


def test_somebody_on_both_sides_is_refused(tmp_path):
    path = tmp_path / "split.json"
    write_split(path, Split(("a", "b"), ("b",), 0, 0.5))
    assert json.loads(path.read_text())["train"] == ["a", "b"]
    with pytest.raises(CohortError, match="b on both sides"):
        read_split(path)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_refuses_fractions(fraction):
    with pytest.raises(ConfigError, match="validation_fraction"):
        split_by_person(["a", "b"], fraction=fraction, seed=0)


def test_refuses_one_person_with_many_scans():
    with pytest.raises(CohortError, match="needs two"):
        split_by_person(["a", "a"], fraction=0.3, seed=0)


def test_refuses_other_ways():
    with pytest.raises(ConfigError, match="split_by"):
        split_units(["a", "b"], fraction=0.3, seed=0, by="site")


def test_a_split_that_was_changed_is_refused(tmp_path):
    path = tmp_path / "split.json"
    write_split(path, Split(("sub-01", "sub-02"), ("sub-03",), 0, 0.3))
    path.write_text(path.read_text().replace("sub-02", "sub-04"))
    with pytest.raises(CohortError, match=r"was changed after it was written.*restore it"):
        read_split(path)
