"""Functions made from images: candidates, their responses, the choice, the commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner

from ampmpi import Gaussian
from ampmpi.cli.group import group
from ampmpi.descriptor import make_default_symmetry_functions
from ampmpi.errors import DescriptorError, ImageError, InputError
from ampmpi.functions import candidates as made
from ampmpi.functions import make_functions, moments
from ampmpi.functions.choose import Equations, LinearError, Problem, select
from ampmpi.functions.make import WITHOUT_LABELS, Point, default_number
from ampmpi.functions.moments import Sample, take_moments
from ampmpi.functions.sample import MOST_ATOMS, thin
from ampmpi.images import digest_image
from ampmpi.parallel.comm import SerialCommunicator
from ampmpi.training.dataset import validation_split

CUTOFF = 5.0


def images_of(n, seed=0, labels=True):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        atoms = bulk("Cu", "fcc", a=3.75, cubic=True)
        atoms.numbers[rng.permutation(4)[:2]] = 78
        atoms.set_cell(atoms.cell * rng.uniform(0.98, 1.04), scale_atoms=True)
        atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
        if labels:
            atoms.calc = EMT()
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        images.append(atoms)
    return images


def samples_of(images):
    return [
        Sample(n, f"image {n}", atoms, atoms.get_potential_energy(), atoms.get_forces())
        for n, atoms in enumerate(images)
    ]


@pytest.fixture(scope="module")
def images():
    return images_of(25)


@pytest.fixture(scope="module")
def choice(images):
    return make_functions(images, cutoff=CUTOFF)


def test_candidates_lie_between_the_shortest_distance_and_the_cutoff():
    shortest = {("H", "H"): 1.2, ("H", "O"): 0.8, ("O", "H"): 0.8, ("O", "O"): 2.5}
    found = made.make_candidates(["H", "O"], shortest, 6.0)
    assert set(found) == {"H", "O"}
    for element, functions in found.items():
        assert len(functions) == made.GRIDS[0].count(2)
        for other in "HO":
            offsets = [
                f["offset"] for f in functions if f.get("element") == other and f["offset"] > 0.0
            ]
            assert min(offsets) == pytest.approx(0.9 * shortest[element, other], rel=1e-3)
            assert max(offsets) < 6.0
        Gaussian(cutoff=6.0, Gs=found)


def test_elements_that_never_meet_get_no_functions_for_each_other():
    found = made.make_candidates(["Cu", "H"], {("Cu", "Cu"): 2.4, ("H", "H"): 0.7}, 6.0)
    named = [f["element"] if "element" in f else f["elements"] for f in found["H"]]
    assert named
    assert all(name in ("H", ["H", "H"]) for name in named)


@pytest.mark.parametrize("n_elements", range(1, 7))
def test_number_of_candidates_is_bounded(n_elements):
    elements = ["Ag", "Al", "Au", "Cu", "Ni", "Pt"][:n_elements]
    found = made.make_candidates(elements, {(a, b): 2.5 for a in elements for b in elements}, 6.5)
    assert all(len(functions) <= made.MOST for functions in found.values())


def test_linear_forces_equal_those_of_the_kernels(images, monkeypatch):
    """Products of responses and forces against `contract`, an independent way to the forces."""
    monkeypatch.setattr(moments, "PIECE", 7)
    functions = make_default_symmetry_functions(["Cu", "Pt"])
    functions["Pt"] = functions["Pt"][:9]  # elements with different numbers of functions
    descriptor = Gaussian(cutoff=CUTOFF, Gs=functions)
    found = take_moments(SerialCommunicator(), functions, CUTOFF, samples_of(images[:3]), 2)
    weights = np.random.default_rng(1).normal(size=len(found.owner))
    by_element = {"Cu": weights[found.owner == 0], "Pt": weights[found.owner == 1]}
    squares, product = np.zeros(2), np.zeros(2)
    for n, atoms in enumerate(images[:3]):
        dE_dG = np.zeros((len(atoms), 20))
        for row, symbol in enumerate(atoms.symbols):
            dE_dG[row, : len(by_element[symbol])] = by_element[symbol]
        forces, _ = descriptor.contract(atoms, dE_dG)
        squares[n % 2] += np.sum(forces**2)
        product[n % 2] += np.sum(forces * atoms.get_forces())
        energy = np.sum(descriptor.fingerprint(atoms).values * dE_dG)
        assert found.sums[n] @ weights == pytest.approx(energy, rel=1e-12)
    assert [weights @ part @ weights for part in found.products] == pytest.approx(squares, rel=1e-9)
    assert found.with_forces @ weights == pytest.approx(product, rel=1e-9)
    assert found.n_components.tolist() == [24.0, 12.0]


def test_columns_that_make_up_the_target_are_found():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(200, 30))
    target = columns[:, 3] - 2.0 * columns[:, 17] + 0.5 * columns[:, 29]
    equations = Equations(columns.T @ columns, (columns.T @ target)[:, None])
    everything, one_owner = np.ones(30, bool), np.zeros(30, np.int64)
    assert select(equations, one_owner, everything, 3).tolist() == [3, 17, 29]
    owner = (np.arange(30) >= 15).astype(np.int64)
    kept = select(equations, owner, everything, 2)
    assert np.bincount(owner[kept]).tolist() == [2, 2]
    assert {3, 17, 29} <= set(kept.tolist())
    allowed = np.arange(30) != 17
    assert 17 not in select(equations, one_owner, allowed, 29)


def test_a_combination_of_chosen_columns_is_not_chosen():
    columns = np.random.default_rng(0).normal(size=(50, 3))
    columns = np.column_stack([columns, columns[:, 0]])
    equations = Equations(columns.T @ columns, columns.T @ columns[:, :1])
    kept = select(equations, np.zeros(4, np.int64), np.ones(4, bool), 4)
    assert kept.tolist() == [0, 1, 2]


def test_made_functions_explain_forces_better_than_the_defaults(images, choice):
    functions = choice.descriptor.parameters["Gs"]
    defaults = make_default_symmetry_functions(["Cu", "Pt"])
    errors = []
    for listed in (functions, defaults):
        found = take_moments(SerialCommunicator(), listed, CUTOFF, samples_of(images), 5)
        errors.append(Problem(found, labelled=True).cross_validate(100).force)
    assert errors[0] < 0.5 * errors[1]


def test_numbers_of_functions_and_the_report(choice):
    assert choice.descriptor.n_features == {"Cu": choice.per_element, "Pt": choice.per_element}
    assert choice.per_element == default_number(choice.curve)
    assert (choice.n_images, choice.n_atoms) == (25, 100)
    text = "\n".join(choice.lines())
    assert text.count("chosen") == 2  # in the heading of the table, and at one number
    assert f"cutoff {CUTOFF:g} Å" in text


def test_the_same_images_give_the_same_functions(images, choice):
    again = Gaussian.from_images(images, cutoff=CUTOFF)
    assert again.digest == choice.descriptor.digest


def test_a_number_of_functions_can_be_asked_for(images):
    descriptor = Gaussian.from_images(images[:6], per_element=5, cutoff=4.0)
    assert descriptor.n_features == {"Cu": 5, "Pt": 5}
    assert descriptor.cutoff_radius == 4.0


def test_images_without_labels(images):
    bare = [atoms.copy() for atoms in images[:6]]
    found = make_functions(bare, cutoff=CUTOFF)
    assert found.curve == ()
    assert found.descriptor.n_features == {"Cu": WITHOUT_LABELS, "Pt": WITHOUT_LABELS}
    assert make_functions(bare, cutoff=CUTOFF).descriptor.digest == found.descriptor.digest


def test_images_without_labels_are_left_out_beside_others(images):
    found = make_functions([images[0].copy(), *images[:6]], 8, cutoff=CUTOFF)
    assert found.n_images == 6
    assert found.descriptor.digest == make_functions(images[:6], 8, CUTOFF).descriptor.digest


def test_an_atom_without_neighbours_gets_the_default_functions(images):
    alone = Atoms("He", cell=[20.0] * 3, pbc=True)
    alone.calc = SinglePointCalculator(alone, energy=0.0, forces=np.zeros((1, 3)))
    descriptor = Gaussian.from_images([*images[:6], alone], 4, cutoff=CUTOFF)
    assert descriptor.n_features == {"Cu": 4, "He": 4, "Pt": 4}
    descriptor.calculate(alone)


def test_what_is_wrong_is_said(images):
    with pytest.raises(InputError, match="no image"):
        make_functions([])
    with pytest.raises(InputError, match="per_element is 0"):
        make_functions(images, 0)
    wrong = images[0].copy()
    wrong.positions[1] = wrong.positions[0]
    with pytest.raises(ImageError, match="image 1: "):
        make_functions([images[1].copy(), wrong])


def test_large_sets_are_thinned_and_every_element_is_there():
    n_atoms = np.full(1000, 50)
    present = np.tile([True, False], (1000, 1))
    present[501, 1] = True
    chosen = thin(n_atoms, present)
    assert 501 in chosen
    assert n_atoms[chosen].sum() <= MOST_ATOMS + 50
    assert len(chosen) > 0.8 * MOST_ATOMS / 50
    assert thin(n_atoms[:7], present[:7]).tolist() == list(range(7))
    assert thin(np.array([10**6]), np.array([[True]])).tolist() == [0]


def test_the_smallest_number_near_the_best_is_the_default():
    errors = {8: 0.200, 12: 0.150, 16: 0.109, 24: 0.105, 32: 0.100, 48: 0.050}
    curve = [Point(n, LinearError(n, 0.0, force), 1.0) for n, force in errors.items()]
    assert default_number(curve) == 16
    assert default_number([]) == WITHOUT_LABELS


def test_a_descriptor_is_written_and_read_again(choice, tmp_path):
    file = tmp_path / "made.toml"
    file.write_text(choice.descriptor.to_toml(["two", "lines"]))
    assert file.read_text().startswith("# two\n# lines\n")
    assert Gaussian.from_toml(file).digest == choice.descriptor.digest
    polynomial = Gaussian(
        cutoff={"name": "Polynomial", "kwargs": {"Rc": 5.5, "gamma": 3.0}}, elements=["H", "O"]
    )
    file.write_text(polynomial.to_toml())
    assert Gaussian.from_toml(file).digest == polynomial.digest
    with pytest.raises(DescriptorError, match="not known yet"):
        Gaussian().to_toml()


@pytest.fixture
def trajectory(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("known.traj", images[:10])
    return "known.traj"


def run(*arguments):
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


def test_command_writes_a_descriptor_and_replaces_none_unasked(trajectory):
    result = run("functions", trajectory, "--per-element", 6, "--cutoff", 4.5)
    assert result.exit_code == 0, result.output
    descriptor = Gaussian.from_toml("functions.toml")
    assert descriptor.n_features == {"Cu": 6, "Pt": 6}
    assert descriptor.cutoff_radius == 4.5
    assert "held-out errors" in result.output
    again = run("functions", trajectory)
    assert isinstance(again.exception, InputError)
    assert "functions.toml is there already" in str(again.exception)
    assert run("functions", trajectory, "--overwrite").exit_code == 0
    assert Gaussian.from_toml("functions.toml").cutoff_radius == 6.5


def test_training_makes_its_functions_once(trajectory, tmp_path):
    training = ("train", trajectory, "--functions", "auto", "--label", "run/cupt", "--cutoff", 4.5)
    result = run(*training, "--dry-run")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "run").exists()
    result = run(*training, "--hidden", "3", "--max-steps", 3)
    assert result.exit_code == 0, result.output
    made_for = Gaussian.from_toml("run/cupt-functions.toml")
    assert made_for.cutoff_radius == 4.5
    kept = (tmp_path / "run/cupt-functions.toml").read_text()
    result = run(*training[:-2], "--hidden", "3", "--max-steps", 3)
    assert result.exit_code == 0, result.output
    assert "run/cupt-functions.toml are used" in result.output
    assert (tmp_path / "run/cupt-functions.toml").read_text() == kept
    result = run(*training[:-1], 5.0)
    assert "--cutoff is 5" in str(result.exception)


def test_a_training_without_the_forces_it_needs_keeps_no_functions(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bare = [atoms.copy() for atoms in images]
    for atoms, full in zip(bare, images, strict=True):
        atoms.info["REF_energy"] = full.get_potential_energy()
    write("bare.extxyz", bare)
    training = ("train", "bare.extxyz", "--functions", "auto", "--label", "cupt")
    result = run(*training)
    assert isinstance(result.exception, ImageError)
    assert "forces" in str(result.exception)
    assert not Path("cupt-functions.toml").exists()
    assert run(*training, "--no-forces", "--max-steps", 2).exit_code in (0, 8)
    assert Path("cupt-functions.toml").exists()


def test_images_to_validate_on_take_no_part_in_the_choice(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("all.traj", images[:12])
    given = ("--cutoff", 4.5, "--hidden", "3", "--max-steps", 2)
    auto = ("train", "all.traj", "--functions", "auto", *given)
    result = run(*auto, "--validation-fraction", 0.25, "--seed", 5)
    assert result.exit_code == 0, result.output
    keys = sorted((digest_image(image), number) for number, image in enumerate(images[:12]))
    held = validation_split(12, 0.25, 5)
    trained = sorted(number for (_, number), out in zip(keys, held, strict=True) if not out)
    assert len(trained) == 9
    alone = make_functions([images[number] for number in trained], cutoff=4.5)
    assert Gaussian.from_toml("amp-functions.toml").digest == alone.descriptor.digest
    assert "Looked at 9 images, " in result.output
    write("few.traj", images[:9])
    write("held.traj", images[9:12])
    result = run("train", "few.traj", "--validation", "held.traj", "--label", "b", *auto[2:])
    assert result.exit_code == 0, result.output
    few = make_functions(images[:9], cutoff=4.5)
    assert Gaussian.from_toml("b-functions.toml").digest == few.descriptor.digest


def test_unusable_images_are_left_out_of_the_choice(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = [image.copy() for image in images[:3]]
    broken[0].positions[0, 0] = np.nan
    broken[1].numbers[0] = 0
    broken[2].positions[1] = broken[2].positions[0]
    for image, good in zip(broken, images, strict=False):
        image.calc = SinglePointCalculator(image, **good.calc.results)
    broken.append(Atoms())
    write("mixed.traj", [*broken[:1], *images[3:12], *broken[1:]])
    result = run("functions", "mixed.traj", "--cutoff", 4.5)
    assert isinstance(result.exception, ImageError)
    assert result.exception.exit_code == 2
    assert str(result.exception).startswith(
        "mixed.traj, image 0 has positions that are not finite, such as that of atom 0: it cannot "
        "be used, nor can 2 more; "
    )
    result = run("functions", "mixed.traj", "--cutoff", 4.5, "--skip-unusable")
    assert result.exit_code == 0, result.output
    assert "3 of 13 images left out: 1 has atoms of no element: mixed.traj, image 10; 1 has no" in (
        result.output
    )
    assert "1 image left out, which cannot be described: mixed.traj, image 11\n" in result.output
    good = make_functions(images[3:12], cutoff=4.5)
    assert Gaussian.from_toml("functions.toml").digest == good.descriptor.digest
    write("none.traj", broken[:2])
    result = run("functions", "none.traj", "--skip-unusable", "-o", "none.toml")
    assert "no image can be used to make functions" in str(result.exception)
    given = ("--hidden", "3", "--max-steps", 2, "--cutoff", 4.5, "--skip-unusable")
    result = run("train", "mixed.traj", "--functions", "auto", *given)
    assert result.exit_code == 0, result.output
    assert Gaussian.from_toml("amp-functions.toml").digest == good.descriptor.digest


@pytest.mark.parametrize("skip", [(), ("--skip-unusable",)])
def test_a_training_that_is_refused_leaves_no_functions(trajectory, images, skip):
    given = ("--hidden", "3", "--max-steps", 2, "--cutoff", 4.5, *skip)
    assert run("train", trajectory, "--descriptor", "none.toml").exit_code != 0
    assert run("train", trajectory, *given, "--label", "old").exit_code == 0
    for label, sentence in (("old", "old-fingerprints.ampdb"), ("new", "new.amp is there already")):
        if label == "new":
            Path("old.amp").rename("new.amp")
        result = run("train", trajectory, *given, "--functions", "auto", "--label", label)
        assert sentence in str(result.exception)
        assert not Path(f"{label}-functions.toml").exists()
    close = [image.copy() for image in images[:3]]
    for image in close:
        image.positions[1] = image.positions[0]
        forces = np.zeros((len(image), 3))
        image.calc = SinglePointCalculator(image, energy=0.0, forces=forces)
    write("close.traj", close)
    before = sorted(map(str, Path().iterdir()))
    result = run("train", "close.traj", *given, "--functions", "auto", "--label", "in/new")
    assert isinstance(result.exception, ImageError)
    assert result.exception.exit_code == 2
    assert sorted(map(str, Path().iterdir())) == before


def test_made_functions_and_a_file_exclude_each_other(trajectory):
    result = run("train", trajectory, "--functions", "auto", "--descriptor", "a.toml")
    assert isinstance(result.exception, InputError)
    assert "--functions auto" in str(result.exception)
