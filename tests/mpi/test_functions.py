"""Functions made by several ranks are those made by one."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from conftest import make_images

from ampmpi import Gaussian
from ampmpi.cli.functions import made_or_kept
from ampmpi.errors import ImageError, InputError
from ampmpi.functions import make_functions
from ampmpi.parallel.comm import SerialCommunicator
from ampmpi.parallel.failure import is_shared

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


def test_another_cutoff_than_that_of_the_kept_functions_is_an_error_on_every_rank(
    comm, shared_path
):
    path = shared_path / "amp-functions.toml"
    if comm.rank == 0:
        path.write_text(Gaussian(cutoff=4.5, elements=["Cu", "Pt"]).to_toml())
    comm.barrier()

    def take(cutoff):
        return made_or_kept(comm, str(path), (), cutoff, skip_unusable=False, overwrite=False)

    with pytest.raises(InputError, match="--cutoff is 5, but the functions in ") as caught:
        take(5.0)
    assert is_shared(caught.value)
    assert comm.allgather(take(4.5).cutoff_radius) == [4.5] * comm.size


def test_images_left_out_are_the_same_on_any_number_of_ranks(comm):
    images = make_images(12, 2)
    for number, atoms in enumerate(images):
        forces = np.random.default_rng(number).normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=float(number), forces=forces)
    alone = make_functions(images[1:4] + images[6:], 6, 4.5, SerialCommunicator())
    images[0].calc = None
    images[4].positions[1] = images[4].positions[0]
    images[5].numbers[0] = 0
    forces = np.zeros((len(images[4]), 3))
    for atoms in images[4:6]:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces[: len(atoms)])
    found = make_functions(images, 6, 4.5, comm, skip_unusable=True)
    assert found.descriptor.digest == alone.descriptor.digest
    assert found.n_images == 9
    assert found.remarks == (
        "1 of 12 images left out: 1 has atoms of no element: image 5",
        "1 image without energy and forces that can be used, not looked at: image 0",
        "1 image left out, which cannot be described: image 4",
    )
