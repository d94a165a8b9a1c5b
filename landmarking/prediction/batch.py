"""Many scans: in processes, nothing twice, none lost in silence."""

from __future__ import annotations

import logging
import resource
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from landmarking.errors import LandmarkingError
from landmarking.prediction.files import FCSV, MARKUPS, PICTURE, RECORD, read_record
from landmarking.prediction.inputs import Target

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One scan to predict; what a worker process is given.

    Attributes:
        target: The scan and the names of its results.
        output: Folder of the results.
        sources: The model, as `open_model` takes it.
        model_digest: What decides its positions; a result of another one is made again.
        picture: Whether to draw the picture.
        overwrite: Predict again what is finished.
    """

    target: Target
    output: Path
    sources: tuple[str, ...]
    model_digest: str
    picture: bool = True
    overwrite: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one scan.

    Attributes:
        target: The scan.
        record: The record of its prediction; None if it failed.
        problem: What is wrong with it, or None.
        reused: Whether it was finished before.
        seconds: Time on the clock by stage, and processor time of all of it as `cpu`.
        peak_mib: Most memory that its process has used so far.
    """

    target: Target
    record: dict[str, Any] | None = None
    problem: str | None = None
    reused: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_mib: float = 0.0


def predict_jobs(
    jobs: Sequence[Job], workers: int, done: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """Predict scans that are not finished.

    Args:
        jobs: The scans.
        workers: Processes; starting one takes seconds, so there are at most as many as scans.
        done: Called with each outcome as it comes.

    Returns:
        Outcomes in the order of the jobs.

    Raises:
        LandmarkingError: If a worker process dies.
    """
    found: dict[Target, Outcome] = {}
    for outcome in _outcomes(jobs, workers):
        found[outcome.target] = outcome
        if done is not None:
            done(outcome)
    return [found[job.target] for job in jobs]


def _outcomes(jobs: Sequence[Job], workers: int) -> Iterator[Outcome]:
    from landmarking.processes import map_processes

    waiting = []
    for job in jobs:
        record = finished(job)
        if record is None:
            waiting.append(job)
        else:
            yield Outcome(job.target, record, reused=True)
    yield from map_processes(predict_job, waiting, workers)


def finished(job: Job) -> dict[str, Any] | None:
    """The record of a scan whose results are there, of the same bytes and the same model.

    Args:
        job: The scan.
    """
    from landmarking.storage import file_sha256

    endings = (MARKUPS, FCSV, PICTURE) if job.picture else (MARKUPS, FCSV)
    stem = job.target.stem
    record = None if job.overwrite else read_record(job.output / f"{stem}{RECORD}")
    if record is None or not all((job.output / f"{stem}{end}").is_file() for end in endings):
        return None
    try:
        same = record["scan_sha256"] == file_sha256(job.target.scan)
    except (OSError, KeyError):
        return None
    return record if same and record["model_digest"] == job.model_digest else None


def predict_job(job: Job) -> Outcome:
    """Predict one scan and write its files; its problem comes back as text.

    Args:
        job: The scan.
    """
    from landmarking.prediction.files import write_scan_files
    from landmarking.prediction.models import open_model
    from landmarking.prediction.predictor import Clock, predict_scan

    stem, record, problem = job.target.stem, None, None
    # Old results must not pass for those of this attempt.
    (job.output / f"{stem}{RECORD}").unlink(missing_ok=True)
    model = open_model(job.sources)
    clock = Clock()
    try:
        prediction = predict_scan(job.target.scan, model)
        clock.seconds.update(prediction.seconds)
        record = clock.timed(
            "files",
            lambda: write_scan_files(prediction, job.output, stem, picture=job.picture),
        )
    except LandmarkingError as error:
        problem = " ".join(str(error).split())
    except OSError as error:
        problem = f"{job.output / stem}: cannot be written ({error.strerror or error})"
    except Exception as error:  # a defect of ours on one scan must not cost the others
        logger.error("%s", traceback.format_exc())
        problem = f"{job.target.scan}: a defect of this program ({type(error).__name__}: {error})"
    return Outcome(job.target, record, problem, seconds=clock.all(), peak_mib=_peak_mib())


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0 * 1024.0 if sys.platform == "darwin" else 1024.0)
