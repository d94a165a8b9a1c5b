"""Memory that a training step or a scan frees is kept for the next instead of given back.

glibc hands large arrays back to the kernel as soon as they are freed, and gets them back zeroed,
page by page: on a CPU up to half of a training step can go there.
"""

from __future__ import annotations

import ctypes
import sys

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
