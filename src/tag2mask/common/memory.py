"""Memory: freed blocks are kept, as returning and faulting them in again costs a quarter of a run; none is left."""

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


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on a GPU; if so, what torch keeps there for later is given back."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return True
    if not isinstance(error, RuntimeError) or "out of memory" not in text:
        return False
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True
