"""Tar records: making an entry's, and reading anybody's without extracting anything.

Names, sizes and types in a tar are untrusted. Nothing here touches the file
system: a member is a name to look at and a range of bytes to read or to pass over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import adler32

from ampmpi.database.archive.deflate import GzipReader
from ampmpi.entries.checksum import crc32
from ampmpi.keys import is_key

BLOCK = 512
END = bytes(2 * BLOCK)
"""End of a tar: two blocks of zeros."""

MAX_ENTRY_SIZE = 1 << 30
"""No entry is larger (bytes): far above any image's, and a cap for hostile sizes."""

_MAX_EXTENSION = 1 << 20
_OWNER = b"ampmpi\0"
_DIGITS = re.compile(rb"[0-7]{11}")


def padded(size: int) -> int:
    """Return the number of bytes that `size` bytes take in a tar."""
    return -(-size // BLOCK) * BLOCK


def entry_record(key: str, data: bytes) -> bytes:
    """Tar record of an entry: a ustar header named `key`, the data, zeros up to a full block.

    It depends on the key and the data alone, so equal entries give equal archives.
    The owner's name says that the group's name is the CRC-32 of key and data: what
    binds them to each other where the archive's index is lost.
    """
    if len(data) > MAX_ENTRY_SIZE:
        raise ValueError(f"entry {key} has {len(data)} bytes, more than {MAX_ENTRY_SIZE}")
    name, size = key.encode("ascii"), b"%011o" % len(data)
    bound = b"%08x" % crc32(data, crc32(name))
    # The lower half of an Adler-32 that starts at 0 is the sum of so few bytes.
    checksum = b"%06o" % (_TEMPLATE_SUM + (adler32(name + size + bound, 0) & 0xFFFF))
    header = (name.ljust(100, b"\0"), _MODES, size, _TIME, checksum, _TYPES, bound, _REST)
    return b"".join((*header, data, bytes(padded(len(data)) - len(data))))


def _template() -> bytes:
    """Return the header of an entry's record without key, size and checksums."""
    header = bytearray(BLOCK)
    header[100:108] = b"0000644\0"
    header[108:116] = header[116:124] = b"0000000\0"
    header[136:148] = b"%011o\0" % 0
    header[148:156] = b"\0\0\0\0\0\0\0 "
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    header[265:272] = _OWNER
    return bytes(header)


_TEMPLATE = _template()
_MODES, _TIME, _TYPES, _REST = (
    _TEMPLATE[start:end] for start, end in ((100, 124), (135, 148), (154, 297), (305, BLOCK))
)
"""What lies between the name, the size, the header's checksum and the group's name."""


def split_record(record: bytes) -> tuple[str, bytes]:
    """Key and data of a record that `entry_record` made, and whose CRC-32 is right.

    Raises
    ------
    ValueError
        It is no such record.
    """
    key = record[:32].decode("ascii", "replace")
    if not is_key(key):
        raise ValueError("its tar header is not an entry's")
    return key, record[BLOCK : BLOCK + entry_size(record, key)]


def entry_size(record: bytes, key: str) -> int:
    """Size of the data of the record that `entry_record` made of an entry.

    Its CRC-32 must be right. The data begin at `BLOCK`.

    Raises
    ------
    ValueError
        It is no such record.
    """
    digits = record[124:135]
    is_its = record[:33] == key.encode("ascii") + b"\0" and record[156:157] == b"0"
    if not is_its or not _DIGITS.fullmatch(digits):
        raise ValueError("its tar header is not this entry's")
    size = int(digits, 8)
    if BLOCK + padded(size) != len(record):
        raise ValueError("its tar header is damaged")
    return size


def claimed_size(header: bytes) -> int | None:
    """Return the size of the entry for which `entry_record` made this header; None if it did not.

    A damaged header may name a wrong size: only the entry's own checksum tells.
    """
    digits = header[124:135]
    if header[257:262] != b"ustar" or not _DIGITS.fullmatch(digits):
        return None
    size = int(digits, 8)
    return size if size <= MAX_ENTRY_SIZE else None


def is_bound(header: bytes, key: str, data: bytes) -> bool | None:
    """Whether a tar header is that of this entry; None if it does not say."""
    if header[265:272] != _OWNER:
        return None
    return header[297:305] == b"%08x" % crc32(data, crc32(key.encode("ascii")))


@dataclass(frozen=True)
class Member:
    """One member of a tar, as its headers describe it.

    Attributes
    ----------
    key : str or None
        Its name, when it is a regular file of an allowed size and named as an entry is.
    size : int
        Number of bytes of its data.
    headers : bytes
        All header blocks, extensions included.
    """

    key: str | None
    size: int
    headers: bytes


def members(stream: GzipReader) -> Iterator[Member]:
    """Go through a tar, member by member.

    When a member is yielded the stream stands at its data; what the caller
    does not read is passed over.

    Raises
    ------
    EOFError
        The file is cut off.
    ValueError
        The gzip stream or the tar is damaged.
    """
    while True:
        headers, override = b"", _Override()
        while True:
            header = _header(stream)
            if header is None:
                if headers:
                    raise ValueError("the tar ends after an extended header")
                return
            headers += header
            kind = header[156:157]
            if kind not in b"xgLK":
                break
            size = _size(header)
            if size > _MAX_EXTENSION or len(headers) > _MAX_EXTENSION:
                raise ValueError("an extended tar header is too large")
            content = stream.read(padded(size))
            if len(content) < padded(size):
                raise EOFError("the tar ends inside a header")
            headers += content
            override.take(kind, content[:size])
        size = _size(header) if override.size is None else override.size
        if kind in b"123456":
            size = 0
        name = override.name if override.name is not None else _name(header)
        is_file = kind in b"0\x007" and size <= MAX_ENTRY_SIZE
        key = name if is_file and is_key(name) else None
        end = stream.position + padded(size)
        yield Member(key, size, headers)
        if not stream.skip(end - stream.position):
            raise EOFError("the tar ends inside a member")


class _Override:
    """What extended headers say about the next member."""

    name: str | None = None
    size: int | None = None

    def take(self, kind: bytes, content: bytes) -> None:
        if kind == b"L":
            self.name = content.rstrip(b"\0").decode("utf-8", "replace")
        elif kind == b"x":
            while content:
                digits, _, _ = content[:20].partition(b" ")
                if not digits.isdigit() or not len(digits) < int(digits) <= len(content):
                    raise ValueError("an extended tar header is damaged")
                record, content = content[: int(digits)], content[int(digits) :]
                keyword, _, value = record[len(digits) + 1 : -1].partition(b"=")
                if keyword == b"path":
                    self.name = value.decode("utf-8", "replace")
                elif keyword == b"size":
                    if not value.isdigit() or len(value) > 20:
                        raise ValueError("an extended tar header is damaged")
                    self.size = int(value)


def _header(stream: GzipReader) -> bytes | None:
    header = stream.read(BLOCK)
    if len(header) < BLOCK:
        raise EOFError("the tar has no end")
    if not any(header):
        return None
    checksum = _octal(header[148:156])
    if checksum not in (_checksum(header), _checksum(header, signed=True)):
        raise ValueError("a tar header is damaged")
    return header


def _checksum(header: bytes | bytearray, *, signed: bool = False) -> int:
    others = bytes(header[:148]) + bytes(header[156:BLOCK])
    if signed:
        return 256 + sum(byte - 256 if byte > 127 else byte for byte in others)
    return 256 + sum(others)


_TEMPLATE_SUM = _checksum(_TEMPLATE)


def _octal(field: bytes) -> int:
    digits = field.replace(b"\0", b" ").strip()
    if not digits:
        return 0
    if not re.fullmatch(rb"[0-7]+", digits):
        raise ValueError("a tar header is damaged")
    return int(digits, 8)


def _size(header: bytes) -> int:
    field = header[124:136]
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    return _octal(field)


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")
