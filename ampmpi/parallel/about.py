"""The MPI library and each rank's surroundings, for ``ampmpi doctor``."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from ampmpi.parallel.launch import THREADS


@dataclass(frozen=True)
class MPILibrary:
    """The MPI that mpi4py loads.

    Attributes
    ----------
    name, version : str
        Vendor and version of the library, such as MPICH 4.2.1.
    standard : str
        Version of the MPI standard.
    mpi4py : str
        Version of mpi4py.
    """

    name: str
    version: str
    standard: str
    mpi4py: str


def mpi_library() -> MPILibrary | str:
    """Return the MPI that mpi4py loads, or the reason why it loads none."""
    try:
        import mpi4py
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return " ".join(str(error).split())
    name, version = MPI.get_vendor()
    return MPILibrary(
        name,
        ".".join(map(str, version)),
        ".".join(map(str, MPI.Get_version())),
        mpi4py.__version__,
    )


@dataclass(frozen=True)
class RankSurroundings:
    """Where a rank runs.

    Attributes
    ----------
    host : str
        Name of its node.
    cores : frozenset of int
        The cores that it may use.
    threads : mapping of str to str
        The variables that set a number of threads.
    """

    host: str
    cores: frozenset[int]
    threads: Mapping[str, str]


def surroundings(environ: Mapping[str, str]) -> RankSurroundings:
    """Return where this rank runs."""
    return RankSurroundings(
        host=socket.gethostname(),
        cores=frozenset(os.sched_getaffinity(0)),
        threads={name: environ[name] for name in THREADS if name in environ},
    )
