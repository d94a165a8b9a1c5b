"""Command lines that are wrong: one message, status 2, and nothing done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from sandbox import Box
from starts import forked
from trial import Bench, Fault, Verdict, says_way_out

KIND = "a wrong command line"

TRAIN = (
    "model.dropot=0.3", "model=slimm", "modle=slim", "cohort/preste=demo", "trainer.max_epochs=0",
    "trainer.max_epochs=-3", "trainer.max_epochs=many", "trainer.max_epochs=1.5",
    "trainer.accelerator=quantum", "trainer.precision=3", "trainer.devices=99", "data.batch_size=0",
    "data.batch_size=x", "data.validation_fraction=1.5", "data.validation_fraction=nan",
    "data.split_by=cat", "seed=abc", "seed=-1", "landmark=XY", "landmarks=msp9",
    "landmarks.only=[AC,XY]", "landmarks.only=[AC,AC]", "optimizer.lr=-1",
    "optimizer.lr=nan", "optimizer.betas=[0.9]", "schedule.kind=linear",
    "callbacks.history.every_n_epochs=0", "preprocess.slice_size=-5",
    "preprocess.slice_size=100000",
    "preprocess.crop=[9,2]", "preprocess.spacing_mm=0", "preprocess.normalisation=none_of_these",
    "cohort.train_groups=[nobody]", "cohort.test_groups=[nobody]", "cohort.kind=dicom",
    "cohort.root=/no/such/folder", "model.channels=[]", "model.channels=[0]", "model.pools=9",
    "model._target_=os.system", "model.hidden=[-1]", "threads=0", "study=../../../outside",
    "augment.noise=-1", "experiment=nothing", "experiment=demo_ml,paper_ml", "=3", "a b=c",
    "adapt.people=-2", "run=a/b", "adapt.start=/no/such/run", "speed.compile=maybe",
)  # fmt: skip
PREPARE = (
    "workers=-1", "workers=two", "shard=4", "shards=0", "shard=-1", "carry=x.zip", "check_onl=true",
    "preprocess.histogram_reference=/no/file.npy", "cohort=bids",
)  # fmt: skip
REPORT = (
    "resamples=5", "permutations=x", "runs=/no/such/study", "runs=null", "compare=[a]",
    "allow_mixed=perhaps", "seed=x", "output=/proc/nowhere",
)  # fmt: skip
EVALUATE = ("runs=/no/such/study", "runs=null", "groups=[nobody]", "groups=HS,DS", "wrokers=1")


def wrong_lines() -> Iterator[tuple[str, str]]:
    """Short name of the command, and the argument that is wrong."""
    named = {"train": TRAIN, "prepare": PREPARE, "report": REPORT, "evaluate": EVALUATE}
    for command, arguments in named.items():
        yield from ((command, argument) for argument in arguments)


def try_command_lines(bench: Bench, log: TextIO, kind: str = "") -> list[Verdict]:
    """Try every wrong line on a finished study; nothing of it may change."""
    if kind not in KIND:
        return []
    bench.box.reset("trained")
    before = bench.box.digests()
    verdicts = []
    for command, argument in wrong_lines():
        verdict = _try(bench.box, command, argument, before)
        verdicts.append(verdict)
        log.write(f"{verdict.result:10} {KIND}: {command} {argument}: {verdict.detail}\n")
        log.flush()
    return verdicts


def _try(box: Box, command: str, argument: str, before: dict[str, str]) -> Verdict:
    # Another run of the study, so that it is not taken for the one that is finished.
    own = ("run=another",) if command == "train" and not argument.startswith("run=") else ()
    ended = forked(box.command(command, *own, argument), box.root)
    detail = " | ".join(ended.err.strip().splitlines())[:400]
    result = "said"
    if ended.traced:
        result = "traceback"
    elif ended.status == 0:
        result = "same" if box.digests().items() >= before.items() else "number"
    elif not says_way_out(ended.err):
        result = "silent"
    elif not box.digests().items() >= before.items():
        result = "number"
    fault = Fault(KIND, f"{command} {argument}", "trained", command)
    return Verdict(fault, result, f"status {ended.status}", detail, ended.seconds)
