"""Files that exist whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file as a whole; see `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
