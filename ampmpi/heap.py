"""What the C library does with memory that is given back."""

from __future__ import annotations

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST_BLOCK = 32 * 1024**2  # glibc takes no larger one
_KEPT = 128 * 1024**2


@cache
def keep_freed_memory() -> None:
    """Let this process keep up to 128 MB that it has freed, for the next array.

    By default glibc returns every large array to the system, which hands it out
    again page by page: for the primes of a large image that costs as much time as
    computing them. Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def give_back() -> None:
    """Return what this process has freed to the system, after work that took more than the next.

    Without glibc nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
