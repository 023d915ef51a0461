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
from ampmpi.database.archive.tar import BLOCK, claimed_size, is_bound, padded, split_record
from ampmpi.files.trouble import unless_damaged

_READ = 1 << 20
_SECTOR = 1 << 12
_MARKS = 16
"""So many bytes that look like marks may be inside of a record; one in four thousand
megabytes is likely. Headers that lie about their sizes cost no more than this."""


def rescue(descriptor: int) -> Iterator[tuple[str, bytes]]:
    """Go through the entries that can be inflated alone, wherever in a file they begin.

    Parameters
    ----------
    descriptor : int
        The damaged archive, open.

    Yields
    ------
    key, data
        An entry that is what was archived.
    """
    pieces = _Pieces(descriptor)
    position: int | None = len(MEMBER_HEADER)
    while position is not None:
        found = _record_at(pieces, position)
        if found is not None:
            key, data, position = found
            yield key, data
        else:
            position = pieces.after_mark(position)


class _Pieces:
    """A file cut behind each mark of a full flush (some are chance bytes inside a record)."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._start, self._block = 0, b""

    def piece(self, position: int) -> tuple[bytes, bool]:
        """Return bytes up to the end of the next mark, or as many as are read at once.

        Returns
        -------
        bytes
            Empty at the end of the file.
        bool
            Whether they end with a mark.
        """
        begin = position - self._start
        end = self._block.find(FULL_FLUSH_END, begin) if begin >= 0 else -1
        if end < 0:
            self._start, self._block, begin = position, self._read(position), 0
            end = self._block.find(FULL_FLUSH_END)
        if end >= 0:
            return self._block[begin : end + len(FULL_FLUSH_END)], True
        if len(self._block) == _READ:
            # A mark may have begun.
            return self._block[: 1 - len(FULL_FLUSH_END)], False
        return self._block, False

    def _read(self, position: int) -> bytes:
        """Return the next bytes, with zeros where the disk cannot read."""
        with unless_damaged():
            return os.pread(self._descriptor, _READ, position)
        end, parts = min(position + _READ, os.fstat(self._descriptor).st_size), []
        while position < end:
            length = min(_SECTOR - position % _SECTOR, end - position)
            data = bytes(length)
            with unless_damaged():
                data = os.pread(self._descriptor, length, position)
            parts.append(data)
            position += length
        return b"".join(parts)

    def after_mark(self, position: int) -> int | None:
        """Return where the next mark ends, or None."""
        while True:
            piece, is_marked = self.piece(position)
            position += len(piece)
            if is_marked:
                return position
            if not piece:
                return None


def _record_at(pieces: _Pieces, position: int) -> tuple[str, bytes, int] | None:
    """Read the record that begins at a byte; return its key, entry and end, or None."""
    stream, content = zlib.decompressobj(-15), bytearray()
    length, marks = BLOCK, 0
    while len(content) < length and not stream.eof:
        piece, is_marked = pieces.piece(position)
        marks += is_marked
        if not piece or marks > _MARKS:
            return None
        position += len(piece)
        try:
            content += stream.decompress(piece, length - len(content))
            if len(content) == BLOCK == length:
                claimed = claimed_size(bytes(content))
                if claimed is None:
                    return None
                length = BLOCK + claimed
                if length > BLOCK:
                    content += stream.decompress(stream.unconsumed_tail, length - BLOCK)
        except zlib.error:
            return None
    if len(content) < length:
        return None
    end = position - len(stream.unconsumed_tail)
    record = bytes(content) + bytes(BLOCK + padded(length - BLOCK) - length)
    try:
        key, data = split_record(record)
    except ValueError:
        return None
    return (key, data, end) if is_bound(record[:BLOCK], key, data) else None
