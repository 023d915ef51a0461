"""The images of which a committee is unsure: in a dynamics, and chosen from trajectories."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from click.testing import CliRunner
from training_images import emt_images

import ampmpi
from ampmpi import (
    Amp,
    Committee,
    Custom,
    Gaussian,
    NeuralNetwork,
    SpreadError,
    SpreadObserver,
    SpreadWatch,
    hash_image,
    select,
    spread_quantile,
)
from ampmpi.cli.select import command
from ampmpi.cli.train import command as train_command
from ampmpi.errors import (
    FileError,
    ImageFileError,
    InputError,
    ModelError,
    UnusableImagesError,
)
from ampmpi.images import open_images
from ampmpi.selection import ImageAppender
from ampmpi.selection.farthest import choose, nearest
from ampmpi.selection.survey import Scale, survey
from ampmpi.selection.writing import with_spreads


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A committee of three, the images that it was trained on, and others."""
    path = tmp_path_factory.mktemp("selection")
    before = Path.cwd()
    os.chdir(path)
    write("known.traj", emt_images(6))
    write("far.traj", [image.copy() for image in emt_images(30, seed=5, width=0.15)])
    arguments = ["known.traj", "--label", "c", "--cutoff", "4", "--committee", "3"]
    arguments += ["--max-steps", "20", "--hidden", "4", "--seed", "7"]
    done = CliRunner().invoke(train_command, arguments)
    os.chdir(before)
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture
def committee():
    return Committee.load("c")


def spreads_of(committee, images):
    found = []
    for image in images:
        committee.calculate(image, ["energy", "forces"])
        found.append(committee.results["forces_spread"])
    return found


# -- the decision


def test_a_watch_counts_and_says_when_to_write_and_when_to_stop():
    watch = SpreadWatch(0.2, stop_above=1.0, most=2)
    assert watch.summary() == "the forces were not looked at yet"
    calm = watch.look([0.1, 0.2])
    assert (calm.number, calm.spread, calm.atom, calm.unsure, calm.reason) == (0, 0.2, 1, False, "")
    unsure = watch.look(np.array([0.3, 0.1]))
    assert (unsure.number, unsure.atom, unsure.unsure, unsure.reason) == (1, 0, True, "")
    second = watch.look([0.0, 0.25])
    assert second.unsure
    assert second.reason.startswith("2 images, as many as asked for by most, had forces that ")
    far = watch.look([1.5, 0.1])
    assert far.unsure
    assert far.reason == (
        "the committee's forces on atom 0 disagree by 1.5 eV/Å, more than stop_above, 1"
    )
    assert (watch.n_looks, watch.n_unsure, watch.largest, watch.largest_at) == (4, 3, 1.5, 3)
    assert watch.summary() == (
        "4 looks: the forces disagreed by more than 0.2 eV/Å at 3, at most by 1.5 (look 3)"
    )


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_forces_that_are_not_finite_stop_always(wrong):
    seen = SpreadWatch(0.2).look([0.1, wrong])
    assert (seen.unsure, seen.atom, seen.spread) == (True, 1, np.inf)
    assert seen.reason == "the forces on atom 1 are not finite"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"limit": 0.0}, "limit is 0.0"),
        ({"limit": float("nan")}, "limit is nan"),
        ({"limit": 0.2, "stop_above": 0.1}, "stop_above is 0.1, below the limit of 0.2"),
        ({"limit": 0.2, "most": 0}, "most is 0"),
    ],
)
def test_limits_that_are_wrong_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        SpreadWatch(**given)


# -- the observer


def moving(committee, seed=3):
    atoms = emt_images(1, seed=seed)[0]
    atoms.calc = committee
    momenta = np.random.default_rng(0).normal(size=(len(atoms), 3))
    atoms.set_momenta(momenta * np.sqrt(300 * units.kB * atoms.get_masses())[:, None])
    return atoms


@pytest.mark.parametrize("name", ["unsure.traj", "unsure.extxyz"])
def test_an_observer_writes_what_is_unsure_and_nothing_else(committee, tmp_path, name):
    atoms = moving(committee)
    dynamics = VelocityVerlet(atoms, 2.0 * units.fs)
    seen = []

    def note():
        seen.append((atoms.positions.copy(), committee.results["forces_spread"].copy()))

    dynamics.attach(note, interval=2)
    probe = VelocityVerlet(moving(Committee.load("c")), 2.0 * units.fs)
    largest = []
    probe.attach(lambda: largest.append(probe.atoms.calc.results["forces_spread"].max()), 2)
    probe.run(20)
    limit = float(np.median(largest))
    watch = SpreadObserver(atoms, limit, tmp_path / name)
    dynamics.attach(watch, interval=2)
    dynamics.run(20)
    expected = [(p, s) for p, s in seen if s.max() > limit]
    assert 0 < len(expected) < len(seen) == watch.n_looks == 11
    assert watch.n_unsure == len(expected)
    found = read(tmp_path / name, ":")
    assert len(found) == len(expected)
    for image, (positions, spreads) in zip(found, expected, strict=True):
        np.testing.assert_allclose(image.positions, positions, atol=1e-7)
        kept = (
            image.info["forces_spread"] if name.endswith("traj") else image.arrays["forces_spread"]
        )
        np.testing.assert_allclose(kept, spreads, atol=1e-7)
        assert image.info["largest_spread"] == pytest.approx(spreads.max(), abs=1e-7)
        assert image.calc is None  # the committee's own are no references
        assert np.abs(image.get_momenta()).max() > 0.1


def test_an_observer_stops_a_dynamics_at_a_whole_step_and_it_can_go_on(committee, tmp_path):
    atoms = moving(committee)
    dynamics = VelocityVerlet(atoms, 2.0 * units.fs)
    watch = SpreadObserver(atoms, 1e-9, tmp_path / "u.traj", most=3)
    dynamics.attach(watch, interval=5)
    with pytest.raises(SpreadError, match="the dynamics was stopped at look 2: 3 images") as caught:
        dynamics.run(50)
    assert isinstance(caught.value, RuntimeError)
    assert dynamics.nsteps == 10
    assert len(read(tmp_path / "u.traj", ":")) == 3
    reference = moving(Committee.load("c"))
    VelocityVerlet(reference, 2.0 * units.fs).run(14)
    dynamics.observers.clear()
    dynamics.run(4)
    np.testing.assert_allclose(atoms.positions, reference.positions, atol=1e-12)


def test_a_committee_watches_what_another_calculator_drives(committee):
    atoms = moving(EMT())
    watch = SpreadObserver(atoms, 1e-9, committee=committee)
    VelocityVerlet(atoms, units.fs).attach(watch)
    relaxed = BFGS(atoms, logfile=None)
    relaxed.attach(watch, interval=1)
    relaxed.run(steps=2)
    assert watch.n_looks == watch.n_unsure == 3
    spreads = spreads_of(committee, [atoms])[0]
    assert watch.largest >= spreads.max() > 0


def test_an_observer_needs_a_committee_of_several(committee):
    atoms = moving(EMT())
    with pytest.raises(InputError, match="which is no committee: attach"):
        SpreadObserver(atoms, 0.1)
    with pytest.raises(InputError, match="the committee has one member"):
        SpreadObserver(atoms, 0.1, committee=Committee(committee.members[:1]))


# -- writing


def image_with_spreads(number=0):
    atoms = emt_images(1, seed=number)[0]
    return with_spreads(atoms, np.arange(len(atoms)) / 10, look=number)


@pytest.mark.parametrize("name", ["a.traj", "a.xyz"])
def test_images_are_appended_to_what_is_there(tmp_path, name):
    for number in range(3):
        ImageAppender(tmp_path / name).append(image_with_spreads(number))
    found = read(tmp_path / name, ":")
    assert [image.info["look"] for image in found] == [0, 1, 2]


@pytest.mark.parametrize("name", ["a.traj", "a.extxyz"])
def test_nothing_is_appended_behind_a_torn_image(tmp_path, name):
    path = tmp_path / name
    for number in range(2):
        ImageAppender(path).append(image_with_spreads(number))
    data = path.read_bytes()
    path.write_bytes(data[:-20] if name.endswith("xyz") else data[:60])
    with pytest.raises(ImageFileError, match="does not end with a whole image"):
        ImageAppender(path)


def test_an_image_that_cannot_be_written_leaves_those_before(tmp_path, monkeypatch):
    path = tmp_path / "a.extxyz"
    ImageAppender(path).append(image_with_spreads())
    before, whole = path.read_bytes(), os.write

    def full(descriptor, data):
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return whole(descriptor, data[:100])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(FileError, match=r"a.extxyz cannot be written: No space left on device"):
        ImageAppender(path).append(image_with_spreads(1))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.cif", "give a name that ends in"),
        ("no/a.traj", "there is no folder no"),
        ("folder.xyz", "it is a folder"),
    ],
)
def test_names_that_cannot_be_written_are_refused(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder.xyz").mkdir()
    with pytest.raises(InputError, match=said):
        ImageAppender(name)


# -- spreads and vectors


def test_a_quantile_of_the_spreads_is_that_of_each_images_largest(committee):
    images = read("far.traj", ":")
    largest = [spread.max() for spread in spreads_of(committee, images)]
    assert spread_quantile("c", "far.traj", 0.5) == pytest.approx(np.median(largest))
    assert spread_quantile(committee, images, 1.0) == pytest.approx(max(largest))
    with pytest.raises(InputError, match="quantile is 2"):
        spread_quantile(committee, images, 2)


def test_a_vector_knows_environments_and_no_orientation_or_numbering(committee):
    image = emt_images(1, seed=4)[0]
    scale = Scale(committee)
    vector = scale.vector(image)
    other = image[np.random.default_rng(0).permutation(len(image))]
    other.rotate(37, "z", rotate_cell=True)
    other.positions += 0.3
    np.testing.assert_allclose(scale.vector(other), vector, atol=1e-10)
    other.positions[0, 0] += 0.1
    assert np.linalg.norm(scale.vector(other) - vector) > 1e-3


def test_a_vector_is_made_of_means_deviations_and_shares(committee):
    image = emt_images(1, seed=0)[0]
    assert set(image.symbols) == {"Cu", "Pt"}
    member = committee.members[0]
    fingerprint = member.descriptor.fingerprint(image)
    parts = []
    for element in ("Cu", "Pt"):
        low, high = np.array(member.model.fprange[element]).T
        mine = [i for i, symbol in enumerate(fingerprint.symbols) if symbol == element]
        values = (fingerprint.values[mine, : len(low)] - low) / np.maximum(high - low, 1e-8)
        share = len(mine) / len(image)
        weight = np.sqrt(share / len(low))
        parts += [weight * values.mean(0), weight * values.std(0), [share]]
    np.testing.assert_allclose(Scale(committee).vector(image), np.concatenate(parts), rtol=1e-12)


def test_shortest_distances_are_those_that_are_seen(committee):
    image = emt_images(3)[2]  # two atoms, not periodic
    distance = image.get_distance(0, 1)
    from ase.data import covalent_radii

    bond = covalent_radii[image.numbers].sum()
    assert Scale(committee).shortest(image) == pytest.approx(distance / bond)
    image.positions[1, 2] += 50
    assert Scale(committee).shortest(image) == np.inf


# -- farthest points


def test_rows_are_chosen_by_weight_times_distance():
    vectors = np.array([[0.0], [1.0], [1.001], [4.0], [9.0]])
    weights = np.array([1.0, 1.0, 5.0, 1.0, 2.0])
    none = np.full(5, np.inf)
    chosen = choose(vectors, weights, none, 10, 0.01)
    # The largest weight, then 2 x 7.999, then 1 x 2.999, then 0; 1 is like 2.
    assert chosen.rows.tolist() == [2, 4, 3, 0]
    np.testing.assert_allclose(chosen.distances, [np.inf, 7.999, 2.999, 1.001])
    assert chosen.n_alike == 1
    known = nearest(vectors, np.array([[9.0], [0.5]]))
    np.testing.assert_allclose(known, [0.5, 0.5, 0.501, 3.5, 0.0])
    chosen = choose(vectors, weights, known, 2, 0.01)
    assert chosen.rows.tolist() == [3, 2]  # 3.5, then 5 x 0.501; 4 is known
    assert np.isinf(none).all()  # what is given is not changed


# -- select


def test_the_images_chosen_are_unsure_apart_and_unlike_what_is_known(committee):
    found = select(committee, "far.traj", 5, known="known.traj")
    images = read("far.traj", ":")
    largest = np.array([spread.max() for spread in spreads_of(committee, images)])
    np.testing.assert_allclose(found.spreads, largest, rtol=1e-12)
    assert found.limit == pytest.approx(np.quantile(largest, 0.7))
    assert found.n_unsure == (largest >= found.limit).sum() == 9
    assert (found.n_images, found.n_usable, found.n_known) == (30, 30, 6)
    assert len(found.picks) == len({pick.ref for pick in found.picks}) == 5
    known, scale = (
        [Scale(committee).vector(one) for one in read("known.traj", ":")],
        Scale(committee),
    )
    for pick, image in zip(found.picks, found.images, strict=True):
        assert hash_image(image) == hash_image(images[pick.ref.index])
        assert pick.spread == pytest.approx(largest[pick.ref.index]) == image.info["largest_spread"]
        assert image.arrays["forces_spread"].argmax() == pick.atom
        assert image.symbols[pick.atom] == pick.symbol
        distances = [np.linalg.norm(scale.vector(image) - one) for one in known]
        assert pick.distance == pytest.approx(min(distances))
        known.append(scale.vector(image))
        assert image.calc is None
        assert image.info["image"] == str(pick.ref)
    # By hand: the first one is that of the largest product.
    first = [
        spread * min(np.linalg.norm(scale.vector(one) - other) for other in known[:6])
        for spread, one in zip(largest, images, strict=True)
    ]
    above = np.where(largest >= found.limit, first, 0)
    assert found.picks[0].ref.index == above.argmax()


def test_duplicates_turned_ones_and_known_ones_are_chosen_once(committee):
    image = emt_images(1, seed=8)[0]
    turned, near, other = image.copy(), image.copy(), emt_images(1, seed=9)[0]
    turned.rotate(90, "x", rotate_cell=True)
    near.positions[0, 0] += 1e-4
    found = select(committee, [image, turned, near, image, other], 5, limit=0.0)
    assert len(found.picks) == 2
    assert found.n_alike == 3
    assert {pick.ref.index for pick in found.picks} & {0, 1, 2, 3}
    found = select(committee, [image, turned, near, other], 5, limit=0.0, known=[image])
    assert [pick.ref.index for pick in found.picks] == [3]
    assert found.lines()[-1].startswith("Only 1 of the 5 asked for")


def test_useless_images_are_left_out_in_one_line(committee):
    good = emt_images(4, seed=11)
    close, broken, foreign, lost = (image.copy() for image in good)
    close.positions[1] = close.positions[0] + (0, 0, 1.2)
    broken.positions[0] = np.nan
    foreign.numbers[0] = 79
    lost.positions[0] = lost.positions[1]
    close2 = good[2].copy()
    close2.positions[1] = close2.positions[0] + (0, 0, 1.0)
    found = select(committee, [*good, close, broken, foreign, lost, close2], 2, limit=0.0)
    assert (found.n_images, found.n_usable) == (9, 4)
    (said,) = found.remarks
    assert said.startswith("5 of 9 images left out: 2 have atoms closer than 0.6 of the sum of")
    assert "images 4 and 8" in said
    assert "image 5" in said
    assert said.count("\n") == 0
    # No bond of a molecule that is sound is that short.
    assert len(select(committee, [*good, close], 9, limit=0.0, closest=0.0).picks) == 5


def test_what_is_beyond_the_upper_limit_is_left_out(committee):
    images = read("far.traj", ":")
    largest = np.array([spread.max() for spread in spreads_of(committee, images)])
    upper = float(np.quantile(largest, 0.9))
    found = select(committee, images, 30, upper=upper, quantile=0.5)
    sound = largest[largest <= upper]
    assert found.limit == pytest.approx(np.quantile(sound, 0.5))
    assert found.n_beyond == 3
    assert max(pick.spread for pick in found.picks) <= upper
    assert any(line.startswith("3 images left out, beyond the upper") for line in found.lines())


def test_where_nothing_can_be_used_or_asked_select_says_so(committee):
    image = emt_images(1)[0]
    image.numbers[:] = 79
    with pytest.raises(UnusableImagesError, match="none of the images can be used: 1 of 1 image"):
        select(committee, [image], 1)
    for wrong, said in [
        ({"n": 0}, "n is 0"), ({"limit": -1.0}, "limit is -1.0"), ({"upper": 0.0}, "upper is 0.0"),
        ({"quantile": 1.5}, "quantile is 1.5"), ({"tolerance": -1}, "tolerance is -1"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=said):
            select(committee, "far.traj", **{"n": 3, **wrong})
    with pytest.raises(InputError, match="the committee has one member"):
        select("c-committee-0.amp", "far.traj", 1)
    untrained = [
        Amp(Gaussian(cutoff=4, elements=["Cu", "Pt"]), NeuralNetwork(), label=None)
        for _ in range(2)
    ]
    with pytest.raises(ModelError, match="not trained"):
        select(untrained, "far.traj", 1)


def test_without_derivatives_there_is_no_spread_of_forces(committee):
    def count(atoms):
        return np.ones((len(atoms), 1))

    custom = Custom(count, elements=["Cu", "Pt"], n_features=1, name="count")
    members = [Amp(custom, NeuralNetwork(), label=None) for _ in range(2)]
    with pytest.raises(InputError, match="has no derivatives"):
        select(members, "far.traj", 1)


def test_labels_are_not_needed_and_never_written(committee, tmp_path):
    image = emt_images(1, seed=21)[0]
    image.calc = SinglePointCalculator(image, energy=5.0, forces=np.ones((len(image), 3)))
    image.info["REF_energy"] = 7.0
    found = select(committee, [image], 1)
    found.write(tmp_path / "next.extxyz")
    text = (tmp_path / "next.extxyz").read_text()
    assert "energy" not in text
    assert set(read(tmp_path / "next.extxyz").arrays) == {"numbers", "positions", "forces_spread"}


# -- the command


def run(*arguments):
    return CliRunner().invoke(command, list(map(str, arguments)))


def test_the_command_writes_what_it_prints(tmp_path):
    out = tmp_path / "next.traj"
    done = run("c", "far.traj", "-n", 4, "-o", out, "--known", "known.traj")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == "30 images looked at; 6 images known"
    assert lines[1].startswith("Spread of the forces, eV/Å: 50 % below ")
    assert lines[2].startswith("9 images above the limit of ")
    assert lines[-1] == f"{out} is written: compute energies and forces of its images"
    images = read(out, ":")
    assert len(images) == 4
    for line, image in zip(lines[-5:-1], images, strict=True):
        assert line.endswith(f" of {image.info['image']}")
    again = run("c", "far.traj", "-n", 4, "-o", out)
    assert isinstance(again.exception, InputError)
    assert "is there already" in str(again.exception)
    assert run("c", "far.traj", "-n", 4, "-o", out, "--overwrite").exit_code == 0


def test_the_command_refuses_before_it_computes(tmp_path):
    out = tmp_path / "n.traj"
    for arguments, said in [
        (["far.traj", "-n", 1, "-o", out], "no calculator .* is given; ampmpi select COMMITTEE"),
        (["c", "far.traj", "-n", 1, "-o", tmp_path / "n.cif"], "ends in .extxyz, .xyz or .traj"),
        (["c", "far.traj", "-n", 1, "-o", out, "--limit", 1, "--quantile", 0.5], "both set the"),
        (["c-committee-0.amp", "far.traj", "-n", 1, "-o", out], "the committee has one member"),
        (["c", "no.traj", "-n", 1, "-o", out], "there is no file 'no.traj'"),
    ]:
        done = run(*arguments)
        assert isinstance(done.exception, InputError), done.output
        done.exception.args[0]
        with pytest.raises(InputError, match=said):
            raise done.exception
        assert not out.exists()


def test_where_nothing_is_above_the_limit_no_file_is_written(tmp_path):
    out = tmp_path / "n.traj"
    done = run("c", "far.traj", "-n", 1, "-o", out, "--limit", 1e6, "--upper", 1e7)
    assert done.exit_code == 0
    assert "0 images above the limit" in done.output
    assert "Only 0 of the 1 asked for" in done.output
    assert f"No image is chosen, and {out} is not written" in done.output
    assert not out.exists()


@pytest.mark.parametrize("role", ["trajectory", "known", "slice", "link"])
def test_a_file_that_is_read_is_not_replaced(role, tmp_path):
    """A trajectory can be worth weeks, and --overwrite is easily left in a line."""
    file = tmp_path / "far.traj"
    file.write_bytes(Path("far.traj").read_bytes())
    before, out = file.read_bytes(), file
    if role == "link":
        out = tmp_path / "link.traj"
        out.symlink_to(file)
    read_from = f"{file}@:9" if role == "slice" else file
    given = ["far.traj", "--known", file] if role == "known" else [read_from]
    done = run("c", *given, "-n", 1, "-o", out, "--overwrite")
    assert isinstance(done.exception, InputError), done.output
    assert "images are read from it" in str(done.exception)
    assert file.read_bytes() == before


def test_all_is_public():
    for name in ("select", "Selection", "SpreadObserver", "SpreadWatch", "spread_quantile"):
        assert getattr(ampmpi, name) is not None
    assert survey(Committee.load("c"), open_images([]), []).vectors.shape[0] == 0
