"""One scan of a cohort, from its files to a slice with landmarks; what a worker process does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landmarking.cohort.bids import ScanRecord
from landmarking.data.cache import StageCache
from landmarking.data.landmark_checks import landmark_problem
from landmarking.data.stages import StagedSlice, staged_slice
from landmarking.errors import CacheError, LandmarkingError
from landmarking.geometry import Array
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.landmarks import LandmarkSet, read_landmarks


@dataclass(frozen=True, eq=False)
class Job:
    """One scan to prepare; what a worker process is given."""

    record: ScanRecord
    image_sha256: str
    settings: PreprocessSettings
    landmarks: LandmarkSet
    cache: StageCache


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """What a worker gives back: a slice with its landmarks, or the problem.

    Attributes:
        record: The scan.
        staged: The slice; None where the scan cannot be used.
        points_mm: Landmarks in world RAS mm, shape (L, 3), NaN where missing.
        problem: What is wrong with the scan or its landmarks, or None.
    """

    record: ScanRecord
    staged: StagedSlice | None
    points_mm: Array
    problem: str | None = None


def prepare_scan(job: Job) -> PreparedScan:
    """Prepare one scan; its problem comes back as a text, so that the others go on.

    Raises:
        CacheError: If the cache cannot be written: that would fail every scan.
    """
    record, landmarks = job.record, job.landmarks
    nowhere = np.full((len(landmarks), 3), np.nan)
    staged, problem = None, None
    try:
        staged = staged_slice(record.image, job.image_sha256, job.settings, job.cache)
        if record.landmarks is None:
            return PreparedScan(record, staged, nowhere)
        points = landmarks.arrange(read_landmarks(record.landmarks))
    except CacheError:
        raise
    except LandmarkingError as error:
        return PreparedScan(record, staged, nowhere, _one_line(record, str(error)))
    problem = landmark_problem(points, landmarks, staged, job.settings)
    if problem is not None:
        problem = _one_line(record, f"{record.landmarks}: {problem}")
    return PreparedScan(record, staged, points, problem)


def _one_line(record: ScanRecord, message: str) -> str:
    text = " ".join(message.split())
    return text if text.startswith(record.scan_id) else f"{record.scan_id}: {text}"
