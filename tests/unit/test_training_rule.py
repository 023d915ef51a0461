"""What is there already when a training starts: gone on with, returned, or refused."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.io import write
from click.testing import CliRunner
from training_images import emt_images

from ampmpi import Amp, FingerprintDatabase, Gaussian, LossFunction, NeuralNetwork, Regressor
from ampmpi.cli.train import command
from ampmpi.errors import InputError, ModelError, Unfinished
from ampmpi.members import committee_files
from ampmpi.model import checkpoint
from ampmpi.parallel.launch import StopRequest
from ampmpi.training import shared_loss

OPTIONS = ["--cutoff", "4", "--hidden", "4", "--max-steps", "3"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("set.traj", emt_images(4))


def by_command(*, overwrite=False, steps=3, hidden=4, seed=0, label="t"):
    options = ["--label", label, "--hidden", hidden, "--max-steps", steps, "--seed", seed]
    options += ["--overwrite"] * overwrite
    return run(*options, "--cutoff", 4)


def by_script(*, overwrite=False, steps=3, hidden=4, seed=0, label="t"):
    loss = LossFunction(convergence={"energy_rmse": 1e-3, "force_rmse": 1e-2}, maxiter=steps)
    model = NeuralNetwork(
        (hidden,), lossfunction=loss, regressor=Regressor("L-BFGS-B"), randomseed=seed,
        prescale=True,
    )  # fmt: skip
    Amp(Gaussian(cutoff=4.0), model, label=label).train("set.traj", overwrite=overwrite)
    return ""


def run(*options):
    result = CliRunner().invoke(
        command, ["set.traj", *map(str, options)], standalone_mode=False, catch_exceptions=False
    )
    return result.output


WAYS = pytest.mark.parametrize("train", [by_command, by_script])


@pytest.fixture
def request_to_stop(monkeypatch):
    """A request to stop that all trainings of a test see."""
    request = StopRequest()
    monkeypatch.setattr(shared_loss, "stop", request)
    return request


def files():
    """Every file but logs, and its content."""
    return {
        str(path): path.read_bytes()
        for path in sorted(Path().rglob("*"))
        if path.is_file() and not path.name.endswith("-log.txt")
    }


@WAYS
def test_a_calculator_of_another_training_is_refused_before_anything_is_computed(train):
    Path("t.amp").write_text("mine")
    before = files()
    with pytest.raises(InputError, match=r"t\.amp is there already.* --overwrite"):
        train()
    assert files() == before
    train(overwrite=True)
    assert Amp.load("t.amp").model.vector.size


@WAYS
def test_another_network_under_the_label_is_refused_and_nothing_goes_elsewhere(train, monkeypatch):
    Path("tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", "tmp")
    train()
    before = files()
    with pytest.raises(
        InputError,
        match=r"t-checkpoint\.npz is of another .*hiddenlayers: was \[4\].*--overwrite",
    ):
        train(hidden=5)
    assert files() == before
    train(hidden=5, overwrite=True)
    assert Amp.load("t.amp").model.hiddenlayers["Cu"] == (5,)
    assert list(Path("tmp").iterdir()) == []


@WAYS
def test_an_interrupted_training_of_other_images_is_refused_with_the_option(train, request_to_stop):
    request_to_stop.request("a test")
    with pytest.raises(Unfinished):
        train()
    request_to_stop.signal_name = None
    write("set.traj", emt_images(3))
    with pytest.raises(InputError, match=r"\(other images\).*--restart \(overwrite=True in a "):
        train()
    train(overwrite=True)
    fresh = train(label="fresh")
    assert Path("t.amp").read_bytes() == Path("fresh.amp").read_bytes(), fresh


@WAYS
def test_the_same_command_goes_on_to_its_end_and_then_returns_its_result(train, request_to_stop):
    train(label="whole", steps=12)
    request_to_stop.request("a test")
    for _ in range(2):
        with pytest.raises(Unfinished):
            train(steps=12)
    request_to_stop.signal_name = None
    train(steps=12)
    assert Path("t.amp").read_bytes() == Path("whole.amp").read_bytes()
    before = files()
    times = {name: os.stat(name).st_mtime_ns for name in before if name.endswith("curve.txt")}
    said = train(steps=12)
    assert ("This training is finished already" in said) == (train is by_command)
    assert files() == before
    assert times == {name: os.stat(name).st_mtime_ns for name in times}
    assert "finished; nothing to do" in Path("t-log.txt").read_text()


@WAYS
def test_more_steps_go_on_and_replace_the_result_of_fewer_unasked(train, request_to_stop):
    train()
    train(steps=6)
    request_to_stop.request("a test")
    with pytest.raises(Unfinished):
        train(steps=20)  # from here on the checkpoint tells of no end
    request_to_stop.signal_name = None
    train(steps=20)
    train(steps=20, label="whole")
    assert Path("t.amp").read_bytes() == Path("whole.amp").read_bytes()


@WAYS
def test_a_foreign_calculator_beside_the_own_checkpoint_is_refused(train):
    train()
    train(label="other", seed=1)
    Path("t.amp").write_bytes(Path("other.amp").read_bytes())
    with pytest.raises(InputError, match=r"t\.amp is there already, and is not the result"):
        train()
    assert Path("t.amp").read_bytes() == Path("other.amp").read_bytes()


@WAYS
def test_a_result_that_is_gone_is_written_again_and_nothing_computed(train):
    train()
    saved = Path("t.amp").read_bytes()
    Path("t.amp").unlink()
    curve = os.stat("t-curve.txt").st_mtime_ns
    train()
    assert Path("t.amp").read_bytes() == saved
    assert os.stat("t-curve.txt").st_mtime_ns == curve


def test_the_same_calculator_trained_twice_returns_its_result():
    loss = LossFunction(convergence={"energy_rmse": 1e-9}, maxiter=4)
    calc = Amp(Gaussian(cutoff=4.0), NeuralNetwork((3,), lossfunction=loss), label="t")
    first = calc.train("set.traj")
    vector = calc.model.vector
    again = calc.train("set.traj")
    assert (again.steps, again.best.loss) == (first.steps, first.best.loss)
    np.testing.assert_array_equal(calc.model.vector, vector)
    assert calc.train("set.traj", overwrite=True).best.loss < first.best.loss


def test_restart_starts_over_and_leaves_the_calculator_to_overwrite(request_to_stop):
    request_to_stop.request("a test")
    with pytest.raises(Unfinished):
        by_command(steps=9)
    request_to_stop.signal_name = None
    run("--label", "t", *OPTIONS, "--seed", 3, "--restart")
    saved = Path("t.amp").read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        run("--label", "t", *OPTIONS, "--seed", 4, "--restart")
    assert Path("t.amp").read_bytes() == saved


def test_a_requeued_job_with_restart_goes_on(monkeypatch, request_to_stop):
    request_to_stop.request("a test")
    with pytest.raises(Unfinished):
        run("--label", "t", *OPTIONS, "--restart")
    request_to_stop.signal_name = None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run("--label", "t", *OPTIONS, "--restart")
    assert "Going on from t-checkpoint.npz" in Path("t-log.txt").read_text()


def test_a_network_that_amp_left_with_other_layers_is_not_taken_up():
    by_script(label="other", hidden=6)
    Path("t-checkpoint.amp").write_bytes(Path("other.amp").read_bytes())
    with pytest.raises(InputError, match=r"t-checkpoint\.amp is of a network with \(6,\) hidden"):
        by_script()


def test_a_committee_removes_no_calculator_of_another_label():
    by_command(label="cupt-committee-7")
    other = Path("cupt-committee-7.amp").read_bytes()
    run("--label", "cupt", *OPTIONS, "--committee", 3)
    run("--label", "cupt", *OPTIONS, "--committee", 2, "--seed", 1, "--overwrite")
    assert Path("cupt-committee-7.amp").read_bytes() == other
    assert committee_files("cupt") == ["cupt-committee-0.amp", "cupt-committee-1.amp"]
    assert not Path("cupt-committee-2.amp").exists()


def test_a_committee_replaces_no_calculator_of_another_label_unasked():
    by_command(label="cupt-committee-1")
    before = files()
    with pytest.raises(InputError, match=r"cupt-committee-1\.amp is there already.*--overwrite"):
        run("--label", "cupt", *OPTIONS, "--committee", 2)
    assert files() == before


def test_a_smaller_committee_asks_before_it_removes_seats():
    run("--label", "c", *OPTIONS, "--committee", 3)
    Path("c.amp").write_bytes(Path("c-committee-0.amp").read_bytes())
    with pytest.raises(InputError, match=r"c-committee-2\.amp is of an earlier committee"):
        run("--label", "c", *OPTIONS, "--committee", 2)
    assert len(committee_files("c")) == 3


def test_a_dry_run_refuses_what_the_training_would_refuse():
    by_command()
    with pytest.raises(InputError, match="hiddenlayers: was"):
        run("--label", "t", "--cutoff", 4, "--hidden", 5, "--dry-run")
    assert "finished; nothing to do" in run("--label", "t", *OPTIONS, "--dry-run")


@WAYS
def test_damage_in_the_database_is_said(train, capfd):
    train(label="first")
    fingerprints = FingerprintDatabase("first-fingerprints.ampdb")
    keys = sorted(fingerprints)
    Path("t-fingerprints.ampdb").mkdir()
    with FingerprintDatabase.create("t-fingerprints.ampdb") as other:
        for key in keys:
            other.put(key, fingerprints[key])
    path = next(Path("t-fingerprints.ampdb/loose").iterdir())
    path.write_bytes(path.read_bytes()[:-40])
    capfd.readouterr()
    text = train() + "".join(capfd.readouterr())
    assert f"entry {path.name} was damaged" in text
    assert f"entry {path.name} was damaged" in Path("t-log.txt").read_text()


@WAYS
def test_damage_that_the_compress_finds_is_said(train, capfd):
    train()
    stray = Path("t-fingerprints.ampdb/loose") / ("0" * 32)
    stray.write_bytes(b"rubbish")
    os.utime(stray, (1, 1))
    capfd.readouterr()
    text = train() + "".join(capfd.readouterr())
    assert f"loose entry {stray.name} is damaged" in text
    assert f"loose entry {stray.name} is damaged" in Path("t-log.txt").read_text()
    assert not stray.exists()


def test_a_damaged_checkpoint_is_named_with_the_option_that_helps():
    by_command()
    Path("t-checkpoint.npz").write_bytes(Path("t-checkpoint.npz").read_bytes()[:-7])
    with pytest.raises(ModelError, match=r"t-checkpoint\.npz cannot be read .* --restart"):
        by_command()
    Path("t.amp").unlink()
    run("--label", "t", *OPTIONS, "--restart")
    assert Path("t.amp").exists()
    assert checkpoint.load("t-checkpoint.npz") is not None


def test_a_member_that_another_training_has_locked_fails_alone():
    Path("c-members").mkdir()
    with open("c-members/4_member0_start0-log.txt", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        run("--label", "c", *OPTIONS, "--committee", 2)
    rows = [row.split() for row in Path("c-members.txt").read_text().splitlines()[1:]]
    assert [row[:2] for row in rows] == [
        ["4_member1_start0", "maxiter"],
        ["4_member0_start0", "failed"],
    ]


def test_a_finished_training_needs_no_database():
    by_command()
    for path in Path().glob("*.ampdb"):
        shutil.rmtree(path)
    assert "finished already" in by_command()
    assert not list(Path().glob("*.ampdb"))
