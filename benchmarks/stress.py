"""What training stresses brings: errors on held-out cells, with and without them.

Cells of Cu, Cu₃Au and CuAu, strained by up to 5 % and rattled, with the labels of EMT. One core
is enough; it takes some minutes::

    OMP_NUM_THREADS=1 python benchmarks/stress.py

The exit code is 1 when stresses do not halve the errors of the stress.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork, Regressor, evaluate
from ampmpi.descriptor import make_symmetry_functions
from ampmpi.evaluation import energy_errors, force_errors, stress_errors

ELEMENTS = ["Cu", "Au"]
IMAGES, HELD_OUT, STEPS = 200, 100, 2000

# Coefficients of forces and stresses.
TRAININGS = ((None, None), (None, 0.1), (0.3, None), (0.3, 0.3))

FACTOR = 2.0


def strained_cells(n: int, seed: int) -> list[Atoms]:
    """Return cells of 16 atoms with energies, forces and stresses."""
    random = np.random.default_rng(seed)
    images = []
    for index in range(n):
        atoms = bulk("Cu", a=3.65, cubic=True) * (2, 2, 1)
        gold = (0.0, 0.25, 0.5)[index % 3]
        atoms.numbers[random.permutation(len(atoms))[: round(gold * len(atoms))]] = 79
        size = 1.0 + 0.13 * gold + random.uniform(-0.05, 0.05)
        strain = random.uniform(-0.05, 0.05, (3, 3))
        deformation = size * np.eye(3) + (strain + strain.T) / 2
        atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        atoms.positions += random.normal(scale=0.05, size=atoms.positions.shape)
        atoms.calc = EMT()
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        images.append(atoms)
    return images


def errors(
    training: list[Atoms], held_out: list[Atoms], force: float | None, stress: float | None
) -> tuple[float, float, float]:
    """Train, and return rms errors of energy (eV/atom), forces (eV/Å) and stress (eV/Å³)."""
    functions = make_symmetry_functions(ELEMENTS, "G2", etas=[4, 8, 13, 20])
    functions += make_symmetry_functions(
        ELEMENTS, "G2", etas=[200], offsets=[2.2, 2.7, 3.3, 3.9, 4.5, 5.0, 5.35, 5.7]
    )
    calculator = Amp(
        descriptor=Gaussian(cutoff=6.0, Gs=dict.fromkeys(ELEMENTS, functions)),
        model=NeuralNetwork(
            hiddenlayers=(10, 10),
            lossfunction=LossFunction(
                force_coefficient=force,
                stress_coefficient=stress,
                convergence={"energy_rmse": 1e-9, "force_rmse": None if force is None else 1e-9},
                maxiter=STEPS,
            ),
            regressor=Regressor("L-BFGS"),
            prescale=True,
            randomseed=1,
        ),
        label=f"{force}-{stress}",
        dblabel="all",
    )
    calculator.train(training)
    found = evaluate(calculator, held_out)
    energy, forces, stresses = (
        float(np.sqrt(np.mean(values**2)))
        for values in (energy_errors(found), force_errors(found)[0], stress_errors(found))
    )
    return energy, forces, stresses


def main() -> int:
    """Print the errors of each training; return the exit code."""
    training, held_out = strained_cells(IMAGES, 1), strained_cells(HELD_OUT, 2)
    print("forces stresses  energy, meV/atom  force, meV/Å  stress, meV/Å³  CPU, s")
    by_stress: dict[float | None, list[float]] = {}
    for force, stress in TRAININGS:
        start = time.process_time()
        found = errors(training, held_out, force, stress)
        seconds = time.process_time() - start
        energy, forces, stresses = (1e3 * value for value in found)
        print(
            f"{force!s:>6} {stress!s:>8} {energy:17.3f} {forces:13.2f} {stresses:15.3f} "
            f"{seconds:7.1f}",
            flush=True,
        )
        by_stress.setdefault(force, []).append(stresses)
    factors = [without / with_it for without, with_it in by_stress.values()]
    print("stress errors fall by factors of", ", ".join(f"{factor:.1f}" for factor in factors))
    return 0 if min(factors) >= FACTOR else 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.exit(main())
