"""The database as a mapping from an image's hash to its entry."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

import numpy as np

from ampmpi.database.compress import CompressReport, Rewriting, compress, rewrite
from ampmpi.database.lock import Lock
from ampmpi.database.store import DatabaseInfo, Store
from ampmpi.entries import Entry
from ampmpi.errors import DatabaseError
from ampmpi.keys import digests_of, is_key

__all__ = ["DatabaseInfo", "FingerprintDatabase"]


class FingerprintDatabase(Store, MutableMapping[str, Entry]):
    """The fingerprints, or their primes, of images.

    Any number of processes on any number of hosts may use one database at once.
    A damaged entry is never returned: its other copy is used if there is one,
    and the key is kept in `corrupt` with what is wrong.

    Parameters
    ----------
    path : path
        The directory; ``.ampdb`` is appended where it is missing, as in Amp.
        It is made when something is first written. From when it is first seen
        it is held open: a database that is renamed is followed, and another one
        that takes its name is not touched.
    rank : int
        MPI rank of this process, for the names of temporaries.

    Attributes
    ----------
    path : str
        The directory.
    kind : str
        ``"fingerprints"``, ``"primes"``, or ``"other"`` for a name that does
        not say; an entry of the other kind counts as damaged.
    corrupt : dict of str to str
        What was found damaged, and how.

    Raises
    ------
    DatabaseError
        There is something else of that name.
    """

    def compress(self, **options: Any) -> CompressReport:
        """Move loose entries and packs into the archive; see `ampmpi.database.compress`."""
        try:
            return compress(self.home or self.path, **options)
        finally:
            self.close()

    def delete(self, keys: Iterable[str], *, wait: float = 10.0, break_lock: bool = False) -> int:
        """Remove entries, wherever they are: the archive is written anew without them.

        Parameters
        ----------
        keys : iterable of str
            Which; those that are not there are passed over.
        wait : float
            How many seconds to wait for another process's lock.
        break_lock : bool
            Take the lock from whoever holds it.

        Returns
        -------
        int
            How many were there.

        Raises
        ------
        LockedError
            Another process holds the lock.
        DatabaseError
            The archive cannot be written, or a pack not removed; the entries are still there.
        """
        chosen = sorted(set(filter(is_key, keys)).intersection(self))
        home = self.home
        if home is None or not chosen:
            return 0
        lock = Lock(home, wait=wait, break_lock=break_lock)
        without = np.sort(digests_of(chosen))
        try:
            done = rewrite(home, lock, what=Rewriting(take_loose=False, without=without))
        finally:
            self.close()
        if done.packs_left and not set(chosen).isdisjoint(self):
            raise DatabaseError(f"{self.path}: {done.warnings[-1]}: delete the entries again")
        for key in chosen:
            self.corrupt.pop(key, None)
        return len(chosen)

    def __delitem__(self, key: str) -> None:
        """Remove an entry; see `delete`, which removes many at once."""
        if not self.delete([key]):
            raise KeyError(key)

    def clear(self) -> None:
        """Remove all entries at once."""
        self.delete(self)
