"""What a reader of the project should never meet in it."""

import re
import subprocess

import pytest

from landmarking.config import PROJECT

FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.])/(work|home|root|Users)/\w"),
    "a package index": re.compile(r"--(extra-)?index" + r"-url|find" + r"-links"),
    "a left-over marker": re.compile(r"\b(TO" + r"DO|FIX" + r"ME|HA" + r"CK)\b"),
}


def tracked_text_files():
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    names = listing.stdout.decode().split("\0")
    endings = (".py", ".yaml", ".md", ".toml", ".txt", ".j2", "Makefile", "run")
    return [PROJECT / n for n in names if n.endswith(endings) and (PROJECT / n).is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_tracked_files_are_free_of(what):
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for path in tracked_text_files()
        if path.name != "test_repository.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if FORBIDDEN[what].search(line)
    ]
    assert found == []
