"""Finding sound entries anywhere in a damaged archive, without its index."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ampmpi.database.archive.deflate import FULL_FLUSH_END
from ampmpi.database.archive.tar import BLOCK, claimed_size, is_bound, padded, split_record
from ampmpi.files.trouble import is_damage

_READ = 1 << 20
_SECTOR = 1 << 12
_HEADER = 1 << 12
"""No tar header deflates to more bytes."""

_SMALLEST = 16
"""No record deflates to so few bytes: they are the end of the one before."""

_TRIES = 1 << 17
"""At so many bytes in all a record is looked for that no mark comes before.

The file's header may be damaged, or the mark.
"""

_PATIENCE = 1 << 30
"""So many bytes in all are inflated once more because the record before them was none.

Headers that lie about their sizes could make it a multiple of the file for each of them.
"""


def rescue(path: str) -> Iterator[tuple[str, bytes]]:
    """Go through the entries that can be inflated alone, wherever in a file they begin.

    A record of this package's archives begins after a full flush and ends with
    one. Its tar header holds a checksum of the entry and its key.

    Parameters
    ----------
    path : str
        The damaged archive.

    Yields
    ------
    key, data
        An entry that is what was archived.
    """
    with open(path, "rb") as file:
        pieces = _Pieces(file)
        position, patience, tries = 0, _PATIENCE, _TRIES
        while (end := pieces.end(position)) is not None:
            if end - position <= _SMALLEST:
                position = end
                continue
            attempt = _attempt(pieces, position)
            if attempt.found is None:
                # A record whose own beginning is sound may follow in the same piece.
                later = range(position + 1, min(end - _SMALLEST, position + 1 + tries))
                tries -= len(later)
                attempt = _search(pieces, later) or attempt
            if attempt.found is not None:
                yield attempt.found
                position = attempt.position
                continue
            if attempt.position > end:
                # Sound records may have been taken for a part of this one.
                patience -= attempt.inflated
            position = end if patience > 0 else max(end, attempt.position)


class _Pieces:
    """A file cut behind each mark of a full flush (some are chance bytes inside a record)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
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
        descriptor = self._file.fileno()
        try:
            return os.pread(descriptor, _READ, position)
        except OSError as error:
            if not is_damage(error):
                raise
        end, parts = min(position + _READ, os.fstat(descriptor).st_size), []
        while position < end:
            length = min(_SECTOR - position % _SECTOR, end - position)
            try:
                parts.append(os.pread(descriptor, length, position))
            except OSError as error:
                if not is_damage(error):
                    raise
                parts.append(bytes(length))
            position += length
        return b"".join(parts)

    def end(self, position: int) -> int | None:
        """Return the end of the next mark, or None."""
        while True:
            piece, is_marked = self.piece(position)
            position += len(piece)
            if is_marked:
                return position
            if not piece:
                return None


@dataclass(frozen=True)
class _Attempt:
    """What came of reading a record.

    Attributes
    ----------
    position : int
        How far into the file it was read.
    inflated : int
        How many bytes it gave.
    found : (str, bytes) or None
        The key and the entry, if they are sound.
    """

    position: int
    inflated: int = 0
    found: tuple[str, bytes] | None = None


def _search(pieces: _Pieces, starts: range) -> _Attempt | None:
    """Find the sound record that begins at one of these bytes, if any does."""
    raw, _ = pieces.piece(starts.start)
    for begin in range(min(len(starts), len(raw))):
        if _is_header(raw[begin : begin + _HEADER]):
            attempt = _attempt(pieces, starts.start + begin)
            if attempt.found is not None:
                return attempt
    return None


def _is_header(raw: bytes) -> bool:
    try:
        return claimed_size(zlib.decompressobj(-15).decompress(raw, BLOCK)) is not None
    except zlib.error:
        return False


def _attempt(pieces: _Pieces, position: int) -> _Attempt:
    """Read a record; never more of it than its header says, and not its padding."""
    stream, content = zlib.decompressobj(-15), bytearray()
    length, is_sure = BLOCK, False
    while not stream.eof:
        piece, is_marked = pieces.piece(position)
        if not piece:
            break
        position += len(piece)
        try:
            content += stream.decompress(piece, length - len(content))
            if len(content) == BLOCK:
                claimed = claimed_size(bytes(content))
                if claimed is None:
                    break
                size, is_sure = claimed
                length = BLOCK + size
                if length > BLOCK:
                    content += stream.decompress(stream.unconsumed_tail, length - BLOCK)
        except zlib.error:
            break
        if len(content) == length:
            content += bytes(BLOCK + padded(length - BLOCK) - length)
            record = bytes(content)
            content.clear()
            return _Attempt(position - len(stream.unconsumed_tail), length, _entry(record))
        if is_marked and content and not is_sure:
            # A damaged header: its size may be wrong, and is not tried beyond this piece.
            break
    return _Attempt(position, len(content))


def _entry(record: bytes) -> tuple[str, bytes] | None:
    try:
        key, data = split_record(record)
    except ValueError:
        return None
    return (key, data) if is_bound(record[:BLOCK], key, data) else None
