"""Functions made by several ranks are those made by one."""

from __future__ import annotations

import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from conftest import make_images

from ampmpi import Gaussian
from ampmpi.errors import ImageError
from ampmpi.functions import make_functions
from ampmpi.parallel.comm import SerialCommunicator

pytestmark = pytest.mark.mpi


@pytest.fixture
def trajectory(comm, shared_path):
    path = shared_path / "known.traj"
    if comm.rank == 0:
        images = make_images(11, 3)
        for atoms in images:
            atoms.calc = EMT()
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        write(path, images, parallel=False)
    comm.barrier()
    return str(path)


def test_ranks_make_the_same_functions_as_one(comm, trajectory):
    found = make_functions(trajectory, 10, 4.5, comm)
    assert len(set(comm.allgather(found.descriptor.digest))) == 1
    alone = make_functions(trajectory, 10, 4.5, SerialCommunicator())
    assert found.descriptor.digest == alone.descriptor.digest
    assert found.n_images == 11
    assert len(found.curve) == len(alone.curve) > 0
    for ours, theirs in zip(found.curve, alone.curve, strict=True):
        assert ours.error.force == pytest.approx(theirs.error.force, rel=1e-3)


def test_more_ranks_than_images(comm, trajectory):
    descriptor = Gaussian.from_images(f"{trajectory}@:2", 5, 4.5, comm)
    assert set(descriptor.n_features.values()) == {5}


def test_an_image_that_cannot_be_used_is_an_error_on_every_rank(comm):
    images = make_images(7, 1)
    images[5].positions[1] = images[5].positions[0]
    with pytest.raises(ImageError, match="image 5: "):
        make_functions(images, 5, 4.5, comm)
