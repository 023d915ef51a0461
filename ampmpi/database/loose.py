"""Loose entries: one file each, named by its key.

Only a regular file is an entry. A directory, symbolic link, named pipe or
whatever else has a key for its name is none, as files of other names are none:
it is neither listed nor read nor removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive.tar import MAX_ENTRY_SIZE
from ampmpi.database.layout import Layout
from ampmpi.errors import CorruptEntryError, DatabaseError
from ampmpi.files.atomic import database_error, write_file
from ampmpi.files.trouble import is_of_one_file, reason_of
from ampmpi.keys import distinct, is_key

T = TypeVar("T")
_TRIES = 5
_NAMES = 4096

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""To open what may be a link or a pipe without following or waiting."""

_TAKEN = (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST)


def put(layout: Layout, key: str, data: bytes, rank: int = 0) -> None:
    """Write an entry, whole or not at all, in place of the one that is there.

    The database is made if it does not exist. What has the entry's name and is
    no entry makes way for it, unless it is a directory.

    Raises
    ------
    DatabaseError
        It cannot be written; what was there before is still there.
    """
    if not is_key(key):
        raise DatabaseError(f"{key!r} is no key: it must be 32 of the digits 0-9 and a-f")
    target = layout.loose_entry(key)
    try:
        try:
            write_file(layout.temporaries, target, data, "put", rank)
        except FileNotFoundError:
            layout.create()
            write_file(layout.temporaries, target, data, "put", rank)
    except FileNotFoundError as error:
        raise database_error(error, "write", target) from error
    except DatabaseError as error:
        if error.errno in _TAKEN and os.path.isdir(target):
            raise DatabaseError(
                f"cannot write {target}: a directory has the entry's name: move it elsewhere"
            ) from error
        raise


def read(layout: Layout, key: str) -> bytes | None:
    """Return the bytes of an entry; None if there is no such loose entry.

    Raises
    ------
    CorruptEntryError
        It is there and cannot be read; others can.
    DatabaseError
        Loose entries cannot be read.
    """
    path = layout.loose_entry(key)
    try:
        return _while_stale(lambda: _read_file(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if not is_of_one_file(error):
            raise database_error(error, "read", path) from error
        try:
            if not _is_regular(path):
                return None
        except OSError as other:
            if error.errno in (errno.EACCES, errno.ELOOP) or not is_of_one_file(other):
                raise database_error(error, "read", path) from error
        raise CorruptEntryError(f"cannot read {path}: {reason_of(error)}") from error


def exists(layout: Layout, key: str) -> bool:
    """Whether there is a loose entry: found by opening it, which asks the server."""
    path = layout.loose_entry(key)
    try:
        return _while_stale(lambda: _open_regular(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        try:
            return _is_regular(path)
        except OSError:
            return True


def keys(layout: Layout) -> set[str]:
    """Return the keys of all loose entries, by one listing.

    Raises
    ------
    DatabaseError
        The directory cannot be listed.
    """

    def listed() -> set[str]:
        with os.scandir(layout.loose) as entries:
            return {entry.name for entry in entries if is_entry(entry)}

    try:
        return _while_stale(listed)
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise database_error(error, "list", layout.loose) from error


def is_entry(found: os.DirEntry[str]) -> bool:
    """Whether what was found in ``loose/`` is an entry; most file systems' listings say it."""
    if not is_key(found.name):
        return False
    try:
        return found.is_file(follow_symlinks=False)
    except OSError as error:
        return is_of_one_file(error)


def digests(layout: Layout) -> NDArray[np.bytes_]:
    """Return the keys of all loose entries as 16-byte strings, sorted: less memory than `keys`.

    Raises
    ------
    DatabaseError
        The directory cannot be listed.
    """

    def listed() -> bytearray:
        found = bytearray()
        with os.scandir(layout.loose) as entries:
            names = (entry.name for entry in entries if is_entry(entry))
            while some := "".join(islice(names, _NAMES)):
                found += bytes.fromhex(some)
        return found

    try:
        result = np.frombuffer(_while_stale(listed), "S16")
    except FileNotFoundError:
        return np.empty(0, "S16")
    except OSError as error:
        raise database_error(error, "list", layout.loose) from error
    result.sort()
    return distinct(result)  # a listing may name a file twice that is replaced meanwhile


def remove(layout: Layout, key: str) -> bool:
    """Remove a loose entry; return whether there was one.

    Raises
    ------
    DatabaseError
        It is there and cannot be removed.
    """
    path = layout.loose_entry(key)
    try:
        if not _is_regular(path):
            return False
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise database_error(error, "remove", path) from error
    return True


def _read_file(path: str) -> bytes | None:
    descriptor = os.open(path, _READ)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > MAX_ENTRY_SIZE:
            raise OSError(errno.EFBIG, f"it has more than {MAX_ENTRY_SIZE} bytes")
        data = os.read(descriptor, status.st_size + 1)
        parts = [data]
        while data:
            data = os.read(descriptor, 1 << 20)
            parts.append(data)
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    return b"".join(parts)


def _open_regular(path: str) -> bool:
    descriptor = os.open(path, _READ)
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _while_stale(function: Callable[[], T]) -> T:
    """Call a function again while NFS says that a file was replaced under it."""
    for _ in range(_TRIES - 1):
        try:
            return function()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return function()
