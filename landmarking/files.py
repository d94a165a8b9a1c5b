"""Files that exist whole or not at all, locks between processes, and checksums of finished runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from landmarking.errors import ConfigError, LandmarkingError, RunError

logger = logging.getLogger(__name__)


_TEMPORARY = ".tmp"

DAMAGED_ARCHIVE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,  # encrypted, or packed in a way that zipfile does not know
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a zip archive raises that is damaged, or lacks a member."""


def not_written(path: Path, error: OSError, way_out: str) -> str:
    """What to tell people where the system refuses to write.

    Args:
        path: File or folder.
        error: What the system says.
        way_out: What to do where space cannot be freed, as in "choose another file".
    """
    return f"{path}: cannot be written ({error.strerror or error}); free space or {way_out}"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary neighbour to write to, and rename it to `path` on success.

    The data reach the disk before the name does, so a crash leaves the old file or the new one.
    Folders on the way are made. On an error nothing is left behind and `path` is untouched.

    Args:
        path: The file to write; the neighbour keeps its suffixes, which some writers look at.

    Yields:
        Path of the temporary file.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_neighbour(path)
    try:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    # Windows flushes only what is open for writing.
    with path.open("r+b") as written:
        os.fsync(written.fileno())


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder to fill, and rename it to `path` on success.

    A folder that stands at `path` already is replaced. On an error nothing is left behind and
    `path` is untouched.

    Args:
        path: The folder to make.

    Yields:
        Path of the temporary folder, beside `path`.

    Raises:
        OSError: If the parent cannot be written or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = temporary_neighbour(path), temporary_neighbour(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _to_disk(file)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def temporary_neighbour(path: Path) -> Path:
    """A path beside another one for what is half-written; `remove_leftovers` knows its name."""
    # Host and process tell whose it is, once its owner is gone; the token keeps threads apart.
    owner = f"{socket.gethostname()}-{os.getpid()}"
    return path.with_name(f"{_TEMPORARY}-{owner}-{secrets.token_hex(4)}-{path.name}")


def remove_leftovers(folder: Path) -> int:
    """Remove temporary files and folders whose writer, on this machine, was killed.

    Args:
        folder: Searched with all that is below it.

    Returns:
        How many were removed.
    """
    prefix = f"{_TEMPORARY}-{socket.gethostname()}-"
    removed = 0
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if not name.startswith(prefix) or _is_running(name.removeprefix(prefix)):
                continue
            path = Path(parent, name)
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)
            removed += 1
    return removed


def _is_running(name: str) -> bool:
    number = name.partition("-")[0]
    if not number.isdigit() or sys.platform == "win32":
        # There signal 0 is no question but an interrupt: what is left stays.
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock that other processes and threads wait for; it falls with its process.

    Args:
        path: The lock file, made where it is missing and never removed: removing one that
            another process waits for would let two in.

    Raises:
        OSError: If the file cannot be opened for writing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=WAITS_IN_SILENCE_S, poll_interval=0.02)
    except Timeout:
        logger.warning("waiting for another process that holds %s", path)
        lock.acquire(poll_interval=0.02)
    try:
        yield
    finally:
        lock.release()


WAITS_IN_SILENCE_S = 2.0
"""Seconds of waiting for a lock that are not worth a word."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def parse_json(text: str | bytes) -> Any:
    """The plain value that a JSON text holds.

    Raises:
        ValueError: If it is no JSON, or nested more deeply than anything that we write.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file as a whole; see `atomic_path`.

    Parts of file names that are no UTF-8 are written as backslash and number.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(readable(text), encoding="utf-8")


def readable(text: str) -> str:
    """A text that can be shown and written: without what a file name holds that is no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def refuse_foreign(path: Path, is_ours: Callable[[Path], object], what: str) -> None:
    """Refuse to write over a file that is not of the kind that is to be written.

    Args:
        path: File to write.
        is_ours: False, or an error, where the file that is there is of another kind.
        what: What is to be written, for the message.

    Raises:
        ConfigError: If there is such a file.
    """
    if not path.is_file():
        return
    try:
        ours = is_ours(path) is not False
    except LandmarkingError:
        ours = False
    except DAMAGED_ARCHIVE:
        ours = False
    if not ours:
        raise ConfigError(f"{path}: is there and is no {what}; it is kept, choose another name")


def files_below(root: Path, leave_out: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """All files below a folder, also through links to folders, in order; hidden ones left out.

    Args:
        root: The folder.
        leave_out: Whether a folder, by its path, is not looked into.
    """
    seen: set[str] = set()
    for parent, folders, names in os.walk(root, followlinks=True):
        # A link may lead back to where the walk came from.
        if (place := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not leave_out(Path(parent, name))
        )
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


# Checksums that vouch for the files of a finished run.
#
# `checksums.txt` is written just before predictions.csv, in the format of `sha256sum`, so that
# `sha256sum -c checksums.txt` checks a run too. Whoever reads a file of a finished run compares it
# first: a byte that a disk has lost, or a hand has changed, never becomes a number in a table.


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
