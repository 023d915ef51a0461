"""What a training is said to take is what it takes, and its arrays are there once."""

from __future__ import annotations

import re
import subprocess
import sys

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

TRAIN = """
import atexit, re, sys
from pathlib import Path
from ampmpi.cli.main import ampmpi

def tell():
    # the peak of this process; getrusage would count that of its parent, too
    status = Path("/proc/self/status").read_text()
    print("peak", 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]))

atexit.register(tell)
ampmpi()
"""


def crystals(n_images, size):
    """Return crystals of Cu and Pt with invented labels."""
    rng = np.random.default_rng(0)
    for _ in range(n_images):
        atoms = bulk("Cu", cubic=True).repeat(size)
        atoms.numbers[rng.random(len(atoms)) < 0.5] = 78
        atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
        forces = rng.normal(size=atoms.positions.shape)
        atoms.calc = SinglePointCalculator(atoms, energy=float(rng.normal()), forces=forces)
        yield atoms


def trained(folder, *options):
    """Return the bytes that a training was said to take, and those that it took at its peak."""
    command = [sys.executable, "-c", TRAIN, "train", "set.traj", "--cutoff", "6", "--max-steps"]
    done = subprocess.run(
        [*command, "2", *options], cwd=folder, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = re.search(r"Memory: ([\d.]+) GB per rank", done.stdout + done.stderr)
    peak = re.search(r"^peak (\d+)", done.stdout, re.MULTILINE)
    return 1e9 * float(said[1]), float(peak[1])


@pytest.fixture(scope="module")
def floor(tmp_path_factory):
    """What a training of next to nothing takes, which depends on what is installed."""
    folder = tmp_path_factory.mktemp("floor")
    ase.io.write(folder / "set.traj", list(crystals(2, 1)))
    said, peak = trained(folder)
    assert said == pytest.approx(peak, rel=0.2)
    return said, peak


@pytest.mark.parametrize(("n_images", "size"), [(300, 2), (20, (5, 4, 3))])
def test_what_is_said_is_what_is_taken(tmp_path, floor, n_images, size):
    ase.io.write(tmp_path / "set.traj", list(crystals(n_images, size)))
    said, peak = trained(tmp_path)
    assert peak - floor[1] > 50e6  # else this tests nothing
    assert said - floor[0] == pytest.approx(peak - floor[1], abs=0.1 * peak)
