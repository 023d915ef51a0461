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
