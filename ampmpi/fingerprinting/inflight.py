"""Which image a rank was computing when it died.

Each rank keeps a small file in the database's ``tmp/`` that names the image it
is working on, and removes it when it ends in any orderly way. A file whose
owner is dead therefore names an image on which a rank crashed, ran out of
memory, or was killed. The next job renames it to ``crashed-KEY-…``; an image
with two of those is set aside.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ampmpi.database.atomic import database_error, temporary_name, temporary_owner

CRASHES = 2
"""After so many crashes an image is set aside."""

STILL = 600.0
"""Seconds after which a rank of another host that moved no further counts as dead."""

_CRASHED = re.compile(r"crashed-([0-9a-f]{32})-[0-9a-f]{12}")
_KEY = re.compile(rb"[0-9a-f]{32}")


class InFlight:
    """The file of one rank.

    Parameters
    ----------
    directory : str
        The database's ``tmp/``.
    rank : int
        This rank.

    Raises
    ------
    DatabaseError
        The file cannot be made: the database cannot be written.
    """

    def __init__(self, directory: str, rank: int) -> None:
        name = temporary_name("inflight", rank).removesuffix(".tmp") + ".image"
        self.path = f"{directory}/{name}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise database_error(error, "write", self.path) from error

    def start(self, key: str) -> None:
        """Say which image comes now."""
        with contextlib.suppress(OSError):  # a full disk is for the entry to report
            os.pwrite(self._file, key.encode("ascii"), 0)

    def end(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            Path(self.path).unlink()
        with contextlib.suppress(OSError):
            os.close(self._file)


def collect_crashes(directory: str) -> Counter[str]:
    """Return how often a rank died on each image, from what dead ranks left behind."""
    crashes: Counter[str] = Counter()
    for name in _names(directory):
        found = _CRASHED.fullmatch(name)
        if found:
            crashes[found[1]] += 1
            continue
        owner = temporary_owner(name.removesuffix(".image") + ".tmp")
        if owner is None or not name.endswith(".image"):
            continue
        path = f"{directory}/{name}"
        with contextlib.suppress(OSError):
            dead = owner.is_dead()
            if dead is None:
                dead = time.time() - Path(path).stat().st_mtime > STILL
            if dead and (key := _read_key(path)) is None:
                Path(path).unlink()
            elif dead:
                nonce = name.removesuffix(".image")[-12:]
                Path(path).rename(f"{directory}/crashed-{key}-{nonce}")
                crashes[str(key)] += 1
    return crashes


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


def _read_key(path: str) -> str | None:
    with open(path, "rb") as file:
        data = file.read(64)
    return data.decode("ascii") if _KEY.fullmatch(data) else None
