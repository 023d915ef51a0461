"""What stands behind ``amp.stats.bootstrap``, and .ensemble files."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write
from training_images import emt_images

from ampmpi import Amp, Committee, Gaussian, NeuralNetwork
from ampmpi.amp.stats.bootstrap import BootStrap, TrainingArchive, bootstrap
from ampmpi.amp.utilities import Logger, get_hash
from ampmpi.errors import InputError, ModelError

IMAGES = emt_images(4)

CALC_TEXT = """
from amp import Amp
from amp.descriptor.gaussian import Gaussian
from amp.model import LossFunction
from amp.model.neuralnetwork import NeuralNetwork

calc = Amp(descriptor=Gaussian(cutoff=4.0), model=NeuralNetwork(hiddenlayers=(2,), randomseed=1),
           dblabel="../amp-db")
calc.model.lossfunction = LossFunction(convergence={"energy_rmse": RMSE}, maxiter=50)
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def members():
    """Return three calculators with different weights and the same ranges."""
    descriptor = Gaussian(cutoff=4.0).resolve(["Cu", "Pt"])
    rng = np.random.default_rng(3)
    found = []
    for seed in range(3):
        model = NeuralNetwork(hiddenlayers=(2,), randomseed=seed)
        ranges = {e: np.tile([0.0, 3.0], (n, 1)) for e, n in descriptor.n_features.items()}
        model.initialise(ranges, rng.normal(size=4), np.array([[2.0, 2.0]] * 4))
        found.append(Amp(descriptor, model))
    return found


def test_an_ensemble_goes_both_ways(members):
    Committee(members).save("c.ensemble")
    texts = json.loads(Path("c.ensemble").read_text())
    members[1].save("1.amp")
    assert texts[1] == Path("1.amp").read_text()
    ensemble = BootStrap(load="c.ensemble", log=Logger(None), label="other").ensemble
    committee = Committee.load("c.ensemble")
    for one, two, three in zip(members, ensemble, committee.members, strict=True):
        assert two.label == "other"
        assert np.array_equal(one.model.vector, two.model.vector)
        assert one.get_potential_energy(IMAGES[0]) == three.get_potential_energy(IMAGES[0])
    assert len(Committee.load(["c.ensemble", "1.amp"]).members) == 4
    with pytest.raises(InputError, match="ends in"):
        committee.save("c.amp")


@pytest.mark.parametrize("text", ["[1]", "[]", "{}", "no json", '["dict(a=open)"]'])
def test_what_is_no_ensemble_is_refused(text):
    Path("x.ensemble").write_text(text)
    with pytest.raises(ModelError, match=r"x\.ensemble"):
        BootStrap(load="x.ensemble", log=Logger(None))
    with pytest.raises(ModelError, match="No such file"):
        Committee.load("y.ensemble")


def test_predictions_are_means_and_quantiles(members):
    Committee(members).save("c.ensemble")
    calc, atoms = BootStrap(load="c.ensemble", log=Logger(None)), IMAGES[0]
    energies = sorted(one.get_potential_energy(atoms) for one in members)
    assert calc.get_potential_energy(atoms) == pytest.approx(np.mean(energies), rel=1e-12)
    assert calc.get_potential_energy(atoms, mean=False) == pytest.approx(energies[1], rel=1e-12)
    low, middle, high, everything = calc.get_potential_energy(atoms, output=(0.0, 0.5, 1.0, "e"))
    assert [low, middle, high] == pytest.approx(energies, rel=1e-12)
    assert sorted(everything) == energies
    # with alpha = beta = 0.4, x_j lies at the quantile (j - 0.4) / (n + 0.2)
    half = (1.0 - 0.4 + 0.5) / 3.2
    assert calc.get_potential_energy(atoms, output=(half, 0.5))[0] == pytest.approx(
        (energies[0] + energies[1]) / 2, rel=1e-12
    )
    forces = np.array([one.get_forces(atoms) for one in members])
    assert calc.get_forces(atoms) == pytest.approx(forces.mean(axis=0), abs=1e-14)
    quarter, found = calc.get_forces(atoms, output=[0.25, "e"])
    assert np.array_equal(found, forces)
    assert quarter == pytest.approx(np.sort(forces, axis=0)[:2].mean(axis=0), abs=1e-14)
    atomic = np.array([one.get_potential_energies(atoms) for one in members])
    assert calc.get_atomic_energies(atoms) == pytest.approx(atomic.mean(axis=0), abs=1e-14)
    lowest, _ = calc.get_atomic_energies(atoms, output=(0, 1))
    assert lowest == pytest.approx(atomic.min(axis=0), abs=1e-14)
    assert calc.get_potential_energy(atoms, k=1) == members[0].get_potential_energy(atoms)
    for wrong in ((1.5,), (), ("e", 0.5)):
        with pytest.raises(InputError, match="output"):
            calc.get_potential_energy(atoms, output=wrong)
    with pytest.raises(InputError, match="no calculator"):
        BootStrap(log=Logger(None)).get_forces(atoms)


def test_draws_follow_numpys_global_seed():
    np.random.seed(4)  # noqa: NPY002
    chosen, missing = bootstrap("abcdef", return_missing=True)
    np.random.seed(4)  # noqa: NPY002
    assert chosen == ["abcdef"[i] for i in np.random.choice(6, size=6)]  # noqa: NPY002
    assert sorted({*chosen, *missing}) == list("abcdef")
    assert not set(chosen) & set(missing)
    assert len(bootstrap([1, 2], size=9)) == 9


def test_an_ensemble_is_trained_in_two_calls():
    write("set.traj", IMAGES)
    log = Logger("b.log")
    calc = BootStrap(log=log)
    text = CALC_TEXT.replace("RMSE", "0.5")
    options = {"n": 2, "calc_text": text, "label": "b", "sleep": 0.0}
    assert calc.train("set.traj", **options) == {"complete": False, "n_converged": 0}
    for number in range(2):
        drawn = read(f"b-training/training-images/{number}.traj", ":")
        assert len(drawn) == 4
        assert {get_hash(atoms) for atoms in drawn} <= {get_hash(atoms) for atoms in IMAGES}
    assert calc.train("set.traj", **options, remove_dir=True) == {"complete": True}
    log.file.close()
    assert "         2 converged\n" in Path("b.log").read_text()
    assert not Path("b-training").exists()
    loaded = BootStrap(load="b.ensemble", log=Logger(None)).ensemble
    archive = TrainingArchive("b-training.tar.gz")
    for number, one in enumerate(loaded):
        same = archive.get_amp_calc(f"b-training/{number}/amp.amp")
        assert np.array_equal(same.model.vector, one.model.vector)
        images = archive.get_trajectory(f"b-training/training-images/{number}.traj")
        assert len(images) == 4
        errors = [
            (one.get_potential_energy(atoms) - atoms.get_potential_energy()) / len(atoms)
            for atoms in {get_hash(atoms): atoms for atoms in images}.values()
        ]
        assert np.sqrt(np.mean(np.square(errors))) < 0.5
        images.close()
    archive.tf.close()


def test_trainings_that_fail_are_told_of_and_started_again():
    log = Logger("b.log")
    calc = BootStrap(log=log)
    options = {"n": 4, "label": "b", "start_command": "echo x >> started", "sleep": 0.0}
    calc.train(IMAGES, **options)
    places = [Path("b-training") / str(number) for number in range(4)]
    places[0].joinpath("converged").write_text("True\n")
    places[1].joinpath("converged").write_text("False\n")
    (places[1] / "amp-checkpoints").mkdir()
    for number in (2, 3):
        (places[number] / "amp-log.txt").touch()
    os.utime(places[2] / "amp-log.txt", (1.0, 1.0))
    assert calc.train(IMAGES, **options) == {"complete": False, "n_converged": 1}
    assert [(place / "started").read_text() for place in places] == ["x\n"] * 4
    assert [sorted(os.listdir(place)) for place in places] == [
        ["converged", "run.py", "started"],
        ["run.py", "started"],
        ["run.py", "started"],
        ["amp-log.txt", "run.py", "started"],
    ]
    calc.train(IMAGES, **{**options, "start_command": "exit 3"})
    with pytest.raises(InputError, match=r"holds no run\.py"):
        calc.train(IMAGES, **{**options, "n": 5})
    log.file.close()
    said = Path("b.log").read_text()
    assert "1: Not started; no amp-log.txt file." in said
    assert "         1 expired, restarted" in said


def test_scripts_begin_with_the_lines_of_the_queue():
    calc = BootStrap(log=Logger(None))
    calc.train(
        IMAGES, n=1, headerlines="#SBATCH --time=00:30:00", start_command="exit 3", sleep=0.0,
        nft_ids=[(get_hash(IMAGES[0]), 2)],
    )  # fmt: skip
    lines = Path("bootstrap-training/0/run.py").read_text().splitlines()
    assert lines[:2] == ["#!/usr/bin/env python3", "#SBATCH --time=00:30:00"]
    compile("\n".join(lines), "run.py", "exec")
    saved = json.loads(Path("bootstrap-training/saved-info/nft_ids.json").read_text())
    assert saved == [[get_hash(IMAGES[0]), 2]]


def test_what_is_not_taken_is_refused():
    with pytest.raises(InputError, match="new images"):
        BootStrap(log=Logger(None), retrain_initiated=True)
    with pytest.raises(InputError, match="new_images"):
        BootStrap(log=Logger(None)).train(IMAGES, new_images=IMAGES)
    with tarfile.open("x.tar.gz", "w:gz"):
        pass
    archive = TrainingArchive("x.tar.gz")
    with pytest.raises(InputError, match="not among"):
        archive.get_amp_calc("a.amp")
    archive.tf.close()
