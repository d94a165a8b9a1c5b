"""Measure a part of the project: `python experiments/benchmark.py NAME [key=value ...]`."""

from __future__ import annotations

import argparse
import importlib
import sys

NAMES = (
    "msp",
    "registration",
    "pipeline",
    "intensity",
    "prepare",
    "phantom",
    "train",
    "augment",
    "recipes",
    "scale",
    "confidence",
)


def main() -> None:
    """Run one benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("name", choices=NAMES, help="what to measure")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="settings of the benchmark, such as poses=30"
    )
    chosen = parser.parse_args()

    from landmarking.errors import LandmarkingError

    # Each benchmark brings its own heavy imports, which --help need not wait for.
    module = importlib.import_module(f"landmarking.benchmarks.{chosen.name}")
    try:
        text = module.run(chosen.arguments)
    except LandmarkingError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if text:
        print(text)


if __name__ == "__main__":
    main()
