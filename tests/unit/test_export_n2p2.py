"""n2p2's files: the potential in them is ours."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from export_samples import calculator, images_of, rich_functions
from n2p2_evaluator import N2P2

from ampmpi import Amp, Cosine, Custom, Gaussian, NeuralNetwork, Polynomial, Zernike
from ampmpi.errors import FileError, InputError, ModelError
from ampmpi.export import folder, save_to_n2p2
from ampmpi.export.n2p2 import input_data, lammps_lines

MIXED = {"Au": (4, 3, 2), "Pd": (5,)}
WIDTHS = {"Au": (2, 4), "Pd": (5, 3)}


@pytest.mark.parametrize(
    ("cutoff", "hidden", "activation"),
    [
        (Cosine(5.4321), (4, 3), "tanh"),
        (Cosine(4.777), MIXED, "tanh"),
        (Polynomial(5.4321, gamma=2), WIDTHS, "sigmoid"),
        (Cosine(4.0 + 1 / 3), MIXED, "sigmoid"),
        (Polynomial(4.1, gamma=2.0), MIXED, "linear"),
        (Cosine(5.0), WIDTHS, "linear"),
    ],
)
def test_energies_and_forces_are_ours(tmp_path, cutoff, hidden, activation):
    calc = calculator(cutoff, hidden, activation)
    save_to_n2p2(calc, tmp_path / "new" / "folder")
    read = N2P2(tmp_path / "new" / "folder")
    assert read.symbols == ["Pd", "Au"]  # 46, 79
    ranges = calc.model.parameters["fprange"]
    assert all((ranges[e][:, 0] == ranges[e][:, 1]).any() for e in ranges)
    for atoms in images_of(["Au", "Pd"]):
        atoms.calc = calc
        energies = read.energies(atoms)
        np.testing.assert_allclose(energies, atoms.get_potential_energies(), rtol=0, atol=1e-12)
        forces = atoms.get_forces()
        assert np.abs(forces).max() > 0.05
        np.testing.assert_allclose(read.forces(atoms), forces, rtol=0, atol=1e-10)


def test_three_elements_of_three_depths(tmp_path):
    elements = ("Au", "C", "Pd")
    hidden = {"Au": (2,), "C": (3, 2), "Pd": (2, 4, 3)}
    calc = calculator(Cosine(4.321), hidden, elements=elements, seed=4)
    save_to_n2p2(calc, tmp_path)
    read = N2P2(tmp_path)
    assert read.symbols == ["C", "Pd", "Au"]
    for atoms in images_of(list(elements)):
        atoms.calc = calc
        np.testing.assert_allclose(
            read.energies(atoms), atoms.get_potential_energies(), rtol=0, atol=1e-12
        )


def test_energies_and_forces_are_those_of_nnp_predict(tmp_path):
    """n2p2's own program has read files of this potential and predicted these numbers."""
    known = json.loads(Path(__file__).parents[1].joinpath("data/n2p2.json").read_text())
    calc = Amp.load(io.StringIO(known["potential"]))
    save_to_n2p2(calc, tmp_path)
    read = N2P2(tmp_path)
    for image in known["images"]:
        atoms = Atoms(**{name: image[name] for name in ("symbols", "positions", "cell", "pbc")})
        per_atom = 1e-12 * len(atoms)
        atoms.calc = calc
        assert atoms.get_potential_energy() == pytest.approx(image["energy"], abs=per_atom)
        np.testing.assert_allclose(atoms.get_forces(), image["forces"], rtol=0, atol=1e-10)
        assert read.energies(atoms).sum() == pytest.approx(image["energy"], abs=per_atom)
        if len(atoms) < 10:
            np.testing.assert_allclose(read.forces(atoms), image["forces"], rtol=0, atol=1e-10)


def test_an_atom_alone_has_its_energy(tmp_path):
    calc = calculator(Cosine(5.1), (4, 3))
    save_to_n2p2(calc, tmp_path)
    alone = Atoms("Au", calculator=calc)
    assert N2P2(tmp_path).energies(alone)[0] == pytest.approx(alone.get_potential_energy(), 1e-13)


def test_functions_of_elements_that_the_model_does_not_know_are_left_out(tmp_path):
    """A set of one element may be trained with functions of two."""
    both = calculator(Cosine(4.777), (4, 3))
    parameters = both.model.parameters
    ranges = parameters["fprange"]["Au"].copy()
    of_pd = [
        "Pd" in f.get("elements", [f.get("element")])
        for f in both.descriptor.parameters["Gs"]["Au"]
    ]
    ranges[of_pd] = 0.0
    ranges[np.flatnonzero(of_pd)[:2]] = [[0.5, 2.0], [-1.0, 3.0]]
    model = NeuralNetwork(
        (4, 3),
        fprange={"Au": ranges},
        weights={"Au": parameters["weights"]["Au"]},
        scalings={"Au": parameters["scalings"]["Au"]},
    )
    calc = Amp(both.descriptor, model)
    save_to_n2p2(calc, tmp_path)
    read = N2P2(tmp_path)
    assert read.symbols == ["Au"]
    atoms = bulk("Au", cubic=True)
    atoms.rattle(0.1)
    atoms.calc = calc
    np.testing.assert_allclose(
        read.energies(atoms), atoms.get_potential_energies(), rtol=0, atol=1e-12
    )


def test_the_lines_for_lammps_name_the_cutoff_the_folder_and_the_units():
    calc = calculator(Cosine(6.0), (2,))
    units, style, coefficients = lammps_lines(calc, "some where/")
    assert units == "units metal"
    assert style == (
        'pair_style hdnnp 6.006 dir "some where/" showew no showewsum 1000 resetew yes '
        "maxew 1000000 cflength 1.0 cfenergy 1.0"
    )
    assert coefficients == "pair_coeff * * Au Pd"
    units, style, _ = lammps_lines(calc, "f", units="electron")
    words = style.split()
    assert units == "units electron"
    assert float(words[2]) > 6.0 / 0.529177
    assert float(words[words.index("cflength") + 1]) == pytest.approx(0.529177, 1e-5)
    assert float(words[words.index("cfenergy") + 1]) == pytest.approx(27.2114, 1e-5)
    with pytest.raises(InputError, match="units is 'lj'"):
        lammps_lines(calc, "f", units="lj")


def test_images_go_along(tmp_path):
    cluster, slab, _ = images_of(["Au", "Pd"])
    forces = np.arange(21.0).reshape(7, 3) / 3.0
    cluster.calc = SinglePointCalculator(cluster, energy=-1.0 / 3.0, forces=forces)
    names = save_to_n2p2(calculator(Cosine(6.0), (2,)), tmp_path, images=[cluster, slab])
    assert str(tmp_path / "input.data") in names
    first, second = (tmp_path / "input.data").read_text().split("begin\n")[1:]
    rows = [line.split() for line in first.splitlines()]
    assert "lattice" not in first
    assert [row[4] for row in rows if row[0] == "atom"] == list(cluster.symbols)
    numbers = np.array([row[1:4] + row[7:10] for row in rows if row[0] == "atom"], dtype=float)
    np.testing.assert_array_equal(numbers, np.hstack([cluster.positions, forces]))
    assert "energy -0.3333333333333333\n" in first
    cell = np.array([line.split()[1:] for line in second.splitlines()[:3]], dtype=float)
    np.testing.assert_array_equal(cell[:2], slab.cell.array[:2])
    height = np.ptp(slab.positions[:, 2]) + 50.0
    np.testing.assert_allclose(cell[2], [0.0, 0.0, height], atol=1e-12)
    assert "energy 0.0\n" in second
    assert input_data(cluster) == "begin\n" + first
    slab.calc = cluster.calc  # whose results are those of other atoms
    assert "energy 0.0\n" in input_data(slab)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: calculator(Polynomial(5.0, gamma=4.0), (2,)), InputError, "gamma=4.0.*gamma 2"),
        (
            lambda: calculator(Cosine(5.0), (2,), functions=wide_functions),
            InputError,
            r"function 0 of Au \(G4\).*gamma is 1.5",
        ),
        (lambda: other(Zernike(elements=["Cu"])), InputError, "Zernike"),
        (lambda: other(own()), InputError, "counts"),
        (lambda: Amp(Gaussian(), NeuralNetwork()), ModelError, "not trained"),
        (lambda: heavy(), InputError, "element Lr"),
    ],
)
def test_what_n2p2_has_no_word_for_is_refused_by_name(tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        save_to_n2p2(make(), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def wide_functions(elements):
    return [
        {"type": "G4", "elements": ["Au", "Au"], "eta": 0.1, "gamma": 1.5, "zeta": 2.0},
        *rich_functions(elements),
    ]


def own():
    return Custom(
        lambda atoms: np.ones((len(atoms), 2)), name="counts", n_features=2, elements=["Cu"]
    )


def other(descriptor):
    known = NeuralNetwork(
        (1,),
        fprange={"Cu": [[0, 1]] * 2},
        weights={"Cu": {1: np.ones((3, 1)), 2: np.ones((2, 1))}},
        scalings={"Cu": {"intercept": 0.0, "slope": 1.0}},
    )
    return Amp(descriptor, known)


def heavy():
    functions = [{"type": "G2", "element": "Lr", "eta": 1.0, "offset": 0.0}]
    model = NeuralNetwork(
        (1,),
        fprange={"Lr": [[0, 1]]},
        weights={"Lr": {1: np.ones((2, 1)), 2: np.ones((2, 1))}},
        scalings={"Lr": {"intercept": 0.0, "slope": 1.0}},
    )
    return Amp(Gaussian(cutoff=5.0, Gs={"Lr": functions}), model)


def test_a_folder_with_files_is_replaced_only_when_asked(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    calc = calculator(Cosine(5.0), (2,))
    with pytest.raises(InputError, match=re.escape(f"{tmp_path} is there already")):
        save_to_n2p2(calc, tmp_path)
    save_to_n2p2(calc, tmp_path, overwrite=True)
    save_to_n2p2(calculator(Cosine(4.5), (3,)), tmp_path, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        "input.nn", "mine.txt", "scaling.data", "weights.046.data", "weights.079.data"
    }  # fmt: skip
    assert {f.cutoff for f in N2P2(tmp_path).functions[46]} == {4.5}
    with pytest.raises(InputError, match=r"mine.txt is a file"):
        save_to_n2p2(calc, tmp_path / "mine.txt")
    with pytest.raises(InputError, match=r"mine.txt/new cannot be made: Not a directory"):
        save_to_n2p2(calc, tmp_path / "mine.txt" / "new")


def test_a_failing_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    calc = calculator(Cosine(5.0), (2,))
    save_to_n2p2(calc, tmp_path / "a")
    before = {path.name: path.read_text() for path in (tmp_path / "a").iterdir()}
    written = folder.write_whole

    def fail_late(path, data):
        if path.name == "weights.079.data":
            raise OSError(28, "No space left on device")
        written(path, data)

    monkeypatch.setattr(folder, "write_whole", fail_late)
    for name in ("a", "b"):
        with pytest.raises(FileError, match="No space left"):
            save_to_n2p2(calculator(Cosine(4.5), (3,)), tmp_path / name, overwrite=True)
    assert {path.name: path.read_text() for path in (tmp_path / "a").iterdir()} == before
    assert list((tmp_path / "b").iterdir()) == []
