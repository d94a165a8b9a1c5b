"""From scans to a prepared cohort on all cores, and what `experiments/prepare.py` says about it."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from landmarking.cohort.records import Cohort, Finding, check_prepared
from landmarking.errors import CacheError, CohortError, ConfigError
from landmarking.files import file_lock, remove_leftovers
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.imaging.quality import misplaced
from landmarking.landmarks import LandmarkSet, landmark_set
from landmarking.preparation.assembly import (
    QUALITY,
    SKIPPED,
    cohort_digest,
    combined_digest,
    input_digests,
    read_skipped,
    save_cohort,
    write_mean_reference,
)
from landmarking.preparation.cache import STAGE_VERSIONS, StageCache, stage_key
from landmarking.preparation.jobs import Job, PreparedScan, prepare_scans
from landmarking.preparation.prepared import INDEX, PreparedCohort, load_prepared
from landmarking.preparation.sources import (
    CohortConfig,
    is_prepared,
    open_cohort,
    open_prepared,
    pack_prepared,
)
from landmarking.processes import available_cores

logger = logging.getLogger(__name__)


@dataclass
class LandmarksConfig:
    """Which landmarks a cohort is prepared with.

    Attributes:
        set: Name of a landmark set: `msp8`, `msp10` or `afids32`.
        only: Names to keep, in this order; None keeps all.
    """

    set: str = "msp8"
    only: list[str] | None = None

    def build(self) -> LandmarkSet:
        """The landmark set.

        Raises:
            LandmarkError: If the set or a name is unknown.
        """
        landmarks = landmark_set(self.set)
        return landmarks if self.only is None else landmarks.subset(self.only)


@dataclass(frozen=True, eq=False)
class Preparation:
    """A prepared cohort and what its making took.

    Attributes:
        prepared: The cohort.
        inputs: SHA-256 of all scan, landmark and tissue files.
        seconds: Time spent in each stage, summed over processes.
        computed: Scans that each stage was computed for; the rest came from the cache.
        wall_seconds: Time from start to end.
        reused: Whether the finished cohort was there already.
        skipped: What is wrong with what was left out, one sentence each.
        notes: What a person should know of the cohort.
    """

    prepared: PreparedCohort
    inputs: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    computed: Mapping[str, int] = field(default_factory=dict)
    wall_seconds: float = 0.0
    reused: bool = False
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def prepare_cohort(
    cohort: Cohort,
    landmarks: LandmarkSet,
    settings: PreprocessSettings,
    outputs: Path,
    *,
    workers: int | None = None,
    progress: bool = False,
) -> PreparedCohort:
    """Prepared cohort of all scans; arguments and errors as in `prepare`."""
    return prepare(
        cohort, landmarks, settings, outputs, workers=workers, progress=progress
    ).prepared


def ensure_prepared(
    config: CohortConfig,
    landmarks: LandmarkSet,
    settings: PreprocessSettings,
    outputs: Path,
    workers: int | None = None,
    *,
    progress: bool = False,
    skip_bad: bool = True,
) -> PreparedCohort:
    """The prepared cohort of a configuration: loaded where it exists, else made.

    Processes that start together wait for the one that makes it. Where the configured root is a
    prepared cohort itself (a folder, or the one file that `carry` wrote), that is opened.

    Args:
        config: Where the scans come from.
        landmarks: Landmark set.
        settings: Settings of the imaging stages.
        outputs: Folder of `cache/` and `prepared/`.
        workers: Processes; None takes all cores.
        progress: Whether to draw a progress bar.
        skip_bad: Leave out scans that cannot be used, with a warning each.

    Raises:
        CohortError: If the cohort, or without `skip_bad` any of its scans, cannot be used; all
            problems at once.
        CacheError: If `outputs` cannot be written.
    """
    root = Path(config.root)
    if is_prepared(root):
        return open_prepared(root, landmarks, settings, outputs)
    cohort = open_locked(config, outputs, workers or available_cores(), progress, skip_bad=skip_bad)
    done = prepare(
        cohort,
        landmarks,
        settings,
        outputs,
        workers=workers,
        progress=progress,
        skip_bad=skip_bad,
        allow_scaled=config.allow_scaled,
    )
    for problem in done.skipped:
        logger.warning("left out: %s", problem)
    return done.prepared


def open_locked(
    config: CohortConfig, outputs: Path, workers: int, progress: bool, *, skip_bad: bool = False
) -> Cohort:
    """Open a cohort while no other process does; see `open_cohort`.

    Args:
        config: Where the scans come from.
        outputs: Folder of `cache/`, which holds the lock.
        workers: Processes.
        progress: Whether to draw a progress bar.
        skip_bad: As for `open_cohort`.
    """
    name = stage_key("cohort", 1, config)[:12]
    with file_lock(outputs / "cache" / "locks" / f"open-{name}.lock"):
        return open_cohort(config, workers=workers, progress=progress, skip_bad=skip_bad)


def prepare(
    cohort: Cohort,
    landmarks: LandmarkSet,
    settings: PreprocessSettings,
    outputs: Path,
    *,
    workers: int | None = None,
    progress: bool = False,
    skip_bad: bool = False,
    allow_scaled: bool = False,
) -> Preparation:
    """Cut, check and store the slices of a cohort.

    Args:
        cohort: Scans with people and landmark files.
        landmarks: Landmark set.
        settings: Settings of the imaging stages.
        outputs: Folder of `cache/` (results of stages) and `prepared/` (finished cohorts).
        workers: Processes; None takes all cores.
        progress: Whether to draw a progress bar.
        skip_bad: Leave out scans that cannot be used, and list them in skipped.csv.
        allow_scaled: Read scans whose header stretches their voxels.

    Returns:
        The prepared cohort in `outputs/prepared/<name>-<digest>/`, with the times.

    Raises:
        CohortError: If any scan cannot be used (with `skip_bad`: if none can); lists all of them.
            Good ones stay cached.
        CacheError: If `outputs` cannot be written.
    """
    start = time.perf_counter()
    count = workers or available_cores()
    digests = input_digests(cohort, outputs, count)
    inputs = combined_digest(cohort, digests)
    digest = cohort_digest(cohort, landmarks, settings, digests, allow_scaled=allow_scaled)
    folder = outputs / "prepared" / f"{cohort.name}-{digest[:12]}"
    with file_lock(outputs / "cache" / "locks" / f"prepare-{digest[:12]}.lock"):
        finished = _load_finished(folder, digest)
        if finished is not None:
            skipped = read_skipped(folder)
            if skipped and not skip_bad:
                _refuse(cohort, tuple(skipped.values()), len(finished) + len(skipped))
            wall_seconds = time.perf_counter() - start
            return Preparation(
                finished,
                inputs,
                wall_seconds=wall_seconds,
                reused=True,
                skipped=(*cohort.bad, *skipped.values()),
                notes=cohort.notes,
            )
        remove_leftovers(outputs / "prepared")
        scans = _all_scans(
            cohort, landmarks, settings, outputs, digests, count, progress, allow_scaled
        )
        bad = {scan.record.scan_id: scan.problem for scan in scans if scan.problem is not None}
        good = [scan for scan in scans if scan.problem is None]
        if bad and not (skip_bad and good):
            _refuse(cohort, tuple(bad.values()), len(scans))
        prepared = save_cohort(folder, cohort, landmarks, settings, digest, good, bad)
    seconds, computed = _times(scans)
    return Preparation(
        prepared,
        inputs,
        seconds,
        computed,
        time.perf_counter() - start,
        skipped=(*cohort.bad, *bad.values()),
        notes=cohort.notes,
    )


def prepare_shard(
    cohort: Cohort,
    landmarks: LandmarkSet,
    settings: PreprocessSettings,
    outputs: Path,
    *,
    shard: int,
    shards: int,
    workers: int | None = None,
    progress: bool = False,
    skip_bad: bool = False,
    allow_scaled: bool = False,
) -> tuple[int, tuple[str, ...]]:
    """Put every n-th scan of a cohort into the cache; `prepare` then finds it there.

    Args:
        cohort: As for `prepare`, likewise `landmarks`, `settings`, `outputs` and `workers`.
        landmarks: Landmark set.
        settings: Settings of the imaging stages.
        outputs: Folder of `cache/`.
        shard: Which share, from 0.
        shards: Number of shares.
        workers: Processes.
        progress: Whether to draw a progress bar.
        skip_bad: As for `prepare`, likewise `allow_scaled`.
        allow_scaled: Read scans whose header stretches their voxels.

    Returns:
        How many scans of the share are in the cache, and what is wrong with the others.

    Raises:
        CohortError: If one of its scans cannot be used and `skip_bad` is off; lists all of them.
        CacheError: If `outputs` cannot be written.
    """
    count = workers or available_cores()
    share = replace(cohort, scans=cohort.scans[shard::shards])
    digests = input_digests(share, outputs, count)
    scans = _all_scans(share, landmarks, settings, outputs, digests, count, progress, allow_scaled)
    bad = tuple(scan.problem for scan in scans if scan.problem is not None)
    if bad and not skip_bad:
        _refuse(cohort, bad, len(scans))
    return len(scans) - len(bad), bad


def _all_scans(
    cohort: Cohort,
    landmarks: LandmarkSet,
    settings: PreprocessSettings,
    outputs: Path,
    digests: Mapping[Path, str],
    workers: int,
    progress: bool,
    allow_scaled: bool,
) -> list[PreparedScan]:
    cache, versions = StageCache(outputs / "cache"), dict(STAGE_VERSIONS)
    jobs = [
        Job(
            record,
            digests[record.image],
            settings,
            landmarks,
            cache,
            versions,
            tuple(digests[path] for path in record.tissues or ()),
            allow_scaled,
        )
        for record in cohort.scans
    ]
    return _in_order(jobs, prepare_scans(jobs, workers, progress))


def _load_finished(folder: Path, digest: str) -> PreparedCohort | None:
    if not (folder / INDEX).exists():
        return None
    try:
        prepared = load_prepared(folder, others=True)
    except CacheError as error:
        logger.warning("%s; it is made again", error)
        return None
    return prepared if prepared.digest == digest else None


def _in_order(jobs: Sequence[Job], scans: Iterator[PreparedScan]) -> list[PreparedScan]:
    by_id = {scan.record.scan_id: scan for scan in scans}
    return [by_id[job.record.scan_id] for job in jobs]


def _refuse(cohort: Cohort, problems: tuple[str, ...], count: int) -> None:
    raise CohortError(
        f"cohort {cohort.name}: {len(problems)} of {count} scans cannot be used (the others are "
        'kept in the cache; mend these, state a reason in the "exclude" column of '
        "participants.tsv, or leave them out with skip_bad=true):",
        problems,
    )


def _times(scans: Sequence[PreparedScan]) -> tuple[dict[str, float], dict[str, int]]:
    seconds: dict[str, float] = {}
    computed: dict[str, int] = {}
    for scan in scans:
        for stage, value in (scan.staged.seconds if scan.staged else {}).items():
            seconds[stage] = seconds.get(stage, 0.0) + value
            computed[stage] = computed.get(stage, 0) + 1
    return seconds, computed


@dataclass
class PrepareConfig:
    """What `experiments/prepare.py` takes.

    Attributes:
        outputs: Folder of `cache/` and `prepared/`.
        cohort: Where the scans come from.
        preprocess: Settings of the imaging stages.
        landmarks: Which landmarks.
        workers: Processes; None takes all cores.
        check_only: Whether to do and judge everything, and write no prepared cohort. What was
            computed for it stays in the cache.
        skip_bad: Leave out scans that cannot be used, list and count them, and end with status 1;
            else nothing is prepared.
        progress: Whether to draw a progress bar.
        shards: Number of shares that the scans are shared out in, to as many jobs.
        shard: Share of this job, from 0; None does all of them.
        carry: File (`*.prepared.zip`) that the prepared cohort is also written to, with 8-bit
            slices; `cohort.root=FILE` trains from it where the scans are not at hand.
        mean_reference: File (`*.npy`) that the mean histogram of the training groups' slices is
            also written to; `preprocess.histogram_reference=FILE` then matches slices to it.
    """

    outputs: str
    cohort: CohortConfig
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    landmarks: LandmarksConfig = field(default_factory=LandmarksConfig)
    workers: int | None = None
    check_only: bool = False
    skip_bad: bool = True
    progress: bool = True
    shards: int = 1
    shard: int | None = None
    carry: str | None = None
    mean_reference: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If there is no such shard.
        """
        if self.shards < 1 or not 0 <= (self.shard or 0) < self.shards:
            raise ConfigError(
                f"shard is a number from 0 to shards - 1, found shard {self.shard} of "
                f"{self.shards}; set shards too, as in shards=8 shard=0"
            )


class Summary(str):
    """What a command says to people.

    Attributes:
        status: Exit status of the command: 1 where something was left out.
    """

    status: int = 0

    @classmethod
    def of(cls, lines: Sequence[str], *, left_out: bool) -> Self:
        """The lines as one text."""
        text = cls("\n".join(lines))
        text.status = int(left_out)
        return text


def run_preparation(config: PrepareConfig) -> Summary:
    """Prepare the configured cohort, for the command line.

    Args:
        config: The whole configuration of `experiments/prepare.py`.

    Returns:
        A summary for people: counts by group, what was left out, time by stage, and where
        everything lies.

    Raises:
        CohortError: If the cohort, or without `skip_bad` any of its scans, cannot be used; all
            problems at once.
        CacheError: If a file cannot be written.
    """
    outputs, landmarks = Path(config.outputs), config.landmarks.build()
    workers = config.workers or available_cores()
    cohort = open_locked(config.cohort, outputs, workers, config.progress, skip_bad=config.skip_bad)
    if config.check_only:
        return _checked(config, cohort, landmarks, outputs, workers)
    if config.shard is not None:
        return _shard(config, cohort, landmarks, outputs, workers)
    preparation = prepare(
        cohort,
        landmarks,
        config.preprocess,
        outputs,
        workers=workers,
        progress=config.progress,
        skip_bad=config.skip_bad,
        allow_scaled=config.cohort.allow_scaled,
    )
    lines = [summary_text(preparation)]
    if config.carry is not None:
        carried = Path(config.carry)
        pack_prepared(preparation.prepared, carried)
        lines.append(f"one file:      {carried} ({carried.stat().st_size / 1e6:.1f} MB)")
    if config.mean_reference is not None:
        known = {record.scan_id for record in preparation.prepared.records}
        used = tuple(record for record in cohort.scans if record.scan_id in known)
        used_cohort = replace(cohort, scans=used)
        lines.append(_mean_reference(config, Path(config.mean_reference), used_cohort))
    return Summary.of(lines, left_out=bool(preparation.skipped))


def _shard(
    config: PrepareConfig, cohort: Cohort, landmarks: LandmarkSet, outputs: Path, workers: int
) -> Summary:
    assert config.shard is not None
    done, bad = prepare_shard(
        cohort,
        landmarks,
        config.preprocess,
        outputs,
        shard=config.shard,
        shards=config.shards,
        workers=workers,
        progress=config.progress,
        skip_bad=config.skip_bad,
        allow_scaled=config.cohort.allow_scaled,
    )
    line = (
        f"shard {config.shard} of {config.shards}: {done} of {len(cohort.scans)} scans are in "
        "the cache; when all shards are, the same command without shards ends the work"
    )
    # The command that ends the work lists what is left out, and says so by its status.
    return Summary.of([line, *_listed("left out", bad)], left_out=False)


def _mean_reference(config: PrepareConfig, path: Path, cohort: Cohort) -> str:
    groups = config.cohort.train_groups
    count = write_mean_reference(path, cohort, groups, config.preprocess, Path(config.outputs))
    return f"mean histogram: {path} ({count} slices of {', '.join(groups)})"


def _checked(
    config: PrepareConfig, cohort: Cohort, landmarks: LandmarkSet, outputs: Path, workers: int
) -> Summary:
    """What `prepare` would say of every scan, by the same work; it lies in the cache then."""
    digests = input_digests(cohort, outputs, workers)
    scans = _all_scans(
        cohort,
        landmarks,
        config.preprocess,
        outputs,
        digests,
        workers,
        config.progress,
        config.cohort.allow_scaled,
    )
    check = check_prepared(cohort, landmarks, [_finding(scan, landmarks) for scan in scans])
    if check.problems:
        raise CohortError(check.text)
    return Summary.of([check.text], left_out=False)


def _finding(scan: PreparedScan, landmarks: LandmarkSet) -> Finding:
    known = np.asarray(np.isfinite(scan.points_mm).all(axis=1))
    notes = "" if scan.staged is None else str(scan.staged.qc.get("notes", ""))
    odd = misplaced(scan.points_mm, landmarks.template_mm, landmarks.names)
    return Finding(scan.record, scan.problem, tuple(filter(None, (notes, odd))), known)


def summary_text(preparation: Preparation) -> str:
    """Counts by group, time by stage and paths, a few lines for people."""
    prepared = preparation.prepared
    counts = ", ".join(f"{group} {len(prepared.indices([group]))}" for group in prepared.groups)
    lines = [
        f"cohort {prepared.name}: {len(prepared)} slices ({counts}), "
        f"{len(prepared.landmarks)} landmarks of {prepared.landmarks.name}"
        + (", simulated" if prepared.simulated else "")
    ]
    if preparation.reused:
        lines.append(f"was prepared already; opened in {preparation.wall_seconds:.1f} s")
    else:
        what = "by stage, summed over processes:" if preparation.seconds else "all from the cache"
        lines.append(f"took {preparation.wall_seconds:.1f} s; {what}")
    lines += [
        f"  {stage:<12} {seconds:8.1f} s for {preparation.computed[stage]} scans"
        for stage, seconds in preparation.seconds.items()
    ]
    lines += _flagged_lines(prepared.folder / QUALITY)
    lines += _listed("left out", preparation.skipped)
    lines += _listed("notes", preparation.notes)
    lines.append(f"input bytes:   sha256 {preparation.inputs}")
    lines.append(f"slices:        {prepared.folder}")
    lines.append(f"quality:       {prepared.folder / QUALITY}")
    sheets = sorted(prepared.folder.glob("contact-sheet-*.png"))
    lines += [f"contact sheet: {sheet}" for sheet in sheets[:1]]
    if len(sheets) > 1:
        lines[-1] += f" to {sheets[-1].name}"
    return "\n".join(lines)


def _listed(title: str, lines: Sequence[str], most: int = 20) -> list[str]:
    if not lines:
        return []
    more = [f"  and {len(lines) - most} more in {SKIPPED}"] if len(lines) > most else []
    return [f"{title}: {len(lines)}", *(f"  - {line}" for line in lines[:most]), *more]


def _flagged_lines(path: Path, most: int = 10) -> list[str]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        flagged = [row for row in csv.DictReader(handle) if row["flagged"] == "True"]
    if not flagged:
        return ["nothing flagged"]
    lines = [f"flagged, look at them: {len(flagged)}"]
    lines += [f"  {row['scan_id']}: {row['reason']}" for row in flagged[:most]]
    return lines + (
        [f"  and {len(flagged) - most} more in {path.name}"] if len(flagged) > most else []
    )
