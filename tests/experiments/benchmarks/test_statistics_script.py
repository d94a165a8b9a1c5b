"""The simulations run, and their script stands in nobody's way."""

import statistics
import subprocess
import sys

import simulations
from landmarking.config import PROJECT

SCRIPT = PROJECT / "experiments" / "benchmarks" / "statistics.py"


def test_a_small_simulation_gives_every_row():
    text = simulations.run(["studies=20", "permutations=39"])
    assert text.count("| gamma (skew 1) |") == text.count("| log-normal (skew 1.75) |") == 3
    assert text.count("models, paired") == text.count("| groups |") == 3
    assert text.count("skewed (gamma)") == 4


def test_the_standard_librarys_module_of_that_name_is_still_found():
    assert statistics.median([1, 2, 9]) == 2
    code = "import statistics; print(statistics.fmean([1, 2]), statistics.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True
    )
    assert done.stdout.startswith("1.5")
    assert str(SCRIPT) not in done.stdout
