"""Images on which ranks died: they are computed last, and set aside the second time.

Each rank keeps a small file in the database's ``tmp/`` that names the image it is
computing, and removes it when it ends in any orderly way. What a later job finds
there are suspects: images on which a rank crashed, ran out of memory or was killed,
or on which a rank of another job is at work. Which of these nobody needs to know.
A suspect is computed after everything else, on one rank, one after another. Only if
it is still named then, and not in the database yet, does the file of this rank count
one more run that may die on it: an image that a file names with `CRASHES` is set aside.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Container, Iterator

from ampmpi.files.atomic import is_abandoned, purpose_of, temporaries, temporary_name
from ampmpi.files.folder import Folder
from ampmpi.files.trouble import database_error

CRASHES = 2
"""An image on which so many runs have ended is set aside."""

_CONTENT = re.compile(rb"([0-9a-f]{32}) (\d)\n")
_NOTHING = b" " * 34 + b"\n"
PURPOSE = "suspect"


class InFlight:
    """The file in which a rank names the image that it computes.

    Parameters
    ----------
    folder : Folder
        The database's ``tmp/``.
    rank : int
        This rank.

    Raises
    ------
    DatabaseError
        The file cannot be made: the database cannot be written.
    """

    def __init__(self, folder: Folder, rank: int) -> None:
        self.folder, self.name = folder, temporary_name(PURPOSE, rank)
        try:
            self._file, _ = folder.create_file(self.name)
        except OSError as error:
            raise database_error(error, "write to the database at", folder.path) from error
        self._write(_NOTHING)

    def start(self, key: str, runs: int = 1) -> None:
        """Say which image comes now, and how many runs will have ended on it if this one does."""
        self._write(f"{key} {runs}\n".encode())

    def _write(self, text: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk is for the entry to report
            os.pwrite(self._file, text, 0)

    def end(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self.folder.unlink(self.name)
        with contextlib.suppress(OSError):
            os.close(self._file)


def read_suspects(folder: Folder, but: str | None = None) -> dict[str, int]:
    """Return on how many runs each suspect has ended, by key, as all files but one know."""
    found: dict[str, int] = {}
    for name, key, runs in _files(folder):
        if key is not None and name != but:
            found[key] = max(runs, found.get(key, 0))
    return found


def forget(folder: Folder, done: Container[str]) -> None:
    """Remove the files that name images which are done, and those of dead ranks without any."""
    for name, key, _ in _files(folder):
        if is_abandoned(folder, name) if key is None else key in done:
            with contextlib.suppress(OSError):
                folder.unlink(name)


def _files(folder: Folder) -> Iterator[tuple[str, str | None, int]]:
    """Go through the files of all ranks: name, key of the image that it names, if any, and runs."""
    for name in temporaries(folder):
        if purpose_of(name) == PURPOSE:
            match = None
            with contextlib.suppress(OSError):
                match = _CONTENT.match(folder.read(name, 1 << 12)[0])
            yield (name, None, 0) if match is None else (name, match[1].decode(), int(match[2]))
