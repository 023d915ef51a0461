"""Compile the kernels of derivatives by strain, which only trainings of stresses need."""

from __future__ import annotations


def warm_up() -> None:
    """Compile them, or load them from numba's cache, by running each on a tiny image."""
    from ase import Atoms

    from .gaussian import Gaussian
    from .zernike import Zernike

    atoms = Atoms("H2", positions=[[0.0, 0.0, 0.0], [0.0, 0.0, 0.75]])
    for kind in (Gaussian, Zernike):
        kind(cutoff=2.0, elements=["H"]).strain_derivatives(atoms)
