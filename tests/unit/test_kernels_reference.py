"""The kernels against the formulas written out without any of their tricks.

Derivatives of the reference are exact: its formulas are evaluated at a complex
position, whose small imaginary part carries the derivative.
"""

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from ampmpi.descriptor import Cosine, Gaussian, Polynomial, make_symmetry_functions
from ampmpi.descriptor.radial import TOLERANCE, exponential, fit_cosine_gaussian
from ampmpi.errors import ImageError

STEP = 1e-30
SMALL = 1e-3  # below this the rounding of the cutoff function, some 1e-16, shows


def cutoff_values(cutoff, R):
    x = R / cutoff.Rc
    if isinstance(cutoff, Cosine):
        inside = 0.5 * (1.0 + np.cos(np.pi * x))
    else:
        g = cutoff.gamma
        inside = 1.0 + g * x ** (g + 1) - (g + 1) * x**g
    return np.where(x.real < 1.0, inside, 0.0)


def length(vectors):
    return np.sqrt((vectors * vectors).sum(axis=-1))


def reference_neighbors(atoms, positions, i, Rc):
    """Symbol and vector of every neighbour of i, by trying all images that can be one."""
    axes = atoms.cell.array[atoms.pbc]
    to_fractions = np.linalg.pinv(axes) if len(axes) else np.zeros((3, 0))
    reach = Rc * np.linalg.norm(to_fractions, axis=0) + 1.0
    found = []
    for j, symbol in enumerate(atoms.symbols):
        vector = positions[j] - positions[i]
        middle = -vector.real @ to_fractions
        ranges = [
            range(int(np.ceil(m - r)), int(np.floor(m + r)) + 1)
            for m, r in zip(middle, reach, strict=True)
        ]
        for turns in itertools.product(*ranges):
            image = vector + np.array(turns, float) @ axes if turns else vector
            if length(image).real < Rc and not (i == j and not any(turns)):
                found.append((symbol, image))
    return found


def reference_row(gaussian, atoms, positions, i):
    """Features of atom i at these (complex) positions."""
    cutoff = gaussian.settings.cutoff
    near = reference_neighbors(atoms, positions, i, cutoff.Rc)
    symbols = np.array([symbol for symbol, _ in near], dtype=object)
    vectors = np.array([vector for _, vector in near]).reshape(-1, 3)
    R = length(vectors)
    fc = cutoff_values(cutoff, R)
    j, k = np.triu_indices(len(near), 1)
    Rjk = length(vectors[k] - vectors[j])
    cosine = (vectors[j] * vectors[k]).sum(axis=1) / (R[j] * R[k])
    features = []
    for G in gaussian.parameters["Gs"][atoms.symbols[i]]:
        if G["type"] == "G2":
            terms = np.exp(-G["eta"] * (R - G["offset"]) ** 2 / cutoff.Rc**2) * fc
            features.append(terms[symbols == G["element"]].sum())
            continue
        a, b = G["elements"]
        wanted = (symbols[j] == a) & (symbols[k] == b) | (symbols[j] == b) & (symbols[k] == a)
        squares = R[j] ** 2 + R[k] ** 2
        weights = fc[j] * fc[k]
        if G["type"] == "G4":
            squares = squares + Rjk**2
            weights = weights * cutoff_values(cutoff, Rjk)
        terms = (1.0 + G["gamma"] * cosine) ** G["zeta"] * weights
        terms = terms * np.exp(-G["eta"] * squares / cutoff.Rc**2)
        features.append(2.0 ** (1.0 - G["zeta"]) * terms[wanted].sum())
    return np.array(features)


def assert_as_reference(gaussian, atoms, moves):
    """Compare all values, and the derivatives by the (atom, direction) of `moves`."""
    fingerprint, primes = gaussian.calculate(atoms)
    positions = atoms.positions.astype(complex)
    for i in range(len(atoms)):
        expected = reference_row(gaussian, atoms, positions, i).real
        scale = max(np.abs(fingerprint.values).max(), SMALL)
        width = len(expected)
        assert np.abs(fingerprint.values[i, :width] - expected).max() < 1e-12 * scale
        assert not fingerprint.values[i, width:].any()
    np.testing.assert_allclose(
        gaussian.fingerprint(atoms).values, fingerprint.values, rtol=0, atol=1e-13 * scale
    )

    rows = {pair: row for row, pair in enumerate(map(tuple, primes.pairs.tolist()))}
    scale = max(np.abs(primes.values).max(), SMALL)
    for m, d in moves:
        moved = positions.copy()
        moved[m, d] += 1j * STEP
        for n in range(len(atoms)):
            expected = reference_row(gaussian, atoms, moved, n).imag / STEP
            if (m, n) in rows:
                values = primes.values[rows[m, n], d, : len(expected)]
                assert np.abs(values - expected).max() < 1e-11 * scale
            else:
                assert np.abs(expected).max() < 1e-11 * scale


RICH = {
    "etas": [0.0, 0.005, 0.3, 4.0, 90.0],
    "offsets": [0.0, 1.3],
    "zetas": [1.0, 2.0, 3.0, 4.0, 5.0, 16.0, 1.5, 3.7],
    "gammas": [1.0, -1.0, 0.5],
}


def rich_functions(rng, elements, n_functions):
    """A random choice of functions, in random order."""
    functions = make_symmetry_functions(elements, "G2", RICH["etas"], offsets=RICH["offsets"])
    for kind in ("G4", "G5"):
        functions += make_symmetry_functions(
            elements, kind, RICH["etas"], zetas=RICH["zetas"], gammas=RICH["gammas"]
        )
    chosen = rng.choice(len(functions), size=n_functions, replace=False)
    return [functions[number] for number in chosen]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_images_and_functions(seed):
    rng = np.random.default_rng(seed)
    elements = ["H", "O", "Cu"][: rng.integers(1, 4)]
    n_atoms = int(rng.integers(1, 5))
    cell = np.diag(rng.uniform(3.0, 6.0, 3)) + rng.uniform(-1.0, 1.0, (3, 3))
    atoms = Atoms(
        rng.choice(elements, n_atoms),
        positions=rng.uniform(-4.0, 4.0, (n_atoms, 3)),
        cell=cell,
        pbc=rng.random(3) < 0.4,
    )
    Rc = rng.uniform(2.0, 4.0)
    cutoff = [Cosine(Rc), Polynomial(Rc), Polynomial(Rc, rng.uniform(1.0, 7.0))][rng.integers(3)]
    Gs = {element: rich_functions(rng, elements, rng.integers(1, 7)) for element in elements}
    moves = [(rng.integers(n_atoms), rng.integers(3))]
    assert_as_reference(Gaussian(cutoff, Gs), atoms, moves)


@pytest.mark.parametrize(
    "cutoff", [Cosine(6.5), Polynomial(6.5), Polynomial(6.5, 1), Polynomial(6.5, 17)]
)
def test_water(cutoff):
    atoms = molecule("H2O")
    Gs = rich_functions(np.random.default_rng(0), ["H", "O"], 60)
    moves = list(itertools.product(range(3), range(3)))
    assert_as_reference(Gaussian(cutoff, Gs, elements=["H", "O"]), atoms, moves)


def test_elements_with_different_functions():
    atoms = molecule("CH3OH")
    Gs = {
        "H": make_symmetry_functions(["O"], "G2", [0.05]),
        "O": make_symmetry_functions(["H", "C"], "G4", [0.005], zetas=[1.0, 4.0], gammas=[1.0]),
        "C": make_symmetry_functions(["Pt"], "G2", [1.0]),  # an element that is not there
    }
    assert_as_reference(Gaussian(4.0, Gs), atoms, [(0, 0), (3, 2)])


def test_the_same_function_twice():
    functions = 2 * make_symmetry_functions(["Cu"], "G4", [0.005], zetas=[2.0], gammas=[1.0, 1.0])
    gaussian = Gaussian(4.0, {"Cu": functions})
    atoms = bulk("Cu", a=3.6)
    values = gaussian.calculate(atoms)[0].values
    assert (values == values[0, 0]).all()
    assert values[0, 0] > 0.0


def test_more_neighbors_than_one_row_holds():
    atoms = bulk("Cu", a=3.0) * (2, 1, 1)
    atoms.positions[1] += [0.2, -0.1, 0.15]
    Gs = make_symmetry_functions(["Cu"], "G4", [0.01], zetas=[1.0, 4.0], gammas=[1.0, -1.0])
    Gs += make_symmetry_functions(["Cu"], "G2", [0.05])
    assert len(reference_neighbors(atoms, atoms.positions, 0, 10.0)) > 512
    assert_as_reference(Gaussian(10.0, {"Cu": Gs}), atoms, [(1, 0)])


def test_an_isolated_atom():
    fingerprint, primes = Gaussian(elements=["Cu"]).calculate(Atoms("Cu"))
    assert not fingerprint.values.any()
    assert primes.pairs.tolist() == [[0, 0]]
    assert not primes.values.any()


def test_an_atom_at_the_cutoff_counts_for_nothing():
    gaussian = Gaussian(4.0, elements=["Cu"])
    for distance in (4.0, np.nextafter(4.0, 5.0), np.nextafter(4.0, 3.0)):
        atoms = Atoms("Cu3", positions=[[0, 0, 0], [0, 0, distance], [2.0, 0, 0]])
        fingerprint, primes = gaussian.calculate(atoms)
        alone = gaussian.fingerprint(atoms[[0, 2]]).values[0]
        np.testing.assert_allclose(fingerprint.values[0], alone, rtol=0, atol=1e-14)
        assert np.isfinite(primes.values).all()


def test_atoms_in_line():
    gaussian = Gaussian(
        4.0,
        {"Cu": make_symmetry_functions(["Cu"], "G4", [0.005], zetas=[1, 4, 1.5], gammas=[1, -1])},
    )
    atoms = Atoms("Cu3", positions=[[0, 0, 0], [1.1, 1.3, 0.7], [-1.1, -1.3, -0.7]])
    fingerprint, primes = gaussian.calculate(atoms)
    assert np.isfinite(primes.values).all()
    assert fingerprint.values[0, ::2] == pytest.approx(0.0, abs=1e-15)  # γ = 1: 1 + cos 180°
    assert (fingerprint.values[0, 1::2] > 1e-3).all()


def test_pairs_are_canonical():
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    primes = Gaussian(4.5, elements=["Na", "Cl"]).fingerprint_primes(atoms)
    pairs = primes.pairs.tolist()
    assert primes.pairs.dtype == np.int32
    assert pairs == sorted(pairs, key=lambda pair: (pair[1], pair[0]))
    assert len({tuple(pair) for pair in pairs}) == len(pairs)
    assert all([n, n] in pairs for n in range(len(atoms)))


@pytest.mark.parametrize("eta", [0.9, 1.1, 30.0, 1e3, 1e6])
@pytest.mark.parametrize("zeta", [1.0, 64.0, 999.0])
def test_extreme_exponents(eta, zeta):
    gaussian = Gaussian(
        4.0,
        {
            "Cu": [
                *make_symmetry_functions(["Cu"], "G2", [eta], offsets=[0.0, 2.0]),
                *make_symmetry_functions(["Cu"], "G4", [eta], zetas=[zeta], gammas=[1.0, -1.0]),
            ]
        },
    )
    atoms = Atoms("Cu4", positions=[[0, 0, 0], [2.0, 0, 0], [2.1, 1.9, 0], [0.1, 1.0, 1.5]])
    assert_as_reference(gaussian, atoms, [(0, 0), (1, 1)])


def test_the_exponential_is_right_to_rounding():
    x = np.concatenate([np.linspace(-699.0, 0.0, 2001), -np.logspace(-18, 0, 50)])
    values = np.array([exponential(value) for value in x])
    np.testing.assert_allclose(values, np.exp(x), rtol=5e-16)
    assert exponential(-1e9) == 0.0
    assert exponential(0.0) == 1.0


def test_the_polynomial_is_as_exact_as_it_is_said_to_be():
    t = np.linspace(1e-6, 1.0, 5001)
    for eta, good in [(0.0, True), (0.005, True), (0.1, True), (0.5, False), (5.0, False)]:
        coefficients, error = fit_cosine_gaussian(eta)
        x = np.sqrt(1.0 - t)
        expected = 0.5 * (1.0 + np.cos(np.pi * x)) * np.exp(-eta * x**2)
        values = (t * np.polynomial.polynomial.polyval(t, coefficients)) ** 2
        assert (error < TOLERANCE) == good
        assert np.abs(values - expected).max() < max(3 * error, 5e-16)


def test_broken_exponents_below_one_and_gammas_above_it_where_they_have_values():
    """Values and derivatives for 0 < ζ < 1, and for |γ| > 1 while 1 + γ cos θ is above zero."""
    rng = np.random.default_rng(4)
    atoms = Atoms("Cu4Pt2", rng.normal(scale=1.6, size=(6, 3)))
    angles = {"etas": [0.005, 1.0], "zetas": [0.3, 0.5, 0.8], "gammas": [0.6, -1.0, 1.0]}
    functions = make_symmetry_functions(["Cu", "Pt"], "G4", **angles)
    functions += make_symmetry_functions(["Cu", "Pt"], "G5", **angles)
    gaussian = Gaussian(Cosine(5.0), {"Cu": functions, "Pt": functions})
    assert_as_reference(gaussian, atoms, [(0, 0), (2, 1), (5, 2)])
    sharp = Atoms("Cu3", [[0.0, 0, 0], [2.0, 0.0, 0.1], [0.5, 2.2, 0]])  # all below 100°
    wide = make_symmetry_functions(["Cu"], "G5", [0.1], zetas=[0.5, 1.5], gammas=[1.7])
    assert_as_reference(Gaussian(Cosine(5.0), {"Cu": wide}), sharp, [(0, 0), (1, 1)])


@pytest.mark.parametrize("zeta", [0.3, 0.5, 0.9])
def test_opposite_neighbours_give_finite_numbers_below_zeta_one(zeta):
    """At the angle itself the value is 0, and so is the derivative."""
    line = Atoms("Cu3", [[0.0, 0, 0], [2.0, 0, 0], [-2.0, 0, 0]])
    functions = make_symmetry_functions(["Cu"], "G5", [0.1], zetas=[zeta], gammas=[1.0, -1.0])
    fingerprint, primes = Gaussian(Cosine(5.0), {"Cu": functions}).calculate(line)
    assert np.isfinite(fingerprint.values).all()
    assert np.isfinite(primes.values).all()
    assert fingerprint.values[0, 0] == 0.0
    assert fingerprint.values[0, 1] > 0.0
    centre = {tuple(pair): row for pair, row in zip(primes.pairs, primes.values, strict=True)}
    assert not centre[1, 0][1:].any()


def test_an_angle_without_a_value_is_refused():
    functions = make_symmetry_functions(["Cu", "Pt"], "G5", [0.1], zetas=[1.5], gammas=[2.0])
    gaussian = Gaussian(Cosine(5.0), {"Cu": functions, "Pt": functions})
    wide = Atoms("PtCu2", [[0.0, 0, 0], [2.0, 0, 0], [-1.5, 1.0, 0]])
    for call in (gaussian.fingerprint, gaussian.calculate, gaussian.check):
        with pytest.raises(ImageError, match=r"function of Pt.*gamma 2 .*atom 0"):
            call(wide)
    whole = make_symmetry_functions(["Cu", "Pt"], "G5", [0.1], zetas=[2.0], gammas=[2.0])
    assert np.isfinite(
        Gaussian(Cosine(5.0), {"Cu": whole, "Pt": whole}).fingerprint(wide).values
    ).all()
