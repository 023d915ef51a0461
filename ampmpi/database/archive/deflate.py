"""Deflate, gzip members and their checksums, bounded in memory.

A piece that `deflate` returns ends with a full flush: it starts and ends on a
byte, and refers to nothing before it. Pieces can therefore be moved between
streams, and each one be inflated alone.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterable

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from ampmpi.entries.checksum import crc32

LEVEL = 1
MEMBER_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
"""Header of a gzip member: deflate, no flags, no time, fastest, unknown system."""

FULL_FLUSH_END = b"\x00\x00\xff\xff"
MAX_RATIO = 1032
"""No deflate stream inflates to more than this many times its size."""

_BLOCK = 1 << 18


def deflate(data: bytes, *, last: bool = False) -> bytes:
    """Compress `data` to a piece of a raw deflate stream; the `last` piece ends the stream."""
    piece = isal_zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
    mode = zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH
    return bytes(piece.compress(data) + piece.flush(mode))


def inflate(raw: bytes, length: int) -> bytes:
    """Inflate a piece that `deflate` made, of which `length` bytes must come out.

    It is always zlib that does it: isal is a fifth faster, but lets some damage
    pass over which tar fails; and another library is what reading back is for.
    No more than `length` bytes are ever produced; ValueError if there is anything wrong.
    """
    if not raw.endswith(FULL_FLUSH_END):
        raise ValueError("it does not end with a full flush")
    if length > MAX_RATIO * len(raw):
        raise ValueError("its size cannot be right")
    stream = zlib.decompressobj(-15)
    try:
        data = stream.decompress(raw, length + 1)
    except zlib.error as error:
        raise ValueError(f"its deflate stream is damaged ({error})") from None
    if len(data) != length or stream.unconsumed_tail or stream.eof:
        raise ValueError("its deflate stream has another length than the index says")
    return data


def member_trailer(crc: int, length: int) -> bytes:
    """End of a gzip member whose content has this CRC-32 and length."""
    return struct.pack("<II", crc, length & 0xFFFFFFFF)


def stored_member(content: bytes) -> bytes:
    """Return a gzip member that holds at most 65,535 bytes uncompressed, 23 bytes longer."""
    size = len(content)
    block = struct.pack("<BHH", 1, size, size ^ 0xFFFF) + content
    return MEMBER_HEADER + block + member_trailer(crc32(content), size)


def gzip_stored(content: bytes) -> bytes:
    """Return a gzip member of any size, uncompressed."""
    stream = zlib.compressobj(0, zlib.DEFLATED, 31)
    return stream.compress(content) + stream.flush()


def gunzip_stored(pieces: Iterable[bytes], size: int) -> memoryview:
    """Return the content, read-only, of a member of `size` bytes that `gzip_stored` made.

    It comes piece by piece, so that it is never there as a whole besides its content.
    Raises ValueError if it is damaged, or is not one whole member.
    """
    stream = zlib.decompressobj(31)
    content, length = memoryview(bytearray(size)), 0
    for piece in pieces:
        try:
            part = stream.decompress(piece, size - length + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if length + len(part) > size or stream.unconsumed_tail:
            raise ValueError("it is not stored")
        content[length : length + len(part)] = part
        length += len(part)
    if not stream.eof or stream.unused_data:
        raise ValueError("it is not one whole gzip member")
    return content[:length].toreadonly()


class GzipReader:
    """Reads what a file of gzip members holds, front to back.

    `read` returns the file's next bytes, at most as many as asked for, and none at
    its end. `position` says how many bytes of content were read or skipped. All
    methods raise EOFError where the file is cut off, and ValueError where it is damaged.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.position = 0
        self._file_read = read
        self._stream = zlib.decompressobj(31)
        self._broken: str | None = None
        self._ready = bytearray()

    def _fill(self) -> bool:
        """Get some more content; False at the end of the last member."""
        if self._broken is not None:
            raise ValueError(f"the gzip stream is damaged ({self._broken})")
        stream = self._stream
        source = stream.unconsumed_tail or stream.unused_data or self._file_read(_BLOCK)
        if stream.eof:
            if not source:
                return False
            stream = self._stream = zlib.decompressobj(31)
        elif not source:
            raise EOFError("the file ends in the middle of the gzip stream")
        before = stream.copy()
        try:
            self._ready += stream.decompress(source, 4 * _BLOCK)
        except zlib.error as error:
            self._broken = str(error)
            with contextlib.suppress(zlib.error):
                for byte in range(len(source)):
                    self._ready += before.decompress(source[byte : byte + 1])
        return True

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer at the end of the content."""
        while len(self._ready) < size and self._fill():
            pass
        content = bytes(self._ready[:size])
        del self._ready[:size]
        self.position += len(content)
        return content

    def skip(self, size: int) -> bool:
        """Pass over `size` bytes; False if the content ends before."""
        while size > len(self._ready):
            size -= len(self._ready)
            self.position += len(self._ready)
            self._ready.clear()
            if not self._fill():
                return False
        del self._ready[:size]
        self.position += size
        return True

    def finish_member(self) -> None:
        """Read the rest of the present member, so that its checksum is verified."""
        while not self._stream.eof:
            self._ready.clear()
            self._fill()


def combine(crcs: NDArray[np.uint32], lengths: NDArray[np.uint64]) -> int:
    """CRC-32 of the concatenation of parts, of which each one's CRC-32 and length are given."""
    total = 0
    for crc, length in zip(crcs.tolist(), lengths.tolist(), strict=True):
        total = isal_zlib.crc32_combine(total, crc, length)
    return total
