"""Many scans: in processes, nothing twice, none lost in silence."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from landmarking.errors import LandmarkingError
from landmarking.prediction.clock import Clock, peak_mib
from landmarking.prediction.inputs import Target
from landmarking.storage import not_written

logger = logging.getLogger(__name__)

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
        seconds: Time on the clock by stage, and processor time of all of it as `cpu`.
        peak_mib: Most memory that its process has used so far.
    """

    target: Target
    record: Record | None = None
    problem: str | None = None
    reused: bool = False
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

    Raises:
        LandmarkingError: If a worker process dies.
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
    from landmarking.processes import map_processes

    waiting = []
    for job in jobs:
        record = finished(job)
        if record is None:
            waiting.append(job)
        else:
            yield Outcome(job.target, record, reused=True)
    yield from map_processes(work, waiting, workers)


def attempt(job: Job, make: Callable[[Clock], Record]) -> Outcome:
    """Do the work for one scan; its problem comes back as text, so that the others go on.

    Args:
        job: The scan.
        make: Writes its files and gives back the record.
    """
    clock, record, problem = Clock(), None, None
    scan, stem = job.target.scan, job.target.stem
    try:
        record = make(clock)
    except LandmarkingError as error:
        problem = " ".join(str(error).split())
    except MemoryError:
        problem = f"{scan}: there is too little memory for it; use fewer --workers"
    except OSError as error:
        problem = not_written(job.output / stem, error, "choose another -o")
    except Exception as error:  # a defect of ours on one scan must not cost the others
        logger.error("%s", traceback.format_exc())
        problem = f"{scan}: a defect of this program ({type(error).__name__}: {error})"
    if problem is not None and str(scan) not in problem:
        problem = f"{scan}: {problem}"
    return Outcome(job.target, record, problem, seconds=clock.all(), peak_mib=peak_mib())
