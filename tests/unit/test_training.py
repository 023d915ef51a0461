"""Trainings from images to files: results, restarts, and what is refused."""

from __future__ import annotations

import fcntl
import json
import re
import signal
import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path

import click
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner
from scipy.optimize import minimize
from training_images import emt_images

from ampmpi import (
    Amp,
    Gaussian,
    LossFunction,
    NeuralNetwork,
    Regressor,
    fingerprint,
    hash_image,
    hash_images,
)
from ampmpi.cli.train import command
from ampmpi.errors import (
    ImageError,
    InputError,
    LockedError,
    ModelError,
    TrainingConvergenceError,
    Unfinished,
)
from ampmpi.members import Queue, committee_files, group_size, make_members
from ampmpi.model import checkpoint, optimise
from ampmpi.model.batch import part_of
from ampmpi.parallel.launch import StopRequest
from ampmpi.plots import curve_figure, outcome
from ampmpi.training import Schedule, dataset, shared_loss
from ampmpi.training.curve import Step


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def calculator(
    label="t", maxiter=60, energy_rmse=1e-9, force_rmse=1e-9, optimizer="L-BFGS-B", **kw
):
    loss = LossFunction(
        convergence={"energy_rmse": energy_rmse, "force_rmse": force_rmse}, maxiter=maxiter
    )
    model = NeuralNetwork(
        (5, 4), randomseed=1, lossfunction=loss, regressor=Regressor(optimizer), **kw
    )
    return Amp(Gaussian(cutoff=4.0), model, label=label)


def copper_images(n):
    """Return images whose atoms are all copper, with the energies and forces of an alloy."""
    images = emt_images(n)
    for image in images:
        results = image.calc.results
        image.numbers[:] = 29
        image.calc = SinglePointCalculator(image, **results)
    return images


def curve(label="t"):
    return np.genfromtxt(f"{label}-curve.txt", names=True)


def test_a_training_learns_and_its_errors_are_those_of_the_calculator():
    images = emt_images(9)
    calc = calculator()
    result = calc.train(images, validation=emt_images(4, seed=7))
    table = curve()
    assert result.outcome == "maxiter"
    assert result.file == "t.amp"
    assert table["step"].tolist() == list(range(1, 61))
    assert table["loss"].min() < 0.1 * table["loss"][0]
    loaded = Amp.load("t.amp")
    errors, forces = [], []
    for image in images:
        copy = image.copy()
        copy.calc = loaded
        errors.append((copy.get_potential_energy() - image.get_potential_energy()) / len(image))
        forces.append(((copy.get_forces() - image.get_forces()) ** 2).mean())
    assert result.best.energy_rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-9)
    assert result.best.energy_maxresid == pytest.approx(np.abs(errors).max(), rel=1e-9)
    assert result.best.force_rmse == pytest.approx(np.sqrt(np.mean(forces)), rel=1e-9)
    assert np.isfinite(result.best.val_force_rmse)
    assert {p.name for p in Path().iterdir()} >= {
        "t.amp",
        "t-log.txt",
        "t-curve.txt",
        "t-checkpoint.npz",
        "t-initial-parameters.amp",
        "t-fingerprints.ampdb",
        "t-fingerprint-primes.ampdb",
    }
    assert list(Path("t-fingerprints.ampdb/loose").iterdir()) == []


def test_images_may_come_from_an_iterator():
    result = calculator(maxiter=2).train(iter(emt_images(3)))
    again = calculator("u", maxiter=2).train(emt_images(3))
    assert result.best.loss == again.best.loss


@pytest.mark.parametrize(
    ("images", "reason"),
    [([], "there is no image to train on"), (None, "is of type NoneType"), (3, "is of type int")],
)
def test_what_are_no_images_is_refused(images, reason):
    with pytest.raises(InputError, match=reason):
        calculator().train(images)


def test_convergence_ends_a_training():
    calc = calculator(maxiter=2000, energy_rmse=0.02, force_rmse=0.4)
    result = calc.train(emt_images(4))
    assert result.outcome == "converged"
    assert result.best.energy_rmse <= 0.02
    assert result.best.force_rmse <= 0.4
    assert result.best.step == curve()["step"][-1]


@pytest.mark.parametrize(
    "optimizer", ["gauss-newton", "BFGS", "L-BFGS-B", "TNC", "Newton-CG", "Nelder-Mead"]
)
def test_every_optimiser_lowers_the_loss(optimizer):
    calculator(optimizer=optimizer, maxiter=120).train(emt_images(3))
    losses = curve()["loss"]
    assert losses.min() < (1.0 if optimizer == "Nelder-Mead" else 0.5) * losses[0]


def test_an_optimiser_of_ones_own_is_called_as_scipys():
    calc = calculator(maxiter=30)
    calc.model.regressor = Regressor(minimize, {"method": "CG", "options": {"gtol": 0.0}})
    assert calc.train(emt_images(3)).steps == 30
    assert curve()["loss"].min() < 0.5 * curve()["loss"][0]


def test_options_of_the_optimiser_are_honoured():
    calc = calculator(optimizer="BFGS")
    calc.model.regressor = Regressor("BFGS", {"options": {"maxiter": 4}})
    with pytest.raises(TrainingConvergenceError, match="did not reach its criteria"):
        calc.train(emt_images(3))
    assert 4 <= len(curve()) < 20


def test_an_optimiser_without_gradients_lowers_the_loss():
    calc = calculator(maxiter=400)
    calc.model.hiddenlayers = (2,)
    calc.model.regressor = Regressor("L-BFGS-B", lossprime=False)
    calc.train(emt_images(3))
    assert curve()["loss"].min() < 0.8 * curve()["loss"][0]


def test_a_numerical_gradient_leads_the_same_way():
    for label, d in (("analytical", None), ("numerical", 1e-5)):
        calc = calculator(label, maxiter=8)
        calc.model.lossfunction.d = d
        calc.train(emt_images(3))
    np.testing.assert_allclose(
        curve("numerical")["loss"], curve("analytical")["loss"], rtol=1e-5, atol=0
    )


def test_steps_are_kept_logged_and_not_ended_as_the_keywords_say():
    calc = calculator("t", maxiter=12, energy_rmse=100.0, force_rmse=100.0, checkpoints=-5)
    calc.model.lossfunction.raise_ConvergenceOccurred = False
    assert calc.train(emt_images(3)).steps == 12
    assert sorted(p.name for p in Path("t-checkpoints").iterdir()) == ["10.amp", "5.amp"]
    assert Amp.load("t-checkpoints/10.amp").model.vector.size
    assert "ForceRMSE" in Path("t-log.txt").read_text()
    quiet = calculator("u", maxiter=12, checkpoints=None)
    quiet.model.lossfunction.log_losses = False
    quiet.train(emt_images(3))
    assert "ForceRMSE" not in Path("u-log.txt").read_text()
    assert not list(Path().glob("u-checkpoint*.amp"))


def test_one_atoms_force_is_trained_where_nft_ids_say_so():
    images = emt_images(4)
    key = hash_image(images[1])
    calc = calculator(maxiter=3)
    calc.model.lossfunction = LossFunction(
        force_coefficient=0.5,
        convergence={"energy_rmse": 1e-9, "force_rmse": 1e-9},
        maxiter=3,
        nft_ids=[(key, 2)],
    )
    best = calc.train(images).best
    energy = force = 0.0
    for index, image in enumerate(images):
        copy = image.copy()
        copy.calc = calc
        errors = (copy.get_forces() - image.get_forces()) ** 2
        force += errors[2].mean() if index == 1 else errors.mean()
        if index != 1:
            one = copy.get_potential_energy() - image.get_potential_energy()
            energy += (one / len(image)) ** 2
    assert best.loss == pytest.approx(energy + 0.5 * force, rel=1e-9)
    calc.model.lossfunction.nft_ids = [(key, 4)]
    with pytest.raises(InputError, match=f"atom 4 of image {key}, which has 4 atoms"):
        calc.train(images, overwrite=True)


def test_an_image_of_nft_ids_must_be_there():
    calc = calculator(maxiter=2)
    calc.model.lossfunction.nft_ids = [("abc", 0)]
    with pytest.raises(InputError, match="nft_ids names the image abc, which is not among"):
        calc.train(emt_images(3))


def test_the_last_of_duplicates_counts_and_weights_on_demand():
    images = emt_images(4)
    again = images[0].copy()
    again.calc = SinglePointCalculator(again, energy=50.0, forces=np.zeros((4, 3)))
    first = {}
    for weighted in (False, True):
        calc = calculator(f"w{weighted}", maxiter=1)
        calc.model.lossfunction.weight_duplicates = weighted
        first[weighted] = calc.train([*images, again]).best
    copy = again.copy()
    copy.calc = Amp.load("wFalse.amp")
    hashed = calculator("hashed", maxiter=1)
    hashed.model.lossfunction.weight_duplicates = True
    losses = hashed.train(hash_images([*images, again])).best.loss
    assert losses == pytest.approx(first[True].loss, rel=1e-9)
    assert first[False].energy_maxresid > abs(copy.get_potential_energy() - 50) / 4 * 0.999
    assert first[True].loss > first[False].loss


@pytest.mark.parametrize("stop_at", [3, 17, 31])
@pytest.mark.parametrize(
    "optimizer", ["gauss-newton", "L-BFGS-B", "BFGS", "TNC", "Newton-CG", "Nelder-Mead"]
)
def test_a_stopped_training_ends_as_an_undisturbed_one(monkeypatch, stop_at, optimizer):
    schedule = Schedule(block=12, checkpoint_every=5, validate_every=4)
    options = {"validation_fraction": 0.25, "schedule": schedule}
    images = emt_images(8)
    whole = calculator("whole", optimizer=optimizer).train(images, **options)

    request = StopRequest()
    monkeypatch.setattr(shared_loss, "stop", request)
    original = shared_loss.SharedLoss.evaluate
    calls = []

    def evaluate(self, *arguments, **keywords):
        calls.append(1)
        if len(calls) == stop_at:
            request.request("a test")
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(shared_loss.SharedLoss, "evaluate", evaluate)
    with pytest.raises(Unfinished, match="start it again"):
        calculator("cut", optimizer=optimizer).train(images, **options)
    assert not Path("cut.amp").exists()
    request.signal_name = None
    rest = calculator("cut", optimizer=optimizer).train(images, **options)

    assert rest.steps == whole.steps
    assert rest.best.val_loss == whole.best.val_loss
    assert Path("cut.amp").read_bytes() == Path("whole.amp").read_bytes()
    for name in curve("whole").dtype.names:
        if name != "seconds":
            np.testing.assert_array_equal(curve("cut")[name], curve("whole")[name])
    assert len(calls) < 2 * whole.steps


@pytest.mark.parametrize("stop_at", [2, 9, 20, 33])
def test_a_stop_in_any_block_of_gauss_newton_changes_nothing(monkeypatch, stop_at):
    regressor = Regressor("gauss-newton", {"options": {"start": 7, "block": 9}})
    images = emt_images(8)

    def train(label):
        calc = calculator(label, optimizer="gauss-newton", maxiter=45)
        calc.model.regressor = regressor
        schedule = Schedule(checkpoint_every=1000)
        return calc.train(images, validation_fraction=0.25, schedule=schedule)

    whole = train("whole")
    request = StopRequest()
    monkeypatch.setattr(shared_loss, "stop", request)
    original = shared_loss.SharedLoss.evaluate
    calls = []

    def evaluate(self, *arguments, **keywords):
        calls.append(1)
        if len(calls) == stop_at:
            request.request("a test")
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(shared_loss.SharedLoss, "evaluate", evaluate)
    with pytest.raises(Unfinished):
        train("cut")
    request.signal_name = None
    assert train("cut").best.val_loss == whole.best.val_loss
    assert Path("cut.amp").read_bytes() == Path("whole.amp").read_bytes()


class Descent:
    """Gradient descent with momentum, as another optimiser could be added."""

    def __init__(self, regressor, start, block, state=None):
        self.point, self.velocity = start.copy(), np.zeros_like(start)
        if state is not None:
            self.point, self.velocity = state["point"], state["velocity"]

    def state(self):
        return {"point": self.point, "velocity": self.velocity}

    def run(self, evaluate, observe, residuals):
        while True:
            _, gradient = evaluate(self.point.copy())
            self.velocity = 0.8 * self.velocity - 1e-3 * gradient
            self.point = self.point + self.velocity
            observe()


def test_another_optimiser_is_one_class_and_resumes_from_its_state(monkeypatch):
    monkeypatch.setitem(optimise.OPTIMISERS, "BFGS", Descent)
    images = emt_images(4)
    whole = calculator("whole", optimizer="BFGS", maxiter=40).train(images)
    assert whole.best.loss < curve("whole")["loss"][0]
    request = StopRequest()
    monkeypatch.setattr(shared_loss, "stop", request)
    request.request("a test")
    for _ in range(3):  # a step each
        with pytest.raises(Unfinished):
            calculator("cut", optimizer="BFGS", maxiter=40).train(images)
    request.signal_name = None
    calculator("cut", optimizer="BFGS", maxiter=40).train(images)
    assert Path("cut.amp").read_bytes() == Path("whole.amp").read_bytes()
    np.testing.assert_array_equal(curve("cut")["loss"], curve("whole")["loss"])


INTERRUPTED = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from training_images import emt_images
from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork
from ampmpi.errors import ModelError
from ampmpi.training.curve import Curve

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
append = Curve.append

def interrupted(self, step):
    append(self, step)
    if step.step == 30:
        os.kill(os.getpid(), {number})

Curve.append = interrupted
images = emt_images(4)
loss = LossFunction(convergence={{"energy_rmse": 1e-9, "force_rmse": 1e-9}}, maxiter=10**6)
calc = Amp(Gaussian(cutoff=4.0), NeuralNetwork((5, 4), lossfunction=loss), label="t")
try:
    calc.train(images)
except BaseException as error:
    print(type(error).__name__, error)
try:
    calc.get_potential_energy(images[0])
except ModelError as error:
    print(error)
stopped = len(open("t-curve.txt").readlines()) - 1
loss.maxiter = stopped + 5
print(calc.train(images).steps - stopped, calc.model.vector.size > 0)
"""


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, "Unfinished"), (signal.SIGINT, "KeyboardInterrupt")]
)
def test_an_interrupted_model_is_untrained_and_goes_on_by_the_same_call(number, raised):
    code = INTERRUPTED.format(folder=str(Path(__file__).parent), number=int(number))
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True
    )
    said, refused, gone_on = result.stdout.splitlines()
    assert said.startswith(f"{raised} stopped after step 3")
    assert refused.startswith("the model is not trained yet")
    assert gone_on == "5 True"


def test_without_a_seed_every_start_is_another_one():
    images = emt_images(4)
    energies = []
    for _ in range(2):
        calc = calculator(maxiter=3)
        calc.model.randomseed = None
        calc.train(images, overwrite=True)
        energies.append(calc.get_potential_energy(images[0]))
    assert energies[0] != energies[1]
    again = calculator(maxiter=3)
    again.model.randomseed = None
    assert again.train(images).steps == 3
    assert again.get_potential_energy(images[0]) == energies[1]


def test_the_file_of_a_result_holds_it():
    images = emt_images(4)
    calculator(maxiter=3).train(images)
    other = calculator("other", maxiter=7)
    other.train(images)
    other.save("t.amp", overwrite=True)
    calc = calculator(maxiter=3)
    result = calc.train(images, overwrite=True)
    assert result.file == "t.amp"
    np.testing.assert_array_equal(Amp.load("t.amp").model.vector, calc.model.vector)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"validation_fraction": "a"}, "validation fraction is 'a'"),
        ({"validation_fraction": 0.5, "seed": -1}, "seed of the validation set is -1"),
        ({"memory": "2GB"}, "memory is '2GB'; give a number of bytes"),
        ({"validation": 3}, "images is of type int"),
        ({"packs": True, "pack_size": 0}, "the size of packs is 0 MB: give a number above 0"),
    ],
)
def test_wrong_options_are_named(options, reason):
    with pytest.raises(InputError, match=reason):
        calculator(maxiter=2).train(emt_images(4), **options)


def test_fewer_steps_than_were_made_make_no_more():
    images = emt_images(4)
    first = calculator(maxiter=8).train(images)
    again = calculator(maxiter=5).train(images, overwrite=True)
    assert (again.steps, again.outcome, again.best.loss) == (8, "maxiter", first.best.loss)


def test_a_finished_training_is_not_done_again_and_goes_on_to_more_steps():
    images = emt_images(4)
    first = calculator(maxiter=20).train(images)
    text = Path("t.amp").read_bytes()
    again = calculator(maxiter=20).train(images)
    assert (again.file, again.steps) == ("t.amp", first.steps)
    assert Path("t.amp").read_bytes() == text
    more = calculator(maxiter=50).train(images, overwrite=True)
    whole = calculator("whole", maxiter=50).train(images)
    assert more.steps == whole.steps == 50
    assert more.best.loss == whole.best.loss


def test_other_settings_are_refused_with_the_difference(monkeypatch):
    images = emt_images(4)
    request = StopRequest()
    monkeypatch.setattr(shared_loss, "stop", request)
    request.request("a test")
    with pytest.raises(Unfinished):
        calculator().train(images)
    request.signal_name = None
    with pytest.raises(InputError, match=r"activation: was tanh, is now sigmoid"):
        calculator(activation="sigmoid").train(images)
    with pytest.raises(InputError, match=r"\(other images\)"):
        calculator().train(images[:3])


def test_early_stopping_keeps_the_best_validation():
    schedule = Schedule(validate_every=1, patience=5)
    result = calculator(maxiter=5000).train(
        emt_images(2), validation=emt_images(6, seed=3, width=0.4), schedule=schedule
    )
    assert result.outcome == "early stopping"
    table = curve()
    assert result.best.val_loss == table["val_loss"].min()
    assert table["step"][-1] - result.best.step == 5


def test_a_fit_that_converged_is_validated_and_goes_on_from_its_best():
    images, validation = emt_images(2), emt_images(6, seed=3, width=0.4)
    schedule = Schedule(validate_every=1)

    def train(label, **limits):
        calc = calculator(label, maxiter=60, **limits)
        return calc.train(images, validation=validation, schedule=schedule, overwrite=True)

    loose = train("a", energy_rmse=0.05, force_rmse=10.0)
    assert loose.outcome == "converged"
    assert np.isfinite(loose.best.val_loss)
    assert loose.best.step == curve("a")["step"][-1]
    for label in "ab":
        result = train(label)
        assert result.best.val_loss == curve(label)["val_loss"].min()
    parameters = [Amp.load(f"{label}.amp").model.parameters for label in "ab"]
    assert parameters[0] == parameters[1]


def test_patience_counts_from_validations():
    result = calculator(maxiter=40).train(
        emt_images(3), validation=emt_images(2, seed=3), schedule=Schedule(patience=5)
    )
    assert result.steps >= 10
    assert np.isfinite(result.best.val_loss)


def test_other_sets_of_the_same_images_are_another_training():
    ours, theirs = emt_images(4), emt_images(4, seed=3)
    calculator(maxiter=5).train(ours, validation=theirs)
    swapped = calculator(maxiter=5).train(theirs, validation=ours, overwrite=True)
    fresh = calculator("fresh", maxiter=5).train(theirs, validation=ours)
    assert swapped.best.val_loss == fresh.best.val_loss
    parameters = [Amp.load(f"{label}.amp").model.parameters for label in ("t", "fresh")]
    assert parameters[0] == parameters[1]


def test_a_validation_fraction_does_not_depend_on_the_order():
    images = emt_images(6)
    first = calculator(maxiter=5).train(images, validation_fraction=0.34)
    other = calculator("other", maxiter=5).train(images[::-1], validation_fraction=0.34)
    assert other.best.val_loss == pytest.approx(first.best.val_loss, rel=1e-9)
    assert other.best.energy_rmse == pytest.approx(first.best.energy_rmse, rel=1e-9)


@pytest.mark.parametrize(("maxiter", "validated"), [(3, [3]), (12, [10, 12])])
def test_the_last_step_is_validated(maxiter, validated):
    result = calculator(maxiter=maxiter).train(emt_images(3), validation=emt_images(2, seed=3))
    table = curve()
    assert table["step"][np.isfinite(table["val_loss"])].tolist() == validated
    assert result.best.step in validated
    assert result.best.val_loss == np.nanmin(table["val_loss"])
    start = Amp.load("t-initial-parameters.amp").model.parameters
    assert Amp.load("t.amp").model.parameters != start


@pytest.mark.parametrize("validation", [None, emt_images(1, seed=3)])
def test_a_training_that_cannot_converge_says_so(validation):
    calc = calculator(maxiter=10**6, force_rmse=None)
    calc.model.hiddenlayers = (1,)
    calc.model.activation = "linear"
    images = emt_images(2)
    turned = images[0].copy()
    turned.rotate(90, "x", rotate_cell=True)
    turned.calc = SinglePointCalculator(turned, energy=images[0].get_potential_energy() + 1.0)
    schedule = Schedule(validate_every=10**6)
    with pytest.raises(TrainingConvergenceError, match="untrained-parameters"):
        calc.train([*images, turned], validation=validation, schedule=schedule)
    start = Amp.load("t-initial-parameters.amp").model.parameters
    assert Amp.load("t-untrained-parameters.amp").model.parameters != start
    assert not Path("t.amp").exists()


def test_prescaling_fits_one_energy_per_element():
    images = emt_images(8)
    calc = calculator(maxiter=1, prescale=True)
    calc.train(images)
    counts = np.array([[list(a.symbols).count(e) for e in ("Cu", "Pt")] for a in images])
    energies = np.array([a.get_potential_energy() for a in images])
    n_atoms = counts.sum(axis=1)
    expected = np.linalg.lstsq(counts / n_atoms[:, None], energies / n_atoms, rcond=None)[0]
    found = Amp.load("t-initial-parameters.amp").model.scalings
    np.testing.assert_allclose([found["Cu"][0], found["Pt"][0]], expected, rtol=1e-10)
    assert found["Cu"][1] == 1.0


def test_single_atoms_and_energies_alone():
    images = emt_images(2)
    atom = images[0][:1]
    atom.calc = SinglePointCalculator(atom, energy=1.5)
    calc = calculator(force_rmse=None)
    result = calc.train([*images, atom])
    assert np.isnan(result.best.force_rmse)
    assert not Path("t-fingerprint-primes.ampdb").exists()
    assert result.best.energy_rmse < 0.1


def test_derivatives_that_do_not_fit_are_read_in_passes():
    images = emt_images(5)
    whole = calculator("whole", maxiter=6).train(images)
    passes = calculator("passes", maxiter=6).train(images, memory=1.0)
    assert passes.best.loss == pytest.approx(whole.best.loss, rel=1e-12)
    assert "do not fit" in Path("passes-log.txt").read_text()
    assert "do not fit" not in Path("whole-log.txt").read_text()


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ({}, "has no energy"),
        ({"energy": 1.0}, "has no forces"),
        ({"energy": np.nan, "forces": np.zeros((4, 3))}, "has the energy nan"),
        ({"energy": 1.0, "forces": np.full((4, 3), np.inf)}, "forces that are not finite"),
    ],
)
def test_images_that_teach_nothing_are_named(results, reason):
    images = emt_images(2)
    images[1].calc = SinglePointCalculator(images[1], **results)
    with pytest.raises(ImageError, match=f"image 1.*{reason}"):
        calculator().train(images)


def test_an_image_that_cannot_be_described_is_named_in_one_sentence():
    calc = calculator()
    calc.descriptor = Gaussian(cutoff=4.0, elements=["Cu"])
    with pytest.raises(ImageError, match=r"image 0: .*\(Pt\).* leave the image out; take them"):
        calc.train(emt_images(3))


def test_an_element_that_a_loaded_model_lacks_is_named():
    images = copper_images(3)
    calculator("cu", maxiter=2).train(images)
    loaded = Amp.load("cu.amp", label="again")
    loaded.descriptor = Gaussian(cutoff=4.0)
    with pytest.raises(ModelError, match="holds Pt, an element that the model lacks"):
        loaded.train(emt_images(3))


def test_a_loss_that_is_no_number_ends_the_training():
    images = emt_images(2)
    images[0].calc = SinglePointCalculator(images[0], energy=1e300, forces=images[0].get_forces())
    with pytest.raises(ModelError, match="the loss is inf at step 1"):
        calculator().train(images)


def test_a_damaged_checkpoint_is_named():
    Path("t-checkpoint.npz").write_bytes(b"PK rubbish")
    with pytest.raises(ModelError, match=r"t-checkpoint\.npz cannot be read"):
        calculator().train(emt_images(2))
    assert checkpoint.load("none.npz") is None


def test_amps_checkpoint_is_taken_up():
    images = emt_images(3)
    first = calculator("a", maxiter=30).train(images)
    Path("b-checkpoint.amp").write_bytes(Path("a.amp").read_bytes())
    second = calculator("b", maxiter=1).train(images)
    assert second.best.loss == pytest.approx(first.best.loss, rel=1e-9)


def untrained(hidden, seed):
    return NeuralNetwork(hidden, randomseed=seed)


def test_members_have_seeds_of_their_own_and_a_lone_one_the_seed():
    members = make_members(untrained, [(5,), (6, 6)], starts=2, seats=3, bootstrap=True, seed=4)
    assert len(members) == 12
    assert len({m.model.randomseed for m in members}) == 12
    assert len({m.draw for m in members}) == 3
    assert make_members(untrained, [(5,)], seed=4)[0].model.randomseed == 4
    with pytest.raises(InputError, match="given twice"):
        make_members(untrained, [(5,), (5,)])


@pytest.mark.parametrize(
    ("ranks", "members", "size"), [(1, 5, 1), (4, 2, 2), (5, 2, 5), (6, 4, 2), (128, 20, 8)]
)
def test_groups_are_of_equal_size(ranks, members, size):
    assert group_size(ranks, members) == size


def test_a_queue_hands_each_member_to_one(tmp_path):
    members = make_members(untrained, [(5,)], seats=4)
    a, b = Queue(tmp_path, members), Queue(tmp_path, members)
    taken = [a.take(), b.take(), b.take()]
    assert taken == [member.name for member in members[:3]]
    a.close()
    assert b.take() is None


def run(*arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_a_committee_from_the_command_line():
    write("set.traj", emt_images(10))
    Path("train.toml").write_text(
        "hidden = [[4], [5, 4]]\ncommittee = 2\nbootstrap = true\nmax-steps = 15\ncutoff = 4.0\n"
        "validation-fraction = 0.2\n"
    )
    text = run("set.traj", "--config", "train.toml", "--label", "c", "--max-steps", 20)
    assert "Committee: c-committee-0.amp to c-committee-1.amp" in text
    assert len(list(Path("c-members").glob("*.amp"))) == 4 * 2
    rows = [line.split() for line in Path("c-members.txt").read_text().splitlines()]
    assert rows[1][0].startswith(("4_", "5-4_"))
    assert all(row[2] == "20" for row in rows[1:])
    scores = [float(row[6]) for row in rows[1:]]
    assert scores == sorted(scores)
    best = Path("c.amp").read_bytes()
    assert best == Path(f"c-members/{rows[1][0]}.amp").read_bytes()
    assert Amp.load("c-committee-1.amp").model.vector.size > 0
    before = {p.name: p.stat().st_mtime_ns for p in Path("c-members").glob("*-curve.txt")}
    assert "Committee" in run(
        "set.traj", "--config", "train.toml", "--label", "c", "--max-steps", 20
    )
    assert before == {p.name: p.stat().st_mtime_ns for p in Path("c-members").glob("*-curve.txt")}


OPTIONS = {
    "images": ["a.traj", "b.traj@:5"],
    "label": "here/x",
    "dblabel": "shared",
    "descriptor": "g.toml",
    "start-from": "old.amp",
    "cutoff": 5.5,
    "functions": "auto",
    "hidden": [[5, 5], [20]],
    "activation": "sigmoid",
    "seed": 7,
    "starts": 2,
    "halving": True,
    "committee": 3,
    "bootstrap": True,
    "groups": 2,
    "forces": False,
    "energy-rmse": 0.002,
    "energy-maxresid": 0.01,
    "force-rmse": 0.03,
    "force-maxresid": 0.2,
    "energy-coefficient": 2.0,
    "force-coefficient": 0.1,
    "stress-coefficient": 0.2,
    "stress-rmse": 0.001,
    "stress-maxresid": 0.01,
    "overfit": 1e-6,
    "weight-key": "trust",
    "atom-weight-key": "atom_trust",
    "type-weight": ["bulk=2", "surface=0.5"],
    "weight-duplicates": True,
    "prescale": False,
    "scale-features": "deviation",
    "constant-features": "drop",
    "optimizer": "BFGS",
    "max-steps": 123,
    "max-seconds": 60.0,
    "validation": ["c.traj", "d.traj"],
    "validation-fraction": 0.25,
    "validate-every": 5,
    "patience": 50,
    "checkpoint-every": 30,
    "keep-checkpoints": True,
    "restart": True,
    "overwrite": True,
    "memory": 1.5,
    "no-compress": True,
    "packs": True,
    "pack-size": 64.0,
    "pack-seconds": 60.0,
    "energy-key": "REF_energy",
    "forces-key": "REF_forces",
    "stress-key": "REF_stress",
    "units": "Hartree,Bohr",
    "format": "extxyz",
    "skip-unusable": True,
    "dry-run": True,
}


def as_arguments(options):
    for name, value in options.items():
        if name == "images":
            yield from value
        elif isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        else:
            for item in value if isinstance(value, list) else [value]:
                yield f"--{name}"
                yield ",".join(map(str, item)) if isinstance(item, list) else str(item)


def test_every_option_is_the_same_in_a_file():
    assert {p.name.replace("_", "-") for p in command.params} == {*OPTIONS, "config"}
    rows = [f"{name} = {json.dumps(value)}\n" for name, value in OPTIONS.items()]
    Path("all.toml").write_text("".join(rows))
    from_file = command.make_context("train", ["--config", "all.toml"]).params
    from_line = command.make_context("train", list(as_arguments(OPTIONS))).params
    assert from_file == from_line
    assert from_line["hidden"] == [(5, 5), (20,)]
    defaults = command.make_context("train", ["a.traj"]).params
    assert all(from_line[name] != defaults[name] for name in defaults)
    first = command.make_context("train", ["--config", "all.toml", "--seed", "8"]).params
    assert first == {**from_file, "seed": 8}


def test_a_file_gives_the_format_of_images_by_either_name():
    for name in ("format", "images-format", "images_format"):
        Path("x.toml").write_text(f'images = "a.dat"\n{name} = "extxyz"\n')
        params = command.make_context("train", ["--config", "x.toml"]).params
        assert params["format"] == "extxyz"


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ("maxsteps = 3", "unknown option 'maxsteps'"),
        ("hidden = ", "is no TOML file"),
        ("[hidden]\na = 1", "is a table"),
        ('hidden = "wide"', "is not a list of numbers of nodes"),
        ("hidden = []", "--hidden is empty"),
        ("groups = 2", "1 ranks cannot be split into 2 groups"),
        ("packs = true\npack-seconds = inf", "the age of packs is inf seconds"),
    ],
)
def test_a_wrong_configuration_is_named(toml, reason):
    write("set.traj", emt_images(2))
    Path("train.toml").write_text(toml)
    with pytest.raises(InputError, match=reason):
        run("set.traj", "--config", "train.toml")


@pytest.mark.parametrize(
    "given",
    [("--pack-size", "5"), ("--config", "train.toml"), ("--config=train.toml", "--label=x")],
)
def test_limits_of_packs_without_packs_are_refused(given):
    Path("train.toml").write_text("pack-size = 5")
    result = CliRunner().invoke(command, ["set.traj", *given])
    assert result.exit_code == 2
    assert "--pack-size needs --packs" in result.output


def test_packs_and_their_limits_reach_the_fingerprints(monkeypatch):
    seen = []

    def recorded(images, descriptor, **options):
        seen.append([options[name] for name in ("packs", "pack_size", "pack_seconds")])
        return fingerprint(images, descriptor, **options)

    monkeypatch.setattr("ampmpi.training.session.fingerprint", recorded)
    images = emt_images(4)
    write("set.traj", images)
    Path("train.toml").write_text("packs = true\npack-size = 8\n")
    run("set.traj", "--config", "train.toml", "--pack-seconds", 9, "--max-steps", 2)
    calculator(maxiter=2).train(images, packs=True, pack_size=0.5)
    calculator("other", maxiter=2).train(images)
    assert seen == [[True, 8, 9], [True, 0.5, 300], [False, 256, 300]]


def test_a_calculator_is_not_replaced_unasked():
    write("set.traj", emt_images(2))
    Path("t.amp").write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        run("set.traj", "--label", "t", "--cutoff", 4)
    assert Path("t.amp").read_text() == "mine"


def test_the_checkpoint_of_another_training_with_the_label_replaces_nothing():
    write("set.traj", emt_images(3))
    run("set.traj", "--label", "t", "--cutoff", 4, "--starts", 2, "--max-steps", 3)
    Path("t.amp").write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        run("set.traj", "--label", "t", "--cutoff", 4, "--max-steps", 3)
    assert Path("t.amp").read_text() == "mine"


def test_a_smaller_committee_leaves_no_seats_of_a_larger_one():
    from ampmpi.cli.plot import command as plot

    write("set.traj", emt_images(4))
    common = ["set.traj", "--label", "c", "--cutoff", 4, "--max-steps", 3]
    run(*common, "--committee", 3)
    Path("c-committee-old.amp").write_text("mine")
    text = run(*common, "--committee", 2, "--seed", 1, "--overwrite")
    assert "c-committee-2.amp of an earlier training is removed" in text
    assert committee_files("c") == ["c-committee-0.amp", "c-committee-1.amp"]
    assert Path("c-committee-old.amp").read_text() == "mine"
    assert CliRunner().invoke(plot, ["c"]).exit_code == 0
    assert Path("c-report.html").read_text().count(" steps, the best is") == 2
    run(*common, "--overwrite")
    assert committee_files("c") == []
    assert not Path("c-members.txt").exists()
    assert CliRunner().invoke(plot, ["c"]).exit_code == 0
    assert Path("c-report.html").read_text().count(" steps, the best is") == 1


def test_two_trainings_at_once_need_two_labels(monkeypatch):
    write("set.traj", emt_images(3))
    with open("t-log.txt", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match=r"another training writes t-log.txt: .* label"):
            run("set.traj", "--label", "t", "--cutoff", 4, "--max-steps", 2)
        with pytest.raises(LockedError, match="another training writes"):
            calculator("t", maxiter=2).train(emt_images(3))
        assert not list(Path().glob("*.ampdb"))
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        waiting = threading.Timer(1.5, fcntl.flock, [other, fcntl.LOCK_UN])
        waiting.start()
        run("set.traj", "--label", "t", "--cutoff", 4, "--max-steps", 2)
    calculator("t", maxiter=2).train(emt_images(3), overwrite=True)


def test_trainings_in_one_folder_do_not_meet(tmp_path):
    write("set.traj", emt_images(3))
    (tmp_path / ".queue-of-another").mkdir()
    run("set.traj", "--label", "t", "--cutoff", 4, "--max-steps", 2)
    assert (tmp_path / ".queue-of-another").exists()


@pytest.mark.parametrize("label", ["", "folder/"])
def test_what_is_no_prefix_is_no_label(label):
    from ampmpi.cli.fingerprint import command as fingerprint

    for one in (command, fingerprint):
        with pytest.raises(click.BadParameter, match="is not a prefix of file names"):
            one.make_context("x", ["set.traj", "--label", label])


def test_images_to_train_and_to_validate_on_are_told_apart():
    images = emt_images(6)
    other = images[1].copy()
    other.calc = SinglePointCalculator(other, energy=99.0, forces=images[1].get_forces())
    write("set.traj", images[:4])
    write("some.traj", [other, *images[4:]])
    write("same.traj", images[:2])
    common = ["set.traj", "--label", "t", "--cutoff", 4, "--max-steps", 2]
    result = CliRunner().invoke(command, [*map(str, common), "--validation", "some.traj"])
    assert result.exit_code == 0, result.output
    assert "warning: 1 of the images given for validation are among those to" in result.output
    assert "Training 1 model on 4 images, validating on 2" in result.output
    alone = calculator("alone", maxiter=2).train(images[:4], validation=images[4:])
    both = calculator("both", maxiter=2).train(images[:4], validation=[other, *images[4:]])
    assert both.best == replace(alone.best, seconds=both.best.seconds)
    with pytest.raises(InputError, match="all images given for validation are among those"):
        run(*common, "--validation", "same.traj", "--overwrite")


def test_an_element_to_validate_on_must_be_trained():
    images = copper_images(4)
    with pytest.raises(InputError, match="image 0 is to validate on and holds Pt, which no image"):
        calculator().train(images, validation=emt_images(4))
    assert not list(Path().glob("*.ampdb"))


@pytest.mark.parametrize("lacks_stress", [False, True])
def test_a_checkpoint_of_an_earlier_version_tells_the_same(lacks_stress):
    images, validation = emt_images(6), emt_images(3, seed=7)
    first = calculator(maxiter=20).train(images, validation=validation)
    table = curve()
    names = [field.name for field in fields(Step)]
    older = [n for n in names if n != "part" and not (lacks_stress and "stress" in n)]
    assert len(older) in (12, 16)
    known = checkpoint.load("t-checkpoint.npz")
    arrays = dict(known.arrays)
    for name in ("best", "end"):
        arrays[name] = arrays[name][[names.index(n) for n in older]]
    checkpoint.save("t-checkpoint.npz", replace(known, arrays=arrays))
    columns = [n for n in older if n in table.dtype.names]
    rows = [[f"{row[n]:.0f}" if n == "step" else repr(float(row[n])) for n in columns]
            for row in table]  # fmt: skip
    Path("t-curve.txt").write_text(
        "# " + " ".join(columns) + "\n" + "".join(" ".join(row) + "\n" for row in rows)
    )
    assert repr(calculator(maxiter=20).train(images, validation=validation).best) == repr(
        first.best
    )
    longer = calculator(maxiter=30).train(images, validation=validation)
    whole = calculator("whole", maxiter=30).train(images, validation=validation)
    assert repr(longer.best) == repr(replace(whole.best, seconds=longer.best.seconds))
    for name in table.dtype.names:
        if name != "seconds":
            np.testing.assert_array_equal(curve()[name], curve("whole")[name])


def test_a_step_of_unknown_length_is_refused():
    images = emt_images(3)
    calculator(maxiter=5).train(images)
    known = checkpoint.load("t-checkpoint.npz")
    arrays = {**known.arrays, "end": known.arrays["end"][:13]}
    checkpoint.save("t-checkpoint.npz", replace(known, arrays=arrays))
    with pytest.raises(ModelError, match="lacks the result that it tells of"):
        calculator(maxiter=5).train(images)


def test_patience_needs_something_to_validate_on():
    write("set.traj", emt_images(2))
    with pytest.raises(InputError, match="--patience needs --validation"):
        run("set.traj", "--label", "t", "--cutoff", 4, "--patience", 5, "--validation-fraction", 0)
    with pytest.raises(InputError, match="patience needs validation images"):
        calculator().train(emt_images(2), schedule=Schedule(patience=5))


def test_patience_of_few_images_needs_some_to_validate_on():
    write("set.traj", emt_images(3))
    common = ["set.traj", "--label", "t", "--cutoff", 4, "--hidden", 3, "--max-steps", 2]
    with pytest.raises(InputError, match="patience is given, but of 3 images none is kept"):
        run(*common, "--patience", 500)
    assert not list(Path().glob("*.ampdb"))
    assert "validating on 0" in run(*common)


@pytest.mark.parametrize(("n", "expected"), [(19, 0), (20, 2), (96, 10)])
def test_a_tenth_of_the_images_is_kept_for_validation_where_nothing_is_said(n, expected):
    assert dataset.validation_split(n, None, 3).sum() == expected
    assert dataset.validation_split(n, 0.0, 3).sum() == 0


@pytest.mark.filterwarnings("ignore:.*leave")
def test_learning_few_images_by_heart_ends_by_patience():
    write("set.traj", emt_images(24))
    output = run("set.traj", "--label", "t", "--cutoff", 4, "--hidden", "12,12", "--patience", 60,
               "--energy-rmse", 1e-9, "--force-rmse", 1e-9, "--max-steps", 3000)  # fmt: skip
    assert "validating on 2" in output
    assert "t.amp: early stopping after" in output
    table = curve()
    best = np.nanmin(table["val_loss"])
    assert best < table["val_loss"][-1]
    assert table["loss"][-1] < 1e-2 * table["loss"][0]


def test_a_wrong_optimiser_is_refused_before_a_checkpoint_is_removed():
    images = emt_images(4)
    calculator(optimizer="gauss-newton", maxiter=4).train(images)
    before = Path("t-checkpoint.npz").read_bytes()
    for regressor in (
        Regressor("gauss-newton", lossprime=False),
        Regressor("gauss-newton", {"options": {"maxiter": 3}}),
    ):
        calc = calculator()
        calc.model.regressor = regressor
        with pytest.raises(InputError, match="gauss-newton"):
            calc.train(images, restart=True, overwrite=True)
    assert Path("t-checkpoint.npz").read_bytes() == before


def test_a_start_on_part_of_the_images_goes_on_to_all(monkeypatch):
    monkeypatch.setattr("ampmpi.model.gauss_newton.ENOUGH", 0.3)
    calc = calculator(optimizer="gauss-newton", maxiter=50)
    calc.model.regressor = Regressor("gauss-newton", {"options": {"start": 5, "block": 6}})
    result = calc.train(emt_images(40))
    parts = curve()["part"]
    assert parts[0] == 1.0
    assert parts[-1] == 0.0
    assert (np.diff(parts) <= 0.0).all()
    assert result.best.part == 0.0
    whole = curve()[parts == 0.0]
    assert result.best.loss == whole["loss"].min()
    # the loss of a part stands for that of all: at the same point both are alike
    last = curve()[parts > 0.0]["loss"].min()
    assert 0.3 < whole["loss"][0] / last < 10.0


def test_an_end_on_part_of_the_images_is_told_of_all(monkeypatch):
    monkeypatch.setattr("ampmpi.model.gauss_newton.ENOUGH", 0.3)
    images = emt_images(40)
    result = calculator("early", optimizer="gauss-newton", maxiter=4).train(images)
    assert (curve("early")["part"] == 1.0).all()
    assert result.best.part == 0.0
    found = [image.copy() for image in images]
    for image in found:
        image.calc = Amp.load("early.amp")
    errors = [
        (one.get_potential_energy() - image.get_potential_energy()) / len(image)
        for one, image in zip(found, images, strict=True)
    ]
    assert result.best.energy_rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert result.best.energy_maxresid == pytest.approx(np.abs(errors).max())
    again = calculator("early", optimizer="gauss-newton", maxiter=4)
    assert repr(again.train(images).best) == repr(result.best)
    assert again.model.lossfunction.energy_loss == pytest.approx(np.sum(np.square(errors)))
    assert "the best is" in outcome("early-curve.txt")


@pytest.mark.parametrize("labelled", [0, 1, 2])
def test_errors_on_part_of_the_images_are_means_over_those_with_the_label(monkeypatch, labelled):
    monkeypatch.setattr("ampmpi.model.gauss_newton.ENOUGH", 0.3)
    images = emt_images(40)
    here = [image for image in images if part_of(hash_image(image)) >= 1]
    for image in here[labelled:]:
        image.info["config_energy_weight"] = 0.0
    calc = calculator("u", optimizer="gauss-newton", maxiter=3, energy_rmse=None)
    calc.train(images)
    first = curve("u")[0]
    assert first["part"] == 1.0
    errors = []
    for image in here[:labelled]:
        copy = image.copy()
        copy.calc = Amp.load("u-initial-parameters.amp")
        errors.append((copy.get_potential_energy() - image.get_potential_energy()) / len(image))
    expected = np.sqrt(np.mean(np.square(errors))) if errors else np.nan
    assert first["energy_rmse"] == pytest.approx(expected, nan_ok=True)
    largest = np.abs(errors).max() if errors else np.nan
    assert first["energy_maxresid"] == pytest.approx(largest, nan_ok=True)
    curve_figure(["u-curve.txt"]).canvas.draw()  # without warnings


def test_differences_on_part_of_the_images_are_those_of_its_loss(monkeypatch):
    monkeypatch.setattr("ampmpi.model.gauss_newton.ENOUGH", 0.3)
    losses = {}
    for d in (None, 1e-5):
        calc = calculator(f"d{d}", optimizer="gauss-newton", maxiter=12)
        calc.model.lossfunction.d = d
        calc.train(emt_images(40))
        assert curve(f"d{d}")["part"][0] == 1.0
        losses[d] = curve(f"d{d}")["loss"]
    np.testing.assert_allclose(losses[1e-5], losses[None], rtol=1e-4)


def test_a_calculator_with_a_narrower_range_warns_of_its_own():
    from ampmpi.evaluation import evaluate
    from ampmpi.images import open_images

    calculator("wide", maxiter=2).train([*emt_images(4), *emt_images(4, seed=5, width=0.5)])
    calculator("narrow", maxiter=2).train(emt_images(4))
    images = open_images(emt_images(1, seed=5, width=0.5))
    wide, narrow = Amp.load("wide.amp"), Amp.load("narrow.amp")
    assert evaluate([wide], images)[0].warnings == ()
    warnings = evaluate([narrow], images)[0].warnings
    assert warnings
    assert evaluate([wide, narrow], images)[0].warnings == warnings


def test_the_descriptors_dblabel_comes_first_and_is_not_compressed():
    loss = LossFunction(convergence={"energy_rmse": 1e-9}, maxiter=2)
    descriptor = Gaussian(cutoff=4.0, dblabel="of-descriptor")
    calc = Amp(descriptor, NeuralNetwork((3,), lossfunction=loss), label="t", dblabel="of-amp")
    calc.train(emt_images(3))
    assert calc.dblabel == "of-descriptor"
    assert len(list(Path("of-descriptor-fingerprints.ampdb/loose").iterdir())) == 3
    assert not list(Path().glob("of-amp*"))
    calc.descriptor = Gaussian(cutoff=4.0)
    assert calc.dblabel == "of-amp"


def test_the_labels_folder_is_made_also_without_a_log():
    calc = calculator("new/folder/t", maxiter=2)
    calc.logging = False
    assert calc.train(emt_images(3)).file == "new/folder/t.amp"
    assert Path("new/folder/t.amp").exists()


def test_no_label_means_no_log():
    assert calculator(None, maxiter=2).train(emt_images(3)).file == "amp.amp"
    assert not Path("amp-log.txt").exists()
    calc = calculator("t", maxiter=2)
    calc.logging = False
    calc.train(emt_images(3))
    assert not Path("t-log.txt").exists()


def test_a_dry_run_writes_nothing():
    write("set.traj", emt_images(3))
    text = run("set.traj", "--label", "t", "--cutoff", 4, "--committee", 3, "--dry-run")
    assert "Memory: " in text
    assert "member2" in text
    assert "3 to fit, with 1 group of 1 rank:" in text
    small = run("set.traj", "--label", "t", "--cutoff", 4, "--memory", 0.1, "--dry-run")
    assert "do not fit and are read from the database or computed anew" in small
    assert [p.name for p in Path().iterdir()] == ["set.traj"]


def test_evaluate_and_plot():
    from ampmpi.cli.evaluate import command as evaluate
    from ampmpi.cli.plot import command as plot

    write("set.traj", emt_images(6))
    write("far.traj", emt_images(2, seed=5, width=0.5))
    write("h.traj", Atoms("H"))
    run("set.traj", "--label", "c", "--cutoff", 4, "--committee", 2, "--max-steps", 30)
    files = ["c-committee-0.amp", "c-committee-1.amp"]
    result = CliRunner().invoke(evaluate, [*files, "set.traj", "far.traj", "--output", "o.jsonl"])
    assert result.exit_code == 0, result.output
    assert "disagreement of 2" in result.output
    assert re.search(
        r"far\.traj, image 0: atom \d \((Cu|Pt)\), feature \d+ "
        r"\((G2 of (Cu|Pt), eta [\d.]+, offset 0|G4 of .*, zeta \d)\): .* outside the trained ",
        result.output,
    )
    assert "forces on Pt" in result.output
    rows = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    image = emt_images(6)[0]
    predicted = []
    for file in files:
        image.calc = Amp.load(file)
        predicted.append(image.get_potential_energy())
    assert rows[0]["energy"] == pytest.approx(np.mean(predicted), rel=1e-9)
    assert rows[0]["energy_spread"] == pytest.approx(np.std(predicted), rel=1e-6)

    none = CliRunner().invoke(evaluate, [files[0], "set.traj@5:5"])
    assert "set.traj: the frames given after the @ are not among its 6 frames" in str(
        none.exception
    )
    write("bare.extxyz", [image.copy() for image in emt_images(2)])
    bare = CliRunner().invoke(evaluate, [files[0], "bare.extxyz"])
    assert "no energies or forces to compare with" in bare.output
    strange = CliRunner().invoke(evaluate, [files[0], "h.traj"])
    assert str(strange.exception).startswith("h.traj, image 0: the descriptor has no functions")
    unwritten = CliRunner().invoke(evaluate, [files[0], "far.traj", "--output", "no/o.jsonl"])
    assert "--output no/o.jsonl cannot be written" in str(unwritten.exception)

    result = CliRunner().invoke(plot, ["c", "set.traj"])
    assert result.exit_code == 0, result.output
    html = Path("c-report.html").read_text()
    assert html.count("data:image/png;base64,") == 3
    assert "http" not in html
    assert Path("c-parity.png").stat().st_size > 10000
    best = min(np.genfromtxt(path, names=True)["loss"].min() for path in curves("c"))
    assert re.search(r"20-10-10-1, Pt 20-10-10-1, tanh, \d+ parameters", html)
    assert html.count("30 steps, the best is") == len(curves("c")) == 2
    assert f"{best:.4g}" in html

    bare = CliRunner().invoke(plot, ["c", "bare.extxyz"])
    assert "neither energies nor forces" in str(bare.exception)


def curves(label):
    return sorted(Path(f"{label}-members").glob("*-curve.txt"))


def test_pictures_of_a_training_of_energies_alone():
    from ampmpi.cli.plot import command as plot

    write("set.traj", emt_images(6))
    run("set.traj", "--label", "e", "--cutoff", 4, "--no-forces", "--max-steps", 12)
    only = [image.copy() for image in emt_images(6)]
    for image, known in zip(only, emt_images(6), strict=True):
        image.calc = SinglePointCalculator(image, energy=known.get_potential_energy())
    write("only.extxyz", only)
    result = CliRunner().invoke(plot, ["e", "only.extxyz", "--format", "svg"])
    assert result.exit_code == 0, result.output
    learning, parity = Path("e-learning.svg").read_text(), Path("e-parity.svg").read_text()
    assert "energy rmse" in learning
    assert "error of the energy" in parity
    assert "force" not in learning + parity
    assert "validation" not in Path("e-report.html").read_text()
