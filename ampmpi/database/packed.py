"""Reading packs: where the entries of all of them lie, looked up anew when there are others."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Container, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive.index import Part, read_index
from ampmpi.database.archive.reader import Records
from ampmpi.database.layout import PACKS, Home
from ampmpi.database.packs import is_pack_name
from ampmpi.database.workers import Workers
from ampmpi.errors import CorruptEntryError
from ampmpi.files.folder import Folder, NotRegularError, Stamp
from ampmpi.files.trouble import database_error, is_of_one_file, reason_of
from ampmpi.keys import digests_of, distinct, to_hex

_RECENT = 2.0
"""Seconds in which a directory may change again without showing it by its time."""

_NONE = np.empty(0, np.uint64)
_NOTHING = Part(
    digests_of([]), np.empty(0, bool), _NONE, _NONE, _NONE, _NONE.astype("u4"), _NONE.astype("u4")
)


class Pack(NamedTuple):
    """One pack.

    Attributes
    ----------
    name : str
        Its name in ``packs/``.
    stamp : Stamp
        Which file it is.
    damage : str or None
        What is wrong with it as a whole, if anything is.
    is_open : bool
        Whether it could be opened; else `damage` says why not, and its entries are not known.
    """

    name: str
    stamp: Stamp
    damage: str | None = None
    is_open: bool = True


class Packed(NamedTuple):
    """The packs of a database, as they were when they were listed.

    Attributes
    ----------
    packs : tuple of Pack
        All of them.
    part : Part
        Their entries, sorted by key; of several copies, the newest pack's comes first.
    number : (n,) uint32 array
        In which pack each of them is.
    """

    packs: tuple[Pack, ...]
    part: Part
    number: NDArray[np.uint32]

    def plus(self, more: list[tuple[Pack, Part]]) -> Packed:
        """Add packs that are newer than these."""
        more = sorted(more, key=lambda each: each[0].stamp.mtime_ns, reverse=True)
        packs = self.packs + tuple(pack for pack, _ in more)
        part = Part._make(map(np.concatenate, zip(*(part for _, part in more), strict=True)))
        numbers = np.arange(len(self.packs), len(packs), dtype=np.uint32)
        number = np.repeat(numbers, [len(part.digests) for _, part in more])
        order = np.argsort(part.digests, kind="stable")
        part, number = part.some(order), number[order]
        if len(self.number):
            at = np.searchsorted(self.part.digests, part.digests)
            part = Part._make(_inserted(*both, at) for both in zip(self.part, part, strict=True))
            number = _inserted(self.number, number, at)
        return Packed(packs, part, number)

    def digests(self) -> NDArray[np.bytes_]:
        """All keys as 16-byte strings, sorted."""
        return distinct(self.part.digests)

    def rows(self, digests: NDArray[np.bytes_]) -> NDArray[np.intp]:
        """Rows of those of some keys that are there, of each one the newest copy first."""
        first = np.searchsorted(self.part.digests, digests, "left")
        count = np.searchsorted(self.part.digests, digests, "right") - first
        begin = np.cumsum(count) - count
        rows: NDArray[np.intp] = np.arange(count.sum()) + np.repeat(first - begin, count)
        return rows

    def copies(self, packs: Container[str]) -> NDArray[np.intp]:
        """Rows of one copy of each entry: the newest that is not in some packs."""
        left_out = np.array([pack.name in packs for pack in self.packs], bool)
        rows = np.flatnonzero(~left_out[self.number])
        digests = self.part.digests[rows]
        first = np.ones(len(rows), bool)
        np.not_equal(digests[1:], digests[:-1], out=first[1:])
        return rows[first]

    def by_pack(self, rows: NDArray[np.intp]) -> Iterator[tuple[Pack, Part]]:
        """Go through rows pack by pack, those of each in the order in which they lie there."""
        if not len(rows):
            return
        rows = rows[np.lexsort((self.part.offset[rows], self.number[rows]))]
        numbers, starts = np.unique(self.number[rows], return_index=True)
        for number, some in zip(numbers.tolist(), np.split(rows, starts[1:]), strict=True):
            yield self.packs[number], self.part.some(some)


def _inserted(old: Any, new: Any, at: NDArray[np.intp]) -> Any:
    return np.insert(old, at, new)


_NO_PACKS = Packed((), _NOTHING, np.empty(0, np.uint32))


class PackReader:
    """Knows the packs of a database; reads each one's index once."""

    def __init__(self, home: Home, workers: Workers | None = None) -> None:
        self._home, self._workers = home, workers or Workers()
        self._state: tuple[int, int] | None = None
        self._packed = _NO_PACKS

    def state(self) -> tuple[int, int]:
        """Return what changes when packs come and go: the directory, and its time of change."""
        try:
            status = self._home.root.status(PACKS)
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_mtime_ns

    def current(self) -> Packed:
        """Return the packs that are there now.

        Raises
        ------
        DatabaseError
            They cannot be listed, or one cannot be read for a reason that concerns all.
        OSError
            A file was replaced on its server meanwhile (ESTALE).
        """
        state = self.state()
        if state != self._state:
            folder = self._home.inner(PACKS) if state[0] else None
            if folder is not None and folder.inode != state[0]:
                self._home.forget(PACKS)
                folder = self._home.inner(PACKS)
            self._packed = _NO_PACKS if folder is None else self._listed(folder)
            # Another change in the same tick of the clock would not show.
            is_old = time.time() - state[1] / 1e9 > _RECENT
            is_whole = all(pack.is_open for pack in self._packed.packs)
            self._state = state if (is_old and is_whole) or not state[0] else None
        return self._packed

    def _listed(self, folder: Folder) -> Packed:
        try:
            with folder.scan() as items:
                files = {item.name: item.inode() for item in items if is_pack_name(item.name)}
        except OSError as error:
            if error.errno == errno.ESTALE:
                raise
            raise database_error(error, "list", folder.path) from error
        before = self._packed
        known = {pack.name: pack.stamp.inode for pack in before.packs}
        if not known.items() <= files.items():
            # Some have gone or were replaced, and with them the choice among copies.
            before, known = _NO_PACKS, {}
        fresh = sorted(files.keys() - known.keys())
        several = self._workers.map(partial(_open_some, self._home), self._workers.deal(fresh))
        opened = [each for some in several for each in some]
        return before.plus(opened) if opened else before

    def __contains__(self, key: str) -> bool:
        packed = self.current()
        return bool(packed.packs) and len(packed.rows(digests_of([key]))) > 0

    def read(self, key: str) -> bytes | CorruptEntryError | None:
        """Return an entry's bytes, of its newest sound copy; if there is none, what is wrong."""
        packed, wrong = self.current(), None
        if not packed.packs:
            return None
        for row in packed.rows(digests_of([key])):
            for pack, part in packed.by_pack(np.array([row])):
                for _, data in self._records(pack, part):
                    if isinstance(data, bytes):
                        return data
                    wrong = wrong or data
        return wrong

    def read_many(
        self, digests: NDArray[np.bytes_]
    ) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        """Go through all copies of some entries, pack by pack."""
        packed = self.current()
        for pack, part in packed.by_pack(packed.rows(digests)):
            yield from self._records(pack, part)

    def _records(self, pack: Pack, part: Part) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        folder = self._home.inner(PACKS)
        if folder is None:
            return
        path = folder.full(pack.name)
        try:
            descriptor, status = folder.open_file(pack.name)
        except (FileNotFoundError, NotRegularError):
            return  # a compress has moved what is in it into the archive
        except OSError as error:
            if error.errno == errno.ESTALE:
                raise
            if not is_of_one_file(error):
                raise database_error(error, "read", path) from error
            reason = CorruptEntryError(f"cannot read {path}: {reason_of(error)}")
            yield from ((key, reason) for key in to_hex(part.digests))
            return
        try:
            if Stamp.of(status) != pack.stamp:
                self._state = None  # another file has taken its name
                return
            records = Records(path, descriptor, part)
            for number, raw in records.walk():
                key = records.key(number)
                assert key is not None
                try:
                    yield key, records.entry(number, raw)
                except CorruptEntryError as error:
                    yield key, error
        finally:
            os.close(descriptor)


def _open_some(home: Home, names: Sequence[str]) -> list[tuple[Pack, Part]]:
    folder = home.inner(PACKS)
    if folder is None:
        return []
    return [each for name in names if (each := _opened(folder, name)) is not None]


def _opened(folder: Folder, name: str) -> tuple[Pack, Part] | None:
    """Read a pack's index; None if it is no regular file, or is gone."""
    try:
        descriptor, status = folder.open_file(name)
    except (FileNotFoundError, NotRegularError):
        return None
    except OSError as error:
        if not is_of_one_file(error):
            raise database_error(error, "read", folder.full(name)) from error
        try:
            stamp = Stamp.of(folder.status(name))
        except FileNotFoundError:
            return None
        return Pack(name, stamp, reason_of(error), is_open=False), _NOTHING
    try:
        found = read_index(descriptor, status.st_size)
    except OSError as error:
        if error.errno == errno.ESTALE:
            raise
        raise database_error(error, "read", folder.full(name)) from error
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    stamp = Stamp.of(status)
    if found is None:
        return Pack(name, stamp, "it has no index, or a damaged one"), _NOTHING
    entries = np.arange(len(found.index.digests))
    part = _NOTHING if found.is_moved else found.index.part(entries)
    return Pack(name, stamp, found.misfit), part
