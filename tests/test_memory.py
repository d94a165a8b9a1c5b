"""Freed memory stays with the process: a second large array brings no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import resource, sys
import numpy as np
from landmarking.memory import keep_freed_memory

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
