"""Real Amp and this package agree on parameters, losses, gradients and .amp files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.constraints import FixAtoms
from systems import descriptors, images, organic, with_energies

from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork, evaluate
from ampmpi.errors import TrainingConvergenceError
from ampmpi.model.batch import Sample, make_batch
from ampmpi.model.loss import loss_sums, overfit_term, scale_batch

SIDE = Path(__file__).with_name("training_side.py")
NAMES = ("bulk", "slab", "cluster", "molecule", "mixed pbc")


def training_images():
    found = [with_energies(images()[name]) for name in NAMES]
    single = images()["molecule"][:1]
    single.set_cell([8, 8, 8])
    return [*found, with_energies(single)]


def batch_of(descriptor, atoms, weights, only=None):
    samples = []
    for index, (image, weight) in enumerate(zip(atoms, weights, strict=True)):
        fingerprint, primes = descriptor.calculate(image)
        forces = image.get_forces(apply_constraint=False)
        energy = image.get_potential_energy(apply_constraint=False)
        atom = (only or {}).get(index, -1)
        samples.append(Sample("0" * 32, fingerprint, primes, energy, forces, weight, atom))
    return make_batch(samples)


@pytest.mark.parametrize(
    ("case", "activation", "hidden", "forces", "overfit", "fortran", "nft"),
    [
        ("default", "tanh", (5, 4), True, 0.0, True, {}),
        ("default", "tanh", (5, 4), False, 0.0, True, {}),
        ("unequal", "sigmoid", (3,), True, 0.0, True, {}),
        ("unequal", "linear", (4, 2, 3), True, 0.0, True, {}),
        ("rich, cosine", "tanh", (6,), False, 0.01, True, {}),
        ("default", "tanh", (3, 2), True, 0.0, False, {}),
        ("default", "tanh", (3, 2), True, 0.0, False, {0: 1, 3: 2}),
    ],
)
def test_loss_and_gradient_at_amps_parameters(
    ask, tmp_path, case, activation, hidden, forces, overfit, fortran, nft
):
    settings = descriptors()[case]
    atoms = training_images()
    answer = ask(
        "losses",
        [*atoms, atoms[1]],
        descriptor=settings,
        label=str(tmp_path / "amps"),
        hiddenlayers=hidden,
        activation=activation,
        forces=forces,
        energy_coefficient=0.8,
        force_coefficient=0.3,
        overfit=overfit,
        weight_duplicates=True,
        fortran=fortran,
        nft=list(nft.items()),
        seed=42,
        scales=[0.0, 0.3],
    )
    descriptor = Gaussian(**settings)
    batch = batch_of(descriptor, atoms, [1, 2, 1, 1, 1, 1], nft)
    model = NeuralNetwork(
        hiddenlayers=hidden,
        activation=activation,
        randomseed=42,
        lossfunction=LossFunction(
            energy_coefficient=0.8,
            force_coefficient=0.3,
            convergence={"force_rmse": 1e-3 if forces else None},
            overfit=overfit,
        ),
    )
    model.initialise(batch.fprange(), batch.energies, batch.composition(["Cu", "Pt"]))
    np.testing.assert_allclose(model.vector, answer["vector"], rtol=1e-12, atol=0)

    scaled = scale_batch(batch, model.fprange)
    coefficients = model.lossfunction.coefficients
    for amps in answer["losses"]:
        vector = np.array(amps["vector"])
        sums = loss_sums(model.network, vector, [scaled], coefficients)
        penalty, penalty_gradient = overfit_term(model.network, vector, overfit)
        loss = 0.8 * sums.energy + 0.3 * sums.force + penalty
        gradient = sums.gradient + penalty_gradient
        assert loss == pytest.approx(amps["loss"], rel=1e-8)
        assert sums.energy == pytest.approx(amps["energy_loss"], rel=1e-8)
        assert sums.energy_maxresid == pytest.approx(amps["energy_maxresid"], rel=1e-8)
        if forces:
            assert sums.force == pytest.approx(amps["force_loss"], rel=1e-8)
            assert sums.force_maxresid == pytest.approx(amps["force_maxresid"], rel=1e-8)
        largest = np.abs(amps["gradient"]).max()
        np.testing.assert_allclose(gradient, amps["gradient"], rtol=1e-8, atol=1e-8 * largest)


def assert_same(calculator, atoms, amps):
    for image, (energy, forces) in zip(atoms, amps, strict=True):
        copy = image.copy()
        copy.set_constraint()
        copy.calc = calculator
        assert copy.get_potential_energy() == pytest.approx(energy, abs=1e-8)
        np.testing.assert_allclose(copy.get_forces(), forces, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("case", "scale", "constant"),
    [
        ("default", "range", "keep"),
        ("unequal", "range", "keep"),
        ("default, polynomial", "range", "keep"),
        ("default", "deviation", "keep"),
        ("default", "deviation", "drop"),
    ],
)
def test_amp_predicts_the_same_from_our_file(ask, tmp_path, monkeypatch, case, scale, constant):
    monkeypatch.chdir(tmp_path)
    atoms = training_images()
    calculator = Amp(
        Gaussian(**descriptors()[case]),
        NeuralNetwork(
            hiddenlayers={"Cu": (4, 3), "Pt": (5,)},
            randomseed=3,
            lossfunction=LossFunction(convergence={"force_rmse": 1e-3}, maxiter=30),
            scale_features=scale,
            constant_features=constant,
        ),
        label="ours",
    )
    result = calculator.train(atoms)
    errors = [found.energy_error for found in evaluate(Amp.load("ours.amp"), atoms)]
    assert result.best.energy_rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-6)
    assert_same(calculator, atoms, ask("predict", atoms, file=str(tmp_path / "ours.amp")))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_we_predict_the_same_from_amps_file(ask, tmp_path, activation):
    atoms = [with_energies(images()[name]) for name in NAMES]
    ask(
        "losses",
        atoms,
        descriptor={"cutoff": 5.0},
        label=str(tmp_path / "amps"),
        hiddenlayers=(4, 4),
        activation=activation,
        forces=False,
        energy_coefficient=1.0,
        force_coefficient=None,
        overfit=0.0,
        weight_duplicates=False,
        fortran=True,
        seed=5,
        scales=[],
    )
    file = tmp_path / "amps-saved.amp"
    calculator = Amp.load(file)
    assert_same(calculator, atoms, ask("predict", atoms, file=str(file)))
    saved = tmp_path / "ours.amp"
    calculator.save(saved)
    assert_same(calculator, atoms, ask("predict", atoms, file=str(saved)))


@pytest.mark.parametrize("validating", [0, 2])
@pytest.mark.parametrize("forces", [True, False])
def test_amp_reads_our_log(ask, tmp_path, monkeypatch, forces, validating):
    monkeypatch.chdir(tmp_path)
    atoms = training_images()
    criteria = {"energy_rmse": 1e-12, "force_rmse": 1e-11 if forces else None}
    for maxiter in (12, 20):
        loss = LossFunction(convergence=criteria, maxiter=maxiter, force_coefficient=0.1)
        model = NeuralNetwork((3,), randomseed=1, lossfunction=loss)
        calculator = Amp(Gaussian(cutoff=4.0), model, label="t")
        calculator.train(atoms, overwrite=True, validation_fraction=validating / len(atoms))
    found = ask("read_log", [], file="t-log.txt")
    table = np.genfromtxt("t-curve.txt", names=True)
    assert [part["no_images"] for part in found] == [len(atoms) - validating] * 2
    assert np.isnan(table["val_energy_rmse"]).all() == (not validating)
    found = [part["convergence"] for part in found]
    assert [part["steps"] for part in found] == [list(range(1, 13)), list(range(13, 21))]
    for part in found:
        assert part["energy_rmse"] == 1e-12
        assert part["force_coefficient"] == (0.1 if forces else 0.0)
        assert part["converged"]
        rows = table[part["steps"][0] - 1 : part["steps"][-1]]
        names = {"costfxns": "loss", "es": "energy_rmse", "emrs": "energy_maxresid"}
        if forces:
            names |= {"fs": "force_rmse", "fmrs": "force_maxresid"}
        for amps, ours in names.items():
            np.testing.assert_allclose(part[amps], rows[ours], rtol=1e-4)


def test_light_elements_and_constraints(ask, tmp_path, monkeypatch):
    """Forces are trained without the constraints, as Amp takes them."""
    monkeypatch.chdir(tmp_path)
    molecule = organic()
    molecule.set_constraint(FixAtoms([0, 1]))
    copy = with_energies(molecule)
    assert np.abs(copy.get_forces()[:2]).max() == 0.0
    model = NeuralNetwork(
        (3,), randomseed=1, lossfunction=LossFunction(convergence={"force_rmse": 1e-9}, maxiter=20)
    )
    calculator = Amp(Gaussian(cutoff=4.0), model, label="o")
    result = calculator.train([copy])
    predicted = molecule.copy()
    predicted.set_constraint()
    predicted.calc = calculator
    error = predicted.get_forces() - copy.get_forces(apply_constraint=False)
    assert result.best.force_rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
    assert_same(calculator, [molecule], ask("predict", [molecule], file=str(tmp_path / "o.amp")))


def test_an_unconverged_training_is_named_as_in_amp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = training_images()[:2]
    flat = NeuralNetwork(
        (1,), activation="linear", lossfunction=LossFunction(convergence={"energy_rmse": 1e-14})
    )
    calculator = Amp(Gaussian(cutoff=4.0), flat, label="calc/never")
    atoms.append(atoms[0].copy())
    atoms[-1].positions[0, 0] += 1e-9
    atoms[-1].calc = atoms[0].calc.__class__(atoms[-1], energy=1.0)
    with pytest.raises(TrainingConvergenceError, match=r"never-untrained-parameters\.amp"):
        calculator.train(atoms)
    assert Path("calc/never-untrained-parameters.amp").exists()
    assert not Path("calc/never.amp").exists()
