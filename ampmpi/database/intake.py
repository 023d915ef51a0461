"""Loose entries on their way into the archive: reading and judging them."""

from __future__ import annotations

import os

from ampmpi.database import entry
from ampmpi.database.layout import Kind, Layout
from ampmpi.database.tarstream import MAX_ENTRY_SIZE
from ampmpi.database.writer import Stamp


def judge(data: bytes, kind: Kind) -> None:
    """Check an entry before it is archived.

    In databases of other kinds, only what says that it is one of this
    package's entries is judged.

    Raises
    ------
    CorruptEntryError
        It is damaged.
    """
    if kind != "other" or not data or entry.MAGIC in data[-64:]:
        entry.verify(data, kind)


def read_loose(layout: Layout, key: str) -> tuple[bytes, Stamp]:
    """Read a loose entry, and what tells whether it is written again later.

    Raises
    ------
    OSError
        It is missing, is no regular file, is too large, or cannot be read.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(layout.loose_entry(key), flags)
    try:
        status = os.fstat(descriptor)
        if status.st_size > MAX_ENTRY_SIZE:
            raise OSError(f"it has more than {MAX_ENTRY_SIZE} bytes")
        data = os.read(descriptor, status.st_size + 1)
        if len(data) != status.st_size:
            data += _rest(descriptor)
    finally:
        os.close(descriptor)
    return data, stamp_of(status)


def _rest(descriptor: int) -> bytes:
    """Return what is left to read of a file that grows, or is handed out in parts."""
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        return file.readall()


def stamp_of(status: os.stat_result) -> Stamp:
    """Return what changes in a file's status when it is written again."""
    return Stamp(status.st_ino, status.st_size, status.st_mtime_ns)
