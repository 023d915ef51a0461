"""Files that appear whole or not at all.

A file is written under a name of its writer's own, closed, and only then given
its real name. The temporary's name says who wrote it, so that what a killed
writer left behind can be swept.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import time
from collections.abc import Callable
from functools import cache
from typing import BinaryIO, Self
from zlib import crc32

from ampmpi.errors import DatabaseError, FileError
from ampmpi.files.folder import OPEN, Folder, Stamp
from ampmpi.files.owner import Owner
from ampmpi.files.trouble import told

DAY = 86400.0
YOUNG = 60.0
"""Seconds during which a bad file may still be in the making: Amp writes in place."""

_NAME = re.compile(
    r"ampmpi-(?P<purpose>[a-z]+)"
    r"-(?P<host>[A-Za-z0-9._-]*)-(?P<boot>[0-9a-f]{8})-(?P<namespace>\d+)"
    r"-(?P<pid>\d+)-(?P<start>\d+)-r\d+-[0-9a-f]{12}\.tmp"
)
_NOREPLACE, _EXCHANGE = 1, 2  # flags of renameat2(2)
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_SUCH_CALL = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EXDEV}


def temporary_name(purpose: str, rank: int = 0, replaced: Stamp | None = None) -> str:
    """Return a name for a temporary of this process that no other one has.

    The purpose is a word of small letters, for whoever looks into the directory. The file
    that it shall be exchanged with marks the name: see `is_replaced`.
    """
    me = Owner.me()
    nonce = os.urandom(6).hex()
    if replaced is not None:
        nonce = _mark(replaced) + nonce[8:]
    return (
        f"ampmpi-{purpose}-{me.host}-{me.boot}-{me.namespace}-{me.pid}-{me.start}"
        f"-r{rank}-{nonce}.tmp"
    )


def _mark(stamp: Stamp) -> str:
    return f"{crc32(repr(tuple(stamp)).encode()):08x}"


def is_replaced(folder: Folder, name: str) -> bool:
    """Whether a left-over temporary is the file that it was to be exchanged with, and was."""
    try:
        return name.removesuffix(".tmp")[-12:-4] == _mark(Stamp.of(folder.status(name)))
    except OSError:
        return False


def temporary_owner(name: str) -> Owner | None:
    """Return who made a temporary, from its name; None if it is not one of our names."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    numbers = map(int, match.group("namespace", "pid", "start"))
    return Owner(match["host"], match["boot"], *numbers)


def purpose_of(name: str) -> str | None:
    """Return what a temporary is for, from its name; None if it is not one of our names."""
    match = _NAME.fullmatch(name)
    return match["purpose"] if match else None


class Temporary:
    """A file being written, which is given its name when it is whole.

    Use it as a context manager; a file that was not placed is removed on leaving.
    Its methods raise `error` where the system refuses.

    Parameters
    ----------
    folder : Folder
        Where it is made, on the file system of its target. The file gets the
        folder's permissions and group, whatever the umask is.
    purpose : str
        A word of small letters for the file's name.
    rank : int
        MPI rank of the writer.
    like : os.stat_result, optional
        Status of a file whose permissions and group it shall have instead, and with
        which it shall be exchanged.
    error : class
        What is raised.

    Attributes
    ----------
    name, path : str
        Its name until it is placed, and the whole path, for messages.
    descriptor : int
        The open file; -1 once it is closed.

    Raises
    ------
    DatabaseError
        The file cannot be made.
    FileNotFoundError
        The folder was removed.
    """

    def __init__(
        self,
        folder: Folder,
        purpose: str,
        rank: int = 0,
        like: os.stat_result | None = None,
        *,
        error: type[FileError] = DatabaseError,
    ) -> None:
        self.folder, self._error = folder, error
        self.name = temporary_name(purpose, rank, like and Stamp.of(like))
        self.path = folder.full(self.name)
        self._placed = False
        self.descriptor = -1
        try:
            # The status now, while it is new: after a write NFS asks its server.
            self.descriptor, self._status = folder.create_file(self.name, like)
        except FileNotFoundError:
            raise
        except OSError as caught:
            self._abandon()  # it may be there: NFS may have lost the answer
            raise told(error, caught, "create a temporary file in", folder.path) from caught

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`, however little the system takes at a time."""
        rest = memoryview(data)
        try:
            while rest:
                written = os.write(self.descriptor, rest)
                if written == 0:
                    raise OSError(errno.EIO, "nothing was written")
                rest = rest[written:]
        except OSError as error:
            raise self._unwritten(error) from error

    def seek(self, position: int) -> None:
        """Write on from a byte: others have written what is before it."""
        os.lseek(self.descriptor, position, os.SEEK_SET)

    def sync(self) -> None:
        """Wait until the file is on the disk."""
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise self._unwritten(error) from error

    def stamp(self) -> Stamp:
        """Return the stamp of the file as it is now."""
        return Stamp.of(os.fstat(self.descriptor))

    def close(self) -> None:
        """Close the file; only now is it known that all was written."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            try:
                os.close(descriptor)
            except OSError as error:
                raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> FileError:
        return told(self._error, error, "write", self.path)

    def replace(self, target: Folder, name: str) -> None:
        """Close the file and give it a name, in place of what has it.

        An error of the rename is not believed before the target was looked at: NFS
        repeats a request whose answer was lost, and the repetition fails.
        FileNotFoundError if the folder of the target was removed.
        """
        self.close()
        try:
            self.folder.rename(self.name, target, name)
        except OSError as error:
            if not self._is_at(target, name):
                if error.errno == errno.ENOENT:
                    raise
                raise told(self._error, error, "write", target.full(name)) from error
        self._placed = True

    def place(self, target: Folder, name: str, *, small: bool = True) -> bool:
        """Close the file and give it a name unless another file has it: the first one wins.

        Return whether the name is now this file's; see `rename_new`.
        """
        self.close()
        try:
            moved = rename_new(self.folder, self.name, target, name, small=small)
        except OSError as error:
            if not self._is_at(target, name):
                raise told(self._error, error, "write", target.full(name)) from error
            return True
        self._placed = moved
        return moved or self._is_at(target, name)

    def exchange(self, target: Folder, name: str, expected: Stamp) -> bool:
        """Close the file and swap it with the one that has a name, if that is the expected one.

        What came out is looked at afterwards, and swapped back if it is another
        file. So nothing is ever replaced that nobody has read, however long this
        process was suspended. File systems without such a call get a look and a
        rename, between which another process may be quicker.

        Return whether the name is now this file's, and the expected one is gone.
        """
        mine = self.stamp() if self.descriptor >= 0 else Stamp.of(self.folder.status(self.name))
        self.close()
        try:
            if Stamp.of(target.status(name)) != expected:
                return False
            if not _rename_with(_EXCHANGE, self.folder, self.name, target, name):
                self.replace(target, name)
                return True
            if Stamp.of(self.folder.status(self.name)) == expected:
                return True  # what came out is removed on leaving
            self._placed = True  # it is another's: not to be removed, whatever comes now
            _rename_with(_EXCHANGE, self.folder, self.name, target, name)
            self._placed = Stamp.of(self.folder.status(self.name)) != mine
        except FileNotFoundError:
            return False
        except OSError as error:
            raise told(self._error, error, "write", target.full(name)) from error
        return False

    def _is_at(self, target: Folder, name: str) -> bool:
        """Whether a name is this file's; asked of the server, not of a cache."""
        try:
            descriptor = os.open(name, OPEN, dir_fd=target.descriptor)
        except OSError:
            return False
        try:
            return os.path.samestat(os.fstat(descriptor), self._status)
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def discard(self) -> None:
        """Close the file and remove it, unless it was placed."""
        self._abandon()

    def _abandon(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if not self._placed:
            with contextlib.suppress(OSError):
                self.folder.unlink(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._abandon()


@cache
def _renameat2() -> Callable[..., int] | None:
    function: Callable[..., int] | None = getattr(
        ctypes.CDLL(None, use_errno=True), "renameat2", None
    )
    return function


def _rename_with(flag: int, folder: Folder, name: str, target: Folder, new_name: str) -> bool:
    """Rename by renameat2(2); return False where the system or file system has no such call."""
    function = _renameat2()
    if function is None:
        return False
    names = os.fsencode(name), os.fsencode(new_name)
    if function(folder.descriptor, names[0], target.descriptor, names[1], flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_SUCH_CALL:
        return False
    raise OSError(number, os.strerror(number), target.full(new_name))


def rename_new(
    folder: Folder, name: str, target: Folder, new_name: str, *, small: bool = False
) -> bool:
    """Move a file unless another one has the new name; return whether it was moved.

    By a hard link, or by a rename that replaces nothing, which a file that is not small has
    first; where the file system knows neither, by a new file that others may see while it is
    written or, for a file that is not small, by a look and a rename.
    """
    try:
        if not small and _rename_with(_NOREPLACE, folder, name, target, new_name):
            return True
        try:
            _link(folder, name, target, new_name)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if _rename_with(_NOREPLACE, folder, name, target, new_name):
                return True
            if not small:
                if not (taken := target.has(new_name)):
                    folder.rename(name, target, new_name)
                return not taken
            data, _ = folder.read(name, 1 << 30)
            _fill(target, new_name, lambda file: file.write(data))
    except FileExistsError:
        return False
    folder.unlink(name)
    return True


def _link(folder: Folder, name: str, target: Folder, new_name: str) -> None:
    os.link(
        name,
        new_name,
        src_dir_fd=folder.descriptor,
        dst_dir_fd=target.descriptor,
        follow_symlinks=False,
    )


def write_file(
    folder: Folder, target: Folder, name: str, data: bytes, purpose: str, rank: int = 0
) -> None:
    """Write a whole file into place, by a temporary in a folder on the same file system.

    Raises
    ------
    DatabaseError
        The file cannot be written; nothing is left of it, and what had the name still has it.
    FileNotFoundError
        A folder was removed.
    """
    with Temporary(folder, purpose, rank) as temporary:
        temporary.write(data)
        temporary.replace(target, name)


def write_new_file(folder: Folder, target: Folder, name: str, data: bytes, purpose: str) -> bool:
    """Write a whole file into place as `write_file` does, unless there is one.

    Return whether this writer was first.
    """
    with Temporary(folder, purpose) as temporary:
        temporary.write(data)
        return temporary.place(target, name)


def is_young(stamp: Stamp) -> bool:
    """Whether a file was written to a moment ago, give or take what clocks differ by."""
    return abs(time.time() - stamp.mtime_ns / 1e9) < YOUNG


def set_aside(folder: Folder, name: str, stamp: Stamp | None, aside: Folder) -> str | None:
    """Move a file to a folder of what is damaged, under a name that is free there.

    Return its new path; None if it no longer has the stamp that it had when it was found
    to be damaged, where one is given: it was written again or removed meanwhile.
    OSError if it cannot be moved, and is still there.
    """
    try:
        if stamp is not None and Stamp.of(folder.status(name)) != stamp:
            return None
        free = _free_name(aside, name)
        folder.rename(name, aside, free)
        if stamp is None or Stamp.of(aside.status(free)) == stamp:
            return aside.full(free)
        # Another writer was quicker: what was moved is its file, unless there is a newer one yet.
        if not rename_new(aside, free, folder, name):
            aside.unlink(free)
        return None
    except FileNotFoundError:
        return None


def keep_copy(folder: Folder, name: str, aside: Folder) -> str:
    """Give a file a second name in another folder, or copy it where that is not possible."""
    free = _free_name(aside, name)
    try:
        _link(folder, name, aside, free)
    except OSError:
        with open(folder.open_file(name)[0], "rb") as whole:
            _fill(aside, free, lambda file: shutil.copyfileobj(whole, file))
    return aside.full(free)


def _fill(folder: Folder, name: str, write: Callable[[BinaryIO], object]) -> None:
    """Make a file in place; where it cannot be filled, nothing is left of it."""
    try:
        with open(folder.create_file(name)[0], "wb") as file:
            write(file)
    except FileExistsError:
        raise
    except BaseException:
        with contextlib.suppress(OSError):
            folder.unlink(name)
        raise


def _free_name(aside: Folder, name: str) -> str:
    number, free = 1, name
    while aside.has(free):
        number += 1
        free = f"{name}.{number}"
    return free


def sweep(folder: Folder, but: frozenset[str] = frozenset(), older_than: float = DAY) -> int:
    """Remove temporaries, except of some purposes, whose writer is dead, or that are old.

    Names that are not those of our temporaries are left alone. Return how many were
    removed; `older_than` is in seconds.
    """
    removed = 0
    for name in temporaries(folder):
        is_kept = purpose_of(name) in but and not is_replaced(folder, name)
        if not is_kept and is_abandoned(folder, name, older_than):
            with contextlib.suppress(OSError):
                folder.unlink(name)
                removed += 1
    return removed


def is_abandoned(
    folder: Folder, name: str, older_than: float = DAY, now: float | None = None
) -> bool:
    """Whether a temporary's writer is dead or, if that cannot be known, it is old.

    `older_than` is in seconds since it was last written to; `now` is this host's time by
    default.
    """
    owner = temporary_owner(name)
    dead = owner.is_dead() if owner else None
    if dead is not None:
        return dead
    try:
        return (time.time() if now is None else now) - folder.status(name).st_mtime > older_than
    except OSError:
        return False


def now_on(folder: Folder) -> float:
    """Return the time by the clock that stamps the files of a folder, by making one."""
    with Temporary(folder, "clock") as new:
        new.write(b"\0")
        return os.fstat(new.descriptor).st_mtime


def temporaries(folder: Folder | None) -> list[str]:
    """Names of our temporaries in a folder, which need not exist."""
    try:
        return [] if folder is None else [name for name in folder.names() if _NAME.fullmatch(name)]
    except OSError:
        return []
