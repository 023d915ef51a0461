"""Amp's two classes of databases, over ours: values by the hash of an image."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from ampmpi.amp._logger import Logger
from ampmpi.database import FingerprintDatabase
from ampmpi.entries import plain
from ampmpi.errors import InputError
from ampmpi.keys import is_key
from ampmpi.parallel.comm import world
from ampmpi.parallel.failure import abort_on_error, agree


class FileDatabase(MutableMapping[str, Any]):
    """A database as Amp's scripts see it: values in Amp's form, by the hash of an image.

    What lies on disk is that of `ampmpi.FingerprintDatabase`. One whose name ends in
    ``-fingerprints`` or ``-fingerprint-primes`` takes these alone; another one takes whatever
    is made of lists, tuples, numbers and text. Nothing that is read is unpickled.

    Parameters
    ----------
    filename : str
        The directory; ``.ampdb`` is appended where it is missing. It is made when something is
        first written.
    """

    def __init__(self, filename: str | os.PathLike[str]) -> None:
        self.database = FingerprintDatabase(filename, world().rank)

    @classmethod
    def open(cls, filename: str | os.PathLike[str], flag: str | None = None) -> FileDatabase:
        """Open a database; `flag` is not looked at, as in Amp."""
        return cls(filename)

    @property
    def path(self) -> str:
        """The directory."""
        return self.database.path

    def close(self) -> None:
        """Close the database's files; it can be used again nevertheless."""
        self.database.close()

    def __getitem__(self, key: str) -> Any:
        """Return a value in Amp's form; arrays as lists."""
        if self.database.kind == "other":
            return plain.read(self.database.get_bytes(key))
        return self.database[key].to_amp()

    def __setitem__(self, key: str, value: Any) -> None:
        """Keep a value in Amp's form, or an entry of ours."""
        if not is_key(key):
            raise InputError(f"{self.path}: {key!r} is not the hash of an image: use get_hash")
        try:
            if self.database.kind == "other":
                self.database.put_bytes(key, plain.dump(value))
            else:
                self.database[key] = plain.from_amp(value)
        except InputError as error:
            raise InputError(f"{self.path}, entry {key}: {error}") from error

    def __delitem__(self, key: str) -> None:
        del self.database[key]

    def __iter__(self) -> Any:
        return iter(self.database)

    def __len__(self) -> int:
        return len(self.database)

    def keys(self) -> list[str]:  # type: ignore[override]
        """Return the hashes as a list, as Amp does."""
        return list(self.database)

    def values(self) -> list[Any]:  # type: ignore[override]
        """Return the values as a list, as Amp does."""
        return [self[key] for key in self.keys()]

    def archive(self) -> None:
        """Move the loose entries into the archive, as ``amp-compress`` does; on rank 0."""
        agree(world(), lambda: None if self.database.home is None else self._compress())
        self.close()

    def _compress(self) -> None:
        self.database.compress()


class Data:
    """Values by the hash of an image, calculated where they are missing.

    On several ranks each calculates its share of what is missing.

    Parameters
    ----------
    filename : str
        The database.
    db : class
        Opens it with ``db.open(filename, flag)``; shelve-like ones of one's own work, too.
    calculator : object, optional
        Calculates a value: ``calculator.calculate(atoms, key)``.

    Attributes
    ----------
    d : FileDatabase or None
        The database, where it is open.
    """

    def __init__(self, filename: str, db: Any = FileDatabase, calculator: Any = None) -> None:
        self.calc = calculator
        self.db = db
        self.filename = filename
        self.d: Any = None

    def calculate_items(
        self, images: Mapping[str, Any], parallel: Any = None, log: Any = None
    ) -> None:
        """Calculate the values of those images that have none yet.

        Parameters
        ----------
        images : mapping of str to ase.Atoms
            Images by their hash, the same on every rank.
        parallel : object, optional
            Not looked at: ranks come from ``mpirun``.
        log : Logger, optional
            Gets a few lines.
        """
        comm = world()
        say = Logger(None) if log is None else log
        self.close()
        say(f" Data stored in file {self.filename}.")
        with abort_on_error(comm):
            needed, there = comm.bcast(self._missing(images) if comm.rank == 0 else ([], 0))
            say(
                f" File exists with {there} total images, {len(images) - len(needed)} of which "
                "are needed."
            )
            say(f" {len(needed)} new calculations needed.")
            mine = {
                key: self.calc.calculate(images[key], key) for key in needed[comm.rank :: comm.size]
            }
            if not isinstance(self.db, type) or not issubclass(self.db, FileDatabase):
                # it is not known whether several processes may write to it at once
                parts = comm.gather(mine) or []
                mine = {key: value for part in parts for key, value in part.items()}
            if mine:
                database = self.db.open(self.filename, "c")
                database.update(mine)
                database.close()
            comm.barrier()
        if needed:
            say(f" Calculated {len(needed)} new images.")

    def _missing(self, images: Mapping[str, Any]) -> tuple[list[str], int]:
        """Return which images have no value yet, and how many values there are."""
        database = self.db.open(self.filename, "c")
        there = set(database.keys())
        database.close()
        return sorted(set(images) - there), len(there)

    def __getitem__(self, key: str) -> Any:
        self.open()
        return self.d[key]

    def open(self, mode: str = "r") -> None:
        """Open the database, where it is not."""
        if self.d is None:
            self.d = self.db.open(self.filename, mode)

    def close(self) -> None:
        """Close the database."""
        if self.d is not None:
            self.d.close()
        self.d = None
