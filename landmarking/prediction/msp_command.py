"""What `landmarking msp` does."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from landmarking.errors import ConfigError
from landmarking.prediction.batch import Outcome, run_jobs
from landmarking.prediction.console import (
    exit_status,
    make_folder,
    outcome_json,
    print_end,
    progress_bar,
    scan_line,
    startup,
)
from landmarking.prediction.files import write_dataset
from landmarking.prediction.inputs import find_scans
from landmarking.prediction.msp_jobs import MspJob, finished, msp_job


def run(options: argparse.Namespace) -> int:
    """Find planes, write, and say what came out.

    Args:
        options: As `command.parser` gives them.

    Returns:
        The exit status: 1 if a scan failed.

    Raises:
        LandmarkingError: If nothing could be started.
    """
    if not 0.25 <= options.spacing <= 4.0:
        raise ConfigError(f"--spacing lies between 0.25 and 4 mm, found {options.spacing}")
    output = Path(options.output)
    targets = find_scans([Path(scan) for scan in options.scans], output, bids=options.bids)
    make_folder(output)
    jobs = [
        MspJob(target, output, options.spacing, not options.no_images, options.overwrite)
        for target in targets
    ]
    started = startup()
    with progress_bar(options, len(jobs)) as advance:
        outcomes = run_jobs(jobs, msp_job, finished, options.workers, advance)
    if options.bids:
        write_dataset(output)
    if options.json:
        body = {"startup": asdict(started), "scans": [outcome_json(each) for each in outcomes]}
        sys.stdout.write(json.dumps(body, allow_nan=False) + "\n")
        return exit_status(outcomes)
    lines = [] if options.quiet else [_line(outcome) for outcome in outcomes if outcome.record]
    return print_end(options, lines, outcomes, started)


def _line(outcome: Outcome) -> str:
    record = outcome.record
    assert record is not None
    x, y, z = record["plane"]["normal"]
    plane = (
        f"plane {x:.4f} R {y:+.4f} A {z:+.4f} S = {record['plane']['offset_mm']:.2f} mm, "
        f"yaw {record['yaw_deg']:.2f}, roll {record['roll_deg']:.2f} degrees, "
        f"symmetry {record['quality']['symmetry_score']:.2f}"
    )
    return scan_line(outcome, [plane, *record["flags"]])
