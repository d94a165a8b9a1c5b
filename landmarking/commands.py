"""What `landmarking` does: predict, compare, msp, info, calibrate, pack and export."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from landmarking.cli import STARTED
from landmarking.cohort.records import scans_left_out
from landmarking.errors import ConfigError
from landmarking.files import not_written, remove_leftovers
from landmarking.landmarks import is_prediction, read_landmarks
from landmarking.prediction.batch import Outcome, Target, find_scans, read_record, run_jobs
from landmarking.prediction.msp import MspJob, msp_finished, msp_job
from landmarking.prediction.outputs import MOVED, PredictJob, finished, predict_job
from landmarking.prediction.scoring import Miss, compare, comparison_text
from landmarking.prediction.summary import (
    PAGE,
    STALE,
    TABLE,
    all_records,
    check_dataset,
    check_table,
    stale,
    write_dataset,
    write_review,
    write_table,
)


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
    """How many scans were done, skipped, failed, left out and flagged."""
    failed = sum(outcome.problem is not None for outcome in outcomes)
    reused = sum(outcome.reused for outcome in outcomes)
    out = sum(bool(outcome.left_out) for outcome in outcomes)
    flagged = sum(_is_flagged(outcome) for outcome in outcomes)
    done = len(outcomes) - failed - reused - out
    rest = f", {out} left out" if out else ""
    rest += f"; {flagged} flagged" if flagged else ""
    return f"{done} done, {reused} finished before, {failed} failed{rest}"


def _is_flagged(outcome: Outcome) -> bool:
    record = outcome.record or {}
    marks = any(mark["flags"] for mark in record.get("landmarks", ()))
    return bool(record.get("flags")) or marks


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


def run_predict(options: argparse.Namespace) -> int:
    """Predict, write, and say what came out.

    Args:
        options: As `cli.parser` gives them.

    Returns:
        The exit status: 1 if a scan failed.

    Raises:
        LandmarkingError: If nothing could be started.
    """
    output = Path(options.output)
    targets, left_out = find_targets(options, output)
    if options.truth and len(options.truth) != len(targets):
        raise ConfigError(
            f"--truth takes one file a scan, in the same order; found {len(options.truth)} for "
            f"{len(targets)} scans"
        )
    for file in options.truth:
        # Before an hour of work, not after it.
        read_landmarks(Path(file))
    _say_predictions(options.truth)
    jobs = _jobs(options, targets, output)
    started = startup()
    with progress_bar(options, len(jobs)) as advance:
        outcomes = run_jobs(jobs, predict_job, finished, options.workers, advance)
    outcomes += left_out
    table, page, old = _write_summary(options, output, outcomes)
    misses = [
        miss
        for file, outcome in zip(options.truth, outcomes, strict=False)
        if outcome.record is not None
        for miss in compare(outcome.record, Path(file))
    ]
    if options.json:
        body = {"table": str(table), "page": page, "stale": old, "startup": asdict(started)}
        scans = [outcome_json(outcome) for outcome in outcomes]
        errors = {"errors": [asdict(miss) for miss in misses]} if options.truth else {}
        _print_json({**body, "scans": scans, **errors})
        return exit_status(outcomes)
    lines = (
        [] if options.quiet else [_predict_line(outcome) for outcome in outcomes if outcome.record]
    )
    lines += ["", comparison_text(misses), ""] if misses else []
    lines += [] if options.quiet else [f"table: {table}", f"page:  {page}"]
    if old:
        names = ", ".join(old[:3]) + (", ..." if len(old) > 3 else "")
        lines.append(f"note: {len(old)} scan(s) in {output} {STALE} ({names})")
    return print_end(options, lines, outcomes, started)


def find_targets(options: argparse.Namespace, output: Path) -> tuple[list[Target], list[Outcome]]:
    """Scans that were named, and those that a BIDS tree's own tables leave out.

    Args:
        options: `scans`, `bids`, and where there are such `participants` and `sessions`.
        output: Folder of the results.

    Raises:
        ConfigError: If there is no scan, or none of a participant or session that was named.
    """
    targets = find_scans([Path(scan) for scan in options.scans], output, bids=options.bids)
    if not options.bids:
        return targets, []
    for prefix, words in (("sub-", options.participants), ("ses-", options.sessions)):
        names = [f"{prefix}{word.removeprefix(prefix)}" for word in words]
        parts = {part for t in targets for part in t.stem.split("/") if part.startswith(prefix)}
        if missing := [name for name in names if name not in parts]:
            raise ConfigError(
                f"{options.scans[0]}: there is no scan of {', '.join(missing)}; it has "
                f"{', '.join(sorted(parts)) or 'none of that kind'}"
            )
        targets = [t for t in targets if not names or set(names) & set(t.stem.split("/"))]
    left_out = scans_left_out(Path(options.scans[0]))
    return (
        [target for target in targets if target.scan not in left_out],
        [Outcome(t, left_out=left_out[t.scan]) for t in targets if t.scan in left_out],
    )


def _say_predictions(files: Sequence[str]) -> None:
    """Say of truth that a model has written it; whoever names it may want to compare models."""
    for file in files:
        if is_prediction(Path(file)):
            sys.stderr.write(
                f"note: {file} was written by a model, so what is printed is no error\n"
            )


def _jobs(options: argparse.Namespace, targets: Sequence[Target], output: Path) -> list[PredictJob]:
    from landmarking.prediction.package import open_model

    model = open_model(options.model)
    if options.acpc and (missing := {"AC", "PC"} - set(model.landmarks.names)):
        raise ConfigError(
            f"--acpc needs a model that finds AC and PC; {model.name} lacks "
            f"{' and '.join(sorted(missing))}"
        )
    if options.bids:
        check_dataset(output)
    check_table(output)
    make_folder(output)
    return [
        PredictJob(
            target=target,
            output=output,
            sources=tuple(options.model),
            made_with=model.made_with,
            picture=not options.no_picture,
            overwrite=options.overwrite,
            allow_scaled=options.allow_scaled,
            acpc=options.acpc,
            labels=options.labels,
            bids=model.landmarks.name if options.bids else "",
        )
        for target in targets
    ]


def _write_summary(
    options: argparse.Namespace, output: Path, outcomes: Sequence[Outcome]
) -> tuple[Path, str, list[str]]:
    """Write the tables and the page; the table's path, what to say of the page, what is stale."""
    from landmarking.prediction.package import open_model

    model = open_model(options.model)
    try:
        if options.bids:
            write_dataset(output)
        records = all_records(output)
        table = write_table(output, records)
        old = stale(records, model.made_with)
        page = write_review(output, records, outcomes, model.name, old)
    except OSError as error:
        again = "choose another -o, then start again: finished scans are skipped"
        raise ConfigError(not_written(output / TABLE, error, again)) from error
    return table, str(page) if page else f"{output / PAGE} is somebody else's, and kept", old


def _predict_line(outcome: Outcome) -> str:
    assert outcome.record is not None
    moved = outcome.record.get(MOVED, ())
    flagged = [
        row["name"]
        for row in outcome.record["landmarks"]
        if row["flags"] and row["name"] not in moved
    ]
    look = [f"look at {', '.join(flagged)}"] if flagged else []
    if moved:
        look.append(f"{', '.join(moved)} moved by hand, kept")
    return scan_line(outcome, [*outcome.record["flags"], *look])


def run_compare(options: argparse.Namespace) -> int:
    """Compare one result with truth.

    Args:
        options: As `cli.parser` gives them.

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
    _say_predictions(options.files[1::2])
    if options.json:
        _print_json({"errors": [asdict(miss) for miss in misses]})
    else:
        sys.stdout.write(comparison_text(misses) + "\n")
    return 0


def run_morphometry(options: argparse.Namespace) -> int:
    """Measure people, compare groups and raters, and write what came out.

    Args:
        options: As `cli.parser` gives them.

    Raises:
        LandmarkingError: If a file cannot be read, or there is nothing to compare.
    """
    from landmarking.shape.morphometry import write

    text = write(
        [Path(file) for file in options.files],
        Path(options.output),
        truth=[Path(file) for file in options.truth],
        participants=Path(options.participants) if options.participants else None,
        by=options.by,
        covariate=options.covariate,
    )
    sys.stdout.write(text + "\n")
    return 0


def _print_json(body: object) -> None:
    sys.stdout.write(json.dumps(body, allow_nan=False) + "\n")


def run_msp(options: argparse.Namespace) -> int:
    """Find planes, write, and say what came out.

    Args:
        options: As `cli.parser` gives them.

    Returns:
        The exit status: 1 if a scan failed.

    Raises:
        LandmarkingError: If nothing could be started.
    """
    if not 0.25 <= options.spacing <= 4.0:
        raise ConfigError(f"--spacing lies between 0.25 and 4 mm, found {options.spacing}")
    output = Path(options.output)
    targets, left_out = find_targets(options, output)
    if options.bids:
        check_dataset(output)
    make_folder(output)
    jobs = [
        MspJob(
            target,
            output,
            options.spacing,
            not options.no_images,
            options.overwrite,
            options.allow_scaled,
        )
        for target in targets
    ]
    started = startup()
    with progress_bar(options, len(jobs)) as advance:
        outcomes = run_jobs(jobs, msp_job, msp_finished, options.workers, advance) + left_out
    if options.bids:
        write_dataset(output)
    if options.json:
        body = {"startup": asdict(started), "scans": [outcome_json(each) for each in outcomes]}
        sys.stdout.write(json.dumps(body, allow_nan=False) + "\n")
        return exit_status(outcomes)
    lines = [] if options.quiet else [_msp_line(outcome) for outcome in outcomes if outcome.record]
    return print_end(options, lines, outcomes, started)


def _msp_line(outcome: Outcome) -> str:
    record = outcome.record
    assert record is not None
    x, y, z = record["plane"]["normal"]
    plane = (
        f"plane {x:.4f} R {y:+.4f} A {z:+.4f} S = {record['plane']['offset_mm']:.2f} mm, "
        f"yaw {record['yaw_deg']:.2f}, roll {record['roll_deg']:.2f} degrees, "
        f"symmetry {record['quality']['symmetry_score']:.2f}"
    )
    return scan_line(outcome, [plane, *record["flags"]])


def info(options: argparse.Namespace) -> int:
    """Say what a model is.

    Args:
        options: As `cli.parser` gives them.
    """
    from landmarking.prediction.package import open_model
    from landmarking.prediction.packing import card_page, card_text, describe

    facts = describe(open_model(options.model))
    if options.json:
        text = json.dumps(facts, allow_nan=False) + "\n"
    else:
        text = card_page(facts) if options.markdown else card_text(facts) + "\n"
    sys.stdout.write(text)
    return 0


def calibrate(options: argparse.Namespace) -> int:
    """Find confidence radii for a run or study.

    Args:
        options: As `cli.parser` gives them.
    """
    from landmarking.prediction.scoring import calibrate_runs
    from landmarking.preparation.prepared import load_prepared

    cohort = load_prepared(Path(options.on))
    path, count = calibrate_runs(
        Path(options.run_folder),
        cohort,
        options.groups,
        options.coverage,
        folds=Path(options.folds) if options.folds else None,
        shifts=options.shifts,
    )
    sys.stdout.write(f"calibrated on {count} scans: {path}\n")
    return 0


def pack(options: argparse.Namespace) -> int:
    """Pack runs into one file.

    Args:
        options: As `cli.parser` gives them.
    """
    from landmarking.files import refuse_foreign, write_text
    from landmarking.prediction.package import read_package
    from landmarking.prediction.packing import Packing, card_page, card_text, describe
    from landmarking.prediction.packing import pack as write
    from landmarking.preparation.prepared import load_prepared

    refuse_foreign(Path(options.output), read_package, "packed model")
    if options.card:
        refuse_foreign(Path(options.card), _is_card, "model card")
    cohorts = [load_prepared(Path(folder)) for folder in options.evaluate]
    runs = tuple(Path(run) for run in options.runs)
    packing = Packing(runs, options.name, options.licence, options.note)
    facts = describe(write(Path(options.output), packing, cohorts))
    if options.card:
        write_text(Path(options.card), card_page(facts))
    size = Path(options.output).stat().st_size / 1e6
    sys.stdout.write(f"{card_text(facts)}\n\n{options.output}: {size:.1f} MB\n")
    return 0


def _is_card(path: Path) -> bool:
    return path.read_text(encoding="utf-8").startswith("# Model card: ")


def export(options: argparse.Namespace) -> int:
    """Write a model as a graph for other programs.

    Args:
        options: As `cli.parser` gives them.
    """
    from landmarking.files import refuse_foreign
    from landmarking.prediction.export import export_model
    from landmarking.prediction.package import open_model

    path = Path(options.output)
    refuse_foreign(path, lambda _: path.with_suffix(f"{path.suffix}.json").is_file(), "export")
    apart_mm = export_model(open_model(options.model), path)
    size = path.stat().st_size / 1e6
    sys.stdout.write(f"{path}: {size:.1f} MB, within {apart_mm:.2g} mm of torch\n")
    return 0
