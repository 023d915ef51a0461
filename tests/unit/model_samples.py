"""Random fingerprints with consistent derivatives, for tests of networks and losses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ampmpi.entries import Fingerprint, FingerprintPrimes
from ampmpi.model.batch import Sample

N_FEATURES = {"Cu": 5, "Pt": 4}


def with_stress(sample: Sample, seed: int = 0) -> Sample:
    """Return a sample with a virial, and derivatives by strain that belong to nothing."""
    rng = np.random.default_rng(seed)
    strains = rng.normal(
        size=(len(sample.fingerprint.symbols), 6, sample.fingerprint.values.shape[1])
    )
    for n, symbol in enumerate(sample.fingerprint.symbols):
        strains[n, :, N_FEATURES[symbol] :] = 0.0
    virial, volume = rng.normal(size=6), float(rng.uniform(5.0, 50.0))
    return replace(sample, virial=virial, volume=volume, strains=strains)


def random_sample(seed: int, n_atoms: int = 4, *, weight: float = 1.0, only_atom: int = -1):
    rng = np.random.default_rng(seed)
    symbols = tuple(rng.choice(["Cu", "Pt"], n_atoms).tolist())
    counts = {s: N_FEATURES[s] for s in sorted(set(symbols))}
    width = max(counts.values())
    values = rng.uniform(0, 3, (n_atoms, width))
    pairs = np.array([(m, n) for n in range(n_atoms) for m in range(n_atoms)], dtype=np.int32)
    primes = rng.normal(size=(len(pairs), 3, width))
    for n, symbol in enumerate(symbols):
        values[n, counts[symbol] :] = 0.0
        primes[pairs[:, 1] == n, :, counts[symbol] :] = 0.0
    return Sample(
        key=f"{seed:032x}",
        fingerprint=Fingerprint(symbols, counts, values),
        primes=FingerprintPrimes(symbols, counts, pairs, primes),
        energy=float(rng.normal() * n_atoms),
        forces=rng.normal(size=(n_atoms, 3)),
        weight=weight,
        only_atom=only_atom,
    )
