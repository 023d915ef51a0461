"""Sound copies of entries, wherever they lie: loose, in an archive, or in a damaged one.

A source gives its copies as parcels, ready to be put into an archive: each was
verified on the way. What it has and cannot give, it names.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import loose
from ampmpi.database.archive.index import Part, read_exactly
from ampmpi.database.archive.reader import Archive, IndexedArchive, Records, StreamedArchive
from ampmpi.database.archive.salvage import rescue
from ampmpi.database.archive.tar import MAX_ENTRY_SIZE
from ampmpi.database.archive.writer import Parcel, pack, pack_records
from ampmpi.database.layout import LOOSE, Home
from ampmpi.database.workers import Workers
from ampmpi.entries import Kind, codec
from ampmpi.entries.checksum import crc32
from ampmpi.errors import CorruptEntryError
from ampmpi.files.folder import Folder, Stamp
from ampmpi.files.trouble import unless_damaged
from ampmpi.keys import DIGEST, digests_of, member_of, to_hex

_STAMP = [("inode", "u8"), ("size", "i8"), ("mtime_ns", "i8")]
STAMPS = np.dtype(_STAMP)
"""The fields of a `Stamp`, for arrays of them."""

TAKEN = np.dtype([("digest", DIGEST), *_STAMP])
"""A loose entry that was read: its key, and what tells whether it is written again later."""

_PARCEL = 1 << 21
"""Bytes of deflated records that are read at once."""

_BATCH = 1 << 21
"""Bytes of entries after which a parcel ends."""

_Member = tuple[str | None, bytes]
_Copy = tuple[str | None, bytes, str | None]
"""Key of an entry, or None, what it holds, and why it cannot be believed, if so."""


class ArchiveChangedError(OSError):
    """Another archive has taken the name of the one that was read."""


class Source(Protocol):
    """Where entries come from; `lost` says which it cannot give, and why."""

    home: Home
    lost: dict[str, str]

    def digests(self) -> NDArray[np.bytes_]:
        """Keys, as 16-byte strings, that the source may be able to give; sorted."""

    def parcels(self, without: NDArray[np.bytes_]) -> Iterator[Parcel]:
        """Give each sound entry once, but for some keys, which are sorted."""


def judge(data: bytes, kind: Kind) -> None:
    """Raise CorruptEntryError unless an entry is whole.

    In databases of other kinds, only what says that it is one of this package's
    entries is judged.
    """
    if kind != "other" or not data or codec.MAGIC in data[-64:]:
        codec.verify(data)


class LooseEntries:
    """The loose entries of a database.

    Attributes
    ----------
    taken : list of arrays of TAKEN
        What was given.
    lost : dict of str to str
        Keys of entries that could not be given, with what is wrong.
    damaged : dict of str to Stamp
        Stamps of those that were read and are damaged.
    """

    def __init__(self, home: Home, workers: Workers) -> None:
        self.home, self._workers = home, workers
        self._listed = loose.digests(home)
        self.taken: list[NDArray[np.void]] = []
        self.lost: dict[str, str] = {}
        self.damaged: dict[str, Stamp] = {}

    def digests(self) -> NDArray[np.bytes_]:
        """Keys of all loose entries when they were listed."""
        return self._listed

    def parcels(self, without: NDArray[np.bytes_]) -> Iterator[Parcel]:
        """Give the sound entries; see `Source`."""
        wanted = self._listed[~member_of(self._listed, without)]
        tasks = deque(self._workers.cut(wanted)) if len(wanted) else deque()
        doubtful: list[str] = []

        def next_tasks() -> Iterator[NDArray[np.bytes_]]:
            while tasks:
                yield tasks.popleft()

        while tasks:
            for packed in self._workers.map(partial(_pack_some, self.home), next_tasks()):
                doubtful += packed.doubtful
                if len(packed.taken):
                    self.taken.append(packed.taken)
                    yield packed.parcel
                if len(packed.left):
                    tasks.append(packed.left)
        for key in doubtful:
            yield from self._once_more(key)

    def _once_more(self, key: str) -> Iterator[Parcel]:
        """Give an entry that could not be read, or was found to be damaged, if it can be now."""
        try:
            found = loose.read(self.home, key)
            if found is None:
                return
            data, self.damaged[key] = found
            judge(data, self.home.kind)
        except CorruptEntryError as error:
            self.lost[key] = str(error)
            return
        self.taken.append(_taken([key], [self.damaged.pop(key)]))
        yield pack([(key, data)])


class _Packed(NamedTuple):
    parcel: Parcel
    taken: NDArray[np.void]
    doubtful: list[str]
    left: NDArray[np.bytes_]


def _pack_some(home: Home, digests: NDArray[np.bytes_]) -> _Packed:
    """Deflate loose entries, `_BATCH` bytes of them; others are left, or doubtful."""
    sound: list[tuple[str, bytes]] = []
    stamps: list[Stamp] = []
    doubtful: list[str] = []
    size = 0
    folder = home.loose
    if folder is None:  # it was removed meanwhile
        return _Packed(pack([]), _taken([], []), [], digests[:0])
    for key in to_hex(digests):
        try:
            data, stamp = folder.read(key, MAX_ENTRY_SIZE)
            judge(data, home.kind)
        except OSError:
            doubtful.append(key)
            continue
        sound.append((key, data))
        stamps.append(stamp)
        size += len(data)
        if size >= _BATCH:
            break
    taken = _taken([key for key, _ in sound], stamps)
    return _Packed(pack(sound), taken, doubtful, digests[len(sound) + len(doubtful) :])


def _taken(keys: list[str], stamps: list[Stamp]) -> NDArray[np.void]:
    taken = np.empty(len(keys), TAKEN)
    taken["digest"] = digests_of(keys)
    taken[list(Stamp._fields)] = np.array(stamps, STAMPS)
    return taken


def remove_taken(
    home: Home, taken: NDArray[np.void]
) -> tuple[int, list[tuple[str, int, str | None]]]:
    """Remove loose entries that are in the archive now, if they are still what was read.

    Returns how many were removed, and key and size of each one that was not,
    and why; None: it was written again.
    """
    stayed: list[tuple[str, int, str | None]] = []
    gone = 0
    folder = home.needed(LOOSE)
    stamps = map(Stamp._make, taken[list(Stamp._fields)].tolist())
    for key, stamp in zip(to_hex(taken["digest"]), stamps, strict=True):
        try:
            if not folder.remove_as_read(key, stamp):
                stayed.append((key, stamp.size, None))
        except FileNotFoundError:
            gone += 1
        except OSError as error:
            stayed.append((key, stamp.size, error.strerror or str(error)))
    return len(taken) - len(stayed) - gone, stayed


class ArchivedEntries:
    """The entries of an archive in a database's folder and, if wanted, its other members.

    Raises FileNotFoundError if there is no such archive.
    """

    def __init__(
        self, home: Home, folder: str | None, name: str, workers: Workers, *, others: bool = False
    ) -> None:
        self.home, self._folder, self._name = home, folder, name
        self._workers, self._others = workers, others
        self.archive = Archive.open(_folder_of(home, folder), name)
        self.lost: dict[str, str] = {}

    def __enter__(self) -> ArchivedEntries:
        return self

    def __exit__(self, *exception: object) -> None:
        self.archive.close()

    @property
    def is_odd(self) -> bool:
        """Whether it has no index that fits, or is damaged."""
        return not isinstance(self.archive, IndexedArchive) or self.archive.damage is not None

    def digests(self) -> NDArray[np.bytes_]:
        """Keys of its entries; of a damaged archive there may be more."""
        return self.archive.digests()

    def parcels(self, without: NDArray[np.bytes_]) -> Iterator[Parcel]:
        """Give the sound entries; see `Source`."""
        if isinstance(self.archive, IndexedArchive):
            yield from self._copied(self.archive, without)
        elif isinstance(self.archive, StreamedArchive):
            yield from self._streamed(self.archive, without)

    def _copied(self, archive: IndexedArchive, without: NDArray[np.bytes_]) -> Iterator[Parcel]:
        """Give records as they are, verified by the workers."""
        index = archive.index
        keep = np.ones(len(index.offset), bool)
        keep[: len(index.digests)] = ~member_of(index.digests, without)
        if not self._others:
            keep[len(index.digests) :] = False
        part = index.part(index.by_offset(np.flatnonzero(keep)))
        runs = [part.some(run) for run in part.runs(_PARCEL, 0)]
        verify = partial(_verify_run, self.home, self._folder, self._name, archive.stamp)
        for run, checksum in zip(runs, self._workers.map(verify, runs), strict=True):
            start, end = int(run.offset[0]), int(run.offset[-1] + run.packed[-1])
            raw = b""
            if checksum is not None:
                with unless_damaged(EOFError):
                    raw = read_exactly(archive.descriptor, end - start, start)
            if raw and crc32(raw) == checksum:
                yield Parcel.of(run, raw, checksum)
            else:
                # Once more, one by one: a network mount may have been away for a moment.
                yield from self._one_by_one(Records(archive.path, archive.descriptor, run))
        if self.lost:
            given = {*to_hex(without), *to_hex(archive.digests())} - self.lost.keys()
            yield from _packed(self._sound(_rescued(archive), given))

    def _one_by_one(self, records: Records) -> Iterator[Parcel]:
        for number in range(len(records.part.offset)):
            try:
                raw = records.read(number)
                records.verify(number, raw)
            except CorruptEntryError as error:
                place = f"the member at byte {records.part.offset[number]}"
                name = records.key(number) or place
                self.lost[name] = str(error)
            else:
                one = records.part.some(slice(number, number + 1))
                yield Parcel.of(one, raw, crc32(raw))

    def _streamed(self, archive: StreamedArchive, without: NDArray[np.bytes_]) -> Iterator[Parcel]:
        """Give the entries of an archive without an index, and what lies behind its damage."""
        given = set(to_hex(without))
        walked = (
            (key, data, archive.doubt(key, headers, data)) if key else (None, headers + data, None)
            for key, headers, data in archive.walk(others=self._others)
        )
        yield from _packed(self._sound(walked, given))
        if archive.damage is not None:
            yield from _packed(self._sound(_rescued(archive), given))
            known = {*to_hex(archive.digests()), *to_hex(archive.expected)}
            for key in sorted(known - given):
                self.lost.setdefault(key, archive.damage)

    def _sound(self, copies: Iterable[_Copy], given: set[str]) -> Iterator[_Member]:
        """Pass on members that are no entries, and sound entries that are not given yet."""
        for key, data, doubt in copies:
            if key in given:
                continue
            if key is not None:
                try:
                    if doubt is not None:
                        raise CorruptEntryError(doubt)
                    judge(data, self.home.kind)
                except CorruptEntryError as error:
                    self.lost[key] = str(error)
                    continue
                self.lost.pop(key, None)
                given.add(key)
            yield key, data


def _rescued(archive: Archive) -> Iterator[_Copy]:
    return ((key, data, None) for key, data in rescue(archive.descriptor))


def _packed(found: Iterable[_Member]) -> Iterator[Parcel]:
    """Put entries together into parcels; of a member that is no entry the record is given."""
    waiting: list[tuple[str, bytes]] = []
    size = 0
    for key, data in found:
        if key is None:
            yield pack_records(np.zeros(1, DIGEST), np.zeros(1, bool), [data])
            continue
        waiting.append((key, data))
        size += len(data)
        if size >= _BATCH:
            yield pack(waiting)
            waiting, size = [], 0
    if waiting:
        yield pack(waiting)


def salvageable(archive: Archive, kind: Kind) -> set[str]:
    """Return the keys of sound entries that lie anywhere in a damaged archive."""
    if isinstance(archive, StreamedArchive) and archive.damage is None:
        return set()
    found = set()
    for key, data in rescue(archive.descriptor):
        with suppress(CorruptEntryError):
            judge(data, kind)
            found.add(key)
    return found


def _folder_of(home: Home, folder: str | None) -> Folder:
    return home.root if folder is None else home.needed(folder)


def _verify_run(home: Home, folder: str | None, name: str, stamp: Stamp, run: Part) -> int | None:
    """Verify records without gaps; return the CRC-32 of what was read, None if one is bad."""
    descriptor, status = _folder_of(home, folder).open_file(name)
    try:
        if Stamp.of(status) != stamp:
            raise ArchiveChangedError
        start, end = int(run.offset[0]), int(run.offset[-1] + run.packed[-1])
        with unless_damaged(EOFError, CorruptEntryError):
            raw = read_exactly(descriptor, end - start, start)
            records = Records(name, descriptor, run)
            begin = 0
            for number, size in enumerate(run.packed.tolist()):
                records.verify(number, raw[begin : begin + size])
                begin += size
            return crc32(raw)
        return None
    finally:
        os.close(descriptor)


def checksum_of(home: Home, folder: str, name: str, piece: tuple[int, int]) -> int | None:
    """Return the CRC-32 of some bytes of a file, given as offset and number; None if not there."""
    offset, size = piece
    descriptor, _ = _folder_of(home, folder).open_file(name)
    try:
        with unless_damaged(EOFError):
            return crc32(read_exactly(descriptor, size, offset))
        return None
    finally:
        os.close(descriptor)
