"""Scans of a cohort, from their files to slices with landmarks; what worker processes do."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmarking.cohort.bids import ScanRecord
from landmarking.cohort.slices import read_slice_points, slice_geometry
from landmarking.data.cache import StageCache
from landmarking.data.landmark_checks import landmark_problem
from landmarking.data.stage_keys import STAGE_VERSIONS, TISSUES, is_cached, tissue_key
from landmarking.data.stages import StagedSlice, staged_slice, staged_tissues
from landmarking.errors import CacheError, LandmarkingError
from landmarking.geometry import Array
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.landmarks import LandmarkSet, read_landmarks
from landmarking.processes import map_processes


@dataclass(frozen=True, eq=False)
class Job:
    """One scan to prepare; what a worker process is given.

    Attributes:
        record: The scan.
        image_sha256: Digest of its bytes.
        settings: Settings of the imaging stages.
        landmarks: Landmark set.
        cache: Where results are looked up and stored.
        versions: Versions of the stages, as the process that shares out the work has them.
        tissue_sha256: Digests of the scan's tissue maps; empty where it has none.
    """

    record: ScanRecord
    image_sha256: str
    settings: PreprocessSettings
    landmarks: LandmarkSet
    cache: StageCache
    versions: Mapping[str, int]
    tissue_sha256: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """What a worker gives back: a slice with its landmarks, or the problem.

    Attributes:
        record: The scan.
        staged: The slice; None where the scan cannot be used.
        points_mm: Landmarks in world RAS mm, shape (L, 3), NaN where missing.
        problem: What is wrong with the scan or its landmarks, or None.
        tissues: Tissue maps on the slice, uint8, shape (4, H, W), or None.
    """

    record: ScanRecord
    staged: StagedSlice | None
    points_mm: Array
    problem: str | None = None
    tissues: NDArray[np.uint8] | None = None


def prepare_scan(job: Job) -> PreparedScan:
    """Prepare one scan; its problem comes back as a text, so that the others go on.

    Raises:
        CacheError: If the cache cannot be written, or a stage was changed under way: that would
            fail every scan.
    """
    if job.versions != STAGE_VERSIONS:
        raise CacheError(
            f"the imaging stages were changed under way, from versions {dict(job.versions)} to "
            f"{STAGE_VERSIONS}; start again"
        )
    record, landmarks = job.record, job.landmarks
    nowhere = np.full((len(landmarks), 3), np.nan)
    staged, tissues, problem = None, None, None
    try:
        with _quiet():
            staged = staged_slice(record.image, job.image_sha256, job.settings, job.cache)
        staged, tissues = _with_tissues(job, staged)
        if record.landmarks is None:
            return PreparedScan(record, staged, nowhere, tissues=tissues)
        points = _points_mm(record.image, record.landmarks, job)
    except CacheError:
        raise
    except LandmarkingError as error:
        return PreparedScan(record, staged, nowhere, _one_line(record, str(error)))
    problem = landmark_problem(points, landmarks, staged, job.settings)
    if problem is not None:
        problem = _one_line(record, f"{record.landmarks}: {problem}")
    return PreparedScan(record, staged, points, problem, tissues)


def _with_tissues(job: Job, staged: StagedSlice) -> tuple[StagedSlice, NDArray[np.uint8] | None]:
    """The slice with the time that its tissue maps took, and the maps."""
    files, sha256 = job.record.tissues, job.tissue_sha256
    if files is None:
        return staged, None
    cached = job.cache.has(TISSUES, tissue_key(sha256, staged.geometry))
    start = time.perf_counter()
    maps = staged_tissues(files, sha256, staged.geometry, job.cache)
    if cached:
        return staged, maps
    seconds = {**staged.seconds, TISSUES: time.perf_counter() - start}
    return replace(staged, seconds=seconds), maps


def is_finished(job: Job) -> bool:
    """Whether all that is slow lies in the cache: a finished slice, and tissue maps if any."""
    if not is_cached(job.image_sha256, job.settings, job.cache):
        return False
    if job.record.tissues is None:
        return True
    staged = staged_slice(job.record.image, job.image_sha256, job.settings, job.cache)
    return job.cache.has(TISSUES, tissue_key(job.tissue_sha256, staged.geometry))


def _points_mm(image: Path, file: Path, job: Job) -> Array:
    if image.suffix == ".png":
        points_px = read_slice_points(file, job.landmarks)
        return slice_geometry(job.settings.slice_size).to_world(points_px)
    return job.landmarks.arrange(read_landmarks(file))


@contextmanager
def _quiet() -> Iterator[None]:
    # What the stages warn of stands in qc.csv, and is listed once at the end.
    stages = logging.getLogger("landmarking.imaging")
    level = stages.level
    stages.setLevel(logging.ERROR)
    try:
        yield
    finally:
        stages.setLevel(level)


def _one_line(record: ScanRecord, message: str) -> str:
    text = " ".join(message.split())
    return text if text.startswith(record.scan_id) else f"{record.scan_id}: {text}"


def prepare_scans(jobs: Sequence[Job], workers: int, progress: bool) -> Iterator[PreparedScan]:
    """Prepare many scans, in the order in which they are done.

    Args:
        jobs: The scans.
        workers: Processes.
        progress: Whether to draw a progress bar.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("prepare"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("prepare", total=len(jobs))
        for scan in _prepared_scans(jobs, workers):
            bar.advance(task)
            yield scan


def _prepared_scans(jobs: Sequence[Job], workers: int) -> Iterator[PreparedScan]:
    # Starting processes costs seconds, reading a finished slice a millisecond.
    cached = [is_finished(job) for job in jobs]
    found = [job for job, done in zip(jobs, cached, strict=True) if done]
    yield from map_processes(prepare_scan, found, workers=1)
    missing = [job for job, done in zip(jobs, cached, strict=True) if not done]
    yield from map_processes(prepare_scan, missing, workers)
