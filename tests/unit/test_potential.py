"""A potential on lists of neighbours agrees with calculators, its derivatives and other lists."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list as ase_neighbor_list

from ampmpi import Amp, Custom, Gaussian, NeuralNetwork, Zernike
from ampmpi.errors import InputError, ModelError
from ampmpi.potential import Potential

CUTOFF = 4.5


def alloy(seed=0):
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True) * (2, 1, 1)
    atoms.numbers[::3] = 78
    atoms.rattle(0.1, seed=seed)
    return atoms


def calculator(atoms, seed=1, descriptor=None):
    """Return a random network whose ranges are those of the atoms."""
    descriptor = (descriptor or Gaussian(CUTOFF)).resolve(["Cu", "Pt"])
    fingerprint = descriptor.fingerprint(atoms)
    ranges = {}
    for element in ("Cu", "Pt"):
        rows = np.array(fingerprint.symbols) == element
        values = fingerprint.values[rows, : descriptor.n_features[element]]
        ranges[element] = np.stack([values.min(axis=0) - 0.1, values.max(axis=0) + 0.1], axis=1)
    model = NeuralNetwork({"Cu": (6, 5), "Pt": (4,)}, randomseed=seed)
    model.initialise(ranges, np.array([0.0, 2.0 * len(atoms)]), np.array([[5.0, 3.0]] * 2))
    return Amp(descriptor, model)


def with_images(atoms, cutoff, skin=0.7):
    """Return positions and numbers of atoms and of their images, owners, and candidates.

    The atoms come first, and an image of an atom for each of ASE's shifts.
    """
    i, j, shifts = ase_neighbor_list("ijS", atoms, cutoff + skin)
    owners, moves, place = list(range(len(atoms))), [np.zeros(3)] * len(atoms), {}
    candidate = np.empty(len(i), np.int32)
    for q, (one, shift) in enumerate(zip(j.tolist(), map(tuple, shifts.tolist()), strict=True)):
        if shift == (0, 0, 0):
            candidate[q] = one
            continue
        if (one, shift) not in place:
            place[one, shift] = len(owners)
            owners.append(one)
            moves.append(np.array(shift) @ atoms.cell.array)
        candidate[q] = place[one, shift]
    start = np.concatenate([[0], np.cumsum(np.bincount(i, minlength=len(atoms)))])
    positions = atoms.positions[owners] + np.array(moves)
    return positions, np.array(owners), start.astype(np.int64), candidate


def folded(forces, owners, n_atoms):
    total = np.zeros((n_atoms, 3))
    np.add.at(total, owners, forces)
    return total


def evaluated(potential, atoms):
    positions, owners, start, candidate = with_images(atoms, potential.cutoff_radius)
    species = potential.species_of(atoms.numbers[owners])
    near = potential.neighbors_among(positions, start, candidate, species)
    found = potential.evaluate(species, near)
    same = potential.evaluate_among(positions, start, candidate, species)
    np.testing.assert_allclose(same.energies, found.energies, atol=1e-13)
    np.testing.assert_allclose(same.forces, found.forces, atol=1e-12)
    assert same.closest == found.closest
    return found, folded(found.forces, owners, len(atoms)), (species, near, owners)


@pytest.mark.parametrize("kind", [Gaussian, Zernike])
def test_one_member_is_the_calculator(kind):
    atoms = alloy()
    atoms.calc = calculator(atoms, descriptor=kind(CUTOFF))
    found, forces, _ = evaluated(Potential.of([atoms.calc]), atoms)
    np.testing.assert_allclose(found.energies[0], atoms.get_potential_energies(), atol=1e-12)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-11)
    stress = found.virial / atoms.get_volume()
    np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=1e-12)


def test_members_share_features_and_their_forces_have_the_mean():
    atoms = alloy()
    members = [calculator(atoms, seed) for seed in (1, 2)]
    members.insert(1, calculator(atoms, 3, Gaussian(4.0)))
    potential = Potential.of(members)
    assert [one.cutoff_radius for one in potential.descriptors] == [CUTOFF, 4.0]
    assert potential.cutoff_radius == CUTOFF
    found, forces, (species, near, owners) = evaluated(potential, atoms)
    assert len(found.features) == 2
    each = potential.member_forces(species, near, found)
    for number, member in enumerate(members):
        atoms.calc = member
        np.testing.assert_allclose(found.energies[number], atoms.get_potential_energies())
        alone = folded(each[number], owners, len(atoms))
        np.testing.assert_allclose(alone, atoms.get_forces(), atol=1e-11)
    np.testing.assert_allclose(each.mean(axis=0), found.forces, atol=1e-11)
    assert np.abs(forces).max() > 0.01


def test_forces_are_the_derivative_of_the_energy_of_the_first_atoms():
    """Also those on atoms that are only neighbours, which are not images here."""
    atoms = Atoms("CuPtCuPt", positions=np.random.default_rng(3).normal(size=(4, 3)) * 1.5)
    potential = Potential.of([calculator(alloy())])
    species = potential.species_of(atoms.numbers)
    start = np.array([0, 3, 6])
    candidate = np.array([1, 2, 3, 0, 2, 3], np.int32)

    def at(positions, forces):
        near = potential.neighbors_among(positions, start, candidate, species)
        return potential.evaluate(species, near, forces)

    found = at(atoms.positions, True)
    assert found.energies.shape == (1, 2)
    h = 1e-5
    for m, d in np.ndindex(4, 3):
        ends = []
        for sign in (1, -1):
            moved = atoms.positions.copy()
            moved[m, d] += sign * h
            end = at(moved, False)
            assert end.forces.shape == (0, 3)
            ends.append(end.energies.sum())
        slope = (ends[0] - ends[1]) / (2 * h)
        assert found.forces[m, d] == pytest.approx(-slope, abs=1e-7)
    assert np.abs(found.forces[2:]).max() > 1e-3


def test_neighbors_are_chosen_and_grouped():
    atoms = alloy()
    descriptor = Gaussian(CUTOFF, elements=["Cu", "Pt"])
    positions, owners, start, candidate = with_images(atoms, CUTOFF)
    species = descriptor.species_of(atoms.numbers[owners])
    near = descriptor.neighbors_among(positions, start, candidate, species)
    expected = descriptor.surroundings(atoms).neighbors
    np.testing.assert_array_equal(near.start, expected.start)
    assert len(candidate) > len(near.neighbor)
    for i in range(len(atoms)):
        some = slice(near.start[i], near.start[i + 1])
        assert (np.diff(species[near.neighbor[some]]) >= 0).all()
        ours, theirs = (
            one[np.lexsort(np.round(one, 6).T)]
            for one in (near.vectors[some], expected.vectors[some])
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_allclose(near.squares, (near.vectors**2).sum(axis=1), rtol=1e-14)
    assert near.closest[2] == near.squares.min() == pytest.approx(expected.closest[2], abs=1e-12)


def test_wrong_members_are_named():
    atoms = alloy()
    good = calculator(atoms)
    custom = Custom(lambda atoms: np.zeros((len(atoms), 1)), name="mine", elements=["Cu", "Pt"])
    with pytest.raises(InputError, match="at least one member"):
        Potential([])
    with pytest.raises(InputError, match=r"member 1 .*from lists of neighbours"):
        Potential([(good.descriptor, good.model), (custom, good.model)])
    other = Gaussian(elements=["Au", "Cu", "Pt"])
    with pytest.raises(InputError, match=r"member 1 has a descriptor of Au, Cu, Pt"):
        Potential([(good.descriptor, good.model), (other, good.model)])
    with pytest.raises(ModelError, match="do not belong together"):
        evaluated(Potential([(Zernike(elements=["Cu", "Pt"]), good.model)]), atoms)
    with pytest.raises(ModelError, match="not trained"):
        Potential([(good.descriptor, NeuralNetwork())])
