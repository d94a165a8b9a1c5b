"""Many scans: which ones, in processes, nothing twice, none lost in silence, timed by stage.

Files of a scan's results are written as one set and known again: its record holds the SHA-256 of
every file beside it. A file that is not in the record, or is not what the record says, was made or
changed by a person: no command replaces it.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from landmarking.cohort.tree import native_scans
from landmarking.errors import ConfigError, LandmarkingError, defect
from landmarking.files import (
    atomic_path,
    file_sha256,
    files_below,
    not_written,
    parse_json,
    temporary_neighbour,
    write_text,
)
from landmarking.imaging.formats import KINDS, SUFFIXES, is_dicom, scan_stem
from landmarking.processes import WorkerError, map_apart, map_processes, peak_mib

logger = logging.getLogger(__name__)


R = TypeVar("R")


@dataclass
class Clock:
    """Seconds on the clock by stage, and processor time since it was made."""

    seconds: dict[str, float] = field(default_factory=dict)
    _cpu_start: float = field(default_factory=time.process_time)

    def timed(self, stage: str, work: Callable[[], R]) -> R:
        """Do some work and add its time to a stage."""
        start = time.perf_counter()
        result = work()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        return result

    def all(self) -> dict[str, float]:
        """Seconds by stage, and processor time as `cpu`."""
        return {**self.seconds, "cpu": time.process_time() - self._cpu_start}


_DATASET = "dataset_description.json"
_T1W = "_T1w"
T1W_SUFFIXES = ("_t1w.nii.gz", "_t1w.nii")


@dataclass(frozen=True)
class Target:
    """One scan and where its results go.

    Attributes:
        scan: The file, or the folder of DICOM files.
        stem: Path of its results within the output folder, without their endings: the scan's
            place below the folder that was given, such as `sub-01/anat/sub-01_T1w`.
    """

    scan: Path
    stem: str


def find_scans(inputs: Sequence[Path], output: Path, *, bids: bool = False) -> list[Target]:
    """Scans that were named, and those in folders that were named, in order.

    In a BIDS tree (a folder with `dataset_description.json` or `sub-*/`), the scans are its
    `_T1w` files outside `derivatives`, `sourcedata` and `code`; in any other folder, every scan at
    any depth. Links are followed. Hidden files and folders, and the output folder, are left out.

    Args:
        inputs: Files and folders.
        output: Folder of the results.
        bids: Name results as BIDS derivatives; the input has to be one BIDS tree.

    Returns:
        Targets, each with a stem of its own.

    Raises:
        ConfigError: If an input does not exist, a folder has no scan, two scans would share their
            results' names, or `bids` is asked for and the input is no BIDS tree.
    """
    if bids and not (len(inputs) == 1 and is_bids(inputs[0])):
        raise ConfigError(
            "--bids takes one BIDS tree, a folder with dataset_description.json or sub-*/; found "
            f"{', '.join(map(str, inputs))}"
        )
    targets = [target for path in inputs for target in _targets(path, output)]
    if bids:
        targets = [Target(t.scan, t.stem.replace(_T1W, "")) for t in targets]
    _refuse_doubles(targets)
    return targets


def is_bids(path: Path) -> bool:
    """Whether a folder is the root of a BIDS tree."""
    return path.is_dir() and ((path / _DATASET).is_file() or any(path.glob("sub-*/")))


def _targets(path: Path, output: Path) -> list[Target]:
    if not path.is_dir():
        # A link to nowhere is a scan that is not there yet; what it is, is said beside the others.
        if not (path.exists() or path.is_symlink()):
            raise ConfigError(f"{path}: there is no such file or folder; check the path")
        return [Target(path, scan_stem(path.name))]
    scans = _bids_scans(path, output) if is_bids(path) else _scans(path, output)
    if not scans:
        what = "*_T1w.nii[.gz] files" if is_bids(path) else f"scans ({KINDS})"
        raise ConfigError(f"{path}: there are no {what} in it; give scans or their folder")
    return sorted(_named(path, scans), key=lambda target: target.stem)


def _named(root: Path, scans: Sequence[Path]) -> Iterator[Target]:
    """Scans of a folder by their place in it; those that share a stem keep their endings."""
    stems = Counter((scan.parent, scan_stem(scan.name)) for scan in scans)
    for scan in scans:
        stem = scan_stem(scan.name)
        name = stem if stems[scan.parent, stem] == 1 else scan.name
        if scan == root:
            yield Target(scan, root.resolve().name)
        else:
            yield Target(scan, (scan.parent.relative_to(root) / name).as_posix())


def _bids_scans(root: Path, output: Path) -> list[Path]:
    files = files_below(root, _is_one_of(output, root / "derivatives", *map(root.joinpath, _APART)))
    scans = [file for file in files if file.name.casefold().endswith(T1W_SUFFIXES)]
    return list(native_scans(scans, []))


_APART = ("sourcedata", "code")


def _is_one_of(*folders: Path) -> Callable[[Path], bool]:
    places = {folder.resolve() for folder in folders}
    return lambda folder: folder.resolve() in places


def _scans(root: Path, output: Path) -> list[Path]:
    """Scans at any depth; a folder of DICOM files is one, and so are the two files of a pair."""
    found: dict[Path, None] = {}
    for file in files_below(root, _is_one_of(output)):
        name = file.name.casefold()
        if name.endswith((".hdr", ".hdr.gz")):
            stem = scan_stem(file.name)
            images = [file.with_name(f"{stem}{end}") for end in (".img", ".img.gz", ".IMG")]
            found[next((image for image in images if image.exists()), file)] = None
        elif name.endswith(SUFFIXES):
            found[file] = None
        elif _may_be_dicom(file) and is_dicom(file):
            whole = file.stat().st_size > MANY_FRAMES_BYTES
            found[file if whole else file.parent] = None
    return list(found)


MANY_FRAMES_BYTES = 2**21
"""A DICOM file above this size holds a whole scan; one slice has half a MiB."""


def _may_be_dicom(file: Path) -> bool:
    known = file.suffix.casefold() in ("", ".dcm", ".ima", ".dicom")
    return known or file.name.replace(".", "").isdigit() or file.suffix[1:].isdigit()


def _refuse_doubles(targets: Sequence[Target]) -> None:
    seen: dict[str, Path] = {}
    for target in targets:
        other = seen.setdefault(target.stem, target.scan)
        if other is not target.scan:
            raise ConfigError(
                f"{other} and {target.scan} would both be written as {target.stem}; give the "
                "folder that holds both, whose sub-folders are kept, or an -o for each"
            )


Record = dict[str, Any]


class Job(Protocol):
    """One scan with what is to be done; what a worker process is given."""

    @property
    def target(self) -> Target:
        """The scan and the names of its results."""

    @property
    def output(self) -> Path:
        """Folder of the results."""


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Outcome:
    """What became of one scan.

    Attributes:
        target: The scan.
        record: What was written about it; None if it failed.
        problem: What is wrong with it, or None.
        reused: Whether it was finished before.
        left_out: Why the tree says that it is not to be used; empty where it is.
        seconds: Time on the clock by stage, and processor time of all of it as `cpu`.
        peak_mib: Most memory that its process has used so far.
    """

    target: Target
    record: Record | None = None
    problem: str | None = None
    reused: bool = False
    left_out: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_mib: float = 0.0


def run_jobs(
    jobs: Sequence[J],
    work: Callable[[J], Outcome],
    finished: Callable[[J], Record | None],
    workers: int,
    done: Callable[[Outcome], None],
) -> list[Outcome]:
    """Work on scans that are not finished.

    Args:
        jobs: The scans.
        work: What to do with one, a function of a module.
        finished: The record of one that is finished, or None.
        workers: Processes; starting one takes seconds, so there are at most as many as scans.
        done: Called with each outcome as it comes.

    Returns:
        Outcomes in the order of the jobs.

    """
    found: dict[Target, Outcome] = {}
    for outcome in _outcomes(jobs, work, finished, workers):
        found[outcome.target] = outcome
        done(outcome)
    return [found[job.target] for job in jobs]


def _outcomes(
    jobs: Sequence[J],
    work: Callable[[J], Outcome],
    finished: Callable[[J], Record | None],
    workers: int,
) -> Iterator[Outcome]:
    waiting = []
    for job in jobs:
        record = finished(job)
        if record is None:
            waiting.append(job)
        else:
            yield Outcome(job.target, record, reused=True)
    done: set[Target] = set()
    try:
        for outcome in map_processes(work, waiting, workers):
            done.add(outcome.target)
            yield outcome
    except WorkerError:
        # A scan that takes a process with it must not take the others: each gets one of its own.
        left = [job for job in waiting if job.target not in done]
        for job, found in zip(left, map_apart(work, left), strict=True):
            yield found or Outcome(
                job.target,
                problem=f"{job.target.scan}: its process ended before its work was done, most "
                "likely for lack of memory; use fewer --workers, or a coarser scan",
            )


def attempt(job: Job, make: Callable[[Clock], Record]) -> Outcome:
    """Do the work for one scan; its problem comes back as text, so that the others go on.

    Args:
        job: The scan.
        make: Writes its files and gives back the record.
    """
    clock, record, problem = Clock(), None, None
    scan, stem = job.target.scan, job.target.stem
    imaging = logging.getLogger("landmarking.imaging")
    level = imaging.level
    try:
        # What is noted of a scan stands in its record, and in the summary.
        imaging.setLevel(logging.ERROR)
        record = make(clock)
    except LandmarkingError as error:
        problem = " ".join(str(error).split())
    except MemoryError:
        problem = f"{scan}: there is too little memory for it; use fewer --workers"
    except OSError as error:
        problem = not_written(job.output / stem, error, "choose another -o")
    except Exception as error:  # a defect of ours on one scan must not cost the others
        problem = f"{scan}: {defect(error)}"
    finally:
        imaging.setLevel(level)
    if problem is not None and str(scan) not in problem:
        problem = f"{scan}: {problem}"
    return Outcome(job.target, record, problem, seconds=clock.all(), peak_mib=peak_mib())


FORMAT = 2
"""Version of the JSON record; a record of another version is made again."""

FILES = "files"
"""Key of the record under which the SHA-256 of the other files stand, by their ending."""

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
