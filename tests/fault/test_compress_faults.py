"""A compress that is killed, or meets an error, at every one of its system calls."""

import errno
import itertools
import os
import random
import shutil
import tempfile
from collections import Counter

import pytest
import samples
import syscalls
from faults import TRANSFERS, FaultServer

SOAK = "AMPMPI_SOAK_SECONDS" in os.environ
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES, errno.ESTALE)
LASTING = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)

needs_strace = pytest.mark.skipif(
    not syscalls.strace_works(), reason="strace is missing or may not trace"
)
pytestmark = pytest.mark.timeout(3600)
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def template():
    """A database to be compressed, and what it holds; in memory, because it is copied often."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        path = f"{folder}/x-fingerprints.ampdb"
        yield path, samples.make_database(path)


@pytest.fixture
def copies(template):
    """Return a function that copies the database to a new place."""

    def copy():
        path = f"{os.path.dirname(template[0])}/{os.getpid()}-{next(NUMBERS)}-fingerprints.ampdb"
        shutil.copytree(template[0], path)
        return path

    return copy


@pytest.fixture(scope="module")
def server(shim):
    with FaultServer(shim, "compress_victims") as server:
        yield server


def faults(names):
    """Go through the faults at every call; in the short form those that fail take turns."""
    failing = [(action, error) for action in ("FAIL", "FAIL_AFTER") for error in ERRORS]
    failing += [("FAIL_ON", error) for error in LASTING]
    random.Random(0).shuffle(failing)
    turns = itertools.cycle(failing)
    for number, name in enumerate(names, 1):
        yield number, "KILL", 0
        if name in TRANSFERS:
            yield number, "SHORT", 0
            yield number, "KILL_SHORT", 0
        # Killed after a call is killed before the next one.
        for action, error in failing if SOAK else [next(turns)]:
            yield number, action, error


def check_after(path, entries, outcome, action):
    """Check that nothing is lost or wrong, and that the next compress succeeds."""
    samples.verify(path, entries)
    if outcome.status == "raised":
        assert "AmpmpiError" in outcome.error
        assert os.path.dirname(path) in outcome.message
        assert "\n" not in outcome.message
    else:
        allowed = {"killed"} if "KILL" in action else {"returned"}
        if action == "KILL_SHORT":
            # The disk is waited for in a thread: this call may have been that fsync.
            allowed.add("returned")
        assert outcome.status in allowed
    samples.verify_compress(path, entries)


def test_every_fault_at_every_call(server, template, copies):
    path = copies()
    names = server.calls("compress", path)
    samples.verify_compress(path, template[1])
    outcomes = Counter()
    for number, action, error in faults(names):
        shutil.rmtree(path)
        path = copies()
        outcome = server.run("compress", path, action=action, number=number, error=error)
        try:
            check_after(path, template[1], outcome, action)
        except Exception as failure:
            name = names[number - 1]
            failure.add_note(
                f"at call {number} of {len(names)}, {name}: {action} {error}: {outcome}"
            )
            raise
        outcomes[outcome.status] += 1
    print(f"{len(names)} calls: {dict(outcomes)}")
    assert outcomes["killed"] >= len(names) >= 300
    assert outcomes["raised"] > 50


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_in_words(server, copies, error):
    number = server.calls("compress", copies()).index("write") + 1
    outcome = server.run("compress", copies(), action="FAIL_ON", number=number, error=error)
    assert outcome.status == "raised"
    assert {errno.ENOSPC: "disk is full", errno.EDQUOT: "quota"}[error] in outcome.message


@needs_strace
def test_the_shim_reaches_every_file_system_call(server, copies, tmp_path):
    """What strace sees is what the shim sees; opendir makes two calls of its own inside libc."""
    seen = Counter(server.calls("compress", copies()))
    found = Counter(point[0] for point in points(copies(), tmp_path))
    opened = seen["opendir"] + seen["fdopendir"]
    groups = {
        ("openat", "open"): seen["open64"] + seen["openat64"] + seen["open"] + seen["opendir"],
        ("newfstatat", "fstat", "stat", "lstat"): opened
        + sum(seen[name] for name in ("stat64", "lstat64", "fstat64", "fstatat64")),
        ("close",): seen["close"] + seen["closedir"],
        ("getdents64",): seen["readdir64"],
        ("read",): seen["read"],
        ("pread64",): seen["pread64"],
        ("write",): seen["write"],
        ("pwrite64",): seen["pwrite64"],
        ("lseek",): seen["lseek64"] + seen["closedir"],
        ("rename", "renameat"): seen["rename"] + seen["renameat"],
        ("renameat2",): seen["renameat2"],
        ("link", "linkat"): seen["link"] + seen["linkat"],
        ("unlink", "unlinkat"): seen["unlink"] + seen["unlinkat"],
        ("mkdir", "mkdirat"): seen["mkdir"] + seen["mkdirat"],
        ("fchmod",): seen["fchmod"],
        ("fsync",): seen["fsync"],
    }
    for names, reached in groups.items():
        assert sum(found[name] for name in names) <= reached, names
    harmless = {
        "brk", "clone3", "clone", "fcntl", "futex", "getpid", "getrandom", "gettid", "ioctl",
        "madvise", "mmap", "mprotect", "munmap", "readlink", "rseq", "rt_sigaction",
        "rt_sigprocmask", "sched_yield", "set_robust_list", "uname",
    }  # fmt: skip
    assert set(found) <= {name for names in groups for name in names} | harmless


def command(path):
    return syscalls.victim(
        "from ampmpi.database.compress import compress", f"compress({str(path)!r})"
    )


def points(path, tmp_path):
    return syscalls.points(command(path), str(tmp_path / "strace"))


@needs_strace
def test_killed_by_strace(template, copies, tmp_path):
    """At the first and the last call of each name; at every call in the long form."""
    every = points(copies(), tmp_path)
    chosen = every if SOAK else first_and_last(every)

    def kill(point):
        path = copies()
        done = syscalls.run_with("signal=KILL", point[0], point[1], command(path))
        samples.verify(path, template[1])
        samples.verify_compress(path, template[1])
        shutil.rmtree(path)
        return done.returncode == -9

    killed = syscalls.on_two_cores(kill, chosen)
    # Where a thread waits, and what an import reads, is not the same in every run.
    assert sum(killed) >= 0.9 * len(killed) >= 20


def first_and_last(every):
    found = {}
    for point in every:
        found.setdefault(point[0], []).append(point)
    return [point for points in found.values() for point in {points[0], points[-1]}]
