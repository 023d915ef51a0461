"""Errors under MPI: one rank's error ends the job, and errors of rank 0 are raised on all.

Under plain ``python``, a rank that raises while others wait in a collective call
hangs the job for ever; here it prints what happened and aborts.
"""

from __future__ import annotations

import copy
import errno
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from ampmpi.errors import AmpmpiError
from ampmpi.parallel.comm import Communicator

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

# What is wrong with a file or its file system, not with the program.
FROM_OUTSIDE = {
    errno.EACCES, errno.EDQUOT, errno.EIO, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOSPC,
    errno.ENOTDIR, errno.EPERM, errno.EROFS, errno.ESTALE,
}  # fmt: skip


def is_shared(error: BaseException) -> bool:
    """Return whether every rank raises this error, so that no rank is left waiting."""
    return getattr(error, "_ampmpi_shared", False)


def share(error: E) -> E:
    """Mark an error that every rank raises at the same place."""
    error._ampmpi_shared = True  # type: ignore[attr-defined]
    return error


def agree(comm: Communicator, function: Callable[[], T]) -> T:
    """Run a function on rank 0 and return its result on every rank.

    If it raises one of the package's errors, every rank raises the same error.
    """
    outcome: T | AmpmpiError
    if comm.rank == 0:
        try:
            outcome = function()
        except AmpmpiError as error:
            outcome = error if comm.size == 1 else _portable(error)
        outcome = comm.bcast(outcome)
    else:
        outcome = comm.bcast(None)  # type: ignore[assignment]
    if isinstance(outcome, AmpmpiError):
        raise share(outcome)
    return outcome


def agree_alone(comm: Communicator, function: Callable[[], T]) -> T | None:
    """Run a function on rank 0 and keep its result there; the other ranks get None.

    Errors are raised on every rank, as by `agree`.
    """
    kept: list[T] = []
    agree(comm, lambda: kept.append(function()))
    return kept[0] if kept else None


def on_all(comm: Communicator, function: Callable[[], T]) -> T:
    """Run a function on every rank; the error of the lowest rank that has one is raised on all."""
    outcome: T | AmpmpiError
    try:
        outcome = function()
    except AmpmpiError as caught:
        outcome = caught
    raise_first(comm, outcome if isinstance(outcome, AmpmpiError) else None)
    return outcome  # type: ignore[return-value]


def raise_first(comm: Communicator, error: AmpmpiError | None) -> None:
    """Raise the error of the lowest rank that has one, on every rank; else return."""
    errors = comm.allgather(None if error is None else _portable(error))
    for found in errors:
        if found is not None:
            raise share(found)


@contextmanager
def abort_on_error(comm: Communicator) -> Iterator[None]:
    """End the whole job if this rank alone raises.

    Errors that all ranks share pass through, and so does every error of a serial run.
    """
    try:
        yield
    except BaseException as error:
        if comm.size == 1 or is_shared(error):
            raise
        report(error, comm)
        comm.abort(exit_code(error))
        raise


def exit_code(error: BaseException) -> int:
    """Return the exit code that an exception stands for."""
    if isinstance(error, AmpmpiError):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 1


def report(error: BaseException, comm: Communicator | None = None) -> None:
    """Print one sentence for an error of the package or of a file, otherwise the traceback.

    An interrupt from the keyboard is no error, and gets one line.
    """
    where = ""
    if comm is not None and comm.size > 1 and not is_shared(error):
        where = f" on rank {comm.rank} of {comm.size} at {socket.gethostname()}"
    if isinstance(error, AmpmpiError):
        text = f"ampmpi: error{where}: {error}\n"
    elif isinstance(error, KeyboardInterrupt):
        text = f"ampmpi: interrupted{where}: start the same command again\n"
    elif isinstance(error, OSError) and error.filename and error.errno in FROM_OUTSIDE:
        what = f"{error.filename}: {error.strerror}; correct that and start again"
        text = f"ampmpi: error{where}: {what}\n"
    else:
        lines = "".join(traceback.format_exception(error))
        text = f"{lines}ampmpi: unexpected error{where}: {type(error).__name__}: {error}\n"
    sys.stderr.write(text)
    sys.stderr.flush()


def install_excepthook(comm: Communicator) -> None:
    """Let an exception that a script does not catch end the job on every rank.

    The package's errors have their own exit codes.
    """
    if getattr(sys.excepthook, "_ampmpi", False):
        return
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if comm.size == 1 or is_shared(error):
            if comm.rank == 0:
                previous(kind, error, trace)
            if isinstance(error, AmpmpiError):
                raise SystemExit(error.exit_code)
            return
        report(error, comm)
        comm.abort(exit_code(error))

    hook._ampmpi = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _portable(error: AmpmpiError) -> AmpmpiError:
    """Return a copy of the error without what cannot be sent: its traceback and causes."""
    bare = copy.copy(error)
    bare.__traceback__ = bare.__cause__ = bare.__context__ = None
    return bare
