"""Loose entries on their way into the archive: reading, judging and removing them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive.tar import MAX_ENTRY_SIZE
from ampmpi.database.layout import Layout
from ampmpi.entries import Kind, codec
from ampmpi.keys import to_hex

STAMPS = np.dtype([("inode", "u8"), ("size", "i8"), ("mtime_ns", "i8")])
"""The fields of a `Stamp`, for arrays of them."""


class Stamp(NamedTuple):
    """What changes when a file is written again: its status when it was read.

    The device is left out: hosts number the same network file system differently.
    """

    inode: int
    size: int
    mtime_ns: int


class LooseFiles(NamedTuple):
    """Loose entries that were read.

    Attributes
    ----------
    digests : (n,) array of 16-byte strings
        Their keys, as bytes.
    stamps : (n,) array of STAMPS
        What tells whether they are written again later.
    """

    digests: NDArray[np.bytes_]
    stamps: NDArray[np.void]


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
    if kind != "other" or not data or codec.MAGIC in data[-64:]:
        codec.verify(data, kind)


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


def remove_as_read(path: str, stamp: Stamp) -> None:
    """Remove a file if it is still the one that was read.

    Raises
    ------
    ChangedError
        It is another one.
    OSError
        It is missing, or cannot be removed.
    """
    if stamp_of(os.lstat(path)) != stamp:
        raise ChangedError
    os.unlink(path)


def remove_archived(
    layout: Layout, hidden: Collection[str], files: LooseFiles
) -> tuple[int, list[tuple[str, int, OSError]]]:
    """Remove loose entries that are in the archive now, if they are still what was read.

    Parameters
    ----------
    hidden : collection of str
        Keys whose archived entry does not count; their files stay.
    files : LooseFiles
        Files to remove.

    Returns
    -------
    removed : int
        How many were removed.
    stayed : list of (str, int, OSError)
        Key and size of each other one, and why it was not: ChangedError if it is another file.
    """
    stayed: list[tuple[str, int, OSError]] = []
    stamps = map(Stamp._make, files.stamps.tolist())
    for key, stamp in zip(to_hex(files.digests), stamps, strict=True):
        try:
            path = layout.loose_entry(key)
            if key in hidden and os.lstat(path):  # which raises if there is none any more
                raise ChangedError
            remove_as_read(path, stamp)
        except OSError as error:
            stayed.append((key, stamp.size, error))
    return len(files.digests) - len(stayed), stayed
