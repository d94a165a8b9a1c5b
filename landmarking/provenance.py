"""What decided a result, written beside it: versions, commit, machine and data."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, Any]:
    """Plain values that say with what, on what and from which source a run was made.

    Returns:
        `commit` and `modified` (None outside a git checkout), `python`, `platform`, `hardware`,
        `command` and `packages`, the installed versions by name.
    """
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": commit,
        "modified": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": _hardware(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "packages": _packages(),
    }


def _hardware() -> str:
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            processor = value.strip()
            break
    return f"{os.cpu_count()} x {processor}"


def _packages() -> dict[str, str]:
    # What another process is installing at this moment may not have a name yet.
    found = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    return dict(sorted(found.items()))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed program and arguments
            ["git", *arguments],  # noqa: S607 - whichever git the user has
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
