"""Entries in the form in which amp_side.py sends them, and how close two of them are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ampmpi.entries import Fingerprint, FingerprintPrimes


def amp_form(entry: Fingerprint | FingerprintPrimes) -> dict[Any, list[float]]:
    """Return an entry of ours as a mapping from atom, or Amp's key, to values."""
    if isinstance(entry, FingerprintPrimes):
        return dict(entry.to_amp())
    return {(i, symbol): values for i, (symbol, values) in enumerate(entry.to_amp())}


def received(rows: list[Any]) -> dict[Any, list[float]]:
    """Return an entry that amp_side.py sent, likewise."""
    if rows and isinstance(rows[0][0], list):
        return {tuple(key): values for key, values in rows}
    return {(i, symbol): values for i, (symbol, values) in enumerate(rows)}


def assert_close(
    ours: dict[Any, list[float]], amps: dict[Any, list[float]], tolerance: float
) -> None:
    """Assert the same keys, and values as close as asked, relative to the largest."""
    assert set(ours) == set(amps)
    assert all(len(ours[key]) == len(amps[key]) for key in amps)
    expected = np.concatenate([amps[key] for key in amps])
    found = np.concatenate([ours[key] for key in amps])
    largest = np.abs(expected).max()
    assert np.abs(found - expected).max() <= tolerance * largest
