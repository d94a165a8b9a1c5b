"""Time by stage, and the memory of a process."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

R = TypeVar("R")


@dataclass
class Clock:
    """Seconds on the clock by stage, and processor time since it was made."""

    seconds: dict[str, float] = field(default_factory=dict)
    _cpu_start: float = field(default_factory=time.process_time)

    def timed(self, stage: str, work: Callable[[], R]) -> R:
        """Do some work and add its time to a stage."""
        start = time.perf_counter()
        result = work()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        return result

    def all(self) -> dict[str, float]:
        """Seconds by stage, and processor time as `cpu`."""
        return {**self.seconds, "cpu": time.process_time() - self._cpu_start}


def peak_mib() -> float:
    """Most memory that this process has used so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0 * 1024.0 if sys.platform == "darwin" else 1024.0)
