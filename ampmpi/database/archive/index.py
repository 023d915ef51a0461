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
from ampmpi.keys import DIGEST

INDEX_MAGIC = b"ampmpix1"
FOOTER_MAGIC = b"ampmpif1"

_HEAD = struct.Struct("<8sQQ")
_FOOTER = struct.Struct("<8sQQQQII")
FOOTER_SIZE = len(stored_member(bytes(_FOOTER.size)))
"""Size of the footer member, in bytes; it is the end of the file."""

_PIECE = 1 << 20
_ROWS = 1 << 16
_COLUMNS = ("<u8", "<u8", "<u8", "<u4", "<u4")
_ROW, _OLD_ROW = 32, 28
"""Bytes of these in a row; version 0.1 wrote no `raw_crc`."""


class Part(NamedTuple):
    """Records of an archive, in any order; digests are zeros for one that is no entry.

    All are (n,) arrays; the others are as in `Index`.
    """

    digests: NDArray[np.bytes_]
    is_entry: NDArray[np.bool_]
    offset: NDArray[np.uint64]
    packed: NDArray[np.uint64]
    length: NDArray[np.uint64]
    crc: NDArray[np.uint32]
    raw_crc: NDArray[np.uint32]

    def some(self, chosen: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Part:
        """Return some of the records."""
        return Part._make(column[chosen] for column in self)

    def runs(self, longest: int, gap: int) -> Iterator[slice]:
        """Cut records that are sorted by offset into runs to be read together.

        A run begins no more than `longest` bytes before its last record, and has no
        gap of more than `gap` bytes.
        """
        offset = self.offset.astype(np.int64)
        end = offset + self.packed.astype(np.int64)
        first = 0
        while first < len(offset):
            near = np.searchsorted(offset, offset[first] + longest, "right")
            gaps = np.flatnonzero(offset[first + 1 : near] - end[first : near - 1] > gap)
            last = int(first + gaps[0] + 1 if len(gaps) else near)
            yield slice(first, last)
            first = last


class Index(NamedTuple):
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
    crc, raw_crc : (n + m,) uint32 arrays
        CRC-32 of the record, inflated and deflated; the latter is 0 where it is not known.
    """

    digests: NDArray[np.bytes_]
    offset: NDArray[np.uint64]
    packed: NDArray[np.uint64]
    length: NDArray[np.uint64]
    crc: NDArray[np.uint32]
    raw_crc: NDArray[np.uint32]

    def row(self, digest: bytes) -> int | None:
        """Row of an entry, or None."""
        position = int(self.digests.searchsorted(np.array(digest, DIGEST)))
        is_there = self.digests[position : position + 1].tobytes() == digest
        return position if is_there else None

    def rows(self, digests: NDArray[np.bytes_]) -> NDArray[np.intp]:
        """Rows of those of many entries that there are."""
        if len(self.digests) == 0:
            return np.empty(0, np.intp)
        positions = np.searchsorted(self.digests, digests)
        positions[positions == len(self.digests)] = 0
        return np.unique(positions[self.digests[positions] == digests])

    def by_offset(self, rows: NDArray[np.intp] | None = None) -> NDArray[np.intp]:
        """Return rows, all by default, in the order in which they lie in the file."""
        if rows is None:
            return np.argsort(self.offset)
        return rows[np.argsort(self.offset[rows])]

    def part(self, rows: NDArray[np.intp]) -> Part:
        """Return some rows in the order given."""
        is_entry = rows < len(self.digests)
        digests = np.zeros(len(rows), DIGEST)
        digests[is_entry] = self.digests[rows[is_entry]]
        return Part._make((digests, is_entry, *(column[rows] for column in self[1:])))


class Footer(NamedTuple):
    """What binds an index to the tar before it.

    `data_size` is the number of bytes of the first gzip member, which holds the tar;
    `data_length` and `data_crc` are the tar's length and CRC-32, as in that member's
    trailer; `index_size` is that of the index's member, `index_crc` the index's own.
    """

    data_size: int
    data_length: int
    index_size: int
    entries: int
    data_crc: int
    index_crc: int

    def pack(self) -> bytes:
        """Return the footer's member."""
        return stored_member(_FOOTER.pack(FOOTER_MAGIC, *self))

    @classmethod
    def unpack(cls, member: bytes) -> Footer | None:
        """Return the footer that a file's last `FOOTER_SIZE` bytes are, or None."""
        content = member[15:-8]
        if len(member) != FOOTER_SIZE or stored_member(content) != member:
            return None
        magic, *fields = _FOOTER.unpack(content)
        return cls._make(fields) if magic == FOOTER_MAGIC else None


def new_index_member(index: Index) -> tuple[bytes, int]:
    """Return the index's gzip member and the CRC-32 of its content."""
    entries = len(index.digests)
    head = _HEAD.pack(INDEX_MAGIC, entries, len(index.offset) - entries)
    parts = [head, index.digests.tobytes()]
    for column, kind in zip(index[1:], _COLUMNS, strict=True):
        parts.append(np.asarray(column, kind).tobytes())
    content = b"".join(parts)
    return gzip_stored(content), crc32(content)


def _unpacked(content: memoryview) -> Index:
    """Return the index of which `new_index_member` made this content; ValueError if of none."""
    if len(content) < _HEAD.size:
        raise ValueError("the index is too short")
    magic, entries, others = _HEAD.unpack_from(content)
    rows = entries + others
    size = len(content) - _HEAD.size - 16 * entries
    if magic != INDEX_MAGIC or size not in (_ROW * rows, _OLD_ROW * rows):
        raise ValueError("the index has a wrong size")
    columns = [np.frombuffer(content, DIGEST, entries, _HEAD.size)]
    position = _HEAD.size + columns[0].nbytes
    for kind in _COLUMNS if size == _ROW * rows else _COLUMNS[:-1]:
        columns.append(np.frombuffer(content, kind, rows, position))
        position += columns[-1].nbytes
    if len(columns) == len(_COLUMNS):
        columns.append(np.zeros(rows, np.uint32))
    return Index._make(columns)


@dataclass(frozen=True)
class Found:
    """A sound index and footer, at the end of a file.

    `misfit` says how what lies before them differs from the tar that they were
    written for, if it does, and `is_moved` whether records lie elsewhere than the
    index says, since there are more or fewer bytes.
    """

    footer: Footer
    index: Index
    misfit: str | None
    is_moved: bool


def read_index(descriptor: int, size: int) -> Found | None:
    """Read the index of an open archive of `size` bytes; None if it has none that is sound."""
    least = len(MEMBER_HEADER) + 8
    if size < FOOTER_SIZE + least:
        return None
    with unless_damaged(ValueError, EOFError) as damage:
        footer = Footer.unpack(os.pread(descriptor, FOOTER_SIZE, size - FOOTER_SIZE))
        if footer is None or not least <= footer.data_size < 1 << 62:
            return None
        data_end = size - FOOTER_SIZE - footer.index_size
        if data_end < 0:
            return None
        content = gunzip_stored(_pieces(descriptor, footer.index_size, data_end), footer.index_size)
        index = _unpacked(content)
    if (
        damage
        or crc32(content) != footer.index_crc
        or len(index.digests) != footer.entries
        or not _is_possible(index, footer)
    ):
        return None
    shift = data_end - footer.data_size
    return Found(footer, index, _misfit(descriptor, footer, shift), shift != 0)


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


def read_exactly(descriptor: int, size: int, offset: int) -> bytes:
    """Read `size` bytes at `offset`; EOFError if the file ends before."""
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
        ends = start + packed
        if (
            np.any(start < begin)
            or np.any(start > end)
            or np.any(packed > end)
            or np.any(ends > end)
            or np.any(ends[:-1] > start[1:])
            or np.any(length > packed * np.uint64(MAX_RATIO))
            or np.any(length % np.uint64(BLOCK))
            or np.any(length < BLOCK)
        ):
            return False
        begin = int(ends[-1]) if len(ends) else begin
    return True
