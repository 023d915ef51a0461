"""The index behind an archive's tar, and the footer that finds and binds it.

Both are gzip members, so that every tool that reads the archive passes over
them. ``docs/format.md`` describes them byte by byte.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive.deflate import (
    MAX_RATIO,
    MEMBER_HEADER,
    gunzip_stored,
    gzip_stored,
    member_trailer,
    stored_member,
)
from ampmpi.database.archive.tar import BLOCK
from ampmpi.entries.checksum import crc32
from ampmpi.files.trouble import unless_damaged
from ampmpi.keys import DIGEST, to_hex

INDEX_MAGIC = b"ampmpix1"
FOOTER_MAGIC = b"ampmpif1"

_HEAD = struct.Struct("<8sQQ")
_FOOTER = struct.Struct("<8sQQQQII")
FOOTER_SIZE = len(stored_member(bytes(_FOOTER.size)))
"""Size of the footer member, in bytes; it is the end of the file."""

_PIECE = 1 << 20
_ROWS = 1 << 16
_LARGEST = 1 << 62
_ROW = np.dtype([("offset", "<u8"), ("packed", "<u8"), ("length", "<u8"), ("crc", "<u4")])


@dataclass(frozen=True, eq=False)
class Index:
    """Where each entry lies in an archive.

    Rows 0 … n-1 are the entries, sorted by digest; further rows are records of
    other members, which are kept though nobody asks for them.

    Attributes
    ----------
    digests : (n,) array of 16-byte strings
        The keys, as bytes; sorted.
    offset, packed, length : (n + m,) uint64 arrays
        First byte of the deflated record in the file, its number of bytes
        there, and its number of bytes inflated (tar header and padding
        included).
    crc : (n + m,) uint32 array
        CRC-32 of the inflated record.
    """

    digests: NDArray[np.bytes_]
    offset: NDArray[np.uint64]
    packed: NDArray[np.uint64]
    length: NDArray[np.uint64]
    crc: NDArray[np.uint32]

    def row(self, digest: bytes) -> int | None:
        """Row of an entry, or None."""
        position = int(self.digests.searchsorted(np.array(digest, DIGEST)))
        is_there = self.digests[position : position + 1].tobytes() == digest
        return position if is_there else None

    def rows(self, digests: NDArray[np.bytes_]) -> NDArray[np.intp]:
        """Row of each of many entries, -1 where there is none."""
        if len(self.digests) == 0:
            return np.full(len(digests), -1)
        positions = np.searchsorted(self.digests, digests)
        positions[positions == len(self.digests)] = 0
        return np.where(self.digests[positions] == digests, positions, -1)

    def by_offset(self, rows: NDArray[np.intp] | None = None) -> NDArray[np.intp]:
        """Return rows, all by default, in the order in which they lie in the file."""
        if rows is None:
            return np.argsort(self.offset, kind="stable")
        return rows[np.argsort(self.offset[rows], kind="stable")]

    def part(self, rows: NDArray[np.intp]) -> Part:
        """Return some rows in the order given."""
        is_entry = rows < len(self.digests)
        digests = np.zeros(len(rows), DIGEST)
        digests[is_entry] = self.digests[rows[is_entry]]
        return Part(
            digests,
            is_entry,
            self.offset[rows],
            self.packed[rows],
            self.length[rows],
            self.crc[rows],
        )


class Part(NamedTuple):
    """Records of an archive, in any order: what a process needs that reads them.

    Attributes
    ----------
    digests : (n,) array of 16-byte strings
        Their keys, as bytes; zeros for one that is no entry.
    is_entry : (n,) bool array
        Which are entries.
    offset, packed, length, crc : (n,) arrays
        As in `Index`.
    """

    digests: NDArray[np.bytes_]
    is_entry: NDArray[np.bool_]
    offset: NDArray[np.uint64]
    packed: NDArray[np.uint64]
    length: NDArray[np.uint64]
    crc: NDArray[np.uint32]

    def some(self, chosen: NDArray[np.intp] | slice) -> Part:
        """Return some of the records."""
        return Part(
            self.digests[chosen],
            self.is_entry[chosen],
            self.offset[chosen],
            self.packed[chosen],
            self.length[chosen],
            self.crc[chosen],
        )

    def key(self, number: int) -> str | None:
        """Key of one of the records; None for one that is no entry."""
        return to_hex(self.digests[number : number + 1])[0] if self.is_entry[number] else None


@dataclass(frozen=True)
class Footer:
    """What binds an index to the tar before it.

    Attributes
    ----------
    data_size : int
        Number of bytes of the first gzip member, which holds the tar.
    data_length, data_crc : int
        Length and CRC-32 of the tar: the same as in that member's trailer.
    index_size, index_crc : int
        Number of bytes of the index's member; CRC-32 of the index.
    entries : int
        Number of entries.
    """

    data_size: int
    data_length: int
    data_crc: int
    index_size: int
    index_crc: int
    entries: int

    def pack(self) -> bytes:
        """Return the footer's member."""
        return stored_member(
            _FOOTER.pack(
                FOOTER_MAGIC,
                self.data_size,
                self.data_length,
                self.index_size,
                self.entries,
                self.data_crc,
                self.index_crc,
            )
        )

    @classmethod
    def unpack(cls, member: bytes) -> Footer | None:
        """Return the footer that a file's last `FOOTER_SIZE` bytes are, or None."""
        content = member[15:-8]
        if len(member) != FOOTER_SIZE or stored_member(content) != member:
            return None
        magic, data_size, data_length, index_size, entries, data_crc, index_crc = _FOOTER.unpack(
            content
        )
        if magic != FOOTER_MAGIC:
            return None
        return cls(data_size, data_length, data_crc, index_size, index_crc, entries)


def pack_index(index: Index) -> bytes:
    """Return the index's content: a head, then one column after the other, little-endian."""
    entries = len(index.digests)
    return b"".join(
        (
            _HEAD.pack(INDEX_MAGIC, entries, len(index.offset) - entries),
            index.digests.tobytes(),
            index.offset.astype("<u8").tobytes(),
            index.packed.astype("<u8").tobytes(),
            index.length.astype("<u8").tobytes(),
            index.crc.astype("<u4").tobytes(),
        )
    )


def unpack_index(content: bytes | memoryview) -> Index:
    """Return what `pack_index` packed.

    Raises
    ------
    ValueError
        It is no index.
    """
    if len(content) < _HEAD.size:
        raise ValueError("the index is too short")
    magic, entries, others = _HEAD.unpack_from(content)
    rows = entries + others
    if magic != INDEX_MAGIC or len(content) != _HEAD.size + 16 * entries + _ROW.itemsize * rows:
        raise ValueError("the index has a wrong size")
    digests = np.frombuffer(content, DIGEST, entries, _HEAD.size)
    position = _HEAD.size + digests.nbytes
    columns = []
    for kind in ("<u8", "<u8", "<u8", "<u4"):
        columns.append(np.frombuffer(content, kind, rows, position))
        position += columns[-1].nbytes
    return Index(digests, *columns)


@dataclass(frozen=True)
class Found:
    """A sound index and footer, at the end of a file.

    Attributes
    ----------
    footer : Footer
        The footer.
    index : Index
        The index.
    misfit : str or None
        How what lies before them differs from the tar that they were written for.
    is_moved : bool
        Whether it is longer or shorter, so that records lie elsewhere than the index says.
    """

    footer: Footer
    index: Index
    misfit: str | None
    is_moved: bool


def read_index(descriptor: int, size: int) -> Found | None:
    """Read the index of an archive, if it has one.

    Parameters
    ----------
    descriptor : int
        The open archive.
    size : int
        Its size in bytes.

    Returns
    -------
    Found or None
        None if there is no footer at the end, or if it or the index is damaged.
    """
    if size < FOOTER_SIZE + len(MEMBER_HEADER) + 8:
        return None
    footer = _footer(descriptor, size)
    if footer is None or not len(MEMBER_HEADER) + 8 <= footer.data_size < _LARGEST:
        return None
    data_end = size - FOOTER_SIZE - footer.index_size
    if data_end < 0:
        return None
    with unless_damaged(ValueError, EOFError) as damage:
        pieces = _pieces(descriptor, footer.index_size, data_end)
        content = gunzip_stored(pieces, footer.index_size)
        index = unpack_index(content)
    if damage:
        return None
    if crc32(content) != footer.index_crc or len(index.digests) != footer.entries:
        return None
    if not _is_possible(index, footer):
        return None
    shift = data_end - footer.data_size
    return Found(footer, index, _misfit(descriptor, footer, shift), shift != 0)


def _footer(descriptor: int, size: int) -> Footer | None:
    with unless_damaged():
        return Footer.unpack(os.pread(descriptor, FOOTER_SIZE, size - FOOTER_SIZE))
    return None


def _misfit(descriptor: int, footer: Footer, shift: int) -> str | None:
    if shift:
        return f"it has {abs(shift)} bytes {'more' if shift > 0 else 'fewer'} than were written"
    trailer = member_trailer(footer.data_crc, footer.data_length)
    with unless_damaged() as damage:
        if os.pread(descriptor, len(MEMBER_HEADER), 0) != MEMBER_HEADER:
            return "its first ten bytes are not those that were written"
        if os.pread(descriptor, 8, footer.data_size - 8) != trailer:
            return "the checksum of the tar is not the one that was written"
    if damage:
        return f"its first bytes or the checksum of the tar cannot be read: {damage[0]}"
    return None


def new_index_member(index: Index) -> tuple[bytes, int]:
    """Return the index's gzip member and the CRC-32 of its content."""
    content = pack_index(index)
    return gzip_stored(content), crc32(content)


def read_exactly(descriptor: int, size: int, offset: int) -> bytes:
    """Read `size` bytes at `offset`.

    Raises
    ------
    EOFError
        The file ends before.
    """
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise EOFError("the file ends early")
        data += more
    return data


def _pieces(descriptor: int, size: int, offset: int) -> Iterator[bytes]:
    for start in range(0, size, _PIECE):
        yield read_exactly(descriptor, min(_PIECE, size - start), offset + start)


def _is_possible(index: Index, footer: Footer) -> bool:
    """Whether rows lie inside the tar's member, apart from each other, and have possible sizes."""
    if np.any(index.digests[1:] <= index.digests[:-1]):
        return False
    order = np.argsort(index.offset)
    begin, end = len(MEMBER_HEADER), footer.data_size - 8
    for rows in np.split(order, range(_ROWS, len(order), _ROWS)):
        start, packed, length = index.offset[rows], index.packed[rows], index.length[rows]
        if np.any(start < begin) or np.any(start > end) or np.any(packed > end):
            return False
        ends = start + packed
        if np.any(ends[:-1] > start[1:]) or np.any(ends > end):
            return False
        if (
            np.any(length > packed * np.uint64(MAX_RATIO))
            or np.any(length % np.uint64(BLOCK))
            or np.any(length < BLOCK)
        ):
            return False
        begin = int(ends[-1]) if len(ends) else begin
    return True
