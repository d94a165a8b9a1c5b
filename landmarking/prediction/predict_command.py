"""What `landmarking predict` does."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from landmarking.errors import ConfigError
from landmarking.prediction.batch import Job, Outcome, predict_jobs
from landmarking.prediction.command import STARTED
from landmarking.prediction.files import TABLE, write_table
from landmarking.prediction.inputs import Target, find_scans


def run(options: argparse.Namespace) -> int:
    """Predict, write, and say what came out.

    Args:
        options: As `command.parser` gives them.

    Returns:
        The exit status: 1 if a scan failed.

    Raises:
        LandmarkingError: If nothing could be started.
    """
    output = Path(options.output)
    targets = find_scans([Path(scan) for scan in options.scans], output, bids=options.bids)
    if options.truth and len(options.truth) != len(targets):
        raise ConfigError(
            f"--truth takes one file a scan, in the same order; found {len(options.truth)} for "
            f"{len(targets)} scans"
        )
    outcomes, startup_s = _predict(options, targets, output)
    try:
        table = write_table(output)
    except OSError as error:
        raise ConfigError(f"{output / TABLE}: cannot be written ({error.strerror})") from error
    errors = _errors(options.truth, outcomes)
    if options.json:
        _print_json(options, outcomes, table, startup_s, errors)
    else:
        _print_text(options, outcomes, table, startup_s, errors)
    return 1 if any(outcome.problem for outcome in outcomes) else 0


def _predict(
    options: argparse.Namespace, targets: Sequence[Target], output: Path
) -> tuple[list[Outcome], float]:
    from landmarking.prediction.models import open_model

    model = open_model(options.model)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{output}: cannot be made ({error.strerror or error})") from error
    jobs = [
        Job(
            target=target,
            output=output,
            sources=tuple(options.model),
            model_digest=model.digest,
            picture=not options.no_picture,
            overwrite=options.overwrite,
        )
        for target in targets
    ]
    startup_s = time.perf_counter() - STARTED
    with progress_bar(len(jobs), shown=not (options.quiet or options.json)) as advance:
        return predict_jobs(jobs, options.workers, advance), startup_s


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[Any], None]]:
    """A bar on stderr, where that is a terminal.

    Args:
        total: How many there are to do.
        shown: Whether to draw it.

    Yields:
        To be called with each one that is done.
    """
    if not (shown and total > 1 and sys.stderr.isatty()):
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda _done: bar.advance(task)


def _errors(truth: Sequence[str], outcomes: Sequence[Outcome]) -> list[Any]:
    from landmarking.prediction.comparison import compare

    return [
        error
        for file, outcome in zip(truth, outcomes, strict=False)
        if outcome.record is not None
        for error in compare(outcome.record, Path(file))
    ]


def _print_json(
    options: argparse.Namespace,
    outcomes: Sequence[Outcome],
    table: Path,
    startup_s: float,
    errors: Sequence[Any],
) -> None:
    body: dict[str, Any] = {
        "table": str(table),
        "startup_s": startup_s,
        "scans": [
            {
                "stem": outcome.target.stem,
                "scan": str(outcome.target.scan),
                "problem": outcome.problem,
                "reused": outcome.reused,
                "peak_mib": outcome.peak_mib,
                "prediction": outcome.record,
            }
            for outcome in outcomes
        ],
    }
    if options.truth:
        body["errors"] = [asdict(error) for error in errors]
    sys.stdout.write(json.dumps(body, allow_nan=False) + "\n")


def _print_text(
    options: argparse.Namespace,
    outcomes: Sequence[Outcome],
    table: Path,
    startup_s: float,
    errors: Sequence[Any],
) -> None:
    from landmarking.prediction.comparison import comparison_text

    lines = [] if options.quiet else [_line(outcome) for outcome in outcomes if outcome.record]
    if errors:
        lines += ["", comparison_text(errors), ""]
    if options.timing:
        lines += timing_lines(outcomes, startup_s)
    if not options.quiet:
        lines.append(summary_line(outcomes))
        lines.append(f"table: {table}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
    for outcome in outcomes:
        if outcome.problem:
            sys.stderr.write(f"failed: {outcome.problem}\n")


def _line(outcome: Outcome) -> str:
    assert outcome.record is not None
    record = outcome.record
    flagged = [row["name"] for row in record["landmarks"] if row["flags"]]
    reasons = list(record["flags"])
    if flagged:
        reasons.append(f"look at {', '.join(flagged)}")
    state = "was finished" if outcome.reused else f"{outcome.seconds['cpu']:.1f} s of one core"
    return f"{outcome.target.stem}: {state}" + "".join(f"; {reason}" for reason in reasons)


def summary_line(outcomes: Sequence[Outcome]) -> str:
    """How many scans were done, skipped and failed."""
    failed = sum(outcome.problem is not None for outcome in outcomes)
    reused = sum(outcome.reused for outcome in outcomes)
    done = len(outcomes) - failed - reused
    return f"{done} predicted, {reused} finished before, {failed} failed"


def timing_lines(outcomes: Sequence[Outcome], startup_s: float) -> list[str]:
    """Start-up, mean seconds by stage, and the most memory that a process used.

    Args:
        outcomes: Scans; those that were finished before do not count.
        startup_s: Seconds on the clock from the command's start to the first scan.
    """
    fresh = [outcome for outcome in outcomes if outcome.record and not outcome.reused]
    lines = [f"start-up {startup_s:.1f} s on the clock, once"]
    if not fresh:
        return lines
    seconds = [outcome.seconds for outcome in fresh]
    stages = {key: sum(each[key] for each in seconds) / len(seconds) for key in seconds[0]}
    cpu = stages.pop("cpu")
    parts = ", ".join(f"{stage} {value:.2f}" for stage, value in stages.items())
    lines.append(f"a scan {cpu:.2f} s of one core, mean of {len(fresh)}; on the clock: {parts}")
    lines.append(
        f"memory {max(outcome.peak_mib for outcome in fresh):.0f} MiB at most in a process"
    )
    return lines
