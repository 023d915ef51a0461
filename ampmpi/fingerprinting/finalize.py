"""The job's end: loose entries go into the archive.

All ranks deflate, read back and remove; rank 0 alone writes, and renames what
all have found to be right, so that the promise that nothing is lost stays with one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ampmpi.database import FingerprintDatabase
from ampmpi.database.compress import CompressReport, compress
from ampmpi.errors import AmpmpiError
from ampmpi.parallel.comm import Communicator, rest_until
from ampmpi.parallel.failure import agree

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 64
"""How many tasks rank 0 may be ahead of their results: with 2 MB each this bounds its memory."""

_FEW = 4
_LONGEST_NAP = 5e-3
_END = 7576  # tag of the message that no more tasks come


def compress_together(database: FingerprintDatabase, comm: Communicator) -> CompressReport:
    """Compress a database with all ranks; every rank calls this and gets the report.

    Raises
    ------
    LockedError
        Another process compresses it.
    DatabaseError
        The archive cannot be written; nothing has changed then.
    """
    apart = comm.split_nodes().size < comm.size
    if comm.rank > 0:
        _serve(comm)
    return agree(comm, lambda: _lead(database, Ranks(comm, apart)))


def _lead(database: FingerprintDatabase, ranks: Ranks) -> CompressReport:
    try:
        return compress(database.path, helpers=ranks)
    finally:
        ranks.dismiss()
        database.close()


class Ranks:
    """The other ranks, as helpers of rank 0; see `ampmpi.database.helpers.Helpers`."""

    def __init__(self, comm: Communicator, apart: bool) -> None:
        self.count = comm.size - 1
        self.apart = apart
        self._comm = comm
        self._idle = deque(range(1, comm.size))
        self._busy: dict[int, int] = {}

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Return the results of tasks, in their order; a rank has one task at a time.

        Where the ranks are few, this one works on tasks itself while it would have to wait.
        """
        results: dict[int, Any] = {}
        left = enumerate(tasks)
        wanted = 0
        task = next(left, None)
        while task is not None or wanted in results or self._busy:
            self._collect(results)
            while task is not None and self._idle and task[0] - wanted < AHEAD:
                self._give(self._idle.popleft(), function, task)
                task = next(left, None)
            if wanted in results:
                yield _value(results.pop(wanted))
                wanted += 1
            elif task is not None and self.count < _FEW and task[0] - wanted < AHEAD:
                results[task[0]] = function(task[1])
                task = next(left, None)
            else:
                self._await(wanted)

    def dismiss(self) -> None:
        """Let the others return from `_serve`, whatever they are at."""
        while self._busy:
            self._take(next(iter(self._busy)))
        for rank in self._idle:
            self._comm.tell(rank, _END)

    def _give(self, rank: int, function: Callable[[T], R], task: tuple[int, T]) -> None:
        number, what = task
        self._comm.send((function, what), rank)
        self._busy[rank] = number

    def _take(self, rank: int) -> tuple[int, Any]:
        result = self._comm.receive(rank)
        self._idle.append(rank)
        return self._busy.pop(rank), result

    def _collect(self, results: dict[int, Any]) -> None:
        for rank in [rank for rank in self._busy if self._comm.has_sent(rank)]:
            number, result = self._take(rank)
            results[number] = result

    def _await(self, wanted: int) -> None:
        """Rest until the rank that has this task, or any when none has it, has done its own."""
        ranks = [rank for rank, number in self._busy.items() if number == wanted]
        rest_until(lambda: any(map(self._comm.has_sent, ranks or self._busy)), _LONGEST_NAP)


def _value(result: Any) -> Any:
    if isinstance(result, Exception):
        raise result
    return result


def _serve(comm: Communicator) -> None:
    """Do the tasks of rank 0 until it has no more; what a file or disk does is for it to judge."""
    while _is_needed(comm):
        function, task = comm.receive(0)
        result: Any
        try:
            result = function(task)
        except (OSError, AmpmpiError) as error:
            result = error
        comm.send(result, 0)


def _is_needed(comm: Communicator) -> bool:
    """Rest until there is a task, or no more is to come."""
    ended = False

    def has_news() -> bool:
        nonlocal ended
        ended = comm.told(_END) is not None
        return ended or comm.has_sent(0)

    rest_until(has_news, _LONGEST_NAP)
    return not ended
