import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list as ase_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from ampmpi.descriptor import neighbors
from ampmpi.descriptor.neighbors import neighbor_list


def neighbors_of(atoms, cutoff, species=None):
    species = np.zeros(len(atoms), np.int64) if species is None else species
    return neighbor_list(
        np.array(atoms.positions),
        np.array(atoms.cell.array),
        np.array(atoms.pbc),
        cutoff,
        species,
        int(species.max()) + 1,
    )


def assert_as_ase(atoms, cutoff, species=None):
    found = neighbors_of(atoms, cutoff, species)
    i, j, vectors = ase_neighbor_list("ijD", atoms, cutoff)
    centres = np.repeat(np.arange(len(atoms)), np.diff(found.start))
    ours = np.column_stack([centres, found.neighbor, found.vectors])
    theirs = np.column_stack([i, j, vectors])
    assert ours.shape == theirs.shape
    # Sorted by atoms, then by the vector, coarsely enough for rounding not to matter.
    ours = ours[np.lexsort(np.round(ours, 6).T[::-1])]
    theirs = theirs[np.lexsort(np.round(theirs, 6).T[::-1])]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    np.testing.assert_allclose(found.squares, (found.vectors**2).sum(axis=1), atol=1e-12)
    return found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_cells_agree_with_ase(seed):
    rng = np.random.default_rng(seed)
    n_atoms = rng.integers(1, 10)
    cell = rng.normal(size=(3, 3)) * rng.uniform(1.0, 6.0)
    cell[0] += rng.integers(-3, 4) * cell[1]  # skewed
    if abs(np.linalg.det(cell)) < 3.0:
        cell += 5.0 * np.eye(3)
    atoms = Atoms(
        f"H{n_atoms}",
        positions=rng.normal(size=(n_atoms, 3)) * rng.uniform(1.0, 8.0),  # outside the cell too
        cell=cell,
        pbc=rng.random(3) < 0.5,
    )
    assert_as_ase(atoms, rng.uniform(1.5, 5.0), rng.integers(0, 3, n_atoms))


def test_neighbors_are_grouped_by_species():
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    species = (atoms.numbers == 11).astype(np.int64)
    found = assert_as_ase(atoms, 6.0, species)
    for i in range(len(atoms)):
        row = species[found.neighbor[found.start[i] : found.start[i + 1]]]
        assert (np.diff(row) >= 0).all()
        assert set(row) == {0, 1}


@pytest.mark.parametrize("cutoff", [1.0, 3.0, 10.0])
def test_a_cell_thinner_than_the_cutoff(cutoff):
    atoms = Atoms("Cu", cell=[[2.0, 0, 0], [0.4, 2.5, 0], [0.3, 0.2, 30.0]], pbc=True)
    assert_as_ase(atoms, cutoff)


def test_a_lattice_described_by_long_vectors_is_found_fast():
    cell = np.array([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]])
    skewed = cell.copy()
    skewed[1] += 4000.0 * cell[0]
    skewed[2] += 3000.0 * cell[1] - 5000.0 * cell[0]
    plain = neighbors_of(Atoms("Cu", cell=cell, pbc=True), 6.0)
    same = neighbors_of(Atoms("Cu", cell=skewed, pbc=True), 6.0)
    np.testing.assert_allclose(np.sort(same.squares), np.sort(plain.squares), atol=1e-9)


def test_a_large_cell_with_many_bins():
    rng = np.random.default_rng(5)
    atoms = Atoms("H400", positions=rng.random((400, 3)) * 30.0, cell=[30.0, 28.0, 32.0], pbc=True)
    assert_as_ase(atoms, 4.0)


@pytest.mark.parametrize("periodic", [True, False])
def test_the_search_of_an_atom_does_not_grow_with_the_cell(periodic):
    looked_at = []
    for repeats in (12, 16, 24):
        atoms = bulk("Cu", a=3.6, cubic=True) * (repeats, repeats, repeats)
        pbc = np.full(3, periodic)
        axes = neighbors.search_axes(atoms.cell.array, pbc)
        _, fractions, heights = neighbors.wrap(atoms.positions, axes, pbc)
        grid = neighbors.make_grid(fractions, heights, pbc, 6.0)
        per_bin = len(atoms) / grid.n_bins.prod()
        looked_at.append(per_bin * (2 * grid.reach + 1).prod())
    near = 4 / 3.6**3 * 4 / 3 * np.pi * 6.0**3
    assert max(looked_at) < 6 * near  # a cube of 2.5 cutoffs has 3.7 times the sphere's volume


def test_atoms_that_are_far_apart_without_periodicity():
    atoms = Atoms("H3", positions=[[0, 0, 0], [1e7, 0, 0], [1e7, 1.0, 0]])
    assert neighbors_of(atoms, 3.0).neighbor.tolist() == [2, 1]


def test_periodic_axes_without_the_other_vectors():
    atoms = Atoms("H2", positions=[[0, 0, 0], [0.5, 4.0, 0]], pbc=[True, False, False])
    atoms.cell[0] = [1.0, 1.0, 0.0]
    full = atoms.copy()
    full.cell[1], full.cell[2] = [-50.0, 50.0, 0.0], [0.0, 0.0, 50.0]
    np.testing.assert_allclose(
        np.sort(neighbors_of(atoms, 5.0).squares), np.sort(neighbors_of(full, 5.0).squares)
    )


def test_a_single_atom_has_no_neighbors():
    found = neighbors_of(Atoms("H"), 6.0)
    assert found.start.tolist() == [0, 0]
    assert len(found.neighbor) == 0
    assert found.closest[2] == np.inf


def test_an_atom_at_the_cutoff_is_no_neighbor():
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 3.0]])
    assert len(neighbors_of(atoms, 3.0).neighbor) == 0
    assert len(neighbors_of(atoms, 3.0 + 1e-9).neighbor) == 2


def test_the_closest_pair_is_named():
    atoms = Atoms("H3", positions=[[0, 0, 0], [0, 0, 2.0], [0, 0.3, 2.0]])
    first, second, square = neighbors_of(atoms, 5.0).closest
    assert {first, second} == {1, 2}
    assert square == pytest.approx(0.09)


def test_atoms_on_top_of_each_other_are_neighbors():
    atoms = Atoms("H2", positions=[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    found = neighbors_of(atoms, 2.0)
    assert found.neighbor.tolist() == [1, 0]
    assert found.closest[2] == 0.0
