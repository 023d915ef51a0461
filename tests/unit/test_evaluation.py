"""Evaluations, committees, what is written of predictions, pictures and the report."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from click.testing import CliRunner
from matplotlib.colors import to_rgba
from training_images import emt_images

import ampmpi
from ampmpi import Amp, Committee, NeuralNetwork, evaluate, plots
from ampmpi.cli.evaluate import command as evaluate_command
from ampmpi.cli.evaluate import split
from ampmpi.cli.fingerprint import command as fingerprint_command
from ampmpi.cli.info import command as info_command
from ampmpi.cli.plot import command as plot_command
from ampmpi.cli.plot import of_file
from ampmpi.cli.train import command as train_command
from ampmpi.errors import ImageError, InputError, UnusableImagesError
from ampmpi.evaluation import Evaluation, atom_spreads, range_warning, rmse_by_image, summary
from ampmpi.images import ImageRef
from ampmpi.members import calculator_files

FILES = ["c-committee-0.amp", "c-committee-1.amp", "c-committee-2.amp"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A committee of three, the images that it was trained on, and others."""
    path = tmp_path_factory.mktemp("committee")
    before = Path.cwd()
    os.chdir(path)
    write("set.traj", emt_images(6))
    write("far.traj", emt_images(30, seed=5, width=0.5))
    write("bare.extxyz", [image.copy() for image in emt_images(3, seed=2)])
    arguments = ["set.traj", "--label", "c", "--cutoff", "4", "--committee", "3"]
    arguments += ["--max-steps", "20", "--hidden", "4", "--seed", "7"]
    arguments += ["--validation-fraction", "0.2"]
    done = CliRunner().invoke(train_command, arguments)
    os.chdir(before)
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def run(command, *arguments):
    return CliRunner().invoke(command, list(map(str, arguments)))


def evaluation(energy, energies, forces=None, predicted=None, symbols="Cu", number=0):
    atoms = Atoms(symbols, positions=np.arange(3 * len(Atoms(symbols))).reshape(-1, 3))
    n = len(energies)
    return Evaluation(
        ImageRef("a.traj", number), atoms, energy, forces, np.array(energies, float),
        np.zeros((n, len(atoms), 3)) if predicted is None else predicted, (),
    )  # fmt: skip


def test_a_committee_is_the_mean_of_its_members_and_their_spread():
    image = emt_images(1, seed=3)[0]
    energies, forces, stresses = [], [], []
    for name in FILES:
        image.calc = Amp.load(name)
        energies.append(image.get_potential_energy())
        forces.append(image.get_forces())
        stresses.append(image.get_stress())
    committee = Committee.load("c-committee-*.amp")
    image.calc = committee
    assert image.get_potential_energy() == pytest.approx(np.mean(energies), rel=1e-12)
    np.testing.assert_allclose(image.get_forces(), np.mean(forces, axis=0), atol=1e-12)
    np.testing.assert_allclose(image.get_stress(), np.mean(stresses, axis=0), atol=1e-12)
    assert committee.results["energy_spread"] == pytest.approx(np.std(energies), rel=1e-9)
    by_hand = np.sqrt(((np.array(forces) - np.mean(forces, axis=0)) ** 2).mean(axis=(0, 2)))
    np.testing.assert_allclose(committee.results["forces_spread"], by_hand, rtol=1e-9)
    write("with-committee.extxyz", image)  # nothing in the results keeps ASE from writing them
    assert read("with-committee.extxyz").get_potential_energy() == pytest.approx(
        np.mean(energies), abs=1e-7
    )


def test_a_lone_member_has_no_spread_and_a_committee_says_what_it_is():
    alone, image = Committee.load(FILES[0]), emt_images(1, seed=3)[0]
    image.calc = alone
    image.get_forces()
    assert np.isnan(alone.results["energy_spread"])
    assert alone.results["forces_spread"].shape == (len(image),)
    assert np.isnan(alone.results["forces_spread"]).all()
    [found] = evaluate(alone, image)
    assert np.isnan([found.energy_spread, found.force_spread]).all()
    done = run(evaluate_command, FILES[0], "set.traj@0", "--output", "alone.jsonl")
    assert done.exit_code == 0, done.output
    [row] = [json.loads(line) for line in Path("alone.jsonl").read_text().splitlines()]
    assert row["energy_spread"] is row["force_spread"] is None
    assert repr(alone) == f"Committee(1 x {Amp.load(FILES[0])!r})"
    both = Committee([*Committee.load("c").members, Amp(ampmpi.Gaussian(), NeuralNetwork((3,)))])
    assert repr(both).startswith("Committee(3 x Amp(<Gaussian: ")
    assert repr(both).count(", 1 x Amp(") == 1


def test_members_with_equal_descriptors_share_fingerprints(monkeypatch):
    real, calls = ampmpi.Gaussian.fingerprint, []

    def fingerprint(self, atoms):
        calls.append(self.digest)
        return real(self, atoms)

    monkeypatch.setattr(ampmpi.Gaussian, "fingerprint", fingerprint)
    images, committee = emt_images(2, seed=3), Committee.load("c")
    evaluate(committee, images)
    assert len(calls) == 2
    image = images[0].copy()
    image.calc = committee
    energy = image.get_potential_energy()
    assert len(calls) == 3
    # Another descriptor in between makes no difference to the others, nor do moved atoms.
    other = Amp.load(FILES[1])
    other.descriptor = ampmpi.Gaussian(cutoff=4.5).resolve(["Cu", "Pt"])
    image.calc = Committee([committee.members[0], other, committee.members[1]])
    image.get_potential_energy()
    assert len(set(calls)) == 2
    assert len(calls) == 5
    image.calc = committee
    image.rattle(0.1)
    assert image.get_potential_energy() != energy


def test_the_spread_of_a_force_does_not_change_when_the_image_is_turned():
    forces = np.random.default_rng(0).normal(size=(4, 5, 3))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(atom_spreads(forces @ turn), atom_spreads(forces), rtol=1e-12)


def test_committees_are_loaded_by_pattern_label_and_list():
    by_hand = [Amp.load(name).model.vector for name in FILES]
    for given in ("c-committee-*.amp", "c", FILES, Path("c-committee-*.amp")):
        found = [one.model.vector for one in Committee.load(given).members]
        assert len(found) == 3
        np.testing.assert_array_equal(found, by_hand)
    with pytest.raises(InputError, match=r"no-\*\.amp: there is no such \.amp file"):
        Committee.load("no-*.amp")
    with pytest.raises(InputError, match="give a list of Amp"):
        Committee([])


def test_members_come_in_the_order_of_their_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (10, 2, 0):
        Path(f"x-{number}.amp").touch()
    assert calculator_files("x-*.amp") == ["x-0.amp", "x-2.amp", "x-10.amp"]
    assert calculator_files("x") == []


def test_evaluate_takes_what_scripts_have():
    images, committee = emt_images(3, seed=3), Committee.load("c")
    write("some.traj", images)
    from_memory, from_file = evaluate(committee, images), evaluate(committee, "some.traj")
    listed = evaluate(list(committee.members), images)
    for a, b, c in zip(from_memory, from_file, listed, strict=True):
        assert a.energy_error == b.energy_error == c.energy_error
        np.testing.assert_array_equal(a.force_errors, b.force_errors)
        assert a.energies.shape == (3,)
    assert from_file[1].name == "some.traj, image 1"
    image = images[0]
    reference = image.get_potential_energy()
    image.calc = committee
    error = (image.get_potential_energy() - reference) / len(image)
    assert from_memory[0].energy_error == pytest.approx(error, abs=1e-12)
    [alone] = evaluate(Amp.load(FILES[0]), images[0].copy())
    assert alone.energy is None
    assert alone.forces is None
    assert alone.energies.shape == (1,)


def test_evaluate_finds_labels_of_other_names_and_refuses_what_is_no_calculator():
    image = emt_images(1)[0]
    other = image.copy()
    other.info["REF_energy"] = image.get_potential_energy()
    other.arrays["REF_forces"] = image.get_forces()
    committee = Committee.load("c")
    [found], [known] = evaluate(committee, [other]), evaluate(committee, [image])
    assert found.energy == known.energy
    assert found.force_rmse == known.force_rmse
    with pytest.raises(InputError, match="no calculator of ours"):
        evaluate(["c.amp"], [image])
    with pytest.raises(InputError, match="there is no calculator"):
        evaluate([], [image])


def test_predictions_are_written_with_references():
    done = run(evaluate_command, "c", "set.traj", "--predictions", "p.extxyz")
    assert done.exit_code == 0, done.output
    known, committee = emt_images(6), Committee.load("c")
    found = read("p.extxyz", ":")
    assert len(found) == 6
    for number, (written, image) in enumerate(zip(found, known, strict=True)):
        assert written.info["image"] == f"set.traj, image {number}"
        assert written.get_potential_energy() == pytest.approx(image.get_potential_energy())
        np.testing.assert_allclose(written.get_forces(), image.get_forces(), atol=1e-7)
        image.calc = committee
        image.get_forces()
        results = committee.results
        assert written.info["predicted_energy"] == pytest.approx(results["energy"])
        assert written.info["energy_spread"] == pytest.approx(results["energy_spread"])
        np.testing.assert_allclose(written.arrays["predicted_forces"], results["forces"], atol=1e-7)
        np.testing.assert_allclose(
            written.arrays["forces_spread"], results["forces_spread"], atol=1e-7
        )
        image.calc = committee.members[2]
        assert written.info["member2_energy"] == pytest.approx(image.get_potential_energy())
        np.testing.assert_allclose(written.arrays["member2_forces"], image.get_forces(), atol=1e-7)


def test_what_was_predicted_is_not_taken_for_labels():
    image = emt_images(1, seed=4)[0]
    known = image.calc.results
    for own, lacking in (({}, "energy"), ({"energy": known["energy"]}, "forces")):
        image.calc = SinglePointCalculator(image, **own) if own else None
        write("some.traj", image)
        done = run(evaluate_command, "c", "some.traj", "--predictions", "again.extxyz")
        assert done.exit_code == 0, done.output
        written = read("again.extxyz")
        assert {"predicted_forces", "forces_spread", "member1_forces"} <= set(written.arrays)
        [found] = evaluate(Amp.load("c.amp"), "again.extxyz")
        assert found.energy == (pytest.approx(known["energy"]) if own else None)
        assert found.forces is None
        refused = run(train_command, "again.extxyz", "--label", "again", "--cutoff", "4")
        assert f"image 0 has no {lacking}" in str(refused.exception)


def test_images_without_references_are_predicted():
    done = run(evaluate_command, FILES[0], "bare.extxyz", "--predictions", "b.extxyz")
    assert done.exit_code == 0, done.output
    assert "no energies or forces to compare with" in done.output
    assert re.search(r"predicted energies .* eV/atom, force components up to", done.output)
    found = read("b.extxyz", ":")
    assert len(found) == 3
    for written in found:
        assert written.calc is None
        image = written.copy()
        image.calc = Amp.load(FILES[0])
        assert written.info["predicted_energy"] == pytest.approx(
            image.get_potential_energy(), abs=1e-4
        )
        assert "energy_spread" not in written.info


def test_what_is_wrong_is_named_or_left_out(tmp_path):
    images = emt_images(6)
    images[1].calc.results["energy"] = np.nan
    images[2].calc.results["forces"][0, 1] = np.inf
    kept = [image.copy() for image in images]
    for place, image in enumerate(images):
        kept[place].calc = SinglePointCalculator(kept[place], **image.calc.results)
    kept[3].positions[1] = kept[3].positions[0]  # its energies are those of other positions
    kept[3].calc = None
    kept[4].positions[0] = np.nan
    write("wrong.traj", kept)
    for frames, sentence in (
        ("@1", "wrong.traj, image 1 has the energy nan; take it out of the set, or do not "),
        ("@2", "wrong.traj, image 2 has forces that are not finite; take it out"),
        ("@3", "wrong.traj, image 3: atoms 0 ("),
        ("@4", "wrong.traj, image 4 has positions that are not finite, such as that of atom 0; "),
    ):
        done = run(evaluate_command, "c", f"wrong.traj{frames}")
        assert done.exception.exit_code == 2
        assert str(done.exception).startswith(sentence)
    done = run(evaluate_command, "c", "wrong.traj", "--skip-unusable", "--output", "w.jsonl")
    assert done.exit_code == 0, done.output
    assert "2 of 6 images left out: 1 cannot be described (atoms 0 (" in done.stderr
    assert "1 has positions that are not finite: wrong.traj, image 4" in done.stderr
    assert (
        "2 references left out, the images are predicted: 1 has an energy that is not finite: "
        "wrong.traj, image 1; 1 has forces that are not finite: wrong.traj, image 2"
    ) in done.stderr
    rows = [json.loads(line) for line in Path("w.jsonl").read_text().splitlines()]
    assert [row["image"][-1] for row in rows] == list("0125")
    assert [row["energy_reference"] is None for row in rows] == [False, True, False, False]
    assert [row["force_rmse"] is None for row in rows] == [False, False, True, False]
    assert len(evaluate(Committee.load("c"), "wrong.traj", skip_unusable=True)) == 4
    for command, *more in ((evaluate_command,), (plot_command, "--format", "svg")):
        done = run(command, "c", "wrong.traj@4", "--skip-unusable", *more)
        assert isinstance(done.exception, UnusableImagesError)
        assert "wrong.traj@4: none of the images can be used" in str(done.exception)


def test_files_that_cannot_be_written_are_refused_before_anything_is_computed():
    for option in ("--predictions", "--output"):
        done = run(evaluate_command, "c", "set.traj", option, "no/p")
        assert str(done.exception) == f"{option} no/p cannot be written: there is no folder no"
        assert "rmse" not in done.output
        assert "it is a folder" in str(
            run(evaluate_command, "c", "set.traj", option, ".").exception
        )
        before = Path("set.traj").read_bytes()
        done = run(evaluate_command, "c", "set.traj@:2", option, "./set.traj")
        assert "images are read from it" in str(done.exception)
        assert Path("set.traj").read_bytes() == before


def test_labels_and_files_are_told_apart():
    assert split(["c", "set.traj"]) == (FILES, ["set.traj"])
    assert split(["c-committee-*.amp", "set.traj", FILES[0]]) == (FILES, ["set.traj"])
    assert split(["no.amp", "set.traj@:2"]) == (["no.amp"], ["set.traj@:2"])
    Path("c").touch()  # images may have any name
    try:
        assert split([FILES[0], "c"]) == ([FILES[0]], ["c"])
    finally:
        Path("c").unlink()
    for lacking, what in ((["c"], "file of images"), (["set.traj"], r"calculator \(.amp")):
        with pytest.raises(InputError, match=f"no {what}"):
            split(lacking)
    assert of_file("c") == ("c", [])
    assert of_file("c.amp") == ("c", ["c.amp"])
    assert of_file("c-committee-12.amp") == ("c", ["c-committee-12.amp"])
    assert of_file("d/c-curve.txt") == ("d/c", [])


def test_info_takes_labels_and_calculators():
    done = run(info_command, "c")
    assert done.exit_code == 0, done.output
    heads = [line for line in done.output.splitlines() if not line.startswith(" ")]
    assert heads == ["c-fingerprints.ampdb", "c-fingerprint-primes.ampdb", *FILES]
    alone = run(info_command, "c.amp").output
    assert re.search(r"networks +Cu 20-4-1, Pt 20-4-1, tanh\n +parameters +182\n", alone)
    nothing = run(info_command, "nothing", FILES[0])
    assert nothing.exit_code == InputError.exit_code
    assert "nothing: there is no such database, .amp file or label" in nothing.output
    assert "182" in nothing.output


def test_many_images_outside_the_range_are_one_paragraph():
    done = run(evaluate_command, "c", "far.traj")
    warnings = [line for line in done.stderr.splitlines() if "warning" in line]
    assert len(done.stderr.splitlines()) == len(warnings) == 1
    far = [one for one in evaluate(Committee.load("c"), "far.traj") if one.outside]
    assert len(far) >= 20
    atoms = sum(len(one.outside) for one in far)
    assert f"{len(far)} of 30 images leave the trained range at {atoms} atoms: " in warnings[0]
    worst = max(far, key=lambda one: one.outside[0].distance)
    assert f"The farthest is {worst.name}: atom {worst.outside[0].atom} (" in warnings[0]
    assert len(warnings[0]) < 1200
    assert range_warning([one for one in far if not one.outside]) is None


def test_the_rmse_of_forces_has_one_meaning_and_the_other_is_named():
    small = evaluation(None, [0.0], np.full((1, 3), 0.3), symbols="Cu")
    large = evaluation(None, [0.0], np.full((4, 3), 0.1), symbols="Cu4")
    lines = summary("a", [small, large])
    pooled = np.sqrt((3 * 0.09 + 12 * 0.01) / 15)
    by_image = np.sqrt((0.09 + 0.01) / 2)
    assert f"rmse {1e3 * pooled:.4g}, " in lines[1]
    assert lines[2].endswith(f"as in trainings: {1e3 * by_image:.4g}")
    assert rmse_by_image([small, large]) == pytest.approx(by_image)
    assert not any("as in trainings" in line for line in summary("a", [large, large]))


def test_a_training_has_the_second_of_them():
    """The validation of a training and `rmse_by_image` agree, image sizes being unequal."""
    images, curve = emt_images(6), plots.read_curve("c-members/4_member0_start0-curve.txt")
    found = evaluate(Amp.load(FILES[0]), images)
    squares = np.array([one.force_rmse**2 for one in found])
    best = curve[int(np.nanargmin(curve["val_loss"]))]
    chosen = [
        i for i in range(6)
        if np.sqrt(squares[i]) == pytest.approx(best["val_force_rmse"], rel=1e-6)
    ]  # fmt: skip
    assert len(chosen) == 1  # a fifth of six images
    rest = [one for i, one in enumerate(found) if i != chosen[0]]
    assert rmse_by_image(rest) == pytest.approx(best["force_rmse"], rel=1e-6)


def test_trials_are_left_out_of_learning_curves():
    table = np.zeros(6, dtype=[("step", float), ("loss", float)])
    table["step"], table["loss"] = range(6), [5.0, 90.0, 4.0, np.nan, 4.0, 3.0]
    assert plots.accepted(table)["step"].tolist() == [0, 2, 5]


def test_losses_on_parts_of_the_images_are_not_those_of_all():
    table = np.zeros(6, dtype=[("step", float), ("loss", float), ("part", float)])
    table["step"], table["loss"] = range(6), [5.0, 2.0, 3.0, 4.0, 3.5, 3.0]
    table["part"][:2] = 1.0
    assert plots.accepted(table)["step"].tolist() == [0, 1, 2]
    table["loss"][5] = 2.5
    assert plots.accepted(table)["step"].tolist() == [0, 1, 2, 5]


def test_reference_energies_of_elements_are_recovered():
    energies = {"Cu": -3.5, "Pt": -6.25}
    found = [
        evaluation(sum(energies[s] for s in Atoms(f).symbols), [0.0], symbols=f)
        for f in ("Cu", "Cu3Pt", "CuPt", "Pt4")
    ]
    assert plots.reference_energies(found) == pytest.approx(energies)


def test_parity_is_square_and_says_its_errors():
    train, held_out = emt_images(6), emt_images(4, seed=9)
    committee = Committee.load("c")
    sets = {"held out": evaluate(committee, held_out), "training": evaluate(committee, train)}
    figure = plots.parity_figure(sets)
    panels = figure.axes
    assert len(panels) == 6
    for number, axes in enumerate(panels):
        if number % 3 < 2:
            assert axes.get_xlim() == axes.get_ylim()
            assert axes.get_box_aspect() == 1
    assert panels[0].get_xlim() == panels[1].get_xlim()
    errors = 1e3 * np.array([one.energy_error for one in sets["held out"]])
    assert f"rmse {np.sqrt(np.mean(errors**2)):.3g} meV/atom\n" in panels[0].texts[0].get_text()
    assert [axes.get_title() for axes in panels[:3]] == ["held out", "training", "errors"]
    legend = [text.get_text() for text in panels[3].get_legend().get_texts()]
    assert legend == ["Cu", "Pt"]
    # what is drawn is less than the energies, by those of the elements
    drawn = np.concatenate([axes.collections[0].get_offsets()[:, 0] for axes in panels[:2]])
    assert abs(drawn.mean()) < 1e3 * abs(np.mean([one.energy for one in sets["training"]]))
    spread = plots.spread_figure(sets)
    assert len(spread.axes) == 3
    for axes in spread.axes:
        assert axes.get_xlim() == axes.get_ylim()
        ends = axes.lines[-1]
        np.testing.assert_array_equal(ends.get_xdata(), ends.get_ydata())


def test_dots_keep_their_colours_and_hide_no_element_or_held_out_image():
    held_out, committee = emt_images(8, seed=9), Committee.load("c")
    found = evaluate(committee, held_out)
    sets = {"held out": found, "training": evaluate(committee, emt_images(6))}
    [dots] = plots.parity_figure(sets).axes[3].collections
    known = {
        reference: (symbol, predicted)
        for one in found
        for symbol, row, other in zip(one.symbols, one.forces, one.mean_forces, strict=True)
        for reference, predicted in zip(row.tolist(), other.tolist(), strict=True)
    }
    colors = {
        name: to_rgba(color, 0.7) for name, color in plots.element_colors(["Cu", "Pt"]).items()
    }
    x, y = dots.get_offsets().T.tolist()
    drawn = [known[one][0] for one in x]
    assert y == pytest.approx([known[one][1] for one in x])
    assert len(drawn) == 3 * sum(map(len, held_out))
    for symbol, color in zip(drawn, dots.get_facecolors().tolist(), strict=True):
        assert color == pytest.approx(colors[symbol])
    # Runs of one element are as short as they are by chance.
    changes = sum(a != b for a, b in itertools.pairwise(drawn))
    share = drawn.count("Cu") / len(drawn)
    assert changes > 1.6 * share * (1 - share) * len(drawn)
    below, above = plots.spread_figure(sets).axes[0].collections
    assert [len(below.get_offsets()), len(above.get_offsets())] == [6, 8]
    np.testing.assert_allclose(above.get_facecolors()[0], to_rgba(plots.SETS[0], 0.7))


def test_the_report_says_what_was_trained_and_how():
    done = run(plot_command, "c", "bare.extxyz")
    assert "neither energies nor forces" in str(done.exception)
    done = run(plot_command, "c", "far.traj@:4", "--training", "set.traj")
    assert done.exit_code == 0, done.output
    page = Path("c-report.html").read_text()
    for text in (
        f"ampmpi {ampmpi.__version__}",
        "5 to train on, 1 to validate on, from set.traj",
        "energy coefficient 1.0, force coefficient 0.3",
        "energy rmse 0.001 eV per atom, force rmse 0.01 eV/Å",
        "gauss-newton, at most 20 steps",
        "held out, far.traj@:4: 4 images",
        "training, set.traj: 6 images",
        "<td>4_member2_start0</td>",
        "<td>0.05, 0.232079, 1.07722, 5</td>",
    ):
        assert text in page, text
    assert re.search(r"<th>trained</th><td>20\d\d-\d\d-\d\d ", page)
    assert re.search(r"<th>atoms</th><td>\d+ in the training images: \d+ of Cu, \d+ of Pt", page)
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page
    assert "overflow-x" not in page


def test_a_report_of_a_calculator_alone():
    done = run(plot_command, "c-committee-1.amp", "set.traj", "--format", "svg")
    assert done.exit_code == 0, done.output
    page = Path("c-report.html").read_text()
    assert "Errors of c-committee-1.amp</h2>" in page
    assert "Disagreement" not in page
    nothing = run(plot_command, "other.amp")
    assert nothing.exception.exit_code == 2


def test_many_failed_and_repeated_images_are_summed_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = [Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0.0]]) for _ in range(40)]
    for number, image in enumerate(images):
        image.positions += 0.01 * number
    whole = emt_images(5)
    write("bad.traj", images + whole)
    done = run(fingerprint_command, "bad.traj", "--label", "b", "--cutoff", 4)
    assert isinstance(done.exception, ImageError)
    lines = str(done.exception).splitlines()
    assert lines[0] == "40 images failed, all others are done:"
    assert len(lines) == 22
    assert lines[-1] == "  and 20 more: bad.traj, images 20 to 39"
    write("twice.traj", [*whole, *whole, whole[0]])
    done = run(fingerprint_command, "twice.traj", "--label", "t", "--cutoff", 4)
    assert (
        "5 images come several times, 2 to 3 times, and are computed once: "
        "twice.traj, images 0 to 4\n" in done.output
    )
    assert "comes" not in done.output


def test_energies_alone_make_one_row_of_pictures():
    image = emt_images(1)[0]
    only = image.copy()
    only.calc = SinglePointCalculator(only, energy=image.get_potential_energy())
    figure = plots.parity_figure({"a": evaluate(Amp.load("c.amp"), [only])})
    assert len(figure.axes) == 2
