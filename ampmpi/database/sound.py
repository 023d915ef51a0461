"""Sound copies of entries, wherever they lie: loose, in an archive, or in a damaged one.

A source gives its copies as parcels, ready to be put into an archive: each was
verified on the way. What it has and cannot give, it names.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
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

STAMPS = np.dtype([("inode", "u8"), ("size", "i8"), ("mtime_ns", "i8")])
"""The fields of a `Stamp`, for arrays of them."""

_PARCEL = 1 << 21
"""Bytes of deflated records after which a parcel ends."""

_BATCH = 1 << 18
"""Bytes of entries that are read before they are deflated."""


class ArchiveChangedError(OSError):
    """Another archive has taken the name of the one that was read."""


class Source(Protocol):
    """Where entries come from."""

    def digests(self) -> NDArray[np.bytes_]:
        """Keys, as 16-byte strings, that the source may be able to give; sorted."""

    def parcels(self, without: NDArray[np.bytes_]) -> Iterator[Parcel]:
        """Give each sound entry once, but for some keys, which are sorted."""


def judge(data: bytes, kind: Kind) -> None:
    """Check that an entry is whole.

    In databases of other kinds, only what says that it is one of this package's
    entries is judged.

    Raises
    ------
    CorruptEntryError
        It is damaged.
    """
    if kind != "other" or not data or codec.MAGIC in data[-64:]:
        codec.verify(data)


class LooseFiles(NamedTuple):
    """Loose entries that were read.

    Attributes
    ----------
    digests : (n,) array of 16-byte strings
        Their keys, as bytes.
    stamps : (n,) array of STAMPS
        What tells whether they are written again later.
    """

    digests: NDArray[np.bytes_]
    stamps: NDArray[np.void]


class LooseEntries:
    """The loose entries of a database.

    Attributes
    ----------
    taken : list of LooseFiles
        What was given.
    unsound : dict of str to (str, Stamp or None)
        Keys of entries that could not be given, with what is wrong and, for one
        that was read and is damaged, its stamp.
    """

    def __init__(self, home: Home, workers: Workers) -> None:
        self._home, self._workers = home, workers
        self._listed = loose.digests(home)
        self.taken: list[LooseFiles] = []
        self.unsound: dict[str, tuple[str, Stamp | None]] = {}

    def digests(self) -> NDArray[np.bytes_]:
        """Keys of all loose entries when they were listed."""
        return self._listed

    def parcels(self, without: NDArray[np.bytes_]) -> Iterator[Parcel]:
        """Give the sound entries; see `Source`."""
        wanted = self._listed[~member_of(self._listed, without)]
        tasks = deque(self._workers.cut(wanted)) if len(wanted) else deque()

        def next_tasks() -> Iterator[NDArray[np.bytes_]]:
            while tasks:
                yield tasks.popleft()

        while tasks:
            for packed in self._workers.map(partial(_pack_some, self._home), next_tasks()):
                if len(packed.files.digests):
                    self.taken.append(packed.files)
                    yield packed.parcel
                if len(packed.left):
                    tasks.append(packed.left)
        given = np.sort(np.concatenate([some.digests for some in (*self.taken, _NO_FILES)]))
        for key in to_hex(wanted[~member_of(wanted, given)]):
            yield from self._doubtful(key)

    def _doubtful(self, key: str) -> Iterator[Parcel]:
        """Give an entry that could not be read, or was found to be damaged, if it can be now."""
        stamp: Stamp | None = None
        try:
            found = loose.read(self._home, key)
            if found is None:
                return
            data, stamp = found
            judge(data, self._home.kind)
        except CorruptEntryError as error:
            self.unsound[key] = str(error), stamp
            return
        parcel = pack([(key, data)])
        self.taken.append(LooseFiles(parcel.digests, np.array([stamp], STAMPS)))
        yield parcel


_NO_FILES = LooseFiles(np.empty(0, DIGEST), np.empty(0, STAMPS))


class _Packed(NamedTuple):
    parcel: Parcel
    files: LooseFiles
    left: NDArray[np.bytes_]


def _pack_some(home: Home, digests: NDArray[np.bytes_]) -> _Packed:
    """Deflate loose entries until they have `_PARCEL` bytes; the others are left.

    Entries that are missing, damaged or unreadable are passed over.
    """
    keys = iter(to_hex(digests))
    parcels: list[Parcel] = []
    stamps: list[Stamp] = []
    size = 0
    folder = home.loose
    while folder is not None and size < _PARCEL and (batch := _read_batch(folder, keys)):
        sound = [found for found in batch if _is_sound(found[1], home.kind)]
        parcels.append(pack([(key, data) for key, data, _ in sound]))
        stamps += [stamp for _, _, stamp in sound]
        size += len(parcels[-1].raw)
    parcel = _joined(parcels)
    files = LooseFiles(parcel.digests, np.array(stamps, STAMPS))
    return _Packed(parcel, files, digests[len(digests) - len(list(keys)) :])


def _joined(parcels: Sequence[Parcel]) -> Parcel:
    """Return parcels as one."""
    raw = b"".join([parcel.raw for parcel in parcels])
    if len(parcels) == 1:
        return parcels[0]
    empty = (np.empty(0, DIGEST), np.empty(0, bool), b"", _NONE, _NONE, np.empty(0, np.uint32), 0)
    digests, is_entry, _, packed, length, crc, _ = zip(empty, *parcels, strict=True)
    return Parcel(
        np.concatenate(digests),
        np.concatenate(is_entry),
        raw,
        np.concatenate(packed),
        np.concatenate(length),
        np.concatenate(crc),
        crc32(raw),
    )


_NONE = np.empty(0, np.uint64)


def _read_batch(folder: Folder, keys: Iterator[str]) -> list[tuple[str, bytes, Stamp]]:
    """Read loose entries until they have `_BATCH` bytes."""
    batch = []
    size = 0
    for key in keys:
        try:
            data, stamp = folder.read(key, MAX_ENTRY_SIZE)
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


def remove_taken(home: Home, files: LooseFiles) -> tuple[int, list[tuple[str, int, str | None]]]:
    """Remove loose entries that are in the archive now, if they are still what was read.

    Returns
    -------
    removed : int
        How many were removed.
    stayed : list of (str, int, str or None)
        Key and size of each one that was not, and why; None: it was written again.
    """
    stayed: list[tuple[str, int, str | None]] = []
    gone = 0
    folder = home.needed(LOOSE)
    stamps = map(Stamp._make, files.stamps.tolist())
    for key, stamp in zip(to_hex(files.digests), stamps, strict=True):
        try:
            if not folder.remove_as_read(key, stamp):
                stayed.append((key, stamp.size, None))
        except FileNotFoundError:
            gone += 1
        except OSError as error:
            stayed.append((key, stamp.size, error.strerror or str(error)))
    return len(files.digests) - len(stayed) - gone, stayed


class ArchivedEntries:
    """The entries of an archive, and its members that are not entries.

    Parameters
    ----------
    home : Home
        Its database; kept as an attribute.
    folder : str or None
        The folder there that it lies in; None: the database's own.
    name : str
        Its name.
    workers : Workers
        Who verifies it.
    others : bool
        Whether to give members that are no entries, too.

    Attributes
    ----------
    archive : Archive
        It, open.
    lost : dict of str to str
        What could not be given, and why.

    Raises
    ------
    FileNotFoundError
        There is no such archive.
    DatabaseError
        It cannot be read.
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
        runs = list(_runs(index.part(index.by_offset(np.flatnonzero(keep)))))
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
            given = _Given(self.home.kind, set(to_hex(archive.digests())) - self.lost.keys())
            yield from given.rescued(archive)
            self.lost = {key: why for key, why in self.lost.items() if key not in given.keys}

    def _one_by_one(self, records: Records) -> Iterator[Parcel]:
        for number in range(len(records.part.offset)):
            try:
                raw = records.read(number)
                records.verify(number, raw)
            except CorruptEntryError as error:
                place = f"the member at byte {records.part.offset[number]}"
                name = records.part.key(number) or place
                self.lost[name] = str(error)
            else:
                one = records.part.some(slice(number, number + 1))
                yield Parcel.of(one, raw, crc32(raw))

    def _streamed(self, archive: StreamedArchive, without: NDArray[np.bytes_]) -> Iterator[Parcel]:
        """Give the entries of an archive without an index, and what lies behind its damage."""
        given = _Given(self.home.kind, set(to_hex(without)))
        for key, headers, data in archive.walk(others=self._others):
            if key is None:
                no_key, no = np.zeros(1, DIGEST), np.zeros(1, bool)
                yield pack_records(no_key, no, [headers + data])
            else:
                yield from given.parcel(key, data, archive.doubt(key, headers, data))
        if archive.damage is not None:
            yield from given.rescued(archive)
            known = set(to_hex(archive.digests())) | set(to_hex(archive.expected))
            for key in sorted(known - given.keys):
                given.lost.setdefault(key, archive.damage)
        yield from given.rest()
        self.lost.update(given.lost)


class _Given:
    """Entries of an archive without an index on their way into a parcel, each once."""

    def __init__(self, kind: Kind, without: set[str]) -> None:
        self.kind = kind
        self.keys = without
        self.lost: dict[str, str] = {}
        self._waiting: list[tuple[str, bytes]] = []
        self._size = 0

    def parcel(self, key: str, data: bytes, doubt: str | None = None) -> Iterator[Parcel]:
        """Take an entry, if it is sound and not there yet; give a parcel when there are enough."""
        if key in self.keys:
            return
        try:
            if doubt is not None:
                raise CorruptEntryError(doubt)
            judge(data, self.kind)
        except CorruptEntryError as error:
            self.lost[key] = str(error)
            return
        self.lost.pop(key, None)
        self.keys.add(key)
        self._waiting.append((key, data))
        self._size += len(data)
        if self._size >= _PARCEL:
            yield from self.rest()

    def rescued(self, archive: Archive) -> Iterator[Parcel]:
        """Take what is sound anywhere in a damaged archive."""
        for key, data in rescue(archive.descriptor):
            yield from self.parcel(key, data)
        yield from self.rest()

    def rest(self) -> Iterator[Parcel]:
        """Give what has not been given yet."""
        if self._waiting:
            yield pack(self._waiting)
            self._waiting, self._size = [], 0


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


def _runs(part: Part) -> Iterator[Part]:
    """Cut records, sorted by offset, into runs without gaps of some megabytes at most."""
    offset = part.offset.astype(np.int64)
    end = offset + part.packed.astype(np.int64)
    first = 0
    while first < len(offset):
        near = np.searchsorted(offset, offset[first] + _PARCEL, "right")
        gaps = np.flatnonzero(offset[first + 1 : near] != end[first : near - 1])
        last = int(first + gaps[0] + 1 if len(gaps) else near)
        yield part.some(slice(first, last))
        first = last


def _verify_run(home: Home, folder: str | None, name: str, stamp: Stamp, run: Part) -> int | None:
    """Verify records without gaps; return the CRC-32 of their deflated bytes, None if any is bad.

    Raises
    ------
    ArchiveChangedError
        It is no longer the archive that was asked for.
    """
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


def union(*several: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """Join keys as 16-byte strings to one sorted array."""
    joined = np.concatenate([digests_of([]), *several])
    joined.sort()
    return joined
