"""What one database keeps for one image, as arrays.

A `Fingerprint` holds the feature values of each atom, a `FingerprintPrimes`
their derivatives with respect to the positions of the atoms. Elements may have
different numbers of features: rows are padded with zeros up to the longest, and
`n_features` says how many of a row count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Kind: TypeAlias = Literal["fingerprints", "primes", "other"]
"""What a database holds; entries of the kind ``"other"`` are never looked into."""

AmpFingerprint: TypeAlias = list[tuple[str, list[float]]]
AmpPrimes: TypeAlias = dict[tuple[int, str, int, str, int], list[float]]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The fingerprint of one image.

    Attributes
    ----------
    symbols : tuple of str, length n_atoms
        Chemical symbol of each atom.
    n_features : mapping of str to int
        Number of features of each element in `symbols`.
    values : (n_atoms, max_features) float array
        Feature values, in the order of the descriptor's functions; zero
        beyond an element's own number of features.
    """

    symbols: tuple[str, ...]
    n_features: Mapping[str, int]
    values: NDArray[np.float64]

    def to_amp(self) -> AmpFingerprint:
        """Return the object that Amp keeps: ``[(symbol, [float, ...]), ...]``."""
        return [
            (symbol, row[: self.n_features[symbol]].tolist())
            for symbol, row in zip(self.symbols, self.values, strict=True)
        ]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Fingerprint)
            and self.symbols == other.symbols
            and dict(self.n_features) == dict(other.n_features)
            and np.array_equal(self.values, other.values)
        )


@dataclass(frozen=True, eq=False)
class FingerprintPrimes:
    """The derivatives of one image's fingerprint.

    Attributes
    ----------
    symbols : tuple of str, length n_atoms
        Chemical symbol of each atom.
    n_features : mapping of str to int
        Number of features of each element in `symbols`.
    pairs : (n_pairs, 2) int32 array
        Rows ``(m, n)``: the atom m that is moved and the centre n whose
        features change, sorted by n, then m; ``(n, n)`` is always there.
    values : (n_pairs, 3, max_features) float array, 1/Å
        ``values[p, d]`` is dG_n/dR_m,d; zero beyond the number of features
        of the centre's element.
    """

    symbols: tuple[str, ...]
    n_features: Mapping[str, int]
    pairs: NDArray[np.int32]
    values: NDArray[np.float64]

    def to_amp(self) -> AmpPrimes:
        """Return Amp's object: ``{(m, symbol_m, n, symbol_n, d): [float, ...]}``."""
        symbols = self.symbols
        return {
            (m, symbols[m], n, symbols[n], d): row[: self.n_features[symbols[n]]].tolist()
            for (m, n), block in zip(self.pairs.tolist(), self.values, strict=True)
            for d, row in enumerate(block)
        }

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FingerprintPrimes)
            and self.symbols == other.symbols
            and dict(self.n_features) == dict(other.n_features)
            and np.array_equal(self.pairs, other.pairs)
            and np.array_equal(self.values, other.values)
        )


Entry: TypeAlias = Fingerprint | FingerprintPrimes


def forces_of(primes: FingerprintPrimes, dE_dG: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the forces F_m = -Σ_n dE/dG_n · dG_n/dR_m, (n_atoms, 3), eV/Å."""
    moved, centres = primes.pairs.T
    forces = np.zeros((len(primes.symbols), 3))
    np.add.at(forces, moved, -np.einsum("pdf,pf->pd", primes.values, dE_dG[centres]))
    return forces
