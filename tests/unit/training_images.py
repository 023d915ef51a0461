"""Small images of Cu and Pt with EMT's energies and forces."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator


def emt_images(n, seed=0, width=0.1):
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        atoms = bulk("Cu", "fcc", a=3.75, cubic=True)
        if i % 3 == 2:
            atoms = Atoms("CuPt", positions=[(0, 0, 0), (0, 0, 2.4)])
        atoms.numbers[rng.integers(0, 2, len(atoms)).astype(bool)] = 78
        atoms.positions += rng.normal(scale=width, size=atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        found.append(atoms)
    return found
