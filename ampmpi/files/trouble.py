"""What an error of the system means: one table, one sentence for the user.

One entry that cannot be read is damaged like one whose checksum is wrong: it is
named, and the others go on. Too many open files, too little memory, a server
that does not answer or a handle that stays stale concern every entry, and stop
the work. An error of which nothing is known counts as one of these.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from ampmpi.errors import DatabaseError, FileError

E = TypeVar("E", bound=FileError)

_OF_A_PLACE = {
    errno.EIO,
    errno.ENODATA,  # Linux: an error of the medium
    errno.EREMOTEIO,  # … of the target
    errno.EILSEQ,  # … of the protection information
    errno.EUCLEAN,  # the file system's own structure is damaged
    errno.EBADMSG,  # its own checksum is wrong
}
_OF_A_FILE = _OF_A_PLACE | {
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.EISDIR,
    errno.ENXIO,
    errno.ENODEV,
    errno.EFBIG,
    errno.EOVERFLOW,
}

_SENTENCES = {
    errno.ENOSPC: "the disk is full: free some space and start again",
    errno.EDQUOT: "the disk quota is used up: free some space or files and start again",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.EACCES: "permission denied: choose a place that you may write to",
    errno.EPERM: "the operation is not permitted: choose a place that you may write to",
    errno.EIO: "the disk reports an input/output error: check the disk or the network mount",
    errno.EFBIG: "the file grows beyond the allowed size: raise the limit (ulimit -f)",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
}
_NO_INODES = (
    "no more files can be made on this volume (its inodes are used up): remove some files, or "
    "compress other databases on it, and start again"
)
_DENIED = "permission denied: you may not read it; ask its owner (chmod)"


def is_damage(error: OSError) -> bool:
    """Whether an error of reading an open file concerns the place that was read."""
    return error.errno in _OF_A_PLACE


def is_of_one_file(error: OSError) -> bool:
    """Whether an error of opening or reading a file concerns this file alone.

    Where permission is denied it may be the directory's, too: look whether the
    file's status can be had.
    """
    return error.errno in _OF_A_FILE


def reason_of(error: OSError) -> str:
    """Say why something cannot be read."""
    reason = error.strerror or str(error)
    return f"the disk reports an {reason.lower()}" if error.errno == errno.EIO else reason.lower()


@contextmanager
def unless_damaged(*others: type[Exception]) -> Iterator[list[str]]:
    """Take note of damage in the block instead of raising it; other errors are raised.

    Damage is what the disk cannot read, and exceptions of the classes given. The list
    is empty, or holds what ended the block, in words.
    """
    found: list[str] = []
    try:
        yield found
    except others as error:
        found.append(str(error))
    except OSError as error:
        if not is_damage(error):
            raise
        found.append(reason_of(error))


def database_error(error: OSError, doing: str, path: str) -> DatabaseError:
    """Return the error that says what could not be done to a database, and why."""
    return told(DatabaseError, error, doing, path)


def told(kind: type[E], error: OSError, doing: str, path: str) -> E:
    """Return the error that says in one sentence what could not be done, to what, and why."""
    if doing in ("read", "list") and error.errno in (errno.EACCES, errno.EPERM):
        reason = _DENIED
    elif error.errno == errno.ENOSPC and _lacks_inodes(path):
        reason = _NO_INODES
    else:
        reason = _SENTENCES.get(error.errno or 0) or error.strerror or str(error)
    result = kind(f"cannot {doing} {path}: {reason}")
    result.errno = error.errno
    return result


def _lacks_inodes(path: str) -> bool:
    """Whether a volume has space left, but no inodes; some file systems do not count them."""
    for place in (path, os.path.dirname(path) or "."):
        try:
            found = os.statvfs(place)
        except OSError:
            continue
        return found.f_files > 0 and found.f_favail == 0 and found.f_bavail > 0
    return False
