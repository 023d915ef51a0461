"""Stresses from images to potentials: labels, trainings, restarts, evaluations, refusals."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.units import Bohr, Hartree
from click.testing import CliRunner

from ampmpi import (
    Amp,
    Custom,
    Gaussian,
    LossFunction,
    NeuralNetwork,
    Regressor,
    evaluate,
    hash_images,
)
from ampmpi.cli.evaluate import command as evaluate_command
from ampmpi.cli.images import command as images_command
from ampmpi.cli.plot import command as plot_command
from ampmpi.cli.train import command as train_command
from ampmpi.errors import InputError, UnusableImagesError
from ampmpi.images import open_images
from ampmpi.images.labels import LabelError, LabelKeys, choose, offers, stress_of
from ampmpi.images.reading import Reading, named
from ampmpi.model import amp_file
from ampmpi.training.curve import columns_of

SHARES = np.array([1, 1, 1, 2, 2, 2]) / 9


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def strained_images(n, seed=0, clusters=True):
    """Strained cells of Cu and Pt and, without a cell, every third a dimer; labels of EMT."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        atoms = bulk("Cu", "fcc", a=3.75, cubic=True)
        strain = rng.uniform(-0.04, 0.04, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain + strain.T), scale_atoms=True)
        if clusters and i % 3 == 2:
            atoms = Atoms("CuPt", positions=[(0, 0, 0), (0, 0, 2.4)])
        atoms.numbers[rng.integers(0, 2, len(atoms)).astype(bool)] = 78
        atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if atoms.cell.rank == 3:
            results["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **results)
        found.append(atoms)
    return found


def calculator(label="t", maxiter=10, stress=0.2, forces=True, **loss):
    convergence = {"energy_rmse": 1e-9, "force_rmse": 1e-9 if forces else None}
    lossfunction = LossFunction(
        convergence={**convergence, **loss}, maxiter=maxiter, stress_coefficient=stress
    )
    return Amp(
        Gaussian(cutoff=4.5),
        NeuralNetwork(
            (4,), lossfunction=lossfunction, regressor=Regressor("L-BFGS-B"), randomseed=2,
            prescale=True,
        ),
        label=label,
    )  # fmt: skip


def stress_errors(calc, images):
    """Predicted less reference stresses of the images that have one, (n, 6)."""
    errors = []
    for image in images:
        if "stress" in image.calc.results:
            copy = image.copy()
            copy.calc = calc
            errors.append(copy.get_stress() - image.calc.results["stress"])
    return np.array(errors)


def curve(label="t"):
    return np.genfromtxt(f"{label}-curve.txt", names=True)


COMMANDS = {
    "train": train_command, "evaluate": evaluate_command, "plot": plot_command,
    "images": images_command,
}  # fmt: skip


def run(name, *arguments):
    result = CliRunner().invoke(COMMANDS[name], list(arguments), standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def labelled(name, value, atoms=None):
    atoms = bulk("Cu") if atoms is None else atoms
    atoms.info[name] = value
    return atoms


VOIGT = np.array([0.01, -0.02, 0.03, 0.004, -0.005, 0.006])
MATRIX = np.array([[0.01, 0.006, -0.005], [0.006, -0.02, 0.004], [-0.005, 0.004, 0.03]])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stress", VOIGT),
        ("REF_stress", MATRIX),
        ("dft-stress", MATRIX.ravel()),
        ("virial", -bulk("Cu").cell.volume * MATRIX),
        ("REF_virials", -bulk("Cu").cell.volume * MATRIX.ravel()),
        ("dft_virial", -bulk("Cu").cell.volume * VOIGT),
    ],
)
def test_a_stress_is_found_whatever_its_name_and_form(name, value):
    atoms = labelled(name, value)
    keys = choose([offers(atoms)], LabelKeys(), forces=False, stress=True).keys
    assert keys.get("stress") == name
    np.testing.assert_allclose(stress_of(atoms, keys), VOIGT, rtol=1e-12)


def test_a_virial_has_the_sign_and_the_unit_of_ases_stress():
    """A compressed crystal pushes outwards: its pressure and its virial are positive."""
    atoms = bulk("Cu", a=3.4)
    atoms.calc = EMT()
    stress = atoms.get_stress()
    assert stress[0] < 0
    atoms.calc = None
    atoms.info["virial"] = -stress[0] * atoms.cell.volume * np.eye(3)
    assert atoms.info["virial"][0, 0] > 0
    assert stress_of(atoms, LabelKeys(stress="virial"))[0] == pytest.approx(stress[0], rel=1e-12)


def test_a_live_calculator_is_asked():
    atoms = bulk("Cu", a=3.4)
    atoms.calc = EMT()
    np.testing.assert_array_equal(stress_of(atoms, LabelKeys()), atoms.get_stress())


def test_a_stress_comes_before_a_virial_of_the_same_set():
    atoms = labelled("REF_stress", MATRIX, labelled("REF_virial", MATRIX))
    assert choose([offers(atoms)], LabelKeys(), stress=True).keys.stress == "REF_stress"
    atoms = labelled("dft_stress", MATRIX, labelled("hf_stress", MATRIX))
    with pytest.raises(InputError, match="several stresses, 'dft_stress', 'hf_stress': choose one"):
        choose([offers(atoms)], LabelKeys(), stress=True)


def test_units_of_a_file_hold_for_stresses_and_virials():
    atoms = bulk("Cu", a=3.6)
    atoms.info |= {"energy": -1.0, "stress": MATRIX, "REF_virial": MATRIX.ravel()}
    write("au.extxyz", atoms)
    for name, factor in (("stress", Hartree / Bohr**3), ("REF_virial", None)):
        keys = LabelKeys(stress=name)
        images = open_images(named(["au.extxyz"], Reading.of(None, "atomic", keys)))
        with closing(images):
            [(_, image)] = images.read_many([0])
        factor = factor or -Hartree / image.cell.volume
        np.testing.assert_allclose(stress_of(image, keys), VOIGT * factor, rtol=1e-9)
        assert image.cell.volume == pytest.approx(atoms.cell.volume * Bohr**3)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (np.zeros(5), r"has a stress of shape \(5,\) where \(6,\) or \(3, 3\) is expected"),
        (np.full(6, np.nan), "has a stress that is not finite"),
        (np.arange(9.0).reshape(3, 3), "has a stress that is not symmetric"),
        (np.zeros(6, complex), "has a stress that is not made of real numbers"),
        ([[1.0], [1.0, 2.0]], "has a stress of a wrong shape"),
        ("high", r"has a stress of shape \(\)"),
    ],
)
def test_a_wrong_stress_is_named(value, sentence):
    images = strained_images(4, clusters=False)
    images[2].info["stress"] = value
    del images[2].calc.results["stress"]
    with pytest.raises(LabelError, match=sentence):
        stress_of(images[2], LabelKeys())
    with pytest.raises(UnusableImagesError, match=f"image 2 {sentence}") as raised:
        calculator().train(images)
    assert "\n" not in str(raised.value)
    result = calculator(maxiter=2).train(images, skip_unusable=True)
    assert result.outcome == "maxiter"
    assert "1 of 4 images left out" in Path("t-log.txt").read_text()


def test_a_stress_without_a_cell_is_named_and_skipped_on_demand():
    images = strained_images(4)
    images[2].calc.results["stress"] = np.zeros(6)
    with pytest.raises(UnusableImagesError, match="image 2 has a stress, but no cell with three"):
        calculator().train(images)
    calculator(maxiter=2).train(images, skip_unusable=True)
    assert (
        "1 image without a stress, trained on without it: image 2" in Path("t-log.txt").read_text()
    )


def test_a_stress_of_other_positions_is_refused():
    images = strained_images(2, clusters=False)
    images[1].positions += 0.1
    with pytest.raises(LabelError, match="has a stress of other positions"):
        stress_of(images[1], LabelKeys())


def test_periodic_images_have_to_have_one():
    images = strained_images(6)
    del images[1].calc.results["stress"]
    with pytest.raises(UnusableImagesError, match="image 1 has no stress; train without stresses"):
        calculator().train(images)
    with pytest.raises(UnusableImagesError, match="image 0 has no stress under the name 'other'"):
        calculator().train(strained_images(3, clusters=False), stress_key="other")
    result = calculator().train(images, skip_unusable=True)
    log = Path("t-log.txt").read_text()
    assert "3 images without a stress, trained on without it: images 1, 2 and 5" in log
    assert result.best.stress_rmse > 0
    with pytest.raises(UnusableImagesError, match=r"no image to train on .* has a stress"):
        calculator("u").train([images[2], images[5]])


@pytest.mark.parametrize("forces", [True, False])
def test_a_trainings_errors_are_those_of_the_calculator(forces):
    """Also of images of which some have no stress, and of a training without forces."""
    images, others = strained_images(9), strained_images(5, seed=3)
    calc = calculator(forces=forces)
    result = calc.train(images, validation=others)
    for found, prefix in ((images, ""), (others, "val_")):
        errors = stress_errors(calc, found)
        assert len(errors) == (6 if found is images else 4)
        rmse = np.sqrt(np.mean(errors**2 @ SHARES))
        assert getattr(result.best, f"{prefix}stress_rmse") == pytest.approx(rmse, rel=1e-9)
        largest = getattr(result.best, f"{prefix}stress_maxresid")
        assert largest == pytest.approx(np.abs(errors).max(), rel=1e-9)
    assert np.isnan(result.best.force_rmse) == (not forces)
    volumes = [image.cell.volume / len(image) for image in images if image.cell.rank == 3]
    virials = stress_errors(calc, images) * np.array(volumes)[:, None]
    term = 0.2 * np.sum(virials**2 @ SHARES)
    step = result.best
    forced = 0.0 if not forces else 0.04 * 9 * step.force_rmse**2
    assert step.loss == pytest.approx(9 * step.energy_rmse**2 + forced + term, rel=1e-9)
    table = curve()
    assert table.dtype.names == columns_of(stress=True)
    assert table["stress_rmse"][-1] == step.stress_rmse
    assert table["stress_rmse"][-1] < table["stress_rmse"][0]


def test_arrays_that_do_not_fit_give_the_same():
    images = strained_images(6)
    calculator("a").train(images)
    calculator("b").train(images, memory=1e3)
    assert "do not fit" in Path("b-log.txt").read_text()
    assert [curve("a")[name].tolist() for name in ("loss", "stress_rmse")] == [
        curve("b")[name].tolist() for name in ("loss", "stress_rmse")
    ]


def test_a_restart_ends_as_an_undisturbed_training():
    images = strained_images(6)
    calculator("whole", 24).train(images)
    calculator("parts", 11).train(images)
    calculator("parts", 24).train(images)
    assert (
        Amp.load("parts.amp").model.vector.tobytes() == Amp.load("whole.amp").model.vector.tobytes()
    )
    again = calculator("parts", 24)
    again.train(images)
    assert again.model.lossfunction.stress_maxresid == curve("parts")["stress_maxresid"][-1]
    with pytest.raises(InputError, match=r"of another training .*stress_coefficient"):
        calculator("parts", 24, stress=0.3).train(images)
    images[0].calc.results["stress"] = 1.01 * images[0].calc.results["stress"]
    with pytest.raises(InputError, match=r"of another training .*images"):
        calculator("parts", 24).train(images)


def test_without_a_coefficient_nothing_is_about_stresses():
    images = strained_images(4)
    calculator("with", stress=None, maxiter=5).train(images)
    for image in images:
        image.calc.results.pop("stress", None)
    calculator("without", stress=None, maxiter=5).train(images)
    both = [Path(f"{label}-curve.txt").read_text().splitlines() for label in ("with", "without")]
    rows = [[row.rpartition(" ")[0] for row in table] for table in both]  # without the seconds
    assert rows[0] == rows[1]
    assert "stress" not in both[0][0]
    assert "stress" not in Path("with-log.txt").read_text()
    assert Path("with.amp").read_text() == Path("without.amp").read_text()


def test_what_is_saved_says_nothing_of_the_loss():
    calculator(maxiter=2).train(strained_images(3))
    assert "stress" not in Path("t.amp").read_text()
    assert "stress_coefficient" not in amp_file.read("t.amp")[1]


def test_convergence_needs_the_stress_criteria():
    images = strained_images(4)
    loose = {"energy_rmse": 1e3, "force_rmse": 1e3}
    met = calculator("a", stress_rmse=1e3, stress_maxresid=1e3, **loose).train(images)
    assert (met.outcome, met.steps) == ("converged", 1)
    assert calculator("b", stress_rmse=1e-9, **loose).train(images).outcome == "maxiter"
    assert calculator("c", stress_maxresid=1e-9, **loose).train(images).outcome == "maxiter"


def test_a_criterion_without_a_coefficient_is_refused():
    with pytest.raises(InputError, match="convergence has stress_rmse, but no stresses are"):
        LossFunction(convergence={"stress_rmse": 0.01})
    with pytest.raises(InputError, match="stress_coefficient is -1; it must not be negative"):
        LossFunction(stress_coefficient=-1)
    assert "stress 0.5" in repr(LossFunction(stress_coefficient=0.5))


def test_the_loss_of_a_script_is_that_of_the_training():
    images = strained_images(5)
    calc = calculator(maxiter=6)
    calc.train(images)
    loss = calc.model.lossfunction
    trained = {name: getattr(loss, name) for name in ("loss", "stress_loss", "stress_squares")}
    hashed = hash_images(images)
    calc.descriptor.calculate_fingerprints(hashed, calculate_derivatives=True)
    calc.model.fit(hashed, calc.descriptor, only_setup=True)
    loss.raise_ConvergenceOccurred = False
    parts = loss.get_loss(calc.model.vector)
    for name, value in trained.items():
        assert parts[name] == pytest.approx(value, rel=1e-10)
    assert parts["stress_loss"] > 0


def test_committees_draw_as_many_stresses():
    write("set.traj", strained_images(9))
    arguments = ["train", "set.traj", "--label", "c", "--cutoff", "4.5", "--max-steps", "6"]
    run(*arguments, "--stress-coefficient", "0.2", "--committee", "2", "--bootstrap")
    head, *rows = Path("c-members.txt").read_text().splitlines()
    assert head.split()[-3:] == ["stress_rmse", "val_stress_rmse", "committee"]
    assert all(float(row.split()[-3]) > 0 for row in rows)


def test_the_commands_train_evaluate_and_draw_stresses():
    write("set.extxyz", strained_images(6))
    write("other.extxyz", strained_images(4, seed=4))
    arguments = ["train", "set.extxyz", "--label", "t", "--cutoff", "4.5", "--max-steps", "8"]
    with pytest.raises(InputError, match="--stress-rmse needs --stress-coefficient"):
        run(*arguments, "--stress-rmse", "0.01")
    arguments += ["--stress-coefficient", "0.2", "--stress-rmse", "1e-4"]
    arguments += ["--validation", "other.extxyz", "--energy-rmse", "1e3", "--force-rmse", "1e3"]
    output = run(*arguments)
    calc, images = Amp.load("t.amp"), read("other.extxyz", ":")
    errors = stress_errors(calc, images)
    rmse = 1e3 * np.sqrt(np.mean(errors**2 @ SHARES))
    assert f"{rmse:.3g} meV/Å³" in output.splitlines()[-1]
    output = run("evaluate", "t", "other.extxyz", "--predictions", "p.extxyz")
    line = next(line for line in output.splitlines() if "stress, meV/Å³" in line)
    assert f"rmse {rmse:.4g}" in line
    assert f"(rmse {0.16021766 * rmse:.3g} GPa)" in line
    predicted = read("p.extxyz", 0)
    found = evaluate(calc, "other.extxyz")
    np.testing.assert_allclose(predicted.info["predicted_stress"], found[0].mean_stress, atol=1e-7)
    np.testing.assert_allclose(predicted.get_stress(), images[0].get_stress(), atol=1e-7)
    assert [item.stress is None for item in found] == [False, False, True, False]
    assert found[0].stress_rmse == pytest.approx(np.sqrt(errors[0] ** 2 @ SHARES))
    run("plot", "t", "other.extxyz")
    report = Path("t-report.html").read_text()
    best = curve()[int(np.nanargmin(curve()["val_loss"]))]
    assert f"{1e3 * best['stress_rmse']:.4g} meV/Å³" in report
    assert "stress coefficient 0.2" in report
    assert "stress rmse 0.0001 eV/Å³" in report


def test_amps_readers_find_their_way_in_the_log():
    from ampmpi.amp.analysis import read_trainlog

    calculator(maxiter=6).train(strained_images(4), validation=strained_images(3, seed=2))
    data = read_trainlog("t-log.txt", verbose=False)["convergence"]
    assert data["fs"] == pytest.approx(curve()["force_rmse"].tolist(), rel=1e-4)


def test_stresses_in_another_unit_are_suspicious(capsys):
    images = strained_images(6)
    for image in images:
        if "stress" in image.calc.results:
            image.calc.results["stress"] = image.calc.results["stress"] * 160.2
    calculator(maxiter=2).train(images)
    assert "they are probably in GPa or kbar" in capsys.readouterr().err
    write("set.extxyz", images)
    largest = max(np.abs(image.calc.results.get("stress", 0)).max() for image in images)
    text = run("images", "set.extxyz")
    assert f"  stress      4 images, largest component {largest:.4g} eV/Å³" in text
    assert "they are probably in GPa or kbar" in text


def test_a_descriptor_of_ones_own_trains_stresses_by_differences():
    """Without derivatives by strain of its own the numbers are the same, but for rounding."""
    gaussian = Gaussian(cutoff=4.5, elements=["Cu", "Pt"])

    def both(atoms):
        fingerprint, primes = gaussian.calculate(atoms)
        dense = np.zeros((len(atoms), len(atoms), 3, fingerprint.values.shape[1]))
        moved, centres = primes.pairs.T
        dense[centres, moved] = primes.values
        return fingerprint.values, dense

    images = strained_images(5)
    ours = calculator("ours", maxiter=1)
    expected = ours.train(images).best
    other = calculator("other", maxiter=1)
    other.descriptor = Custom(lambda atoms: both(atoms)[0], name="Same", derivatives=both)
    found = other.train(images).best
    assert found.stress_rmse == pytest.approx(expected.stress_rmse, rel=1e-6)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    np.testing.assert_allclose(stress_errors(other, images), stress_errors(ours, images), atol=1e-7)


def test_stresses_that_are_trained_are_better_on_held_out_cells():
    """Where no forces are: by a factor of three on these; `benchmarks/stress.py` has more."""
    training, held_out = (strained_images(n, n, clusters=False) for n in (24, 25))
    errors = []
    for stress in (None, 0.3):
        calc = calculator(f"s{stress}", maxiter=150, stress=stress, forces=False)
        calc.train(training)
        errors.append(np.sqrt(np.mean(stress_errors(calc, held_out) ** 2 @ SHARES)))
    assert errors[0] > 2.0 * errors[1]


class Stressless(Calculator):
    """A calculator that has no stress."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms, properties, system_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}


def test_a_calculator_without_stresses_has_none():
    atoms = bulk("Cu")
    atoms.calc = Stressless()
    with pytest.raises(LabelError, match="has no stress"):
        stress_of(atoms, LabelKeys())
