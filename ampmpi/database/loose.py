"""Loose entries: one file each, named by its key.

Only a regular file is an entry. A directory, symbolic link, named pipe or
whatever else has a key for its name is not an entry, nor is a file of another name:
it is neither listed nor read nor removed.
"""

from __future__ import annotations

import errno
import os
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive.tar import MAX_ENTRY_SIZE
from ampmpi.database.layout import LOOSE, Home
from ampmpi.errors import CorruptEntryError, DatabaseError
from ampmpi.files.atomic import write_file
from ampmpi.files.folder import NotRegularError, Stamp
from ampmpi.files.trouble import database_error, is_of_one_file, reason_of
from ampmpi.keys import DIGEST, digests_of, distinct, is_key

_NAMES = 4096
_TAKEN = (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST)


def put(home: Home, key: str, data: bytes, rank: int = 0) -> None:
    """Write an entry, whole or not at all, in place of what has its name, unless a directory."""
    if not is_key(key):
        raise DatabaseError(f"{key!r} is no key: it must be 32 of the digits 0-9 and a-f")
    try:
        home.write(lambda: write_file(home.temporaries, home.needed(LOOSE), key, data, "put", rank))
    except DatabaseError as error:
        if error.errno in _TAKEN and not home.needed(LOOSE).is_regular(key):
            raise DatabaseError(
                f"cannot write {home.full(LOOSE, key)}: a directory has the entry's name: "
                "move it elsewhere"
            ) from error
        raise


def read(home: Home, key: str) -> tuple[bytes, Stamp] | None:
    """Return the bytes of an entry and the stamp of its file; None if there is no such entry.

    Raises
    ------
    CorruptEntryError
        It is there and cannot be read; others can.
    OSError
        The file was replaced on its server while it was read (ESTALE).
    """
    folder = home.loose
    if folder is None:
        return None
    try:
        return folder.read(key, MAX_ENTRY_SIZE)
    except (FileNotFoundError, NotRegularError):
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:
            raise
        path = home.full(LOOSE, key)
        if not is_of_one_file(error):
            raise database_error(error, "read", path) from error
        try:
            if not folder.is_regular(key):
                return None
        except OSError as other:
            raise database_error(other, "read", path) from error
        raise CorruptEntryError(f"cannot read {path}: {reason_of(error)}") from error


def exists(home: Home, key: str) -> bool:
    """Whether there is a loose entry: found by opening it, which asks the server."""
    folder = home.loose
    if folder is None:
        return False
    try:
        os.close(folder.open_file(key)[0])
    except (FileNotFoundError, NotRegularError):
        return False
    except OSError as error:
        if error.errno == errno.ESTALE:
            raise
        try:
            return folder.is_regular(key)
        except OSError:
            return True
    return True


def is_entry(found: os.DirEntry[str]) -> bool:
    """Whether what was found in ``loose/`` is an entry; most file systems' listings say it."""
    if not is_key(found.name):
        return False
    try:
        return found.is_file(follow_symlinks=False)
    except OSError as error:
        return is_of_one_file(error)


def digests(home: Home) -> NDArray[np.bytes_]:
    """Return the keys of all loose entries as 16-byte strings, sorted; raises ESTALE as `read`."""
    found = bytearray()
    if (folder := home.loose) is None:
        return digests_of([])
    try:
        with folder.scan() as entries:
            names = (entry.name for entry in entries if is_entry(entry))
            while some := "".join(islice(names, _NAMES)):
                found += bytes.fromhex(some)
    except FileNotFoundError:
        return digests_of([])
    except OSError as error:
        if error.errno == errno.ESTALE:
            raise
        raise database_error(error, "list", home.full(LOOSE)) from error
    result = np.frombuffer(found, DIGEST)
    result.sort()
    return distinct(result)  # a listing may name a file twice that is replaced meanwhile


def remove(home: Home, key: str) -> bool:
    """Remove a loose entry; return whether there was one."""
    folder = home.loose
    try:
        if folder is None or not folder.is_regular(key):
            return False
        folder.unlink(key)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise database_error(error, "remove", home.full(LOOSE, key)) from error
    return True
