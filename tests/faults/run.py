"""All faults and mutated inputs: `python tests/faults/run.py [--out DIR] [--kind WORD]`."""

from __future__ import annotations

import argparse
import csv
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TextIO, TypeVar

import heads
import starts
from catalogue import all_faults
from command_lines import try_command_lines
from mutations import Finding, Tally, try_inputs
from readers import input_targets
from run_readers import run_targets
from sandbox import Box
from trial import Bench, SmallDisk, Verdict, summary

T = TypeVar("T")
STATES = ("scans", "registered", "unfinished", "prepared", "stopped", "trained")


def build_template(box: Box) -> None:
    """Make the states that faults start from; about half a minute."""
    (box.root / "box").mkdir(parents=True)

    def go(name: str, trouble: starts.Trouble | None = None, status: int = 0) -> None:
        ended = starts.forked(box.command(name), box.root, trouble)
        if ended.status != status:
            raise SystemExit(f"{name} ended with {ended.status}: {ended.err}")

    go("prepare")
    outputs = box.outputs
    box.keep("prepared")
    shutil.rmtree(outputs / "prepared")
    box.keep("unfinished")
    for stage in ("plane", "slice", "intensity"):
        shutil.rmtree(outputs / "cache" / stage)
    box.keep("registered")
    shutil.rmtree(outputs)
    outputs.mkdir()
    box.keep("scans")
    box.reset("prepared")
    # Stopped in the third epoch: a checkpoint of the second is there.
    go("train", starts.Trouble(start=_stop_when(box.run / "checkpoints" / "last.ckpt")), -9)
    box.keep("stopped")
    go("train")
    go("sweep")
    box.keep("trained")


def _stop_when(path: Path) -> Callable[[], None]:
    def watch() -> None:
        while not path.exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    return lambda: threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Try everything, print the table, and end with status 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=starts.PROJECT / "outputs" / "faults")
    parser.add_argument("--kind", default="", help="only kinds of fault with this word")
    parser.add_argument("--name", default="", help="only faults whose name has this word")
    parser.add_argument("--inputs", type=int, default=170, help="mutated inputs of each reader")
    parser.add_argument("--headers", type=int, default=5000, help="damaged scan headers")
    parser.add_argument("--texts", type=int, default=1000, help="damaged landmark files and tables")
    parser.add_argument("--only-files", action="store_true", help="headers and texts, nothing else")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--template", type=Path, help="keep the template here between runs")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    wrong = try_files(chosen.out, chosen.headers, chosen.texts, chosen.seed)
    if chosen.only_files:
        sys.exit(bool(wrong))
    starts.warm_up()
    with tempfile.TemporaryDirectory() as temporary:
        box = Box(chosen.template or Path(temporary))
        if not (box.root / "template" / "trained").exists():
            build_template(box)
        bench = Bench(box, chosen.seed)
        tallies, findings = try_all_inputs(box, chosen.inputs, chosen.seed)
        with (chosen.out / "faults.log").open("w", encoding="utf-8") as log:
            verdicts = try_faults(bench, log, chosen.kind, chosen.name)
            verdicts += try_command_lines(bench, log, chosen.kind)
    write_table(chosen.out, verdicts)
    write_inputs(chosen.out, tallies, findings)
    sys.exit(bool(wrong or findings) or any(not verdict.survived for verdict in verdicts))


def progress(items: Sequence[T], what: str) -> Iterable[T]:
    """The items, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    return track(items, what, console=Console(stderr=True))


def try_files(folder: Path, headers: int, texts: int, seed: int) -> list[str]:
    """Read damaged headers, landmark files and tables; files.md has the counts.

    Returns:
        What went wrong, in words.
    """
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("files", total=headers + texts)
        tallies = heads.try_all(headers, texts, seed, lambda: bar.advance(task))
    text = heads.table(tallies)
    (folder / "files.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    wrong = [f"{tally.name}: {line}" for tally in tallies for line in tally.wrong]
    for line in wrong:
        sys.stdout.write(f"WRONG {line}\n")
    return wrong


def try_faults(bench: Bench, log: TextIO, kind: str = "", name: str = "") -> list[Verdict]:
    """Try the faults one after the other, with a line of the log each, saying which went wrong."""
    verdicts = []
    faults = [
        fault
        for fault in all_faults(bench, small_disks=SmallDisk.possible(bench.box))
        if kind in fault.kind and name in fault.name
    ]
    try:
        for fault in progress(faults, "faults"):
            verdict = bench.run(fault)
            verdicts.append(verdict)
            log.write(f"{verdict.result:10} {verdict.seconds:5.1f} s  {fault.kind}: {fault.name}\n")
            log.flush()
            if not verdict.survived:
                sys.stdout.write(
                    f"LOST ({verdict.result}; {verdict.first}) {fault.kind}: {fault.name}\n"
                    f"     {verdict.detail}\n"
                )
                sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stdout.write("stopped; the table counts what was tried until then\n")
    return verdicts


def try_all_inputs(box: Box, count: int, seed: int) -> tuple[list[Tally], list[Finding]]:
    """Read mutated inputs of every reader, saying which went wrong."""
    tallies, findings = [], []
    trained = box.root / "template" / "trained" / "outputs"
    prepared = next((trained / "prepared").glob("tiny-*"))
    with tempfile.TemporaryDirectory() as work:
        run = trained / "demo" / "ml-seed0"
        targets = [*input_targets(prepared, Path(work)), *run_targets(run, Path(work))]
        for target in progress(targets if count else [], "readers"):
            # A reader's warnings about thousands of damaged inputs are not for a person to read.
            logging.disable(logging.CRITICAL)
            tally, found = try_inputs(target, Path(work, "input"), count, seed)
            logging.disable(logging.NOTSET)
            tallies.append(tally)
            findings += found
            for finding in found:
                sys.stdout.write(f"WRONG ({finding.what}) {finding.target}: {finding.detail}\n")
                sys.stdout.flush()
    return tallies, findings


def write_inputs(folder: Path, tallies: Sequence[Tally], findings: Sequence[Finding]) -> None:
    """Write inputs.md, with the counts by reader."""
    wrong = {tally.name: 0 for tally in tallies}
    for finding in findings:
        wrong[finding.target] += 1
    rows = [(t.name, t.tried, t.read, t.refused, wrong[t.name], t.slowest_s) for t in tallies]
    sums = [sum(row[column] for row in rows) for column in range(1, 5)]
    total = ("all", *sums, max((row[5] for row in rows), default=0.0))
    lines = [
        "| what is read | mutated inputs | read | refused in words | wrong | slowest, s |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(map(str, row[:5]))} | {row[5]:.2f} |" for row in (*rows, total)),
    ]
    text = "\n".join(lines) + "\n"
    (folder / "inputs.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def write_table(folder: Path, verdicts: Sequence[Verdict]) -> None:
    """Write faults.md, with the counts by kind, and faults.csv, with every fault."""
    rows = summary(verdicts)
    total = ("all", *(sum(row[column] for row in rows) for column in range(1, 5)))
    lines = [
        "| fault | tried | finished as undisturbed | said what to do | lost |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(map(str, row))} |" for row in (*rows, total)),
    ]
    text = "\n".join(lines) + "\n"
    (folder / "faults.md").write_text(text, encoding="utf-8")
    with (folder / "faults.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["kind", "fault", "result", "first_start", "seconds", "message"])
        for verdict in verdicts:
            fault = verdict.fault
            seconds = f"{verdict.seconds:.2f}"
            row = (fault.kind, fault.name, verdict.result, verdict.first, seconds, verdict.detail)
            writer.writerow(row)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
