"""Trainings that go on from a fitted potential, with other images or another loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner
from training_images import emt_images

from ampmpi import Amp, LossFunction, NeuralNetwork
from ampmpi.cli.train import command
from ampmpi.entries import Fingerprint
from ampmpi.errors import InputError, ModelError
from ampmpi.evaluation import evaluate
from ampmpi.model import checkpoint
from ampmpi.training.fit import Fit

FIRST = ["--cutoff", "4", "--hidden", "5,4", "--max-steps", "60"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("set.traj", emt_images(6, width=0.05))
    write("more.traj", emt_images(10, seed=5, width=0.12))


def run(images, label, *options):
    given = [images, "--label", label, *map(str, options)]
    result = CliRunner().invoke(command, given, standalone_mode=False, catch_exceptions=False)
    return result.output


def first_step(label):
    return np.atleast_1d(np.genfromtxt(f"{label}-curve.txt", names=True))[0]


def loss_of(file, images, force_coefficient):
    """Amp's loss of a calculator, from its energies and forces."""
    total = 0.0
    for atoms in images:
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        copy = atoms.copy()
        copy.calc = Amp.load(file)
        total += ((copy.get_potential_energy() - energy) / len(atoms)) ** 2
        total += force_coefficient * np.mean((copy.get_forces() - forces) ** 2)
    return total


def test_a_training_starts_with_the_loss_of_the_file():
    run("set.traj", "a", *FIRST)
    run("more.traj", "b", "--start-from", "a.amp", "--max-steps", 1, "--force-coefficient", 0.3)
    expected = loss_of("a.amp", emt_images(10, seed=5, width=0.12), 0.3)
    assert first_step("b")["loss"] == pytest.approx(expected, rel=1e-10)
    old, new = Amp.load("a.amp").model, Amp.load("b.amp").model
    assert any((new.fprange[e] != old.fprange[e]).any() for e in old.fprange)
    for element in old.fprange:
        assert (new.fprange[element][:, 0] <= old.fprange[element][:, 0]).all()
        assert (new.fprange[element][:, 1] >= old.fprange[element][:, 1]).all()
    assert all(not one.outside for one in evaluate(Amp.load("b.amp"), "more.traj"))
    assert any(one.outside for one in evaluate(Amp.load("a.amp"), "more.traj"))


def test_inputs_are_scaled_as_the_options_of_this_training_say():
    run("set.traj", "a", *FIRST)
    options = ["--start-from", "a.amp", "--max-steps", 9]
    run("more.traj", "range", *options)
    chosen = ["--scale-features", "deviation", "--constant-features", "drop"]
    run("more.traj", "b", *options, *chosen)
    settings = checkpoint.load("b-checkpoint.npz").settings
    assert settings["scale_features"] == "deviation"
    assert settings["constant_features"] == "drop"
    assert first_step("b")["loss"] == pytest.approx(first_step("range")["loss"], rel=1e-10)
    losses = [np.genfromtxt(f"{name}-curve.txt", names=True)["loss"][-1] for name in ("range", "b")]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3), "the steps are others"


def test_fewer_steps_are_needed_than_from_the_start():
    write("most.traj", emt_images(14, width=0.05))
    run("set.traj", "a", *FIRST[:-1], 400)
    criteria = ["--energy-rmse", 0.02, "--force-rmse", 0.25, "--max-steps", 2000]
    run("most.traj", "b", "--start-from", "a", *criteria)
    run("most.traj", "c", *FIRST[:-2], *criteria)
    steps = [len(Path(f"{label}-curve.txt").read_text().splitlines()) - 1 for label in "bc"]
    assert steps[0] < steps[1] / 2


class Killed(BaseException):
    """Ends a training wherever it is."""


def test_the_same_command_returns_its_result_and_goes_on(monkeypatch):
    run("set.traj", "a", *FIRST)
    command = ["--start-from", "a.amp", "--max-steps"]
    run("more.traj", "whole", *command, 30)
    append, kept = Fit._observe, []

    def killed(self):
        append(self)
        kept.append(self)
        if len(kept) == 15:
            raise Killed

    monkeypatch.setattr(Fit, "_observe", killed)
    with pytest.raises(Killed):
        run("more.traj", "b", *command, 30, "--checkpoint-every", 4)
    monkeypatch.setattr(Fit, "_observe", append)
    run("more.traj", "b", *command, 30)
    assert Path("b.amp").read_bytes() == Path("whole.amp").read_bytes()
    # over the file that it started from
    run("more.traj", "a", *command, 20, "--overwrite")
    assert "finished already" in run("more.traj", "a", *command, 20)
    run("more.traj", "a", *command, 30)
    assert Path("a.amp").read_bytes() == Path("whole.amp").read_bytes()


def test_a_committee_goes_on_seat_by_seat():
    run("set.traj", "a", *FIRST[:-1], 5, "--committee", 2)
    run("more.traj", "b", "--start-from", "a", "--committee", 2, "--max-steps", 1,
        "--force-coefficient", 0.1)  # fmt: skip
    images = emt_images(10, seed=5, width=0.12)
    for seat in (0, 1):
        name = f"b-members/5-4_member{seat}_start0"
        expected = loss_of(f"a-committee-{seat}.amp", images, 0.1)
        assert first_step(name)["loss"] == pytest.approx(expected, rel=1e-10)
    run("more.traj", "c", "--start-from", "a.amp", "--committee", 2, "--bootstrap",
        "--max-steps", 4)  # fmt: skip
    one, other = (Amp.load(f"c-committee-{seat}.amp").model.vector for seat in (0, 1))
    assert not np.array_equal(one, other)


def test_elements_that_are_not_in_the_images_stay_as_they_are():
    run("set.traj", "a", *FIRST)
    images = emt_images(3, seed=3)
    for atoms in images:
        results = atoms.calc.results
        atoms.symbols[:] = "Cu"
        atoms.calc = SinglePointCalculator(atoms, **results)
    write("copper.traj", images)
    run("copper.traj", "b", "--start-from", "a.amp", "--max-steps", 5)
    old, new = Amp.load("a.amp").model, Amp.load("b.amp").model
    np.testing.assert_array_equal(old.fprange["Pt"], new.fprange["Pt"])
    for before, after in zip(old.layers["Pt"], new.layers["Pt"], strict=True):
        np.testing.assert_array_equal(before, after)
    assert not np.array_equal(old.layers["Cu"][1], new.layers["Cu"][1])


@pytest.mark.parametrize("way", ["command", "script"])
def test_an_element_that_the_file_lacks_is_named(way):
    run("set.traj", "a", *FIRST[:-1], 2)
    gold = Atoms("CuAu", positions=[(0, 0, 0), (0, 0, 2.5)])
    gold.calc = SinglePointCalculator(gold, energy=1.0, forces=np.zeros((2, 3)))
    write("gold.traj", [*emt_images(2), gold])
    reason = r"gold.traj, image 2 holds Au, an element that the model lacks \(it has Cu, Pt\)"
    with pytest.raises(ModelError, match=reason):
        if way == "command":
            run("gold.traj", "b", "--start-from", "a.amp")
        else:
            Amp.load("a.amp", label="b").train("gold.traj")
    assert not list(Path().glob("b*"))


def test_a_script_keeps_ranges_unless_told():
    run("set.traj", "a", *FIRST)
    before = Amp.load("a.amp").model
    for label, widen in (("kept", False), ("wider", True)):
        calc = Amp.load("a.amp", label=label)
        calc.model.lossfunction = LossFunction(maxiter=1, convergence={"force_rmse": 1e-9})
        calc.train("more.traj", widen=widen)
        same = all(np.array_equal(calc.model.fprange[e], before.fprange[e]) for e in before.fprange)
        assert same != widen
    a, b = first_step("kept"), first_step("wider")
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-10)


def test_a_wider_range_leaves_the_function_as_it_is():
    rng = np.random.default_rng(1)
    ranges = np.array([[0.0, 1.0], [3.0, 3.0], [5.0, 5.0], [-2.0, 0.5], [1.0, 1.0 + 5e-9]])
    others = np.array([[-1.0, 1.5], [2.5, 3.0], [5.0, 5.0], [-1.0, 0.0], [0.5, 3.0]])
    layers = [rng.normal(size=(6, 4)), rng.normal(size=(5, 1))]
    model = NeuralNetwork(
        (4,),
        weights={"Cu": {1: layers[0], 2: layers[1]}},
        scalings={"Cu": {"intercept": -1.0, "slope": 2.0}},
        fprange={"Cu": ranges},
    )
    values = rng.uniform(0.0, 4.0, (7, 5))
    fingerprint = Fingerprint(("Cu",) * 7, {"Cu": 5}, values)
    before = model.atomic_energies(fingerprint)
    model.widen({"Cu": others, "Au": others})
    after = model.atomic_energies(fingerprint)
    assert list(model.fprange) == ["Cu"]
    np.testing.assert_array_equal(
        model.fprange["Cu"], [[-1.0, 1.5], [2.5, 3.0], [5.0, 5.0], [-2.0, 0.5], [0.5, 3.0]]
    )
    np.testing.assert_allclose(after[0], before[0], rtol=1e-12)
    np.testing.assert_allclose(after[1], before[1], rtol=1e-10, atol=1e-13)
    whole = model.layers["Cu"][0]
    model.widen({"Cu": ranges})
    assert model.layers["Cu"][0] is whole


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--hidden", "5,5"], "--hidden is not what a.amp has, which is 5,4"),
        (["--hidden", "5,4", "--hidden", "5"], "--hidden is not what a.amp has"),
        (["--activation", "sigmoid"], "--activation sigmoid is not what a.amp has, which is tanh"),
        (["--cutoff", "5"], "--start-from and --cutoff are given"),
        (["--functions", "auto"], "--start-from and --functions are given"),
        (["--starts", "2"], "--start-from and --starts are given"),
        (["--no-prescale"], "--start-from and --prescale are given"),
        (["--descriptor", "g.toml"], "--descriptor g.toml: give module:object"),
        (["--committee", "2"], "give --bootstrap, too, or the label of a committee"),
        (["--halving", "--validation-fraction", "0.3"], "--halving needs several fits"),
    ],
)
def test_options_that_contradict_the_file_are_refused(options, reason):
    run("set.traj", "a", *FIRST[:-1], 2)
    with pytest.raises(InputError, match=reason):
        run("more.traj", "b", "--start-from", "a.amp", *options)
    assert not list(Path().glob("b*"))


def test_options_that_say_the_same_are_taken():
    run("set.traj", "a", *FIRST[:-1], 2)
    run("more.traj", "b", "--start-from", "a.amp", "--hidden", "5,4", "--activation", "tanh",
        "--max-steps", 2)  # fmt: skip
    assert Path("b.amp").exists()


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("none", InputError, "--start-from none: there is no such calculator"),
        ("none.amp", InputError, "there is no such calculator; give a .amp file or the label"),
        ("text.amp", ModelError, "text.amp"),
        ("new.amp", ModelError, "new.amp lacks weights, scalings or ranges"),
        ("two", InputError, "is a committee of 2: give --committee 2, or one of its files"),
    ],
)
def test_what_is_no_fitted_potential_is_refused(name, error, reason):
    Path("text.amp").write_text("nothing")
    if name == "two":
        run("set.traj", "two", *FIRST[:-1], 2, "--committee", 2)
    if name == "new.amp":
        run("set.traj", "a", *FIRST[:-1], 2)
        calc = Amp.load("a.amp")
        calc.model = NeuralNetwork((5, 4))
        calc.save("new.amp")
    with pytest.raises(error, match=reason):
        run("more.traj", "b", "--start-from", name)
