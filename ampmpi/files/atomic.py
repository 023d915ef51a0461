"""Files that appear whole or not at all.

A file is written under a name of its writer's own in the database's ``tmp/``,
closed, and only then given its real name. The temporary's name says who wrote
it, so that what a killed writer left behind can be swept.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from types import TracebackType
from typing import Self

from ampmpi.errors import DatabaseError
from ampmpi.files.owner import Owner

DAY = 86400.0

_NAME = re.compile(
    r"ampmpi-(?P<purpose>[a-z]+)"
    r"-(?P<host>[A-Za-z0-9._-]*)-(?P<boot>[0-9a-f]{8})-(?P<namespace>\d+)"
    r"-(?P<pid>\d+)-(?P<start>\d+)-r\d+-[0-9a-f]{12}\.tmp"
)

_SENTENCES = {
    errno.ENOSPC: "the disk is full: free some space and start again",
    errno.EDQUOT: "the disk quota is used up: free some space or files and start again",
    errno.EROFS: "the file system is read-only: choose another place for the database",
    errno.EACCES: "permission denied: choose a place that you may write to",
    errno.EPERM: "the operation is not permitted: choose a place that you may write to",
    errno.EIO: "the disk reports an input/output error: check the disk or the network mount",
    errno.EFBIG: "the file grows beyond the allowed size: raise the limit (ulimit -f)",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
}

_DENIED = "permission denied: you may not read it; ask its owner (chmod)"


def database_error(error: OSError, doing: str, path: str) -> DatabaseError:
    """Return the error that says in one sentence what could not be done, to what, and why."""
    denied = doing in ("read", "list") and error.errno in (errno.EACCES, errno.EPERM)
    reason = _DENIED if denied else _SENTENCES.get(error.errno or 0) or error.strerror or str(error)
    result = DatabaseError(f"cannot {doing} {path}: {reason}")
    result.errno = error.errno
    return result


def temporary_name(purpose: str, rank: int = 0) -> str:
    """Return a name for a temporary of this process that no other one has.

    Parameters
    ----------
    purpose : str
        A word of small letters, for whoever looks into the directory.
    rank : int
        MPI rank of the writer.
    """
    me = Owner.me()
    return (
        f"ampmpi-{purpose}-{me.host}-{me.boot}-{me.namespace}-{me.pid}-{me.start}"
        f"-r{rank}-{secrets.token_hex(6)}.tmp"
    )


def temporary_owner(name: str) -> Owner | None:
    """Return who made a temporary, from its name; None if the name is none of ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return Owner(
        match["host"],
        match["boot"],
        int(match["namespace"]),
        int(match["pid"]),
        int(match["start"]),
    )


class Temporary:
    """A file being written, which is given its name when it is whole.

    Use it as a context manager; a file that was not placed is removed on leaving.

    Parameters
    ----------
    directory : str
        The database's ``tmp/``; made if it is missing.
    purpose : str
        A word of small letters for the file's name.
    rank : int
        MPI rank of the writer.

    Attributes
    ----------
    path : str
        Where the file is until it is placed.
    descriptor : int
        The open file; -1 once it is closed.

    Raises
    ------
    DatabaseError
        The file cannot be made.
    FileNotFoundError
        The database is missing.
    """

    def __init__(self, directory: str, purpose: str, rank: int = 0) -> None:
        self.path = f"{directory}/{temporary_name(purpose, rank)}"
        self._placed = False
        self.descriptor = -1
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            try:
                self.descriptor = os.open(self.path, flags, 0o666)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(directory)
                self.descriptor = os.open(self.path, flags, 0o666)
            # Now, while it is new: after a write a network file system asks its server.
            self._status = os.fstat(self.descriptor)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._abandon()
            raise database_error(error, "create a temporary file in", directory) from error

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`, however little the system takes at a time.

        Raises
        ------
        DatabaseError
            The data cannot be written.
        """
        rest = memoryview(data)
        try:
            while rest:
                written = os.write(self.descriptor, rest)
                if written == 0:
                    raise OSError(errno.EIO, "nothing was written")
                rest = rest[written:]
        except OSError as error:
            raise database_error(error, "write", self.path) from error

    def sync(self) -> None:
        """Wait until the file is on the disk."""
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise database_error(error, "write", self.path) from error

    def close(self) -> None:
        """Close the file; only now is it known that all was written."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            try:
                os.close(descriptor)
            except OSError as error:
                raise database_error(error, "write", self.path) from error

    def replace(self, target: str) -> None:
        """Close the file and give it the name `target`, in place of what has it.

        An error of the rename is not believed before the target was looked at:
        NFS repeats a request whose answer was lost, and the repetition fails.

        Raises
        ------
        DatabaseError
            The file cannot be closed or renamed.
        FileNotFoundError
            The directory of `target` is missing.
        """
        self.close()
        try:
            os.rename(self.path, target)
        except OSError as error:
            if not _is_same_file(target, self._status):
                if error.errno == errno.ENOENT:
                    raise
                raise database_error(error, "write", target) from error
        self._placed = True

    def link(self, target: str) -> bool:
        """Close the file and give it the name `target` unless another file has it.

        Returns
        -------
        bool
            Whether the target is now this file.

        Raises
        ------
        DatabaseError
            The file cannot be closed or linked.
        """
        self.close()
        try:
            os.link(self.path, target)
        except OSError as error:
            if _is_same_file(target, self._status):
                return True
            if error.errno == errno.EEXIST:
                return False
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                return self._rename_new(target)
            raise database_error(error, "write", target) from error
        return True

    def _rename_new(self, target: str) -> bool:
        """Place the file on a file system without hard links."""
        if os.path.lexists(target):
            return False
        try:
            os.rename(self.path, target)
        except OSError as error:
            raise database_error(error, "write", target) from error
        self._placed = True
        return True

    def _abandon(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if not self._placed:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._abandon()


def _is_same_file(path: str, status: os.stat_result) -> bool:
    """Whether `path` names the file of `status`; asked of the server, not of a cache."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return False
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    return os.path.samestat(found, status)


def write_file(directory: str, target: str, data: bytes, purpose: str, rank: int = 0) -> None:
    """Write a whole file into place.

    Parameters
    ----------
    directory : str
        The database's ``tmp/``.
    target : str
        The file's path; its directory exists, on the same file system.
    data : bytes
        What it shall hold.
    purpose : str
        A word of small letters for the temporary's name.
    rank : int
        MPI rank of the writer.

    Raises
    ------
    DatabaseError
        The file cannot be written; there is nothing left of it, and `target`
        is as it was.
    FileNotFoundError
        The target's directory is missing.
    """
    with Temporary(directory, purpose, rank) as temporary:
        temporary.write(data)
        temporary.replace(target)


def write_new_file(directory: str, target: str, data: bytes, purpose: str) -> bool:
    """Write a whole file into place unless there is one: the first writer wins.

    Parameters are those of `write_file`. Returns whether this writer was first.
    """
    with Temporary(directory, purpose) as temporary:
        temporary.write(data)
        return temporary.link(target)


def sync_directory(path: str) -> None:
    """Wait until the names in a directory are on the disk, where the file system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise database_error(error, "write", path) from error
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def sweep(directory: str, older_than: float = DAY) -> int:
    """Remove the temporaries whose writer is dead, or that are old.

    Names that are not those of our temporaries are left alone.

    Parameters
    ----------
    directory : str
        The database's ``tmp/``.
    older_than : float
        Age in seconds after which a temporary is removed even if nothing is
        known of its writer.

    Returns
    -------
    int
        How many were removed.
    """
    removed = 0
    for name in temporaries(directory):
        path = f"{directory}/{name}"
        owner = temporary_owner(name)
        dead = owner.is_dead() if owner else None
        with contextlib.suppress(OSError):
            if dead or (dead is None and time.time() - os.stat(path).st_mtime > older_than):
                os.unlink(path)
                removed += 1
    return removed


def temporaries(directory: str) -> list[str]:
    """Names of our temporaries in a directory, which need not exist."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [name for name in names if _NAME.fullmatch(name)]
