"""How much better chosen images are than random ones: rounds of select, label and train.

The images are frames of dynamics of copper with EMT: bulk, slab and cluster of eight atoms.
Two thirds of them are at 300 K, as most frames of most trajectories show what is known
already; the others are heated up to 1,800 K. The held-out ones are of heated dynamics of their
own. From the same 50 random images, three rounds of `ampmpi.select`, EMT and training go up to
149 images; the other committee gets 100 more random ones. One core is enough::

    OMP_NUM_THREADS=1 python benchmarks/selection.py --seeds 3

The exit code is 1 when the chosen images are not better.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin

from ampmpi import (
    Amp,
    Committee,
    Gaussian,
    LossFunction,
    NeuralNetwork,
    Regressor,
    evaluate,
    select,
)

FIRST, ROUNDS, PER_ROUND = 50, 3, 33
RANDOM = 150
MEMBERS = 4
MAX_STEPS = 600


@dataclass(frozen=True)
class Errors:
    """Errors on the held-out images: energy in eV per atom, forces in eV/Å.

    `worst` is the force rmse that one image in twenty exceeds.
    """

    energy: float
    force: float
    worst: float

    def __str__(self) -> str:
        return (
            f"{1e3 * self.energy:5.2f} meV/atom, forces {1e3 * self.force:5.1f} meV/Å, "
            f"{1e3 * self.worst:4.0f} in the worst twentieth"
        )


def starts() -> list[Atoms]:
    """Return copper as bulk, as a slab of two layers, and as a cluster, of eight atoms each."""
    cell = bulk("Cu", "fcc", a=3.65, cubic=True) * (2, 1, 1)
    slab = fcc111("Cu", (2, 2, 2), a=3.65, vacuum=5.0)
    found = [(cell, True), (slab, (True, True, False)), (cell, False)]
    return [
        Atoms(made.numbers, made.positions, cell=made.cell.array if np.any(pbc) else None, pbc=pbc)
        for made, pbc in found
    ]


def labelled(atoms: Atoms) -> Atoms:
    """Return a copy with the energy and forces of EMT."""
    image = atoms.copy()
    image.calc = EMT()
    energy, forces = image.get_potential_energy(), image.get_forces()
    image.calc = SinglePointCalculator(image, energy=energy, forces=forces)
    return image


def dynamics(
    atoms: Atoms, rng: np.random.Generator, n_frames: int, kelvin: tuple[float, float]
) -> list[Atoms]:
    """Follow atoms with EMT from one temperature to another; a frame each 40 fs."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of fixcm, in ASE 3.28
        run = Langevin(atoms, 4 * units.fs, temperature_K=kelvin[0], friction=0.01 / units.fs,
                       rng=rng)  # fmt: skip
    frames = []
    for number in range(n_frames):
        run.set_temperature(temperature_K=np.interp(number, [0, n_frames - 1], kelvin))
        run.run(10)
        frames.append(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))
    return frames


def heated(rng: np.random.Generator, n_runs: int, n_frames: int) -> list[Atoms]:
    """Return frames of heated dynamics of each kind."""
    return [
        frame
        for _ in range(n_runs)
        for atoms in starts()
        for frame in dynamics(atoms, rng, n_frames, (300.0, 1800.0))
    ]


def pool_of(seed: int, n_cold: int = 200, n_runs: int = 4) -> list[Atoms]:
    """Return frames without labels: of 900, 600 at 300 K and 300 of heated dynamics."""
    rng = np.random.default_rng(seed)
    cold = [frame for atoms in starts() for frame in dynamics(atoms, rng, n_cold, (300.0, 300.0))]
    return cold + heated(rng, n_runs, 25)


def held_out_of(seed: int, n_runs: int = 4) -> list[Atoms]:
    """Return labelled frames, 360 of them, of heated dynamics that the pool does not have."""
    return [labelled(atoms) for atoms in heated(np.random.default_rng(1000 + seed), n_runs, 30)]


def train(
    images: list[Atoms],
    descriptor: Gaussian,
    seed: int,
    n_members: int = MEMBERS,
    max_steps: int = MAX_STEPS,
) -> Committee:
    """Train a committee on images, in a folder that does not stay."""
    members = []
    with tempfile.TemporaryDirectory() as folder, chdir(folder), open(os.devnull, "w") as nowhere:
        for number in range(n_members):
            model = NeuralNetwork(
                hiddenlayers=(10, 10),
                lossfunction=LossFunction(
                    force_coefficient=0.3,
                    overfit=1e-3,
                    convergence={"energy_rmse": 1e-5, "force_rmse": 1e-4},
                    maxiter=max_steps,
                ),
                regressor=Regressor("L-BFGS"),
                randomseed=100 * seed + number,
            )
            member = Amp(descriptor, model, label=f"m{number}", dblabel="m", logging=False)
            with redirect_stdout(nowhere):
                member.train(images)
            members.append(member)
    return Committee(members)


def errors(committee: Committee, images: list[Atoms]) -> Errors:
    """Return the errors of a committee's mean."""
    seen = evaluate(committee, images)
    force = np.concatenate([one.force_errors.ravel() for one in seen])
    return Errors(
        energy=float(np.sqrt(np.mean([one.energy_error**2 for one in seen]))),
        force=float(np.sqrt(np.mean(force**2))),
        worst=float(np.quantile([one.force_rmse for one in seen], 0.95)),
    )


def compare(seed: int) -> tuple[Errors, Errors]:
    """Return the errors with random images and with as many chosen ones."""
    pool, held_out = pool_of(seed), held_out_of(seed)
    order = np.random.default_rng(2000 + seed).permutation(len(pool))
    first = [labelled(pool[number]) for number in order[:FIRST]]
    descriptor = Gaussian.from_images(first, per_element=24)
    start = train(first, descriptor, seed)
    print(f"seed {seed}, {FIRST} images    {errors(start, held_out)}", flush=True)
    more = [labelled(pool[number]) for number in order[FIRST:RANDOM]]
    by_chance = errors(train(first + more, descriptor, seed), held_out)
    print(f"  {RANDOM} random images     {by_chance}", flush=True)
    known, committee = first, start
    for number in range(ROUNDS):
        found = select(committee, pool, PER_ROUND, known=known)
        known = known + [labelled(image) for image in found.images]
        committee = train(known, descriptor, seed)
        chosen = errors(committee, held_out)
        print(f"  round {number + 1}, {len(known):3} images  {chosen}", flush=True)
    return by_chance, chosen


def main() -> int:
    """Print the errors; return 1 when chosen images are not better than random ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    started = time.process_time()
    found = [compare(seed) for seed in range(parser.parse_args().seeds)]
    ratios = {
        name: float(
            np.exp(np.mean([np.log(getattr(c, name) / getattr(r, name)) for r, c in found]))
        )
        for name in ("energy", "force", "worst")
    }
    print(
        f"chosen to random: energy {ratios['energy']:.2f}, forces {ratios['force']:.2f}, worst "
        f"images {ratios['worst']:.2f} ({time.process_time() - started:.0f} s of CPU time)"
    )
    return 0 if max(ratios.values()) < 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
