"""Descriptors of one's own on ranks: what cannot be sent stays where it is."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from conftest import make_images, run

from ampmpi import Amp, Custom, FingerprintDatabase, LossFunction, NeuralNetwork, fingerprint
from ampmpi.errors import InputError
from ampmpi.parallel.comm import SerialCommunicator

pytestmark = pytest.mark.mpi


def coordinations(scale):
    """Return a descriptor that no rank can send to another one: its functions are closures."""

    def squares(atoms):
        steps = atoms.positions[:, None] - atoms.positions
        return steps, np.exp(-(steps**2).sum(axis=2) / scale)

    def features(atoms):
        return squares(atoms)[1].sum(axis=1, keepdims=True)

    def derivatives(atoms):
        steps, weights = squares(atoms)
        moved = 2 / scale * steps * weights[:, :, None]
        n = range(len(atoms))
        moved[n, n] = -moved.sum(axis=1)
        return moved[:, :, :, None]

    return Custom(
        features, name="Crowd", parameters={"scale": scale}, derivatives=derivatives, n_features=1
    )


def training_images():
    images = make_images(6)
    for atoms in images:
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return images


def test_a_training_finds_the_same_as_alone(comm, shared_path):
    def train(label, ranks):
        loss = LossFunction(convergence={"energy_rmse": 1e-9, "force_rmse": 1e-9}, maxiter=8)
        model = NeuralNetwork((3,), randomseed=3, lossfunction=loss)
        calculator = Amp(coordinations(4.0), model, label=str(shared_path / label))
        return calculator, calculator.train(training_images(), comm=ranks)

    calculator, result = train("many", comm)
    loaded = Amp.load(result.file, descriptor=coordinations(4.0))
    np.testing.assert_array_equal(loaded.model.vector, calculator.model.vector)
    if comm.rank == 0:
        alone, _ = train("one", SerialCommunicator())
        np.testing.assert_allclose(calculator.model.vector, alone.model.vector, rtol=1e-6)
        for kind in ("fingerprints", "fingerprint-primes"):
            with (
                FingerprintDatabase(shared_path / f"many-{kind}.ampdb") as many,
                FingerprintDatabase(shared_path / f"one-{kind}.ampdb") as one,
            ):
                assert len(many) == 6
                assert {key: many.get_bytes(key) for key in many} == {
                    key: one.get_bytes(key) for key in one
                }
    comm.barrier()


def test_ranks_with_different_descriptors_are_refused(comm, shared_path):
    if comm.size == 1:
        return
    descriptor = coordinations(4.0 + comm.rank)
    with pytest.raises(InputError, match="the ranks were given different descriptors"):
        fingerprint(make_images(3), descriptor, label=shared_path / "x", comm=comm)
    comm.barrier()
    assert not list(shared_path.glob("x-*"))


OWN = """
from ampmpi import Custom

crowd = Custom(lambda atoms: atoms.positions**2, name="Crowd")
"""


@pytest.mark.starts_jobs
def test_every_rank_imports_what_the_command_line_names(tmp_path):
    write(tmp_path / "a.traj", make_images(5))
    (tmp_path / "own_mpi.py").write_text(OWN)
    given = ["fingerprint", "a.traj", "--label", "own", "--descriptor"]
    done = run([*given, "own_mpi:crowd"], 2, tmp_path)
    assert done.code == 0, done.err
    assert "5 computed" in done.out
    with FingerprintDatabase(tmp_path / "own-fingerprints.ampdb") as database:
        assert database.manifest().parameters["importname"] == "custom.Crowd"
    wrong = run([*given, "own_mpi:nothing"], 2, tmp_path)
    assert wrong.code == 2
    assert wrong.err.count("has no attribute 'nothing'") == 1
