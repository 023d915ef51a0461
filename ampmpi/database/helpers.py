"""Processes that share the work of one compress."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import cycle
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive import IndexedArchive
from ampmpi.database.index import Index, keys_of
from ampmpi.database.intake import STAMPS, LooseFiles, Stamp, judge, read_loose
from ampmpi.database.layout import Kind, Layout, require_database
from ampmpi.database.writer import Chunk, Parcel, deflate_entries
from ampmpi.errors import CorruptEntryError, DatabaseError

T = TypeVar("T")
R = TypeVar("R")
_Items = TypeVar("_Items", bound=np.generic)

_AHEAD = 3
"""How many tasks each process may be ahead of who takes the results: this bounds the memory."""

_PORTION = 256
"""Most items of a task."""

_BATCH = 1 << 18
_PARCEL = 1 << 21
_PLACE = 2 * _PARCEL


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


class Deflated(NamedTuple):
    """Loose entries, ready to be put into an archive.

    Attributes
    ----------
    parcel : Parcel
        They.
    files : LooseFiles
        What was read.
    left : (n,) array of 16-byte strings
        Keys, as bytes, of entries that were not tried.
    """

    parcel: Parcel
    files: LooseFiles
    left: NDArray[np.bytes_]


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
            shared = memoryview(mmap.mmap(-1, (self._ahead + 1) * _PLACE))
            self._places = [shared[at : at + _PLACE] for at in range(0, len(shared), _PLACE)]
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(self.count, context, _prepare, (self._places,))
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
        finally:
            # Nobody may write to a place that the next call gives away.
            wait(future for _, future in waiting if not future.cancel())

    def _result(self, place: int, future: Future[Any]) -> Any:
        result = future.result()
        return result.fetch(self._places[place]) if isinstance(result, _Stowed) else result


def portions(helpers: Helpers, files: Sequence[LooseFiles]) -> Iterator[LooseFiles]:
    """Put files together into tasks for helpers, whatever their sizes were."""
    if files:
        digests = _cut(helpers, np.concatenate([some.digests for some in files]))
        stamps = _cut(helpers, np.concatenate([some.stamps for some in files]))
        yield from map(LooseFiles, digests, stamps)


def _cut(helpers: Helpers, items: NDArray[_Items]) -> list[NDArray[_Items]]:
    """Cut items into tasks of one size, equally many for each helper: so all end together."""
    count = max(helpers.count, 1)
    rounds = -(-len(items) // (count * _PORTION))
    return np.array_split(items, max(min(count * rounds, len(items)), 1))


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


def deflate_with(
    helpers: Helpers, layout: Layout, digests: NDArray[np.bytes_]
) -> Iterator[Deflated]:
    """Have helpers read and deflate loose entries.

    Entries that are missing, damaged or unreadable are passed over. The bytes of
    a parcel are there until the next one is asked for.

    Parameters
    ----------
    digests : (n,) array of 16-byte strings
        Which entries: their keys, as bytes.
    """
    tasks = deque(_cut(helpers, digests))

    def next_tasks() -> Iterator[NDArray[np.bytes_]]:
        while tasks:
            yield tasks.popleft()

    while tasks:
        for deflated in helpers.map(partial(_deflate_some, layout.root), next_tasks()):
            yield deflated
            if len(deflated.left):
                tasks.append(deflated.left)


def _deflate_some(path: str, digests: NDArray[np.bytes_]) -> Deflated:
    """Deflate entries until they have `_PARCEL` bytes.

    Each step is done for a batch before the next one: by turns, they throw each
    other's code and data out of the processor's caches, which costs a seventh.
    """
    layout = require_database(path)
    keys = iter(keys_of(digests))
    chunks: list[Chunk] = []
    stamps: list[Stamp] = []
    size = 0
    while size < _PARCEL and (batch := _read_batch(layout, keys)):
        sound = [found for found in batch if _is_sound(found[1], layout.kind)]
        deflated = deflate_entries([(key, data) for key, data, _ in sound])
        chunks += deflated
        stamps += [stamp for _, _, stamp in sound]
        size += sum(len(chunk.raw) for chunk in deflated)
    parcel = Parcel.of(chunks)
    files = LooseFiles(parcel.digests, np.array(stamps, STAMPS))
    return Deflated(parcel, files, digests[len(digests) - len(list(keys)) :])


def _read_batch(layout: Layout, keys: Iterator[str]) -> list[tuple[str, bytes, Stamp]]:
    """Read loose entries until they have `_BATCH` bytes."""
    batch = []
    size = 0
    for key in keys:
        try:
            data, stamp = read_loose(layout, key)
        except OSError:
            continue
        batch.append((key, data, stamp))
        size += len(data)
        if size >= _BATCH:
            break
    return batch


def _is_sound(data: bytes, kind: Kind) -> bool:
    try:
        judge(data, kind)
    except CorruptEntryError:
        return False
    return True


def read_back(helpers: Helpers, archive: IndexedArchive) -> Iterator[tuple[int, list[int]]]:
    """Read a whole archive and verify it, shared out among helpers.

    Yields
    ------
    count : int
        How many records were read since the last time.
    damaged : list of int
        Those rows among them that are not sound.
    """
    tasks = [np.sort(task) for task in _cut(helpers, np.argsort(archive.index.offset))]
    find = partial(_find_damaged, archive.path)
    parts = (archive.index.part(task) for task in tasks)
    for task, damaged in zip(tasks, helpers.map(find, parts), strict=True):
        yield len(task), task[damaged].tolist()


def _find_damaged(path: str, index: Index) -> list[int]:
    with IndexedArchive.with_index(path, index) as archive:
        return archive.find_damaged(np.argsort(index.offset))
