"""What worker processes do: one scan from its file to a slice with checked landmarks."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmarking.cohort.records import ScanRecord
from landmarking.cohort.slices import cut_geometry, read_slice_points
from landmarking.errors import CacheError, LandmarkingError, ScanError, defect
from landmarking.geometry import Array, apply_affine
from landmarking.imaging.pipeline import MIDSAGITTAL_COMMON, PreprocessSettings, slice_geometry
from landmarking.imaging.quality import off_plane_mm, refusal, size_ratio
from landmarking.imaging.scan import SCALED, load_scan
from landmarking.landmarks import LandmarkSet, read_landmarks
from landmarking.preparation.cache import STAGE_VERSIONS, TISSUES, StageCache, is_cached, tissue_key
from landmarking.preparation.stages import StagedSlice, staged_slice, staged_tissues
from landmarking.processes import WorkerError, map_apart, map_processes

FAR_OFF_PLANE_MM = 20.0
"""A landmark farther than this from where the template has it, across the plane, is refused."""

FAR_FROM_SIZE = 1.6
"""Landmarks that are so many times as far apart as the template's, or as near, are refused; real
people reach 0.83 and 1.1."""

_FRAME_MM = 30.0
"""Mean distance from the template's positions at which another frame is considered."""


def landmark_problem(
    points_mm: Array, landmarks: LandmarkSet, staged: StagedSlice, settings: PreprocessSettings
) -> str | None:
    """The first rule that the landmarks of a scan break, in words; None where they fit.

    Args:
        points_mm: World RAS mm, shape (L, 3), NaN where missing.
        landmarks: What they are.
        staged: The slice of their scan, with the scan's shape and affine.
        settings: What the slice was made with.
    """
    known = np.isfinite(points_mm).all(axis=1)
    if not known.any():
        return f"holds no landmark of the set {landmarks.name} ({', '.join(landmarks.names)})"
    if _looks_mirrored(points_mm, landmarks, staged, settings):
        return (
            "the points look like LPS written as RAS: with x and y turned they lie where the "
            "template has them, as given they do not; correct the file's coordinateSystem"
        )
    outside = [
        name
        for name, inside in zip(landmarks.names, _inside(points_mm, staged), strict=True)
        if not inside
    ]
    if outside:
        return (
            f"{', '.join(outside)} outside the scan's field of view; check that the points "
            "belong to this scan and that the frame is right"
        )
    ratio = size_ratio(points_mm, landmarks.template_mm)
    if not 1.0 / FAR_FROM_SIZE < ratio < FAR_FROM_SIZE and np.isfinite(ratio):
        return (
            f"the landmarks are {ratio:.2g} times as far apart as in a head; check the file's unit "
            "(coordinateUnits) and the frame"
        )
    off = off_plane_mm(staged.geometry, points_mm, landmarks.template_mm)
    worst = int(np.nanargmax(np.abs(off)))
    if abs(off[worst]) > FAR_OFF_PLANE_MM:
        return (
            f"{landmarks.names[worst]} is {abs(off[worst]):.0f} mm off the mid-sagittal plane, "
            f"{FAR_OFF_PLANE_MM:.0f} mm are allowed; check the point, or, where the contact sheet "
            "shows a wrong plane, exclude the scan"
        )
    return None


def _inside(points_mm: Array, staged: StagedSlice) -> list[bool]:
    voxels = apply_affine(np.linalg.inv(staged.scan_affine), points_mm)
    missing = np.isnan(voxels).any(axis=1)
    within = np.all((voxels >= -0.5) & (voxels <= np.array(staged.scan_shape) - 0.5), axis=1)
    return [bool(row) for row in np.asarray(within | missing)]


def _looks_mirrored(
    points_mm: Array, landmarks: LandmarkSet, staged: StagedSlice, settings: PreprocessSettings
) -> bool:
    # Compared in the slice's own frame (pixels, and mm to the left), where the registration has
    # put every head at the same place.
    template = slice_geometry(MIDSAGITTAL_COMMON, np.eye(4), settings)
    expected = apply_affine(np.linalg.inv(template.pixel_to_world), landmarks.template_mm)
    to_slice = np.linalg.inv(staged.geometry.pixel_to_world)

    def mean_distance_mm(points: Array) -> float:
        away = (apply_affine(to_slice, points) - expected) * _frame_mm(settings)
        return float(np.nanmean(np.linalg.norm(away, axis=1)))

    as_given = mean_distance_mm(points_mm)
    turned = mean_distance_mm(points_mm * np.array([-1.0, -1.0, 1.0]))
    return as_given > _FRAME_MM and turned < 0.5 * as_given


def _frame_mm(settings: PreprocessSettings) -> Array:
    return np.array([settings.spacing_mm, settings.spacing_mm, 1.0])


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
        allow_scaled: Read a scan whose header stretches its voxels.
    """

    record: ScanRecord
    image_sha256: str
    settings: PreprocessSettings
    landmarks: LandmarkSet
    cache: StageCache
    versions: Mapping[str, int]
    tissue_sha256: tuple[str, ...] = ()
    allow_scaled: bool = False


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
            staged = staged_slice(
                record.image,
                job.image_sha256,
                job.settings,
                job.cache,
                job.allow_scaled,
            )
        _judge(job, staged)
        staged, tissues = _with_tissues(job, staged)
        if record.landmarks is None:
            return PreparedScan(record, staged, nowhere, tissues=tissues)
        points = _points_mm(record.image, record.landmarks, job)
    except CacheError:
        raise
    except LandmarkingError as error:
        return PreparedScan(record, staged, nowhere, _one_line(record, str(error)))
    except MemoryError:
        why = "there is too little memory for it; use fewer workers"
        return PreparedScan(record, staged, nowhere, _one_line(record, why))
    except OSError as error:
        why = f"{error.filename or record.image}: {error.strerror or error}; mend its permissions"
        return PreparedScan(record, staged, nowhere, _one_line(record, why))
    except Exception as error:  # a defect of ours on one scan must not cost the others
        return PreparedScan(record, staged, nowhere, _one_line(record, defect(error)))
    problem = landmark_problem(points, landmarks, staged, job.settings)
    if problem is not None:
        problem = _one_line(record, f"{record.landmarks}: {problem}")
    return PreparedScan(record, staged, points, problem, tissues)


def _judge(job: Job, staged: StagedSlice) -> None:
    """Rules that prediction has as well, and one that a cached slice would get round.

    Raises:
        ScanError: If the scan is refused.
    """
    if reason := refusal(staged.qc, np.full(0, np.nan)):
        raise ScanError(f"{job.record.image}: {reason}")
    if not job.allow_scaled and SCALED in str(staged.qc.get("notes", "")):
        load_scan(job.record.image)


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
        return cut_geometry(job.settings.slice_size).to_world(points_px)
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
    done: set[str] = set()
    try:
        for scan in map_processes(prepare_scan, missing, workers):
            done.add(scan.record.scan_id)
            yield scan
    except WorkerError:
        # A scan that takes a process with it must not take the others: each gets one of its own.
        left = [job for job in missing if job.record.scan_id not in done]
        for job, result in zip(left, map_apart(prepare_scan, left), strict=True):
            yield result or _died(job)


def _died(job: Job) -> PreparedScan:
    why = (
        "its process ended before its work was done, most likely for lack of memory; use fewer "
        "workers, or a coarser scan"
    )
    nowhere = np.full((len(job.landmarks), 3), np.nan)
    return PreparedScan(job.record, None, nowhere, _one_line(job.record, why))
