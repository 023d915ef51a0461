"""Packs: archives that one rank each writes, so that entries are no files of their own.

A rank appends its entries to a temporary of its own. Once that is large or old
enough, or the job ends, it gets an index and footer, as an archive has, and moves
into ``packs/``, where others see it; it never changes after that.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import time
from collections.abc import Iterable, Iterator
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
        """Write all of `data`, or nothing; where that cannot be, another file is begun."""
        try:
            file.write(data)
        except DatabaseError:
            try:
                os.ftruncate(file.descriptor, self._size)
                os.lseek(file.descriptor, self._size, os.SEEK_SET)
            except OSError:
                self._leave(file)
            raise

    def _ready(self, now: float) -> Temporary:
        """Return the file to append to."""
        if self._file is None:
            self._file = self._home.write(
                lambda: Temporary(self._home.temporaries, _PURPOSE, self._rank)
            )
            self._began = now
        elif now - self._last > _PAUSE:
            with self._told(self._file):
                self._file = self._still_there(self._file)
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
        try:
            if self._rows:
                file.sync()
                self._place(file)
            else:
                file.discard()
        finally:
            self._leave(file)

    def discard(self) -> None:
        """Give up the pack that is being written, and remove it."""
        if self._file is not None:
            self._file.discard()
            self._leave(self._file)

    def _leave(self, file: Temporary) -> None:
        """Write nothing more to a file."""
        if self._is_copy:
            file.discard()
        with contextlib.suppress(DatabaseError):
            file.close()
        self._file, self._size = None, 0
        self._rows = bytearray()
        self._keys.clear()

    def _still_there(self, file: Temporary) -> Temporary:
        """Return the file, or one that holds the same where it has been removed."""
        if os.fstat(file.descriptor).st_nlink:
            return file
        new = self._again(file.descriptor)
        file.discard()
        return new

    def _place(self, file: Temporary) -> None:
        with self._told(file), _kept(file.descriptor) as kept:
            try:
                file.replace(self._home.needed(PACKS), pack_name(file.name))
            except FileNotFoundError:
                # Somebody took this process for dead, saved what was there, and removed it;
                # or packs/ was removed.
                self._home.forget(PACKS)
                new = self._again(kept)
                new.sync()
                new.replace(self._home.needed(PACKS), pack_name(new.name))
                file.discard()

    def _again(self, gone: int) -> Temporary:
        """Return a new file that holds what is in one that has been removed, but is open."""
        home = self._home
        new = home.write(lambda: Temporary(home.temporaries, _PURPOSE, self._rank))
        position = 0
        while piece := os.pread(gone, _COPIED, position):
            new.write(piece)
            position += len(piece)
        return new

    @contextlib.contextmanager
    def _told(self, file: Temporary) -> Iterator[None]:
        """Say in a sentence what the system refused."""
        try:
            yield
        except FileNotFoundError as error:
            raise self._home.removed() from error
        except OSError as error:
            if isinstance(error, DatabaseError):
                raise
            raise database_error(error, "write", file.path) from error


@contextlib.contextmanager
def _kept(descriptor: int) -> Iterator[int]:
    """Keep a file open that is closed meanwhile."""
    kept = os.dup(descriptor)
    try:
        yield kept
    finally:
        with contextlib.suppress(OSError):
            os.close(kept)


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
    return [] if folder is None else list(filter(is_pack_name, folder.names()))


def unfinished(home: Home, *, exactly: bool = True) -> list[str]:
    """Names of packs in ``tmp/`` whose writers are gone, or have not written for ten minutes.

    By the clock of the file system, which takes a file of our own to read; not `exactly`, by
    this host's.
    """
    folder = home.inner(TEMPORARIES)
    names = open_packs(home)
    if folder is None or not names:
        return []
    try:
        now = now_on(folder) if exactly else time.time()
    except OSError as error:
        if isinstance(error, DatabaseError):
            raise
        raise database_error(error, "write", folder.path) from error
    return [name for name in names if is_abandoned(folder, name, STILL, now)]


def open_packs(home: Home) -> list[str]:
    """Names of packs that are being written, or were left unfinished."""
    found = temporaries(home.inner(TEMPORARIES))
    return [name for name in found if purpose_of(name) == _PURPOSE]


def salvage_all(home: Home, names: Iterable[str]) -> tuple[int, list[str]]:
    """Salvage several packs; return the sum, and what could not be read; see `salvage`."""
    done = [salvage(home, name) for name in names]
    return sum(count for count, _ in done), [trouble for _, trouble in done if trouble]


def salvage(home: Home, name: str) -> tuple[int, str | None]:
    """Put the sound entries of an unfinished pack into ``packs/``.

    The unfinished one is removed, unless it was written to meanwhile. The new one has a name
    of its own: a writer that is alive after all may give the old one its name at any moment.

    Returns
    -------
    count : int
        How many entries there were.
    trouble : str or None
        Why this file, which stays where it is, cannot be read, if so.

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
    count = 0
    try:
        for key, data in rescue(descriptor):
            try:
                judge(data, home.kind)
            except CorruptEntryError:
                continue
            writer.put_bytes(key, data)
            count += 1
        writer.close()
    except OSError as error:
        if isinstance(error, DatabaseError):
            raise
        raise database_error(error, "read", folder.full(name)) from error
    finally:
        writer.discard()
        with contextlib.suppress(OSError):
            os.close(descriptor)
    with contextlib.suppress(OSError):
        folder.remove_as_read(name, Stamp.of(status))
    return count, None
