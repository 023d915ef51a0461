"""Stresses on ranks: the same loss as alone, restarts that end the same, errors that end all."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from conftest import AMPMPI, finish, make_images, run, start

from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork, Regressor, fingerprint
from ampmpi.errors import UnusableImagesError
from ampmpi.parallel.comm import SerialCommunicator
from ampmpi.training.dataset import survey
from ampmpi.training.fit import initial_loss
from ampmpi.training.pool import open_pool
from ampmpi.training.shares import Source, load

pytestmark = pytest.mark.mpi
CUTOFF = 4.5


def training_images(n=14, seed=0):
    """Images of which two in three have a cell and a stress."""
    images = make_images(n, seed)
    for atoms in images:
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if atoms.cell.rank == 3:
            results["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **results)
    return images


def make_model(maxiter=12, forces=True):
    criteria = {"energy_rmse": 1e-9, "force_rmse": 1e-9 if forces else None}
    loss = LossFunction(convergence=criteria, maxiter=maxiter, stress_coefficient=0.3)
    return NeuralNetwork(
        (6, 5), randomseed=3, lossfunction=loss, regressor=Regressor("L-BFGS-B"), prescale=True
    )


def totals(ranks, trajectory, label, forces, *, resident=True):
    """Loss and gradient at the initial parameters, then the validation loss, on rank 0."""
    model = make_model(forces=forces)
    dataset = survey(
        ranks, open_pool(ranks, trajectory), forces=forces, stress=True, fraction=0.3, seed=1
    )
    descriptor = Gaussian(cutoff=CUTOFF).resolve(dataset.elements)
    fingerprint(trajectory, descriptor, label=label, derivatives=forces, comm=ranks, compress=False)
    primes = f"{label}-fingerprint-primes.ampdb" if forces else None
    source = Source(f"{label}-fingerprints.ampdb", primes, descriptor)
    prepared = load(ranks, dataset, source, model.lossfunction, resident=resident)
    loss = initial_loss(ranks, prepared, model)
    if ranks.rank:
        loss.serve()
        return None
    vector = model.vector
    found = [loss.evaluate(vector), loss.evaluate(vector, "validation", gradient=False)]
    loss.finish()
    return found


@pytest.mark.parametrize("forces", [True, False])
def test_loss_and_gradient_are_those_of_one_rank(comm, shared_path, forces):
    path = str(shared_path / "images.traj")
    if comm.rank == 0:
        write(path, training_images(), parallel=False)
    comm.barrier()
    many = totals(comm, path, shared_path / "many", forces)
    passes = totals(comm, path, shared_path / "many", forces, resident=False)
    if comm.rank == 0:
        alone = totals(SerialCommunicator(), path, shared_path / "alone", forces)
        for a, b, again in zip(many, alone, passes, strict=True):
            assert a.stress > 0
            for name in (
                "energy", "force", "stress", "stress_squares", "force_maxresid", "stress_maxresid"
            ):  # fmt: skip
                assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-10, abs=0.0)
                assert getattr(a, name) == getattr(again, name)
            scale = np.abs(b.gradient).max(initial=0.0)
            np.testing.assert_allclose(a.gradient, b.gradient, rtol=1e-9, atol=1e-11 * scale)
            np.testing.assert_array_equal(a.gradient, again.gradient)
    comm.barrier()


def test_every_rank_has_the_calculator_that_one_rank_finds(comm, shared_path):
    images, others = training_images(), training_images(4, seed=5)
    calculator = Amp(Gaussian(cutoff=CUTOFF), make_model(), label=str(shared_path / "many"))
    result = calculator.train(images, validation=others, comm=comm)
    vectors = comm.allgather(calculator.model.vector)
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)
    if comm.rank == 0:
        alone = Amp(Gaussian(cutoff=CUTOFF), make_model(), label=str(shared_path / "alone"))
        again = alone.train(images, validation=others, comm=SerialCommunicator())
        for name in ("loss", "val_loss", "stress_rmse", "val_stress_rmse", "stress_maxresid"):
            found = getattr(result.best, name)
            assert found == pytest.approx(getattr(again.best, name), rel=1e-7)
    comm.barrier()


def test_more_ranks_than_stresses(comm, shared_path):
    calculator = Amp(Gaussian(cutoff=CUTOFF), make_model(3), label=str(shared_path / "few"))
    result = calculator.train(training_images(3)[1:], comm=comm)
    assert result.best.stress_rmse > 0


def test_a_bad_stress_is_named_on_every_rank(comm, shared_path):
    images = training_images(7)
    images[4].calc.results["stress"] = np.full(6, np.nan)
    calculator = Amp(Gaussian(cutoff=CUTOFF), make_model(), label=str(shared_path / "bad"))
    with pytest.raises(UnusableImagesError, match="image 4 has a stress that is not finite"):
        calculator.train(images, comm=comm)
    comm.barrier()


COMMAND = [
    "train", "images.traj", "--label", "t", "--cutoff", "4.5", "--max-steps", "60",
    "--stress-coefficient", "0.3", "--checkpoint-every", "20", "--hidden", "5",
]  # fmt: skip

# The command with a process that is killed after a step.
KILLED = """
import os, signal
from ampmpi.training.curve import Curve
append = Curve.append
def killed_after(self, step):
    append(self, step)
    if step.step == 33:
        os.kill(os.getpid(), signal.SIGKILL)
Curve.append = killed_after
from ampmpi.cli.main import ampmpi
ampmpi()
"""


def curve(path):
    """The learning curve without its times."""
    table = np.genfromtxt(path, names=True)
    return [table[name].tolist() for name in table.dtype.names if name != "seconds"]


@pytest.mark.starts_jobs
@pytest.mark.parametrize("ranks", [0, 2])
def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path, ranks):
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
        write(folder / "images.traj", training_images())
    assert finish(start(["-c", KILLED, *COMMAND], ranks, folders[1])).code != 0
    for folder in folders:
        result = run(COMMAND, ranks, folder)
        assert result.code == 0, result.err
    assert (folders[1] / "t.amp").read_bytes() == (folders[0] / "t.amp").read_bytes()
    a, b = (curve(folder / "t-curve.txt") for folder in folders)
    np.testing.assert_array_equal(a, b)


@pytest.mark.starts_jobs
def test_ranks_share_an_evaluation_of_stresses(tmp_path):
    write(tmp_path / "images.traj", training_images())
    assert finish(start([*AMPMPI, *COMMAND], 0, tmp_path)).code == 0
    outputs = [run(["evaluate", "t", "images.traj"], ranks, tmp_path) for ranks in (0, 3)]
    assert [one.code for one in outputs] == [0, 0]
    assert outputs[0].out == outputs[1].out
    assert "stress, meV/Å³" in outputs[0].out
