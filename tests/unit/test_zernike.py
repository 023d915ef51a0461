"""Zernike: Amp's values, an independent reference, and what must hold for any image."""

import json
from fractions import Fraction
from math import comb, pi
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from click.testing import CliRunner
from scipy.special import eval_legendre
from test_kernels_derivatives import dense, images
from test_kernels_reference import cutoff_values, length, reference_neighbors
from training_images import emt_images

from ampmpi import (
    Amp,
    FingerprintDatabase,
    Gaussian,
    NeuralNetwork,
    Zernike,
    fingerprint,
    hash_images,
)
from ampmpi.cli.group import group
from ampmpi.descriptor import Polynomial, from_parameters, from_toml
from ampmpi.errors import DescriptorError, DescriptorMismatchError, ImageError

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "amp-zernike.json").read_text())
ELEMENTS = ["Cu", "Pt"]
WEIGHTS = {"Cu": {"Cu": 3.0, "Pt": -2.0}, "Pt": {"Cu": 5.5, "Pt": 0.7}}
DESCRIPTORS = {
    "default": Zernike(4.5, elements=ELEMENTS),
    "weights": Zernike(4.0, WEIGHTS, nmax=4),
    "polynomial": Zernike(Polynomial(4.0, 3), WEIGHTS, nmax=7),
    "polynomial, any gamma": Zernike(Polynomial(4.0, 2.5), elements=ELEMENTS, nmax=3),
    "unequal": Zernike(4.0, nmax={"Cu": 2, "Pt": 6}, elements=ELEMENTS),
}


@pytest.fixture(params=DESCRIPTORS)
def zernike(request):
    return DESCRIPTORS[request.param]


@pytest.fixture(params=images())
def atoms(request):
    return images()[request.param]


@pytest.mark.parametrize(
    "case", GOLDEN["cases"], ids=lambda case: f"{case['case']}-{case['image']}"
)
def test_values_and_primes_are_amps(case):
    zernike = Zernike(**GOLDEN["descriptors"][case["case"]])
    values, primes = zernike.calculate(Atoms(**GOLDEN["images"][case["image"]]))
    expected = np.array([row for _, row in case["fingerprint"]])
    assert values.symbols == tuple(symbol for symbol, _ in case["fingerprint"])
    assert np.abs(values.values - expected).max() <= 1e-12 * np.abs(expected).max()
    mine = {(m, n, d): row for (m, _, n, _, d), row in primes.to_amp().items()}
    keys = [tuple(key) for key, _ in case["primes"]]
    assert set(mine) == set(keys)
    expected = np.array([row for _, row in case["primes"]])
    difference = np.array([mine[key] for key in keys]) - expected
    assert np.abs(difference).max() <= 1e-11 * np.abs(expected).max()


def radial(n, l, rho):  # noqa: E741
    """R_nl by the sum of its definition, in fractions until the end."""
    k = (n - l) // 2
    total = 0.0
    for s in range(k + 1):
        binomial = Fraction(1)
        for i in range(k):  # of a half-integer over k
            binomial *= (Fraction(2 * (n - s) + 1, 2) - i) / (i + 1)
        total = total + float((-1) ** s * comb(k, s) * binomial) * rho ** (n - 2 * s)
    return np.sqrt(2 * n + 3) * total


def reference_row(zernike, atoms, positions, i):
    """Features of atom i at these (complex) positions, without harmonics.

    By the addition theorem, Σ_m Y_lm(r)* Y_lm(r') is (2l + 1)/4π P_l(cos θ).
    """
    cutoff = zernike.settings.cutoff
    centre = atoms.symbols[i]
    near = reference_neighbors(atoms, positions, i, cutoff.Rc)
    nmax = zernike.settings.degrees()[centre]
    if not near:
        return np.zeros(zernike.n_features[centre])
    vectors = np.array([vector for _, vector in near])
    R = length(vectors)
    weights = np.array([zernike.parameters["Gs"][centre][symbol] for symbol, _ in near])
    weights = weights * cutoff_values(cutoff, R)
    cosines = (vectors @ vectors.T) / np.outer(R, R)
    row = []
    for n in range(nmax + 1):
        for l in range(n % 2, n + 1, 2):  # noqa: E741
            c = weights * radial(n, l, R / cutoff.Rc)
            legendre = np.polynomial.legendre.Legendre.basis(l)(cosines)
            row.append((2 * l + 1) / (4 * pi) * (c @ legendre @ c))
    return np.array(row)


def test_the_reference_itself():
    assert radial(4, 2, 0.3) == pytest.approx(np.sqrt(11) * (4.5 * 0.3**4 - 3.5 * 0.3**2))
    x = np.linspace(-1, 1, 5)
    np.testing.assert_allclose(
        np.polynomial.legendre.Legendre.basis(5)(x), eval_legendre(5, x), atol=1e-14
    )


def test_values_and_derivatives_are_the_references(zernike, atoms):
    values, primes = zernike.calculate(atoms)
    alone = zernike.fingerprint(atoms)
    assert np.abs(alone.values - values.values).max() <= 1e-14 * np.abs(values.values).max()
    found = dense(primes, len(atoms))
    scale = np.abs(found).max()
    positions = atoms.positions.astype(complex)
    for i in range(0, len(atoms), 2):
        expected = reference_row(zernike, atoms, positions, i).real
        row = values.values[i]
        assert np.abs(row[: len(expected)] - expected).max() <= 1e-12 * np.abs(values.values).max()
        assert not row[len(expected) :].any()
        for m, d in [(0, 0), (1, 2), (len(atoms) - 1, 1)]:
            moved = positions.copy()
            moved[m, d] += 1e-30j
            slope = reference_row(zernike, atoms, moved, i).imag / 1e-30
            assert np.abs(found[m, d, i, : len(slope)] - slope).max() <= 1e-11 * scale
            assert not found[m, d, i, len(slope) :].any()


def test_high_degrees_lose_no_digits():
    zernike = Zernike(4.0, elements=["Cu"], nmax=20)
    atoms = bulk("Cu", cubic=True, a=3.7)
    atoms.positions += np.random.default_rng(3).normal(scale=0.1, size=(4, 3))
    values, _ = zernike.calculate(atoms)
    expected = reference_row(zernike, atoms, atoms.positions.astype(complex), 1).real
    # The reference's sum is the one that loses them.
    assert np.abs(values.values[1] - expected).max() <= 1e-8 * np.abs(expected).max()
    turned = atoms.copy()
    turned.rotate(47.0, (1.0, 2.0, -0.5), rotate_cell=True)
    difference = zernike.fingerprint(turned).values - values.values
    assert np.abs(difference).max() <= 1e-12 * np.abs(values.values).max()


def test_derivatives_are_finite_differences(zernike, atoms):
    primes = dense(zernike.fingerprint_primes(atoms), len(atoms))
    h = 1e-5
    for m, d in [(0, 0), (1, 2), (len(atoms) - 1, 1)]:
        values = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[m, d] += sign * h
            values.append(zernike.fingerprint(moved).values)
        numerical = (values[0] - values[1]) / (2 * h)
        np.testing.assert_allclose(
            primes[m, d], numerical, rtol=0, atol=1e-8 * np.abs(primes).max()
        )


@pytest.mark.parametrize("axis", range(3))
def test_neighbours_along_an_axis_have_derivatives(zernike, axis):
    direction = np.eye(3)[axis]
    atoms = Atoms("Cu2Pt", positions=[0 * direction, 2.4 * direction, -2.6 * direction])
    primes = dense(zernike.fingerprint_primes(atoms), 3)
    assert np.isfinite(primes).all()
    turned = Atoms("Cu2Pt", positions=np.roll(atoms.positions, 1, axis=1))
    np.testing.assert_allclose(
        dense(zernike.fingerprint_primes(turned), 3),
        np.roll(primes, 1, axis=1),
        rtol=0,
        atol=1e-12 * np.abs(primes).max(),
    )


def test_a_lone_atom_has_zeros(zernike):
    for atoms in (Atoms("Cu"), Atoms("CuPt", positions=[[0, 0, 0], [0, 0, 9.5]])):
        values, primes = zernike.calculate(atoms)
        assert not values.values.any() and not primes.values.any()
        assert primes.pairs.tolist() == [[i, i] for i in range(len(atoms))]
        forces, virial = zernike.contract(atoms, np.ones_like(values.values))
        assert not forces.any() and not virial.any()


def test_forces_are_the_contracted_primes(zernike, atoms):
    values, primes = zernike.calculate(atoms)
    dE_dG = np.random.default_rng(3).normal(size=values.values.shape)
    expected = -np.einsum("mdnf,nf->md", dense(primes, len(atoms)), dE_dG)
    for row, symbol in zip(dE_dG, atoms.symbols, strict=True):
        row[zernike.n_features[symbol] :] = np.nan  # beyond what the element has
    forces, _ = zernike.contract(atoms, dE_dG)
    np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["bulk", "thin", "slab"])
def test_virial_is_the_derivative_by_strain(name, zernike):
    atoms = images()[name]
    dE_dG = np.random.default_rng(4).normal(size=zernike.fingerprint(atoms).values.shape)
    _, virial = zernike.contract(atoms, dE_dG)
    h = 1e-5
    for a, b in [(0, 0), (1, 2), (0, 2)]:
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * h
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain.T, scale_atoms=False)
            strained.positions = atoms.positions @ strain.T
            energies.append((zernike.fingerprint(strained).values * dE_dG).sum())
        numerical = (energies[0] - energies[1]) / (2 * h)
        assert virial[a, b] == pytest.approx(numerical, abs=1e-6 * np.abs(virial).max())
    np.testing.assert_allclose(virial, virial.T, rtol=0, atol=1e-11 * np.abs(virial).max())


def test_moves_turns_and_numbers_change_nothing(zernike, atoms):
    values = zernike.fingerprint(atoms).values
    turned = atoms.copy()
    turned.rotate(47.0, (1.0, 2.0, -0.5), rotate_cell=True)
    turned.positions += [17.3, -4.1, 8.8]
    order = np.random.default_rng(2).permutation(len(atoms))
    np.testing.assert_allclose(
        zernike.fingerprint(turned[order]).values,
        values[order],
        rtol=0,
        atol=1e-12 * np.abs(values).max(),
    )
    assert zernike.calculate(atoms) == zernike.calculate(atoms.copy())


def test_an_element_without_weights_is_refused_in_an_image():
    with pytest.raises(ImageError, match="no functions for the element of atom 0"):
        DESCRIPTORS["default"].fingerprint(Atoms("H"))


def test_features_and_their_names():
    zernike = Zernike(nmax={"Cu": 2, "Pt": 5}).resolve(["Pt", "Cu"])
    assert zernike.elements == ("Cu", "Pt")
    assert zernike.n_features == {"Cu": 4, "Pt": 12}
    assert zernike.feature_names("Cu") == [
        f"Zernike n {n}, l {degree}" for n, degree in [(0, 0), (1, 1), (2, 0), (2, 2)]
    ]
    assert zernike.parameters["Gs"]["Cu"] == {"Cu": 29.0, "Pt": 78.0}


def test_parameters_and_toml_come_back(zernike, tmp_path):
    parameters = json.loads(json.dumps(zernike.parameters))
    assert parameters["importname"] == ".descriptor.zernike.Zernike"
    path = tmp_path / "zernike.toml"
    path.write_text(zernike.to_toml(["a remark"]))
    for again in (
        Zernike.from_parameters(parameters),
        from_parameters(parameters),
        from_toml(path),
    ):
        assert isinstance(again, Zernike)
        assert again.parameters == zernike.parameters and again.digest == zernike.digest


def test_a_short_file_has_the_defaults(tmp_path):
    path = tmp_path / "zernike.toml"
    path.write_text('descriptor = "Zernike"\ncutoff = 5.0\n')
    assert Zernike.from_toml(path).resolve(["Cu"]).digest == Zernike(5.0, elements=["Cu"]).digest
    path.write_text("cutoff = 5.0\n")
    with pytest.raises(DescriptorError, match=r'zernike.toml: .* add descriptor = "Zernike"'):
        Zernike.from_toml(path)
    path.write_text('descriptor = "Zernike"\ncutoff = 5.0\neta = 1\n')
    with pytest.raises(DescriptorError, match=r"zernike.toml: Zernike has no key 'eta'"):
        from_toml(path)


def test_the_digest_is_of_what_determines_the_numbers():
    digests = {
        descriptor.digest
        for descriptor in (
            *DESCRIPTORS.values(),
            Zernike(4.5, elements=ELEMENTS, nmax=4),
            Zernike(4.4, elements=ELEMENTS),
            Zernike(4.5, WEIGHTS),
            Gaussian(4.5, elements=ELEMENTS),
        )
    }
    assert len(digests) == len(DESCRIPTORS) + 4
    same = Zernike(4.5, {a: {"Cu": 29, "Pt": 78} for a in ELEMENTS}, {"Cu": 5, "Pt": 5})
    assert same.digest == DESCRIPTORS["default"].digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nmax": -1}, "nmax is -1: give a whole number from 0 to 40"),
        ({"nmax": 2.5}, "nmax is 2.5"),
        ({"nmax": True}, "nmax is True"),
        ({"nmax": 41}, "nmax is 41"),
        ({"nmax": {"Cu": 3}, "elements": ELEMENTS}, "nmax has no number for Pt"),
        ({"Gs": {}}, "Gs is {}"),
        ({"Gs": [1.0]}, "Gs is .1.0."),
        ({"Gs": {"Cu": 29.0}}, "Gs of Cu is 29.0"),
        ({"Gs": {"Cu": {"Cu": "many"}}}, "the weight of Cu next to Cu is 'many'"),
        ({"Gs": {"Cu": {"Xx": 1.0}}}, "Gs of Cu: 'Xx' is not a chemical element"),
        ({"Gs": {"Cu": {"Cu": 1.0}}, "elements": ELEMENTS}, "Gs has no weight for Pt next to Cu"),
        ({"Gs": {"Cu": {"Cu": 1.0, "Pt": 1.0}}, "elements": ELEMENTS}, "Gs has nothing for Pt"),
        ({"version": "2015.12"}, "version is '2015.12'"),
        ({"mode": "image-centered"}, "mode is 'image-centered'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(DescriptorError, match=message):
        Zernike(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"importname": ".descriptor.gaussian.Gaussian"}, "importname is"),
        ({"version": "2015.12"}, "version is"),
        ({"eta": 1}, "a Zernike descriptor has no parameter 'eta'"),
    ],
)
def test_parameters_of_others_are_refused(change, message):
    with pytest.raises(DescriptorError, match=message):
        Zernike.from_parameters({**DESCRIPTORS["default"].parameters, **change})


def test_settings_are_needed_in_parameters():
    parameters = dict(DESCRIPTORS["default"].parameters)
    del parameters["nmax"]
    with pytest.raises(DescriptorError, match="lack nmax"):
        Zernike.from_parameters(parameters)


@pytest.mark.parametrize("dblabel", [None, "shared"])
def test_fingerprints_by_key_as_amps_scripts_ask_for_them(folder, dblabel):
    images = hash_images(emt_images(3))
    zernike = Zernike(4.0, nmax=3, dblabel=dblabel)
    zernike.calculate_fingerprints(images, calculate_derivatives=True)
    assert zernike.n_features["Cu"] == 6
    for key, atoms in images.items():
        values, primes = Zernike(4.0, nmax=3, elements=zernike.elements).calculate(atoms)
        assert zernike.fingerprints[key] == values.to_amp()
        assert zernike.fingerprintprimes[key] == primes.to_amp()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_file_of_settings_to_forces(folder):
    """Job, check, training, potential and report, as for any other descriptor."""
    from ase.io import write

    images = emt_images(4)
    write("images.traj", images)
    elements = sorted({str(symbol) for atoms in images for symbol in atoms.symbols})
    zernike = Zernike(4.0, nmax=3, elements=elements)
    Path("zernike.toml").write_text(zernike.to_toml())

    def run(*arguments, code=0):
        result = CliRunner().invoke(group, [*arguments])
        assert result.exit_code == code, result.output
        return result.output

    job = ["fingerprint", "images.traj", "--label", "a", "--derivatives", "--descriptor"]
    run(*job, "zernike.toml")
    with FingerprintDatabase("a-fingerprint-primes.ampdb") as database:
        assert len(database) == len(images)
    assert "Zernike of" in run("info", "a-fingerprints.ampdb")
    for kind in ("fingerprints", "fingerprint-primes"):
        run("check", f"a-{kind}.ampdb", "--sample", "2", "--images", "images.traj")
    with pytest.raises(DescriptorMismatchError, match=r"nmax is 3 in the database, 2 here"):
        fingerprint(images, Zernike(4.0, nmax=2, elements=elements), label="a")
    with pytest.raises(DescriptorMismatchError, match="importname"):
        fingerprint(images, Gaussian(4.0, elements=elements), label="a")
    heavier = {a: dict.fromkeys(elements, 1.0) for a in elements}
    with pytest.raises(DescriptorMismatchError, match=r"Gs\.Cu\.Cu is 29.0 in the database, 1.0"):
        fingerprint(images, Zernike(4.0, heavier, nmax=3), label="a")

    run("train", "images.traj", "--label", "a", "--descriptor", "zernike.toml", "--seed", "1",
        "--hidden", "4", "--max-steps", "5", code=0)  # fmt: skip
    loaded = Amp.load("a.amp")
    assert loaded.descriptor.digest == zernike.digest
    assert isinstance(loaded.model, NeuralNetwork)
    atoms = images[0].copy()
    atoms.calc = loaded
    forces, stress = atoms.get_forces(), atoms.get_stress()
    h = 1e-4
    for m, d in [(0, 0), (2, 1)]:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[m, d] += sign * h
            moved.calc = loaded
            energies.append(moved.get_potential_energy())
        numerical = -(energies[0] - energies[1]) / (2 * h)
        assert forces[m, d] == pytest.approx(numerical, abs=1e-6 * np.abs(forces).max() + 1e-8)
    energies = []
    for sign in (1, -1):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array * [1 + sign * h, 1, 1], scale_atoms=True)
        strained.calc = loaded
        energies.append(strained.get_potential_energy())
    numerical = (energies[0] - energies[1]) / (2 * h) / atoms.get_volume()
    assert stress[0] == pytest.approx(numerical, abs=1e-6 * np.abs(stress).max() + 1e-9)
