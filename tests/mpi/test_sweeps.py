"""Sweeps with halving and trainings that time ends, on ranks."""

from __future__ import annotations

import json
import re
import signal
import time

import numpy as np
import pytest
from ase.io import write
from conftest import AMPMPI, finish, run, start, wait_until
from test_training import curve, training_images

pytestmark = [pytest.mark.mpi, pytest.mark.starts_jobs]

SWEEP = [
    "train", "images.traj", "--label", "s", "--cutoff", "4.5", "--max-steps", "40", "--hidden",
    "4", "--hidden", "5,4", "--starts", "2", "--validation-fraction", "0.2", "--halving",
    "--checkpoint-every", "15",
]  # fmt: skip
ENDLESS = [
    "train", "images.traj", "--label", "t", "--cutoff", "4.5", "--energy-rmse", "1e-12",
    "--max-steps", "1000000",
]  # fmt: skip

# The command with processes that are killed after so many steps of their own.
KILLED = """
import os, signal
from ampmpi.training.curve import Curve
append, steps = Curve.append, []
def killed_after(self, step):
    append(self, step)
    steps.append(step)
    if len(steps) == {n}:
        os.kill(os.getpid(), signal.SIGKILL)
Curve.append = killed_after
from ampmpi.cli.main import ampmpi
ampmpi()
"""


def table(folder):
    rows = [row.split() for row in (folder / "s-members.txt").read_text().splitlines()[1:]]
    return {row[0]: row[1:3] + [float(x) for x in row[3:9]] for row in rows}


def decided(folder):
    rounds = json.loads((folder / "s-members" / "halving.json").read_text())["rounds"]
    return [[(fit["name"], fit["out"]) for fit in one["fits"]] for one in rounds]


def made(path):
    path.mkdir()
    write(path / "images.traj", training_images())
    return path


def test_a_sweep_has_the_same_winner_on_every_number_of_ranks(tmp_path):
    found = {}
    for ranks in (0, 2, 3, 5):
        folder = made(tmp_path / str(ranks))
        result = run(SWEEP, ranks, folder)
        assert result.code == 0, result.err
        found[ranks] = folder
        groups = re.findall(r"with (\d groups? of \d ranks?)", result.out)
        assert (
            groups
            == {
                0: ["1 group of 1 rank"],
                2: ["2 groups of 1 rank", "1 group of 2 ranks"],
                3: ["3 groups of 1 rank", "1 group of 3 ranks"],
                5: ["1 group of 5 ranks"],
            }[ranks]
        )
        assert not list((folder / "s-members").glob(".queue*"))
    for folder in found.values():
        assert decided(folder) == decided(found[0])
        for name, row in table(folder).items():
            assert row[:2] == table(found[0])[name][:2]
            np.testing.assert_allclose(row[2:], table(found[0])[name][2:], rtol=1e-4)
    assert "finished already" in run(SWEEP, 2, found[3]).out


def test_a_sweep_whose_ranks_are_killed_ends_as_an_undisturbed_one(tmp_path):
    whole, killed = made(tmp_path / "whole"), made(tmp_path / "killed")
    assert run(SWEEP, 2, whole).code == 0
    for n in (17, 21):  # in the first round, and in another one
        ended = finish(start(["-c", KILLED.format(n=n), *SWEEP], 2, killed))
        assert ended.code != 0
        assert not (killed / "s.amp").exists()
    result = run(SWEEP, 2, killed)
    assert result.code == 0, result.err
    assert (killed / "s.amp").read_bytes() == (whole / "s.amp").read_bytes()
    assert (killed / "s-members.txt").read_text() == (whole / "s-members.txt").read_text()
    assert decided(killed) == decided(whole)
    for name in table(whole):
        path = f"s-members/{name}-curve.txt"
        assert curve(killed / path) == curve(whole / path)


def test_a_warned_sweep_is_unfinished_and_goes_on(tmp_path):
    folder = made(tmp_path / "warned")
    endless = [*SWEEP, "--max-steps", "1000000", "--energy-rmse", "1e-12", "--patience", "1000000"]
    job = start([*AMPMPI, *endless], 3, folder)
    wait_until(lambda: job.poll() is not None or bool(list(folder.glob("s-members/*-curve.txt"))))
    job.send_signal(signal.SIGUSR1)
    result = finish(job)
    assert result.code == 75, result.err
    assert "members done; start it again to go on" in result.err
    result = run([*endless, "--max-seconds", "5"], 3, folder)
    assert result.code == 0, result.err
    assert re.search(r"s.amp: .*, out of time after", result.out)
    assert len(decided(folder)) == 2


def test_time_ends_a_training_on_all_ranks(tmp_path):
    write(tmp_path / "images.traj", training_images())
    result = run([*ENDLESS, "--max-seconds", "4"], 3, tmp_path)
    assert result.code == 0, result.err
    assert "t.amp: out of time after" in result.out


@pytest.mark.parametrize("sweep", [False, True])
def test_the_end_of_a_batch_job_ends_all_ranks(tmp_path, sweep):
    write(tmp_path / "images.traj", training_images())
    command = [*ENDLESS, "--hidden", "4", "--hidden", "5"] if sweep else ENDLESS
    end = {"SLURM_JOB_END_TIME": str(int(time.time() + 8))}
    result = finish(start([*AMPMPI, *command], 2, tmp_path, **end))
    assert result.code == 75, result.err
    assert "start it again to go on" in result.err
    if not sweep:
        assert "(the time of the batch job is nearly over)" in result.err


def test_a_potential_is_trained_further_on_every_number_of_ranks(tmp_path):
    write(tmp_path / "images.traj", training_images(8))
    write(tmp_path / "more.traj", training_images(14, seed=3))
    first = ["train", "images.traj", "--label", "a", "--cutoff", "4.5", "--max-steps", "20"]
    assert run(first, 0, tmp_path).code == 0
    curves = []
    for ranks in (0, 2, 3):
        command = ["train", "more.traj", "--label", f"b{ranks}", "--start-from", "a"]
        result = run([*command, "--max-steps", "5"], ranks, tmp_path)
        assert result.code == 0, result.err
        curves.append(np.genfromtxt(tmp_path / f"b{ranks}-curve.txt", names=True))
    for one in curves[1:]:
        assert one["loss"][0] == pytest.approx(curves[0]["loss"][0], rel=1e-10)
        np.testing.assert_allclose(one["loss"], curves[0]["loss"], rtol=1e-6)
    result = run(["train", "more.traj", "--label", "c", "--start-from", "b9"], 2, tmp_path)
    assert result.code == 2
    assert result.err.count("there is no such calculator") == 1
