"""Helpers that are processes on this host, forked for one compress."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import cycle
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from ampmpi.database.helpers import Deflated
from ampmpi.errors import DatabaseError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 3
"""How many tasks each process may be ahead of who takes the results: this bounds the memory."""

_PLACE = 1 << 22
"""Bytes of shared memory for the result of one task; a larger one comes through the pipe."""


class _Stowed(NamedTuple):
    """What was deflated, when the bytes themselves are in shared memory: a pipe is slower."""

    without: Deflated
    size: int

    @classmethod
    def of(cls, deflated: Deflated, place: memoryview) -> Deflated | _Stowed:
        raw = deflated.parcel.raw
        if len(raw) > len(place):
            return deflated
        place[: len(raw)] = raw
        return cls(deflated._replace(parcel=deflated.parcel._replace(raw=b"")), len(raw))

    def fetch(self, place: memoryview) -> Deflated:
        parcel = self.without.parcel._replace(raw=place[: self.size])
        return self.without._replace(parcel=parcel)


class Forked:
    """Processes forked from this one; use it as a context manager.

    They are forked at once, so make them before any thread is started, and
    never in a process that has initialised MPI. They end when this process does,
    however it ends.

    Parameters
    ----------
    count : int
        How many; with fewer than two everything is computed in this process.
    """

    apart = False

    def __init__(self, count: int) -> None:
        self.count = count if count > 1 else 0
        self._ahead = _AHEAD * self.count
        self._places: list[memoryview] = []
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.count:
            others = set(multiprocessing.active_children())
            try:
                self._pool = self._fork()
            except OSError:
                # No more processes, or no more memory, are granted: one can do it alone.
                for child in set(multiprocessing.active_children()) - others:
                    child.kill()
                    child.join()
                self.count = 0
        return self

    def _fork(self) -> ProcessPoolExecutor:
        shared = memoryview(mmap.mmap(-1, (self._ahead + 1) * _PLACE))
        self._places = [shared[at : at + _PLACE] for at in range(0, len(shared), _PLACE)]
        context = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(self.count, context, _prepare, (self._places,))
        with warnings.catch_warnings():
            # From Python 3.12: "may deadlock" where there are threads, as BLAS has some;
            # helpers take no lock that one of those could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            pool.submit(int)
        return pool

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Return the results of tasks; see `Helpers.map`.

        Raises
        ------
        DatabaseError
            A helper died.
        """
        if self._pool is None:
            yield from map(function, tasks)
            return
        places = cycle(range(len(self._places)))
        waiting: deque[tuple[int, Future[Any]]] = deque()
        try:
            for place, task in zip(places, tasks, strict=False):
                waiting.append((place, self._pool.submit(_work, function, task, place)))
                if len(waiting) > self._ahead:
                    yield self._result(*waiting.popleft())
            while waiting:
                yield self._result(*waiting.popleft())
        except BrokenProcessPool as error:
            raise DatabaseError(
                "a process that helped to compress was killed (is there enough memory?): "
                "nothing is lost; start again, with --processes 1 for the least memory"
            ) from error
        except MemoryError as error:
            raise DatabaseError(
                "there is too little memory to compress with so many processes: nothing is "
                "lost; start again with --processes 1"
            ) from error
        finally:
            # Nobody may write to a place that the next call gives away. None is cancelled:
            # over those a pool stumbles whose helpers were killed at the same time.
            wait([future for _, future in waiting if not future.cancelled()])

    def _result(self, place: int, future: Future[Any]) -> Any:
        result = future.result()
        return result.fetch(self._places[place]) if isinstance(result, _Stowed) else result


_places: list[memoryview] = []
"""In a helper: memory that it shares with who is helped, one place for each task ahead."""


def _work(function: Callable[[T], Any], task: T, place: int) -> Any:
    result = function(task)
    return _Stowed.of(result, _places[place]) if isinstance(result, Deflated) else result


def _prepare(places: list[memoryview]) -> None:
    """Leave Ctrl-C to the process that is helped, and end with it."""
    _places[:] = places
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
