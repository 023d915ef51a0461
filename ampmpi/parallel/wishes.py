"""Amp's keywords for parallel work: they are taken, and a line says where ranks come from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from ampmpi.errors import InputError
from ampmpi.parallel import launch


def note_cores(cores: Any, what: str = "cores") -> None:
    """Take Amp's `cores`: a number, or numbers by the name of a host.

    Raises
    ------
    InputError
        It is neither.
    """
    counts = list(cores.values()) if isinstance(cores, Mapping) else [cores]
    if cores is None:
        return
    if not counts or not all(type(n) is int and n > 0 for n in counts):
        raise InputError(
            f"{what} is {cores!r}; leave it out, and start the script with mpirun -n and a number"
        )
    wanted, there = sum(counts), launch.ranks_promised()
    if wanted > 1 and wanted != there:
        _say(
            f"{what}={cores!r} starts no ranks here, they come from the launcher, which gave "
            f"{there}; for {wanted} start the script with mpirun -n {wanted}"
        )


def note_parallel(parallel: Any) -> None:
    """Take Amp's `parallel`: None, or a dict with ``cores`` and ``envcommand``.

    Raises
    ------
    InputError
        It is something else.
    """
    if parallel is None:
        return
    if not isinstance(parallel, Mapping):
        raise InputError(
            f"parallel is {parallel!r}; give a dict such as {{'cores': 1}}, or leave it out"
        )
    note_cores(parallel.get("cores"))
    note_envcommand(parallel.get("envcommand"))


def note_envcommand(command: Any) -> None:
    """Take Amp's `envcommand`, which is not run."""
    if command is not None:
        _say(
            f"envcommand={command!r} is not run: ranks come from mpirun or srun and have the "
            "environment that the job script sets"
        )


def note_threads(threads: int) -> int:
    """Return how many threads a calculator may use: one where a launcher gave several ranks."""
    if threads > 1 and launch.several_ranks():
        _say(
            f"threads={threads} is taken for 1: there are {launch.ranks_promised()} ranks, and "
            "each computes on one core; leave threads out, or start the script without mpirun"
        )
        return 1
    return threads


@cache
def _say(line: str) -> None:
    """Print a line, once, on the first rank."""
    if launch.speaks():
        sys.stderr.write(f"ampmpi: {line}\n")
