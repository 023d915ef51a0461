"""What must hold for fingerprints, derivatives and forces of any image."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from ampmpi.descriptor import Gaussian, Polynomial, make_symmetry_functions

ELEMENTS = ["Cu", "Pt"]


def rattled(atoms, seed=0):
    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
    atoms.numbers[::3] = 78
    return atoms


def images():
    return {
        "bulk": rattled(bulk("Cu", cubic=True, a=3.7) * (2, 1, 1)),
        "thin": rattled(bulk("Cu", a=3.6) * (2, 1, 1)),  # a cell smaller than the cutoff
        "slab": rattled(fcc111("Cu", (2, 2, 2), vacuum=4.0)),
        "cluster": rattled(Atoms("Cu5", positions=np.random.default_rng(1).random((5, 3)) * 4)),
    }


def descriptors():
    rich = make_symmetry_functions(ELEMENTS, "G2", [0.05, 4.0], offsets=[0.0, 1.5])
    rich += make_symmetry_functions(ELEMENTS, "G4", [0.005, 2.0], zetas=[1, 2.5], gammas=[1, -1])
    rich += make_symmetry_functions(ELEMENTS, "G5", [0.1], zetas=[3], gammas=[0.5])
    return {
        "default": Gaussian(4.5, elements=ELEMENTS),
        "rich": Gaussian(4.0, rich, elements=ELEMENTS),
        "polynomial": Gaussian(Polynomial(4.0, 3), rich, elements=ELEMENTS),
    }


@pytest.fixture(params=images())
def atoms(request):
    return images()[request.param]


@pytest.fixture(params=descriptors())
def gaussian(request):
    return descriptors()[request.param]


def dense(primes, n_atoms):
    """The primes as one array, indexed by moved atom, direction, centre, feature."""
    result = np.zeros((n_atoms, 3, n_atoms, primes.values.shape[2]))
    moved, centre = primes.pairs.T
    result[moved, :, centre] = primes.values
    return result


def test_derivatives_are_finite_differences(gaussian, atoms):
    primes = dense(gaussian.fingerprint_primes(atoms), len(atoms))
    h = 1e-5
    for m, d in [(0, 0), (1, 2), (len(atoms) - 1, 1)]:
        values = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[m, d] += sign * h
            values.append(gaussian.fingerprint(moved).values)
        numerical = (values[0] - values[1]) / (2 * h)
        np.testing.assert_allclose(
            primes[m, d], numerical, rtol=0, atol=1e-8 * max(1, np.abs(primes).max())
        )


def test_moving_everything_changes_nothing(gaussian, atoms):
    primes = dense(gaussian.fingerprint_primes(atoms), len(atoms))
    assert np.abs(primes.sum(axis=0)).max() < 1e-12 * np.abs(primes).max()
    values = gaussian.fingerprint(atoms).values
    moved = atoms.copy()
    moved.positions += [17.3, -4.1, 8.8]
    np.testing.assert_allclose(gaussian.fingerprint(moved).values, values, rtol=0, atol=1e-11)


def test_rotation(gaussian, atoms):
    fingerprint, primes = gaussian.calculate(atoms)
    turned = atoms.copy()
    turned.rotate(47.0, (1.0, 2.0, -0.5), rotate_cell=True)
    frame = Atoms("H3", positions=np.eye(3))
    frame.rotate(47.0, (1.0, 2.0, -0.5))
    rotation = frame.positions
    values, turned_primes = gaussian.calculate(turned)
    np.testing.assert_allclose(values.values, fingerprint.values, rtol=0, atol=1e-12)
    expected = np.einsum("pdf,de->pef", primes.values, rotation)
    np.testing.assert_allclose(turned_primes.values, expected, rtol=0, atol=1e-11)


def test_permutation(gaussian, atoms):
    order = np.random.default_rng(2).permutation(len(atoms))
    fingerprint, primes = gaussian.calculate(atoms)
    permuted, permuted_primes = gaussian.calculate(atoms[order])
    np.testing.assert_allclose(permuted.values, fingerprint.values[order], rtol=0, atol=1e-12)
    assert permuted.symbols == tuple(fingerprint.symbols[i] for i in order)
    np.testing.assert_allclose(
        dense(permuted_primes, len(atoms)),
        dense(primes, len(atoms))[np.ix_(order, range(3), order)],
        rtol=0,
        atol=1e-12,
    )


def test_which_image_of_an_atom_is_given_does_not_matter():
    gaussian = descriptors()["default"]
    atoms = images()["thin"]
    values, primes = gaussian.calculate(atoms)
    moved = atoms.copy()
    moved.positions[0] += 3 * moved.cell[0] - 2 * moved.cell[2]
    moved_values, moved_primes = gaussian.calculate(moved)
    np.testing.assert_allclose(moved_values.values, values.values, rtol=0, atol=1e-12)
    np.testing.assert_allclose(moved_primes.values, primes.values, rtol=0, atol=1e-12)


def test_a_supercell_repeats_the_cell():
    gaussian = descriptors()["rich"]
    atoms = images()["thin"]
    values = gaussian.fingerprint(atoms).values
    repeated = gaussian.fingerprint(atoms * (2, 3, 1)).values
    np.testing.assert_allclose(repeated, np.tile(values, (6, 1)), rtol=0, atol=1e-11)


def test_forces_are_the_contracted_primes(gaussian, atoms):
    fingerprint, primes = gaussian.calculate(atoms)
    dE_dG = np.random.default_rng(3).normal(size=fingerprint.values.shape)
    forces, _ = gaussian.contract(atoms, dE_dG)
    expected = -np.einsum("mdnf,nf->md", dense(primes, len(atoms)), dE_dG)
    np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["bulk", "thin", "slab"])
def test_virial_is_the_derivative_by_strain(name, gaussian):
    atoms = images()[name]
    dE_dG = np.random.default_rng(4).normal(size=gaussian.fingerprint(atoms).values.shape)
    _, virial = gaussian.contract(atoms, dE_dG)
    h = 1e-5
    for a, b in [(0, 0), (1, 2), (2, 1), (0, 2)]:
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * h
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain.T, scale_atoms=False)
            strained.positions = atoms.positions @ strain.T
            energies.append((gaussian.fingerprint(strained).values * dE_dG).sum())
        numerical = (energies[0] - energies[1]) / (2 * h)
        assert virial[a, b] == pytest.approx(numerical, abs=1e-6 * np.abs(virial).max() + 1e-7)
    np.testing.assert_allclose(virial, virial.T, rtol=0, atol=1e-11 * np.abs(virial).max())


def test_padding_of_elements_with_fewer_functions_is_ignored():
    Gs = {
        "H": make_symmetry_functions(["O"], "G2", [0.05]),
        "O": make_symmetry_functions(["H"], "G4", [0.005], zetas=[1, 4], gammas=[1, -1]),
    }
    gaussian = Gaussian(4.0, Gs)
    water = molecule("H2O")
    fingerprint = gaussian.fingerprint(water)
    assert dict(fingerprint.n_features) == {"H": 1, "O": 4}
    assert [len(row) for _, row in fingerprint.to_amp()] == [4, 1, 1]
    assert not fingerprint.values[1:, 1:].any()
    dE_dG = np.ones((3, 4))
    forces, _ = gaussian.contract(water, dE_dG)
    dE_dG[1:, 1:] = np.nan  # beyond what hydrogen has
    assert np.array_equal(gaussian.contract(water, dE_dG)[0], forces)


def test_the_same_image_gives_the_same_bits(gaussian, atoms):
    first, second = gaussian.calculate(atoms), gaussian.calculate(atoms.copy())
    assert first == second
    assert gaussian.fingerprint_primes(atoms) == first[1]
    assert gaussian.fingerprint(atoms) == gaussian.fingerprint(atoms.copy())


def test_whole_numbers_for_positions_and_cell_will_do():
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [2, 0, 0]], cell=[5, 5, 5], pbc=True)
    as_float32 = atoms.copy()
    as_float32.arrays["positions"] = atoms.positions.astype(np.float32)
    gaussian = Gaussian(4.0, elements=["Cu"])
    assert gaussian.fingerprint(as_float32) == gaussian.fingerprint(atoms)
