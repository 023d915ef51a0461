"""Entries as bytes: Amp's pickles, at array speed."""

from __future__ import annotations

from ampmpi.database.layout import Kind
from ampmpi.entries import Entry


def encode(entry: Entry) -> bytes:
    """Return an entry as a pickle that Amp reads, followed by a trailer.

    Raises
    ------
    ImageError
        A value is not finite, or the arrays do not fit together.
    """
    raise NotImplementedError


def decode(data: bytes, n_atoms: int | None = None, kind: Kind = "other") -> Entry:
    """Return the entry that `encode` or Amp wrote; no code in it is run.

    Raises
    ------
    CorruptEntryError
        The data are damaged, or no entry of this kind and number of atoms.
    """
    raise NotImplementedError


def verify(data: bytes, kind: Kind = "other") -> None:
    """Check that data are a sound entry: by the trailer, or by reading what Amp wrote.

    Raises
    ------
    CorruptEntryError
        The data are damaged, or no entry of this kind.
    """
    raise NotImplementedError
