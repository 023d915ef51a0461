"""`ampmpi export`, Amp's `amp.convert`, and what OpenKIM and PROPhet get."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from click.testing import CliRunner
from export_samples import calculator, images_of
from n2p2_evaluator import N2P2

from ampmpi import Cosine, Polynomial, make_symmetry_functions
from ampmpi.amp import convert
from ampmpi.cli.export import command
from ampmpi.descriptor import make_default_symmetry_functions
from ampmpi.errors import InputError
from ampmpi.export import save_to_openkim, save_to_prophet

PAIR = ("Au", "Pd")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def export(*options):
    result = CliRunner().invoke(command, [*map(str, options)], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def defaults(elements):
    return make_default_symmetry_functions(elements)[elements[0]]


def plain(**keywords):
    keywords = {"cutoff": Cosine(5.1), "hidden": (3, 2), "functions": defaults, **keywords}
    return calculator(**keywords)


def test_a_training_and_a_file_are_exported(tmp_path):
    calc = plain()
    calc.save("t.amp")
    said = export("n2p2", "t", "-o", "out/n").splitlines()
    assert said[:4] == [
        "out/n/weights.046.data", "out/n/weights.079.data", "out/n/scaling.data", "out/n/input.nn"
    ]  # fmt: skip
    assert said[4:8] == ["", "In LAMMPS:", "", "    units metal"]
    assert said[8].startswith('    pair_style hdnnp 5.105 dir "out/n/" showew no ')
    assert said[9] == "    pair_coeff * * Au Pd"
    read = N2P2("out/n")
    for atoms in images_of(PAIR):
        atoms.calc = calc
        np.testing.assert_allclose(
            read.energies(atoms), atoms.get_potential_energies(), rtol=0, atol=1e-12
        )
    with pytest.raises(InputError, match="out/n is there already"):
        export("n2p2", "t.amp", "-o", "out/n")
    export("n2p2", "t.amp", "-o", "out/n", "--overwrite")
    with pytest.raises(InputError, match="nobody: there is no such"):
        export("n2p2", "nobody", "-o", "other")


def test_members_of_a_committee_get_folders_of_their_own():
    for seat in (0, 1):
        plain(seed=seat).save(f"c-committee-{seat}.amp")
    Path("c-members.txt").write_text("a 0 c-committee-0.amp\nb 1 c-committee-1.amp\n")
    said = export("n2p2", "c", "-o", "out")
    assert {path.name for path in Path("out").iterdir()} == {"c-committee-0", "c-committee-1"}
    assert said.count("pair_style hdnnp") == 2
    atoms = images_of(PAIR)[0]
    for seat in (0, 1):
        atoms.calc = plain(seed=seat)
        found = N2P2(f"out/c-committee-{seat}").energies(atoms).sum()
        assert found == pytest.approx(atoms.get_potential_energy(), abs=1e-11)
    with pytest.raises(InputError, match="c-committee-0 is there already"):
        export("n2p2", "c", "-o", "out")


def test_files_for_openkim_and_prophet():
    plain().save("t.amp")
    said = export("openkim", "t", "-o", "kim")
    assert "    pair_style kim amp_parameterized_model\n    pair_coeff * * Au Pd\n" in said
    assert Path("kim/amp.params").read_text().startswith("2  # number of chemical species\nAu Pd")
    said = export("prophet", "t", "-o", "pro")
    assert '    pair_style nn 5.1\n    pair_coeff 1 "pro/potential_Au"\n' in said
    assert {path.name for path in Path("pro").iterdir()} == {"potential_Au", "potential_Pd"}


def test_energies_are_converted_to_the_units_of_the_caller():
    """The KIM driver takes all numbers as they stand, in the units that the caller asks for."""
    calc = plain()
    metal, real = (Path(save_to_openkim(calc, u, units=u)).read_text() for u in ("metal", "real"))
    assert metal.splitlines()[:-1] == real.splitlines()[:-1]  # both in Å
    last = [np.array(text.splitlines()[-1].split("#")[0].split(), dtype=float)
            for text in (metal, real)]  # fmt: skip
    assert last[0].tolist() == calc.model.vector.tolist()
    np.testing.assert_array_equal(last[0][:-4], last[1][:-4])
    np.testing.assert_allclose(last[1][-4:], 23.0605 * last[0][-4:], rtol=1e-5)
    texts = [save_to_prophet(calc, f"{u}-", units=u) for u in ("metal", "electron")]
    metal, electron = (Path(names[0]).read_text().splitlines() for names in texts)
    assert float(electron[4].split()[1]) == pytest.approx(5.1 / 0.529177, 1e-5)
    eta = [float(lines[4].split()[3]) for lines in (metal, electron)]
    assert eta[0] == pytest.approx(eta[1] / 0.529177**2, 1e-5)
    np.testing.assert_allclose(
        [float(line) for line in electron[-2:]],
        [float(line) / 27.2114 for line in metal[-2:]],
        rtol=1e-5,
    )
    with pytest.raises(InputError, match="units is 'lj'"):
        save_to_openkim(calc, "new", units="lj")


def prophet_energy(text, features):
    """Energy of an atom from its features in PROPhet's order, after its file."""
    lines = text.splitlines()
    count = int(lines[3])
    middle, half = (np.array(line.split(), dtype=float) for line in lines[4 + count : 6 + count])
    sizes = [int(size) for size in lines[9 + count].split()]
    nodes, rest = (features - middle) / half, lines[10 + count :]
    for number, size in enumerate(sizes):
        assert rest.pop(0) == f"[[ layer {number} ]]"
        net = []
        for _ in range(size):
            assert rest.pop(0).split()[-1] == "tanh"
            weights = np.array(rest.pop(0).split(), dtype=float)
            net.append(weights @ nodes + float(rest.pop(0)))
        nodes = np.tanh(net)
    slope, intercept = (float(line) for line in rest[2:])
    return slope * nodes[0] + intercept


def prophet_features(text, functions, values):
    """Return an atom's features in PROPhet's order: each function for each neighbour or pair."""
    known = {}
    for function, value in zip(functions, values, strict=False):
        numbers = (function["eta"] / 5.1**2, *(function.get(name) for name in ("zeta", "gamma")))
        neighbors = tuple(function.get("elements", [function.get("element")]))
        known[numbers, neighbors] = value
    lines = text.splitlines()
    around = lines[2].split()[1:]
    families = [line.split() for line in lines[4 : 4 + int(lines[3])]]
    wanted = []
    for kind, groups in (
        ("G2", [(symbol,) for symbol in around]),
        ("G3", [(a, b) for i, a in enumerate(around) for b in around[i:]]),
    ):
        for neighbors in groups:
            for name, radius, _, eta, *others in families:
                assert float(radius) == 5.1
                if name == kind:
                    angular = tuple(map(float, others)) if kind == "G3" else (None, None)
                    wanted.append(((float(eta), *angular), tuple(sorted(neighbors))))
    return np.array([known[key] for key in wanted])


def shuffled(elements):
    """Return a complete set of functions in another order than that of blocks, with a zero one."""
    functions = make_symmetry_functions(elements, "G2", [0.05, 4.0, 9000.0])
    functions += make_symmetry_functions(
        elements, "G4", [0.05], zetas=[1.0, 4.0], gammas=[1.0, -1.0]
    )
    return [functions[i] for i in np.random.default_rng(2).permutation(len(functions))]


def test_prophet_gets_functions_in_its_own_order_and_none_with_a_range_of_zero():
    calc = plain(functions=shuffled)
    names = dict(zip(PAIR, save_to_prophet(calc), strict=True))
    assert names == {"Au": "potential_Au", "Pd": "potential_Pd"}
    with pytest.raises(InputError, match="potential_Au is there already"):
        save_to_prophet(calc)
    save_to_prophet(calc, overwrite=True)
    atoms = images_of(PAIR)[2]
    atoms.calc = calc
    fingerprint = calc.descriptor.fingerprint(atoms)
    for symbol, values, energy in zip(
        fingerprint.symbols, fingerprint.values, atoms.get_potential_energies(), strict=True
    ):
        text = Path(names[symbol]).read_text()
        features = prophet_features(text, calc.descriptor.parameters["Gs"][symbol], values)
        assert prophet_energy(text, features) == pytest.approx(energy, abs=1e-12)


def with_offsets(elements):
    return [*defaults(elements), {"type": "G2", "element": "Au", "eta": 4.0, "offset": 1.5}]


def with_g5(elements):
    wide = make_symmetry_functions(elements, "G5", [0.1], zetas=[1.0], gammas=[1.0])
    return defaults(elements) + wide


def unequal(elements):
    return [*defaults(elements), {"type": "G2", "element": "Au", "eta": 7.0, "offset": 0.0}]


@pytest.mark.parametrize("save", [save_to_openkim, save_to_prophet])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutoff": Polynomial(5.1, gamma=2.0)}, "knows Cosine only"),
        ({"functions": with_offsets}, r"\(G2\): its G2 have no offset"),
        ({"functions": with_g5}, r"\(G5\): it knows G2 and G4 only"),
    ],
)
def test_what_they_have_no_word_for_is_refused_by_name(save, changes, message):
    with pytest.raises(InputError, match=message):
        save(plain(**changes))
    assert list(Path().iterdir()) == []


def test_what_one_of_them_has_no_word_for_is_refused_by_name():
    with pytest.raises(InputError, match="sigmoid: it knows tanh only"):
        save_to_prophet(plain(activation="sigmoid"))
    with pytest.raises(InputError, match="Au for all neighbours, and G2 with eta 7 lacks Pd"):
        save_to_prophet(plain(functions=unequal))
    calc = plain()
    Gs = calc.descriptor.parameters["Gs"]
    twice = {"Au": [*Gs["Au"], Gs["Au"][0]], "Pd": Gs["Pd"]}
    fewer = plain(by_element=twice)
    with pytest.raises(InputError, match="there twice"):
        save_to_prophet(fewer)
    with pytest.raises(InputError, match="21 of Au, 20 of Pd"):
        save_to_openkim(fewer)
    save_to_openkim(plain(activation="sigmoid"))
    with pytest.raises(InputError, match=r"amp.params is there already"):
        save_to_openkim(calc)


# Amp's names


def test_amps_save_to_n2p2_writes_here_and_keeps_what_was_there(capsys):
    calc = plain()
    images = images_of(PAIR)
    for atoms in images:
        atoms.calc = SinglePointCalculator(atoms, energy=1.5)
    Path("scaling.data").write_text("mine")
    convert.save_to_n2p2(
        calc.descriptor.parameters, calc.model.parameters, images, reference_method="rpbe"
    )
    said = capsys.readouterr().out
    kept = re.search(r'Overwriting file: "scaling.data". Moving original to "(.*)"', said)[1]
    assert Path(kept).read_text() == "mine"
    Path(kept).unlink()
    assert Path("input.nn").read_text().startswith("# Reference method: RPBE\n")
    assert Path("input.data").read_text().count("energy 1.5\n") == 3
    read = N2P2(".")
    for atoms in images:
        atoms.calc = calc
        assert read.energies(atoms).sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-11)
    convert.save_to_n2p2_images_only(images[0], log="log.txt")
    assert Path("input.data").read_text().count("begin") == 1
    kept = re.search(r'"input.data". Moving original to "(.*)"', Path("log.txt").read_text())[1]
    Path(kept).unlink()


def test_amps_other_functions_write_elsewhere_where_a_file_is_there():
    calc = plain()
    calc.label = "t"
    convert.save_to_openkim(calc)
    convert.save_to_prophet(calc)
    first = {path: path.read_text() for path in Path().iterdir()}
    assert {str(path) for path in first} == {"amp.params", "potential_Au", "potential_Pd"}
    other = plain(seed=8)
    other.label = "t"
    convert.save_to_openkim(other)
    convert.save_to_prophet(other)
    assert {path: path.read_text() for path in first} == first
    elsewhere = re.findall(r'Instead saving to "(.*)"', Path("t-log.txt").read_text())
    assert Path(elsewhere[0]).read_text() != first[Path("amp.params")]
    assert Path(f"{elsewhere[1]}Pd").read_text() != first[Path("potential_Pd")]
    convert.save_to_openkim(other, overwrite=True)
    assert Path("amp.params").read_text() == Path(elsewhere[0]).read_text()
    kept = re.findall(r'Moving original to "(.*)"', Path("t-log.txt").read_text())
    assert Path(kept[0]).read_text() == first[Path("amp.params")]
    for name in (*elsewhere, *kept, f"{elsewhere[1]}Au", f"{elsewhere[1]}Pd"):
        Path(name).unlink()


def test_the_order_of_functions_is_n2p2s():
    functions = make_symmetry_functions(PAIR, "G4", [0.1], zetas=[4.0, 1.0], gammas=[1.0, -1.0])
    functions += make_symmetry_functions(PAIR, "G2", [4.0, 0.1], offsets=[1.0, 0.0])
    indices, found = convert.get_Gs_indices(functions)
    assert found == [functions[i] for i in indices]
    assert [(f["eta"], f["offset"], f["element"]) for f in found[:8]] == [
        (eta, offset, element)
        for eta in (0.1, 4.0)
        for offset in (0.0, 1.0)
        for element in ("Pd", "Au")
    ]
    assert [(f["zeta"], f["gamma"]) for f in found[8::3]] == [(1, -1), (1, 1), (4, -1), (4, 1)]
    assert [f["elements"] for f in found[8:11]] == [["Pd", "Pd"], ["Au", "Pd"], ["Au", "Au"]]
