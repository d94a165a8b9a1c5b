"""What `landmarking info`, `calibrate` and `pack` do."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def info(options: argparse.Namespace) -> int:
    """Say what a model is.

    Args:
        options: As `command.parser` gives them.
    """
    from landmarking.prediction.card import card_page, card_text, describe
    from landmarking.prediction.models import open_model

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
        options: As `command.parser` gives them.
    """
    from landmarking.data.prepared import load_prepared
    from landmarking.prediction.scoring import calibrate_runs

    cohort = load_prepared(Path(options.on))
    path, count = calibrate_runs(Path(options.run_folder), cohort, options.groups, options.coverage)
    sys.stdout.write(f"calibrated on {count} scans: {path}\n")
    return 0


def pack(options: argparse.Namespace) -> int:
    """Pack runs into one file.

    Args:
        options: As `command.parser` gives them.
    """
    from landmarking.data.prepared import load_prepared
    from landmarking.prediction.card import card_page, card_text, describe
    from landmarking.prediction.packing import Packing
    from landmarking.prediction.packing import pack as write
    from landmarking.storage import write_text

    cohorts = [load_prepared(Path(folder)) for folder in options.evaluate]
    runs = tuple(Path(run) for run in options.runs)
    packing = Packing(runs, options.name, options.licence, options.note)
    facts = describe(write(Path(options.output), packing, cohorts))
    if options.card:
        write_text(Path(options.card), card_page(facts))
    size = Path(options.output).stat().st_size / 1e6
    sys.stdout.write(f"{card_text(facts)}\n\n{options.output}: {size:.1f} MB\n")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write a model as a graph for other programs.

    Args:
        options: As `command.parser` gives them.
    """
    from landmarking.prediction.export import export_model
    from landmarking.prediction.models import open_model

    path = Path(options.output)
    apart_mm = export_model(open_model(options.model), path)
    size = path.stat().st_size / 1e6
    sys.stdout.write(f"{path}: {size:.1f} MB, within {apart_mm:.2g} mm of torch\n")
    return 0
