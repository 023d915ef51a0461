"""Who does the work of a compress: this process, forked ones, or the ranks of a job."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import DatabaseError

T = TypeVar("T")
R = TypeVar("R")
Q = TypeVar("Q")
_Items = TypeVar("_Items", bound=np.generic)

_AHEAD = 3
"""How many tasks each worker may be ahead of who takes the results: this bounds the memory."""

_PORTION = 256
"""Most items of a task."""

_LEAST, _MOST = 1 << 21, 1 << 28
"""Bytes that one task copies, which opens the files anew."""


@dataclass(frozen=True)
class Workers:
    """Who computes for this process.

    Attributes
    ----------
    executor : Executor or None
        None: this process does everything itself.
    count : int
        How many there are.
    apart : bool
        Whether some are on other hosts, which see of a file only what was flushed.
    """

    executor: Executor | None = None
    count: int = 1
    apart: bool = False

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Return the results of tasks, in their order; no more than a few wait to be taken.

        The function is one of a module; tasks and results are sent between processes.
        """
        if self.executor is None:
            yield from map(function, tasks)
            return
        waiting: deque[Future[R]] = deque()
        try:
            for task in tasks:
                waiting.append(self.executor.submit(function, task))
                if len(waiting) > _AHEAD * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
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
            # None is cancelled: over those a pool stumbles whose workers were killed meanwhile.
            wait([future for future in waiting if not future.cancelled()])

    def share(self, n_bytes: int) -> int:
        """Bytes of a task where so many are to be copied: one for each worker, if not too large."""
        return min(max(-(-n_bytes // self.count), _LEAST), _MOST)

    def deal(self, items: Sequence[Q]) -> list[Sequence[Q]]:
        """Deal items into tasks as `cut` does; none where there are none."""
        return [
            [items[number] for number in some.tolist()]
            for some in self.cut(np.arange(len(items)))
            if len(some)
        ]

    def cut(self, items: NDArray[_Items]) -> list[NDArray[_Items]]:
        """Cut items into tasks of one size, equally many for each worker: so all end together."""
        rounds = -(-len(items) // (self.count * _PORTION))
        return np.array_split(items, max(min(self.count * rounds, len(items)), 1))


@contextmanager
def forked(count: int) -> Iterator[Workers]:
    """Fork workers from this process; with fewer than two it does everything itself.

    They are forked at once, so call this before any thread is started, and never
    in a process that has initialised MPI. They end when this process does, however
    it ends.
    """
    pool = _fork(count) if count > 1 else None
    try:
        yield Workers() if pool is None else Workers(pool, count)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _fork(count: int) -> ProcessPoolExecutor | None:
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("fork")
    try:
        pool = ProcessPoolExecutor(count, context, _prepare)
        with warnings.catch_warnings():
            # From Python 3.12: "may deadlock" where there are threads, as BLAS has some;
            # workers take no lock that one of those could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            pool.submit(int)
    except OSError:
        # No more processes, or no more memory, are granted: one can do it alone.
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
            child.join()
        return None
    return pool


def _prepare() -> None:
    """Leave Ctrl-C to the process that is helped, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
