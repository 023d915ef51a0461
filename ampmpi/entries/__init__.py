"""What is kept of one image: arrays, and their bytes on disk."""

from __future__ import annotations

from ampmpi.entries.arrays import (
    AmpFingerprint,
    AmpPrimes,
    Entry,
    Fingerprint,
    FingerprintPrimes,
    Kind,
    forces_of,
)

__all__ = [
    "AmpFingerprint",
    "AmpPrimes",
    "Entry",
    "Fingerprint",
    "FingerprintPrimes",
    "Kind",
    "forces_of",
]
