"""Memory of this process that is kept, or given back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST_BLOCK = 32 * 1024**2  # glibc takes no larger one
_KEPT = 128 * 1024**2
_MADV_DONTNEED = 4  # of madvise(2)
_LARGE_CODE = 1024**2


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


def unload_code() -> None:
    """Let go of large libraries' code, whose pages are mapped again when it runs again.

    Of LLVM's code 50 MB run when kernels are loaded or compiled, and none afterwards; of other
    libraries' 10 MB run when they are loaded. The pages stay in the system's cache of files,
    where processes share them. Without /proc nothing happens.
    """
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        addresses, permissions, _, _, inode, *_ = line.split()
        start, stop = (int(address, 16) for address in addresses.split("-"))
        is_code = permissions == "r-xp" and inode != "0"
        if advise is not None and is_code and stop - start > _LARGE_CODE:
            advise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _MADV_DONTNEED)
