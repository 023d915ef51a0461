"""Reading ``archive.tar.gz``: any entry at once where there is an index, else in one pass."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive.deflate import inflate
from ampmpi.database.archive.index import Footer, Index, read_exactly, read_index
from ampmpi.database.archive.tar import BLOCK, entry_size
from ampmpi.entries.checksum import crc32
from ampmpi.errors import CorruptEntryError
from ampmpi.files.atomic import database_error
from ampmpi.files.trouble import is_damage, reason_of
from ampmpi.keys import digests_of, is_key

_RUN = 1 << 22
_GAP = 1 << 16
_TRIES = 5


@dataclass(frozen=True)
class Identity:
    """What tells one archive file from another one of the same name."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the identity of the file with this status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class Archive(ABC):
    """An open archive; it stays what it is when another one takes its place.

    Use `Archive.open`, and the archive as a context manager. It is a snapshot:
    one file descriptor is all that is held, and the file is never mapped.

    Attributes
    ----------
    path : str
        The file.
    identity : Identity
        Which file it is.
    indexed : bool
        Whether entries can be read at random.
    damage : str or None
        What is wrong with the file as a whole, if anything is: entries may be
        missing. Damage to single entries shows when they are read.
    """

    indexed: bool
    damage: str | None = None

    def __init__(self, path: str, descriptor: int, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self._descriptor = descriptor

    @staticmethod
    def open(path: str) -> Archive:
        """Open an archive that this package, Amp, or any tar wrote.

        An archive without an index that fits is read through once, here.

        Raises
        ------
        FileNotFoundError
            There is no archive.
        DatabaseError
            It cannot be opened or read.
        """
        for attempt in range(_TRIES):
            try:
                return _open(path)
            except FileNotFoundError:
                raise
            except OSError as error:
                # NFS: the file was replaced between looking its name up and reading it.
                if error.errno != errno.ESTALE or attempt == _TRIES - 1:
                    raise database_error(error, "read", path) from error
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, key: object) -> bool: ...

    @abstractmethod
    def keys(self) -> list[str]:
        """All keys, sorted."""

    def digests(self) -> NDArray[np.bytes_]:
        """All keys as 16-byte strings, sorted."""
        return digests_of(self.keys())

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return an entry's bytes.

        Raises
        ------
        KeyError
            It is not in the archive.
        CorruptEntryError
            It is damaged.
        OSError
            The file cannot be read.
        """

    @abstractmethod
    def read_many(
        self, keys: Iterable[str] | None = None
    ) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        """Go through entries in the order in which they lie in the file.

        Parameters
        ----------
        keys : iterable of str, optional
            Which; those that the archive lacks are passed over. All by default.

        Yields
        ------
        key, bytes or CorruptEntryError
            A damaged entry gives the error in place of its bytes; it does not
            stop the others.
        """


def _open(path: str) -> Archive:
    from ampmpi.database.archive.streamed import StreamedArchive

    # Without O_NONBLOCK a named pipe would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file: move it elsewhere")
        identity = Identity.of(status)
        found = read_index(descriptor, identity.size)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise
    # From here on the descriptor is the archive's to close.
    if found is None:
        return StreamedArchive(path, descriptor, identity)
    archive = IndexedArchive(path, descriptor, identity, found.footer, found.index)
    if found.misfit is not None:
        # A whole tar is what another tool put before the index; anything else is damage.
        streamed = StreamedArchive(path, os.dup(descriptor), identity)
        if streamed.damage is None:
            archive.close()
            return streamed
        streamed.close()
        archive.damage = found.misfit
        if found.shift:
            archive.realign(found.shift)
    return archive


class IndexedArchive(Archive):
    """An archive that this package wrote, with its index.

    Attributes
    ----------
    index : Index
        Where everything lies.
    footer : Footer or None
        Sizes and checksum of the tar; None where the index was given.
    """

    indexed = True

    def __init__(
        self, path: str, descriptor: int, identity: Identity, footer: Footer | None, index: Index
    ) -> None:
        super().__init__(path, descriptor, identity)
        self.footer = footer
        self.index = index

    @classmethod
    def with_index(cls, path: str, index: Index) -> Self:
        """Open an archive, a part of whose index is known."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return cls(path, descriptor, Identity.of(os.fstat(descriptor)), None, index)

    def __len__(self) -> int:
        return len(self.index.digests)

    def __contains__(self, key: object) -> bool:
        return (
            isinstance(key, str) and is_key(key) and self.index.row(bytes.fromhex(key)) is not None
        )

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return self.index.keys()

    def digests(self) -> NDArray[np.bytes_]:
        """All keys as 16-byte strings, sorted; not copied."""
        return self.index.digests

    def read(self, key: str) -> bytes:
        """Return an entry's bytes; see `Archive.read`."""
        row = self.index.row(bytes.fromhex(key)) if is_key(key) else None
        if row is None:
            raise KeyError(key)
        index = self.index
        packed, offset = int(index.packed[row]), int(index.offset[row])
        try:
            raw = os.pread(self._descriptor, packed, offset)
            if len(raw) < packed:
                raw = self._read(packed, offset)
        except OSError as error:
            if not is_damage(error):
                raise
            raise self._unreadable(row, error) from error
        return self._entry(key, row, raw)

    def read_many(
        self, keys: Iterable[str] | None = None
    ) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        """Go through entries; see `Archive.read_many`."""
        if keys is None:
            rows: NDArray[np.intp] = np.arange(len(self))
        else:
            rows = self.index.rows(digests_of([key for key in keys if is_key(key)]))
            rows = np.unique(rows[rows >= 0])
        rows = rows[np.argsort(self.index.offset[rows])]
        for row, raw in self.raw_records(rows):
            key = self.key_of(row)
            try:
                yield key, self._entry(key, row, raw)
            except CorruptEntryError as error:
                yield key, error

    def key_of(self, row: int) -> str:
        """Key of a row of the index."""
        return bytes(self.index.digests[row]).ljust(16, b"\0").hex()

    def realign(self, shift: int) -> None:
        """Find where the records are in a file that got longer or shorter somewhere.

        Those that lie neither where the index says nor `shift` bytes behind
        that are put at the end of the file, where nothing can be read.
        """
        index, size = self.index, self.identity.size
        offset, packed = index.offset.astype(np.int64), index.packed.copy()
        shifts = [0, shift]
        for row in np.argsort(offset).tolist():
            for by in shifts:
                start, count = int(offset[row]) + by, int(packed[row])
                if start < 0 or start + count > size:
                    continue
                try:
                    self.verify(row, os.pread(self._descriptor, count, start))
                except CorruptEntryError:
                    continue
                except OSError as error:
                    if not is_damage(error):
                        raise
                    continue
                offset[row], shifts = start, sorted(shifts, key=by.__ne__)
                break
            else:
                offset[row], packed[row] = size, 0
        self.index = replace(index, offset=offset.astype(np.uint64), packed=packed)

    def raw_runs(self, rows: NDArray[np.intp]) -> Iterator[tuple[int, bytes | CorruptEntryError]]:
        """Go through the deflated bytes of rows that are sorted by offset, neighbours together.

        Yields
        ------
        count : int
            How many records these are.
        raw : bytes or CorruptEntryError
            One record after the other, a few megabytes at a time; the error in
            place of a single record that cannot be read.

        Raises
        ------
        EOFError
            The file is shorter than the index says.
        """
        offset, end = self.index.offset[rows], self.index.offset[rows] + self.index.packed[rows]
        first = 0
        while first < len(rows):
            start = int(offset[first])
            near = int(np.searchsorted(offset, start + _RUN, "right"))
            gaps = np.flatnonzero(offset[first + 1 : near] != end[first : near - 1])
            last = int(first + gaps[0] + 1) if len(gaps) else near
            size = int(end[last - 1]) - start
            try:
                raw = read_exactly(self._descriptor, size, start)
            except OSError as error:
                if not is_damage(error):
                    raise
                yield from ((1, alone) for _, alone in self._one_by_one(rows[first:last]))
            else:
                yield last - first, raw
            first = last

    def raw_records(
        self, rows: NDArray[np.intp]
    ) -> Iterator[tuple[int, bytes | CorruptEntryError]]:
        """Go through the deflated records of rows that are sorted by offset.

        Neighbours are read together, a few megabytes at a time, and alone where
        the disk cannot read them together. One that it cannot read at all gives
        the error, which `record`, `entry` and `verify` raise.
        """
        offset = self.index.offset[rows].astype(np.int64)
        end = offset + self.index.packed[rows].astype(np.int64)
        first = 0
        while first < len(rows):
            start = int(offset[first])
            near = np.searchsorted(offset, start + _RUN, "right")
            gaps = np.flatnonzero(offset[first + 1 : near] - end[first : near - 1] > _GAP)
            last = int(first + gaps[0] + 1 if len(gaps) else near)
            try:
                run = self._read(int(end[last - 1]) - start, start)
            except OSError as error:
                if not is_damage(error):
                    raise
                yield from self._one_by_one(rows[first:last])
                first = last
                continue
            begins, ends = (offset[first:last] - start).tolist(), (end[first:last] - start).tolist()
            for row, begin, stop in zip(rows[first:last].tolist(), begins, ends, strict=True):
                yield row, run[begin:stop]
            first = last

    def _one_by_one(
        self, rows: NDArray[np.intp]
    ) -> Iterator[tuple[int, bytes | CorruptEntryError]]:
        for row in rows.tolist():
            packed, offset = int(self.index.packed[row]), int(self.index.offset[row])
            raw: bytes | CorruptEntryError
            try:
                raw = read_exactly(self._descriptor, packed, offset)
            except EOFError as error:
                raw = self._corrupt(row, str(error))
            except OSError as error:
                if not is_damage(error):
                    raise
                raw = self._unreadable(row, error)
            yield row, raw

    def record(self, row: int, raw: bytes | CorruptEntryError) -> bytes:
        """Inflate the record of a row and verify it.

        Raises
        ------
        CorruptEntryError
            It is damaged.
        """
        if isinstance(raw, CorruptEntryError):
            raise raw
        try:
            record = inflate(raw, int(self.index.length[row]))
        except ValueError as error:
            raise self._corrupt(row, str(error)) from None
        if crc32(record) != int(self.index.crc[row]):
            raise self._corrupt(row, "its checksum is wrong")
        return record

    def verify(self, row: int, raw: bytes | CorruptEntryError) -> None:
        """Verify what was read of a row: its stream, checksum and, for an entry, its name.

        Raises
        ------
        CorruptEntryError
            It is damaged.
        """
        record = self.record(row, raw)
        if row < len(self):
            self._entry_size(self.key_of(row), row, record)

    def find_damaged(self, rows: NDArray[np.intp]) -> list[int]:
        """Read rows that are sorted by offset; return those that `verify` refuses."""
        damaged = []
        for row, raw in self.raw_records(rows):
            try:
                self.verify(row, raw)
            except CorruptEntryError:
                damaged.append(row)
        return damaged

    def entry(self, row: int, raw: bytes | CorruptEntryError) -> bytes:
        """Return the bytes of an entry from what was read of its row.

        Raises
        ------
        CorruptEntryError
            It is damaged.
        """
        return self._entry(self.key_of(row), row, raw)

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Return bytes of the file.

        Raises
        ------
        EOFError
            The file ends before.
        """
        return read_exactly(self._descriptor, size, offset)

    def _entry(self, key: str, row: int, raw: bytes | CorruptEntryError) -> bytes:
        record = self.record(row, raw)
        return record[BLOCK : BLOCK + self._entry_size(key, row, record)]

    def _entry_size(self, key: str, row: int, record: bytes) -> int:
        try:
            return entry_size(record, key)
        except ValueError as error:
            raise self._corrupt(row, str(error)) from None

    def _read(self, size: int, offset: int) -> bytes:
        try:
            return read_exactly(self._descriptor, size, offset)
        except EOFError:
            # A file that shrank under us: each entry's own check reports it.
            return os.pread(self._descriptor, size, offset)

    def _unreadable(self, row: int, error: OSError) -> CorruptEntryError:
        return self._corrupt(row, f"it cannot be read: {reason_of(error)}")

    def _corrupt(self, row: int, reason: str) -> CorruptEntryError:
        what = f"entry {self.key_of(row)}" if row < len(self) else "a member that is no entry"
        return CorruptEntryError(f"{what} in {self.path} is damaged: {reason}")
