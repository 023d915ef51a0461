"""Weights of images, types and atoms: in the loss, in no error, and from files to potentials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from click.testing import CliRunner
from model_samples import N_FEATURES, random_sample, with_stress
from test_loss import energy_of, forces_of, make_model, scaled
from test_stress_loss import virial_of
from training_images import emt_images

from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork, Regressor, evaluate
from ampmpi.cli.train import command
from ampmpi.errors import InputError, UnusableImagesError
from ampmpi.images.labels import LabelError
from ampmpi.images.weights import Weighting, weights_of
from ampmpi.model import amp_file
from ampmpi.model.batch import make_batch
from ampmpi.model.loss import Coefficients, loss_sums

COEFFICIENTS = Coefficients(0.7, 0.3, stress=0.2)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weighted_samples():
    """Images with weights of all kinds, among them 0, and with counts."""
    some = [
        with_stress(random_sample(i, n, weight=w), i) for i, (n, w) in enumerate([(4, 1), (3, 2)])
    ]
    rng = np.random.default_rng(3)
    some = [
        replace(
            one, energy_weight=0.5 + i, force_weights=rng.uniform(0.1, 4, len(one.forces)),
            stress_weight=3.0 - i,
        )
        for i, one in enumerate(some)
    ]  # fmt: skip
    some[0].force_weights[1] = 0.0
    some.append(replace(with_stress(random_sample(7, 3), 7), energy_weight=0.0, stress_weight=0.0))
    some.append(replace(random_sample(8, 3), force_weights=np.zeros(3)))
    some.append(replace(random_sample(9, 3, only_atom=1), force_weights=np.full(3, 2.0)))
    return some


def test_the_loss_is_its_definition_and_errors_are_without_weights():
    batches, ranges = scaled(weighted_samples(), batch_atoms=6)
    network, vector = make_model()
    sums = loss_sums(network, vector, batches, COEFFICIENTS)
    energy = energy_squares = force = force_squares = stress = stress_squares = 0.0
    largest = []
    for one in weighted_samples():
        n = len(one.fingerprint.symbols)
        by_atom = np.ones(n) if one.force_weights is None else one.force_weights
        errors = ((forces_of(network, vector, ranges, one) - one.forces) ** 2).sum(axis=1)
        if one.only_atom >= 0:
            force += by_atom[1] * errors[1] / 3
            force_squares += errors[1] / 3
            continue
        residual = (energy_of(network, vector, ranges, one) - one.energy) / n
        energy += one.weight * one.energy_weight * residual**2
        if one.energy_weight:
            energy_squares += one.weight * residual**2
            largest.append(abs(residual))
        force += one.weight * (by_atom * errors).sum() / (3 * n)
        if by_atom.any():
            force_squares += one.weight * errors[by_atom > 0].mean() / 3
        if one.virial is not None and one.stress_weight:
            v = virial_of(network, vector, ranges, one) - one.virial
            squared = (v[:3] ** 2).sum() + 2 * (v[3:] ** 2).sum()
            stress += one.weight * one.stress_weight * squared / n**2 / 9
            stress_squares += one.weight * squared / one.volume**2 / 9
    assert sums.energy == pytest.approx(energy, rel=1e-9)
    assert sums.energy_squares == pytest.approx(energy_squares, rel=1e-9)
    assert sums.energy_maxresid == pytest.approx(max(largest), rel=1e-9)
    assert sums.force == pytest.approx(force, rel=1e-7)
    assert sums.force_squares == pytest.approx(force_squares, rel=1e-7)
    assert sums.stress == pytest.approx(stress, rel=1e-7)
    assert sums.stress_squares == pytest.approx(stress_squares, rel=1e-7)


def test_the_gradient_is_that_of_finite_differences():
    batches, _ = scaled(weighted_samples(), batch_atoms=6)
    network, vector = make_model()

    def loss(v):
        return COEFFICIENTS.weighted(loss_sums(network, v, batches, COEFFICIENTS, gradient=False))

    gradient = loss_sums(network, vector, batches, COEFFICIENTS).gradient
    h = 1e-3
    at = {
        k: np.array([loss(vector + k * h * unit) for unit in np.eye(len(vector))])
        for k in (-3, -2, -1, 1, 2, 3)
    }
    numerical = (
        45 * (at[1] - at[-1]) - 9 * (at[2] - at[-2]) + (at[3] - at[-3])
    ) / (60 * h)  # fmt: skip
    np.testing.assert_allclose(gradient, numerical, rtol=1e-7, atol=1e-9 * np.abs(numerical).max())


def test_weights_of_1_change_nothing():
    plain = [with_stress(random_sample(i, 4, weight=1.0 + i), i) for i in range(3)]
    ones = [replace(one, force_weights=np.ones(4)) for one in plain]
    network, vector = make_model()
    one, other = (
        loss_sums(network, vector, scaled(some)[0], COEFFICIENTS) for some in (plain, ones)
    )
    assert one.gradient.tobytes() == other.gradient.tobytes()
    assert one[:4] + one[5:] == other[:4] + other[5:]
    assert (one.energy, one.force) == (one.energy_squares, one.force_squares)


def test_an_image_of_weight_2_counts_as_two():
    once = replace(
        with_stress(random_sample(1, 4), 1), energy_weight=2.0, force_weights=np.full(4, 2.0),
        stress_weight=2.0,
    )  # fmt: skip
    others = [random_sample(2, 3)]
    twice = [with_stress(random_sample(1, 4), 1)] * 2
    network, vector = make_model()
    one = loss_sums(network, vector, scaled([once, *others])[0], COEFFICIENTS)
    other = loss_sums(network, vector, scaled([*twice, *others])[0], COEFFICIENTS)
    assert COEFFICIENTS.weighted(one) == pytest.approx(COEFFICIENTS.weighted(other), rel=1e-14)
    np.testing.assert_allclose(one.gradient, other.gradient, rtol=1e-12, atol=1e-12)
    assert one.energy_squares < other.energy_squares


def test_images_drawn_anew_keep_their_weights():
    batch = make_batch(weighted_samples())
    drawn = batch.reweighted(batch.weights * [2.0, 0.0, 1.0, 3.0, 1.0])
    for name in ("energy_weights", "energy_counts", "stress_weights", "stress_counts"):
        ratio = getattr(drawn, name), getattr(batch, name) * [2.0, 0.0, 1.0, 3.0, 1.0]
        np.testing.assert_array_equal(*ratio)
    factor = np.array([2.0, 0.0, 1.0, 3.0, 1.0])[batch.image]
    np.testing.assert_array_equal(drawn.force_weights, batch.force_weights * factor)
    np.testing.assert_array_equal(drawn.force_counts, batch.force_counts * factor)
    assert set(batch.rows) == set(N_FEATURES)


def test_weights_are_multiplied():
    atoms = Atoms("Cu3", positions=np.eye(3) * 3)
    assert weights_of(atoms, Weighting()) is None
    atoms.info.update(config_weight=2, config_forces_weight=0.5, config_type="bulk")
    atoms.info["config_stress_weight"] = np.float64(3.0)
    atoms.arrays["trust"] = np.array([1.0, 0.0, 4.0])
    found = weights_of(atoms, Weighting(atom_key="trust", types={"bulk": 10.0, "slab": 0.0}))
    assert (found.energy, found.stress) == (20.0, 60.0)
    assert found.forces.tolist() == [10.0, 0.0, 40.0]
    atoms.info["mine"] = 0.25
    assert weights_of(atoms, Weighting(key="mine")).energy == 0.25
    del atoms.info["config_type"]
    assert weights_of(atoms, Weighting(types={"Default": 0.5})).energy == 1.0  # 2 * 0.5
    without = weights_of(atoms, Weighting(atom_key="trust"), forces=False, stress=False)
    assert without.forces.tolist() == [1.0, 1.0, 1.0] and without.stress == 1.0


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (-1.0, r"has a config_weight that is negative \(-1.0\)"),
        (float("nan"), "has a config_weight that is not finite"),
        ("heavy", r"has a config_weight that is not a number \('heavy'\)"),
        (True, "has a config_weight that is not a number"),
        ([1.0, 2.0], r"has a config_weight that is of shape \(2,\) where one number is expected"),
    ],
)
def test_a_wrong_weight_is_named(value, sentence):
    atoms = Atoms("Cu2", positions=[(0, 0, 0), (0, 0, 2.5)])
    atoms.info["config_weight"] = value
    with pytest.raises(LabelError, match=sentence):
        weights_of(atoms, Weighting())


def test_wrong_weights_of_atoms_are_named():
    atoms = Atoms("Cu2", positions=[(0, 0, 0), (0, 0, 2.5)])
    atoms.arrays["trust"] = np.array([[1.0, 2.0], [1.0, 2.0]])
    with pytest.raises(LabelError, match=r"a trust that is of shape \(2, 2\) where \(2,\) is"):
        weights_of(atoms, Weighting(atom_key="trust"))
    atoms.arrays["trust"] = np.array([1.0, -2.0])
    with pytest.raises(LabelError, match="has a trust that is negative"):
        weights_of(atoms, Weighting(atom_key="trust"))


def some_images(n=12):
    images = emt_images(n)
    for number, atoms in enumerate(images):
        atoms.info["config_type"] = "odd" if number % 2 else "even"
    return images


def train(*arguments, maxiter=6):
    given = ["--label", "t", "--cutoff", "4", "--hidden", "4", "--max-steps", str(maxiter)]
    return CliRunner().invoke(command, ["images.extxyz", *given, *arguments])


def ends(result):
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    return result.output + result.stderr


def test_a_training_with_weights_of_types_and_a_restart_with_others():
    write("images.extxyz", some_images())
    text = ends(train("--type-weight", "odd=4"))
    assert "Weights: config_type; energies 1 to 4, forces 1 to 4." in text
    calc = Amp.load("t.amp")
    curve = np.genfromtxt("t-curve.txt", names=True)
    found = list(evaluate(calc, "images.extxyz"))
    best = int(curve["loss"].argmin())
    rmse = np.sqrt(np.mean([one.energy_error**2 for one in found]))
    assert curve["energy_rmse"][best] == pytest.approx(rmse, rel=1e-6)
    force = np.sqrt(np.mean([one.force_rmse**2 for one in found]))
    assert curve["force_rmse"][best] == pytest.approx(force, rel=1e-6)
    loss = sum(
        (4 if number % 2 else 1) * (one.energy_error**2 + 0.3 * one.force_rmse**2)
        for number, one in enumerate(found)
    )
    assert curve["loss"][best] == pytest.approx(loss, rel=1e-6)
    again = train("--type-weight", "odd=3")
    assert isinstance(again.exception, InputError) and "other weights" in str(again.exception)
    without = train()
    assert "no weights, which it had" in str(without.exception)
    assert "finished already" in ends(train("--type-weight", "odd=4"))


def test_weights_of_1_give_the_same_potential_to_the_last_bit():
    images = some_images(6)
    write("images.extxyz", images)
    ends(train())
    first = amp_file.read("t.amp")
    for atoms in images:
        atoms.info["config_weight"] = 1.0
        atoms.arrays["trust"] = np.ones(len(atoms))
    write("images.extxyz", images)
    assert "finished already" in ends(train("--type-weight", "odd=1"))
    ends(train("--restart", "--overwrite", "--atom-weight-key", "trust"))
    assert repr(amp_file.read("t.amp")) == repr(first)


def test_labels_of_weight_0_may_be_missing_or_wrong():
    images = some_images()
    images[1].info["config_forces_weight"] = 0.0
    images[1].calc.results["forces"][:] = np.nan
    images[2].info["config_weight"] = 0.0
    images[2].calc.results["energy"] = 1e6
    images[3].info["config_energy_weight"] = 0.0
    images[3].calc.results["energy"] = -1e6
    write("images.extxyz", images)
    text = ends(train())
    assert "1 image with the weight 0: it is described, but not trained on, and in no er" in text
    assert "1 image with the weight 0 for its energy, which is not trained on" in text
    assert "1 image with the weight 0 for its forces, which are not trained on" in text
    curve = np.genfromtxt("t-curve.txt", names=True)
    assert curve["energy_maxresid"].max() < 100.0
    assert abs(Amp.load("t.amp").model.scalings["Cu"][0]) < 100.0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--type-weight", "edd=2"], "no image has the config_type 'edd'.* there are even, odd"),
        (["--weight-key", "w"], "no image carries 'w', the name that --weight-key gives"),
        (["--atom-weight-key", "w"], "no image carries 'w', the name that --atom-weight-key"),
        (["--type-weight", "odd"], "--type-weight 'odd' is not a config_type and a number"),
        (["--type-weight", "odd=-1"], "--type-weight 'odd=-1' is not a config_type and a number"),
        (["--type-weight", "odd=1", "--type-weight", "odd=2"], "gives odd two weights"),
        (["--type-weight", "odd=0", "--type-weight", "even=0"], "no image to train on has an ene"),
    ],
)
def test_what_is_misspelt_is_refused(arguments, reason):
    write("images.extxyz", some_images(4))
    with pytest.raises((InputError, UnusableImagesError), match=reason):
        raise train(*arguments).exception


def test_an_image_with_a_wrong_weight_is_refused_by_name():
    images = some_images(4)
    images[2].info["config_weight"] = -0.5
    write("images.extxyz", images)
    found = train().exception
    assert isinstance(found, UnusableImagesError)
    sentence = "images.extxyz, image 2 has a config_weight that is negative (-0.5); take it out"
    assert sentence in str(found)


def test_a_script_gives_weights_too():
    images = some_images(6)
    loss = LossFunction(convergence={"energy_rmse": 1e-9, "force_rmse": 1e-9}, maxiter=3)
    model = NeuralNetwork((4,), lossfunction=loss, regressor=Regressor("L-BFGS-B"), randomseed=1)
    calc = Amp(Gaussian(cutoff=4.0), model, label="s")
    with pytest.raises(InputError, match="the weight of the config_type 'odd' is -1, which is neg"):
        calc.train(images, type_weights={"odd": -1})
    result = calc.train(images, type_weights={"odd": 5.0})
    errors = list(evaluate(Amp.load("s.amp"), images))
    weights = [5.0 if atoms.info["config_type"] == "odd" else 1.0 for atoms in images]
    loss = sum(
        w * (one.energy_error**2 + 0.04 * one.force_rmse**2)
        for w, one in zip(weights, errors, strict=True)
    )
    assert result.best.loss == pytest.approx(loss, rel=1e-6)
