"""Memory of a training: what `ampmpi train` says that a rank takes, and what it takes at its peak.

Each set is trained for two steps in a process of its own: a set of two images, which shows what
Python and the libraries take, 1,000 EMT crystals of 32 atoms, and files of images::

    python benchmarks/memory.py [FILE...]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import ase.io
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

# The command, with its peak in bytes at the end: getrusage would count its parent's, too.
TRAIN = r"""
import atexit, re
from pathlib import Path
from ampmpi.cli.main import ampmpi

def tell():
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    print("peak", 1024 * int(found[1]))

atexit.register(tell)
ampmpi()
"""


def crystals(n: int, seed: int = 0) -> list:
    """Return crystals of 32 atoms of Cu and Pt with EMT's energies and forces."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True).repeat(2)
        atoms.set_cell(atoms.cell * rng.uniform(0.96, 1.05), scale_atoms=True)
        atoms.numbers[rng.random(len(atoms)) < 0.5] = 78
        atoms.positions += rng.normal(0.0, 0.12, atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        found.append(atoms)
    return found


def measure(name: str, path: Path, *options: str) -> None:
    """Train on a file for two steps, and print what was said and what was taken."""
    command = [sys.executable, "-c", TRAIN, "train", str(path.absolute()), "--max-steps", "2"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "--hidden", "15,15", *options], cwd=folder, stdout=subprocess.PIPE,
            text=True, check=True,
        )  # fmt: skip
    said = float(re.search(r"Memory: ([\d.]+) GB", done.stdout)[1])
    taken = float(re.search(r"^peak (\d+)", done.stdout, re.MULTILINE)[1]) / 1e9
    print(f"{name:24s} said {said:5.2f} GB   taken {taken:6.3f} GB   {said / taken:5.2f}")


def main() -> None:
    """Measure all sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="images with energies and forces")
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as folder:
        for name, n in (("2 images", 2), ("1,000 EMT crystals", 1000)):
            path = Path(folder, f"{n}.traj")
            ase.io.write(path, crystals(n))
            measure(name, path, "--cutoff", "6")
    for file in files:
        measure(file.name, file, "--functions", "auto")


if __name__ == "__main__":
    main()
