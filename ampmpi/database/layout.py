"""Where everything lies in a database directory.

::

    LABEL-fingerprints.ampdb/
        archive.tar.gz
        loose/<32 hex digits>    one file per entry not yet in the archive
        packs/NAME.tar.gz        archives of one rank each, where a job writes packs
        tmp/                     temporaries of writers
        damaged/                 what check and compress set aside
        descriptor.json          whose fingerprints these are
        lock                     only while a compress runs

Amp takes every name in ``loose/`` for an entry, so that nothing else is ever
put there, and makes ``loose/`` only together with the whole directory, so that
it is never removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from ampmpi.entries import Kind
from ampmpi.errors import DatabaseError
from ampmpi.files.folder import Folder
from ampmpi.files.trouble import database_error

SUFFIX = ".ampdb"
ARCHIVE = "archive.tar.gz"
LOOSE = "loose"
PACKS = "packs"
TEMPORARIES = "tmp"
DAMAGED = "damaged"
MANIFEST = "descriptor.json"
LOCK = "lock"

T = TypeVar("T")

_PATIENCE = 60.0
"""Seconds in which a directory that one host has made must show itself to the others."""

_held: WeakValueDictionary[tuple[str, int], Home] = WeakValueDictionary()


def kind_of(path: str | os.PathLike[str]) -> Kind:
    """Return what a database holds, from its name.

    Entries of the kind ``"other"`` (Amp's neighbour lists) are kept byte for
    byte and never judged.
    """
    name = os.path.basename(os.fspath(path).rstrip("/")).removesuffix(SUFFIX)
    if name.endswith("-fingerprint-primes"):
        return "primes"
    if name.endswith("-fingerprints"):
        return "fingerprints"
    return "other"


def database_path(path: str | os.PathLike[str]) -> str:
    """Return `path` with ``.ampdb`` appended where it is missing, as Amp does."""
    text = os.fspath(path).rstrip("/") or "/"
    return text if text.endswith(SUFFIX) else text + SUFFIX


def is_database(path: str | os.PathLike[str]) -> bool:
    """Whether a directory is a database, also one that its maker left unfinished."""
    text = os.fspath(path).rstrip("/")
    if not text.endswith(SUFFIX):
        return False
    try:
        return _holds_a_database(os.listdir(text))
    except OSError:
        return False


def _holds_a_database(names: list[str]) -> bool:
    return not names or not {LOOSE, ARCHIVE, PACKS, TEMPORARIES}.isdisjoint(names)


class Home:
    """A database's directory, held open, with the folders in it.

    It can be sent to another process or rank, which uses the one that it holds
    itself, or opens it by its name and refuses another directory that has taken
    the name.

    Attributes
    ----------
    path : str
        Name of the directory.
    kind : str
        What it holds.
    root : Folder
        The directory.
    """

    def __init__(self, path: str, root: Folder) -> None:
        self.path = path
        self.kind: Kind = kind_of(path)
        self.root = root
        self._inner: dict[str, Folder] = {}
        _held[path, root.inode] = self

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Home:
        """Open a database that exists, named with or without ``.ampdb``.

        Raises
        ------
        DatabaseError
            There is no such directory, it cannot be read, or it is no database.
        """
        given, name = os.fspath(path), database_path(path)
        try:
            home = cls(name, Folder.open(name))
            if _holds_a_database(home.root.names()):
                return home
        except FileNotFoundError:
            if os.path.lexists(given):
                raise DatabaseError(
                    f"{given} is no database: its name does not end in {SUFFIX}"
                ) from None
            raise DatabaseError(f"there is no database {name}") from None
        except NotADirectoryError:
            raise DatabaseError(f"{name} is no database: it is not a directory") from None
        except OSError as error:
            raise DatabaseError(
                f"the database {name} cannot be read: {error.strerror or error}"
            ) from error
        raise DatabaseError(f"{name} is no database: it has neither {LOOSE}/ nor {ARCHIVE}")

    @classmethod
    def find(cls, path: str | os.PathLike[str]) -> Home | None:
        """Open a database, or return None where nothing has its name; raises as `open` does."""
        if not os.path.lexists(database_path(path)) and not os.path.lexists(path):
            return None
        return cls.open(path)

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Home:
        """Open a database and make what is missing of it; many processes may do it at once."""
        name = database_path(path)
        try:
            os.mkdir(name)
        except FileExistsError:
            pass
        except OSError as error:
            raise _cannot_create(name, error) from error
        home = cls.open(name)
        home.complete()
        return home

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.path, self.root.inode)

    def complete(self) -> None:
        """Make the folders that are missing; raises where all of the database was removed."""
        self.forget(PACKS)
        for name in (LOOSE, TEMPORARIES):
            self.forget(name)
            self.needed(name)

    def write(self, write: Callable[[], T]) -> T:
        """Write a file here, once more where somebody has removed the folders meanwhile."""
        try:
            try:
                return write()
            except FileNotFoundError:
                self.complete()
                return write()
        except FileNotFoundError as error:
            raise self.removed() from error

    def removed(self) -> DatabaseError:
        """Return the error that says that the directory is gone."""
        error = DatabaseError(
            f"the database {self.path} was removed while it was in use: start again"
        )
        error.errno = errno.ENOENT
        return error

    def _refused(self, name: str, error: OSError) -> DatabaseError:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return DatabaseError(
                f"{self.root.full(name)} is no directory of the database ({error.strerror}): "
                "put the folder itself there"
            )
        return database_error(error, "use the database", self.root.full(name))

    def inner(self, name: str) -> Folder | None:
        """Return a folder of the database, opened once; None if there is none."""
        folder = self._inner.get(name)
        if folder is None:
            try:
                folder = self._inner[name] = self.root.inner(name)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise self._refused(name, error) from error
        return folder

    def forget(self, name: str) -> None:
        """Open a folder anew when it is needed next: another one may have its name."""
        self._inner.pop(name, None)

    def needed(self, name: str) -> Folder:
        """Return a folder of the database, made where it is missing."""
        folder = self.inner(name)
        if folder is None:
            try:
                self.root.make(name)
            except FileNotFoundError as error:
                raise self.removed() from error
            except OSError as error:
                raise self._refused(name, error) from error
            folder = self.inner(name)
        if folder is None:
            raise self.removed()
        return folder

    @property
    def loose(self) -> Folder | None:
        """Folder of the loose entries."""
        return self.inner(LOOSE)

    @property
    def temporaries(self) -> Folder:
        """Folder of the temporaries, on the same file system."""
        return self.needed(TEMPORARIES)

    @property
    def damaged(self) -> Folder:
        """Folder of what was set aside."""
        return self.needed(DAMAGED)

    def full(self, *names: str) -> str:
        """Path of what lies in the database, for messages."""
        return "/".join((self.path, *names))


def _again(path: str, inode: int) -> Home:
    """Return the home that this process holds, or open it."""
    held = _held.get((path, inode))
    if held is not None:
        return held
    deadline = time.monotonic() + _PATIENCE
    while True:
        # A client of NFS remembers for some seconds that there was none, unless it lists.
        with contextlib.suppress(OSError):
            os.listdir(os.path.dirname(path) or ".")
        try:
            home = Home.open(path)
        except DatabaseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
            continue
        if home.root.inode != inode:
            raise DatabaseError(
                f"another directory has taken the name of the database {path}: nothing was changed "
                "there; start again"
            )
        return home


def check_place(path: str | os.PathLike[str]) -> None:
    """See that a database that does not exist can be made; nothing is left behind.

    It is tried under another name: a job that starts at the same time would take what is
    there for a moment for the database, and hold a directory that is removed.

    Raises
    ------
    DatabaseError
        It cannot, and why.
    """
    name = database_path(path)
    trial = os.path.join(os.path.dirname(name), f".ampmpi-{os.urandom(6).hex()}")
    try:
        if not os.path.lexists(name):
            with contextlib.suppress(FileNotFoundError):
                os.lstat(name)  # a name that is too long, for one
            os.mkdir(trial)
            os.rmdir(trial)
    except OSError as error:
        raise _cannot_create(name, error) from error


def _cannot_create(name: str, error: OSError) -> DatabaseError:
    folder = os.path.dirname(name) or "."
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) and not os.path.isdir(folder):
        return DatabaseError(
            f"cannot create the database {name}: there is no folder {folder}: make it "
            "first, or choose another place"
        )
    return database_error(error, "create the database", name)
