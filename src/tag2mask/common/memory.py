"""Keep freed memory in the process: on a CPU, returning it and faulting it in again costs a quarter of a run."""

from __future__ import annotations

import ctypes
import sys

# glibc's mallopt parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 64 * 2**20  # bytes the heap grows by at a time


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse freed blocks instead of unmapping them; True where that took effect.

    Large tensors are otherwise mapped afresh for every operation, and the kernel zeroes each page anew. The process
    keeps its peak until it ends. Does nothing on systems without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # musl and others have no mallopt
    largest = 2**31 - 1
    return all((mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, largest), mallopt(_M_TOP_PAD, _TOP_PAD)))
