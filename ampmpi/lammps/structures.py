"""The structure that LAMMPS has, as ASE atoms on rank 0; only for the few that are written out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import FileError
from ampmpi.parallel.comm import Communicator
from ampmpi.selection.writing import append_text

if TYPE_CHECKING:
    from ase import Atoms


def gather_atoms(lmp: Any, comm: Communicator, numbers: NDArray[np.int64]) -> Atoms | None:
    """Return all atoms by ID on rank 0, None elsewhere; all ranks take part.

    Parameters
    ----------
    lmp : lammps.lammps
        LAMMPS, between two steps or within one.
    comm : Communicator
        Its ranks.
    numbers : (n_types + 1,) int64 array
        Atomic number of each type.
    """
    from ase import Atoms

    n_local = lmp.extract_setting("nlocal")
    rows = np.zeros((n_local, 5))
    if n_local:
        rows[:, 0] = lmp.numpy.extract_atom("id")[:n_local]
        rows[:, 1] = numbers[lmp.numpy.extract_atom("type")[:n_local]]
        rows[:, 2:] = lmp.numpy.extract_atom("x")[:n_local]
    everything = comm.gather_rows(rows)
    if everything is None:
        return None
    everything = everything[np.argsort(everything[:, 0])]
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    cell = np.diag(np.subtract(high, low))
    cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    return Atoms(
        numbers=everything[:, 1].astype(int),
        positions=everything[:, 2:] - low,
        cell=cell,
        pbc=[bool(one) for one in periodic],
    )


def write_image(file: str, atoms: Atoms) -> None:
    """Append an image to an extended XYZ file; FileError where that is impossible."""
    try:
        append_text(file, atoms)
    except OSError as error:
        raise FileError(
            f"{file}: {error.strerror}; give another file for the structures"
        ) from error
