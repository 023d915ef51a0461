"""Packs: archives that one rank each writes, so that entries are no files of their own.

A rank appends its entries to a temporary of its own. Once that is large or old
enough, or the job ends, it gets an index and footer, as an archive has, and moves
into ``packs/``, where others see it; it never changes after that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ampmpi.database.archive.deflate import MEMBER_HEADER, combine, deflate
from ampmpi.database.archive.index import Part
from ampmpi.database.archive.salvage import rescue
from ampmpi.database.archive.tar import entry_record
from ampmpi.database.archive.writer import tail
from ampmpi.database.layout import PACKS, TEMPORARIES, Home
from ampmpi.entries.checksum import crc32
from ampmpi.entries.codec import judge
from ampmpi.errors import CorruptEntryError, DatabaseError, InputError
from ampmpi.files.atomic import (
    Temporary,
    now_on,
    purpose_of,
    set_aside,
    temporaries,
    temporary_owner,
)
from ampmpi.files.folder import NotRegularError, Stamp
from ampmpi.files.trouble import database_error, is_of_one_file
from ampmpi.keys import DIGEST, is_key

SIZE = 256
"""Megabytes of a pack, unless the user says otherwise."""

SECONDS = 300
"""Seconds after which others see what is in a pack, unless the user says otherwise."""

STILL = 600.0
"""Seconds without a write after which a pack is salvaged whose writer may be alive elsewhere."""

SUFFIX = ".tar.gz"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*" + re.escape(SUFFIX))
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
        Once its first entry is as old; each time it is, the next pack may be twice as old.
    """

    n_bytes: int = SIZE * 10**6
    seconds: float = SECONDS

    @classmethod
    def of(cls, megabytes: float = SIZE, seconds: float = SECONDS) -> PackLimits:
        """Return limits given as a user gives them; InputError if one is not above zero."""
        if not 0 < megabytes < 1e9:
            raise InputError(f"the size of packs is {megabytes} MB: give a number above 0")
        if not 0 < seconds < 1e9:
            raise InputError(f"the age of packs is {seconds} seconds: give a number above 0")
        return cls(int(megabytes * 1e6), seconds)


class PackWriter:
    """Writes entries of one rank into packs; each is one write, and nothing else.

    Call `close` when all are written: until then nobody else sees those of the last
    pack. What a killed process leaves, or one that met an error, is salvaged by the next
    job or compress.

    Parameters
    ----------
    home : Home
        The database.
    rank : int
        MPI rank of this process, for the names of files.
    limits : PackLimits, optional
        When a pack is ended.
    is_copy : bool
        Whether the entries are elsewhere, too: a pack that cannot be ended is removed then.
    """

    def __init__(
        self,
        home: Home,
        rank: int = 0,
        limits: PackLimits | None = None,
        *,
        is_copy: bool = False,
    ) -> None:
        self._home, self._rank, self._is_copy = home, rank, is_copy
        self._limits = PackLimits() if limits is None else limits
        self._seconds = self._limits.seconds
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
        try:
            file.write(MEMBER_HEADER + raw if first else raw)
        except DatabaseError:
            self._leave(file)
            raise
        self._size = start + len(raw)
        self._rows += _ROW.pack(
            bytes.fromhex(key), start, len(raw), len(record), crc32(record), crc32(raw)
        )
        self._keys.add(key)
        if self._size >= self._limits.n_bytes:
            self.close()
        elif now - self._began >= self._seconds:
            self._seconds *= 2  # else a job of days would write a pack every few minutes
            self.close()

    def _ready(self, now: float) -> Temporary:
        """Return the file to append to."""
        if self._file is not None and now - self._last > _PAUSE:
            self._keep(self._file)
        if self._file is None:
            self._home.needed(PACKS)  # if it cannot be had, that is to be known now
            self._file = self._new()
            self._began = now
        self._last = now
        return self._file

    def _new(self) -> Temporary:
        home = self._home
        return home.write(lambda: Temporary(home.temporaries, _PURPOSE, self._rank))

    def close(self) -> None:
        """End the pack and give it its name, so that others see it; another one may follow.

        Raises
        ------
        DatabaseError
            It cannot be written; what is there already is salvaged later.
        """
        if self._file is not None and time.monotonic() - self._last > _PAUSE:
            self._keep(self._file)
        file = self._file
        if file is None:
            return
        try:
            if self._rows:
                part = _part(self._rows)
                file.write(tail(part, self._size, combine(part.crc, part.length))[0])
                file.sync()
                self._place(file)
            else:
                file.discard()
        finally:
            self._leave(file)

    def discard(self) -> None:
        """Give up what was not ended."""
        if self._file is not None:
            self._leave(self._file)

    def _leave(self, file: Temporary) -> None:
        """Write nothing more to a file, whether it was ended or not."""
        if self._is_copy:
            file.discard()
        with contextlib.suppress(DatabaseError):
            file.close()
        self._file, self._size = None, 0
        self._rows = bytearray()
        self._keys.clear()

    def _keep(self, file: Temporary) -> None:
        """See that the file is still there; if not, write it again from what is open.

        Somebody took this process for dead then, saved what was there, and removed it.
        """
        if file.folder.has(file.name):
            return
        new = self._copy_of(file.descriptor)
        if new is None:
            self._leave(file)
            return
        file.close()
        self._file = new

    def _copy_of(self, descriptor: int) -> Temporary | None:
        """Return a new file that holds what an open one does; None if it cannot be read.

        A file server keeps nothing open that was removed: it is saved, and that is all.
        """
        new = self._new()
        try:
            position = 0
            while piece := os.pread(descriptor, _COPIED, position):
                new.write(piece)
                position += len(piece)
        except OSError as error:
            new.discard()
            if error.errno != errno.ESTALE:
                raise database_error(error, "write", new.path) from error
            return None
        return new

    def _place(self, file: Temporary) -> None:
        """Give a pack its name; it is written again if the file was removed at this moment."""
        try:
            kept = os.dup(file.descriptor)
        except OSError as error:
            raise database_error(error, "write", file.path) from error
        try:
            with contextlib.suppress(FileNotFoundError):
                file.replace(self._home.needed(PACKS), pack_name(file.name))
                return
            if file.folder.has(file.name):  # packs/ was removed
                self._home.forget(PACKS)
                new: Temporary | None = file
            elif (new := self._copy_of(kept)) is not None:
                new.sync()
            if (last := new) is not None:
                name = pack_name(last.name)
                self._home.write(lambda: last.replace(self._home.needed(PACKS), name))
        finally:
            with contextlib.suppress(OSError):
                os.close(kept)

    def begins(self, descriptor: int) -> bool:
        """Whether an open file begins with what was written to the present pack.

        Of the last record it may lack the end.
        """
        part = _part(self._rows)
        ends = part.offset + part.packed
        part = part.some(ends <= os.fstat(descriptor).st_size)
        if not len(part.packed):
            return True
        lengths = np.append(np.uint64(len(MEMBER_HEADER)), part.packed)
        wanted = combine(np.append(np.uint32(crc32(MEMBER_HEADER)), part.raw_crc), lengths)
        found, size = 0, int(lengths.sum())
        for start in range(0, size, _COPIED):
            found = crc32(os.pread(descriptor, min(_COPIED, size - start), start), found)
        return found == wanted


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


def is_pack_name(name: str) -> bool:
    """Whether a name in ``packs/`` is a pack's; others, of whatever letters, are left alone."""
    return _NAME.fullmatch(name) is not None


def pack_names(home: Home) -> list[str]:
    """Names of the packs that are in ``packs/``."""
    folder = home.inner(PACKS)
    if folder is None:
        return []
    with folder.scan() as found:
        return [item.name for item in found if is_pack(item)]


def is_pack(found: os.DirEntry[str]) -> bool:
    """Whether what was found in ``packs/`` is a pack."""
    return is_pack_name(found.name) and found.is_file(follow_symlinks=False)


def unfinished(
    home: Home, found: Sequence[str] | None = None, *, exactly: bool = True
) -> list[str]:
    """Names of packs in ``tmp/`` whose writers are gone, or have not written for ten minutes.

    By the clock of the file system, which takes a file of our own to read; not `exactly`, by
    this host's. A writer that is alive after all writes again what was taken. The temporaries
    that there are may be given.
    """
    folder = home.inner(TEMPORARIES)
    names = open_packs(home, found)
    left = [name for name in names if has_ended(name)]
    if folder is None or len(left) == len(names):
        return left
    try:
        now = now_on(folder) if exactly else time.time()
    except OSError as error:
        if isinstance(error, DatabaseError):
            raise
        raise database_error(error, "write", folder.path) from error
    for name in sorted(set(names).difference(left)):
        with contextlib.suppress(OSError):
            if now - folder.status(name).st_mtime > STILL:
                left.append(name)
    return left


def open_packs(home: Home, found: Sequence[str] | None = None) -> list[str]:
    """Names of packs that are being written, or were left unfinished."""
    names = temporaries(home.inner(TEMPORARIES)) if found is None else found
    return [name for name in names if purpose_of(name) == _PURPOSE]


def has_ended(name: str) -> bool:
    """Whether the writer of a pack in ``tmp/`` is known on this host to be gone."""
    owner = temporary_owner(name)
    return owner is not None and owner.is_dead() is True


def salvage(home: Home, name: str) -> tuple[int, str | None]:
    """Put the sound entries of an unfinished pack into ``packs/``.

    The unfinished one is removed, unless it was written to meanwhile; or set aside, if there is
    more in it than these entries and the one that was being written. The new one has a name of
    its own: a writer that is alive after all may give the old one its name at any moment.

    Returns
    -------
    count : int
        How many entries there were.
    trouble : str or None
        What the user should know of the file.

    Raises
    ------
    DatabaseError
        The new one cannot be written, or no file can be read; the unfinished one is still there.
    """
    folder = home.temporaries
    try:
        descriptor, status = folder.open_file(name)
    except (FileNotFoundError, NotRegularError):
        return 0, None
    except OSError as error:
        failed = database_error(error, "read", folder.full(name))
        if is_of_one_file(error):
            return 0, str(failed)
        raise failed from error
    writer = PackWriter(home, limits=PackLimits(1 << 62, 1e9), is_copy=True)
    stamp, saved, trouble = Stamp.of(status), set[str](), None
    try:
        for key, data in rescue(descriptor):
            with contextlib.suppress(CorruptEntryError):
                judge(data, home.kind)
                if key not in saved:
                    writer.put_bytes(key, data)
                saved.add(key)
        is_whole = writer.begins(descriptor)
        writer.close()
        if not is_whole:
            aside = set_aside(folder, name, stamp, home.damaged)
            trouble = (
                f"the unfinished pack {name} is damaged: {len(saved)} entries of it are saved"
                + (f", and it was moved to {aside}" if aside else "")
            )
        else:
            with contextlib.suppress(FileNotFoundError):
                folder.remove_as_read(name, stamp)
    except OSError as error:
        if isinstance(error, DatabaseError):
            raise
        raise database_error(error, "read", folder.full(name)) from error
    finally:
        writer.discard()
        with contextlib.suppress(OSError):
            os.close(descriptor)
    return len(saved), trouble
