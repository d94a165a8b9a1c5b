"""Results of the imaging stages on disk, and the keys that say what decides them.

A key is the SHA-256 of the stage, its version, the scan's bytes (or the key of the
stage before) and the stage's own settings; a setting that changes therefore moves only the keys
that depend on it. An entry is a JSON file, with a NumPy file beside it where the stage makes an
image. The JSON is written last, holds the checksums of both, and so vouches for the whole entry:
what was cut short or altered is not found, and is made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmarking.errors import CacheError
from landmarking.files import atomic_path, file_lock, file_sha256, parse_json, write_text
from landmarking.geometry import SliceGeometry
from landmarking.imaging.pipeline import PreprocessSettings

logger = logging.getLogger(__name__)


def canonical_json(value: Any) -> str:
    """One text for one meaning: keys sorted, no spaces, dataclasses as mappings.

    Args:
        value: Plain JSON values, tuples, paths and dataclasses, nested at will.

    Raises:
        TypeError: If something else is inside.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no canonical form")


def stage_key(stage: str, version: int | str, *inputs: Any) -> str:
    """Key of one result.

    Args:
        stage: Name of the stage.
        version: Version of the stage.
        inputs: Everything else that decides the result: digests of bytes, keys of the stages
            before, settings.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(canonical_json([stage, version, *inputs]).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Entry:
    """What a stage made.

    Attributes:
        values: Plain JSON values.
        image: Array of any shape, or None where the stage makes none.
    """

    values: Mapping[str, Any]
    image: NDArray[Any] | None = None


@dataclass(frozen=True)
class StageCache:
    """Entries under one folder: `<root>/<stage>/<first two digits>/<key>.json` and `.npy`.

    Any number of processes may read and write it together: files appear whole, and two that make
    the same entry write the same bytes.
    """

    root: Path

    def get(self, stage: str, key: str) -> Entry | None:
        """The entry, or None where there is none or where it is damaged (which is logged)."""
        path = self._path(stage, key)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            logger.warning("%s cannot be read (%s); it is made again", path, error)
            return None
        try:
            return _read_entry(text, path.with_suffix(".npy"), key)
        except CacheError as error:
            logger.warning("%s: %s; it is made again", path, error)
            return None

    def has(self, stage: str, key: str) -> bool:
        """Whether there is an entry, whole or damaged."""
        return self._path(stage, key).exists()

    def put(self, stage: str, key: str, entry: Entry) -> None:
        """Store an entry, in place of an older one.

        Raises:
            CacheError: If the folder cannot be written or the disk is full.
        """
        path = self._path(stage, key)
        image_sha256 = None
        try:
            if entry.image is not None:
                data = _npy_bytes(entry.image)
                image_sha256 = hashlib.sha256(data).hexdigest()
                with atomic_path(path.with_suffix(".npy")) as temporary:
                    temporary.write_bytes(data)
            values = canonical_json(entry.values)
            head = {"image_sha256": image_sha256, "key": key, "values_sha256": _sha256(values)}
            write_text(path, f"{canonical_json(head)}\n{values}\n")
        except OSError as error:
            raise CacheError(
                f"{path}: the cache cannot be written ({error}); free space or choose another "
                "outputs folder, then start again: finished scans are kept"
            ) from error

    def _path(self, stage: str, key: str) -> Path:
        return self.root / stage / key[:2] / f"{key}.json"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _npy_bytes(image: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, image, allow_pickle=False)
    return buffer.getvalue()


def _read_entry(text: str, image_path: Path, key: str) -> Entry:
    first, _, values = text.partition("\n")
    values = values.removesuffix("\n")
    try:
        head = parse_json(first)
        image_sha256, values_sha256 = head["image_sha256"], head["values_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CacheError("the entry has no readable head") from error
    # Entries of earlier versions do not name their key.
    if not set(head) <= {"image_sha256", "key", "values_sha256"} or head.get("key", key) != key:
        raise CacheError(f"the entry's head belongs to another entry: {first}")
    if _sha256(values) != values_sha256:
        raise CacheError("the entry's values do not have its checksum")
    if image_sha256 is None:
        return Entry(parse_json(values))
    try:
        data = image_path.read_bytes()
    except OSError as error:
        raise CacheError(f"the entry's image cannot be read ({error})") from error
    if hashlib.sha256(data).hexdigest() != image_sha256:
        raise CacheError("the entry's image does not have its checksum")
    return Entry(parse_json(values), np.load(io.BytesIO(data), allow_pickle=False))


@dataclass
class FileDigests:
    """SHA-256 of files, remembered as long as size, times and inode of a file stay the same.

    Attributes:
        path: JSON file that the digests are remembered in.
    """

    path: Path
    _known: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what is remembered; an unreadable or damaged memory is an empty one."""
        self._known = self._read()

    def _read(self) -> dict[str, list[Any]]:
        try:
            memory = parse_json(self.path.read_text(encoding="utf-8"))
            if memory["sha256"] != _sha256(canonical_json(memory["files"])):
                raise ValueError("it does not have its checksum")
            return dict(memory["files"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be read (%s); files are hashed again", self.path, error)
            return {}

    def digests(self, files: Iterable[Path], workers: int = 1) -> dict[Path, str]:
        """SHA-256 by file; files that are new or changed are read, with `workers` threads.

        A file that cannot be read has the digest `UNREAD`; what is wrong with it is said where the
        scan is read, beside the other scans.

        Raises:
            CacheError: If the memory cannot be written.
        """
        paths = list(dict.fromkeys(files))
        signatures = {path: _signature(path) for path in paths}
        stale = [
            path
            for path, signature in signatures.items()
            if signature is not None and self._remembered(path, signature) is None
        ]
        unread = {path for path, signature in signatures.items() if signature is None}
        fresh = {}
        if stale:
            with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
                for path, digest in zip(stale, pool.map(_digest, stale), strict=True):
                    signature = signatures[path]
                    if digest is None or signature is None:
                        unread.add(path)
                    else:
                        fresh[str(path)] = [*signature, digest]
        if fresh:
            self._known.update(fresh)
            self._remember(fresh)
        return {
            path: UNREAD if path in unread else str(self._known[str(path)][-1]) for path in paths
        }

    def _remember(self, fresh: Mapping[str, list[Any]]) -> None:
        # Shards of one cohort hash its files between them, each its own.
        try:
            with file_lock(self.path.with_suffix(".lock")):
                self._known = {**self._known, **self._read(), **fresh}
                known = canonical_json(self._known)
                write_text(self.path, json.dumps({"files": self._known, "sha256": _sha256(known)}))
        except OSError as error:
            raise CacheError(
                f"{self.path}: the cache cannot be written ({error}); free space, mend the "
                "folder's permissions or choose another outputs folder"
            ) from error

    def _remembered(self, path: Path, signature: list[int]) -> str | None:
        row = self._known.get(str(path))
        return str(row[-1]) if row is not None and row[:-1] == signature else None


UNREAD = "unread"
"""Digest of a file that cannot be read."""


def _digest(path: Path) -> str | None:
    try:
        return file_sha256(path)
    except OSError:
        return None


def _signature(path: Path) -> list[int] | None:
    # The change time moves with every write, even where a tool sets the modification time back.
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


# Cache keys of the imaging stages.
#
# A stage's key holds the key of the stage before, the stage's version and those of its settings
# that are not as in `BASELINE`, and no others; so a new crop keeps registration and plane, a new
# histogram reference keeps the raw slice, and a setting that is new keeps everything while it has
# its default. Nothing in a key comes from the text of the code or from where files lie.


STAGES = ("read", "registration", "plane", "slice", "intensity")
"""Stages in order, as times and counts name them; `read` is not cached."""

TISSUES = "tissues"
"""Stage of the tissue maps, beside the others: cohorts without maps do without it."""

# Whoever changes what a stage computes or stores raises its number by one, in the same commit, and
# renews the table of tests/preparation/test_stage_versions.py, which fails when that was forgotten.
# The stages after it follow by themselves. Renaming, moving, reformatting or speeding up code that
# gives the same numbers raises nothing: what people have prepared stays good.
STAGE_VERSIONS: dict[str, int] = {
    "registration": 1,
    "plane": 1,
    "slice": 1,
    "intensity": 1,
    TISSUES: 1,
}
"""Version of every cached stage."""

STAGE_SETTINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "registration": ("registration",),
        "plane": ("midsagittal",),
        "slice": ("slice_size", "crop", "spacing_mm"),
        "intensity": ("histogram_reference", "intensity"),
    }
)
"""The settings that each stage reads."""

# Not the defaults, though they were these at first: a setting that is as written here is left out
# of keys. A new setting is added with its first default; what stands here never changes, even where
# a default does.
BASELINE: Mapping[str, Any] = MappingProxyType(
    {
        "registration": "rigid",
        "slice_size": 256,
        "crop": [50, 200],
        "spacing_mm": 1.0,
        "intensity": "matched",
        "histogram_reference": "template",
        "midsagittal": {
            "search": "fast",
            "pairs": 40_000,
            "radius_mm": 75.0,
            "edge_mm": 20.0,
            "near_mm": 30.0,
            "robustness": 0.5,
            "flatten_mm": 30.0,
        },
    }
)
"""Value of every setting that a key does not state."""


def key_settings(settings: PreprocessSettings) -> dict[str, Any]:
    """Settings that decide a prepared slice; normalisation happens later, batch by batch."""
    values: dict[str, Any] = json.loads(canonical_json(asdict(settings)))
    del values["normalisation"]
    return values


def decisive_settings(settings: PreprocessSettings) -> dict[str, Any]:
    """What is not as in `BASELINE`, a histogram reference by its content."""
    baseline = _baseline(settings)
    own = _difference(_filled(key_settings(settings), baseline), baseline)
    if "histogram_reference" in own:
        own["histogram_reference"] = reference_identity(settings.histogram_reference)
    return own


def differing_settings(
    made: Mapping[str, Any], wanted: PreprocessSettings
) -> dict[str, tuple[Any, Any]]:
    """Settings in which slices are not as wanted, the histogram reference left aside.

    Args:
        made: What the slices were made with, as plain values; a setting that is not there did not
            exist yet, and has its value of `BASELINE`.
        wanted: Settings to compare with.

    Returns:
        Value made with and value wanted, by key.
    """
    baseline = _baseline(wanted)
    before, after = _filled(made, baseline), _filled(key_settings(wanted), baseline)
    keys = [key for key in after if key != "histogram_reference" and before[key] != after[key]]
    return {key: (before[key], after[key]) for key in keys}


def _baseline(settings: PreprocessSettings) -> dict[str, Any]:
    # A setting that is not written yet has its default; a test sees to it that it is written.
    return _filled(BASELINE, key_settings(type(settings)()))


def _filled(values: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Values, and those of the baseline where there are none."""
    filled = dict(baseline)
    for key, value in values.items():
        known = baseline.get(key)
        nested = isinstance(value, Mapping) and isinstance(known, Mapping)
        filled[key] = _filled(value, known or {}) if nested else value
    return filled


def _difference(values: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Values that are not those of the baseline, which has all keys."""
    return {
        key: _difference(value, baseline[key]) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value != baseline[key]
    }


def stage_keys(image_sha256: str, settings: PreprocessSettings) -> dict[str, str]:
    """Cache keys of one scan by stage.

    Args:
        image_sha256: Digest of the scan's bytes.
        settings: Settings of all stages.
    """
    decisive = decisive_settings(settings)
    keys: dict[str, str] = {}
    before = image_sha256
    for stage, names in STAGE_SETTINGS.items():
        own = {name: decisive[name] for name in names if name in decisive}
        before = keys[stage] = stage_key(stage, STAGE_VERSIONS[stage], before, own)
    return keys


def reference_identity(reference: str) -> str:
    """What a histogram reference is: the digest of the file, or its name where it is none."""
    path = Path(reference)
    return file_sha256(path) if path.is_file() else reference


def is_cached(image_sha256: str, settings: PreprocessSettings, cache: StageCache) -> bool:
    """Whether the finished slice of a scan lies in the cache (its checksum is not looked at)."""
    return cache.has("intensity", stage_keys(image_sha256, settings)["intensity"])


def tissue_key(sha256: Sequence[str], geometry: SliceGeometry) -> str:
    """Cache key of a slice's tissue maps, which hang on the slice's place and not on its making.

    Args:
        sha256: Digests of the maps' files.
        geometry: Where the slice lies.
    """
    return stage_key(TISSUES, STAGE_VERSIONS[TISSUES], list(sha256), geometry.to_dict())
