"""What Amp's scripts call: parameters that are set, fingerprints by key, trainings taken apart."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from training_images import emt_images

from ampmpi import (
    Amp,
    FingerprintDatabase,
    Gaussian,
    LossFunction,
    NeuralNetwork,
    Regressor,
    hash_image,
    hash_images,
)
from ampmpi.errors import ConvergenceOccurred, ImageError, InputError, ModelError
from ampmpi.model import amp_file
from ampmpi.parameters import plain, source

FORCES = {"energy_rmse": 1e-9, "force_rmse": 1e-9}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def calculator(label="t", **keywords):
    loss = LossFunction(**{"convergence": FORCES, "maxiter": 5, **keywords})
    model = NeuralNetwork((4, 3), randomseed=1, lossfunction=loss, regressor=Regressor("L-BFGS-B"))
    return Amp(Gaussian(cutoff=4.0), model, label=label)


def set_up(images, **keywords):
    """Return a calculator whose model is ready, but not trained, and its hashed images."""
    calc, hashed = calculator(raise_ConvergenceOccurred=False, **keywords), hash_images(images)
    calc.descriptor.calculate_fingerprints(hashed, calculate_derivatives=True)
    assert calc.model.fit(hashed, calc.descriptor, calc._log, {"cores": 1}, only_setup=True) is None
    return calc, hashed


# Parameters that can be set


def test_criteria_set_among_the_parameters_end_the_training():
    calc = calculator(maxiter=50)
    calc.model.lossfunction.parameters["convergence"].update(
        {"energy_rmse": None, "force_rmse": None, "energy_maxresid": 1e9}
    )
    assert not calc.model.forcetraining
    assert calc.train(emt_images(4)).outcome == "converged"
    assert Path("t-log.txt").read_text().count("energy_maxresid: 1000000000.0") == 1
    assert not Path("t-fingerprint-primes.ampdb").exists()


def test_keywords_of_a_loss_function_are_set_by_key_and_by_attribute():
    loss = LossFunction()
    loss.parameters.maxiter = 7
    loss.parameters["force_coefficient"] = 0.3
    loss.parameters.convergence.force_rmse = 0.1
    loss.overfit = 1e-3
    assert (loss.maxiter, loss.force_coefficient, loss.parameters.overfit) == (7, 0.3, 1e-3)
    assert loss.coefficients.force == 0.3
    assert LossFunction.default_parameters["convergence"]["energy_rmse"] == 0.001
    assert LossFunction().parameters.convergence == LossFunction.default_parameters["convergence"]
    assert LossFunction.default_parameters["convergence"]["force_rmse"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.convergence.update(energy_rmse="small"), "convergence.*'small'.*number"),
        (lambda p: p.convergence.update(energy_mse=0.1), "unknown convergence criterion"),
        (lambda p: p.update(convergence=0.1), "give a dict"),
        (lambda p: p.update(maxiter=0), "at least 1"),
        (lambda p: p.update(force_coefficient=-1), "not be negative"),
        (lambda p: p.update(nft_ids=[3]), "give a list of"),
    ],
)
def test_what_is_set_is_checked_when_it_is_used(change, words):
    calc = calculator()
    change(calc.model.lossfunction.parameters)
    with pytest.raises(InputError, match=words):
        calc.train(emt_images(2))
    assert list(Path().iterdir()) == []


def test_hidden_layers_are_set_before_a_training():
    calc = calculator()
    calc.model.parameters.hiddenlayers = (6,)
    calc.train(emt_images(4))
    assert {e: n[1:-1] for e, n in calc.model.network.nodes.items()} == {"Cu": (6,), "Pt": (6,)}
    assert calc.model.parameters.hiddenlayers == {"Cu": (6,), "Pt": (6,)}


def test_parameters_of_a_model_stay_those_of_the_model():
    """Also where a script has taken them before a training."""
    calc = calculator()
    parameters = calc.model.parameters
    assert parameters.weights is None
    calc.train(emt_images(4))
    assert parameters.weights["Cu"][1].shape == (len(calc.model.fprange["Cu"]) + 1, 4)
    assert parameters == calc.model.parameters
    assert parameters == amp_file.read("t.amp")[1]


def test_scalings_and_weights_that_are_set_are_those_of_the_energy():
    calc = calculator()
    images = emt_images(4)
    calc.train(images)
    atoms = images[0].copy()
    atoms.calc = calc
    energy = atoms.get_potential_energy()
    calc.model.parameters.scalings["Cu"]["intercept"] += 2.0
    calc.reset()
    n_copper = list(atoms.symbols).count("Cu")
    assert n_copper
    assert atoms.get_potential_energy() == pytest.approx(energy + 2.0 * n_copper, rel=1e-12)
    for element in ("Cu", "Pt"):
        calc.model.parameters.weights[element][3][:] = 0.0
        calc.model.parameters.scalings[element] = {"intercept": 3.0, "slope": 1.0}
    calc.reset()
    assert atoms.get_potential_energy() == 3.0 * len(atoms)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("hiddenlayers", "wide", InputError),
        ("activation", "relu", InputError),
        ("weights", {"Cu": 3}, ModelError),
        ("scalings", {"Cu": {"intercept": 1.0}}, ModelError),
        ("fprange", {"Cu": [[0.0]]}, ModelError),
        ("mode", "image-centered", InputError),
        ("colour", "red", KeyError),
    ],
)
def test_wrong_parameters_of_a_model_are_refused(name, value, kind):
    model = NeuralNetwork()
    before = plain(model.parameters)
    with pytest.raises(kind, match=name):
        model.parameters[name] = value
    assert plain(model.parameters) == before
    with pytest.raises(TypeError, match="set them to None"):
        del model.parameters["weights"]


def test_weights_that_do_not_fit_are_refused_when_they_are_used():
    calc, hashed = set_up(emt_images(3))
    calc.model.parameters.hiddenlayers = (9, 9)
    with pytest.raises(ModelError, match="do not fit"):
        calc.get_potential_energy(next(iter(hashed.values())))


@pytest.mark.parametrize("way", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_parameters_can_be_copied_and_sent(way):
    calc, _ = set_up(emt_images(3))
    for parameters in (calc.model.parameters, calc.model.lossfunction.parameters):
        assert way(parameters) == parameters
        assert plain(way(parameters)) == plain(parameters)
    other = way(calc)
    assert other.model.parameters == calc.model.parameters
    assert other.descriptor.digest == calc.descriptor.digest


def test_text_of_an_object_is_what_its_file_holds():
    calc, _ = set_up(emt_images(3))
    Path("made.amp").write_text(
        source({"descriptor": calc.descriptor.tostring(), "model": calc.model.tostring()})
    )
    calc.save("saved.amp")
    assert Path("made.amp").read_text() == Path("saved.amp").read_text()


# Fingerprints by key


def assert_as_calculated(descriptor, images):
    for key, atoms in images.items():
        fingerprint, primes = descriptor.calculate(atoms)
        assert descriptor.fingerprints[key] == fingerprint.to_amp()
        assert descriptor.fingerprintprimes[key] == primes.to_amp()


def test_fingerprints_in_memory_have_amps_form():
    descriptor, images = Gaussian(cutoff=4.0), hash_images(emt_images(5))
    assert not hasattr(descriptor, "fingerprints")
    descriptor.calculate_fingerprints(images)
    assert not hasattr(descriptor, "fingerprintprimes")
    assert descriptor.elements == ("Cu", "Pt")
    descriptor.calculate_fingerprints(images, parallel={"cores": 1}, calculate_derivatives=True)
    assert_as_calculated(descriptor, images)
    key, atoms = next(iter(images.items()))
    element, values = descriptor.fingerprints[key][0]
    assert element == atoms.symbols[0]
    assert type(values) is list
    first, second = atoms.symbols[:2]
    assert len(descriptor.fingerprintprimes[key][0, first, 1, second, 2]) == len(values)
    assert set(descriptor.fingerprints) == set(images)
    assert list(Path().iterdir()) == []


def test_fingerprints_of_further_images_are_added():
    descriptor = Gaussian(cutoff=4.0, elements=["Cu", "Pt"])
    first, second = hash_images(emt_images(2)), hash_images(emt_images(3, seed=5))
    for images in (first, second):
        descriptor.calculate_fingerprints(images, calculate_derivatives=True)
    assert len(descriptor.fingerprints) == 5
    assert_as_calculated(descriptor, {**first, **second})


@pytest.mark.parametrize("how", ["dblabel", "calculator", "calculator with dblabel"])
def test_fingerprints_go_to_the_databases_of_a_label(how):
    images = hash_images(emt_images(4))
    descriptor = Gaussian(cutoff=4.0, dblabel="data" if how == "dblabel" else None)
    if how != "dblabel":
        database = "data" if how.endswith("dblabel") else None
        label = "other" if database else "data"
        Amp(descriptor, NeuralNetwork(), label=label, dblabel=database)
    lines = []
    descriptor.calculate_fingerprints(images, log=lines.append, calculate_derivatives=True)
    assert set(FingerprintDatabase("data-fingerprints.ampdb")) == set(images)
    assert any("4 computed" in line for line in lines)
    assert_as_calculated(descriptor, images)
    again = Gaussian(cutoff=4.0, dblabel="data")
    again.calculate_fingerprints(images, log=lines.append, calculate_derivatives=True)
    assert any("4 found, 0 computed" in line for line in lines)
    assert_as_calculated(again, images)
    again.fingerprints.close()
    assert again.fingerprints[next(iter(images))]


def test_an_image_that_moved_since_it_was_hashed_gets_its_own_fingerprint():
    images = hash_images(emt_images(1))
    [(key, atoms)] = images.items()
    atoms.positions[0] += 0.1
    descriptor = Gaussian(cutoff=4.0, dblabel="data")
    descriptor.calculate_fingerprints(images, calculate_derivatives=True)
    assert set(FingerprintDatabase("data-fingerprints.ampdb")) == {hash_image(atoms)}
    assert hash_image(atoms) != key
    assert_as_calculated(descriptor, images)


@pytest.mark.parametrize("dblabel", [None, "data"])
def test_images_without_a_fingerprint_are_named(dblabel):
    images = hash_images([*emt_images(2), Atoms("Cu2")])
    with pytest.raises(ImageError, match="overlap"):
        Gaussian(cutoff=4.0, dblabel=dblabel).calculate_fingerprints(images)
    with pytest.raises(InputError, match="hash_images"):
        Gaussian().calculate_fingerprints(emt_images(2))


def test_after_a_training_the_descriptor_has_the_fingerprints():
    descriptor, images = Gaussian(cutoff=4.0), emt_images(4)
    calc = calculator()
    calc.descriptor = descriptor
    calc.train(images)
    assert calc.descriptor is descriptor
    assert_as_calculated(descriptor, hash_images(images))


# Predictions taken apart


def test_energy_and_forces_are_those_of_the_calculator():
    calc, hashed = set_up(emt_images(4))
    for key, image in hashed.items():
        atoms = image.copy()
        atoms.calc = calc
        fingerprint, primes = (
            mapping[key]
            for mapping in (calc.descriptor.fingerprints, calc.descriptor.fingerprintprimes)
        )
        energy = calc.model.calculate_energy(fingerprint)
        assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-13)
        single = [
            calc.model.calculate_atomic_energy(values, i, symbol)
            for i, (symbol, values) in enumerate(fingerprint)
        ]
        np.testing.assert_allclose(single, atoms.get_potential_energies(), rtol=1e-13)
        forces = calc.model.calculate_forces(fingerprint, primes)
        scale = np.abs(forces).max()
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-12 * scale)
        total = np.zeros_like(forces)
        for (m, _, n, symbol, d), derivative in primes.items():
            total[m, d] += calc.model.calculate_force(
                fingerprint[n][1], derivative, direction=d, nindex=n, nsymbol=symbol
            )
        np.testing.assert_allclose(total, forces, atol=1e-12 * scale)
        numerical = calc.calculate_numerical_forces(image, d=1e-4)
        np.testing.assert_allclose(numerical, forces, atol=1e-5 * scale)


@pytest.mark.parametrize("wrong", [3, [("Cu", "x")], [("Cu", [1.0], 3)], None])
def test_what_is_no_fingerprint_is_refused(wrong):
    calc, hashed = set_up(emt_images(2))
    with pytest.raises(ModelError, match="list of"):
        calc.model.calculate_energy(wrong)
    fingerprint = calc.descriptor.fingerprints[next(iter(hashed))]
    for primes in (wrong or [], {(0, "Cu", 99, "Cu", 0): [1.0]}, {(0, "Cu", 0, "Cu", 7): [1.0]}):
        with pytest.raises(ModelError, match="fingerprint primes are"):
            calc.model.calculate_forces(fingerprint, primes)


# The loss, after a training and by hand


def by_the_definition(calc, images, force_coefficient=0.04):
    """Return loss, energy loss, force loss and the largest residuals, from predictions alone."""
    energy = force = energy_max = force_max = 0.0
    for image in images:
        atoms = image.copy()
        atoms.calc = calc
        one = (atoms.get_potential_energy() - image.get_potential_energy()) / len(image)
        errors = atoms.get_forces() - image.get_forces()
        energy += one**2
        force += (errors**2).mean()
        energy_max, force_max = max(energy_max, abs(one)), max(force_max, np.abs(errors).max())
    return energy + force_coefficient * force, energy, force, energy_max, force_max


NAMES = ("loss", "energy_loss", "force_loss", "energy_maxresid", "force_maxresid")


@pytest.mark.parametrize(
    ("maxiter", "criteria"), [(5, FORCES), (5, {"force_rmse": 1e9, "energy_rmse": 1e9})]
)
def test_after_a_training_the_loss_function_has_the_loss(maxiter, criteria):
    calc, images = calculator(maxiter=maxiter, convergence=criteria), emt_images(5)
    loss = calc.model.lossfunction
    assert loss.loss is None
    calc.train(images)
    found = [getattr(loss, name) for name in NAMES]
    np.testing.assert_allclose(found, by_the_definition(calc, images), rtol=1e-10)
    gradient = loss.dloss_dparameters
    hashed = hash_images(images)
    loss.raise_ConvergenceOccurred = False
    loss.attach_model(
        calc.model, hashed, calc.descriptor.fingerprints, calc.descriptor.fingerprintprimes
    )
    again = loss.get_loss(calc.model.vector, lossprime=True)
    np.testing.assert_allclose([again[name] for name in NAMES], found, rtol=1e-12)
    scale = np.abs(gradient).max()
    np.testing.assert_allclose(again["dloss_dparameters"], gradient, atol=1e-12 * scale)


def test_a_finished_training_tells_its_loss_again():
    images, first, second = emt_images(5), calculator(), calculator()
    first.train(images)
    second.train(images)
    for name in NAMES:
        known = getattr(first.model.lossfunction, name)
        assert getattr(second.model.lossfunction, name) == pytest.approx(known, rel=1e-12)


def test_gradient_of_the_loss_is_that_of_differences():
    calc, _ = set_up(emt_images(4))
    vector = calc.model.vector
    _, gradient = calc.model.get_loss(vector, lossprime=True)
    calc.model.lossfunction.d = 1e-5
    _, numerical = calc.model.get_loss(vector, lossprime=True)
    np.testing.assert_allclose(numerical, gradient, atol=1e-7 * np.abs(gradient).max())
    calc.model.lossfunction.d = None
    assert isinstance(calc.model.get_loss(vector, lossprime=False), float)


def test_overfit_and_duplicates_count():
    images = emt_images(3)
    calc, hashed = set_up([*images, images[1]], weight_duplicates=True, overfit=0.5)
    vector = calc.model.vector
    loss = calc.model.lossfunction.get_loss(vector)
    weights = np.concatenate([w[1][:-1].ravel() for w in calc.model.parameters.weights.values()])
    expected = by_the_definition(calc, [*images, images[1]])
    assert len(hashed) == 3
    assert loss["energy_loss"] == pytest.approx(expected[1], rel=1e-11)
    assert loss["loss"] == pytest.approx(expected[0] + 0.5 * (weights**2).sum(), rel=1e-11)


def test_convergence_ends_an_optimiser_by_hand():
    calc, _ = set_up(emt_images(3))
    loss = calc.model.lossfunction
    loss.raise_ConvergenceOccurred = True
    assert calc.model.get_loss(calc.model.vector, lossprime=False) > 0.0
    loss.parameters.convergence.update(energy_rmse=1e9, force_rmse=1e9)
    with pytest.raises(ConvergenceOccurred):
        calc.model.get_loss(calc.model.vector, lossprime=True)
    assert Regressor("BFGS").regress(calc.model, log=calc._log)
    loss.parameters.convergence.update(energy_rmse=1e-9, force_rmse=1e-9)
    before = loss.loss
    regressor = Regressor("L-BFGS-B", optimizer_kwargs={"options": {"maxiter": 3}})
    loss.maxiter = 10**6
    assert not regressor.regress(calc.model)
    assert loss.loss < before


def test_a_loss_without_images_says_what_is_missing():
    with pytest.raises(ModelError, match="attach_model"):
        LossFunction().get_loss(np.zeros(3))
    calc = calculator()
    with pytest.raises(ModelError, match="only_setup=True"):
        calc.model.get_loss(np.zeros(3), lossprime=True)
    hashed = hash_images(emt_images(2))
    with pytest.raises(ModelError, match="calculate_fingerprints"):
        calc.model.fit(hashed, calc.descriptor, only_setup=True)
    calc.descriptor.calculate_fingerprints(hashed)
    calc.model.fit(hashed, calc.descriptor, only_setup=True)
    with pytest.raises(ModelError, match="calculate_derivatives=True"):
        calc.model.get_loss(calc.model.vector, lossprime=True)
    further = hash_images(emt_images(1, seed=9))
    with pytest.raises(ModelError, match=f"fingerprint of the image {next(iter(further))}"):
        calc.model.fit(further, calc.descriptor, only_setup=True)


def test_setting_up_gives_the_model_what_a_training_starts_from():
    images = emt_images(5)
    calc, _ = set_up(images)
    calculator("other").train(images)
    start = amp_file.read("other-initial-parameters.amp")[1]
    assert plain(calc.model.parameters) == start


def test_fit_trains_as_the_calculator_does():
    images = emt_images(5)
    one, other = calculator("one"), calculator("other")
    one.train(images)
    hashed = hash_images(images)
    other.descriptor.calculate_fingerprints(hashed, calculate_derivatives=True)
    assert other.model.fit(hashed, other.descriptor, other._log, None) is True
    np.testing.assert_array_equal(other.model.vector, one.model.vector)
    third = calculator("third", maxiter=100)
    third.model.regressor = Regressor("L-BFGS-B", {"options": {"maxiter": 1}})
    assert third.model.fit(hashed, third.descriptor) is False


def test_weights_and_scalings_are_drawn_anew():
    calc, hashed = set_up(emt_images(4))
    model, before = calc.model, plain(calc.model.parameters)
    model.randomize(scalings=False, seed=8)
    after = plain(model.parameters)
    assert after["weights"] != before["weights"]
    assert after["scalings"] == before["scalings"]
    model.parameters.scalings["Cu"]["slope"] = 77.0
    model.randomize(hashed, seed=1)
    assert plain(model.parameters) == before
    with pytest.raises(InputError, match="trainingimages"):
        model.randomize()


def test_an_observer_sees_every_step():
    calc, seen = calculator(maxiter=6), []
    calc.model.observer = lambda model, vector, loss: seen.append(
        (loss, np.array_equal(model.vector, vector))
    )
    calc.train(emt_images(4))
    losses = np.genfromtxt("t-curve.txt", names=True)["loss"].tolist()
    assert seen == [(loss, True) for loss in losses]
    calc, _ = set_up(emt_images(3))
    seen.clear()
    calc.model.observer = lambda model, vector, loss: seen.append(loss)
    assert calc.model.get_loss(calc.model.vector, lossprime=False) == seen[0]


class Lengths:
    """A descriptor after Amp's documentation: for each atom its distances from the origin."""

    def __init__(self):
        self.parameters = {"mode": "atom-centered"}

    def calculate_fingerprints(self, images, parallel=None, log=None, calculate_derivatives=False):
        self.fingerprints, self.fingerprintprimes = {}, {}
        for key, atoms in images.items():
            lengths = np.linalg.norm(atoms.positions, axis=1)
            self.fingerprints[key] = [
                (symbol, [r, r**2]) for symbol, r in zip(atoms.symbols, lengths, strict=True)
            ]
            self.fingerprintprimes[key] = {
                (i, a.symbol, i, a.symbol, d): [a.position[d] / lengths[i], 2 * a.position[d]]
                for i, a in enumerate(atoms)
                for d in range(3)
            }


def test_a_descriptor_like_amps_is_fitted_to():
    """Energies that depend on the distances from the origin are learnt, with forces."""
    images = []
    for i in range(6):
        atoms = Atoms("Cu2", positions=[[1.0 + 0.1 * i, 0.2, 0.0], [0.0, 1.5 - 0.1 * i, 0.3]])
        results = {"energy": (atoms.positions**2).sum(), "forces": -2.0 * atoms.positions}
        atoms.calc = SinglePointCalculator(atoms, **results)
        images.append(atoms)
    hashed, descriptor = hash_images(images), Lengths()
    descriptor.calculate_fingerprints(hashed)
    loss = LossFunction(convergence={"energy_rmse": 0.01, "force_rmse": 0.05})
    model = NeuralNetwork((4,), randomseed=3, lossfunction=loss, regressor=Regressor("BFGS"))
    assert model.fit(hashed, descriptor, print, {"cores": 1}) is True
    for key, atoms in hashed.items():
        forces = model.calculate_forces(
            descriptor.fingerprints[key], descriptor.fingerprintprimes[key]
        )
        assert np.abs(forces - atoms.get_forces()).max() < 0.3
    assert re.fullmatch(r"dict\(.*\)\n", model.tostring(), re.S)
