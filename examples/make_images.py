"""Write a small training set of copper and platinum, bulk.traj and clusters.traj.

More images of both kinds go into held-out.traj, to measure potentials with.

Energies and forces come from ASE's EMT. Some images of the second file are
repeats of earlier ones, as they are in most sets that people collect.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cluster import Icosahedron
from ase.io import Trajectory

N_BULK = 60
N_CLUSTERS = 100
N_REPEATED = 8
N_HELD_OUT = 50  # of each kind


def mixed(atoms: Atoms, fraction: float, rng: np.random.Generator) -> Atoms:
    """Turn a fraction of the atoms, chosen at random, into platinum."""
    atoms.numbers[rng.random(len(atoms)) < fraction] = 78
    return atoms


def bulk_image(rng: np.random.Generator) -> Atoms:
    """Return a strained and shaken fcc cell of 32 atoms."""
    atoms = mixed(bulk("Cu", "fcc", a=3.6, cubic=True) * (2, 2, 2), 0.4, rng)
    size = 1 + 0.09 * atoms.symbols.count("Pt") / len(atoms)
    strain = np.eye(3) * size + rng.normal(scale=0.01, size=(3, 3))
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.positions += rng.normal(scale=0.08, size=(len(atoms), 3))
    return atoms


def cluster_image(rng: np.random.Generator) -> Atoms:
    """Return a shaken icosahedron of 13 atoms."""
    atoms = mixed(Icosahedron("Cu", 2), 0.4, rng)
    atoms.positions *= 1 + 0.06 * atoms.symbols.count("Pt") / len(atoms) + rng.normal(scale=0.02)
    atoms.positions += rng.normal(scale=0.08, size=(len(atoms), 3))
    return atoms


def with_energies(atoms: Atoms) -> Atoms:
    """Attach EMT's energy and forces."""
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def main() -> None:
    """Write the three trajectories."""
    rng = np.random.default_rng(0)
    cells = [with_energies(bulk_image(rng)) for _ in range(N_BULK)]
    clusters = [with_energies(cluster_image(rng)) for _ in range(N_CLUSTERS)]
    held_out = [with_energies(bulk_image(rng)) for _ in range(N_HELD_OUT)]
    held_out += [with_energies(cluster_image(rng)) for _ in range(N_HELD_OUT)]
    for name, images in [
        ("bulk.traj", cells),
        ("clusters.traj", clusters + cells[:N_REPEATED]),
        ("held-out.traj", held_out),
    ]:
        with Trajectory(name, "w") as trajectory:
            for atoms in images:
                trajectory.write(atoms)
        print(f"{name}: {len(images)} images")
    forces = np.concatenate([atoms.get_forces().ravel() for atoms in cells + clusters])
    print(f"root mean square force: {np.sqrt(np.mean(forces**2)):.2f} eV/Å")


if __name__ == "__main__":
    main()
