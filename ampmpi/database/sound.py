"""Sound copies of entries, wherever they lie: loose, in an archive, or in a damaged one.

A source gives its copies in two ways. Records of an archive or pack with a sound index
are named, to be copied as they are by whoever has a hand free, who verifies them; if
one is bad the source is asked again, to look more closely. Everything else comes as
parcels, ready to be put into an archive, of which each was verified on the way. What a
source has and cannot give, it names.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import loose
from ampmpi.database.archive.deflate import combine
from ampmpi.database.archive.index import Part, read_exactly
from ampmpi.database.archive.reader import Archive, IndexedArchive, Records, StreamedArchive
from ampmpi.database.archive.salvage import rescue
from ampmpi.database.archive.tar import MAX_ENTRY_SIZE
from ampmpi.database.archive.writer import Parcel, pack, pack_records
from ampmpi.database.layout import LOOSE, PACKS, Home
from ampmpi.database.packed import PackReader
from ampmpi.database.workers import Workers
from ampmpi.entries import Kind
from ampmpi.entries.checksum import crc32
from ampmpi.entries.codec import judge
from ampmpi.errors import CorruptEntryError
from ampmpi.files.folder import Folder, Stamp
from ampmpi.files.trouble import unless_damaged
from ampmpi.keys import DIGEST, digests_of, member_of, to_hex, union

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


Place = tuple[str, str | None, str]
"""Where an archive or pack lies: path of the database, folder in it, and name."""


class BadRecordsError(OSError):
    """Archives or packs have records that are not what was written: to be looked at closely."""

    def __init__(self, places: set[Place]) -> None:
        super().__init__(places)
        self.places = places


class NotTogetherError(OSError):
    """Several processes cannot write into one file here."""


class Copying(NamedTuple):
    """Records that can be copied as they are: where they lie, and in which file of that name."""

    home: Home
    folder: str | None
    name: str
    stamp: Stamp
    records: Part

    @property
    def place(self) -> Place:
        """Where they lie."""
        return self.home.path, self.folder, self.name

    def pieces(self, n_bytes: int) -> Iterator[Copying]:
        """Cut them into pieces of about so many bytes."""
        ends = np.cumsum(self.records.packed)
        cuts = np.searchsorted(ends, np.arange(n_bytes, int(ends[-1]) if len(ends) else 0, n_bytes))
        edges = sorted({0, *cuts.tolist(), len(ends)})
        for first, last in pairwise(edges):
            yield self._replace(records=self.records.some(slice(first, last)))


class Source(Protocol):
    """Where entries come from; `lost` says which it cannot give, and why."""

    home: Home
    lost: dict[str, str]

    @property
    def n_bytes(self) -> int:
        """About how many bytes it has."""

    @property
    def is_odd(self) -> bool:
        """Whether it may have more than it knows of, as it is damaged."""

    def digests(self) -> NDArray[np.bytes_]:
        """Keys, as 16-byte strings, that the source may be able to give; sorted."""

    def copyings(self, without: NDArray[np.bytes_]) -> Iterator[Copying]:
        """Name records to be copied, but for those of some keys, which are sorted."""

    def parcels(self, without: NDArray[np.bytes_]) -> Iterator[Parcel]:
        """Give each sound entry that is not to be copied once, but for some keys."""


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

    n_bytes = 0
    is_odd = False

    def digests(self) -> NDArray[np.bytes_]:
        """Keys of all loose entries when they were listed."""
        return self._listed

    def copyings(self, without: NDArray[np.bytes_]) -> Iterator[Copying]:
        """Name nothing: loose entries are not deflated yet."""
        return iter(())

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

    Parameters
    ----------
    home, folder, name
        Where it lies.
    closely : collection of Place
        Where records were found to be bad; it may grow.
    others : bool
        Whether members that are no entries are given, too.
    """

    def __init__(
        self,
        home: Home,
        folder: str | None,
        name: str,
        closely: Collection[Place] = (),
        *,
        others: bool = False,
    ) -> None:
        self.home, self._folder, self._name = home, folder, name
        self._others, self._bad_places = others, closely
        self.archive = Archive.open(_folder_of(home, folder), name)
        self.lost: dict[str, str] = {}

    def __enter__(self) -> ArchivedEntries:
        return self

    def __exit__(self, *exception: object) -> None:
        self.archive.close()

    @property
    def _closely(self) -> bool:
        return (self.home.path, self._folder, self._name) in self._bad_places

    @property
    def is_odd(self) -> bool:
        """Whether it has no index that fits, or is damaged."""
        return not isinstance(self.archive, IndexedArchive) or self.archive.damage is not None

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return self.archive.stamp.size

    def digests(self) -> NDArray[np.bytes_]:
        """Keys of its entries; of a damaged archive there may be more."""
        return self.archive.digests()

    def copyings(self, without: NDArray[np.bytes_]) -> Iterator[Copying]:
        """Name the records of an archive with an index; see `Source`."""
        if isinstance(self.archive, IndexedArchive) and not self._closely:
            part = self._wanted(self.archive, without)
            if len(part.offset):
                yield Copying(self.home, self._folder, self._name, self.archive.stamp, part)

    def parcels(self, without: NDArray[np.bytes_]) -> Iterator[Parcel]:
        """Give the sound entries; see `Source`."""
        if isinstance(self.archive, StreamedArchive):
            yield from self._streamed(self.archive, without)
        elif isinstance(self.archive, IndexedArchive) and self._closely:
            part = self._wanted(self.archive, without)
            yield from self._verified(Records(self.archive.path, self.archive.descriptor, part))
            if self.lost:
                given = {*to_hex(without), *to_hex(self.archive.digests())} - self.lost.keys()
                yield from _packed(self._sound(_rescued(self.archive), given))

    def _wanted(self, archive: IndexedArchive, without: NDArray[np.bytes_]) -> Part:
        index = archive.index
        keep = np.ones(len(index.offset), bool)
        keep[: len(index.digests)] = ~member_of(index.digests, without)
        if not self._others:
            keep[len(index.digests) :] = False
        return index.part(index.by_offset(np.flatnonzero(keep)))

    def _verified(self, records: Records) -> Iterator[Parcel]:
        """Give records one by one: only the bad ones are lost."""
        part = records.part
        sound: list[int] = []
        raws: list[bytes] = []
        for number, raw in records.walk():
            try:
                records.verify(number, raw)
            except CorruptEntryError as error:
                name = records.key(number) or f"the member at byte {part.offset[number]}"
                self.lost[name] = str(error)
                continue
            assert isinstance(raw, bytes)
            sound.append(number)
            raws.append(raw)
            if sum(map(len, raws)) >= _PARCEL:
                yield Parcel.of(part.some(np.array(sound)), raws)
                sound, raws = [], []
        if sound:
            yield Parcel.of(part.some(np.array(sound)), raws)

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
    found = home.root if folder is None else home.inner(folder)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), home.full(folder or ""))
    return found


class PackedEntries:
    """The entries of all packs of a database.

    Attributes
    ----------
    packs : tuple of Pack
        The packs that were found.
    """

    def __init__(
        self, home: Home, workers: Workers | None = None, closely: Collection[Place] = ()
    ) -> None:
        self.home, self._bad_places = home, closely
        self._packed = PackReader(home, workers).current()
        self.packs = self._packed.packs
        self.lost: dict[str, str] = {}

    @property
    def damaged(self) -> dict[str, str]:
        """Packs that are damaged, and how."""
        return {
            each.name: each.damage or "some of its records are"
            for each in self.packs
            if each.is_open
            and (each.damage or (self.home.path, PACKS, each.name) in self._bad_places)
        }

    @property
    def unreadable(self) -> dict[str, str]:
        """Packs that cannot be opened, and why."""
        return {
            f"{PACKS}/{each.name}": f"it cannot be read: {each.damage}"
            for each in self.packs
            if not each.is_open
        }

    @property
    def n_bytes(self) -> int:
        """Size of all of them."""
        return sum(each.stamp.size for each in self.packs)

    @property
    def is_odd(self) -> bool:
        """Whether one is damaged."""
        return bool(self.damaged or self.unreadable)

    def digests(self) -> NDArray[np.bytes_]:
        """Keys of their entries; of a damaged pack there may be more."""
        return self._packed.digests()

    def copyings(self, without: NDArray[np.bytes_]) -> Iterator[Copying]:
        """Name the records of all sound packs; see `Source`."""
        rows = self._packed.copies(self.damaged)
        rows = rows[~member_of(self._packed.part.digests[rows], without)]
        for each, part in self._packed.by_pack(rows):
            yield Copying(self.home, PACKS, each.name, each.stamp, part)

    def parcels(self, without: NDArray[np.bytes_]) -> Iterator[Parcel]:
        """Give what can be saved from damaged packs; see `Source`."""
        given = without
        for name in self.damaged:
            place = (self.home.path, PACKS, name)
            try:
                source = ArchivedEntries(self.home, PACKS, name, [place])
            except FileNotFoundError:
                continue
            with source:
                parts = [given]
                for parcel in source.parcels(given):
                    parts.append(parcel.digests)
                    yield parcel
                given = union(*parts)
                self.lost |= source.lost


def remove_packs(home: Home, packs: Sequence[tuple[str, Stamp]]) -> list[tuple[str, str | None]]:
    """Remove packs, if they are still what was read; return what is wrong with each, if it is."""
    folder, done = home.needed(PACKS), list[tuple[str, str | None]]()
    for name, stamp in packs:
        trouble = None
        try:
            with suppress(FileNotFoundError):
                folder.remove_as_read(name, stamp)
        except OSError as error:
            trouble = error.strerror or str(error)
        done.append((name, trouble))
    return done


def copy_records(
    into: Home, target: str | int, apart: bool, task: tuple[Copying, int]
) -> tuple[int, int, NDArray[np.uint32]] | None:
    """Copy records into a temporary file, one behind the other from a byte on.

    The file is given by its name or, by a process that has it open, by its descriptor.
    Each record is verified on the way: by the checksum of its deflated bytes where that is
    known and the record is from the same database, else by inflating it.

    Returns
    -------
    checksum, crc : int
        CRC-32 of all that was written, and of all records inflated.
    raw_crc : (n,) uint32 array
        That of each record.
    None
        One is bad.
    """
    copying, position = task
    try:
        if isinstance(target, str):
            output = into.temporaries.open_to_write(target)
        else:
            output = os.dup(target)
    except OSError as error:
        raise NotTogetherError(error.errno, f"cannot write to {target}") from error
    descriptor = -1
    try:
        try:
            folder = _folder_of(copying.home, copying.folder)
            descriptor, status = folder.open_file(copying.name)
        except FileNotFoundError as error:
            raise ArchiveChangedError from error
        if Stamp.of(status) != copying.stamp:
            raise ArchiveChangedError
        is_ours = copying.home.root.inode == into.root.inode
        checksum, raw_crcs = 0, list[int]()
        with unless_damaged(EOFError, CorruptEntryError) as damage:
            for chosen in copying.records.runs(_PARCEL, 0):
                run = copying.records.some(chosen)
                start, end = int(run.offset[0]), int(run.offset[-1] + run.packed[-1])
                raw = read_exactly(descriptor, end - start, start)
                raw_crcs += _verify(Records(copying.name, descriptor, run), raw, is_ours)
                checksum = crc32(raw, checksum)
                _write_at(output, raw, position)
                position += len(raw)
        if apart:
            os.fsync(output)
    finally:
        os.close(output)
        if descriptor >= 0:
            os.close(descriptor)
    if damage:
        return None
    crc = combine(copying.records.crc, copying.records.length)
    return checksum, crc, np.array(raw_crcs, np.uint32)


def _verify(records: Records, raw: bytes, is_ours: bool) -> list[int]:
    """Verify records that were read together; return the CRC-32 of each one's bytes.

    An index of another database is not taken at its word.
    """
    part, view, begin = records.part, memoryview(raw), 0
    found = []
    for number, (size, wanted) in enumerate(
        zip(part.packed.tolist(), part.raw_crc.tolist(), strict=True)
    ):
        piece = view[begin : begin + size]
        found.append(crc32(piece))
        if wanted and found[-1] != wanted:
            raise CorruptEntryError(f"record {number} has another checksum")
        if not (wanted and is_ours):
            records.verify(number, bytes(piece))
        begin += size
    return found


def _write_at(descriptor: int, data: bytes, position: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, position)
        if written == 0:
            raise OSError(errno.EIO, "nothing was written")
        rest, position = rest[written:], position + written


def checksums_of(
    home: Home, folder: str, name: str, apart: bool, pieces: Sequence[tuple[int, int]]
) -> list[int | None]:
    """Return the CRC-32 of pieces of a file, given as offset and size; None if not there.

    Where others on other hosts wrote them, what this host remembers of the file is not asked.
    """
    descriptor, _ = _folder_of(home, folder).open_file(name)
    try:
        if apart:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return [_checksum(descriptor, offset, size) for offset, size in pieces]
    finally:
        os.close(descriptor)


def _checksum(descriptor: int, offset: int, size: int) -> int | None:
    checksum = 0
    with unless_damaged(EOFError):
        for start in range(offset, offset + size, _PARCEL):
            length = min(_PARCEL, offset + size - start)
            checksum = crc32(read_exactly(descriptor, length, start), checksum)
        return checksum
    return None
