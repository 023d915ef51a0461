"""A training's log, which is locked while it runs, and what a training says."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TextIO

import ampmpi
from ampmpi.errors import LockedError
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree_alone
from ampmpi.parallel.launch import batch_job
from ampmpi.parallel.log import Log

LEASE = 120.0
"""Seconds for which a requeued job waits for its label: the file server may not know yet that
the host on which it ran before is gone."""

# What flock says on file systems that have no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Voice:
    """What a training says on rank 0: to its log, and to the terminal where it has one."""

    def __init__(self, log: Log, terminal: Log | None, rank: int) -> None:
        self.log = log
        self._terminal = terminal
        self._errors = Log(rank, stream=sys.stderr)

    def say(self, line: str) -> None:
        """Say something to log and terminal."""
        self.log(line)
        if self._terminal is not None:
            self._terminal(line)

    def tell(self, line: str) -> None:
        """Say something to log and terminal; to standard error where there is no terminal."""
        self.log(line)
        (self._terminal or self._errors)(line)

    def warn(self, line: str) -> None:
        """Say to log and standard error what the user should know."""
        self.log(f"Warning: {line}")
        self._errors(f"ampmpi: warning: {line}")


class TrainingLog(Log):
    """LABEL-log.txt, to which rank 0 appends, and by which a training claims its label.

    Parameters
    ----------
    stack : ExitStack
        Closes the file.
    comm : Communicator
        The ranks that train; the log is silent on all but the first.
    label : str
        Prefix of the training's files; their folder is made.
    quiet : bool
        Write no log, and claim nothing.
    """

    def __init__(
        self, stack: ExitStack, comm: Communicator, label: str, *, quiet: bool = False
    ) -> None:
        self.path = Path(f"{label}-log.txt")
        self._made: list[Path] = []
        self._is_new = False
        file = agree_alone(comm, lambda: self._make_folder() if quiet else self._open(stack))
        super().__init__(comm.rank, stream=file, quiet=quiet)

    def discard(self) -> None:
        """Remove the log and its folder again, as far as this training has made them."""
        if self._is_new:
            self.path.unlink(missing_ok=True)
        for folder in self._made:
            with suppress(OSError):  # somebody else uses it by now
                folder.rmdir()

    def _make_folder(self) -> None:
        folder = self.path.parent
        self._made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)

    def _open(self, stack: ExitStack) -> TextIO:
        while True:
            self._make_folder()
            file = stack.enter_context(self.path.open("a", encoding="utf-8"))
            _claim(file, self.path, LEASE if batch_job()[1] else 0.0)
            status = os.fstat(file.fileno())
            if status.st_nlink:  # else a training that came to nothing has removed it meanwhile
                self._is_new = status.st_size == 0
                return file


def _claim(file: TextIO, path: Path, wait: float) -> None:
    """Lock a training's log until it is closed, so that no other training uses its files.

    The system unlocks it when the process ends, however that is.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"another training writes {path}: wait until it ends, or take another label"
                ) from None
            time.sleep(1.0)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return


def head(size: int, descriptor: Any, label: str) -> str:
    """Return what a log starts with."""
    return (
        f"\nampmpi {ampmpi.__version__} on {size} rank{'s' if size > 1 else ''}, "
        f"{time.strftime('%Y-%m-%d %H:%M:%S')}, Python {platform.python_version()} on "
        f"{platform.node()}\nLabel: {label}\n{descriptor}"
    )
