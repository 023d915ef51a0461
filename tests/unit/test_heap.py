"""Memory that is freed stays with the process."""

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import ctypes, resource, sys
import numpy as np
from ampmpi.heap import keep_freed_memory

if getattr(ctypes.CDLL(None), "mallopt", None) is None:
    sys.exit(77)
if sys.argv[1] == "kept":
    keep_freed_memory()

def work():
    two = np.empty(3 << 17), np.empty(3 << 17)  # 3 MB each
    for array in two:
        array[::512] = 1.0

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, text=True, timeout=60
    )
    if done.returncode == 77:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_freed_arrays_are_used_again_without_page_faults():
    assert faults("kept") < 100 < faults("returned")


UNLOAD = """
import sys
import numba
from ampmpi.heap import unload_code

def resident():
    with open("/proc/self/smaps") as file:
        lines = file.read().splitlines()
    name, total = "", 0
    for line in lines:
        words = line.split()
        if not words[0].endswith(":"):
            name = words[-1]
        elif words[0] == "Rss:" and "llvm" in name:
            total += int(words[1])
    return total / 1024

twice = numba.njit(lambda x: x + x)
assert twice(2.0) == 4.0
before = resident()
unload_code()
after = resident()
thrice = numba.njit(lambda x: x + x + x)
assert (twice(2.0), twice(3), thrice(2.0)) == (4.0, 6, 6.0)
print(before, after)
"""


def test_code_of_the_compiler_is_let_go_and_comes_back():
    done = subprocess.run(
        [sys.executable, "-c", UNLOAD], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after = map(float, done.stdout.split())
    assert before - after > 20.0, "MB"
