"""A directory that is held open.

What is done through it reaches this directory, whatever happens to its name: it
is followed when it is renamed, another one that takes its name is not touched,
and when it is removed nothing can be made in it any more. Names in it are never
followed when they are symbolic links, and never waited for when they are pipes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple, Self

OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""To open what may be anything: a link is refused, a pipe is not waited for."""

_WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PIECE = 1 << 20


class Stamp(NamedTuple):
    """What changes when a file is written again: its status when it was read.

    The device is left out: hosts number the same network file system differently.
    """

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of the file with this status."""
        # A clock that is centuries ahead gives more nanoseconds than an array can hold.
        return cls(status.st_ino, status.st_size, status.st_mtime_ns & 0x7FFFFFFFFFFFFFFF)


class NotRegularError(OSError):
    """What has the name is no regular file."""

    def __init__(self) -> None:
        super().__init__(errno.EINVAL, "it is no regular file: move it elsewhere")


class Folder:
    """An open directory.

    Parameters
    ----------
    path : str
        Its name when it was opened, for messages.
    descriptor : int
        The open directory.
    file_mode, group : int
        Permission bits and group that new files get; None for those that the umask gives.

    Attributes
    ----------
    inode : int
        Its number on its file system.
    """

    def __init__(self, path: str, descriptor: int, file_mode: int | None, group: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.file_mode, self.group = file_mode, group
        self.inode = os.fstat(descriptor).st_ino

    @classmethod
    def open(cls, path: str) -> Self:
        """Open a directory, which a symbolic link may lead to.

        New files in it, and in directories below it, get its own read and write
        bits and its group.
        """
        descriptor = os.open(path, _DIRECTORY)
        status = os.fstat(descriptor)
        return cls(path, descriptor, status.st_mode & 0o666, status.st_gid)

    def inner(self, name: str) -> Folder:
        """Open a directory in this one; NotADirectoryError if it is a link to one."""
        path = self.full(name)
        try:
            descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.descriptor)
        except NotADirectoryError as error:
            is_link = stat.S_ISLNK(self.status(name).st_mode)
            what = "it is a symbolic link, and none is followed here" if is_link else error.strerror
            raise NotADirectoryError(errno.ENOTDIR, what, path) from None
        return Folder(path, descriptor, self.file_mode, self.group)

    def make(self, name: str) -> None:
        """Make a directory in this one, with its mode and group, unless there is something."""
        mode = stat.S_IMODE(os.fstat(self.descriptor).st_mode)
        try:
            os.mkdir(name, mode, dir_fd=self.descriptor)
        except FileExistsError:
            return
        made = self.inner(name)
        self._hand_over(made.descriptor, os.fstat(made.descriptor), mode, self.group)

    def full(self, name: str) -> str:
        """Path of a name in this directory, for messages."""
        return f"{self.path}/{name}"

    def status(self, name: str) -> os.stat_result:
        """Status of what has a name; of a link itself."""
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)

    def has(self, name: str) -> bool:
        """Whether anything has a name; False also where that cannot be known."""
        try:
            self.status(name)
        except OSError:
            return False
        return True

    def is_regular(self, name: str) -> bool:
        """Whether a regular file has a name."""
        try:
            return stat.S_ISREG(self.status(name).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def open_file(self, name: str) -> tuple[int, os.stat_result]:
        """Open a regular file for reading; return its descriptor and status.

        NotRegularError if it is something else; of a link, ELOOP.
        """
        descriptor = os.open(name, OPEN, dir_fd=self.descriptor)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise NotRegularError
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, status

    def open_to_write(self, name: str) -> int:
        """Open a file that exists for writing; of a link, ELOOP."""
        return os.open(name, _WRITE, dir_fd=self.descriptor)

    def create_file(
        self, name: str, like: os.stat_result | None = None
    ) -> tuple[int, os.stat_result]:
        """Make a file that must not exist; return its descriptor and status.

        It gets the folder's permissions and group, whatever the umask is, or those of
        the file whose place it shall take.
        """
        wanted = self.file_mode if like is None else like.st_mode & 0o777
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(
            name, flags, 0o666 if wanted is None else wanted, dir_fd=self.descriptor
        )
        try:
            status = os.fstat(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if wanted is not None:
            self._hand_over(descriptor, status, wanted, self.group if like is None else like.st_gid)
        return descriptor, status

    @staticmethod
    def _hand_over(descriptor: int, status: os.stat_result, mode: int, group: int) -> None:
        """Give what was made to a group, with these permissions.

        A file system without permissions refuses, and one cannot give to another's group.
        """
        if status.st_gid != group:
            with contextlib.suppress(OSError):
                os.fchown(descriptor, -1, group)
        if stat.S_IMODE(status.st_mode) != mode:
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, mode)

    def read(self, name: str, limit: int) -> tuple[bytes, Stamp]:
        """Read a regular file whole, and what tells whether it is written again later.

        NotRegularError if it is something else; EFBIG if it has more than `limit` bytes.
        """
        descriptor, status = self.open_file(name)
        try:
            if status.st_size > limit:
                raise OSError(errno.EFBIG, f"it has more than {limit} bytes")
            data = os.read(descriptor, status.st_size + 1)
            if len(data) != status.st_size:
                # It grows, or is handed out in parts.
                parts = [data]
                while (more := os.read(descriptor, _PIECE)) and sum(map(len, parts)) <= limit:
                    parts.append(more)
                data = b"".join(parts)
        finally:
            os.close(descriptor)
        return data, Stamp.of(status)

    def unlink(self, name: str) -> None:
        """Remove a file."""
        os.unlink(name, dir_fd=self.descriptor)

    def rename(self, name: str, target: Folder, new_name: str) -> None:
        """Give a file a name in a directory, in place of what has it there."""
        os.rename(name, new_name, src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor)

    def remove_as_read(self, name: str, stamp: Stamp) -> bool:
        """Remove a file if it is still the one that was read; return whether it was."""
        if Stamp.of(self.status(name)) != stamp:
            return False
        self.unlink(name)
        return True

    def names(self) -> list[str]:
        """Return all names in the directory."""
        with self.scan() as found:
            return [entry.name for entry in found]

    @contextlib.contextmanager
    def scan(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        """Go through the directory, with what the file system's listing says of each name."""
        # Anew, since all who use one descriptor go on in the listing where another one stopped.
        descriptor = os.open(".", _DIRECTORY, dir_fd=self.descriptor)
        try:
            with os.scandir(descriptor) as found:
                yield found
        finally:
            os.close(descriptor)

    def sync(self) -> None:
        """Wait until the names here are on the disk, where the file system can do that."""
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
                raise

    def close(self) -> None:
        """Close the directory."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            self.close()
