"""A training's log, which is locked while it runs, and what a training says."""

from __future__ import annotations

import errno
import fcntl
import platform
import sys
import time
from contextlib import ExitStack
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


def open_log(stack: ExitStack, comm: Communicator, label: str, *, quiet: bool = False) -> Log:
    """Open LABEL-log.txt for rank 0 to append to, and claim the label; quiet: no log."""
    if quiet:
        return Log(comm.rank, quiet=True)
    path = Path(f"{label}-log.txt")

    def open_claimed() -> TextIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(path.open("a", encoding="utf-8"))
        _claim(file, path, LEASE if batch_job()[1] else 0.0)
        return file

    return Log(comm.rank, stream=agree_alone(comm, open_claimed))


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
