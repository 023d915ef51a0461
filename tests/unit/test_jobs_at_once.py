"""Jobs that share a label, at the same time."""

import subprocess
import sys

import pytest
from ase.build import bulk
from ase.io import write
from click.testing import CliRunner

from ampmpi import FingerprintDatabase
from ampmpi.cli.fingerprint import command
from ampmpi.errors import UnusableImagesError

OTHER_JOB = """
import sys
from ampmpi import Gaussian, fingerprint
from ampmpi.fingerprinting import job

def slowly(*given):
    print("the databases are open", flush=True)
    sys.stdin.readline()
    return take_inventory(*given)

take_inventory, job.take_inventory = job.take_inventory, slowly
print(fingerprint("good.traj", Gaussian(cutoff=4), label="x").computed)
"""


@pytest.mark.parametrize("derivatives", [False, True])
def test_a_job_that_can_use_no_image_takes_no_database_from_another(
    tmp_path, monkeypatch, derivatives
):
    monkeypatch.chdir(tmp_path)
    good, overlapping = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    overlapping.positions[1] = overlapping.positions[0]
    write("good.traj", good)
    write("bad.traj", overlapping)
    arguments = ["--label", "x", "--cutoff", "4"] + ["--derivatives"] * derivatives
    # As if the first job had been a little quicker than the other one: its database is there.
    monkeypatch.setattr("ampmpi.fingerprinting.work.warm_up", lambda *_: start())
    jobs = []

    def start():
        if not jobs:
            command_line, pipe = [sys.executable, "-c", OTHER_JOB], subprocess.PIPE
            jobs.append(subprocess.Popen(command_line, stdin=pipe, stdout=pipe, text=True))
            assert jobs[0].stdout.readline() == "the databases are open\n"

    failed = CliRunner().invoke(command, ["bad.traj", *arguments])
    assert isinstance(failed.exception, UnusableImagesError)
    said, _ = jobs[0].communicate("go on\n", timeout=120)
    assert (jobs[0].returncode, said) == (0, "1\n")
    assert len(FingerprintDatabase("x-fingerprints")) == 1
