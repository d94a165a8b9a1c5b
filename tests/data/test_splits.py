from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarking.data.splits import (
    AdaptConfig,
    Split,
    adapted,
    choose_people,
    named,
    people_learnt_from,
    read_split,
    read_split_table,
    refuse_overlap,
    split_by_person,
    split_units,
    write_split,
    write_split_table,
)
from landmarking.errors import CohortError, ConfigError
from landmarking.landmarks import landmark_set
from landmarking.preparation.prepared import PreparedCohort, SliceRecord

# Splits: nobody on both sides, the same for the same seed, and back from the file.


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


# The same as a table that other tools write and read.


def test_a_table_gives_the_split_back(tmp_path):
    split = split_by_person([f"sub-{n}" for n in range(10)], fraction=0.3, seed=1)
    path = tmp_path / "split.tsv"
    write_split_table(path, split, {"sub-x", "sub-y"}, 2)
    assert path.read_text().splitlines()[0] == "participant_id\tset\tfold"
    table = read_split_table(path)
    again = table.split([*split.train, *split.validation, split.train[0]])
    assert (again.train, again.validation) == (split.train, split.validation)
    assert table.folds == {"sub-x": 2, "sub-y": 2}
    assert table.sets["sub-x"] == "test"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a\ttrain\nb\ttrain\n", "leaves nobody to validate by"),
        ("a\tvalidation\nb\tvalidation\n", "leaves nobody to train on"),
        ("a\ttrain\n", "has no set for b of the training groups"),
        ("a\ttrain\nb\ttest\n", "calls b of the training groups test"),
        ("a\ttrain\na\tvalidation\n", "a comes twice"),
        ("a\tlearn\nb\ttrain\n", "a has set 'learn'"),
        ("a\tn/a\nb\t\n", "neither a column set nor a column fold"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, rows, says):
    path = tmp_path / "mine.tsv"
    path.write_text(f"participant_id\tset\n{rows}")
    with pytest.raises(CohortError, match=says):
        read_split_table(path).split(["a", "b"])


def test_folds_of_a_table_take_the_place_of_the_draw(tmp_path):
    path = tmp_path / "folds.tsv"
    path.write_text("participant_id\tfold\na\t1\nb\t0\nc\t1\nd\t0\n")
    table = read_split_table(path)
    config = AdaptConfig("HS", None, fold=1, folds=2)
    learnt, tested = choose_people(["a", "b", "c", "d"], config, table)
    assert (sorted(learnt), sorted(tested)) == (["b", "d"], ["a", "c"])
    with pytest.raises(CohortError, match="has no fold for e"):
        choose_people(["a", "b", "e"], config, table)
    with pytest.raises(CohortError, match="has the folds 0, 1, and folds=3"):
        choose_people(["a", "b"], AdaptConfig("HS", None, fold=1, folds=3), table)


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


# Folds by person: nobody is learnt from and tested on.


def cohort(people: int = 12, scans_each: int = 2) -> PreparedCohort:
    records = [SliceRecord(f"sub-t{i}", f"sub-t{i}", None, "train") for i in range(4)]
    records += [
        SliceRecord(f"sub-d{i}_ses-{scan}", f"sub-d{i}", str(scan), "DS")
        for i in range(people)
        for scan in range(scans_each)
    ]
    count = len(records)
    numbers = np.arange(count, dtype=np.float32)
    return PreparedCohort(
        folder=Path("nowhere"),
        name="stand-in",
        simulated=True,
        digest="0" * 64,
        landmarks=landmark_set("msp8"),
        images=np.broadcast_to(numbers[:, None, None], (count, 4, 4)),
        points_px=np.broadcast_to(numbers[:, None, None].astype(float), (count, 8, 2)),
        points_mm=np.broadcast_to(numbers[:, None, None].astype(float), (count, 8, 3)),
        pixel_to_world=np.broadcast_to(np.eye(4), (count, 4, 4)),
        records=tuple(records),
        settings={},
        tissues=np.broadcast_to(numbers[:, None, None, None].astype(np.uint8), (count, 4, 4, 4)),
    )


def people_of(chosen: PreparedCohort, group: str) -> set[str]:
    return {r.participant_id for r in chosen.records if r.group == group}


@pytest.mark.parametrize("people", [0, 3, 8])
def test_nobody_is_learnt_from_and_tested_on_and_all_are_tested_once(people: int) -> None:
    tested: list[str] = []
    for fold in range(4):
        chosen = adapted(cohort(), AdaptConfig("DS", people=people, fold=fold, folds=4))
        assert len(people_of(chosen, "DS-adapt")) == people
        assert not people_of(chosen, "DS-adapt") & people_of(chosen, "DS")
        assert people_of(chosen, "train") == {f"sub-t{i}" for i in range(4)}
        tested += sorted(people_of(chosen, "DS"))
    assert sorted(tested) == sorted(f"sub-d{i}" for i in range(12))


def test_slices_and_points_go_with_their_records() -> None:
    whole = cohort()
    chosen = adapted(whole, AdaptConfig("DS", people=3))
    numbers = {record.scan_id: index for index, record in enumerate(whole.records)}
    expected = [numbers[record.scan_id] for record in chosen.records]
    assert chosen.images[:, 0, 0].tolist() == expected
    assert chosen.points_px[:, 0, 0].tolist() == expected
    assert chosen.points_mm[:, 0, 0].tolist() == expected
    assert chosen.tissues is not None
    assert chosen.tissues[:, 0, 0, 0].tolist() == expected


def test_more_people_include_the_fewer() -> None:
    names = [f"sub-{i}" for i in range(30)]
    few, _ = choose_people(names, AdaptConfig("DS", people=5))
    many, _ = choose_people(names[::-1], AdaptConfig("DS", people=20))
    assert many[:5] == few


def test_no_group_changes_nothing() -> None:
    whole = cohort()
    assert adapted(whole, AdaptConfig()) is whole


def test_a_person_in_two_groups_is_refused() -> None:
    whole = cohort()
    shared = replace(whole.records[0], participant_id="sub-d0")
    mixed = replace(whole, records=(shared, *whole.records[1:]))
    with pytest.raises(CohortError, match="sub-d0 in a training group and in a test group"):
        refuse_overlap(mixed, ["train"], ["HS", "DS"])
    refuse_overlap(mixed, ["train"], ["HS"])
    refuse_overlap(whole, ["train"], ["DS", "nobody"])
    with pytest.raises(CohortError, match="DS is in both"):
        refuse_overlap(whole, ["train", "DS"], ["DS"])


def test_people_of_a_split_by_image_are_people() -> None:
    whole = cohort()
    scan = whole.records[1]
    split = Split((scan.scan_id,), (), 0, 0.5, by="image")
    assert people_learnt_from(split, whole) == {scan.participant_id}
    split = Split(("sub-t1",), ("sub-t0", "sub-elsewhere"), 0, 0.5)
    assert people_learnt_from(split, whole) == {"sub-t0", "sub-t1"}


def folds4(fold: int) -> AdaptConfig:
    return AdaptConfig("DS", people=2, fold=fold, folds=4)


def test_too_few_people_are_refused() -> None:
    with pytest.raises(CohortError, match=r"12 people, 9 of them outside fold 0 of 4; 10 were"):
        adapted(cohort(), AdaptConfig("DS", people=10, folds=4))


@pytest.mark.parametrize(
    "wrong", [{"folds": 1}, {"fold": -1}, {"fold": 2, "folds": 2}, {"people": -1}]
)
def test_numbers_of_folds_and_people_have_ranges(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"adapt.folds is at least 2"):
        AdaptConfig("DS", **wrong)
    AdaptConfig("DS", fold=1, folds=2, people=0)


def test_a_message_names_five_people_and_counts_the_rest() -> None:
    assert named({f"p{i}" for i in range(5)}) == "p0, p1, p2, p3, p4"
    assert named({f"p{i}" for i in range(7)}).startswith("p0, p1, p2, p3, p4")
    assert "p5" not in named({f"p{i}" for i in range(7)})


def test_a_fold_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"adapt.fold from 0"):
        AdaptConfig("DS", fold=5, folds=5)
