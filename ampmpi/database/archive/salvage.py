"""Finding sound entries in a damaged archive, without its index.

A record of this package's archives begins behind the mark of a full flush, or as
the first one behind the file's header, and its tar header holds a checksum of
the entry and its key. Records are therefore found by their marks. Given up is a
record before which no mark is sound: one whose neighbour lost its end.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

from ampmpi.database.archive.deflate import FULL_FLUSH_END, MEMBER_HEADER
from ampmpi.database.archive.tar import BLOCK, claim, is_bound
from ampmpi.files.trouble import unless_damaged

_READ = 1 << 14
_SECTOR = 1 << 12
_MARKS = 16
"""So many bytes that look like marks may be inside of a record; one in four thousand
megabytes is likely. Headers that lie about their sizes cost no more than this."""


def rescue(descriptor: int) -> Iterator[tuple[str, bytes]]:
    """Go through the entries of an open file that can be inflated alone, wherever they begin.

    Yields key and data of entries that are what was archived.
    """
    position: int | None = len(MEMBER_HEADER)
    while position is not None:
        found = _entry_at(descriptor, position)
        if found is not None:
            yield found
        position = _after_mark(descriptor, position)


def _after_mark(descriptor: int, position: int) -> int | None:
    """Return where the next mark ends, or None."""
    while block := _read(descriptor, position):
        begin = block.find(FULL_FLUSH_END)
        if begin >= 0:
            return position + begin + len(FULL_FLUSH_END)
        position += max(len(block) - len(FULL_FLUSH_END) + 1, 1)  # a mark may have begun
    return None


def _entry_at(descriptor: int, position: int) -> tuple[str, bytes] | None:
    """Read the record that begins at a byte; return its key and entry, if it is sound."""
    stream, content = zlib.decompressobj(-15), bytearray()
    key, length, marks = "", BLOCK, 0
    for piece in _pieces(descriptor, position):
        try:
            content += stream.decompress(piece, length - len(content))
            if len(content) == BLOCK == length:
                claimed = claim(bytes(content))
                if claimed is None:
                    return None
                key, size = claimed
                length += size
                if size:
                    content += stream.decompress(stream.unconsumed_tail, size)
        except zlib.error:
            return None
        if key and len(content) == length:
            header, data = bytes(content[:BLOCK]), bytes(content[BLOCK:])
            return (key, data) if is_bound(header, key, data) else None
        marks += piece.endswith(FULL_FLUSH_END)
        if marks > _MARKS or stream.eof:
            return None
    return None


def _pieces(descriptor: int, position: int) -> Iterator[bytes]:
    """Read on from a byte; no piece holds more than one mark."""
    while block := _read(descriptor, position):
        begin = 0
        while begin < len(block):
            mark = block.find(FULL_FLUSH_END, begin)
            end = len(block) if mark < 0 else mark + len(FULL_FLUSH_END)
            yield block[begin:end]
            begin = end
        position += len(block)


def _read(descriptor: int, position: int) -> bytes:
    """Return the next bytes, with zeros where the disk cannot read."""
    with unless_damaged():
        return os.pread(descriptor, _READ, position)
    end, parts = min(position + _READ, os.fstat(descriptor).st_size), []
    while position < end:
        length = min(_SECTOR - position % _SECTOR, end - position)
        data = bytes(length)
        with unless_damaged():
            data = os.pread(descriptor, length, position)
        parts.append(data)
        position += length
    return b"".join(parts)
