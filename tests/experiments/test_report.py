"""The shell `python experiments/report.py` when something is wrong.

That it works is shown in tests/evaluation/test_report.py, where a fresh process writes the same
bytes as the library.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SHELL = PROJECT / "experiments" / "report.py"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SHELL), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs=nowhere"], "no finished run"),
        (["compare=nowhere,elsewhere"], "nowhere: no finished run"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(tmp_path, arguments, words):
    done = run(*arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ("compare=a,b", "compare=[a,b]"),
        ("compare=[a,b]", "compare=[a,b]"),
        ("compare=", "compare="),
        ("runs=a", "runs=a"),
        ("--help", "--help"),
    ],
)
def test_compare_takes_a_plain_list(typed, passed):
    spec = importlib.util.spec_from_file_location("report_shell", SHELL)
    shell = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shell)

    assert shell.as_list(typed) == passed
