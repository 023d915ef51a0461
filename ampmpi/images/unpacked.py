"""Compressed trajectories, unpacked once for all that reads them in this process."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 24

ROOM = 1 << 28
"""Bytes of unpacked files that are kept; the one that was read last is kept in any case."""

OPENERS: dict[str, Callable[[str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

_kept: dict[tuple[int, ...], int] = {}
"""Descriptors of unpacked files by what tells the compressed ones apart; the latest comes last."""


class Window(io.RawIOBase):
    """A file to read, at a position of its own, whoever else reads it.

    Parameters
    ----------
    descriptor : int
        The open file; it is duplicated.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = os.dup(descriptor)
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read what fits into a buffer, and return how much that was."""
        n_read = os.preadv(self._descriptor, [buffer], self._position)
        self._position += n_read
        return n_read

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position, and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        if start is None:
            start = os.fstat(self._descriptor).st_size
        self._position = max(0, start + offset)
        return self._position

    def close(self) -> None:
        """Close the duplicate."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def open_unpacked(path: str) -> io.BufferedReader:
    """Open a compressed file to read what is in it, wherever one likes.

    It is unpacked into a temporary file without a name, which vanishes with this process, and
    stays there for the next reader unless it has changed by then.
    """
    stat = Path(path).stat()
    stamp = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
    descriptor = _kept.pop(stamp, None)
    if descriptor is None:
        with tempfile.TemporaryFile() as file, OPENERS[Path(path).suffix](path) as packed:
            shutil.copyfileobj(packed, file, CHUNK)
            file.flush()
            descriptor = os.dup(file.fileno())
    _kept[stamp] = descriptor
    while len(_kept) > 1 and sum(os.fstat(one).st_size for one in _kept.values()) > ROOM:
        os.close(_kept.pop(next(iter(_kept))))
    return io.BufferedReader(Window(descriptor))
