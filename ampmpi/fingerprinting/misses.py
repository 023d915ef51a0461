"""What a database lacks, found by one listing on rank 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import FingerprintDatabase, loose
from ampmpi.errors import AmpmpiError
from ampmpi.keys import DIGEST, digests_of, member_of
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree_alone, raise_first
from ampmpi.parallel.schedule import block


@dataclass
class Misses:
    """What has to be computed; the array is there on rank 0 only.

    Attributes
    ----------
    what : (n,) uint8 array
        For each of the images in question the sum of the kinds of entries that it lacks.
    damaged : dict of str to str
        Keys of entries that are there but cannot be used, and why.
    """

    what: NDArray[np.uint8]
    damaged: dict[str, str] = field(default_factory=dict)


def find_misses(
    digests: NDArray[np.bytes_],
    databases: Mapping[int, FingerprintDatabase],
    comm: Communicator,
    verify: bool,
) -> Misses:
    """Find what is missing or damaged.

    Rank 0 lists each database once. Loose entries that are wanted are then read
    back, each rank some: a power failure may have torn them, and the archive's
    were verified when they went there.

    Parameters
    ----------
    digests : (n,) array of 16 bytes
        Hashes of the images in question, on rank 0.
    databases : mapping of int to FingerprintDatabase
        The databases by kind.
    comm : Communicator
        The ranks.
    verify : bool
        Read archived entries back, too.

    Raises
    ------
    DatabaseError
        A database cannot be read.
    """
    misses = Misses(np.zeros(len(digests), dtype=np.uint8))
    for kind, database in databases.items():
        listing = partial(_list, digests, kind, database, misses, verify)
        damaged = _damaged(agree_alone(comm, listing), database, comm)
        if comm.rank == 0 and damaged:
            misses.what[member_of(digests, digests_of(sorted(damaged)))] |= kind
        misses.damaged.update(damaged)
    return misses


def _list(
    digests: NDArray[np.bytes_],
    kind: int,
    database: FingerprintDatabase,
    misses: Misses,
    verify: bool,
) -> NDArray[np.bytes_]:
    """Note what one database lacks; return the digests of what has to be read back."""
    there = member_of(digests, database.digests())
    misses.what[~there] |= kind
    if not verify:
        database.close()  # the archive's index takes memory
        there &= member_of(digests, loose.digests(database.layout))
    return digests[there]


def _damaged(
    doubtful: NDArray[np.bytes_] | None, database: FingerprintDatabase, comm: Communicator
) -> dict[str, str]:
    """Read entries back, each rank some; return the damaged ones and what is wrong with them."""
    rows = None if doubtful is None else doubtful.view(np.uint8).reshape(-1, DIGEST.itemsize)
    total = comm.bcast(None if rows is None else len(rows))
    assert total is not None
    counts = [len(block(total, rank, comm.size)) for rank in range(comm.size)]
    mine = comm.scatter_rows(rows, counts)
    bad: dict[str, str] = {}
    error = None
    try:
        for key in database.missing((row.tobytes().hex() for row in mine), check=True):
            bad[key] = database.corrupt.pop(key, "it has vanished")
    except AmpmpiError as caught:
        error = caught
    raise_first(comm, error)
    return {key: reason for part in comm.allgather(bad) for key, reason in part.items()}
