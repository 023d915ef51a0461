"""Finding sound entries behind the damage in an archive whose index is lost as well."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from ampmpi.database.gzipstream import FULL_FLUSH_END, MEMBER_HEADER
from ampmpi.database.tarstream import BLOCK, MAX_ENTRY_SIZE, is_bound, padded, split_record

_READ = 1 << 20


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
    partial: _Record | None = None
    for piece in _pieces(path):
        if partial is None or not partial.feed(piece):
            partial = _Record()
            if not partial.feed(piece):
                partial = None
                continue
        if partial.is_complete():
            try:
                key, data = split_record(bytes(partial.content))
            except ValueError:
                pass
            else:
                if is_bound(bytes(partial.content[:BLOCK]), key, data):
                    yield key, data
            partial = None


def _pieces(path: str) -> Iterator[bytes]:
    """Cut a file behind each mark of a full flush (some are chance bytes inside a record)."""
    rest = b""
    with open(path, "rb") as file:
        if file.read(len(MEMBER_HEADER)) != MEMBER_HEADER:
            file.seek(0)
        while block := file.read(_READ):
            parts = (rest + block).split(FULL_FLUSH_END)
            rest = parts.pop()
            for part in parts:
                yield part + FULL_FLUSH_END
            if len(rest) > MAX_ENTRY_SIZE:
                rest = rest[-len(FULL_FLUSH_END) :]


class _Record:
    """A tar record, of which more and more is inflated."""

    def __init__(self) -> None:
        self.content = bytearray()
        self._stream = zlib.decompressobj(-15)

    def feed(self, piece: bytes) -> bool:
        """Inflate one more piece; False if this is no record of an entry."""
        try:
            self.content += self._stream.decompress(piece, MAX_ENTRY_SIZE)
        except zlib.error:
            return False
        if len(self.content) < BLOCK:
            return not self.content
        return not self._stream.eof and len(self.content) <= (_record_length(self.content) or 0)

    def is_complete(self) -> bool:
        return bool(self.content) and len(self.content) == _record_length(self.content)


def _record_length(header: bytearray) -> int | None:
    digits = bytes(header[124:135])
    if header[257:262] != b"ustar" or not digits.isdigit() or set(digits) & set(b"89"):
        return None
    return BLOCK + padded(int(digits, 8))
