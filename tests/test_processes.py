from __future__ import annotations

import operator
import os
import subprocess
import sys

import pytest

from landmarking.errors import LandmarkingError
from landmarking.processes import available_cores, map_processes, one_thread


def test_one_worker_works_in_this_process_and_lazily():
    results = map_processes(lambda number: (number, os.getpid()), [1, 2, 3], 1)
    assert next(results) == (1, os.getpid())
    assert list(results) == [(2, os.getpid()), (3, os.getpid())]


def test_workers_give_every_result_once():
    results = map_processes(operator.neg, range(20), 2)
    assert sorted(results) == sorted(-number for number in range(20))


def test_an_error_of_the_function_is_raised_here():
    with pytest.raises(TypeError, match="bad operand"):
        list(map_processes(operator.neg, [1, "2"], 2))


def test_a_worker_that_dies_is_said_in_words():
    with pytest.raises(LandmarkingError, match="start again with fewer workers"):
        list(map_processes(os._exit, [1, 1], 2))


def test_one_thread_limits_linear_algebra_and_gives_it_back():
    import numpy  # noqa: F401 - loads the library that is looked at
    import threadpoolctl

    before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    with one_thread():
        assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} <= {1}
    assert [pool["num_threads"] for pool in threadpoolctl.threadpool_info()] == before


def test_available_cores_are_at_least_one():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


IN_JOBLIB = """
import operator
from joblib import Parallel, delayed
from landmarking.processes import map_processes

def shared(start):
    return sorted(map_processes(operator.neg, [start, start + 1], 2))

if __name__ == "__main__":
    print(Parallel(n_jobs=2)(delayed(shared)(start) for start in (1, 5)))
"""


def test_a_worker_of_joblib_has_workers_of_its_own(tmp_path):
    (tmp_path / "script.py").write_text(IN_JOBLIB)
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[[-2, -1], [-6, -5]]\n", done.stderr


# Freed memory stays with the process: a second large array brings no page faults.


PROBE = """
import resource, sys
import numpy as np
from landmarking.processes import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
np.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(8_000_000)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> tuple[str, int]:
    """What a fresh process says, and its page faults for a second array of 64 MB."""
    command = [sys.executable, "-c", PROBE, mode]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return told[0], int(told[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_kept_memory_is_used_again_without_page_faults():
    kept, few = faults("keep")
    _, many = faults("give back")
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert few < 100 < many
