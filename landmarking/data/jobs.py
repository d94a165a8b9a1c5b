"""One scan of a cohort, from its files to a slice with landmarks; what a worker process does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landmarking.cohort.bids import ScanRecord
from landmarking.data.cache import StageCache
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
        staged: The slice; None where there is a problem.
        points_mm: Landmarks in world RAS mm, shape (L, 3), NaN where missing.
        problem: What is wrong with the scan, or None.
    """

    record: ScanRecord
    staged: StagedSlice | None
    points_mm: Array
    problem: str | None = None


def prepare_scan(job: Job) -> PreparedScan:
    """Prepare one scan; its problem comes back as a text, so that the others go on."""
    nowhere = np.full((len(job.landmarks), 3), np.nan)
    try:
        points = nowhere
        if job.record.landmarks is not None:
            points = job.landmarks.arrange(read_landmarks(job.record.landmarks))
        staged = staged_slice(job.record.image, job.image_sha256, job.settings, job.cache)
    except CacheError:
        raise
    except LandmarkingError as error:
        return PreparedScan(job.record, None, nowhere, _one_line(job.record, error))
    return PreparedScan(job.record, staged, points)


def _one_line(record: ScanRecord, error: LandmarkingError) -> str:
    text = " ".join(str(error).split())
    return text if record.scan_id in text else f"{record.scan_id}: {text}"
