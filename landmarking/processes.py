"""Work shared out to processes that use one thread each, and the memory that they keep.

glibc hands large arrays back to the kernel as soon as they are freed, and gets them back zeroed,
page by page: on a CPU up to half of a training step can go there.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import (
    get_all_start_methods,
    get_context,
    get_start_method,
    set_start_method,
)
from typing import TypeVar

from landmarking.errors import LandmarkingError

# Numbers of mallopt's parameters, from glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Tell the C library of this process to keep what is freed.

    Returns:
        Whether it did; False where the library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def peak_mib() -> float:
    """Most memory that this process has used so far, in MiB; NaN where the system does not say."""
    try:
        # The one module of POSIX alone; Windows has none of them.
        resource = importlib.import_module("resource")
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (1024.0 * 1024.0 if sys.platform == "darwin" else 1024.0)


T = TypeVar("T")
R = TypeVar("R")


class WorkerError(LandmarkingError):
    """A worker process ended before its work was done."""


def available_cores() -> int:
    """Cores that this process may run on, or that SLURM has given its task."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdigit():
        return max(1, int(given))
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_processes(function: Callable[[T], R], jobs: Sequence[T], workers: int) -> Iterator[R]:
    """Results in the order in which they are done.

    Args:
        function: A function of a module, so that other processes find it.
        jobs: Its arguments.
        workers: Processes; with one, the work is done in this process. Either way memory that a
            job frees is kept for the next one.

    Yields:
        One result a job.

    Raises:
        WorkerError: If a process dies; or the function's own error.
    """
    if workers <= 1 or len(jobs) <= 1:
        keep_freed_memory()
        for job in jobs:
            with one_thread():
                result = function(job)
            yield result
        return
    # A worker of joblib passes on its own way to start processes, which a spawned one lacks.
    if get_start_method(allow_none=True) not in (None, *get_all_start_methods()):
        set_start_method("spawn", force=True)
    # "spawn": a fork of a process that has run threads (ITK, OpenMP, torch) may hang.
    pool = ProcessPoolExecutor(
        max_workers=min(workers, len(jobs)),
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(),),
    )
    try:
        for future in as_completed([pool.submit(function, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process ended before its work was done: memory ran out, or a script calls "
            "this without `if __name__ == '__main__':`; finished work is kept, start again with "
            "fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def map_apart(function: Callable[[T], R], jobs: Sequence[T]) -> Iterator[R | None]:
    """Results in the order of the jobs, each from a process of its own; None where that died.

    Args:
        function: A function of a module, so that other processes find it.
        jobs: Its arguments.
    """
    for job in jobs:
        with ProcessPoolExecutor(
            max_workers=1,
            mp_context=get_context("spawn"),
            initializer=_start_worker,
            initargs=(os.getpid(),),
        ) as pool:
            try:
                result: R | None = pool.submit(function, job).result()
            except BrokenProcessPool:
                result = None
        yield result


@contextmanager
def one_thread() -> Iterator[None]:
    """Let linear algebra use one thread, so that one process rounds as many processes do."""
    with importlib.import_module("threadpoolctl").threadpool_limits(1):
        yield


_THREAD_VARIABLES = (
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


def _start_worker(parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    keep_freed_memory()
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = "1"
    # Libraries that were loaded before the variables were set are told by call.
    importlib.import_module("threadpoolctl").threadpool_limits(1)


def _end_with(parent: int) -> None:
    # A parent that was killed cannot say goodbye; its children then get another parent.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
