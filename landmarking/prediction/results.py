"""Files of a scan's results: written as one set, known again, and nobody else's replaced.

The record of a scan holds the SHA-256 of every file beside it. A file that is not in the record,
or is not what the record says, was made or changed by a person: no command replaces it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from landmarking.errors import ConfigError
from landmarking.files import (
    atomic_path,
    file_sha256,
    parse_json,
    temporary_neighbour,
    write_text,
)

FORMAT = 2
"""Version of the JSON record; a record of another version is made again."""

FILES = "files"
"""Key of the record under which the SHA-256 of the other files stand, by their ending."""

Record = dict[str, Any]
Writer = Callable[[Path], object]


def read_record(path: Path) -> Record | None:
    """A record of this version, or None where there is none that can be read."""
    record = any_record(path)
    return record if record is not None and record.get("format") == FORMAT else None


def any_record(path: Path) -> Record | None:
    """A record of any version of this program, or None."""
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(record, dict) and "format" in record and "scan_sha256" in record
    return record if ours else None


def changed_files(stem: Path, record_ending: str, endings: Iterable[str]) -> dict[str, str]:
    """Files at the places of results that are not as we have written them.

    Args:
        stem: Path of the results without their endings.
        record_ending: Of the record.
        endings: Of the other files.

    Returns:
        `foreign` (we have not written it) or `edited` (somebody has changed it) by ending.
    """
    record = any_record(_at(stem, record_ending))
    found = {}
    if record is None and _there(_at(stem, record_ending)):
        found[record_ending] = "foreign"
    # Records of the first version hold no digests: what lies at these places is then ours.
    known = {} if record is None else record.get(FILES)
    for ending in endings:
        path = _at(stem, ending)
        if not _there(path) or known is None:
            continue
        if ending not in known:
            found[ending] = "foreign"
        elif not path.is_file() or file_sha256(path) != known[ending]:
            found[ending] = "edited"
    return found


def refuse_changed(stem: Path, record_ending: str, endings: Iterable[str]) -> None:
    """Refuse to write results where a person's files lie.

    Args:
        stem: As for `changed_files`, likewise `record_ending` and `endings`.
        record_ending: Of the record.
        endings: Of the other files.

    Raises:
        ConfigError: If there is such a file; names the first.
    """
    for ending, how in changed_files(stem, record_ending, endings).items():
        why = {
            "foreign": "was not written by this program and is kept; move it away, or choose "
            "another -o",
            "edited": "was changed since it was written and is kept; move or rename it to have "
            "the scan done again",
        }[how]
        raise ConfigError(f"{_at(stem, ending)}: {why}")


def write_set(
    stem: Path, record_ending: str, record: Record, writers: Mapping[str, Writer]
) -> Record:
    """Write all files of a scan: beside one another first, then each into its place.

    A crash leaves no file that the record beside it does not know.

    Args:
        stem: Path of the results without their endings; folders on the way are made.
        record_ending: Of the record.
        record: What it is to hold; the digests of the files are added.
        writers: Writes a file to the path that it is given, by ending.

    Returns:
        The record, as it was written.

    Raises:
        ConfigError: If a file of somebody else lies there.
        OSError: If a file cannot be written.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    folder = temporary_neighbour(stem)
    folder.mkdir()
    try:
        parts = {ending: folder / f"part{ending}" for ending in writers}
        for ending, write in writers.items():
            write(parts[ending])
        digests = {ending: file_sha256(part) for ending, part in parts.items()}
        record = {**record, FILES: digests}
        refuse_changed(stem, record_ending, writers)
        remove_results(stem, record_ending)
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        write_text(_at(stem, record_ending), text)
        for ending, part in parts.items():
            with atomic_path(_at(stem, ending)) as temporary:
                part.replace(temporary)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return record


def remove_results(stem: Path, record_ending: str) -> None:
    """Remove the record and the files that it knows; what a person has changed stays."""
    path = _at(stem, record_ending)
    record = any_record(path)
    if record is None:
        return
    known = record.get(FILES, {})
    changed = changed_files(stem, record_ending, known)
    for ending in known.keys() - changed.keys():
        _at(stem, ending).unlink(missing_ok=True)
    path.unlink()


def _at(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}{ending}")


def _there(path: Path) -> bool:
    return path.exists() or path.is_symlink()
