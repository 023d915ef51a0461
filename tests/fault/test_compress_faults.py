"""A compress that is killed, or meets an error, at every one of its system calls."""

import errno
import itertools
import os
import shutil
from collections import Counter

import pytest
import samples
import syscalls

SOAK = "AMPMPI_SOAK_SECONDS" in os.environ
ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EACCES", "ESTALE")
FILE_CALLS = {
    "close", "fstat", "fsync", "getdents64", "link", "linkat", "lseek", "lstat", "mkdir",
    "newfstatat", "openat", "pread64", "read", "rename", "stat", "unlink", "utimensat", "write",
}  # fmt: skip

pytestmark = [
    pytest.mark.skipif(not syscalls.strace_works(), reason="strace is missing or may not trace"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "x-fingerprints.ampdb"
    return path, samples.make_database(path)


class Bench:
    """Copies of one database, and a compress of each under a fault."""

    def __init__(self, template, tmp_path):
        self.template, self.entries = template
        self.tmp_path = tmp_path
        self.numbers = itertools.count()
        self.points = syscalls.points(self.command(self.copy()), str(tmp_path / "strace"))

    def copy(self):
        path = self.tmp_path / str(next(self.numbers)) / "x-fingerprints.ampdb"
        shutil.copytree(self.template, path)
        return path

    def command(self, path):
        prepare = "from ampmpi.database.compress import compress"
        return syscalls.victim(prepare, f"compress({str(path)!r})")

    def run(self, point, fault):
        """Return how the compress ended under a fault; nothing may be lost or wrong."""
        path = self.copy()
        done = syscalls.run_with(fault, point[0], point[1], self.command(path))
        try:
            samples.verify(path, self.entries)
            samples.verify_compress(path, self.entries)
        except Exception as error:
            error.add_note(f"{fault} at {point}: {done.stdout}{done.stderr}")
            raise
        shutil.rmtree(path.parent)
        return done


@pytest.fixture
def bench(template, tmp_path):
    return Bench(template, tmp_path)


def test_killed_at_every_system_call(bench):
    runs = syscalls.on_two_cores(lambda point: bench.run(point, "signal=KILL"), bench.points)
    killed = [run.returncode == -9 for run in runs]
    missed = Counter(point[0] for point, hit in zip(bench.points, killed, strict=True) if not hit)
    print(f"{sum(killed)} of {len(runs)} compressions were killed; not at {dict(missed)}")
    # Where a thread waits depends on the moment.
    assert set(missed) <= {"futex", "madvise", "mmap", "munmap", "mprotect", "brk"}


def test_an_error_at_every_file_system_call(bench):
    """One of the errors at each call; every error at each call in the long form."""
    at = [point for point in bench.points if point[0] in FILE_CALLS]
    if SOAK:
        cases = list(itertools.product(at, ERRORS))
    else:
        cases = list(zip(at, itertools.cycle(ERRORS), strict=False))
    runs = syscalls.on_two_cores(lambda case: bench.run(case[0], f"error={case[1]}"), cases)
    unexpected = [
        (case, run.stdout, run.stderr)
        for case, run in zip(cases, runs, strict=True)
        if run.returncode not in (0, 4, 6) or "Traceback" in run.stderr
    ]
    assert unexpected == []
    failed = [run for run in runs if run.returncode]
    print(f"{len(runs)} errors: {len(failed)} compressions ended with a sentence")
    assert len(failed) >= 20
    for run in failed:
        assert run.stdout.startswith("AmpmpiError:"), run
        assert "x-fingerprints.ampdb" in run.stdout


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
def test_a_full_disk_is_said_in_words(bench, error):
    point = next(point for point in bench.points if point[0] == "write")
    run = bench.run(point, f"error={error}")
    assert run.returncode == 4
    assert {"ENOSPC": "disk is full", "EDQUOT": "quota"}[error] in run.stdout
    assert getattr(errno, error)
