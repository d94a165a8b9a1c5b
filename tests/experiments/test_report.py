"""The shell: `python experiments/report.py`, as a person types it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SHELL = PROJECT / "experiments" / "report.py"
GOLDEN = PROJECT / "tests" / "evaluation" / "golden"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SHELL), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_report_of_the_golden_study_from_any_directory(tmp_path):
    done = run(f"runs={GOLDEN}", "output=out", "resamples=100", "permutations=100", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "4.79 ± 3.10" in done.stdout
    assert done.stdout.splitlines()[-1] == f"page:    {Path('out') / 'index.html'}"
    assert (tmp_path / "out" / "tables" / "table1.tex").is_file()
    # The golden study keeps no slices: everything else is made all the same.
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"figure4_ds.pdf", "error_ellipses.png"} <= figures
    assert "figure6_examples.png" not in figures
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs=nowhere"], "no finished run"),
        ([], "give either runs=DIR or compare=DIR,DIR"),
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
