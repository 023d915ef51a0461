"""Images chosen by several ranks are those that one chooses."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from conftest import AMPMPI, finish, make_images, start

from ampmpi import Amp, Committee, Gaussian, LossFunction, NeuralNetwork, select
from ampmpi.errors import InputError, UnusableImagesError
from ampmpi.parallel.comm import SerialCommunicator
from ampmpi.parallel.failure import is_shared

pytestmark = pytest.mark.mpi


def labelled(images):
    for atoms in images:
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return images


@pytest.fixture
def folder(comm, shared_path, monkeypatch):
    """A folder with a committee of two, what it was trained on, and more."""
    monkeypatch.chdir(shared_path)
    if comm.rank == 0:
        known = labelled(make_images(8, 3))
        write("known.traj", known, parallel=False)
        write("more.traj", make_images(23, 4), parallel=False)
        write("more.xyz", make_images(11, 5), format="extxyz", parallel=False)
        for seed in range(2):
            model = NeuralNetwork(
                hiddenlayers=(3,), lossfunction=LossFunction(maxiter=5), randomseed=seed
            )
            one = Amp(Gaussian(cutoff=4.5), model, label=f"c{seed}", logging=False)
            one.train(known, comm=SerialCommunicator())
    comm.barrier()
    return shared_path


def test_ranks_choose_the_same_images_as_one(comm, folder):
    committee = Committee.load(["c0.amp", "c1.amp"])
    names = ["more.traj", "more.xyz"]
    found = select(committee, names, 9, known="known.traj", tolerance=1e-4, comm=comm)
    assert len(set(comm.allgather(tuple(found.lines())))) == 1
    alone = select(
        committee, names, 9, known="known.traj", tolerance=1e-4, comm=SerialCommunicator()
    )
    assert found.picks == alone.picks  # bit for bit
    assert len(found.picks) == 9
    assert {pick.ref.file for pick in found.picks} == set(names)
    np.testing.assert_array_equal(found.spreads, alone.spreads)
    for ours, theirs in zip(found.images, alone.images, strict=True):
        np.testing.assert_array_equal(ours.arrays["forces_spread"], theirs.arrays["forces_spread"])


def test_more_ranks_than_images_and_images_in_memory(comm, folder):
    images = make_images(2, 6)
    found = select(["c0.amp", "c1.amp"], iter(images), 5, limit=0.0, comm=comm)
    assert sorted(pick.ref.index for pick in found.picks) == [0, 1]


def test_what_cannot_be_used_is_said_once_and_errors_are_those_of_all_ranks(comm, folder):
    images = make_images(9, 7)
    for number in (0, 8):
        images[number].positions[1] = images[number].positions[0]
    found = select(["c0.amp", "c1.amp"], images, 3, comm=comm)
    assert found.remarks == (
        "2 of 9 images left out: 2 cannot be described (atoms … and … overlap): images 0 and 8",
    )
    for committee, some, error in [
        (["c0.amp", "c1.amp"], [images[0]], UnusableImagesError),
        (["c0.amp", "c1.amp"], "no.traj", InputError),
        ("c0.amp", "more.traj", InputError),
    ]:
        with pytest.raises(error) as caught:
            select(committee, some, 3, comm=comm)
        assert is_shared(caught.value)


@pytest.mark.starts_jobs
def test_the_command_writes_the_same_on_any_number_of_ranks(folder):
    written = []
    for ranks in (0, 2, 3):
        arguments = ["select", "c0.amp", "c1.amp", "more.traj", "-n", "6", "--known", "known.traj"]
        arguments += ["--tolerance", "1e-4"]
        done = finish(start([*AMPMPI, *arguments, "-o", "n.extxyz", "--overwrite"], ranks, folder))
        assert done.code == 0, done.err
        assert done.out.count("images looked at") == 1
        written.append((done.out, (folder / "n.extxyz").read_text()))
        assert len(read(folder / "n.extxyz", ":")) == 6
    assert written[0] == written[1] == written[2]
    failed = finish(start([*AMPMPI, *arguments, "-o", "no/n.traj"], 2, folder))
    assert failed.code == 2
    assert failed.err.count("ampmpi: error: ") == 1
