"""Loose entries: one file each, named by its key."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.atomic import database_error, write_file
from ampmpi.database.layout import Layout, is_key
from ampmpi.errors import DatabaseError

T = TypeVar("T")
_TRIES = 5


def put(layout: Layout, key: str, data: bytes, rank: int = 0) -> None:
    """Write an entry, whole or not at all, in place of the one that is there.

    The database is made if it does not exist.

    Raises
    ------
    DatabaseError
        It cannot be written; what was there before is still there.
    """
    if not is_key(key):
        raise DatabaseError(f"{key!r} is no key: it must be 32 of the digits 0-9 and a-f")
    target = layout.loose_entry(key)
    try:
        write_file(layout.temporaries, target, data, "put", rank)
    except FileNotFoundError:
        layout.create()
        try:
            write_file(layout.temporaries, target, data, "put", rank)
        except FileNotFoundError as error:
            raise database_error(error, "write", target) from error


def read(layout: Layout, key: str) -> bytes | None:
    """Return the bytes of an entry; None if there is no such loose entry.

    Raises
    ------
    DatabaseError
        It is there and cannot be read.
    """
    path = layout.loose_entry(key)
    try:
        return _while_stale(lambda: _read_file(path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise database_error(error, "read", path) from error


def exists(layout: Layout, key: str) -> bool:
    """Whether there is a loose entry: found by opening it, which asks the server."""
    try:
        descriptor = _while_stale(
            lambda: os.open(layout.loose_entry(key), os.O_RDONLY | os.O_CLOEXEC)
        )
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR)
    with contextlib.suppress(OSError):
        os.close(descriptor)
    return True


def keys(layout: Layout) -> set[str]:
    """Return the keys of all loose entries, by one listing.

    Raises
    ------
    DatabaseError
        The directory cannot be listed.
    """
    try:
        names = _while_stale(lambda: os.listdir(layout.loose))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise database_error(error, "list", layout.loose) from error
    return set(filter(is_key, names))


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
            for entry in entries:
                if is_key(entry.name):
                    found += bytes.fromhex(entry.name)
        return found

    try:
        result = np.frombuffer(_while_stale(listed), "S16")
    except FileNotFoundError:
        return np.empty(0, "S16")
    except OSError as error:
        raise database_error(error, "list", layout.loose) from error
    result.sort()
    return result


def remove(layout: Layout, key: str) -> bool:
    """Remove a loose entry; return whether there was one.

    Raises
    ------
    DatabaseError
        It is there and cannot be removed.
    """
    path = layout.loose_entry(key)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise database_error(error, "remove", path) from error
    return True


def _read_file(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, os.fstat(descriptor).st_size + 1)
        parts = [data]
        while data:
            data = os.read(descriptor, 1 << 20)
            parts.append(data)
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    return b"".join(parts)


def _while_stale(function: Callable[[], T]) -> T:
    """Call a function again while NFS says that a file was replaced under it."""
    for _ in range(_TRIES - 1):
        try:
            return function()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return function()
