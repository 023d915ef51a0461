"""Loose entries on their way into the archive: reading, judging and removing them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable

from ampmpi.database import entry
from ampmpi.database.layout import Kind, Layout
from ampmpi.database.tarstream import MAX_ENTRY_SIZE
from ampmpi.database.writer import Stamp


class ChangedError(OSError):
    """A loose file is no longer what was archived."""


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
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
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


def remove_archived(
    layout: Layout, hidden: Collection[str], stamps: Iterable[tuple[str, Stamp]]
) -> list[tuple[str, Stamp, OSError | None]]:
    """Remove loose entries that are in the archive now, if they are still what was read.

    Parameters
    ----------
    hidden : collection of str
        Keys whose archived entry does not count; their files stay.
    stamps : iterable of (str, Stamp)
        Keys of files to remove, and what tells whether they were written again.

    Returns
    -------
    list of (key, Stamp, OSError or None)
        A file that stays gives the reason: ChangedError if it is another one.
    """
    done: list[tuple[str, Stamp, OSError | None]] = []
    for key, stamp in stamps:
        path = layout.loose_entry(key)
        try:
            if stamp_of(os.lstat(path)) != stamp or key in hidden:
                raise ChangedError
            os.unlink(path)
        except OSError as error:
            done.append((key, stamp, error))
        else:
            done.append((key, stamp, None))
    return done
