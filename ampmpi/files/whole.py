"""Files that a user names: written whole or not at all, and read for what they are."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from ampmpi.errors import FileError
from ampmpi.files import atomic
from ampmpi.files.atomic import Temporary
from ampmpi.files.folder import Folder


def sweep(path: str | os.PathLike[str]) -> None:
    """Remove what killed processes left of writing files beside this one."""
    with contextlib.suppress(OSError):
        atomic.sweep(Folder.open(os.path.dirname(path) or "."))


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a user's file: it is flushed to the disk, and there as a whole or not at all."""
    directory, name = os.path.split(path)
    with named(path):
        folder = Folder.open(directory or ".")
        folder.file_mode = None
        with Temporary(folder, "file", error=FileError) as temporary:
            temporary.write(data)
            temporary.sync()
            temporary.replace(folder, name)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read; ValueError if it is a FIFO, device or folder: none is waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_whole(path: str | os.PathLike[str], limit: int) -> bytes:
    """Read a regular file; ValueError if it has more than `limit` bytes or is not regular."""
    with open_regular(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit / 1e6:.0f} MB")
    return data


@contextlib.contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let errors of the system within the block name a file."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = os.fspath(path), None
        raise
