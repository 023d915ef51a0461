"""Trainings that time ends: after so many seconds, or before their batch job does."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from ase.io import write
from click.testing import CliRunner
from training_images import emt_images

from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork, Regressor
from ampmpi.cli.train import command
from ampmpi.errors import InputError, Unfinished
from ampmpi.parallel.launch import job_end
from ampmpi.training import Schedule
from ampmpi.training.deadline import Deadline

ENDLESS = ["--cutoff", "4", "--hidden", "4", "--energy-rmse", "1e-12", "--max-steps", "1000000"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    write("set.traj", emt_images(4))


def run(*options):
    given = ["set.traj", "--label", "t", *ENDLESS, *map(str, options)]
    result = CliRunner().invoke(command, given, standalone_mode=False, catch_exceptions=False)
    return result.output


def n_steps():
    return len(Path("t-curve.txt").read_text().splitlines()) - 1


def by_script(seconds):
    loss = LossFunction(convergence={"energy_rmse": 1e-12}, maxiter=10**6)
    model = NeuralNetwork(
        (4,), lossfunction=loss, regressor=Regressor("L-BFGS-B"), randomseed=0, prescale=True
    )
    calc = Amp(Gaussian(cutoff=4.0), model, label="s")
    return calc.train("set.traj", schedule=Schedule(max_seconds=seconds))


def test_time_ends_a_training_which_more_time_takes_further():
    text = run("--max-seconds", 1e-3)
    assert "t.amp: out of time after 1 steps" in text
    assert Amp.load("t.amp").model.vector.size > 0
    assert "The time is up after step 1: max-seconds is 0.001." in Path("t-log.txt").read_text()
    before = Path("t.amp").read_bytes()
    assert "finished already" in run("--max-seconds", 1e-3)
    assert Path("t.amp").read_bytes() == before
    began = time.monotonic()
    run("--max-seconds", 3)
    assert n_steps() > 1
    assert time.monotonic() - began > 2
    done = n_steps()
    assert "finished already" in run("--max-seconds", 3)
    assert f"maxiter after {done + 2} steps" in run("--max-steps", done + 2)


def test_a_script_ends_in_time():
    first = by_script(1e-3)
    assert (first.outcome, first.steps, first.file) == ("out of time", 1, "s.amp")
    assert by_script(1e-3).steps == 1
    assert by_script(2e-3).steps == 1  # another step would come too late
    assert by_script(2).steps > 1


def test_the_end_of_the_batch_job_interrupts_a_training(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time()))
    with pytest.raises(
        Unfinished, match=r"step 1 of .* \(the time of the batch job is nearly over"
    ):
        run()
    assert not Path("t.amp").exists()
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + 1e6)))
    assert "maxiter after 5 steps" in run("--max-steps", 5)


def test_the_end_of_the_batch_job_finishes_a_training_that_has_a_limit(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time()))
    assert "out of time after 1 steps" in run("--max-seconds", 1e6)
    assert Path("t.amp").exists()
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + 4))
    # it was not the limit that ended it, so that the next job goes on
    assert "out of time" in run("--max-seconds", 1e6)
    assert n_steps() > 1


@pytest.mark.parametrize("text", ["", "soon", "0", "-3", "nan"])
def test_an_end_that_is_no_time_is_none(text):
    assert job_end({"SLURM_JOB_END_TIME": text}) == math.inf


def test_fits_share_the_time_that_is_left():
    now = time.monotonic()
    whole = Deadline.of(100.0, now)
    assert whole.part(4).left == pytest.approx(25.0, abs=1.0)
    assert whole.part(1) == whole
    assert whole.over(200.0)
    assert not whole.over(20.0)
    past = Deadline.of(1.0, now - 5)
    assert past.over()
    assert past.part(3) == past
    assert Deadline.of(None, now).left == math.inf


def test_every_fit_of_a_sweep_has_its_share():
    text = run("--starts", 4, "--max-seconds", 4)
    assert text.count("out of time") == 4 + 1
    rows = [row.split() for row in Path("t-members.txt").read_text().splitlines()[1:]]
    assert min(int(row[2]) for row in rows) > 1


@pytest.mark.parametrize("seconds", [0, -1.0, "5"])
def test_seconds_that_are_no_time_are_refused(seconds):
    with pytest.raises(InputError, match=f"max_seconds is {seconds!r}; give a number above 0"):
        by_script(seconds)


@pytest.mark.parametrize(("left", "margin"), [(10_000, 60), (100, 10), (-5, 0)])
def test_a_minute_or_a_tenth_of_a_short_job_is_left(monkeypatch, left, margin):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + left))
    found = Deadline.of(None, time.monotonic())
    assert found.left == pytest.approx(left - margin, abs=1.0)
    assert not found.finishes
    assert found.part(5) == found
    limited = Deadline.of(20_000, time.monotonic())
    assert limited.left == pytest.approx(left - margin, abs=1.0)
    assert (limited.finishes, limited.seconds) == (True, None)
