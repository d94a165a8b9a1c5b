"""What the commands that take scans say while they work and at the end."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landmarking.errors import ConfigError
from landmarking.prediction.batch import Outcome
from landmarking.prediction.command import STARTED
from landmarking.storage import remove_leftovers


@dataclass(frozen=True)
class Startup:
    """What passed before the first scan.

    Attributes:
        wall_s: Seconds on the clock since the command began.
        cpu_s: Processor time of the process.
    """

    wall_s: float
    cpu_s: float


def startup() -> Startup:
    """What has passed by now."""
    return Startup(time.perf_counter() - STARTED, time.process_time())


def make_folder(output: Path) -> None:
    """Make the folder of the results, and remove what a killed start has left half-written.

    Args:
        output: The folder; it may be there.

    Raises:
        ConfigError: If it cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        remove_leftovers(output)
    except OSError as error:
        raise ConfigError(
            f"{output}: the folder cannot be made ({error.strerror or error}); choose another -o"
        ) from error


@contextmanager
def progress_bar(options: argparse.Namespace, total: int) -> Iterator[Callable[[Outcome], None]]:
    """A bar on stderr, where that is a terminal and nobody asked for silence.

    Args:
        options: `quiet` and `json`.
        total: How many there are to do.

    Yields:
        To be called with each one that is done.
    """
    if options.quiet or options.json or total < 2 or not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda _done: bar.advance(task)


def print_end(
    options: argparse.Namespace, lines: Sequence[str], outcomes: Sequence[Outcome], started: Startup
) -> int:
    """Print the summary on stdout and what failed on stderr.

    Args:
        options: `quiet` and `timing`.
        lines: What there is to say of the scans.
        outcomes: All scans.
        started: What `startup` gave before the first scan.

    Returns:
        The exit status.
    """
    said = list(lines)
    if options.timing:
        said += timing_lines(outcomes, started)
    if not options.quiet:
        said.append(summary_line(outcomes))
    sys.stdout.write("".join(f"{line}\n" for line in said))
    sys.stdout.flush()
    for outcome in outcomes:
        if outcome.problem:
            sys.stderr.write(f"failed: {outcome.problem}\n")
    return exit_status(outcomes)


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """1 if a scan failed, else 0."""
    return int(any(outcome.problem is not None for outcome in outcomes))


def scan_line(outcome: Outcome, said: Sequence[str]) -> str:
    """One line about one scan.

    Args:
        outcome: A scan that did not fail.
        said: What else there is to say.
    """
    state = "was finished" if outcome.reused else f"{outcome.seconds['cpu']:.1f} s of one core"
    return "; ".join([f"{outcome.target.stem}: {state}", *said])


def summary_line(outcomes: Sequence[Outcome]) -> str:
    """How many scans were done, skipped and failed."""
    failed = sum(outcome.problem is not None for outcome in outcomes)
    reused = sum(outcome.reused for outcome in outcomes)
    return f"{len(outcomes) - failed - reused} done, {reused} finished before, {failed} failed"


def timing_lines(outcomes: Sequence[Outcome], started: Startup) -> list[str]:
    """Start-up, mean seconds by stage, and the most memory that a process used.

    Args:
        outcomes: Scans; those that failed or were finished before do not count.
        started: What `startup` gave before the first scan.
    """
    fresh = [outcome for outcome in outcomes if outcome.record and not outcome.reused]
    lines = [f"start-up {started.cpu_s:.1f} s of one core, once; on the clock {started.wall_s:.1f}"]
    if not fresh:
        return lines
    every = [outcome.seconds for outcome in fresh]
    stages = {key: sum(each.get(key, 0.0) for each in every) / len(every) for key in every[0]}
    cpu = stages.pop("cpu")
    parts = ", ".join(f"{stage} {value:.2f}" for stage, value in stages.items())
    lines.append(f"a scan {cpu:.2f} s of one core, mean of {len(fresh)}; on the clock: {parts}")
    lines.append(f"memory {max(outcome.peak_mib for outcome in fresh):.0f} MiB at most a process")
    return lines


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Plain values of one scan for `--json`."""
    return {
        "stem": outcome.target.stem,
        "scan": str(outcome.target.scan),
        "problem": outcome.problem,
        "reused": outcome.reused,
        "seconds": dict(outcome.seconds),
        "peak_mib": outcome.peak_mib,
        "result": outcome.record,
    }
