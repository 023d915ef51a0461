"""Tar records: making an entry's, and reading anybody's without extracting anything.

Names, sizes and types in a tar are untrusted. Nothing here touches the file
system: a member is a name to look at and a range of bytes to read or to pass over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from tarfile import HeaderError, TarInfo
from typing import NamedTuple
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
_SIZE = re.compile(rb"\d{1,20}")


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


# What lies between the name, the size, the header's checksum and the group's name.
_MODES = b"0000644\0" + b"0000000\0" * 2
_TIME = b"\0%011o\0" % 0
_TYPES = (b"\0 0".ljust(103, b"\0") + b"ustar\x0000" + _OWNER).ljust(143, b"\0")
_REST = bytes(BLOCK - 305)
_TEMPLATE_SUM = sum(_MODES + _TIME + b" " * 6 + b"  " + _TYPES[2:])


def entry_size(record: bytes, key: str) -> int:
    """Size of the data, which begin at `BLOCK`, of a record whose CRC-32 is right.

    Raises
    ------
    ValueError
        It is not what `entry_record` makes of this key.
    """
    digits = record[124:135]
    is_its = record[:33] == key.encode("ascii") + b"\0" and record[156:157] == b"0"
    if not is_its or not _DIGITS.fullmatch(digits):
        raise ValueError("its tar header is not this entry's")
    size = int(digits, 8)
    if BLOCK + padded(size) != len(record):
        raise ValueError("its tar header is damaged")
    return size


def claim(header: bytes) -> tuple[str, int] | None:
    """Return key and size of the entry for which `entry_record` made a header, if it did.

    Of a damaged header both may be wrong: only the entry's checksum tells; see `is_bound`.
    """
    key, digits = header[:32].decode("ascii", "replace"), header[124:135]
    if header[265:272] != _OWNER or not is_key(key) or not _DIGITS.fullmatch(digits):
        return None
    size = int(digits, 8)
    return (key, size) if size <= MAX_ENTRY_SIZE else None


def is_bound(header: bytes, key: str, data: bytes) -> bool | None:
    """Whether a tar header is that of this entry; None if it does not say."""
    if header[265:272] != _OWNER:
        return None
    return header[297:305] == b"%08x" % crc32(data, crc32(key.encode("ascii")))


class Member(NamedTuple):
    """One member of a tar, as its headers, of which extended ones are some, describe it.

    `key` is its name, when it is a regular file of an allowed size and named as an entry is.
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
        headers, said = b"", dict[bytes, bytes]()
        while True:
            header = stream.read(BLOCK)
            if len(header) < BLOCK:
                raise EOFError("the tar has no end")
            if not any(header):
                if headers:
                    raise ValueError("the tar ends after an extended header")
                return
            info = _parsed(header)
            headers += header
            if info.type not in b"xgLK":
                break
            if info.size > _MAX_EXTENSION or len(headers) > _MAX_EXTENSION:
                raise ValueError("an extended tar header is too large")
            content = stream.read(padded(info.size))
            if len(content) < padded(info.size):
                raise EOFError("the tar ends inside a header")
            headers += content
            if info.type == b"L":
                said[b"path"] = content.rstrip(b"\0")
            elif info.type == b"x":
                said |= _pax(content[: info.size])
        name = said[b"path"].decode("utf-8", "replace") if b"path" in said else info.name
        size = 0 if info.type in b"123456" else int(said.get(b"size", info.size))
        is_file = info.type in b"0\x007" and size <= MAX_ENTRY_SIZE
        end = stream.position + padded(size)
        yield Member(name if is_file and is_key(name) else None, size, headers)
        if not stream.skip(end - stream.position):
            raise EOFError("the tar ends inside a member")


def _parsed(header: bytes) -> TarInfo:
    """Read one header, whose checksum must be right."""
    try:
        info = TarInfo.frombuf(header, "utf-8", "replace")
    except HeaderError:
        raise ValueError("a tar header is damaged") from None
    if info.size < 0:
        raise ValueError("a tar header is damaged")
    return info


def _pax(content: bytes) -> dict[bytes, bytes]:
    """Read the fields of an extended header: ``LENGTH NAME=VALUE`` and the end of the line."""
    fields = {}
    while content:
        digits = content[:20].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        name, _, value = content[len(digits) + 1 : length - 1].partition(b"=")
        is_size = name == b"size"
        if not len(digits) < length <= len(content) or (is_size and not _SIZE.fullmatch(value)):
            raise ValueError("an extended tar header is damaged")
        fields[name] = value
        content = content[length:]
    return fields
