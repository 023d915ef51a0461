# ruff: noqa: D102  (the descriptor says what is declared here)
"""What Amp's scripts call on a descriptor: fingerprints of many images, by the images' keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..entries import Entry
from ..parameters import source


class EntriesByKey(Mapping[str, Any]):
    """Fingerprints, or their primes, by the keys of images, in Amp's form.

    They are read when they are asked for.

    Parameters
    ----------
    entries : mapping of str to Fingerprint or FingerprintPrimes
        The entries by hash: a database, or entries in memory.
    hashes : dict of str to str
        The hash of the image that has each key; keys that are not in it are hashes themselves.
    """

    def __init__(self, entries: Mapping[str, Entry], hashes: Mapping[str, str]) -> None:
        self.entries = entries
        self.hashes = hashes

    def entry(self, key: str) -> Entry:
        """Return the entry of an image as arrays; `KeyError` where there is none."""
        return self.entries[self.hashes.get(key, key)]

    def __getitem__(self, key: str) -> Any:
        return self.entry(key).to_amp()

    def __iter__(self) -> Iterator[str]:
        return iter(self.hashes or self.entries)

    def __len__(self) -> int:
        return len(self.hashes or self.entries)

    def open(self) -> None:
        """Do nothing; Amp's has to be opened."""

    def close(self) -> None:
        """Close the database's files; they are opened again when they are needed."""
        if hasattr(self.entries, "close"):
            self.entries.close()


class AmpDescriptor:
    """Amp's methods of a descriptor.

    Attributes
    ----------
    parent : Amp or None
        The calculator that the descriptor belongs to.
    fingerprints : EntriesByKey
        After `calculate_fingerprints` or a training: ``[(symbol, values), …]`` by image.
    fingerprintprimes : EntriesByKey
        The derivatives, where they were calculated:
        ``{(m, symbol, n, symbol, direction): values, …}`` by image, in 1/Å.
    """

    if TYPE_CHECKING:
        dblabel: str | None

        @property
        def parameters(self) -> Mapping[str, Any]: ...

    fingerprints: EntriesByKey
    fingerprintprimes: EntriesByKey
    parent: Any = None

    def tostring(self) -> str:
        """Return the text from which Amp makes the descriptor again, as a .amp file holds it."""
        return source(self.parameters)

    def calculate_fingerprints(
        self,
        images: Mapping[str, Any],
        parallel: Mapping[str, Any] | None = None,
        log: Callable[[str], object] | None = None,
        calculate_derivatives: bool = False,
    ) -> None:
        """Calculate what is missing of the images' fingerprints; all ranks of a script share it.

        With a `dblabel`, or in a calculator with a label, they go to its databases, and what is
        there is not calculated again; else they are held in memory. Elements and functions that
        are not known yet become those of the images.

        Parameters
        ----------
        images : mapping of str to ase.Atoms
            The images, as ``hash_images`` gives them.
        parallel : dict, optional
            Taken for Amp's sake; the ranks come from ``mpirun``.
        log : callable, optional
            Called with lines about the work.
        calculate_derivatives : bool
            Calculate the derivatives, too.

        Raises
        ------
        ImageError
            An image cannot be used; all others are done.
        DatabaseError
            A database cannot be used, or holds fingerprints of another descriptor.
        """
        from ampmpi.fingerprinting.by_hand import calculate  # joins descriptor, ranks, database

        calculate(self, images, parallel, log, derivatives=calculate_derivatives)

    def complete_as(self, other: Any) -> None:
        """Take over the elements and functions of the same descriptor, `resolve`d."""
        if other is not self:
            kept = ("parent", "dblabel", "fortran", "fingerprints", "fingerprintprimes")
            vars(self).update({k: v for k, v in vars(other).items() if k not in kept})

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of what is copied or sent what does not belong to the descriptor."""
        left_out = ("parent", "fingerprints", "fingerprintprimes")
        return {name: value for name, value in vars(self).items() if name not in left_out}
