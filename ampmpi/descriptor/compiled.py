"""How the kernels are compiled."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba as nb

from ..errors import LaunchError

if getattr(nb.config, "DISABLE_JIT", 0):
    raise LaunchError(
        "NUMBA_DISABLE_JIT is set, but fingerprints need compiled kernels: unset it and start again"
    )

SOURCES = zlib.crc32(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
)
"""Checksum of this package's sources.

An entry has it as the default of an argument, which makes it part of the
signature: code in numba's cache is then never older than any of the sources,
while numba itself looks only at the file in which the entry is.
"""

ENTRIES: list[Any] = []
"""Every entry that has been defined."""


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls: once, kept on disk, without the GIL when it runs."""
    compiled = nb.njit(cache=True, nogil=True, error_model="numpy")(function)
    ENTRIES.append(compiled)
    return compiled


inner = nb.njit(nogil=True, error_model="numpy")
"""A function that is compiled into the entries that call it."""

fast = nb.njit(
    nogil=True,
    error_model="numpy",
    fastmath={"reassoc", "contract", "nsz"},
    forceinline=True,
)
"""Like `inner`, always inlined, and sums may be reordered; infinities and NaN keep their meaning.

A call in between would cost a sixth of the time of all, and twice that where it
ends in the copy that numba compiled for the function alone.
"""

exact = nb.njit(nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
"""Like `inner`, always inlined, and never reordered."""
