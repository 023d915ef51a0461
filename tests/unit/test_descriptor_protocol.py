"""Descriptors that are none of the package's go everywhere where Gaussian goes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import read, write
from ase.neighborlist import neighbor_list
from click.testing import CliRunner
from training_images import emt_images

import ampmpi
from ampmpi import (
    Amp,
    Committee,
    Custom,
    Descriptor,
    Gaussian,
    LossFunction,
    NeuralNetwork,
    evaluate,
    fingerprint,
    hash_image,
)
from ampmpi.cli.group import group
from ampmpi.database import FingerprintDatabase
from ampmpi.descriptor import from_parameters, registry, require_descriptor
from ampmpi.entries import Fingerprint, FingerprintPrimes
from ampmpi.errors import (
    DescriptorError,
    DescriptorMismatchError,
    ImageError,
    InputError,
    ModelError,
)

CUTOFF = 4.0
WIDTHS = np.array([1.0, 1.5, 2.2])


class Toy(Descriptor):
    """Sums of Gaussians over neighbours, weighted by atomic number: as little as is needed."""

    def __init__(self, power=3, elements=None):
        self.power, self.symbols = power, elements

    @property
    def parameters(self):
        return {
            "importname": "tests.Toy",
            "elements": None if self.symbols is None else list(self.symbols),
            "power": self.power,
        }

    @property
    def elements(self):
        return self.symbols

    @property
    def n_features(self):
        return dict.fromkeys(self.symbols, len(WIDTHS))

    def resolve(self, elements):
        return self if self.symbols is not None else Toy(self.power, tuple(sorted(elements)))

    def fingerprint(self, atoms):
        return self.calculate(atoms)[0]

    def calculate(self, atoms):
        n = len(atoms)
        values, primes = np.zeros((n, len(WIDTHS))), np.zeros((n, n, 3, len(WIDTHS)))
        places, others, distances, vectors = neighbor_list("ijdD", atoms, CUTOFF)
        for i, j, r, vector in zip(places, others, distances, vectors, strict=True):
            gaussian, cut = np.exp(-((r / WIDTHS) ** 2)), (1 - r / CUTOFF) ** self.power
            slope = -2 * r / WIDTHS**2 * cut - self.power / CUTOFF * cut / (1 - r / CUTOFF)
            derivative = atoms.numbers[j] * np.outer(vector / r, gaussian * slope)
            values[i] += atoms.numbers[j] * gaussian * cut
            primes[i, j] += derivative
            primes[i, i] -= derivative
        centres, moved = np.nonzero(primes.any(axis=(2, 3)) | np.eye(n, dtype=bool))
        symbols = tuple(atoms.symbols)
        numbers = dict.fromkeys(sorted(set(symbols)), len(WIDTHS))
        pairs = np.array([moved, centres], np.int32).T
        return (
            Fingerprint(symbols, numbers, values),
            FingerprintPrimes(symbols, numbers, pairs, primes[centres, moved]),
        )


class Apart:
    """A descriptor that does not inherit anything."""

    parameters = {"importname": "tests.Apart", "elements": ["Cu", "Pt"]}  # noqa: RUF012
    digest = "apart"
    elements = ("Cu", "Pt")
    n_features = {"Cu": 1, "Pt": 1}  # noqa: RUF012

    def resolve(self, elements):
        return self

    def predict_cost(self, atoms):
        return 1.0

    def fingerprint(self, atoms):
        symbols = tuple(atoms.symbols)
        values = np.full((len(atoms), 1), atoms.get_volume() if atoms.cell.rank == 3 else 1.0)
        return Fingerprint(symbols, dict.fromkeys(sorted(set(symbols)), 1), values)

    def calculate(self, atoms):
        raise NotImplementedError

    fingerprint_primes = contract = calculate


def gaussian():
    return Gaussian(cutoff=CUTOFF, elements=["Cu", "Pt"])


def as_custom(**options):
    """Return a descriptor of Gaussian's numbers, which are known to be right."""
    inner = gaussian()

    def both(atoms):
        fingerprint, primes = inner.calculate(atoms)
        return fingerprint.values, primes.to_amp()

    given = {
        "name": "Same",
        "parameters": {"cutoff": CUTOFF},
        "elements": ["Cu", "Pt"],
        "derivatives": both,
        **options,
    }
    return Custom(lambda atoms: inner.fingerprint(atoms).values, **given)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_OTHERS", {})
    images = emt_images(12)
    write("set.traj", images)
    return tmp_path


def model(forces=True, steps=30):
    criteria = {"energy_rmse": 1e-6, "force_rmse": 1e-6 if forces else None}
    loss = LossFunction(
        convergence=criteria, force_coefficient=0.1 if forces else None, maxiter=steps
    )
    return NeuralNetwork(hiddenlayers=(4, 4), lossfunction=loss, randomseed=3)


def differences(atoms, energy, step=1e-5):
    """Return the forces by central differences."""
    forces = np.zeros((len(atoms), 3))
    for m in range(len(atoms)):
        for d in range(3):
            ends = []
            for sign in (1, -1):
                moved = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
                moved.positions[m, d] += sign * step
                ends.append(energy(moved))
            forces[m, d] = -(ends[0] - ends[1]) / (2 * step)
    return forces


def test_a_job_keeps_what_the_descriptor_says(folder):
    images = emt_images(5)
    toy = Toy()
    summary = fingerprint(images, toy, label="toy", derivatives=True)
    assert (summary.computed, summary.found) == (5, 0)
    resolved = toy.resolve(["Pt", "Cu"])
    with (
        FingerprintDatabase("toy-fingerprints.ampdb") as values,
        FingerprintDatabase("toy-fingerprint-primes.ampdb") as primes,
    ):
        assert values.manifest().parameters == resolved.parameters
        assert values.manifest().digest == resolved.digest
        for atoms in images:
            key = hash_image(atoms)
            assert (values[key], primes[key]) == resolved.calculate(atoms)
    again = fingerprint(images, Toy(), label="toy", derivatives=True)
    assert (again.computed, again.found) == (0, 5)
    with pytest.raises(DescriptorMismatchError, match="power is 3 in the database, 4 here"):
        fingerprint(images, Toy(4), label="toy")
    with pytest.raises(
        DescriptorMismatchError, match=r"importname is 'tests\.Toy' in the database"
    ):
        fingerprint(images, Gaussian(), label="toy")


def test_a_potential_is_trained_saved_loaded_and_evaluated(folder):
    calculator = Amp(Toy(), model(), label="toy")
    result = calculator.train("set.traj")
    assert result.best.loss < 0.5
    calculator.save("saved.amp")
    with pytest.raises(ModelError, match=r"'tests.Toy' is none of ampmpi's: give it, as Amp.load"):
        Amp.load("saved.amp")
    with pytest.raises(ModelError, match="power is 3 in the file, 4 here"):
        Amp.load("saved.amp", descriptor=Toy(4))
    loaded = Amp.load("saved.amp", descriptor=Toy())
    atoms = read("set.traj@1")
    atoms.calc = loaded
    energy, forces, stress = (
        atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
    )  # fmt: skip
    calculator.calculate(atoms, ["energy"])
    assert calculator.results["energy"] == energy

    def energy_of(image):
        image.calc = loaded
        return image.get_potential_energy()

    np.testing.assert_allclose(forces, differences(atoms, energy_of), atol=2e-8)
    for a, b in ((0, 0), (0, 1), (2, 1)):
        ends = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * 5e-6
            strain[b, a] += sign * 5e-6
            ends.append(
                energy_of(
                    Atoms(atoms.numbers, atoms.positions @ strain, cell=atoms.cell @ strain, pbc=1)
                )
            )
        expected = (ends[0] - ends[1]) / 2e-5 / atoms.get_volume()
        assert stress[a, b] == pytest.approx(expected, abs=1e-8)
    (found,) = evaluate(loaded, atoms)
    assert found.energies == [energy]
    np.testing.assert_array_equal(found.predicted[0], forces)
    far = bulk("Cu", a=2.6, cubic=True)
    (found,) = evaluate(loaded, far)
    assert "Toy): " in found.warnings[0]
    assert "is outside the trained range" in found.warnings[0]


def test_the_same_numbers_give_the_same_potential(folder):
    """The functions are Gaussian's, so that everything has to be what Gaussian gives."""
    for label, descriptor in (("ours", gaussian()), ("own", as_custom())):
        Amp(descriptor, model(steps=12), label=label).train("set.traj")
    ours, own = Amp.load("ours.amp"), Amp.load("own.amp", descriptor=as_custom())
    np.testing.assert_allclose(own.model.vector, ours.model.vector, rtol=1e-9, atol=1e-12)
    for kind in ("fingerprints", "fingerprint-primes"):
        with (
            FingerprintDatabase(f"ours-{kind}.ampdb") as first,
            FingerprintDatabase(f"own-{kind}.ampdb") as second,
        ):
            assert sorted(first) == sorted(second)
            assert all(first[key] == second[key] for key in first)
    for atoms in read("set.traj@:6"):
        properties = ["energy", "forces", *(["stress"] if atoms.cell.rank == 3 else [])]
        for calculator in (ours, own):
            calculator.calculate(atoms, properties)
        assert own.results["energy"] == pytest.approx(ours.results["energy"], rel=1e-11)
        for name in properties[1:]:
            np.testing.assert_allclose(own.results[name], ours.results[name], atol=1e-8)
    committee = Committee.load(["own.amp", "own.amp"], descriptor=as_custom())
    committee.calculate(atoms, ["energy", "forces"])
    np.testing.assert_array_equal(committee.results["forces"], own.results["forces"])


def test_an_own_descriptor_without_derivatives_knows_energies_only(folder):
    descriptor = as_custom(derivatives=None)
    with pytest.raises(InputError, match="Same has no derivatives: leave them out"):
        fingerprint("set.traj", descriptor, label="x", derivatives=True)
    with pytest.raises(InputError, match="Same has no derivatives, and no forces can be trained"):
        Amp(descriptor, model(), label="x").train("set.traj")
    assert not list(folder.glob("x-*"))
    calculator = Amp(descriptor, model(forces=False), label="x")
    calculator.train("set.traj")
    assert not (folder / "x-fingerprint-primes.ampdb").exists()
    expected = Amp(gaussian(), model(forces=False), label="y")
    expected.train("set.traj")
    np.testing.assert_allclose(
        calculator.model.vector, expected.model.vector, rtol=1e-9, atol=1e-12
    )
    atoms = read("set.traj@0")
    atoms.calc = calculator
    assert atoms.get_potential_energy() == calculator.results["energies"].sum()
    with pytest.raises(PropertyNotImplementedError, match="derivatives, which the descriptor Same"):
        atoms.get_forces()
    found = evaluate([calculator, expected], "set.traj")
    assert found[0].predicted.shape == (2, 0, 3)
    lines = ampmpi.evaluation.summary("set.traj", found)
    assert "energy, meV/atom" in lines[1]
    assert lines[-1] == "  disagreement of 2: energies 0 meV/atom on average"
    (first, *_) = ampmpi.evaluation.predictions(found)
    assert "predicted_energy" in first.info
    assert set(first.arrays) == {"numbers", "positions"}
    assert next(ampmpi.evaluation.rows(found))["force_spread"] is None


OWN = """
from ampmpi import Custom, Gaussian

gaussian = Gaussian(cutoff=4.0, elements=["Cu", "Pt"])
same = Custom(
    lambda atoms: gaussian.fingerprint(atoms).values,
    name="Same",
    parameters={"cutoff": 4.0},
    elements=["Cu", "Pt"],
    derivatives=lambda atoms: gaussian.fingerprint_primes(atoms).to_amp(),
)
number = 3
"""


def run(*arguments):
    result = CliRunner().invoke(group, list(arguments), standalone_mode=False)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_line_takes_an_object_and_no_file_decides_what_is_imported(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "own_module_17.py").write_text(OWN)
    given = ("--descriptor", "own_module_17:same")
    run("fingerprint", "set.traj", "--label", "own", "--derivatives", *given)
    with FingerprintDatabase("own-fingerprints.ampdb") as database:
        assert database.manifest().parameters["importname"] == "custom.Same"
        for atoms in read("set.traj@:"):
            assert database[hash_image(atoms)] == gaussian().fingerprint(atoms)
    run("train", "set.traj", "--label", "own", "--max-steps", "12", *given)
    registry._OTHERS.clear()

    sampled = ("check", "own-fingerprint-primes.ampdb", "--images", "set.traj", "--sample", "3")
    refused = run(*sampled, "--seed", "1")
    assert "'custom.Same' is none of ampmpi's: give it" in refused.stderr
    with pytest.raises(ModelError, match=r"own.amp: .*'custom.Same' is none of ampmpi's"):
        run("evaluate", "own.amp", "set.traj")
    assert "custom.Same of Cu, Pt, none of ampmpi's" in run("info", "own.amp").output
    assert "Same of Cu, Pt" in run("info", "own-fingerprints.ampdb").output

    checked = run(*sampled, "--seed", "1", *given)
    assert "value: 3 entries computed again and compared" in checked.output
    assert "clean" in checked.output
    registry._OTHERS.clear()
    evaluated = run("evaluate", "own.amp", "set.traj", *given)
    assert "forces on Cu, meV/Å" in evaluated.output
    registry._OTHERS.clear()
    run("plot", "own", "set.traj", *given)
    assert (
        "<td>Same; features: 20 for Cu, 20 for Pt</td>" in (folder / "own-report.html").read_text()
    )

    (folder / "options.toml").write_text('descriptor = "own_module_17:same"\n')
    with pytest.raises(InputError, match="no file decides what is imported"):
        run("train", "set.traj", "--config", "options.toml", "--label", "z")
    for wrong, reason in (
        ("own_module_17:nothing", "has no attribute 'nothing'"),
        ("own_module_17:number", "the descriptor is 3; give an object"),
        ("no_module_17:same", "cannot import no_module_17: No module named"),
        ("nothing.toml", "cannot be read"),
    ):
        with pytest.raises(InputError, match=reason):
            run("fingerprint", "set.traj", "--label", "z", "--descriptor", wrong)
    (folder / "kind.toml").write_text('descriptor = "own_module_17:same"\ncutoff = 4.0\n')
    with pytest.raises(DescriptorError, match=r"kind.toml: descriptor is .*: a file can name"):
        run("fingerprint", "set.traj", "--label", "z", "--descriptor", "kind.toml")
    (folder / "kind.toml").write_text('descriptor = "Gaussian"\ncutoff = 4.0\n')
    run("fingerprint", "set.traj", "--label", "z", "--descriptor", "kind.toml")
    with FingerprintDatabase("z-fingerprints.ampdb") as database:
        assert database.manifest().digest == gaussian().digest


def test_a_changed_entry_is_found_with_the_own_descriptor(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "own_module_18.py").write_text(OWN)
    images = emt_images(2)
    write("two.traj", images)
    fingerprint(images, as_custom(), label="own", compress=False)
    key, found = hash_image(images[0]), gaussian().fingerprint(images[0])
    with FingerprintDatabase("own-fingerprints.ampdb") as database:
        database[key] = Fingerprint(found.symbols, found.n_features, 1.001 * found.values)
    result = CliRunner().invoke(
        group,
        ["check", "own-fingerprints.ampdb", "--images", "two.traj", "--sample", "2",
         "--descriptor", "own_module_18:same"],
    )  # fmt: skip
    assert result.exit_code == 4
    assert f"problem: value: {key}" in result.output


def test_what_is_no_descriptor_is_refused_by_what_it_lacks():
    assert isinstance(require_descriptor(Apart()), Apart)
    apart = Apart()
    assert fingerprint(emt_images(2), apart, label="apart", dry_run=True).plan
    lacking = type("Lacking", (), {"fingerprint": None, "parameters": {}})()
    with pytest.raises(DescriptorError, match=r"which lacks digest, elements, n_features, resolve"):
        require_descriptor(lacking)
    with pytest.raises(TypeError, match="abstract"):
        type("Unfinished", (Descriptor,), {})()
    for wrong in (Gaussian, 6.5, None):
        with pytest.raises(DescriptorError, match="give an object such as Gaussian"):
            require_descriptor(wrong)


def test_a_registered_descriptor_is_found_by_its_importname_alone(folder):
    registry.register(Toy(4))
    made = from_parameters({"importname": "tests.Toy", "elements": ["Cu"], "power": 4})
    assert isinstance(made, Toy)
    assert made.elements == ("Cu",)
    with pytest.raises(DescriptorError, match="power is 3 in the file, 4 here"):
        from_parameters({"importname": "tests.Toy", "elements": ["Cu"], "power": 3})
    for name in (registry.GAUSSIAN, None, ""):
        wrong = type("Thief", (Toy,), {"parameters": {"importname": name, "elements": None}})()
        with pytest.raises(DescriptorError, match="importname"):
            registry.register(wrong)
    with pytest.raises(DescriptorError, match="another one than the file's"):
        from_parameters(gaussian().parameters, Gaussian(cutoff=5.0, elements=["Cu", "Pt"]))
    for strange in (["x"], 3, "os.system", "a\x1b[31m"):
        with pytest.raises(DescriptorError, match="none of ampmpi's") as caught:
            from_parameters({"importname": strange})
        assert "\x1b" not in str(caught.value)


def test_gaussian_is_still_what_it_was():
    descriptor = gaussian()
    assert isinstance(from_parameters(descriptor.parameters), Gaussian)
    assert pickle.loads(pickle.dumps(descriptor)).digest == descriptor.digest
    assert descriptor.feature_names("Cu")[0].startswith("G2 of Cu, eta 0.05")


def lone(number):
    return lambda atoms: np.ones((len(atoms), number))


def test_features_and_derivatives_of_a_function_are_checked(folder):
    atoms = Atoms("CuPt", positions=[(0, 0, 0), (0, 0, 2.4)])

    def calculated(derivatives):
        return Custom(lone(2), name="F", derivatives=lambda _: derivatives).calculate(atoms)

    dense = np.zeros((2, 2, 3, 2))
    dense[0, 1, 2] = 5.0
    values, primes = calculated(dense)
    assert values.to_amp() == [("Cu", [1.0, 1.0]), ("Pt", [1.0, 1.0])]
    assert primes.pairs.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert primes.to_amp()[1, "Pt", 0, "Cu", 2] == [5.0, 5.0]
    assert calculated(primes.to_amp())[1] == primes
    assert calculated((np.full((2, 2), 7.0), dense))[0].values.tolist() == [[7.0, 7.0]] * 2
    key = (1, "Pt", 0, "Cu", 2)
    for wrong, reason in (
        (np.zeros((2, 2, 3, 3)), r"shape \(2, 2, 3, 3\), where it should be \(2, 2, 3, 2\)"),
        ("dG", "derivatives that are no array"),
        ({(1, "Cu", 0, "Cu", 2): [1, 1]}, "with the key"),
        ({(1, "Pt", 0, "Cu", 3): [1, 1]}, "with the key"),
        ({(2, "Pt", 0, "Cu", 2): [1, 1]}, "with the key"),
        ({key: [1]}, "with the key"),
        ({0: [1, 1]}, "with the key"),
    ):
        with pytest.raises(DescriptorError, match=reason):
            calculated(wrong)
    for bad in (dense + np.nan, {key: [np.inf, 0]}):
        with pytest.raises(ImageError, match="derivatives that are not finite"):
            calculated(bad)
    for features, reason in (
        (np.ones((3, 2)), r"returns 3 rows of the shapes .* for 2 atoms"),
        (np.ones(2), "2 rows of the shapes"),
        (None, "features that are no arrays"),
        ([["a"], ["b"]], "features that are no arrays"),
    ):
        with pytest.raises(DescriptorError, match=reason):
            Custom(lambda _, features=features: features, name="F").fingerprint(atoms)
    with pytest.raises(ImageError, match="features that are not finite"):
        Custom(lambda _: np.full((2, 2), np.nan), name="F").fingerprint(atoms)
    with pytest.raises(DescriptorError, match="returns 1 features of Cu, and 2"):
        Custom(lambda _: [np.ones(1), np.ones(2)], name="F").fingerprint(Atoms("Cu2"))
    with pytest.raises(ImageError, match=r"element of atom 1 .*Pt"):
        Custom(lone(2), name="F", elements=["Cu"]).fingerprint(atoms)
    with pytest.raises(DescriptorError, match="F has no derivatives"):
        Custom(lone(2), name="F").calculate(atoms)


def test_elements_may_have_different_numbers_of_features():
    atoms = Atoms("CuPt", positions=[(0, 0, 0), (0, 0, 2.4)])
    number = {"Cu": 3, "Pt": 1}
    descriptor = Custom(lambda a: [np.ones(number[s]) for s in a.symbols], name="F")
    found = descriptor.fingerprint(atoms)
    assert found.to_amp() == [("Cu", [1.0] * 3), ("Pt", [1.0])]
    with pytest.raises(DescriptorError, match="elements of F are not known yet"):
        descriptor.n_features  # noqa: B018
    resolved = descriptor.resolve(["Pt", "Cu", "Cu"])
    assert (resolved.elements, resolved.n_features) == (("Cu", "Pt"), number)
    assert resolved.resolve(["H"]) is resolved


def test_a_function_that_takes_no_lone_atoms_needs_its_number_of_features():
    def pairs_only(atoms):
        return [1.0 / atoms.get_distance(0, 1)] * np.ones((len(atoms), 2))

    with pytest.raises(DescriptorError, match=r"does not describe a lone atom of Cu .*n_features"):
        Custom(pairs_only, name="F", elements=["Cu"]).n_features  # noqa: B018
    for given, expected in ((2, {"Cu": 2, "Pt": 2}), ({"Cu": 2, "Pt": 3}, {"Cu": 2, "Pt": 3})):
        made = Custom(pairs_only, name="F", elements=["Cu", "Pt"], n_features=given)
        assert made.n_features == expected
    for wrong in (0, {"Cu": 2}, "2"):
        with pytest.raises(DescriptorError, match="n_features of F for"):
            Custom(lone(1), name="F", elements=["Cu", "Pt"], n_features=wrong).n_features  # noqa: B018


def test_name_elements_and_parameters_make_the_digest():
    def digest(**options):
        given = {"name": "F", "parameters": {"width": 1.0}, "elements": ["Pt", "Cu"], **options}
        return Custom(lone(2), **given).digest

    assert digest() == digest(elements=("Cu", "Pt"), derivatives=lone(2), n_features=2)
    others = (
        {"name": "H"},
        {"parameters": {"width": 2.0}},
        {"parameters": None},
        {"elements": ["Cu"]},
    )
    assert len({digest(), *(digest(**other) for other in others)}) == 5
    for wrong, reason in (
        ({"parameters": {"width": np.ones(2)}}, "parameters cannot be kept"),
        ({"parameters": {"width": np.inf}}, "parameters cannot be kept"),
        ({"parameters": [1]}, "parameters of F are"),
        ({"name": "a b"}, "name is 'a b'"),
        ({"elements": "Cu"}, "elements is 'Cu'"),
        ({"elements": ["Cx"]}, "Cx"),
        ({"derivatives": 3}, "derivatives of F is 3"),
    ):
        with pytest.raises(DescriptorError, match=reason):
            digest(**wrong)
    slow = Custom(lone(2), name="F", cost=lambda atoms: 7)
    assert (
        slow.predict_cost(Atoms("H2")),
        Custom(lone(2), name="F").predict_cost(Atoms("H2")),
    ) == (7, 2)


def test_a_function_cannot_change_an_image():
    def careless(atoms):
        atoms.positions += 1.0
        atoms.info["x"] = 1
        return atoms.positions

    atoms = Atoms("Cu2", positions=[(0, 0, 0), (0, 0, 2.4)])
    before = atoms.positions.copy()
    Custom(careless, name="F").fingerprint(atoms)
    assert not atoms.info
    np.testing.assert_array_equal(atoms.positions, before)
