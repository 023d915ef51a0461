"""Which image a rank was computing when it died.

Each rank keeps a small file in the database's ``tmp/`` that names the image it
is working on and its job, and removes it when it ends in any orderly way. A
signal that asks it to stop is noted at the file's end the moment it comes. A
file whose owner is dead and was not asked to stop therefore names an image on
which a rank crashed, ran out of memory, or was killed. The next job renames it
to ``crashed-KEY-…``; an image with two of those is set aside.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ampmpi.files.atomic import database_error, temporary_name, temporary_owner
from ampmpi.files.owner import Owner
from ampmpi.parallel import launch

CRASHES = 2
"""After so many crashes an image is set aside."""

_CRASHED = re.compile(r"crashed-([0-9a-f]{32})-[0-9a-f]{12}")
_CONTENT = re.compile(r"([0-9a-f]{32}| {32})(?:\n([0-9a-f]{16}) (\d+) (.*)\n)?([\x01-\x1f]*)")


@dataclass(frozen=True)
class Job:
    """A job, told apart from every other one.

    Attributes
    ----------
    nonce : str
        Sixteen hex digits that all ranks of one run share.
    restart : int
        How often the batch job was put back into the queue before.
    batch : str
        Cluster and number of the batch job; empty outside of one.
    """

    nonce: str
    restart: int = 0
    batch: str = ""

    @classmethod
    def new(cls) -> Self:
        """Return a new run of the batch job in which this process is."""
        batch, restart = launch.batch_job()
        return cls(secrets.token_hex(8), restart, batch)

    def is_restart_of(self, other: Job) -> bool:
        """Whether the other is an earlier run of the same batch job, which has ended then."""
        return bool(self.batch) and self.batch == other.batch and self.restart > other.restart


class InFlight:
    """The file of one rank.

    Parameters
    ----------
    directory : str
        The database's ``tmp/``.
    rank : int
        This rank.
    job : Job
        Its job.

    Raises
    ------
    DatabaseError
        The file cannot be made: the database cannot be written.
    """

    def __init__(self, directory: str, rank: int, job: Job) -> None:
        name = temporary_name("inflight", rank).removesuffix(".tmp") + ".image"
        self.path = f"{directory}/{name}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK
            self._file = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise database_error(error, "write", self.path) from error
        self._write(f"{'':32}\n{job.nonce} {job.restart} {job.batch}\n")
        os.lseek(self._file, 0, os.SEEK_END)  # where signals go; naming an image leaves it there
        launch.write_signals_to(self._file)

    def start(self, key: str) -> None:
        """Say which image comes now."""
        self._write(key)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk is for the entry to report
            os.pwrite(self._file, text.encode(), 0)

    def end(self) -> None:
        """Remove the file."""
        launch.stop_writing_signals(self._file)
        with contextlib.suppress(OSError):
            Path(self.path).unlink()
        with contextlib.suppress(OSError):
            os.close(self._file)


@dataclass(frozen=True)
class Marker:
    """What a rank's file says.

    Attributes
    ----------
    name : str
        Name of the file.
    owner : Owner
        The process that made it.
    key : str or None
        The image that it was computing; None as well once it was asked to stop,
        since what ends it then is no crash.
    job : Job or None
        Its job.
    changed : tuple of (int, int)
        Time in nanoseconds and size of the file at its last change.
    mine : bool
        Whether the file belongs to the user of this process.
    """

    name: str
    owner: Owner
    key: str | None
    job: Job | None
    changed: tuple[int, int]
    mine: bool


def read_markers(directory: str) -> list[Marker]:
    """Return what all ranks, living or dead, have in a database's ``tmp/``."""
    found = []
    for name in _names(directory):
        owner = temporary_owner(name.removesuffix(".image") + ".tmp")
        if owner is None or not name.endswith(".image"):
            continue
        with contextlib.suppress(OSError), open(f"{directory}/{name}", "rb") as file:
            text = file.read(4096).decode("utf-8", "replace")
            status = os.fstat(file.fileno())
            content = _CONTENT.fullmatch(text)
            key = job = None
            if content is not None:
                asked = any(ord(byte) in launch.WARNINGS for byte in content[5])
                key = None if asked else content[1].strip() or None
                job = Job(content[2], int(content[3]), content[4]) if content[2] else None
            changed = status.st_mtime_ns, status.st_size
            found.append(Marker(name, owner, key, job, changed, status.st_uid == os.geteuid()))
    return found


def collect_crashes(directory: str, dead: Iterable[Marker]) -> Counter[str]:
    """Return how often a rank died on each image, in earlier jobs and now.

    Parameters
    ----------
    directory : str
        The database's ``tmp/``.
    dead : iterable of Marker
        What dead ranks left behind, which is recorded now.
    """
    for marker in dead:
        path = Path(directory, marker.name)
        with contextlib.suppress(OSError):
            if marker.key is None:
                path.unlink()
            else:
                nonce = marker.name.removesuffix(".image")[-12:]
                path.rename(Path(directory, f"crashed-{marker.key}-{nonce}"))
    return Counter(found[1] for name in _names(directory) if (found := _CRASHED.fullmatch(name)))


def forget(directory: str, keys: Iterable[str]) -> None:
    """Remove the records of crashes on images that are done."""
    done = set(keys)
    for name in _names(directory) if done else ():
        found = _CRASHED.fullmatch(name)
        if found and found[1] in done:
            with contextlib.suppress(OSError):
                Path(directory, name).unlink()


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
