"""CRC-32 by the fastest way that is installed."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable

crc32: Callable[..., int] = zlib.crc32
"""CRC-32 of bytes, and of what came before them: zlib's, or the faster one of isal."""

with contextlib.suppress(ImportError):
    from isal import isal_zlib

    crc32 = isal_zlib.crc32
