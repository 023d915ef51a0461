"""Processes that share the work of one compress."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive import IndexedArchive
from ampmpi.database.index import Index, keys_of
from ampmpi.database.intake import STAMPS, LooseFiles, Stamp, judge, read_loose
from ampmpi.database.layout import Layout, require_database
from ampmpi.database.writer import Chunk, Parcel, deflate_entry
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


def deflate_with(
    helpers: Helpers, layout: Layout, digests: NDArray[np.bytes_]
) -> Iterator[tuple[Parcel, LooseFiles]]:
    """Have helpers read and deflate loose entries.

    Entries that are missing, damaged or unreadable are passed over.

    Parameters
    ----------
    digests : (n,) array of 16-byte strings
        Which entries: their keys, as bytes.

    Yields
    ------
    parcel : Parcel
        Some of the entries.
    files : LooseFiles
        What was read.
    """
    tasks = deque(np.split(digests, range(_PORTION, len(digests), _PORTION)))

    def next_tasks() -> Iterator[NDArray[np.bytes_]]:
        while tasks:
            yield tasks.popleft()

    while tasks:
        for parcel, files, left in helpers.map(partial(_deflate_some, layout.root), next_tasks()):
            yield parcel, files
            if len(left):
                tasks.append(left)


def _deflate_some(
    path: str, digests: NDArray[np.bytes_]
) -> tuple[Parcel, LooseFiles, NDArray[np.bytes_]]:
    """Deflate entries until they have `_PARCEL` bytes; return them, and which are left."""
    layout = require_database(path)
    chunks: list[Chunk] = []
    stamps: list[Stamp] = []
    size = tried = 0
    for key in keys_of(digests):
        if size >= _PARCEL:
            break
        tried += 1
        try:
            data, stamp = read_loose(layout, key)
            judge(data, layout.kind)
        except (OSError, CorruptEntryError):
            continue
        chunk = deflate_entry(key, data)
        chunks.append(chunk)
        stamps.append(stamp)
        size += len(chunk.raw)
    parcel = Parcel.of(chunks)
    return parcel, LooseFiles(parcel.digests, np.array(stamps, STAMPS)), digests[tried:]


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
