"""Writing an archive: deflated records are appended as they are, and the index behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive.deflate import (
    MEMBER_HEADER,
    combine,
    deflate,
    inflate,
    member_trailer,
)
from ampmpi.database.archive.index import Footer, Index, Part, new_index_member
from ampmpi.database.archive.tar import END, entry_record
from ampmpi.entries.checksum import crc32
from ampmpi.errors import DatabaseError
from ampmpi.keys import DIGEST, digests_of


class Output(Protocol):
    """Where an archive is written to."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Write all of `data`."""


class Parcel(NamedTuple):
    """Deflated records that were verified, as few objects, whatever their number.

    Attributes
    ----------
    digests : (n,) array of 16-byte strings
        Their keys, as bytes; zeros for one that is no entry.
    is_entry : (n,) bool array
        Which are entries.
    raw : bytes
        The records, one behind the other.
    packed, length : (n,) uint64 array
        Number of bytes of each record, deflated and inflated.
    crc, raw_crc : (n,) uint32 arrays
        CRC-32 of each record, inflated and deflated.
    checksum : int
        CRC-32 of `raw`, from when the records were verified.
    """

    digests: NDArray[np.bytes_]
    is_entry: NDArray[np.bool_]
    raw: bytes
    packed: NDArray[np.uint64]
    length: NDArray[np.uint64]
    crc: NDArray[np.uint32]
    raw_crc: NDArray[np.uint32]
    checksum: int

    @classmethod
    def of(cls, records: Part, raws: Sequence[bytes]) -> Parcel:
        """Return the parcel of records of another archive, given with their bytes."""
        digests, is_entry, _, packed, length, crc, _ = records
        raw = b"".join(raws)
        raw_crc = np.array(list(map(crc32, raws)), np.uint32)
        return cls(digests, is_entry, raw, packed, length, crc, raw_crc, crc32(raw))


def pack(entries: Sequence[tuple[str, bytes]]) -> Parcel:
    """Deflate entries, given as key and data; ValueError if one is larger than it may be."""
    records = [entry_record(key, data) for key, data in entries]
    digests = digests_of([key for key, _ in entries])
    return pack_records(digests, np.ones(len(records), bool), records)


def pack_records(
    digests: NDArray[np.bytes_], is_entry: NDArray[np.bool_], records: Sequence[bytes]
) -> Parcel:
    """Deflate whole tar records, and inflate them again to verify them, by another library.

    Each step is done for all records before the next one: by turns, they throw each
    other's code and data out of the processor's caches, which costs a seventh.
    """
    deflated = [deflate(record) for record in records]
    if not all(map(_inflates_to, deflated, records)):
        raise DatabaseError(
            "what was deflated does not inflate to what it was: the memory or processor of "
            "this machine may be failing; nothing was changed"
        )
    raw = b"".join(deflated)
    return Parcel(
        digests,
        is_entry,
        raw,
        np.array(list(map(len, deflated)), np.uint64),
        np.array(list(map(len, records)), np.uint64),
        np.array(list(map(crc32, records)), np.uint32),
        np.array(list(map(crc32, deflated)), np.uint32),
        crc32(raw),
    )


def _inflates_to(raw: bytes, record: bytes) -> bool:
    try:
        return inflate(raw, len(record)) == record
    except ValueError:
        return False


class ArchiveWriter:
    """Writes an archive front to back; all that it asks of the output is ``write``.

    Attributes
    ----------
    size : int
        Number of bytes of the archive so far.
    entries : int
        Number of entries so far.
    written : list of (int, int, int)
        Offset, number of bytes and CRC-32 of each piece that was written: what
        reading back must find.

    Notes
    -----
    What is kept in memory is the index: 49 bytes per entry.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self.size = self.entries = 0
        self.written: list[tuple[int, int, int]] = []
        self._parts, self._crcs = [_NO_RECORDS], [0]
        self._append(MEMBER_HEADER, crc32(MEMBER_HEADER))

    def add(self, parcel: Parcel) -> None:
        """Append records. An entry is added only once."""
        digests, is_entry, raw, packed, length, crc, raw_crc, checksum = parcel
        records = Part(digests, is_entry, packed, packed, length, crc, raw_crc)
        self._note(_placed(records, self.size), combine(crc, length))
        self._append(raw, checksum)

    def leave_room(self, records: Part) -> int:
        """Leave room for records that somebody else writes there; return where it begins."""
        begin = self.size
        self.size += int(records.packed.sum())
        return begin

    def fill(self, records: Part, begin: int, checksum: int, crc: int) -> None:
        """Take note of records that were written where room was left for them.

        Where several rooms were left they are filled in that order. Given are the CRC-32 of
        what was written, and of all records inflated.
        """
        self._note(_placed(records, begin), crc)
        self.written.append((begin, int(records.packed.sum()), checksum))

    def close(self) -> Footer:
        """End the tar, and write the index and the footer behind it.

        Raises ValueError if an entry was added twice.
        """
        records = Part._make(map(np.concatenate, zip(*self._parts, strict=True)))
        lengths = [part.length.sum(dtype=np.uint64) for part in self._parts]
        crc = combine(np.array(self._crcs, np.uint32), np.array(lengths, np.uint64))
        end, footer = tail(records, self.size, crc)
        self._append(end, crc32(end))
        return footer

    def _note(self, records: Part, crc: int) -> None:
        self._parts.append(records)
        self._crcs.append(crc)
        self.entries += int(np.count_nonzero(records.is_entry))

    def _append(self, raw: bytes, checksum: int) -> None:
        if raw:
            self._output.write(raw)
            self.written.append((self.size, len(raw), checksum))
            self.size += len(raw)


def _placed(records: Part, begin: int) -> Part:
    """Return records as they lie one behind the other from a byte on."""
    ends = np.cumsum(records.packed, dtype=np.uint64)
    return records._replace(offset=np.uint64(begin) + ends - records.packed)


def tail(records: Part, size: int, crc: int) -> tuple[bytes, Footer]:
    """Return what follows an archive's records: the tar's end, the index, and the footer.

    `size` is the number of bytes before it, and `crc` the CRC-32 of all records inflated.
    Raises ValueError if an entry is there twice.
    """
    ends = np.array([records.length.sum(dtype=np.uint64), len(END)], np.uint64)
    data_length = int(ends.sum())
    data_crc = combine(np.array([crc, crc32(END)], np.uint32), ends)
    end = deflate(END, last=True) + member_trailer(data_crc, data_length)
    entries, others = np.flatnonzero(records.is_entry), np.flatnonzero(~records.is_entry)
    entries = entries[np.argsort(records.digests[entries], kind="stable")]
    digests, _, *columns = records.some(np.concatenate((entries, others)))
    index = Index._make((digests[: len(entries)], *columns))
    if np.any(index.digests[1:] == index.digests[:-1]):
        raise ValueError("an entry was added twice")
    member, index_crc = new_index_member(index)
    footer = Footer(
        data_size=size + len(end),
        data_length=data_length,
        index_size=len(member),
        entries=len(entries),
        data_crc=data_crc,
        index_crc=index_crc,
    )
    return end + member + footer.pack(), footer


_SIZES = np.empty(0, np.uint64)
_CHECKSUMS = np.empty(0, np.uint32)
_NO_RECORDS = Part(
    np.empty(0, DIGEST), np.empty(0, bool), _SIZES, _SIZES, _SIZES, _CHECKSUMS, _CHECKSUMS
)
