"""Writing ``archive.tar.gz``: records are deflated alone, and old ones copied as they are."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive.deflate import MEMBER_HEADER, combine, deflate, member_trailer
from ampmpi.database.archive.index import Footer, Index, new_index_member
from ampmpi.database.archive.reader import IndexedArchive
from ampmpi.database.archive.tar import END, entry_record
from ampmpi.entries.checksum import crc32
from ampmpi.errors import CorruptEntryError
from ampmpi.keys import digests_of

_BUFFER = 1 << 22


class Output(Protocol):
    """Where an archive is written to."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Write all of `data`."""


class Chunk(NamedTuple):
    """A deflated tar record, ready to be put into an archive.

    Attributes
    ----------
    key : str or None
        The entry's key; None for the record of a member that is no entry.
    raw : bytes
        The record, deflated up to a full flush.
    length : int
        Number of bytes of the record.
    crc : int
        CRC-32 of the record.
    """

    key: str | None
    raw: bytes
    length: int
    crc: int


class Parcel(NamedTuple):
    """Deflated entries as few objects, whatever their number: cheap to send between ranks.

    Attributes
    ----------
    digests : (n,) array of 16-byte strings
        Their keys, as bytes.
    raw : bytes or memoryview
        Their records, one behind the other.
    packed, length : (n,) uint64 array
        Number of bytes of each record, deflated and inflated.
    crc : (n,) uint32 array
        CRC-32 of each record.
    """

    digests: NDArray[np.bytes_]
    raw: bytes | memoryview
    packed: NDArray[np.uint64]
    length: NDArray[np.uint64]
    crc: NDArray[np.uint32]

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Self:
        """Return the parcel of chunks of entries."""
        return cls(
            digests_of([chunk.key for chunk in chunks if chunk.key is not None]),
            b"".join([chunk.raw for chunk in chunks]),
            np.array([len(chunk.raw) for chunk in chunks], np.uint64),
            np.array([chunk.length for chunk in chunks], np.uint64),
            np.array([chunk.crc for chunk in chunks], np.uint32),
        )


def deflate_entry(key: str, data: bytes) -> Chunk:
    """Compress an entry for an archive.

    Raises
    ------
    ValueError
        It is larger than an entry may be.
    """
    return deflate_record(key, entry_record(key, data))


def deflate_entries(entries: Sequence[tuple[str, bytes]]) -> list[Chunk]:
    """Compress entries, given as key and data, for an archive; see `deflate_entry`."""
    records = [entry_record(key, data) for key, data in entries]
    deflated = [deflate(record) for record in records]
    return [
        Chunk(key, raw, len(record), crc32(record))
        for (key, _), raw, record in zip(entries, deflated, records, strict=True)
    ]


def deflate_record(key: str | None, record: bytes) -> Chunk:
    """Compress a whole tar record for an archive."""
    return Chunk(key, deflate(record), len(record), crc32(record))


class ArchiveWriter:
    """Writes an archive front to back.

    Parameters
    ----------
    output : object with ``write``
        Where to; nothing else is asked of it.

    Attributes
    ----------
    size : int
        Number of bytes of the archive so far.

    Notes
    -----
    What is kept in memory is the index: 45 bytes per entry.
    """

    def __init__(self, output: Output) -> None:
        self.size = len(MEMBER_HEADER)
        self._output = output
        self._buffer, self._buffered = [MEMBER_HEADER], len(MEMBER_HEADER)
        self._digests = bytearray()
        self._is_entry = bytearray()
        self._offset, self._packed, self._length = array("Q"), array("Q"), array("Q")
        self._crc = array("I")

    def add(self, chunk: Chunk) -> None:
        """Append a record. An entry is added only once."""
        self._digests += bytes(16) if chunk.key is None else bytes.fromhex(chunk.key)
        self._is_entry.append(chunk.key is not None)
        self._offset.append(self.size)
        self._packed.append(len(chunk.raw))
        self._length.append(chunk.length)
        self._crc.append(chunk.crc)
        self._append(chunk.raw)

    def add_parcel(self, parcel: Parcel) -> None:
        """Append the records of entries. An entry is added only once."""
        is_entry = np.ones(len(parcel.digests), bool)
        self._note(self.size, parcel.digests, is_entry, parcel.packed, parcel.length, parcel.crc)
        self._flush()
        self._output.write(parcel.raw)
        self.size += len(parcel.raw)

    def _note(
        self,
        start: int,
        digests: NDArray[np.bytes_],
        is_entry: NDArray[np.bool_],
        packed: NDArray[np.uint64],
        length: NDArray[np.uint64],
        crc: NDArray[np.uint32],
    ) -> None:
        """Take down rows of the index for records one behind the other."""
        packed = packed.astype(np.uint64)
        offset = np.uint64(start) + np.cumsum(packed, dtype=np.uint64) - packed
        self._digests += digests.tobytes()
        self._is_entry += is_entry.tobytes()
        self._offset.frombytes(offset.tobytes())
        self._packed.frombytes(packed.tobytes())
        self._length.frombytes(length.astype(np.uint64).tobytes())
        self._crc.frombytes(crc.astype(np.uint32).tobytes())

    def copy(
        self,
        archive: IndexedArchive,
        keep: NDArray[np.bool_],
        progress: Callable[[int], None] | None = None,
    ) -> dict[int, str]:
        """Copy records of another archive as they are; leave out those that cannot be read.

        Parameters
        ----------
        archive : IndexedArchive
            Where they are.
        keep : (n + m,) bool array
            Which rows of its index.
        progress : callable, optional
            Called with the number of records copied since the last call.

        Returns
        -------
        dict of int to str
            Rows that were left out, and why.

        Raises
        ------
        EOFError
            The archive is shorter than its index says.
        """
        old = archive.index
        rows = np.flatnonzero(keep)
        rows = rows[np.argsort(old.offset[rows])]
        start, copied = self.size, 0
        left_out: dict[int, str] = {}
        for count, raw in archive.raw_runs(rows):
            if isinstance(raw, CorruptEntryError):
                left_out[int(rows[copied])] = str(raw)
            else:
                self._append(raw)
            copied += count
            if progress is not None:
                progress(count)
        if left_out:
            rows = rows[~np.isin(rows, list(left_out))]
        entry = rows < len(old.digests)
        digests = np.zeros(len(rows), "S16")
        digests[entry] = old.digests[rows[entry]]
        self._note(start, digests, entry, old.packed[rows], old.length[rows], old.crc[rows])
        return left_out

    def close(self) -> Footer:
        """End the tar, and write the index and the footer behind it.

        Returns
        -------
        Footer
            What the archive's end says.

        Raises
        ------
        ValueError
            An entry was added twice.
        """
        entry = np.frombuffer(self._is_entry, np.uint8).astype(bool)
        digests = np.frombuffer(self._digests, "S16")
        length, crc = np.frombuffer(self._length, np.uint64), np.frombuffer(self._crc, np.uint32)
        end = deflate(END, last=True)
        data_length = int(length.sum()) + len(END)
        data_crc = combine(
            np.append(crc, np.uint32(crc32(END))), np.append(length, np.uint64(len(END)))
        )
        self._append(end + member_trailer(data_crc, data_length))

        entries, others = np.flatnonzero(entry), np.flatnonzero(~entry)
        entries = entries[np.argsort(digests[entries], kind="stable")]
        order = np.concatenate((entries, others))
        index = Index(
            digests[entries],
            np.frombuffer(self._offset, np.uint64)[order],
            np.frombuffer(self._packed, np.uint64)[order],
            length[order],
            crc[order],
        )
        if np.any(index.digests[1:] == index.digests[:-1]):
            raise ValueError("an entry was added twice")
        data_size = self.size
        member, index_crc = new_index_member(index)
        footer = Footer(data_size, data_length, data_crc, len(member), index_crc, len(entries))
        self._append(member)
        self._append(footer.pack())
        self._flush()
        return footer

    def _append(self, raw: bytes) -> None:
        self.size += len(raw)
        self._buffer.append(raw)
        self._buffered += len(raw)
        if self._buffered >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        self._output.write(b"".join(self._buffer))
        self._buffer.clear()
        self._buffered = 0
