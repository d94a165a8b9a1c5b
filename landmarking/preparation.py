"""From scans to a prepared cohort: on all cores, nothing twice, no scan lost in silence."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from landmarking.cohort.bids import Cohort
from landmarking.cohort.sources import CohortConfig, open_cohort
from landmarking.data.assembly import (
    cohort_digest,
    combined_digest,
    input_digests,
    save_cohort,
)
from landmarking.data.cache import StageCache, stage_key
from landmarking.data.carried import is_prepared, open_prepared
from landmarking.data.jobs import Job, PreparedScan, prepare_scans
from landmarking.data.prepared import PreparedCohort, load_prepared
from landmarking.data.prepared_files import INDEX
from landmarking.data.stage_keys import STAGE_VERSIONS
from landmarking.errors import CacheError, CohortError
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.landmarks import LandmarkSet, landmark_set
from landmarking.processes import available_cores
from landmarking.storage import file_lock, remove_leftovers

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
    """

    prepared: PreparedCohort
    inputs: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    computed: Mapping[str, int] = field(default_factory=dict)
    wall_seconds: float = 0.0
    reused: bool = False


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

    Raises:
        CohortError: If the cohort or any of its scans cannot be used; all problems at once.
        CacheError: If `outputs` cannot be written.
    """
    root = Path(config.root)
    if is_prepared(root):
        return open_prepared(root, landmarks, settings, outputs)
    cohort = open_locked(config, outputs, workers or available_cores(), progress)
    return prepare_cohort(cohort, landmarks, settings, outputs, workers=workers, progress=progress)


def open_locked(config: CohortConfig, outputs: Path, workers: int, progress: bool) -> Cohort:
    """Open a cohort while no other process does; see `open_cohort`.

    Args:
        config: Where the scans come from.
        outputs: Folder of `cache/`, which holds the lock.
        workers: Processes.
        progress: Whether to draw a progress bar.
    """
    name = stage_key("cohort", 1, config)[:12]
    with file_lock(outputs / "cache" / "locks" / f"open-{name}.lock"):
        return open_cohort(config, workers=workers, progress=progress)


def prepare(
    cohort: Cohort,
    landmarks: LandmarkSet,
    settings: PreprocessSettings,
    outputs: Path,
    *,
    workers: int | None = None,
    progress: bool = False,
) -> Preparation:
    """Cut, check and store the slices of a cohort.

    Args:
        cohort: Scans with people and landmark files.
        landmarks: Landmark set.
        settings: Settings of the imaging stages.
        outputs: Folder of `cache/` (results of stages) and `prepared/` (finished cohorts).
        workers: Processes; None takes all cores.
        progress: Whether to draw a progress bar.

    Returns:
        The prepared cohort in `outputs/prepared/<name>-<digest>/`, with the times.

    Raises:
        CohortError: If any scan cannot be used; lists all of them. Good ones stay cached.
        CacheError: If `outputs` cannot be written.
    """
    start = time.perf_counter()
    count = workers or available_cores()
    digests = input_digests(cohort, outputs, count)
    inputs = combined_digest(cohort, digests)
    digest = cohort_digest(cohort, landmarks, settings, digests)
    folder = outputs / "prepared" / f"{cohort.name}-{digest[:12]}"
    with file_lock(outputs / "cache" / "locks" / f"prepare-{digest[:12]}.lock"):
        finished = _load_finished(folder, digest)
        if finished is not None:
            wall_seconds = time.perf_counter() - start
            return Preparation(finished, inputs, wall_seconds=wall_seconds, reused=True)
        remove_leftovers(outputs / "prepared")
        scans = _all_scans(cohort, landmarks, settings, outputs, digests, count, progress)
        prepared = save_cohort(folder, cohort, landmarks, settings, digest, scans)
    seconds, computed = _times(scans)
    return Preparation(prepared, inputs, seconds, computed, time.perf_counter() - start)


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
) -> int:
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

    Returns:
        How many scans the share has.

    Raises:
        CohortError: If one of its scans cannot be used; lists all of them.
        CacheError: If `outputs` cannot be written.
    """
    count = workers or available_cores()
    share = replace(cohort, scans=cohort.scans[shard::shards])
    digests = input_digests(share, outputs, count)
    return len(_all_scans(share, landmarks, settings, outputs, digests, count, progress))


def _all_scans(
    cohort: Cohort,
    landmarks: LandmarkSet,
    settings: PreprocessSettings,
    outputs: Path,
    digests: Mapping[Path, str],
    workers: int,
    progress: bool,
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
        )
        for record in cohort.scans
    ]
    scans = _in_order(jobs, prepare_scans(jobs, workers, progress))
    _refuse_problems(cohort, scans)
    return scans


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


def _refuse_problems(cohort: Cohort, scans: Sequence[PreparedScan]) -> None:
    problems = tuple(scan.problem for scan in scans if scan.problem is not None)
    if problems:
        raise CohortError(
            f"cohort {cohort.name}: {len(problems)} of {len(scans)} scans cannot be used (the "
            'others are kept in the cache; mend these, or state a reason in the "exclude" column '
            "of participants.tsv):",
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
