"""Packs: archives that one rank each writes, so that entries are no files of their own.

A rank appends its entries to a temporary of its own. Once that is large or old
enough, or the job ends, it gets an index and footer, as an archive has, and moves
into ``packs/``, where others see it; it never changes after that.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ampmpi.database.archive.deflate import MEMBER_HEADER, deflate
from ampmpi.database.archive.index import Part
from ampmpi.database.archive.salvage import rescue
from ampmpi.database.archive.tar import entry_record
from ampmpi.database.archive.writer import tail
from ampmpi.database.layout import PACKS, TEMPORARIES, Home
from ampmpi.entries.checksum import crc32
from ampmpi.entries.codec import judge
from ampmpi.errors import CorruptEntryError, DatabaseError, InputError
from ampmpi.files.atomic import Temporary, is_abandoned, now_on, purpose_of, temporaries
from ampmpi.files.folder import NotRegularError, Stamp
from ampmpi.keys import DIGEST, is_key

SIZE = 256
"""Megabytes of a pack, unless the user says otherwise."""

SECONDS = 300
"""Seconds after which others see what is in a pack, unless the user says otherwise."""

STILL = 600.0
"""Seconds without a write after which a pack is salvaged whose writer may be alive elsewhere."""

SUFFIX = ".tar.gz"
_PURPOSE = "pack"
_ROW = struct.Struct("<16sQQQII")
_PAUSE = 60.0
_COPIED = 1 << 24


@dataclass(frozen=True)
class PackLimits:
    """When a pack is ended, so that others can read what is in it, and a new one begun.

    Attributes
    ----------
    n_bytes : int
        Once it is as large.
    seconds : float
        Once its first entry is as old.
    """

    n_bytes: int = SIZE * 10**6
    seconds: float = SECONDS

    @classmethod
    def of(cls, megabytes: float = SIZE, seconds: float = SECONDS) -> PackLimits:
        """Return limits given as a user gives them; InputError if one is not above zero."""
        if not 0 < megabytes < 1e9:
            raise InputError(f"a pack of {megabytes} MB cannot be: give a number above 0")
        if not 0 < seconds < 1e9:
            raise InputError(f"packs of {seconds} seconds cannot be: give a number above 0")
        return cls(int(megabytes * 1e6), seconds)


class PackWriter:
    """Writes entries of one rank into packs; each is one write, and nothing else.

    Call `close` when all are written: until then nobody else sees those of the last
    pack. What a killed process leaves is salvaged by the next job or compress.

    Parameters
    ----------
    home : Home
        The database.
    rank : int
        MPI rank of this process, for the names of files.
    limits : PackLimits, optional
        When a pack is ended.
    name : str, optional
        Name of the pack, where there is to be one only.
    """

    def __init__(
        self,
        home: Home,
        rank: int = 0,
        limits: PackLimits | None = None,
        name: str | None = None,
    ) -> None:
        self._home, self._rank, self._name = home, rank, name
        self._limits = PackLimits() if limits is None else limits
        self._file: Temporary | None = None
        self._size = 0
        self._rows = bytearray()
        self._keys: set[str] = set()
        self._began = self._last = 0.0

    def put_bytes(self, key: str, data: bytes) -> None:
        """Append an entry that is encoded already.

        Raises
        ------
        DatabaseError
            It cannot be written; those before it are kept.
        """
        if not is_key(key):
            raise DatabaseError(f"{key!r} is no key: it must be 32 of the digits 0-9 and a-f")
        if key in self._keys:
            self.close()
        try:
            record = entry_record(key, data)
        except ValueError as error:
            raise DatabaseError(f"cannot write to {self._home.path}: {error}") from None
        raw = deflate(record)
        now = time.monotonic()
        file = self._ready(now)
        first = not self._rows
        start = len(MEMBER_HEADER) if first else self._size
        self._append(file, MEMBER_HEADER + raw if first else raw)
        self._size = start + len(raw)
        self._rows += _ROW.pack(
            bytes.fromhex(key), start, len(raw), len(record), crc32(record), crc32(raw)
        )
        self._keys.add(key)
        if self._size >= self._limits.n_bytes or now - self._began >= self._limits.seconds:
            self.close()

    def _append(self, file: Temporary, data: bytes) -> None:
        """Write all of `data`, or nothing."""
        try:
            file.write(data)
        except DatabaseError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.descriptor, self._size)
                os.lseek(file.descriptor, self._size, os.SEEK_SET)
            raise

    def _ready(self, now: float) -> Temporary:
        """Return the file to append to."""
        if self._file is None:
            self._file = self._home.write(
                lambda: Temporary(self._home.temporaries, _PURPOSE, self._rank)
            )
            self._began = now
        elif now - self._last > _PAUSE and not os.fstat(self._file.descriptor).st_nlink:
            self._file = self._again(self._file)
        self._last = now
        return self._file

    def close(self) -> None:
        """End the pack and give it its name, so that others see it; another one may follow.

        Raises
        ------
        DatabaseError
            It cannot be written; what is there already is salvaged later.
        """
        file = self._file
        if file is None:
            return
        if self._rows:
            self._append(file, tail(_part(self._rows), self._size)[0])
            file.sync()
            try:
                self._place(file)
            except FileNotFoundError:
                # Somebody took this process for dead, saved what was there, and removed it.
                file = self._again(file)
                file.sync()
                self._place(file)
        else:
            file.discard()
        self._file, self._size = None, 0
        self._rows = bytearray()
        self._keys.clear()

    def _place(self, file: Temporary) -> None:
        file.replace(self._home.needed(PACKS), self._name or pack_name(file.name))

    def _again(self, gone: Temporary) -> Temporary:
        """Return a new file that holds what is in one that has been removed."""
        home = self._home
        new = home.write(lambda: Temporary(home.temporaries, _PURPOSE, self._rank))
        position = 0
        while piece := os.pread(gone.descriptor, _COPIED, position):
            new.write(piece)
            position += len(piece)
        gone.close()
        return new


def _part(rows: bytes | bytearray) -> Part:
    """Return the records of which a writer has noted these rows."""
    columns = np.frombuffer(
        rows,
        [("digest", DIGEST), ("offset", "<u8"), ("packed", "<u8"), ("length", "<u8"),
         ("crc", "<u4"), ("raw_crc", "<u4")],
    )  # fmt: skip
    digests, *others = (columns[name].copy() for name in columns.dtype.names or ())
    return Part._make((digests, np.ones(len(columns), bool), *others))


def pack_name(temporary: str) -> str:
    """Return the name of the pack that a temporary becomes."""
    return temporary.removesuffix(".tmp") + SUFFIX


def pack_names(home: Home) -> list[str]:
    """Names of the packs that are in ``packs/``."""
    folder = home.inner(PACKS)
    return [] if folder is None else [name for name in folder.names() if name.endswith(SUFFIX)]


def unfinished(home: Home, *, exactly: bool = True) -> list[str]:
    """Names of packs in ``tmp/`` whose writers are gone, or have not written for ten minutes.

    By the clock of the file system, which takes a file of our own to read; not `exactly`, by
    this host's.
    """
    folder = home.inner(TEMPORARIES)
    names = open_packs(home)
    if folder is None or not names:
        return []
    now = now_on(folder) if exactly else time.time()
    return [name for name in names if is_abandoned(folder, name, STILL, now)]


def open_packs(home: Home) -> list[str]:
    """Names of packs that are being written, or were left unfinished."""
    found = temporaries(home.inner(TEMPORARIES))
    return [name for name in found if purpose_of(name) == _PURPOSE]


def salvage_all(home: Home, names: Iterable[str]) -> int:
    """Salvage several packs; see `salvage`."""
    return sum(salvage(home, name) for name in names)


def salvage(home: Home, name: str) -> int:
    """Put the sound entries of an unfinished pack into ``packs/``; return how many there were.

    The unfinished one is removed, unless it was written to meanwhile.
    """
    folder = home.temporaries
    try:
        descriptor, status = folder.open_file(name)
    except (FileNotFoundError, NotRegularError):
        return 0
    try:
        writer = PackWriter(home, limits=PackLimits(1 << 62, 1e9), name=pack_name(name))
        count = 0
        for key, data in rescue(descriptor):
            try:
                judge(data, home.kind)
            except CorruptEntryError:
                continue
            writer.put_bytes(key, data)
            count += 1
        writer.close()
    finally:
        os.close(descriptor)
    with contextlib.suppress(OSError):
        folder.remove_as_read(name, Stamp.of(status))
    return count
