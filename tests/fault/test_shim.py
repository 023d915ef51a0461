"""The shim reaches every system call that touches a file: strace sees no other ones."""

import shutil

import pytest
import syscalls
from faults import HERE, FaultServer
from put_victims import make_archived, make_loose

EXPANDED = {
    "open64": ["openat"],
    "openat64": ["openat"],
    "fstat64": ["newfstatat"],
    "stat64": ["newfstatat"],
    "fstatat64": ["newfstatat"],
    "lseek64": ["lseek"],
    "fcntl64": ["fcntl"],
    "fdopendir": ["newfstatat", "fcntl", "fcntl"],
    "closedir": ["lseek", "close"],  # the listing of a descriptor is wound back first
    "readdir64": [],
}
"""The system calls that a call of the C library makes."""

ELSEWHERE = {
    *("brk", "mmap", "munmap", "mprotect", "madvise", "mremap"),
    *("futex", "clone3", "rseq", "set_robust_list", "rt_sigprocmask", "rt_sigaction", "exit"),
    *("getpid", "gettid", "uname", "getrandom", "sched_yield", "kill"),
    *("getdents64",),  # in batches; the shim meets readdir64 once per name
    *("ioctl",),  # isatty, asked by open() of a text file
}
"""System calls that touch no file."""


def expand(names):
    """Return the system calls of calls of the C library."""
    return [call for name in names for call in EXPANDED.get(name, [name])]


@pytest.mark.skipif(not syscalls.strace_works(), reason="strace is missing or may not trace")
@pytest.mark.parametrize("victim", ["put", "delete", "claim", "compress"])
def test_shim_reaches_every_system_call(shim, tmp_path, victim):
    paths = [f"{tmp_path}/{name}-fingerprints" for name in "xy"]
    make_archived(paths[0])
    make_loose(paths[0])
    shutil.copytree(paths[0] + ".ampdb", paths[1] + ".ampdb")
    with FaultServer(shim, "put_victims") as server:
        names = server.calls(victim, paths[1])
    prepare = f"import sys; sys.path.insert(0, {str(HERE)!r}); import put_victims\n"
    prepare += f"running = put_victims.{victim}({paths[0]!r}); next(running)"
    command = syscalls.victim(prepare, "next(running, None)")
    seen = [point[0] for point in syscalls.points(command, str(tmp_path / "log"))]
    expected = expand(names)
    # Who writes an archive waits for the disk in a thread, while it is read back.
    in_threads = victim in ("compress", "delete")
    assert seen.count("fsync") + in_threads == expected.count("fsync")
    main = [name for name in seen if name not in ELSEWHERE]
    if in_threads:
        main, expected = ([name for name in names if name != "fsync"] for names in (main, expected))
    assert main == expected
    assert len(expected) > 8
