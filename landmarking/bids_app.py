"""The command line of a BIDS App: `landmarking-bids BIDS_DIR OUTPUT_DIR participant`.

Level `participant` predicts scans and writes derivatives; level `group` gathers them into tables
and one page. The convention: Gorgolewski et al. 2017, doi:10.1371/journal.pcbi.1005209.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from landmarking.cli import EPILOG, parser, plain_environment, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the app.

    Args:
        arguments: What was typed after `landmarking-bids`; by default that of this process.

    Returns:
        The exit status, as of `landmarking predict`.
    """
    plain_environment()
    typed = app_parser().parse_args(arguments)
    if typed.analysis_level == "group":
        return run("landmarking.bids_app:gather", typed)
    words = ["predict", typed.bids_dir, "-o", typed.output_dir, "--bids"]
    words += ["--workers", str(typed.n_cpus), *(["--model", *typed.model] if typed.model else [])]
    words += ["--acpc", typed.acpc] if typed.acpc else []
    chosen = (("--labels", typed.labels), ("--overwrite", typed.overwrite))
    words += [word for word, wanted in (*chosen, ("--quiet", typed.quiet)) if wanted]
    options = parser().parse_args(words)
    options.participants, options.sessions = typed.participant_label, typed.session_label
    return run(options.run, options)


def app_parser() -> argparse.ArgumentParser:
    """Arguments of a BIDS App, and a few of predict's."""
    app = argparse.ArgumentParser(
        prog="landmarking-bids",
        description="Landmarks on the mid-sagittal plane of every T1 scan of a BIDS data set.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    app.add_argument("bids_dir", help="root of the data set")
    app.add_argument("output_dir", help="folder of the derivatives, made if need be")
    app.add_argument(
        "analysis_level",
        choices=("participant", "group"),
        help="participant: predict scans; group: tables and page of what is predicted",
    )
    for name, text in (("participant", "these people alone"), ("session", "these sessions alone")):
        both = f"--{name}-label", f"--{name}_label"
        app.add_argument(*both, nargs="+", default=(), metavar="LABEL", help=text)
    app.add_argument("--n-cpus", "--n_cpus", "--nprocs", type=int, default=1, help="processes")
    app.add_argument("--model", nargs="+", default=(), help="as predict's --model")
    app.add_argument("--acpc", choices=("header", "resample"), help="also scans turned to AC-PC")
    app.add_argument("--labels", action="store_true", help="also label maps")
    app.add_argument("--overwrite", action="store_true", help="do finished scans again")
    app.add_argument("--quiet", action="store_true", help="print failures only")
    app.add_argument(
        "--skip-bids-validation",
        "--skip_bids_validator",
        action="store_true",
        help="taken for other apps' sake: scans are checked one by one, and bad ones listed",
    )
    from landmarking import __version__

    app.add_argument("-v", "--version", action="version", version=f"landmarking {__version__}")
    return app


GROUP_TABLE = "group_landmarks.tsv"


def gather(options: argparse.Namespace) -> int:
    """Gather what level `participant` has left: one row a scan, with what is known of the person.

    Args:
        options: `bids_dir` and `output_dir`.

    Returns:
        1 if a scan of the data set has no result and is not left out, else 0.

    Raises:
        LandmarkingError: If there are no results, or a table cannot be read.
    """
    import pandas as pd

    from landmarking.cohort.records import scans_left_out
    from landmarking.files import write_text
    from landmarking.prediction.batch import Outcome, find_scans
    from landmarking.prediction.summary import WIDE, all_records, results_state, write_table

    root, output = Path(options.bids_dir), Path(options.output_dir)
    records = all_records(output)
    left_out = scans_left_out(root)
    without = [t for t in find_scans([root], output, bids=True) if t.stem not in records]
    missing = [target for target in without if target.scan not in left_out]
    outcomes = [Outcome(t, problem=f"{t.scan}: {NO_RESULT}") for t in missing]
    outcomes += [Outcome(t, left_out=left_out[t.scan]) for t in without if t.scan in left_out]
    state = results_state(output, outcomes)
    write_table(output, records)
    wide = pd.read_csv(output / WIDE, dtype={"scan": str})
    parts = [_entities(stem) for stem in records]
    wide.insert(0, "participant_id", [each.get("sub", "") for each in parts])
    wide.insert(1, "session_id", [each.get("ses", "n/a") for each in parts])
    if (people := root / "participants.tsv").is_file():
        known = pd.read_csv(people, sep="\t", dtype=str).drop_duplicates("participant_id")
        wide = wide.merge(known, on="participant_id", how="left", suffixes=("", "_participants"))
    text = wide.to_csv(sep="\t", na_rep="n/a", index=False, lineterminator="\n")
    write_text(output / GROUP_TABLE, text)
    for key in ("scans", "flagged", "accepted", "rejected", "page"):
        sys.stdout.write(f"{key}: {state[key]}\n")
    sys.stdout.write(f"table: {output / GROUP_TABLE}\n")
    for outcome in outcomes:
        if outcome.problem:
            sys.stderr.write(f"failed: {outcome.problem}\n")
    return int(bool(missing))


NO_RESULT = "has no result; run level participant for it, which says why"


def _entities(stem: str) -> dict[str, Any]:
    """`sub-01` and `ses-1` by their keys, from the path of a scan's results."""
    found = {}
    for part in stem.split("/")[:-1]:
        key, dash, _ = part.partition("-")
        if dash:
            found[key] = part
    return found


if __name__ == "__main__":
    sys.exit(main())
