"""What `landmarking predict` and `landmarking compare` do."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from landmarking.errors import ConfigError
from landmarking.landmarks import read_landmarks
from landmarking.prediction.batch import Outcome, run_jobs
from landmarking.prediction.comparison import Miss, compare, comparison_text
from landmarking.prediction.console import (
    exit_status,
    make_folder,
    outcome_json,
    print_end,
    progress_bar,
    scan_line,
    startup,
)
from landmarking.prediction.files import TABLE, read_record, write_dataset, write_table
from landmarking.prediction.inputs import Target, find_scans
from landmarking.prediction.predict_jobs import PredictJob, finished, predict_job
from landmarking.storage import not_written


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
    for file in options.truth:
        # Before an hour of work, not after it.
        read_landmarks(Path(file))
    jobs = _jobs(options, targets, output)
    started = startup()
    with progress_bar(options, len(jobs)) as advance:
        outcomes = run_jobs(jobs, predict_job, finished, options.workers, advance)
    table = _write_tables(options, output)
    misses = [
        miss
        for file, outcome in zip(options.truth, outcomes, strict=False)
        if outcome.record is not None
        for miss in compare(outcome.record, Path(file))
    ]
    if options.json:
        body = {"table": str(table), "startup": asdict(started)}
        scans = [outcome_json(outcome) for outcome in outcomes]
        errors = {"errors": [asdict(miss) for miss in misses]} if options.truth else {}
        _print_json({**body, "scans": scans, **errors})
        return exit_status(outcomes)
    lines = [] if options.quiet else [_line(outcome) for outcome in outcomes if outcome.record]
    lines += ["", comparison_text(misses), ""] if misses else []
    lines += [] if options.quiet else [f"table: {table}"]
    return print_end(options, lines, outcomes, started)


def _jobs(options: argparse.Namespace, targets: Sequence[Target], output: Path) -> list[PredictJob]:
    from landmarking.prediction.models import open_model

    model = open_model(options.model)
    make_folder(output)
    return [
        PredictJob(
            target=target,
            output=output,
            sources=tuple(options.model),
            model_digest=model.digest,
            coverage=None if model.calibration is None else model.calibration.coverage,
            picture=not options.no_picture,
            overwrite=options.overwrite,
        )
        for target in targets
    ]


def _write_tables(options: argparse.Namespace, output: Path) -> Path:
    try:
        if options.bids:
            write_dataset(output)
        return write_table(output)
    except OSError as error:
        again = "choose another -o, then start again: finished scans are skipped"
        raise ConfigError(not_written(output / TABLE, error, again)) from error


def _line(outcome: Outcome) -> str:
    assert outcome.record is not None
    flagged = [row["name"] for row in outcome.record["landmarks"] if row["flags"]]
    look = [f"look at {', '.join(flagged)}"] if flagged else []
    return scan_line(outcome, [*outcome.record["flags"], *look])


def run_compare(options: argparse.Namespace) -> int:
    """Compare one result with truth.

    Args:
        options: As `command.parser` gives them.

    Raises:
        LandmarkingError: If a file cannot be read.
    """
    misses: list[Miss] = []
    if len(options.files) % 2:
        raise ConfigError(
            "compare takes pairs, RESULT TRUTH [RESULT TRUTH ...]; found "
            f"{len(options.files)} file(s)"
        )
    for result, truth in zip(options.files[::2], options.files[1::2], strict=True):
        record = read_record(Path(result))
        if record is None:
            raise ConfigError(
                f"{result}: not a <name>_prediction.json of this version; predict the scan again"
            )
        misses += compare(record, Path(truth))
    if options.json:
        _print_json({"errors": [asdict(miss) for miss in misses]})
    else:
        sys.stdout.write(comparison_text(misses) + "\n")
    return 0


def _print_json(body: object) -> None:
    sys.stdout.write(json.dumps(body, allow_nan=False) + "\n")
