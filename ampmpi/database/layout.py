"""Where everything lies in a database directory, and which names are keys.

::

    LABEL-fingerprints.ampdb/
        archive.tar.gz
        loose/<32 hex digits>    one file per entry not yet in the archive
        tmp/                     temporaries of writers
        deleted/<32 hex digits>  empty: the archive's copy of this key is gone
        damaged/                 what check and compress set aside
        descriptor.json          whose fingerprints these are
        lock                     only while a compress runs

Amp takes every name in ``loose/`` for an entry, so that nothing else is ever
put there, and makes ``loose/`` only together with the whole directory, so that
it is never removed.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from functools import cached_property

from ampmpi.entries import Kind
from ampmpi.errors import DatabaseError
from ampmpi.files.atomic import database_error

SUFFIX = ".ampdb"


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


@dataclass(frozen=True)
class Layout:
    """The paths of one database.

    Attributes
    ----------
    root : str
        The ``.ampdb`` directory.
    """

    root: str

    @property
    def archive(self) -> str:
        """Path of the archive."""
        return f"{self.root}/archive.tar.gz"

    @property
    def loose(self) -> str:
        """Directory of the loose entries."""
        return f"{self.root}/loose"

    @property
    def temporaries(self) -> str:
        """Directory of the temporaries, on the same file system."""
        return f"{self.root}/tmp"

    @property
    def deleted(self) -> str:
        """Directory of the marks of keys deleted from the archive."""
        return f"{self.root}/deleted"

    @property
    def damaged(self) -> str:
        """Directory of what was set aside."""
        return f"{self.root}/damaged"

    @property
    def manifest(self) -> str:
        """Path of the file that says whose fingerprints these are."""
        return f"{self.root}/descriptor.json"

    @property
    def lock(self) -> str:
        """Path of the lock of a compress."""
        return f"{self.root}/lock"

    @cached_property
    def kind(self) -> Kind:
        """What the database holds."""
        return kind_of(self.root)

    def loose_entry(self, key: str) -> str:
        """Path of a loose entry."""
        return f"{self.root}/loose/{key}"

    def deleted_mark(self, key: str) -> str:
        """Path of the mark that hides the archive's copy of a key."""
        return f"{self.root}/deleted/{key}"

    def create(self) -> None:
        """Make the directories that are missing; many processes may do it at once.

        Raises
        ------
        DatabaseError
            A directory cannot be made.
        """
        for directory in (self.root, self.loose, self.temporaries):
            try:
                os.mkdir(directory)
            except FileExistsError:
                continue
            except OSError as error:
                raise self._cannot_create(error) from error

    def probe(self) -> None:
        """See that the database can be made or written to; nothing of that is left behind.

        Raises
        ------
        DatabaseError
            It cannot, and why.
        """
        there = (each for each in (self.temporaries, self.root) if os.path.isdir(each))
        folder = next(there, os.path.dirname(self.root) or ".")
        try:
            os.rmdir(tempfile.mkdtemp(prefix=".ampmpi-probe-", dir=folder))
        except OSError as error:
            if os.path.isdir(self.root):
                raise database_error(error, "write to the database", self.root) from error
            raise self._cannot_create(error) from error

    def _cannot_create(self, error: OSError) -> DatabaseError:
        folder = os.path.dirname(self.root) or "."
        if isinstance(error, (FileNotFoundError, NotADirectoryError)) and not os.path.isdir(folder):
            return DatabaseError(
                f"cannot create the database {self.root}: there is no folder {folder}: make it "
                "first, or choose another place"
            )
        return database_error(error, "create the database", self.root)


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
        names = set(os.listdir(text))
    except OSError:
        return False
    return not names or not names.isdisjoint({"loose", "archive.tar.gz", "tmp"})


def require_database(path: str | os.PathLike[str]) -> Layout:
    """Return the layout of a database that exists.

    Parameters
    ----------
    path : path
        The directory, with or without ``.ampdb``.

    Raises
    ------
    DatabaseError
        There is no such directory, it cannot be read, or it is no database.
    """
    given = os.fspath(path)
    root = database_path(given)
    if not os.path.lexists(root):
        if os.path.lexists(given):
            raise DatabaseError(f"{given} is no database: its name does not end in {SUFFIX}")
        raise DatabaseError(f"there is no database {root}")
    try:
        os.listdir(root)
    except NotADirectoryError:
        raise DatabaseError(f"{root} is no database: it is not a directory") from None
    except OSError as error:
        raise DatabaseError(
            f"the database {root} cannot be read: {error.strerror or error}"
        ) from error
    if not is_database(root):
        raise DatabaseError(f"{root} is no database: it has neither loose/ nor archive.tar.gz")
    return Layout(root)
