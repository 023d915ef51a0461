"""Ghost atoms and their owners: forces on atoms of other ranks return to where these are local.

LAMMPS shows a rank its own atoms and, behind them, ghosts: atoms of other ranks and periodic
images. An atom's identity is its ID (tag). Each time that LAMMPS has found new ghosts, the ranks
find out who owns them by a directory that is spread over all of them: what is known of tag t is
kept by rank t modulo the number of ranks. Afterwards a rank sends to, and receives from, those
ranks alone whose atoms it sees or that see its own. No rank ever holds an array of all atoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import InputError

Integers = NDArray[np.int64]
Array = NDArray[np.float64]

FORCES = 7
"""Tag of the messages that carry forces."""


@dataclass(frozen=True, eq=False)
class Owners:
    """Where each ghost atom is local.

    Attributes
    ----------
    n_local : int
        Atoms of this rank.
    here, local : (n_here,) int64 arrays
        Ghosts of atoms of this rank, as their places in all atoms, and those atoms.
    away, slot : (n_away,) int64 arrays
        Ghosts of other ranks' atoms, and the row of what is sent in which they are summed up.
    send_start, receive_start : (n_ranks + 1,) int64 arrays
        The rows that are sent to and received from each rank.
    receive_local : (n_received,) int64 array
        The local atom of each row that is received.
    """

    n_local: int
    here: Integers
    local: Integers
    away: Integers
    slot: Integers
    send_start: Integers
    receive_start: Integers
    receive_local: Integers


def find_owners(mpi: Any, tags: Integers, n_local: int) -> Owners:
    """Find the owner of each ghost; all ranks do it together.

    Parameters
    ----------
    mpi : mpi4py.MPI.Comm or None
        The ranks; None for one.
    tags : (n_atoms,) integer array
        IDs of all atoms, ghosts behind the others.
    n_local : int
        How many are local.

    Raises
    ------
    InputError
        A ghost's atom is on no rank.
    """
    local_tags, ghost_tags = tags[:n_local].astype(np.int64), tags[n_local:].astype(np.int64)
    order = np.argsort(local_tags, kind="stable")
    ordered = local_tags[order]
    found, mine = _look_up(ordered, ghost_tags)
    away = np.flatnonzero(~mine)
    wanted, slot = np.unique(ghost_tags[away], return_inverse=True)
    if mpi is None:
        if len(wanted):
            raise InputError(_nowhere(wanted))
        return Owners(n_local, n_local + np.flatnonzero(mine), order[found[mine]],
                      n_local + away, slot, np.zeros(2, np.int64), np.zeros(2, np.int64),
                      np.empty(0, np.int64))  # fmt: skip
    ranks = _ask_directory(mpi, local_tags, wanted)
    by_rank = np.argsort(ranks, kind="stable")
    row = np.empty(len(wanted), np.int64)
    row[by_rank] = np.arange(len(wanted))
    send_counts = np.bincount(ranks, minlength=mpi.Get_size())
    asked, receive_counts = _exchange(mpi, wanted[by_rank], send_counts)
    place, _ = _look_up(ordered, asked)
    return Owners(n_local, n_local + np.flatnonzero(mine), order[found[mine]], n_local + away,
                  row[slot], _starts(send_counts), _starts(receive_counts),
                  order[place])  # fmt: skip


def sum_at_owners(mpi: Any, owners: Owners, values: Array) -> Array:
    """Return values of local atoms, with those of all their ghosts added; all ranks take part.

    Parameters
    ----------
    mpi : mpi4py.MPI.Comm or None
        The ranks, as `find_owners` was given them.
    owners : Owners
        Where ghosts are local.
    values : (n_atoms, n_columns) float array
        Values of local atoms and ghosts.

    Returns
    -------
    (n_local, n_columns) float array
    """
    n_local, n_columns = owners.n_local, values.shape[1]
    received, requests = None, []
    if mpi is not None:
        sent = _summed(owners.slot, values[owners.away], int(owners.send_start[-1]))
        received = np.empty((int(owners.receive_start[-1]), n_columns))
        for start, buffer, act in (
            (owners.receive_start, received, mpi.Irecv),
            (owners.send_start, sent, mpi.Isend),
        ):
            requests += [
                act(buffer[start[rank] : start[rank + 1]], rank, FORCES)
                for rank in np.flatnonzero(np.diff(start)).tolist()
            ]
    total = values[:n_local] + _summed(owners.local, values[owners.here], n_local)
    if received is not None:
        from mpi4py import MPI

        MPI.Request.Waitall(requests)
        total += _summed(owners.receive_local, received, n_local)
    return total


def _summed(rows: Integers, values: Array, n_rows: int) -> Array:
    """Sum values with the same row."""
    total = np.empty((n_rows, values.shape[1]))
    for column in range(values.shape[1]):
        total[:, column] = np.bincount(rows, weights=values[:, column], minlength=n_rows)
    return total


def _look_up(ordered: Integers, tags: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Return the places of tags among ordered ones, and whether they are there."""
    if len(ordered) == 0:
        return np.zeros(len(tags), np.int64), np.zeros(len(tags), bool)
    place = np.minimum(np.searchsorted(ordered, tags), len(ordered) - 1)
    return place, ordered[place] == tags


def _ask_directory(mpi: Any, local_tags: Integers, wanted: Integers) -> Integers:
    """Return the rank that owns each wanted tag."""
    size = mpi.Get_size()
    home = local_tags % size
    order = np.argsort(home, kind="stable")
    known, counts = _exchange(mpi, local_tags[order], np.bincount(home, minlength=size))
    holder = np.repeat(np.arange(size), counts)
    by_tag = np.argsort(known, kind="stable")

    home = wanted % size
    order = np.argsort(home, kind="stable")
    to_homes = np.bincount(home, minlength=size)
    questions, counts = _exchange(mpi, wanted[order], to_homes)
    place, there = _look_up(known[by_tag], questions)
    if not there.all():
        raise InputError(_nowhere(questions[~there]))
    answers, _ = _exchange(mpi, holder[by_tag][place], counts)
    ranks = np.empty(len(wanted), np.int64)
    ranks[order] = answers
    return ranks


def _exchange(mpi: Any, values: Integers, counts: Integers) -> tuple[Integers, Integers]:
    """Send so many of the values to each rank in turn; return what came, and how many from each."""
    from mpi4py import MPI

    counts = np.ascontiguousarray(counts, np.int64)
    come = np.empty_like(counts)
    mpi.Alltoall(counts, come)
    received = np.empty(int(come.sum()), np.int64)
    mpi.Alltoallv(
        [np.ascontiguousarray(values, np.int64), (counts, _starts(counts)[:-1]), MPI.INT64_T],
        [received, (come, _starts(come)[:-1]), MPI.INT64_T],
    )
    return received, come


def _starts(counts: Integers) -> Integers:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _nowhere(tags: Integers) -> str:
    named = ", ".join(map(str, np.unique(tags)[:3].tolist()))
    return f"LAMMPS shows ghosts of atoms that no rank has, with the IDs {named}: the run is broken"
