"""How accurate a training gets: errors on held-out images, and the energy's drift in NVE.

The images are those of ``examples/make_images.py``. One core is enough::

    OMP_NUM_THREADS=1 python benchmarks/accuracy.py

The exit code is 1 when a figure misses its target.
"""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork, Regressor
from ampmpi.descriptor import make_symmetry_functions
from ampmpi.training import TrainingResult

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "make_images.py"
ELEMENTS = ["Cu", "Pt"]

ENERGY_TARGET = 0.001  # eV per atom
FORCE_TARGET = 0.030  # eV/Å
DRIFT_TARGET = 0.0001  # eV per atom


@dataclass(frozen=True)
class Conservation:
    """What the total energy did in NVE.

    Attributes
    ----------
    drift : float, eV per atom
        Slope of a straight line through the energies, times the length of the run.
    deviation : float, eV per atom
        Largest distance of an energy from the first one.
    temperature : float, K
        Mean over the run.
    force_error : float, eV/Å
        Root of the mean squared error of the last step's forces.
    rate : float
        Steps a second.
    """

    drift: float
    deviation: float
    temperature: float
    force_error: float
    rate: float


def images(n_bulk: int, n_clusters: int, seed: int) -> list[Atoms]:
    """Return strained cells of 32 atoms and clusters of 13, with EMT's energies and forces."""
    example = runpy.run_path(str(EXAMPLE))
    rng = np.random.default_rng(seed)
    found = [example["bulk_image"](rng) for _ in range(n_bulk)]
    found += [example["cluster_image"](rng) for _ in range(n_clusters)]
    return [example["with_energies"](atoms) for atoms in found]


def calculator() -> Amp:
    """Return the untrained potential: radial functions only, close to each other."""
    wide = make_symmetry_functions(ELEMENTS, "G2", etas=[4.0, 8.0, 13.0, 20.0])
    narrow = make_symmetry_functions(
        ELEMENTS, "G2", etas=[200.0], offsets=[2.2, 2.7, 3.3, 3.9, 4.5, 5.0, 5.35, 5.7]
    )
    functions = wide + narrow
    return Amp(
        descriptor=Gaussian(cutoff=6.0, Gs=dict.fromkeys(ELEMENTS, functions)),
        model=NeuralNetwork(
            hiddenlayers=(10, 10),
            lossfunction=LossFunction(
                force_coefficient=0.3,
                convergence={"energy_rmse": 0.0003, "force_rmse": 0.007},
                maxiter=4000,
            ),
            regressor=Regressor("L-BFGS"),
            prescale=True,
            randomseed=1,
        ),
        label="accuracy",
        logging=False,
    )


def train(training: list[Atoms], folder: Path) -> tuple[Amp, TrainingResult]:
    """Train in a folder; return the calculator and how the training ended."""
    calc = calculator()
    here = Path.cwd()
    os.chdir(folder)
    try:
        return calc, calc.train(images=training)
    finally:
        os.chdir(here)


def errors(calc: Amp, references: list[Atoms]) -> tuple[float, float]:
    """Return the rmse of the energy per atom in eV, and of the forces in eV/Å."""
    energy, force = [], []
    for reference in references:
        atoms = reference.copy()
        atoms.calc = calc
        difference = atoms.get_potential_energy() - reference.get_potential_energy()
        energy.append(difference / len(atoms))
        force.append(np.mean((atoms.get_forces() - reference.get_forces()) ** 2))
    return float(np.sqrt(np.mean(np.square(energy)))), float(np.sqrt(np.mean(force)))


def conservation(calc: Amp, picoseconds: float = 5.0, step: float = 2.0) -> Conservation:
    """Follow 108 atoms of the alloy in NVE at about 300 K; `step` in fs."""
    example = runpy.run_path(str(EXAMPLE))
    rng = np.random.default_rng(1)
    atoms = example["mixed"](bulk("Cu", "fcc", a=3.6, cubic=True) * 3, 0.4, rng)
    size = 1 + 0.09 * atoms.symbols.count("Pt") / len(atoms)
    atoms.set_cell(atoms.cell * size, scale_atoms=True)
    atoms.calc = calc
    # half of the kinetic energy goes into the potential energy
    momenta = rng.normal(size=(len(atoms), 3))
    momenta *= np.sqrt(520.0 * units.kB * atoms.get_masses())[:, np.newaxis]
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    dynamics = VelocityVerlet(atoms, step * units.fs)
    dynamics.run(100)
    energies, temperatures = [], []

    def note() -> None:
        energies.append(atoms.get_total_energy() / len(atoms))
        temperatures.append(atoms.get_temperature())

    dynamics.attach(note, interval=5)
    n_steps = round(1000.0 * picoseconds / step)
    start = time.perf_counter()
    dynamics.run(n_steps)
    seconds = time.perf_counter() - start
    times = np.linspace(0.0, 1.0, len(energies))
    last = example["with_energies"](atoms.copy())
    return Conservation(
        drift=abs(float(np.polyfit(times, energies, 1)[0])),
        deviation=float(np.abs(np.array(energies) - energies[0]).max()),
        temperature=float(np.mean(temperatures)),
        force_error=float(np.sqrt(np.mean((atoms.get_forces() - last.get_forces()) ** 2))),
        rate=n_steps / seconds,
    )


def main() -> int:
    """Print the figures; return 1 when one misses its target."""
    training, held_out = images(60, 100, seed=0), images(100, 200, seed=200)
    forces = np.concatenate([atoms.get_forces().ravel() for atoms in held_out])
    with tempfile.TemporaryDirectory() as folder:
        calc, result = train(training, Path(folder))
    print(
        f"{len(training)} images: {result.outcome} after {result.steps} steps and "
        f"{result.best.seconds:.0f} s, at {1e3 * result.best.energy_rmse:.2f} meV/atom and "
        f"{1e3 * result.best.force_rmse:.1f} meV/Å"
    )
    energy, force = errors(calc, held_out)
    worst = max(errors(calc, [atoms])[1] for atoms in held_out)
    print(
        f"{len(held_out)} held-out images, root mean square force "
        f"{np.sqrt(np.mean(forces**2)):.2f} eV/Å: rmse {1e3 * energy:.2f} meV/atom and "
        f"{1e3 * force:.1f} meV/Å ({1e3 * worst:.0f} meV/Å in the worst image)"
    )
    kept = conservation(calc)
    print(
        f"NVE of 108 atoms for 5 ps at {kept.temperature:.0f} K: drift {1e3 * kept.drift:.4f} "
        f"meV/atom, largest deviation {1e3 * kept.deviation:.4f} meV/atom, "
        f"force rmse at the end {1e3 * kept.force_error:.1f} meV/Å, {kept.rate:.0f} steps a second"
    )
    met = energy <= ENERGY_TARGET and force <= FORCE_TARGET and kept.drift < DRIFT_TARGET
    print("targets met" if met else "TARGETS MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
