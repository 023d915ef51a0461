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
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.entries.checksum import crc32

_deflater: ModuleType = zlib
with contextlib.suppress(ImportError):
    from isal import isal_zlib

    _deflater = isal_zlib

LEVEL = 1
MEMBER_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
"""Header of a gzip member: deflate, no flags, no time, fastest, unknown system."""

FULL_FLUSH_END = b"\x00\x00\xff\xff"
MAX_RATIO = 1032
"""No deflate stream inflates to more than this many times its size."""

_BLOCK = 1 << 18
_POLYNOMIAL = 0xEDB88320


def deflate(data: bytes, *, last: bool = False) -> bytes:
    """Compress `data` to a piece of a raw deflate stream; the `last` piece ends the stream."""
    piece: Any = _deflater.compressobj(LEVEL, zlib.DEFLATED, -15)
    mode = zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH
    return bytes(piece.compress(data) + piece.flush(mode))


def inflate(raw: bytes, length: int) -> bytes:
    """Inflate a piece that `deflate` made.

    It is always zlib that does it: isal is a fifth faster, but lets some damage
    pass over which tar fails; and another library is what reading back is for.

    Parameters
    ----------
    raw : bytes
        The piece, ending with a full flush.
    length : int
        How many bytes must come out; no more are ever produced.

    Raises
    ------
    ValueError
        The piece is damaged or gives another number of bytes.
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
    """Return the content of a member that `gzip_stored` made, read-only.

    Parameters
    ----------
    pieces : iterable of bytes
        The member, piece by piece, so that it is never there as a whole besides its content.
    size : int
        Its number of bytes.

    Raises
    ------
    ValueError
        It is damaged, or is not one whole member.
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

    Parameters
    ----------
    read : callable
        Returns the file's next bytes, at most as many as asked for; none at its end.

    Attributes
    ----------
    position : int
        How many bytes of content were read or skipped.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.position = 0
        self._file_read = read
        self._stream = zlib.decompressobj(31)
        self._broken: zlib.error | None = None
        self._ready = bytearray()

    def _fill(self) -> bool:
        """Get some more content; False at the end of the last member."""
        while True:
            source = b""
            if self._stream.eof:
                source = self._stream.unused_data or self._file_read(_BLOCK)
                if not source:
                    return False
                self._stream = zlib.decompressobj(31)
            content = self._inflate(source)
            if content:
                self._ready += content
                return True

    def _inflate(self, source: bytes = b"") -> bytes:
        """Get some content of the present member, from `source` or what comes next."""
        source = source or self._stream.unconsumed_tail or self._file_read(_BLOCK)
        if not source:
            raise EOFError("the file ends in the middle of the gzip stream")
        if self._broken is not None:
            raise ValueError(f"the gzip stream is damaged ({self._broken})")
        before = self._stream.copy()
        try:
            return self._stream.decompress(source, 4 * _BLOCK)
        except zlib.error as error:
            self._broken = error
        return self._up_to_the_damage(before, source)

    def _up_to_the_damage(self, stream: zlib._Decompress, source: bytes) -> bytes:
        """Inflate what comes before the damage, in ever smaller steps."""
        content = b""
        for step in (1 << 12, 1 << 6, 1):
            while source:
                before = stream.copy()
                try:
                    content += stream.decompress(source[:step])
                except zlib.error:
                    stream = before
                    break
                source = source[step:]
        return content

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer at the end of the content.

        Raises
        ------
        EOFError
            The file is cut off.
        ValueError
            The gzip stream is damaged.
        """
        while len(self._ready) < size and self._fill():
            pass
        content = bytes(self._ready[:size])
        del self._ready[:size]
        self.position += len(content)
        return content

    def skip(self, size: int) -> bool:
        """Pass over `size` bytes; False if the content ends before. Raises as `read` does."""
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
        self._ready.clear()
        while not self._stream.eof:
            self._inflate()


def combine(crcs: NDArray[np.uint32], lengths: NDArray[np.uint64]) -> int:
    """CRC-32 of the concatenation of parts, from the CRC-32 of each part.

    Parameters
    ----------
    crcs : (n,) uint32 array
        CRC-32 of each part.
    lengths : (n,) uint64 array
        Number of bytes of each part.

    Notes
    -----
    The CRC of a concatenation is the exclusive or of each part's CRC, each
    advanced over as many zero bytes as follow that part. Advancing is linear
    over GF(2) (as in zlib's ``crc32_combine``): here it is done for all parts
    at once, with one table look-up per byte and power of two.
    """
    if len(crcs) == 0:
        return 0
    total = lengths.sum(dtype=np.uint64)
    after = total - np.cumsum(lengths, dtype=np.uint64)
    advanced = crcs.astype(np.uint32)
    for power in range(int(total).bit_length()):
        chosen = np.flatnonzero((after >> np.uint64(power)) & np.uint64(1))
        if len(chosen):
            advanced[chosen] = _apply(_advance_table(power), advanced[chosen])
    return int(np.bitwise_xor.reduce(advanced))


def _apply(table: NDArray[np.uint32], crcs: NDArray[np.uint32]) -> NDArray[np.uint32]:
    result: NDArray[np.uint32] = table[0, crcs & 0xFF]
    for byte in range(1, 4):
        result ^= table[byte, (crcs >> np.uint32(8 * byte)) & 0xFF]
    return result


@cache
def _advance_table(power: int) -> NDArray[np.uint32]:
    """Table (4, 256) that advances a CRC over ``2**power`` zero bytes."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    if power == 0:
        images = bits
        for _ in range(8):
            images = (images >> np.uint32(1)) ^ np.where(images & 1, _POLYNOMIAL, 0).astype(
                np.uint32
            )
    else:
        half = _advance_table(power - 1)
        images = _apply(half, _apply(half, bits))
    table = np.zeros((4, 256), dtype=np.uint32)
    values = np.arange(256)
    for byte in range(4):
        for bit in range(8):
            table[byte] ^= np.where(values >> bit & 1, images[8 * byte + bit], 0).astype(np.uint32)
    return table
