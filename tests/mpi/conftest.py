"""Tests on ranks: a failure on one ends the job on all, and jobs that are started from tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write
from pace import YIELD, stretched

from ampmpi import FingerprintDatabase
from ampmpi.parallel.comm import Communicator, world

_comm = world()
SET_FOR_THE_TESTS = ("PMI", "MPI", "HYDRA", "HYDI", "OMPI", "SLURM", "GFORTRAN", "NUMBA_CACHE")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "starts_jobs: starts mpirun itself, so runs on one rank only"
    )


def pytest_collection_modifyitems(config, items):
    """Leave the tests that start jobs of their own to the run on one rank."""
    if _comm.size > 1:
        kept = [item for item in items if not item.get_closest_marker("starts_jobs")]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Print a failing rank's report and end the job: the other ranks may wait for it for ever."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and _comm.size > 1:
        text = f"\nrank {_comm.rank} of {_comm.size}: {item.nodeid}\n{report.longreprtext}\n"
        sys.__stderr__.write(text)
        sys.__stderr__.flush()
        _comm.abort(1)


@pytest.fixture(scope="session")
def comm() -> Communicator:
    return _comm


@pytest.fixture
def shared_path(comm, tmp_path) -> Path:
    """Return a directory that is the same on every rank."""
    path: Path = comm.bcast(tmp_path)
    yield path
    comm.barrier()


def make_images(n: int = 14, seed: int = 0) -> list:
    """Return periodic and cluster images of Cu and Pt, of several sizes."""
    rng = np.random.default_rng(seed)
    images = []
    for index in range(n):
        if index % 3 == 2:
            atoms = molecule("H2O")
            atoms.symbols = "CuPt2"
            atoms.positions *= 2.4
        else:
            atoms = bulk("Cu", a=3.7, cubic=True) * (1 + index % 2, 1, 1)
            atoms.symbols[0] = "Pt"
        atoms.positions += rng.normal(0.0, 0.03, (len(atoms), 3))
        images.append(atoms)
    return images


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    code: int
    out: str
    err: str


def environment(**extra: str) -> dict[str, str]:
    """Return an environment that shows nothing of the launcher of the tests."""
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(SET_FOR_THE_TESTS)
    }
    return {**env, **YIELD, "PATH": f"{Path(sys.executable).parent}:{env['PATH']}", **extra}


def start(arguments: list[str], ranks: int, cwd: Path, **extra: str) -> subprocess.Popen[str]:
    """Start ``mpirun -n ranks python ARGUMENTS``, or without mpirun for 0 ranks."""
    mpirun = shutil.which("mpirun", path=environment()["PATH"])
    launcher = [mpirun, "-n", str(ranks)] if ranks else []
    return subprocess.Popen(
        [*launcher, sys.executable, *arguments],
        cwd=cwd,
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], limit: float = 120.0) -> Outcome:
    """Wait for a job; one that hangs is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=stretched(limit))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"the job hangs\n{out}\n{err}")
    return Outcome(process.returncode, out, err)


AMPMPI = ["-c", "from ampmpi.cli.main import ampmpi; ampmpi()"]


# The job with a descriptor that waits, or worse, on images that a test chooses.
TROUBLE = """
import os, signal, sys, time
from ampmpi.descriptor import Gaussian
def troubled(original):
    def call(self, atoms):
        {trouble}
        return original(self, atoms)
    return call
for name in ("fingerprint", "calculate"):
    setattr(Gaussian, name, troubled(getattr(Gaussian, name)))
with open("pid" + os.environ.get("PMI_RANK", "0"), "w") as file:
    file.write(str(os.getpid()))
from ampmpi.cli.main import ampmpi
ampmpi()
"""


def trouble(text: str, arguments: list[str], ranks: int, cwd: Path) -> subprocess.Popen[str]:
    """Start the command with a descriptor that does something before it computes an image."""
    return start(["-c", TROUBLE.format(trouble=text), *arguments], ranks, cwd)


def run(arguments: list[str], ranks: int, cwd: Path, **extra: str) -> Outcome:
    """Run ``mpirun -n ranks ampmpi ARGUMENTS`` to its end."""
    return finish(start([*AMPMPI, *arguments], ranks, cwd, **extra))


def entries(path: Path) -> dict[str, bytes]:
    """Return all entries of a database as they are stored."""
    with FingerprintDatabase(path) as database:
        return {key: database.get_bytes(key) for key in database}


def many_images(path: Path, n: int) -> None:
    """Write small images."""
    write(path, [bulk("Cu", a=3.6 + 0.001 * i) for i in range(n)])


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; fail if it takes too long."""
    limit = time.monotonic() + stretched(120)
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.fixture
def images_file(tmp_path) -> Path:
    """Return a trajectory of fourteen images, of which two repeat others."""
    images = make_images()
    path = tmp_path / "images.traj"
    write(path, [*images, images[2], images[2]])
    return path
