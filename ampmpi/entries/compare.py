"""How much two entries of one image differ."""

from __future__ import annotations

import numpy as np

from ampmpi.entries.arrays import Entry, Fingerprint, FingerprintPrimes

TOLERANCE = 1e-8
"""Largest difference, relative to the largest value, between equal entries of Amp and ours."""


def difference(stored: Entry, ours: Entry) -> float:
    """Return the largest difference relative to the largest value; infinite for another shape.

    Pairs of atoms that one of two fingerprint primes lacks count as zeros there.
    """
    if stored.symbols != ours.symbols or dict(stored.n_features) != dict(ours.n_features):
        return np.inf
    if isinstance(stored, Fingerprint) and isinstance(ours, Fingerprint):
        a, b = stored.values, ours.values
    elif isinstance(stored, FingerprintPrimes) and isinstance(ours, FingerprintPrimes):
        n_atoms = len(ours.symbols)
        codes = [entry.pairs[:, 1] * n_atoms + entry.pairs[:, 0] for entry in (stored, ours)]
        union = np.union1d(*codes)
        a, b = (np.zeros((len(union), *ours.values.shape[1:])) for _ in range(2))
        a[np.searchsorted(union, codes[0])] = stored.values
        b[np.searchsorted(union, codes[1])] = ours.values
    else:
        return np.inf
    if a.shape != b.shape:
        return np.inf
    scale = max(float(np.abs(a).max(initial=0.0)), float(np.abs(b).max(initial=0.0)), 1e-300)
    return float(np.abs(a - b).max(initial=0.0)) / scale


def disagreement(stored: Entry, ours: Entry) -> str | None:
    """Say how a stored entry differs from a new computation; None where they agree."""
    worst = difference(stored, ours)
    if worst <= TOLERANCE:
        return None
    if np.isinf(worst):
        return "it has other atoms or numbers of features than a new computation"
    return f"it differs by {worst:.1e} of the largest value from a new computation"
