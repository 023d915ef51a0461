"""Compile the kernels before they are needed, and count what was compiled."""

from __future__ import annotations

import sys


def warm_up() -> None:
    """Compile every kernel, or load it from numba's cache, by running each on a tiny image.

    Let one rank per node call this first: the others then find the compiled
    code in the cache.
    """
    from ase import Atoms

    from .candidates import candidates_among
    from .gaussian import Gaussian
    from .zernike import Zernike

    atoms = Atoms("H2", positions=[[0.0, 0.0, 0.0], [0.0, 0.0, 0.75]])
    for kind in (Gaussian, Zernike):
        descriptor = kind(cutoff=2.0, elements=["H"])
        descriptor.calculate(atoms)
        descriptor.contract(atoms, descriptor.fingerprint(atoms).values)
        verlet = descriptor.verlet_list(0.5)
        for _ in range(2):
            found = verlet.of(atoms)
        species = found.species
        near = descriptor.neighbors_among(found.positions, found.start, found.candidate, species)
        features = descriptor.features_among(species, near)
        found.fold(descriptor.forces_among(species, near, features)[0])
    candidates_among(atoms.positions, len(atoms), 2.0)


def compile_count() -> int:
    """Return how many kernels this process has compiled rather than loaded from the cache."""
    compiled = sys.modules.get(f"{__package__}.compiled")
    entries = compiled.ENTRIES if compiled else ()
    return sum(sum(entry.stats.cache_misses.values()) for entry in entries)
