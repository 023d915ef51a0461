"""The work of one compress, cut into tasks for those who share it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive.index import Index
from ampmpi.database.archive.reader import IndexedArchive
from ampmpi.database.archive.writer import Chunk, Parcel, deflate_entries
from ampmpi.database.intake import STAMPS, LooseFiles, Stamp, judge, read_loose
from ampmpi.database.layout import Layout, require_database
from ampmpi.entries import Kind
from ampmpi.errors import CorruptEntryError
from ampmpi.keys import to_hex

T = TypeVar("T")
R = TypeVar("R")
_Items = TypeVar("_Items", bound=np.generic)

_PORTION = 256
"""Most items of a task."""

_PARCEL = 1 << 21
"""Bytes of deflated entries after which a task ends."""

_BATCH = 1 << 18
"""Bytes of entries that are read before they are deflated."""


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
    keys = iter(to_hex(digests))
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
