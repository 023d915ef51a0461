"""Processes that share the work of one compress."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from ampmpi.database.archive import IndexedArchive
from ampmpi.database.index import Index
from ampmpi.database.intake import judge, read_loose
from ampmpi.database.layout import Layout, require_database
from ampmpi.database.writer import Chunk, deflate_entry
from ampmpi.errors import CorruptEntryError, DatabaseError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 3
"""How many tasks each process may be ahead of who takes the results: this bounds the memory."""

_PORTION = 256
_PARCEL = 1 << 21


class Helpers(Protocol):
    """Who computes for this process.

    Attributes
    ----------
    count : int
        How many there are besides this process; 0: nobody.
    apart : bool
        Whether some are on other hosts, which see of a file only what was flushed.
    """

    count: int
    apart: bool

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Return the results of tasks, in their order.

        Parameters
        ----------
        function : callable
            A module's function of one task.
        tasks : iterable
            They and their results are sent between processes.
        """


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
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.count:
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(self.count, context, _prepare)
            with warnings.catch_warnings():
                # From Python 3.12: "may deadlock" where there are threads, as BLAS has some;
                # helpers take no lock that one of those could hold.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._pool.submit(int)
        return self

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
        waiting: deque[Future[Any]] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(function, task))
                if len(waiting) > _AHEAD * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DatabaseError(
                "a process that helped to compress was killed (is there enough memory?): "
                "nothing is lost; start again, with --processes 1 for the least memory"
            ) from error


def portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split a sequence into tasks for helpers."""
    return (items[start : start + _PORTION] for start in range(0, len(items), _PORTION))


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


def deflate_loose(path: str | os.PathLike[str], keys: Iterable[str]) -> Iterator[Chunk]:
    """Deflate loose entries for a `compress` that runs in another process.

    Entries that are missing, damaged or unreadable are passed over: the
    compress finds them itself and deals with them.

    Parameters
    ----------
    path : path
        The database.
    keys : iterable of str
        Which entries.
    """
    layout = require_database(path)
    for key in keys:
        with contextlib.suppress(OSError, CorruptEntryError):
            data, stamp = read_loose(layout, key)
            judge(data, layout.kind)
            yield deflate_entry(key, data, stamp)


def deflate_with(helpers: Helpers, layout: Layout, keys: list[str]) -> Iterator[Chunk]:
    """Have helpers deflate loose entries, as `deflate_loose` does."""
    tasks = deque(portions(keys))

    def next_tasks() -> Iterator[Sequence[str]]:
        while tasks:
            yield tasks.popleft()

    while tasks:
        for chunks, rest in helpers.map(partial(_deflate_some, layout.root), next_tasks()):
            yield from chunks
            if rest:
                tasks.append(rest)


def _deflate_some(path: str, keys: Sequence[str]) -> tuple[list[Chunk], Sequence[str]]:
    """Deflate entries until they have `_PARCEL` bytes; return them, and the keys that are left."""
    chunks: list[Chunk] = []
    size = 0
    for chunk in deflate_loose(path, keys):
        chunks.append(chunk)
        size += len(chunk.raw)
        if size >= _PARCEL and chunk.key is not None:
            return chunks, keys[keys.index(chunk.key) + 1 :]
    return chunks, []


def read_back(helpers: Helpers, archive: IndexedArchive) -> Iterator[tuple[int, list[int]]]:
    """Read a whole archive and verify it, shared out among helpers.

    Yields
    ------
    count : int
        How many records were read since the last time.
    damaged : list of int
        Those rows among them that are not sound.
    """
    rows = np.argsort(archive.index.offset)
    tasks = [np.sort(task) for task in np.split(rows, range(_PORTION, len(rows), _PORTION))]
    find = partial(_find_damaged, archive.path)
    parts = (archive.index.part(task) for task in tasks)
    for task, damaged in zip(tasks, helpers.map(find, parts), strict=True):
        yield len(task), task[damaged].tolist()


def _find_damaged(path: str, index: Index) -> list[int]:
    with IndexedArchive.with_index(path, index) as archive:
        return archive.find_damaged(np.argsort(index.offset))
