"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def sweep(path: str | os.PathLike[str]) -> None:
    """Remove what killed processes left of writing a file that no other process writes now."""
    target = Path(path)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        left.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file beside its target, flush it to disk and put it in place.

    Raises
    ------
    OSError
        The file cannot be written; what was there before still is.
    """
    target = Path(path)
    temporary = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    with named(target):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with open(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let errors of the system within the block name a file."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = os.fspath(path), None
        raise
