"""Molecular dynamics with the demo's committee and, from the same start, with EMT itself.

What the committee is unsure of goes into unsure.extxyz, and the whole trajectory into md.traj.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet

from ampmpi import Committee, SpreadObserver, spread_quantile


def crystal() -> Atoms:
    """Return a random alloy of 32 atoms on lattice sites, with velocities of 600 K."""
    rng = np.random.default_rng(5)
    atoms = bulk("Cu", "fcc", a=3.75, cubic=True) * (2, 2, 2)
    atoms.numbers[rng.permutation(32)[:13]] = 78
    momenta = np.sqrt(atoms.get_masses())[:, np.newaxis] * rng.normal(size=(32, 3))
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(600 / atoms.get_temperature()))
    return atoms


def mean_temperature(run: VelocityVerlet, steps: int) -> float:
    """Let it run, and return the mean of its temperatures, K."""
    temperatures = []
    for _ in range(steps):
        run.run(1)
        temperatures.append(run.atoms.get_temperature())
    return float(np.mean(temperatures))


def main() -> None:
    """Follow both for 400 fs; what the committee says is compared with EMT."""
    ours, reference = crystal(), crystal()
    committee = Committee.load("cupt")
    ours.calc, reference.calc = committee, EMT()
    usual = spread_quantile(committee, "held-out.traj", 0.95)
    watch = SpreadObserver(ours, limit=usual, output="unsure.extxyz", stop_above=20 * usual)
    runs = [
        VelocityVerlet(ours, 2.0 * units.fs, trajectory="md.traj", loginterval=2),
        VelocityVerlet(reference, 2.0 * units.fs),
    ]
    runs[0].attach(watch, interval=5)
    start = ours.get_total_energy()
    print(f"At the start {ours.get_temperature():.0f} K, half of it for the displacements.")
    print("Mean temperatures of 80 fs each, and what the committee says at their ends:")
    print("   fs   committee        EMT   total energy, meV/atom   disagreement, meV/Å")
    for step in range(40, 201, 40):
        temperature, expected = (mean_temperature(run, 40) for run in runs)
        drift = 1000 * (ours.get_total_energy() - start) / len(ours)
        spread = 1000 * committee.results["forces_spread"].max()
        print(f"{2 * step:5}  {temperature:8.0f} K {expected:8.0f} K{drift:+25.2f}{spread:22.0f}")
    print(watch.summary())


if __name__ == "__main__":
    main()
