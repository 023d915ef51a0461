"""Reading an archive: any entry at once where there is an index, else in one pass."""

from __future__ import annotations

import contextlib
import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive.deflate import GzipReader, inflate
from ampmpi.database.archive.index import Found, Part, read_exactly, read_index
from ampmpi.database.archive.tar import (
    BLOCK,
    MAX_ENTRY_SIZE,
    entry_size,
    is_bound,
    members,
    padded,
)
from ampmpi.entries.checksum import crc32
from ampmpi.errors import CorruptEntryError
from ampmpi.files.folder import Folder, Stamp
from ampmpi.files.trouble import database_error, is_damage, reason_of, unless_damaged
from ampmpi.keys import digests_of, is_key, to_hex

_RUN = 1 << 22
_GAP = 1 << 16
_TRIES = 5


class Archive(ABC):
    """An open archive; it stays what it is when another one takes its place.

    Use `Archive.open`, and the archive as a context manager. It is a snapshot:
    one file descriptor is all that is held, and the file is never mapped.

    Attributes
    ----------
    path : str
        The file, for messages.
    stamp : Stamp
        Which file it is.
    descriptor : int
        The open file.
    damage : str or None
        What is wrong with the file as a whole, if anything is: entries may be
        missing. Damage to single entries shows when they are read.
    """

    damage: str | None = None

    def __init__(self, path: str, descriptor: int, stamp: Stamp) -> None:
        self.path = path
        self.stamp = stamp
        self.descriptor = descriptor

    @staticmethod
    def open(folder: Folder, name: str) -> Archive:
        """Open an archive that this package, Amp, or any tar wrote.

        An archive without an index that fits is read through once, here.

        Raises
        ------
        FileNotFoundError
            There is no archive.
        DatabaseError
            It cannot be opened or read.
        """
        for left in reversed(range(_TRIES)):
            try:
                return _open(folder, name)
            except FileNotFoundError:
                raise
            except OSError as error:
                # NFS: the file was replaced between looking its name up and reading it.
                if error.errno != errno.ESTALE or not left:
                    raise database_error(error, "read", folder.full(name)) from error
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the file."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            self.close()

    def __len__(self) -> int:
        return len(self.digests())

    @abstractmethod
    def __contains__(self, key: object) -> bool: ...

    @abstractmethod
    def digests(self) -> NDArray[np.bytes_]:
        """All keys as 16-byte strings, sorted; not copied."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return an entry's bytes; KeyError if it is not there, CorruptEntryError if damaged."""

    @abstractmethod
    def read_many(
        self, digests: NDArray[np.bytes_] | None = None
    ) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        """Go through entries, all by default, in the order in which they lie in the file.

        Those that the archive lacks are passed over. A damaged entry gives the error
        in place of its bytes; it does not stop the others.
        """


def _open(folder: Folder, name: str) -> Archive:
    descriptor, status = folder.open_file(name)
    path, stamp = folder.full(name), Stamp.of(status)
    try:
        found = read_index(descriptor, status.st_size)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise
    # From here on the descriptor is the archive's to close.
    if found is None:
        return StreamedArchive(path, descriptor, stamp)
    if found.misfit is None:
        return IndexedArchive(path, descriptor, stamp, found)
    # A whole tar is what another tool put before the index; anything else is damage.
    streamed = StreamedArchive(path, descriptor, stamp, found.index.digests)
    if streamed.damage is None or found.is_moved:
        return streamed
    return IndexedArchive(path, os.dup(descriptor), stamp, found)


class Records:
    """Some records of an open archive, to be read where they lie and verified."""

    def __init__(self, path: str, descriptor: int, part: Part) -> None:
        self.path, self.descriptor, self.part = path, descriptor, part

    def read(self, number: int) -> bytes:
        """Return the deflated bytes of one record; raises as `Archive.read` does."""
        try:
            return _piece(
                self.descriptor, int(self.part.packed[number]), int(self.part.offset[number])
            )
        except ValueError as error:
            raise _corrupt(self.key(number), self.path, error) from None

    def verify(self, number: int, raw: bytes | CorruptEntryError) -> bytes:
        """Inflate what was read of a record and verify it: stream, checksum and an entry's name.

        Raises
        ------
        CorruptEntryError
            It is damaged, or could not be read.
        """
        if isinstance(raw, CorruptEntryError):
            raise raw
        key, part = self.key(number), self.part
        try:
            return _verified(raw, key, int(part.length[number]), int(part.crc[number]))
        except ValueError as error:
            raise _corrupt(key, self.path, error) from None

    def entry(self, number: int, raw: bytes | CorruptEntryError) -> bytes:
        """Return the bytes of an entry from what was read of its record; raises as `verify`."""
        record = self.verify(number, raw)
        return record[BLOCK : BLOCK + int(record[124:135], 8)]

    def walk(self) -> Iterator[tuple[int, bytes | CorruptEntryError]]:
        """Go through the deflated bytes of the records, which are sorted by offset.

        Neighbours are read together, and alone where the disk cannot read them
        together. One that it cannot read at all gives the error.
        """
        offset = self.part.offset.astype(np.int64)
        end = offset + self.part.packed.astype(np.int64)
        for some in self.part.runs(_RUN, _GAP):
            first, last = some.start, some.stop
            start, run = int(offset[first]), b""
            with unless_damaged(EOFError):
                run = read_exactly(self.descriptor, int(end[last - 1]) - start, start)
            begins, ends = (offset[first:last] - start), (end[first:last] - start)
            for number, begin, stop in zip(
                range(first, last), begins.tolist(), ends.tolist(), strict=True
            ):
                try:
                    yield number, run[begin:stop] if run else self.read(number)
                except CorruptEntryError as error:
                    yield number, error

    def key(self, number: int) -> str | None:
        """Key of one record; None for one that is no entry."""
        return self._keys[number] if self.part.is_entry[number] else None

    @cached_property
    def _keys(self) -> list[str]:
        return to_hex(self.part.digests)


def _piece(descriptor: int, size: int, offset: int) -> bytes:
    """Read the deflated bytes of a record; ValueError where only they cannot be read."""
    try:
        return read_exactly(descriptor, size, offset)
    except EOFError as error:
        raise ValueError(f"it cannot be read: {error}") from None
    except OSError as error:
        if not is_damage(error):
            raise
        raise ValueError(f"it cannot be read: {reason_of(error)}") from None


def _verified(raw: bytes, key: str | None, length: int, crc: int) -> bytes:
    """Inflate a record; ValueError if its stream, checksum or, of an entry, name is wrong."""
    record = inflate(raw, length)
    if crc32(record) != crc:
        raise ValueError("its checksum is wrong")
    if key is not None:
        entry_size(record, key)
    return record


def _corrupt(key: str | None, path: str, reason: ValueError) -> CorruptEntryError:
    what = f"entry {key}" if key is not None else "a member that is no entry"
    return CorruptEntryError(f"{what} in {path} is damaged: {reason}")


class IndexedArchive(Archive):
    """An archive that this package wrote, with its index and footer."""

    def __init__(self, path: str, descriptor: int, stamp: Stamp, found: Found) -> None:
        super().__init__(path, descriptor, stamp)
        self.footer, self.index, self.damage = found.footer, found.index, found.misfit

    def __contains__(self, key: object) -> bool:
        return (
            isinstance(key, str) and is_key(key) and self.index.row(bytes.fromhex(key)) is not None
        )

    def digests(self) -> NDArray[np.bytes_]:
        """All keys as 16-byte strings, sorted; not copied."""
        return self.index.digests

    def records(self, rows: NDArray[np.intp] | None = None) -> Records:
        """Return some rows of the index, all by default, in the order in which they lie."""
        return Records(self.path, self.descriptor, self.index.part(self.index.by_offset(rows)))

    def read(self, key: str) -> bytes:
        """Return an entry's bytes; see `Archive.read`."""
        row = self.index.row(bytes.fromhex(key)) if is_key(key) else None
        if row is None:
            raise KeyError(key)
        index = self.index
        try:
            raw = _piece(self.descriptor, int(index.packed[row]), int(index.offset[row]))
            record = _verified(raw, key, int(index.length[row]), int(index.crc[row]))
        except ValueError as error:
            raise _corrupt(key, self.path, error) from None
        return record[BLOCK : BLOCK + int(record[124:135], 8)]

    def read_many(
        self, digests: NDArray[np.bytes_] | None = None
    ) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        """Go through entries; see `Archive.read_many`."""
        rows = np.arange(len(self)) if digests is None else self.index.rows(digests)
        records = self.records(rows)
        keys = to_hex(records.part.digests)
        for number, raw in records.walk():
            try:
                yield keys[number], records.entry(number, raw)
            except CorruptEntryError as error:
                yield keys[number], error


class StreamedArchive(Archive):
    """An archive without an index that fits: Amp's, another tool's, or a damaged one.

    It is read front to back: once to learn which entries there are, and once more
    for all entries that are wanted. Of files of the same name the last one counts,
    as for every tar.

    Attributes
    ----------
    damage : str or None
        Why reading ended early, or that the checksum is wrong.
    trusted : bool
        Whether the bytes before the damage, if there is any, are those that
        were written: they are in a file that was only cut off, or that the disk
        cannot read further. Otherwise an entry without a checksum of its own
        cannot be believed.
    is_ours : bool
        Whether this package wrote entries of it.
    others : int
        Number of members that are no entries.
    expected : (n,) array of 16-byte strings
        Keys that must be there, as an index says that no longer fits.
    """

    def __init__(
        self,
        path: str,
        descriptor: int,
        stamp: Stamp,
        expected: NDArray[np.bytes_] | None = None,
    ) -> None:
        super().__init__(path, descriptor, stamp)
        self.trusted = True
        self.is_ours = expected is not None
        self.others = 0
        self.expected = digests_of([]) if expected is None else expected
        self._places: dict[str, int] = {}
        stream = self._stream()
        with self._noting_damage():
            for number, member in enumerate(members(stream)):
                if member.key is None:
                    self.others += 1
                    continue
                self.is_ours |= is_bound(member.headers[-BLOCK:], member.key, b"") is not None
                if not stream.skip(padded(member.size)):
                    raise EOFError("the tar ends inside an entry")
                self._places[member.key] = number
            stream.finish_member()
        self._digests = digests_of(sorted(self._places))

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def digests(self) -> NDArray[np.bytes_]:
        """All keys as 16-byte strings, sorted; not copied."""
        return self._digests

    def read(self, key: str) -> bytes:
        """Return an entry's bytes; see `Archive.read`."""
        if key not in self._places:
            raise KeyError(key)
        ((_, data),) = self.read_many(digests_of([key]))
        if isinstance(data, CorruptEntryError):
            raise data
        return data

    def read_many(
        self, digests: NDArray[np.bytes_] | None = None
    ) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        """Go through entries; see `Archive.read_many`."""
        rest = set(self._places)
        if digests is not None:
            rest.intersection_update(to_hex(digests))
        if not rest:
            return
        for key, headers, data in self.walk():
            if key in rest and key is not None:
                reason = self.doubt(key, headers, data)
                if reason is None:
                    yield key, data
                else:
                    yield key, self._corrupt(key, f"cannot be believed: {reason}")
                rest.discard(key)
                if not rest:
                    return
        for key in sorted(rest):
            yield key, self._corrupt(key, f"can no longer be read: {self.damage}")

    def _corrupt(self, key: str, what: str) -> CorruptEntryError:
        return CorruptEntryError(f"entry {key} in {self.path} {what}")

    def doubt(self, key: str, headers: bytes, data: bytes) -> str | None:
        """Say why an entry cannot be believed, if so."""
        bound = is_bound(headers[-BLOCK:], key, data)
        if bound is False:
            return "its checksum is wrong"
        if bound is None and not self.trusted:
            return f"the archive is damaged ({self.damage}), and the entry has no checksum there"
        return None

    def walk(self, others: bool = False) -> Iterator[tuple[str | None, bytes, bytes]]:
        """Go through the members that count; `damage` says afterwards if not all could be read.

        Yields key, tar headers and data; of a member that is no entry, which are only
        given with `others` and if they are no larger than an entry may be, None, its
        headers, and its data with their padding.
        """
        stream = self._stream()
        with self._noting_damage():
            for number, member in enumerate(members(stream)):
                if member.key is not None:
                    if self._places.get(member.key) != number:
                        continue
                    data = stream.read(member.size)
                    if len(data) < member.size:
                        raise EOFError("the tar ends inside an entry")
                    yield member.key, member.headers, data
                elif others and member.size <= MAX_ENTRY_SIZE:
                    yield None, member.headers, stream.read(padded(member.size))

    @contextlib.contextmanager
    def _noting_damage(self) -> Iterator[None]:
        try:
            yield
        except EOFError as error:
            self.damage = self.damage or str(error)
        except ValueError as error:
            self.damage, self.trusted = self.damage or str(error), False

    def _stream(self) -> GzipReader:
        position = 0

        def read(size: int) -> bytes:
            nonlocal position
            with unless_damaged() as damage:
                data = os.pread(self.descriptor, size, position)
            if damage:
                raise EOFError(f"from byte {position} on it cannot be read: {damage[0]}")
            position += len(data)
            return data

        return GzipReader(read)
