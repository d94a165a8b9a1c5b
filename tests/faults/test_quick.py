"""A quick share of `make faults`: some faults of training and reporting, some mutated inputs."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import starts
from harm import HARM
from mutations import try_inputs
from readers import input_targets
from run_readers import run_targets
from sandbox import Box
from trial import Bench, Fault, says_way_out

from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.preparation.cache import key_settings

if not hasattr(__import__("os"), "fork"):
    pytest.skip("needs fork", allow_module_level=True)


@pytest.fixture(scope="module")
def bench(make_cohort) -> Bench:
    """A prepared cohort in place of scans, and one finished run."""
    with tempfile.TemporaryDirectory() as folder:
        box = Box(Path(folder), kind=("cohort=bids",))
        starts.warm_up()
        (box.root / "box").mkdir()
        made = make_cohort(size=48, settings=key_settings(PreprocessSettings()))
        shutil.copytree(made.folder, box.cohort)
        box.outputs.mkdir()
        box.keep("prepared")
        bench = Bench(box)
        bench.expected("prepared", "train")
        box.keep("trained")
        yield bench


def last_part(bench: Bench, share: float) -> int:
    return max(1, int(share * bench.operations("prepared", "train")))


@pytest.mark.parametrize(
    ("share", "act"),
    [
        (0.55, starts.send(signal.SIGKILL)),
        (0.85, starts.send(signal.SIGINT)),
    ],
    ids=["killed", "stopped"],
)
def test_a_run_that_was_disturbed_ends_as_if_it_had_not_been(bench, share, act):
    trouble = starts.Trouble(last_part(bench, share), act)
    verdict = bench.run(Fault("quick", f"{share}", "prepared", "train", trouble=trouble))
    assert verdict.survived, (verdict.result, verdict.detail)
    assert verdict.first != "finished", "something was disturbed"


def test_a_start_does_not_inherit_what_was_done_with_signals(bench):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trouble = starts.Trouble(start=starts.send(signal.SIGINT))
        ended = starts.forked(bench.box.command("train"), bench.box.root, trouble)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.status != 0


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_space(bench):
    trouble = starts.Trouble(start=starts.file_limit(20_000))
    verdict = bench.run(Fault("quick", "full", "prepared", "train", trouble=trouble))
    assert (verdict.result, verdict.first) == ("same", "status 2")
    assert "File too large" in verdict.detail
    assert "free space" in verdict.detail


def test_a_damaged_table_is_not_taken_for_numbers(bench):
    def spoil(box, rng):
        next(harm for harm in HARM if harm.__name__ == "digit")(box.run / "predictions.csv", rng)

    def mend(box):
        box.reset("trained")

    verdict = bench.run(Fault("quick", "digit", "trained", "train", spoil=spoil, mend=mend))
    assert (verdict.result, verdict.detail.count("is not what its run has written")) == ("said", 1)


def test_mutated_inputs_are_read_or_refused_in_words(bench, tmp_path):
    run = bench.box.root / "template" / "trained" / "outputs" / "demo" / "ml-seed0"
    prepared = bench.box.root / "template" / "prepared" / "cohort"
    tried = 0
    for target in (*input_targets(prepared, tmp_path), *run_targets(run, tmp_path)):
        tally, findings = try_inputs(target, tmp_path / "input", 8, seed=1)
        assert not findings, findings[0]
        tried += tally.tried
    assert tried > 200


@pytest.mark.parametrize(
    ("message", "says"),
    [("x: broken; restore it from a copy", True), ("broken", False), ("", False)],
)
def test_a_message_without_a_way_out_counts_as_none(message, says):
    assert says_way_out(message) is says
