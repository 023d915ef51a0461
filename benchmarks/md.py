"""Molecular dynamics on one core: CPU time per atom and step.

    python benchmarks/md.py [--steps 20] [--repeats 5] [--threads 2]

Beside the calculator stands the road without a list that is kept: fingerprint, network and
`contract`, each with a neighbour list of its own, in turns with it. Weights are random, since
time does not depend on them; the atoms move as at some 300 K in steps of 2 fs. Times are the best
of the repeats. The price of a call is that of one water molecule.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from ampmpi import Amp, Committee, Gaussian, NeuralNetwork, make_symmetry_functions

CUTOFF = 6.5
ELEMENTS = ["Cu", "Pt"]
STEP = 0.004  # Å, per component


def alloy(repeat: int) -> Atoms:
    """Return a rattled fcc cell with its elements at random."""
    rng = np.random.default_rng(0)
    atoms = bulk("Cu", cubic=True, a=3.75) * (repeat, repeat, repeat)
    atoms.symbols = rng.permutation(np.resize(ELEMENTS, len(atoms)))
    atoms.rattle(0.05, seed=0)
    return atoms


def descriptors() -> dict[str, Gaussian]:
    """Return Amp's default functions, 20 for each element, and a set of 70."""
    radial = make_symmetry_functions(ELEMENTS, "G2", etas=[0.05, 2.0, 4.0, 8.0, 20.0, 80.0])
    radial += make_symmetry_functions(ELEMENTS, "G2", etas=[40.0], offsets=[2.5, 4.0])
    angular = make_symmetry_functions(
        ELEMENTS, "G4", etas=[0.005, 0.5, 4.0], zetas=[1.0, 4.0, 16.0], gammas=[1.0, -1.0]
    )
    return {
        "20 default": Gaussian(CUTOFF, elements=ELEMENTS),
        "70": Gaussian(CUTOFF, radial + angular, elements=ELEMENTS),
    }


def calculator(atoms: Atoms, descriptor: Gaussian, seed: int = 0, threads: int = 1) -> Amp:
    """Return a potential of random weights, scaled to the atoms' own features."""
    fingerprint = descriptor.fingerprint(atoms)
    symbols = np.array(fingerprint.symbols)
    ranges = {}
    for element in descriptor.elements or ():
        values = fingerprint.values[symbols == element, : descriptor.n_features[element]]
        ranges[element] = np.stack([values.min(axis=0) - 0.1, values.max(axis=0) + 0.1], axis=1)
    model = NeuralNetwork((10, 10), randomseed=seed)
    composition = np.array([[float((symbols == e).sum()) for e in ranges]] * 2)
    model.initialise(ranges, np.array([0.0, float(len(atoms))]), composition)
    return Amp(descriptor, model, label=None, threads=threads)


def fastest(
    roads: dict[str, Callable[[Atoms], object]], atoms: Atoms, steps: int, repeats: int
) -> dict[str, float]:
    """Return the CPU time of each road per atom and step in µs, the best of repeats in turns."""
    rng = np.random.default_rng(1)
    velocities = rng.normal(scale=STEP, size=(len(atoms), 3))
    best = dict.fromkeys(roads, np.inf)
    for road in roads.values():
        moving = atoms.copy()
        road(moving)  # compiles, and searches neighbours
    for _ in range(repeats):
        for name, road in roads.items():
            moving = atoms.copy()
            started = time.process_time()
            for step in range(steps):
                moving.positions += velocities if step % 20 < 10 else -velocities
                road(moving)
            took = (time.process_time() - started) / (steps * len(atoms))
            best[name] = min(best[name], 1e6 * took)
    return best


def old_road(amp: Amp) -> Callable[[Atoms], object]:
    """Return what a step is without a list that is kept."""

    def step(atoms: Atoms) -> object:
        _, dE_dG = amp.model.atomic_energies(amp.descriptor.fingerprint(atoms))
        return amp.descriptor.contract(atoms, dE_dG)

    return step


def ase_road(calculator: Amp | Committee) -> Callable[[Atoms], object]:
    """Return what a step is in ASE."""
    return lambda atoms: calculator.get_property("forces", atoms)


def roads_of(atoms: Atoms, descriptor: Gaussian, threads: int) -> dict[str, Callable]:
    """Return the roads that are compared, by their name in the table. Others belong here."""
    members = [calculator(atoms, descriptor, seed) for seed in range(4)]
    roads = {
        "ASE": ase_road(members[0]),
        "fingerprint, contract": old_road(members[0]),
        "committee of 4": ase_road(Committee(members)),
    }
    if threads > 1:
        threaded = calculator(atoms, descriptor, threads=threads)
        roads[f"{threads} threads, both cores' time"] = ase_road(threaded)
    return roads


def call_prices(repeats: int) -> dict[str, float]:
    """Return the CPU times in ms of calls for one water molecule."""
    water = molecule("H2O")
    descriptor = Gaussian(CUTOFF, elements=["H", "O"])
    amp = calculator(water, descriptor)
    dE_dG = np.ones_like(descriptor.fingerprint(water).values)

    def both() -> None:
        descriptor.fingerprint(water)
        descriptor.contract(water, dE_dG)

    calls = {
        "fingerprint": lambda: descriptor.fingerprint(water),
        "contract": lambda: descriptor.contract(water, dE_dG),
        "fingerprint and contract": both,
        "calculator": lambda: amp.calculate(water, ["energy", "forces"]),
    }
    best = dict.fromkeys(calls, np.inf)
    for _ in range(10 * repeats):
        for name, call in calls.items():
            started = time.process_time()
            for _ in range(100):
                call()
            best[name] = min(best[name], 10.0 * (time.process_time() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="steps of a repeat (108 atoms)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.threads == 1:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print("µs of CPU time per atom and step, and ratio to ASE with one member")
    for repeat in (3, 10):
        atoms = alloy(repeat)
        for name, descriptor in descriptors().items():
            steps = max(2, options.steps * 108 // len(atoms))
            roads = roads_of(atoms, descriptor, options.threads)
            best = fastest(roads, atoms, steps, options.repeats)
            print(f"{len(atoms)} atoms, {name} functions")
            for road, microseconds in best.items():
                print(f"  {road:<28} {microseconds:8.2f} {microseconds / best['ASE']:6.2f}")
    print("ms of CPU time for one water molecule")
    for call, milliseconds in call_prices(options.repeats).items():
        print(f"  {call:<28} {milliseconds:8.4f}")


if __name__ == "__main__":
    main()
