"""Checksums that vouch for the files of a finished run.

`checksums.txt` is written just before predictions.csv, in the format of `sha256sum`, so that
`sha256sum -c checksums.txt` checks a run too. Whoever reads a file of a finished run compares it
first: a byte that a disk has lost, or a hand has changed, never becomes a number in a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from landmarking.errors import RunError
from landmarking.storage import file_sha256, write_text

CHECKSUMS = "checksums.txt"

_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def seal(folder: Path, files: Mapping[str, Path]) -> None:
    """Write the checksums of a run.

    Args:
        folder: The run's folder.
        files: Where each file is now, by the relative path under which it will lie in the folder.

    Raises:
        OSError: If a file cannot be read or the folder not be written.
    """
    lines = [f"{file_sha256(path)}  {name}" for name, path in sorted(files.items())]
    write_text(folder / CHECKSUMS, "\n".join(lines) + "\n")


def check_sealed(folder: Path, *names: str) -> None:
    """Compare files of a run with their checksums; a run or a file without any is taken as it is.

    Args:
        folder: The run's folder.
        names: Relative paths of the files that are going to be read.

    Raises:
        RunError: If a file differs or is gone, or the checksums cannot be read.
    """
    known = _read(folder / CHECKSUMS)
    for name in names:
        if name in known:
            _compare(folder / name, known[name])


def _compare(path: Path, expected: str) -> None:
    ways_out = "restore it from a copy, or train the run again with overwrite=true"
    try:
        found = file_sha256(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); {ways_out}") from error
    if found != expected:
        raise RunError(
            f"{path}: is not what its run has written (its SHA-256 differs from {CHECKSUMS}); "
            f"{ways_out}"
        )


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); {_WAYS_OUT}") from error
    found = [_LINE.fullmatch(line) for line in lines]
    if not lines or None in found:
        raise RunError(f"{path}: is no list of SHA-256 checksums; {_WAYS_OUT}")
    return {match[2]: match[1] for match in found if match}


_WAYS_OUT = "remove it if you trust the run's other files, or restore it from a copy"
