"""Amp's utilities and pictures on ranks: shares of the work, and the same numbers on all."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import make_images

from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork
from ampmpi.amp.analysis import plot_parity_and_error, plot_sensitivity
from ampmpi.amp.utilities import Annealer, Data, hash_images, randomize_images


def labelled(n):
    images = make_images(n)
    for atoms in images:
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return images


def same_everywhere(comm, value):
    first, *others = comm.allgather(np.asarray(value).tobytes())
    assert all(other == first for other in others)


class Distances:
    def __init__(self):
        self.asked = 0

    def calculate(self, image, key):
        self.asked += 1
        return image.get_all_distances().tolist()


def test_data_are_calculated_in_shares(comm, shared_path):
    images, calculator = hash_images(make_images(7)), Distances()
    data = Data(str(shared_path / "distances"), calculator=calculator)
    data.calculate_items(images, parallel=None)
    assert calculator.asked in (7 // comm.size, 7 // comm.size + 1)
    assert sum(comm.allgather(calculator.asked)) == 7
    for key, atoms in images.items():
        assert data[key] == atoms.get_all_distances().tolist()
    comm.barrier()


def test_all_ranks_have_the_split_of_the_first(comm):
    np.random.seed(comm.rank)  # noqa: NPY002
    _, test = randomize_images(make_images(9), 0.5)
    same_everywhere(comm, np.concatenate([atoms.positions for atoms in test]))


def test_annealing_and_pictures(comm, shared_path, monkeypatch):
    monkeypatch.chdir(shared_path)
    images = labelled(5)
    loss = LossFunction(convergence={"energy_rmse": 1e-3, "force_rmse": 1e-2}, maxiter=3)
    network = NeuralNetwork(hiddenlayers=(1,), randomseed=1, lossfunction=loss)
    calc = Amp(Gaussian(cutoff=4.0), network, label="a")
    np.random.seed(comm.rank)  # noqa: NPY002
    random.seed(comm.rank)
    found = Annealer(calc, images, steps=20)
    same_everywhere(comm, calc.model.vector)
    same_everywhere(comm, [random.random(), np.random.rand()])  # noqa: NPY002
    energies, forces = plot_parity_and_error(calc, images, returndata=True)
    same_everywhere(comm, list(energies.values()))
    total = sum(row[3] ** 2 for row in energies.values())
    total += 0.04 * sum(np.mean(row[2] ** 2) for row in forces.values())
    assert found.loss == pytest.approx(total, rel=1e-9)
    losses = plot_sensitivity(calc, images, dblabel="a")
    same_everywhere(comm, losses)
    assert losses[0, 1] == pytest.approx(total, rel=1e-9)
    comm.barrier()
    assert sorted(str(path) for path in Path().glob("*.pdf")) == [
        "error-plot.pdf", "parity-plot.pdf", "sensitivity-plot.pdf",
    ]  # fmt: skip
