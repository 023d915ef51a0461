"""Sets with images that cannot be trained on, and sets that are suspicious."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner
from training_images import emt_images

from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork, Regressor
from ampmpi.cli.evaluate import command as evaluate_command
from ampmpi.cli.images import command as images_command
from ampmpi.cli.train import command as train_command
from ampmpi.database import FingerprintDatabase
from ampmpi.errors import ImageError, InputError
from ampmpi.images import ImageRef, digest_image
from ampmpi.images.distances import ratio, shortest
from ampmpi.images.doubts import Facts, Ratio, distance_doubts, label_doubts, named
from ampmpi.members import make_members
from ampmpi.parallel.comm import SerialCommunicator
from ampmpi.training.dataset import survey
from ampmpi.training.earlier import drawn_images
from ampmpi.training.pool import open_pool


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def calculator(label="t", maxiter=5, forces=True):
    criteria = {"energy_rmse": 1e-9, "force_rmse": 1e-9 if forces else None}
    loss = LossFunction(
        convergence=criteria, maxiter=maxiter, force_coefficient=0.04 if forces else None
    )
    model = NeuralNetwork((4, 3), randomseed=1, lossfunction=loss, regressor=Regressor("L-BFGS-B"))
    return Amp(Gaussian(cutoff=4.0, elements=["Cu", "Pt"]), model, label=label)


def with_results(image, **results):
    image = image.copy()
    image.calc = SinglePointCalculator(image)
    image.calc.results.update(results)
    return image


def partly_labelled(n=12):
    """Return images of which 2 and 7 lack forces, 4 has a NaN force, and 9 no energy."""
    images = emt_images(n)
    for number in (2, 4, 7, 9):
        energy, forces = images[number].get_potential_energy(), images[number].get_forces()
        if number == 9:
            images[number] = with_results(images[number], forces=forces)
        elif number == 4:
            forces[1, 2] = np.nan
            images[number] = with_results(images[number], energy=energy, forces=forces)
        else:
            images[number] = with_results(images[number], energy=energy)
    return images


def test_every_unusable_image_is_named_in_one_run():
    write("partly.traj", partly_labelled())
    with pytest.raises(ImageError) as caught:
        calculator().train("partly.traj")
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 of 12 images cannot be trained on:"
    assert lines[1:4] == [
        "  1 has forces that are not finite: partly.traj, image 4",
        "  1 has no energy: partly.traj, image 9",
        "  2 have no forces: partly.traj, images 2 and 7",
    ]
    assert "--skip-unusable" in lines[4]
    assert "--no-forces" in lines[4]
    assert not Path("t-fingerprints.ampdb").exists()


def test_an_image_that_was_moved_after_its_calculation_is_not_trained_on(capsys):
    images = emt_images(4)
    images[1].rattle(0.1, seed=3)
    with pytest.raises(ImageError, match="image 1 has an energy of other positions: it was mo"):
        calculator().train(images)
    calculator().train(images, skip_unusable=True)
    assert "1 of 4 images left out: 1 has an energy of other pos" in capsys.readouterr().err


def test_the_rest_is_trained_on_and_energies_alone_where_forces_are_missing(capsys):
    images = partly_labelled()
    calc = calculator(maxiter=30)
    result = calc.train(images, skip_unusable=True)
    said = capsys.readouterr().err
    assert "2 of 12 images left out: 1 has forces that are not finite: image 4; 1 has no" in said
    assert "2 images without forces, trained on by energy alone: images 2 and 7" in said
    energy_errors, force_errors = [], []
    for number in sorted(set(range(12)) - {4, 9}):
        image = images[number].copy()
        image.calc = Amp.load(result.file)
        expected = images[number].calc.results
        error = image.get_potential_energy() - expected["energy"]
        energy_errors.append((error / len(image)) ** 2)
        if number not in (2, 7):
            force_errors.append(np.mean((image.get_forces() - expected["forces"]) ** 2))
    assert (len(energy_errors), len(force_errors)) == (10, 8)
    assert result.best.energy_rmse == pytest.approx(np.sqrt(np.mean(energy_errors)), rel=1e-6)
    assert result.best.force_rmse == pytest.approx(np.sqrt(np.mean(force_errors)), rel=1e-6)
    again = calculator(maxiter=30).train(images, skip_unusable=True)
    assert again.best.loss == result.best.loss
    assert "finished already" in Path("t-log.txt").read_text()


def test_images_that_cannot_be_read_or_described_are_left_out_too(capsys):
    images = emt_images(6)
    images[1].positions[1] = images[1].positions[0]
    images[2].positions[0, 0] = np.nan
    for number in (1, 2):
        images[number] = with_results(
            images[number], energy=0.0, forces=np.zeros((4, 3))[: len(images[number])]
        )
    write("a.traj", images)
    result = calculator().train("a.traj", skip_unusable=True)
    said = capsys.readouterr().err
    assert "1 of 6 images left out: 1 has positions that are not finite: a.traj, image 2" in said
    assert "1 image left out, which cannot be fingerprinted: a.traj, image 1" in said
    assert result.steps == 5


def test_atoms_of_no_element_are_named():
    images = emt_images(3)
    for number in (1, 2):
        images[number].numbers[0] = (0, 200)[number - 1]
        forces = np.zeros((len(images[number]), 3))
        images[number] = with_results(images[number], energy=0.0, forces=forces)
    with pytest.raises(ImageError, match="2 have atoms of no element: images 1 and 2"):
        calculator().train(images)
    write("a.traj", images)
    done = CliRunner().invoke(images_command, ["a.traj"])
    assert done.exit_code == 0, done.output
    assert "2 have atoms of no element: a.traj, images 1 and 2" in done.output


def test_ampmpi_images_names_what_cannot_be_described():
    images = emt_images(6)
    images[0].positions[0, 1] = np.inf
    images[1] = Atoms()
    images[2].pbc = True
    images[2].cell[0] = images[2].cell[1]
    images[3].cell[0, 0] = np.nan
    images[4].positions[0] += 1e9
    write("a.traj", images)
    done = CliRunner().invoke(images_command, ["a.traj"])
    assert done.exit_code == 0, done.output
    for line in (
        "1 has positions that are not finite: a.traj, image 0",
        "1 has no atoms: a.traj, image 1",
        "1 has a singular cell along periodic axes: a.traj, image 2",
        "1 has a cell that is not finite: a.traj, image 3",
        "1 has atoms more than 1e+08 Å from the origin: a.traj, image 4",
    ):
        assert line in done.output


def test_complaints_about_many_images_are_short():
    images = [
        with_results(image, energy=1.0, **({} if n % 2 else {"forces": np.zeros((4, 3))}))
        for n, image in enumerate([emt_images(1)[0]] * 600)
    ]
    with pytest.raises(ImageError, match="300 have no forces") as caught:
        calculator().train(images)
    assert "and 250 more" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_nothing_left_to_train_on_is_refused():
    images = [with_results(image, energy=1.0) for image in emt_images(3)]
    with pytest.raises(ImageError, match="no image to train on that can be used has forces"):
        calculator().train(images, skip_unusable=True)
    with pytest.raises(InputError, match="no image to train on"):
        calculator().train([image.copy() for image in images], skip_unusable=True)


def test_where_all_lack_labels_what_they_carry_is_listed():
    images = [image.copy() for image in emt_images(3)]
    for image in images:
        image.calc = None
        image.info["U_total"] = -1.0
    with pytest.raises(ImageError, match=r"image 0 has no energy under the name 'energy', nor have"
                       r" the 2 others: they carry U_total; .*--energy-key"):  # fmt: skip
        calculator().train(images)
    result = calculator(forces=False).train(images, energy_key="U_total")
    assert result.steps == 5


def test_labels_of_a_file_are_named_in_one_line(capsys):
    for image in (images := emt_images(4)):
        image.info["dft_energy"] = image.get_potential_energy()
        image.arrays["dft_force"] = image.get_forces()
        image.calc = None
    write("a.extxyz", images)
    calculator().train("a.extxyz")
    assert "Labels: energies are 'dft_energy'; forces are 'dft_force'." in capsys.readouterr().err


def test_units_are_for_files():
    with pytest.raises(InputError, match="units and format are for files"):
        calculator().train(emt_images(2), units="eV,nm")


def test_a_training_in_other_units_is_the_same_training():
    images = emt_images(4)
    write("a.traj", images)
    first = calculator("a").train("a.traj")
    for image in images:
        energy, forces = image.get_potential_energy(), image.get_forces()
        image.set_cell(image.cell / 10)
        image.positions /= 10
        image.calc = SinglePointCalculator(image, energy=1000 * energy, forces=10000 * forces)
    write("b.traj", images)
    second = calculator("b").train("b.traj", units="meV,nm")
    assert second.best.loss == pytest.approx(first.best.loss, rel=1e-6)


def doubts_of(images):
    """Return what a training's survey says of images."""
    ranks = SerialCommunicator()
    return survey(ranks, open_pool(ranks, images), forces=True).remarks


def test_forces_that_are_all_zero_are_doubted():
    images = [
        with_results(image, energy=image.get_potential_energy(), forces=np.zeros((len(image), 3)))
        for image in emt_images(3)
    ]
    [doubt] = doubts_of(images)
    assert "all forces of all 3 images are exactly zero" in doubt


def test_energies_that_are_all_zero_are_doubted():
    images = [with_results(image, energy=0.0, forces=image.get_forces()) for image in emt_images(3)]
    assert any("all energies of all 3 images are exactly zero" in doubt
               for doubt in doubts_of(images))  # fmt: skip


def test_noble_gases_in_bohr_that_are_angstroms_are_doubted():
    images = [bulk("Ar", a=5.2 / 1.89) for _ in range(3)]
    write("a.extxyz", [with_results(image, energy=-1.0) for image in images])
    done = CliRunner().invoke(images_command, ["a.extxyz"])
    assert "a.extxyz: the shortest distances are 0.52 times" in done.output


def test_one_geometry_with_two_energies_is_doubted():
    images = emt_images(7)
    last = with_results(
        images[0], energy=images[0].get_potential_energy() + 5, forces=images[0].get_forces()
    )
    [doubt] = doubts_of([*images, last])
    assert "image 0 and image 7 are the same but for 5 eV" in doubt
    assert doubts_of([*images, images[0]]) == ()


def facts(energies, counts, forces=None):
    energies, counts = np.array(energies, dtype=float), np.array(counts, dtype=float)
    n = len(energies)
    return Facts(
        np.arange(n), np.array([b"%d" % i for i in range(n)]), energies,
        np.full(n, np.nan) if forces is None else np.array(forces), counts,
    )  # fmt: skip


def ref(index):
    return ImageRef("a.traj", index)


def test_energies_per_atom_are_doubted():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 30, size=(40, 2))
    total = counts @ [-3.0, -5.0] + rng.normal(scale=0.1, size=40)
    assert label_doubts(facts(total, counts), ref) == []
    [doubt] = label_doubts(facts(total / counts.sum(axis=1), counts), ref)
    assert "look like energies per atom" in doubt


def test_outliers_of_energy_and_force_are_named():
    rng = np.random.default_rng(0)
    counts = rng.integers(5, 30, size=(200, 2))
    energies = counts @ [-3000.0, -5000.0] + 0.02 * counts.sum(axis=1) * rng.normal(size=200)
    forces = np.exp(rng.normal(scale=0.5, size=200))
    assert label_doubts(facts(energies, counts, forces), ref) == []
    energies[[17, 18, 19, 60]] += 2.0 * counts[[17, 18, 19, 60]].sum(axis=1)
    forces[5] = 80.0
    first, second = label_doubts(facts(energies, counts, forces), ref)
    assert "4 energies are far from all others" in first
    assert first.endswith("a.traj, images 17 to 19 and 60")
    assert "1 image has forces far beyond all others, up to 80 eV/Å" in second
    assert second.endswith("a.traj, image 5")


def test_atoms_too_close_are_named_and_units_by_file():
    files = ["a.traj"] * 5 + ["b.traj"] * 5
    ratios = [Ratio(i, 1.0, "Å") for i in range(5)] + [Ratio(i, 0.1, "Å") for i in range(5, 10)]
    ratios[3] = Ratio(3, 0.3, "Å")
    wrong_unit, close = distance_doubts(ratios, lambda i: ImageRef(files[i], i % 5))
    assert wrong_unit.startswith("b.traj: the shortest distances are 0.1 times")
    assert "are they in nm?" in wrong_unit
    assert "1 image has atoms suspiciously close" in close
    assert "a.traj, image 3" in close


def test_names_of_images_are_short():
    refs = [ImageRef("a", i) for i in (1, 2, 3, 7, 8, 10)] + [ImageRef("b", 0)]
    assert named(refs) == "a, images 1 to 3, 7, 8 and 10; b, image 0"
    assert named(refs, 1) == "a, images 1 to 3; and 4 more"
    assert named([ImageRef("", 4)]) == "image 4"


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 0, 1), (0, 1, 0), (0, 0, 0)])
def test_shortest_distances_are_those_of_all_images_in_reach(pbc):
    rng = np.random.default_rng(3)
    turns = [range(-4, 5) if periodic else [0] for periodic in pbc]
    for _ in range(5):
        cell = 3 * np.eye(3) + rng.normal(size=(3, 3))
        atoms = Atoms("HOHCH", positions=2 * rng.normal(size=(5, 3)), cell=cell, pbc=pbc)
        expected: dict[tuple[str, str], float] = {}
        for turn in itertools.product(*turns):
            for a, b in itertools.product(range(5), repeat=2):
                pair = tuple(sorted((atoms.symbols[a], atoms.symbols[b])))
                vector = atoms.positions[b] + np.array(turn) @ cell - atoms.positions[a]
                if a != b or any(turn):
                    length = float(np.linalg.norm(vector))
                    expected[pair] = min(length, expected.get(pair, np.inf))
        assert shortest(atoms) == pytest.approx(expected)


def test_ratios_are_those_of_covalent_radii():
    assert ratio(shortest(bulk("Cu", a=3.6))) == pytest.approx(3.6 / 2**0.5 / 2.64)
    assert ratio(shortest(bulk("Ar", a=5.2))) == pytest.approx(5.2 / 2**0.5 / 3.76)
    assert ratio({("Ar", "H"): 2.0}) is None
    assert shortest(Atoms("H")) == {}
    assert shortest(Atoms("H2", positions=[[np.nan, 0, 0], [0, 0, 0]])) == {}
    assert shortest(Atoms("H2", positions=[[0, 0, 0], [1, 0, 0]], cell=[1, 0, 0], pbc=True)) == {}


def test_evaluate_names_wrong_references_and_finds_labels():
    images = emt_images(3)
    calculator().train(images)
    images[1].calc.results["forces"][0, 0] = np.nan
    write("a.traj", images)
    wrong = CliRunner().invoke(evaluate_command, ["t.amp", "a.traj"])
    assert isinstance(wrong.exception, ImageError)
    assert str(wrong.exception).startswith("a.traj, image 1 has forces that are not finite")
    found = CliRunner().invoke(evaluate_command, ["t.amp", "a.traj", "--skip-unusable"])
    assert found.exit_code == 0, found.output
    for image in images:
        image.info["REF_energy"] = image.calc.results["energy"]
        image.calc = None
    write("b.extxyz", images)
    renamed = CliRunner().invoke(evaluate_command, ["t.amp", "b.extxyz"])
    assert "energies are 'REF_energy'" in renamed.output
    assert "energy, meV/atom" in renamed.output
    first, second = (
        next(line for line in one.output.splitlines() if "energy, meV/atom" in line)
        for one in (found, renamed)
    )
    assert first == second


def test_ampmpi_images_says_what_is_there():
    images = partly_labelled()
    images.append(images[0])
    images[5].positions[0] = images[5].positions[1] + [0.3, 0.0, 0.0]
    images[5] = with_results(images[5], energy=0.0, forces=np.zeros((len(images[5]), 3)))
    write("a.traj", images)
    assert len({digest_image(image) for image in images}) == 12
    done = CliRunner().invoke(images_command, ["a.traj", "--plot", "set.png"])
    assert done.exit_code == 0, done.output
    text = done.output
    assert "13 images of 2 to 4 atoms" in text
    assert "energy      12 images" in text
    assert "no energy   a.traj, image 9" in text
    assert "no forces   a.traj, images 2, 4 and 7" in text
    assert "1 has forces that are not finite: a.traj, image 4" in text
    assert "Duplicates: 1 image repeats an earlier one: a.traj, image 12" in text
    assert "suspiciously close to each other" in text
    assert "Cu-Pt" in text
    assert Path("set.png").read_bytes().startswith(b"\x89PNG")


def test_ampmpi_images_shows_two_sets_of_labels():
    image = bulk("Cu")
    image.info.update(REF_energy=1.0, mace_energy=2.0)
    write("a.extxyz", [image, image])
    done = CliRunner().invoke(images_command, ["a.extxyz"])
    assert done.exit_code == 0, done.output
    assert "several sets of labels, 'REF_energy'; 'mace_energy'" in done.output
    chosen = CliRunner().invoke(images_command, ["a.extxyz", "--energy-key", "mace_energy"])
    assert "2.0000 eV/atom" in chosen.output


def test_a_cell_in_nm_is_refused_at_once():
    image = bulk("Cu", a=0.361, cubic=True) * (3, 3, 3)
    with pytest.raises(ImageError, match="neighbours within the cutoff"):
        Gaussian(cutoff=6.5, elements=["Cu"]).fingerprint(image)
    dense = bulk("C", "diamond", a=3.57)
    assert Gaussian(cutoff=12.0, elements=["C"]).fingerprint(dense).values.shape[0] == 2


def test_drawn_images_have_forces_and_their_errors_are_those_of_the_draw():
    images = emt_images(10)
    for number in range(3, 10):
        images[number] = with_results(images[number], energy=images[number].get_potential_energy())
    write("a.traj", images)
    given = ["a.traj", "--cutoff", "4", "--hidden", "3", "--committee", "2", "--bootstrap"]
    done = CliRunner().invoke(train_command, [*given, "--skip-unusable", "--max-steps", "4"])
    assert done.exit_code == 0, done.output
    dataset = survey(
        SerialCommunicator(), open_pool(SerialCommunicator(), images), forces=True,
        skip_unusable=True,
    )  # fmt: skip
    by_key = {digest_image(image).hex(): image for image in images}
    rows = [line.split() for line in Path("amp-members.txt").read_text().splitlines()]
    column = rows[0].index("force_rmse") - len(rows[0])
    for member in make_members(
        lambda layers, seed: NeuralNetwork(layers, randomseed=seed), [(3,)], seats=2, bootstrap=True
    ):
        drawn = drawn_images(dataset, member.draw)
        assert dataset.n_training_forces(drawn) == 3.0
        assert sum(drawn.values()) == 10.0
        squares = 0.0
        for key, times in drawn.items():
            if "forces" in by_key[key].calc.results:
                image = by_key[key].copy()
                image.calc = Amp.load(f"amp-members/{member.name}.amp")
                error = image.get_forces() - by_key[key].get_forces()
                squares += times * np.mean(error**2)
        [row] = [row for row in rows if row[0] == member.name]
        assert float(row[column]) == pytest.approx(np.sqrt(squares / 3.0), rel=1e-3)


def energy_alone(image):
    return with_results(image, energy=image.get_potential_energy())


def test_of_equal_images_the_last_one_with_forces_counts(capsys):
    images = emt_images(5)
    later = with_results(images[1], energy=-3.0, forces=images[1].get_forces())
    given = [*images, later, energy_alone(images[1]), energy_alone(images[2])]
    alone = SerialCommunicator()
    dataset = survey(alone, open_pool(alone, given), forces=True, skip_unusable=True)
    assert dataset.indices.tolist() == [0, 5, 2, 3, 4]
    assert dataset.copies.tolist() == [1, 3, 2, 1, 1]
    assert dataset.has_forces.all()
    assert dataset.energies[1] == -3.0
    assert not any("without forces" in line for line in dataset.remarks)
    result = calculator().train([*images, energy_alone(images[2])], skip_unusable=True)
    assert result.best.loss == calculator("plain").train(images).best.loss


def test_a_validation_of_which_nothing_is_left_is_refused():
    images, validation = emt_images(4), emt_images(2, seed=3)
    broken = [image.copy() for image in validation]
    with pytest.raises(ImageError, match="no image to validate on can be used; give others"):
        calculator().train(images, validation=broken, skip_unusable=True)
    for image in validation:  # too close to be fingerprinted
        forces = image.get_forces()
        image.positions[1] = image.positions[0]
        image.calc = SinglePointCalculator(image, energy=0.0, forces=forces)
    with pytest.raises(ImageError, match="no image to validate on can be used; give others"):
        calculator("b").train(images, validation=validation, skip_unusable=True)


def test_forces_of_images_to_validate_on_are_none_to_train_on():
    images = [energy_alone(image) for image in emt_images(4)]
    with pytest.raises(ImageError, match="no image to train on that can be used has forces"):
        calculator().train(images, validation=emt_images(2, seed=3), skip_unusable=True)
    assert not Path("t-fingerprints.ampdb").exists()


def test_images_to_validate_on_are_counted_apart(capsys):
    images, validation = partly_labelled(), emt_images(3, seed=3)
    validation[0] = energy_alone(validation[0])
    validation[2] = validation[2].copy()
    calculator().train(images, validation=validation, skip_unusable=True)
    said = capsys.readouterr().err
    assert "2 of 12 images left out: 1 has forces that" in said
    assert "2 images without forces, trained on by energy alone: images 2 and 7\n" in said
    assert "1 of 3 images to validate on left out: 1 has no energy: image 2\n" in said
    assert "1 image without forces, validated on by energy alone: image 0\n" in said


def test_what_a_report_says_of_the_images():
    some = {"CuPt3": 3, "Cu4": 1, "Cu2Pt2": 5}
    images = []
    for formula, times in some.items():
        for _ in range(times):
            image = Atoms(formula, positions=np.random.default_rng(len(images)).normal(size=(4, 3)))
            images.append(with_results(image, energy=1.0))
    for number in range(9):
        write(f"{number}.traj", images[number])
    alone = SerialCommunicator()
    names = [f"{number}.traj" for number in range(9)]
    about = survey(alone, open_pool(alone, names[:8], names[8:]), forces=False).about
    assert about == {
        "images": "8 to train on, 1 to validate on, from "
        "0.traj, 1.traj, 2.traj, 3.traj, 4.traj and 4 more files",
        "atoms": "32 in the training images: 15 of Cu, 17 of Pt",
        "composition": "Cu2Pt2 (4), CuPt3 (3), Cu4 (1)",
    }
    about = survey(alone, open_pool(alone, images), forces=False).about
    assert about["images"] == "9 to train on, 0 to validate on, from memory"


def test_images_to_validate_on_that_cannot_be_fingerprinted_do_not_undo_the_others():
    validation = emt_images(2, seed=3)
    for image in validation:
        forces = image.get_forces()
        image.positions[1] = image.positions[0]
        image.calc = SinglePointCalculator(image, energy=0.0, forces=forces)
    with pytest.raises(ImageError, match=r"2 images cannot be fingerprinted.*--skip-un") as caught:
        calculator().train(emt_images(4), validation=validation)
    assert caught.value.exit_code == 3
    assert FingerprintDatabase("t-fingerprints.ampdb").info().entries == 4
    assert "4 computed" in Path("t-log.txt").read_text()
    with pytest.raises(ImageError, match="1 image cannot be fingerprinted") as caught:
        calculator("b").train(validation[:1])
    assert caught.value.exit_code == 2
    assert not Path("b-log.txt").exists()


def test_of_many_images_that_cannot_be_read_the_first_is_quoted(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("".join(f"1\nenergy=1\nCu 0 0 {i}.5*^2\n" for i in range(5)))
    alone = SerialCommunicator()
    with pytest.raises(InputError) as caught:
        survey(alone, open_pool(alone, str(path)), forces=False)
    lines = str(caught.value).splitlines()
    assert lines[1] == (
        f"  5 cannot be read (could not convert string to float: …): {path}, images 0 to 4; the "
        f"first is {path}, image 0: it cannot be read: could not convert string to float: '0.5*^2'"
    )
    shown = CliRunner().invoke(images_command, [str(path)]).output
    assert shown.count("cannot be read (") == 1
    assert "float: '0.5*^2'" in shown
