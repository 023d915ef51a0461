"""The calculator: its derivatives, its files, and what it refuses."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from ampmpi import (
    Amp,
    Committee,
    Cosine,
    Gaussian,
    LossFunction,
    NeuralNetwork,
    Regressor,
    fingerprint,
)
from ampmpi.errors import ImageError, InputError, ModelError
from ampmpi.parallel import wishes


def alloy(repeat=1, seed=0, width=0.1):
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True) * repeat
    atoms.numbers[::3] = 78
    atoms.positions += np.random.default_rng(seed).normal(scale=width, size=atoms.positions.shape)
    return atoms


def random_calculator(atoms, cutoff=4.5, seed=2, **kwargs):
    """A model with random weights, scaled to the atoms' own features."""
    descriptor = Gaussian(cutoff=cutoff).resolve(sorted(set(atoms.symbols)))
    fingerprint = descriptor.fingerprint(atoms)
    ranges = {}
    for element in sorted(set(atoms.symbols)):
        rows = np.array(fingerprint.symbols) == element
        values = fingerprint.values[rows, : descriptor.n_features[element]]
        ranges[element] = np.stack([values.min(axis=0) - 0.1, values.max(axis=0) + 0.1], axis=1)
    model = NeuralNetwork((6, 5), randomseed=seed)
    counts = np.array([[list(atoms.symbols).count(e) for e in sorted(ranges)]] * 2, dtype=float)
    model.initialise(ranges, np.array([0.0, 2.0 * len(atoms)]), counts)
    return Amp(descriptor, model, **kwargs)


@pytest.mark.parametrize("atoms", [alloy(), alloy((2, 1, 1)), molecule("CH3CH2OH")])
def test_forces_are_the_derivative_of_the_energy(atoms):
    atoms.calc = random_calculator(atoms)
    forces = atoms.get_forces()
    h = 1e-4
    for m in (0, len(atoms) - 1):
        for d in range(3):
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[m, d] += sign * h
                moved.calc = atoms.calc
                energies.append(moved.get_potential_energy())
            assert forces[m, d] == pytest.approx(-(energies[0] - energies[1]) / (2 * h), abs=1e-6)
    assert np.abs(forces).max() > 0.01
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-10)


def test_stress_is_the_derivative_by_strain():
    atoms = alloy()
    atoms.calc = random_calculator(atoms)
    stress = atoms.get_stress(voigt=False)
    h = 1e-5
    for i in range(3):
        for j in range(3):
            energies = []
            for sign in (1, -1):
                strain = np.eye(3)
                strain[i, j] += sign * h / 2
                strain[j, i] += sign * h / 2
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
                moved.calc = atoms.calc
                energies.append(moved.get_potential_energy())
            numerical = (energies[0] - energies[1]) / (2 * h) / atoms.get_volume()
            assert stress[i, j] == pytest.approx(numerical, abs=1e-7)
    assert np.abs(stress).max() > 1e-4


def test_atomic_energies_add_up_and_follow_permutations():
    atoms = alloy((2, 1, 1))
    atoms.calc = random_calculator(atoms)
    energies = atoms.get_potential_energies()
    assert energies.sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
    order = np.random.default_rng(1).permutation(len(atoms))
    other = atoms[order]
    other.calc = atoms.calc
    np.testing.assert_allclose(other.get_potential_energies(), energies[order], atol=1e-10)


def test_energy_is_kept_in_molecular_dynamics():
    """A smoke test of NVE; the long one is in benchmarks/training.py."""
    atoms = alloy((2, 2, 1), width=0.02)
    atoms.calc = random_calculator(atoms)
    scale = np.sqrt(300 * units.kB * atoms.get_masses())[:, np.newaxis]
    atoms.set_momenta(scale * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
    before = atoms.get_total_energy()
    dynamics.run(100)
    assert abs(atoms.get_total_energy() - before) / len(atoms) < 1e-4
    assert np.abs(atoms.get_momenta()).max() > 0


def test_predicting_writes_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = alloy()
    atoms.calc = random_calculator(atoms)
    atoms.get_forces()
    assert list(tmp_path.iterdir()) == []


def test_save_and_load_keep_every_bit(tmp_path):
    atoms = alloy()
    atoms.calc = random_calculator(atoms)
    file = atoms.calc.save(tmp_path / "x.amp")
    again = atoms.copy()
    again.calc = Amp.load(file, label="y")
    assert again.calc.label == "y"
    assert again.get_potential_energy() == atoms.get_potential_energy()
    np.testing.assert_array_equal(again.get_forces(), atoms.get_forces())


def test_an_existing_file_stays_unless_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    calculator = random_calculator(alloy())
    target = tmp_path / "x.amp"
    target.write_text("mine")
    other = calculator.save(target)
    assert other != str(target)
    said = capsys.readouterr().err
    assert said == (
        f"ampmpi: {target} is there already: the calculator is saved as {other}; give "
        "overwrite=True to replace it\n"
    )
    assert target.read_text() == "mine"
    assert Amp.load(other).model.vector.size == calculator.model.vector.size
    assert calculator.save(target, overwrite=True) == str(target)
    assert f"the {target} that was there is kept as" in capsys.readouterr().err
    assert calculator.save(tmp_path / "new.amp") == str(tmp_path / "new.amp")
    assert capsys.readouterr().err == ""
    (tmp_path / "new.amp").unlink()
    assert Amp.load(target)
    assert sorted(p.read_text() for p in tmp_path.glob("*.amp"))[-1] == "mine"


def test_a_new_model_clears_the_results():
    atoms = alloy()
    atoms.calc = random_calculator(atoms)
    first = atoms.get_potential_energy()
    atoms.calc.model = random_calculator(atoms, seed=9).model
    assert atoms.get_potential_energy() != first


def test_parameters_that_change_are_followed_without_a_move():
    """ASE asks for what has changed in the atoms alone; results are also those of a model."""
    atoms = alloy()
    calc = atoms.calc = random_calculator(atoms)
    before = atoms.get_potential_energy()
    calc.model.vector = calc.model.vector * 1.1
    after = atoms.get_potential_energy()
    assert abs(after - before) > 0.01
    other = atoms.copy()
    other.calc = Amp(calc.descriptor, calc.model)
    assert after == other.get_potential_energy()
    np.testing.assert_array_equal(atoms.get_forces(), other.get_forces())


def test_a_committee_follows_members_that_change():
    atoms = alloy()
    members = [random_calculator(atoms, seed=seed) for seed in (1, 2)]
    atoms.calc = Committee(members)
    first = atoms.get_potential_energy()
    members[0].model = random_calculator(atoms, seed=3).model
    second = atoms.get_potential_energy()
    members[1].model.vector = members[1].model.vector * 1.1
    third = atoms.get_potential_energy()
    assert len({first, second, third}) == 3
    other = atoms.copy()
    other.calc = Committee(members)
    assert third == other.get_potential_energy()


def test_isolated_atoms_have_energies_and_no_forces():
    both = alloy()
    calculator = random_calculator(both)
    atom = Atoms("Cu", calculator=calculator)
    assert np.isfinite(atom.get_potential_energy())
    np.testing.assert_array_equal(atom.get_forces(), np.zeros((1, 3)))


def test_stress_needs_a_cell():
    atoms = molecule("H2O")
    atoms.calc = random_calculator(atoms)
    with pytest.raises(PropertyNotImplementedError, match="cell"):
        atoms.calc.calculate(atoms, ["stress"])


@pytest.mark.parametrize(
    ("keyword", "value", "line"),
    [
        ("cores", 4, "starts no ranks here.*mpirun -n 4"),
        ("cores", {"node1": 8, "node2": 8}, "mpirun -n 16"),
        ("envcommand", "module load x", "is not run.*job script"),
    ],
)
def test_amps_keywords_for_parallel_work_are_taken_with_a_line(capfd, keyword, value, line):
    wishes._say.cache_clear()
    for _ in range(2):
        Amp(Gaussian(), NeuralNetwork(), **{keyword: value})
    assert re.fullmatch(f"ampmpi: [^\n]*{line}[^\n]*\n", capfd.readouterr().err)


@pytest.mark.parametrize("cores", [0, "many", {"node1": "all"}, {}, True, 1.5])
def test_cores_that_are_no_number_are_refused(cores):
    with pytest.raises(InputError, match=r"cores is .*mpirun -n"):
        Amp(Gaussian(), NeuralNetwork(), cores=cores)


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"mode": "image-centered"}, "mode"),
        ({"version": "1999"}, "version"),
        ({"activation": "relu"}, "activation"),
        ({"hiddenlayers": (0,)}, "hiddenlayers"),
        ({"hiddenlayers": "wide"}, "hiddenlayers"),
        ({"hiddenlayers": "55"}, "hiddenlayers"),
        ({"hiddenlayers": (5.7, 5)}, "hiddenlayers"),
        ({"regressor": "BFGS"}, r"give a Regressor\(\.\.\.\)"),
        ({"lossfunction": LossFunction}, r"give a LossFunction\(\.\.\.\)"),
    ],
)
def test_a_models_wrong_keywords_are_named(keywords, reason):
    with pytest.raises(InputError, match=reason):
        NeuralNetwork(**keywords)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: LossFunction(maxiter="x"), "maxiter is 'x'"),
        (lambda: LossFunction(maxiter=np.inf), "maxiter is inf"),
        (lambda: LossFunction(convergence=0.01), "convergence is 0.01; give a dict"),
        (lambda: LossFunction(nft_ids=[3]), r"nft_ids is \[3\]; give a list of"),
        (lambda: Regressor("BFGS", 3), "optimizer_kwargs is 3"),
        (lambda: Regressor(3), "optimizer is 3"),
        (lambda: Amp(Gaussian, NeuralNetwork()), "descriptor is .*; give an object"),
        (lambda: Amp(NeuralNetwork(), Gaussian()), "descriptor is .*; give an object"),
        (lambda: Amp(Gaussian(), NeuralNetwork), "model is .*; give an object"),
        (lambda: Gaussian(cutoff=Cosine), "cutoff is the class Cosine"),
        (lambda: fingerprint([alloy()], 6.5, label="x"), "descriptor is 6.5; give an object"),
        (lambda: Amp(Gaussian(), NeuralNetwork()).get_potential_energy(), "there are no atoms"),
    ],
)
def test_wrong_objects_are_named(made, reason):
    with pytest.raises(InputError, match=reason):
        made()


def test_numbers_of_nodes_may_be_numpys():
    assert NeuralNetwork(hiddenlayers=np.int64(5)).hiddenlayers == (5,)
    assert NeuralNetwork(hiddenlayers=np.array([5, 4])).hiddenlayers == (5, 4)


@pytest.mark.parametrize("name", ["nowhere/x.amp", "."])
def test_a_file_that_cannot_be_saved_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{name} cannot be written"):
        random_calculator(alloy()).save(name)


def test_a_file_with_wrong_parameters_is_named(tmp_path):
    path = tmp_path / "x.amp"
    random_calculator(alloy()).save(path)
    text = path.read_text()
    for good, bad in (("'tanh'", "'relu'"), ("4.5", "-4.5"), ("2015.12", "1999")):
        assert good in text
        path.write_text(text.replace(good, bad))
        with pytest.raises(ModelError, match=r"x\.amp: "):
            Amp.load(path)


def test_public_names_are_listed_before_they_are_used():
    code = "import ampmpi; assert set(ampmpi.__all__) <= set(dir(ampmpi))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_model_that_is_not_trained_says_so():
    for descriptor in (Gaussian(), Gaussian(elements=["Cu", "Pt"])):
        with pytest.raises(ModelError, match="not trained yet"):
            Amp(descriptor, NeuralNetwork()).get_potential_energy(alloy())


def test_cores_can_be_set():
    calculator = random_calculator(alloy())
    calculator.cores = 1
    assert calculator.cores == 1


def test_parameters_are_read_by_key_and_attribute():
    calculator = random_calculator(alloy())
    calculator.model.lossfunction = LossFunction(convergence={"force_rmse": 0.1}, maxiter=7)
    model, descriptor = calculator.model.parameters, calculator.descriptor.parameters
    assert model.fprange == model["fprange"]
    assert model.hiddenlayers["Cu"] == (6, 5)
    assert descriptor.Gs["Pt"][0]["type"] == "G2"
    loss = calculator.model.lossfunction.parameters
    assert loss.convergence["force_rmse"] == 0.1
    assert loss.maxiter == 7
    with pytest.raises(AttributeError, match="layers"):
        model.layers  # noqa: B018
    for change in (
        lambda: descriptor.cutoff["kwargs"].__setitem__("Rc", 9.0),
        lambda: descriptor.Gs["Cu"][0].__setitem__("eta", 9.0),
    ):
        with pytest.raises(TypeError, match="can only be read"):
            change()


@pytest.mark.parametrize("way", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_calculator_can_be_copied_and_sent(way):
    atoms = alloy()
    atoms.calc = random_calculator(atoms)
    other = atoms.copy()
    other.calc = way(atoms.calc)
    np.testing.assert_array_equal(other.get_forces(), atoms.get_forces())
    assert way(atoms.calc.model.parameters) == atoms.calc.model.parameters


@pytest.mark.parametrize("name", ["x.traj", "x.extxyz", "x.db"])
def test_ase_writes_its_results_to_files(tmp_path, name):
    atoms = alloy()
    atoms.calc = random_calculator(atoms)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    write(tmp_path / name, atoms)
    found = read(tmp_path / name)
    assert found.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), rel=1e-7)
    np.testing.assert_allclose(found.get_forces(), forces, atol=1e-7)
    np.testing.assert_allclose(found.get_stress(), stress, atol=1e-7)


def test_a_cell_relaxes_to_no_stress():
    atoms = alloy(width=0.02)
    atoms.calc = random_calculator(atoms)
    before = atoms.get_potential_energy()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1.0, steps=8)
    assert atoms.get_potential_energy() < before


def test_elements_and_models_that_lack_something_are_named():
    atoms = alloy()
    calculator = random_calculator(atoms)
    with pytest.raises(ImageError, match="Au"):
        calculator.get_potential_energy(Atoms("Au"))
    del calculator.model.fprange["Pt"], calculator.model.layers["Pt"]
    with pytest.raises(ModelError, match="Pt, an element that the model lacks"):
        calculator.get_potential_energy(atoms)
    with pytest.raises(ModelError, match="not trained yet"):
        Amp(Gaussian(elements=["Cu", "Pt"]), NeuralNetwork()).get_potential_energy(atoms)


def test_reprs_say_in_one_line_what_one_has():
    descriptor, loss = Gaussian(cutoff=5), LossFunction(convergence={"force_rmse": 0.01})
    assert repr(descriptor) == "<Gaussian: Cosine(Rc=5.0), elements and functions of the images>"
    resolved = repr(Gaussian(elements=["Cu", "Pt"], cutoff=5).resolve(["Cu", "Pt"]))
    assert resolved == "<Gaussian: Cosine(Rc=5.0), functions: 20 for Cu, 20 for Pt>"
    assert "functions" in repr(Gaussian(elements=["Cu", "Pt"]))
    model = NeuralNetwork({"Cu": (5, 4), "Pt": 3}, lossfunction=loss)
    hidden = "hidden layers {'Cu': (5, 4), 'Pt': (3,)}"
    assert repr(model) == f"<NeuralNetwork: {hidden}, tanh, not trained>"
    model.fprange = {"Cu": np.array([[0.0, 1.0]] * 6)}
    assert repr(model) == "<NeuralNetwork: Cu 6-5-4-1; 66 parameters, tanh, not trained>"
    model.fprange = {"Au": np.array([[0.0, 1.0]] * 6)}
    assert repr(model) == f"<NeuralNetwork: {hidden}, tanh, not trained>"
    assert repr(loss) == (
        "<LossFunction: energy 1, force 0.04; ends at energy_rmse 0.001 and force_rmse 0.01, "
        "or after 100000 steps>"
    )
    alone = repr(LossFunction(force_coefficient=None, overfit=0.1, maxiter=50))
    assert alone == (
        "<LossFunction: energy 1, overfit 0.1; ends at energy_rmse 0.001, or after 50 steps>"
    )
    assert repr(model.regressor) == "<Regressor: BFGS>"
    assert repr(Amp(descriptor, model)) == f"Amp({descriptor!r}, {model!r}, label='amp')"
