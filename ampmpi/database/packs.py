"""Packs: archives that one rank each writes, so that entries are no files of their own."""

from __future__ import annotations

from dataclasses import dataclass

from ampmpi.errors import InputError

SIZE = 256
SECONDS = 300


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
