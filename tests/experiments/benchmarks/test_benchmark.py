"""The shell of the benchmarks."""

import re
import subprocess
import sys

from landmarking.config import PROJECT

SHELL = str(PROJECT / "experiments" / "benchmark.py")


def shell(*arguments):
    command = [sys.executable, SHELL, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_lists_every_benchmark_with_its_purpose():
    done = shell("--help")
    assert done.returncode == 0
    for path in (PROJECT / "experiments" / "benchmarks").glob("*.py"):
        listed = re.search(rf"^  {path.stem} +[A-Z]", done.stdout, re.MULTILINE) is not None
        assert listed == ("__main__" in path.read_text(encoding="utf-8"))


def test_a_mistake_is_one_line_and_status_2():
    done = shell("msp", "pose=3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("did you mean msp.poses?\n")
    assert done.stderr.count("\n") == 1
