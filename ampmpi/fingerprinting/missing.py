"""What a database lacks, found by one listing on rank 0, and which rank computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import FingerprintDatabase
from ampmpi.fingerprinting.inventory import Inventory
from ampmpi.fingerprinting.suspects import CRASHES, Suspect
from ampmpi.fingerprinting.work import Share
from ampmpi.keys import DIGEST, digests_of, member_of, to_hex
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree_alone, on_all
from ampmpi.parallel.schedule import block, by_rank, deal, index_dtype

ASIDE = (
    f"{CRASHES} runs crashed, ran out of memory or were killed while computing it: "
    "it is set aside; --retry tries it again"
)


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
    listed = database.listing()
    there = member_of(digests, listed.everywhere)
    misses.what[~there] |= kind
    if not verify:
        database.close()  # the archive's index takes memory
        there &= member_of(digests, listed.loose)
    del listed  # as large as what is returned
    return digests[there]


def _damaged(
    doubtful: NDArray[np.bytes_] | None, database: FingerprintDatabase, comm: Communicator
) -> dict[str, str]:
    """Read entries back, each rank some; return the damaged ones and what is wrong with them."""
    rows = None if doubtful is None else doubtful.view(np.uint8).reshape(-1, DIGEST.itemsize)
    total = comm.bcast(None if rows is None else len(rows))
    assert total is not None
    if not total:
        return {}
    counts = [len(block(total, rank, comm.size)) for rank in range(comm.size)]
    mine = to_hex(comm.scatter_rows(rows, counts).view(DIGEST).ravel())

    def read_back() -> dict[str, str]:
        return {
            key: database.corrupt.pop(key, "it has vanished")
            for key in database.missing(mine, check=True)
        }

    bad = on_all(comm, read_back)
    return {key: reason for part in comm.allgather(bad) for key, reason in part.items()}


def deal_images(
    inventory: Inventory,
    what: NDArray[np.uint8],
    suspects: Mapping[str, Suspect],
    comm: Communicator,
) -> tuple[list[Share], dict[int, str]]:
    """Deal what is missing; the arguments count on rank 0 only.

    Suspects come last, on the last rank, one after another: if one of them kills it
    again, that one and no other is to blame.

    Parameters
    ----------
    inventory : Inventory
        The images.
    what : (n,) uint8 array
        What each of them lacks.
    suspects : mapping of str to Suspect
        Images on which ranks may have died, by hash.
    comm : Communicator
        The ranks.

    Returns
    -------
    shares : list of Share
        This rank's images, and after them its suspects.
    aside : dict of int to str
        On rank 0, the images that are set aside, and why.
    """
    missing = np.flatnonzero(what).astype(index_dtype(len(what)), copy=False)
    late, aside = missing[:0], dict[int, str]()
    if suspects:
        digests = inventory.digests[missing]
        bad = sorted(key for key, suspect in suspects.items() if suspect.runs >= CRASHES)
        is_suspect = member_of(digests, digests_of(sorted(suspects)))
        is_bad = member_of(digests, digests_of(bad))
        aside = {int(index): ASIDE for index in inventory.numbers[missing[is_bad]]}
        late = missing[is_suspect & ~is_bad]
        missing = missing[~is_suspect]
        del digests
    loads = np.zeros(comm.size)
    loads[-1] = inventory.costs[late].sum(dtype=np.float64)
    costs, homes = inventory.costs, inventory.homes
    if len(missing) < len(costs):
        costs, homes = costs[missing], homes[missing]
    owners = deal(costs, comm.size, loads, homes)
    del costs, homes
    last = np.full(len(late), comm.size - 1, dtype=owners.dtype)
    return [
        _scatter(comm, inventory, what, missing, owners),
        _scatter(comm, inventory, what, late, last),
    ], aside


def _scatter(
    comm: Communicator,
    inventory: Inventory,
    what: NDArray[np.uint8],
    chosen: NDArray[Any],
    owners: NDArray[Any],
) -> Share:
    """Give each rank its share, one after the other, so that rank 0 holds no second copy of all."""
    order, ends = by_rank(owners, comm.size)
    starts = [0, *ends.tolist()]

    def part(rank: int) -> tuple[NDArray[Any], ...]:
        mine = chosen[order[starts[rank] : starts[rank + 1]]]
        kinds = what[mine]
        if (kinds == kinds[:1]).all():
            kinds = kinds[:1]  # one stands for all
        columns = (inventory.numbers[mine], inventory.digests[mine], kinds)
        return columns if inventory.locators is None else (*columns, inventory.locators[mine])

    indices, digests, kinds, *locators = comm.scatter_each(part)
    keys = to_hex(digests)
    where = locators[0].tolist() if locators else None
    return Share(indices.tolist(), keys, np.resize(kinds, len(keys)).tolist(), where)
