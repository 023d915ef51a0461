"""How slow this machine is now, and time limits that grow with it.

`tests/run.py` measures once and passes the result on in the environment; tests that
are run without it take the limits as they stand.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import zlib

NAME = "AMPMPI_SLOWNESS"
BESIDE = "AMPMPI_COMPANY"
REFERENCE = 0.12
"""Seconds that `work` takes on each of two quiet cores of the machine for which all limits in
the tests were chosen: a 2-core virtual machine of 2024 with Python 3.11."""
PROCESSES = 2
ROUNDS = 7
YIELD = {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1", "MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}
"""MPICH's ranks spin while they wait; with these they sleep for an instant after each look.

On two cores that others use as well, two ranks that wait for each other took 0.6 times as long,
and half of the CPU time; five ranks 0.6 times as long and a third.
"""
MOST = 6.0
"""A machine that is slower yet needs another cause found, not more time."""


def work() -> float:
    """Do a fixed piece of work, half bytecode and half C, and return the seconds it took."""
    start = time.perf_counter()
    total = 0
    for number in range(1_800_000):
        total += number * number % 7
    data = (b"%d" % total).join(b"%d" % number for number in range(60_000))
    zlib.compress(data, 6)
    return time.perf_counter() - start


def measure() -> float:
    """Return how many times as slow as the reference this machine is, from 1 to `MOST`.

    The work runs in two processes at once, as the tests do, so that a busy
    machine counts as a slow one.
    """
    processes = [
        subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    seconds = [float(process.communicate()[0]) for process in processes]
    return min(max(round(max(seconds) / REFERENCE, 1), 1.0), MOST)


def slowness() -> float:
    """Return what `tests/run.py` measured, or 1."""
    return float(os.environ.get(NAME, "1"))


def company() -> float:
    """Return by how much limits grow because suites run beside each other."""
    return float(os.environ.get(BESIDE, "1"))


def stretched(seconds: float) -> float:
    """Return a limit for this machine."""
    return seconds * slowness() * company()


def explained(seconds: float) -> str:
    """Say what a limit is made of."""
    parts = [f"the limit of {seconds:.0f} s"]
    if slowness() > 1.0:
        parts.append(
            f"times {slowness():.1f}, as this machine is {slowness():.1f} times as slow as the "
            "one that the limits are made for"
        )
    if company() > 1.0:
        parts.append(f"times {company():.0f}, as suites run beside each other")
    return ", ".join(parts)


if __name__ == "__main__":
    print(statistics.median(work() for _ in range(ROUNDS)))
