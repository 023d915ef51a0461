"""What a database lacks, found by one listing on rank 0, and which rank computes it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import FingerprintDatabase
from ampmpi.fingerprinting.inventory import Inventory
from ampmpi.fingerprinting.suspects import CRASHES
from ampmpi.fingerprinting.work import Share
from ampmpi.keys import digests_of, member_of, to_hex
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree_alone, on_all
from ampmpi.parallel.schedule import block, by_rank, deal, index_dtype

ASIDE = (
    f"{CRASHES} runs crashed, ran out of memory or were killed while computing it: "
    "it is set aside; --retry tries it again"
)


def find_misses(
    digests: NDArray[np.bytes_],
    databases: Mapping[int, FingerprintDatabase],
    comm: Communicator,
    verify: bool,
) -> tuple[NDArray[np.uint8], dict[str, str]]:
    """Find what is missing or damaged.

    Rank 0 lists each database once. Loose entries that are wanted are then read
    back, each rank some: a power failure may have torn them, and the archive's
    were verified when they went there. With `verify` archived ones are read, too.

    Parameters
    ----------
    digests : (n,) array of 16 bytes
        Hashes of the images in question, on rank 0.
    databases : mapping of int to FingerprintDatabase
        The databases by kind.

    Returns
    -------
    what : (n,) uint8 array
        On rank 0, the sum of the kinds of entries that each of the images lacks.
    damaged : dict of str to str
        Keys of entries that are there but cannot be used, and why.
    """
    what, all_damaged = np.zeros(len(digests), dtype=np.uint8), dict[str, str]()
    for kind, database in databases.items():
        doubtful = agree_alone(comm, partial(_list, digests, kind, database, what, verify))
        damaged = _damaged(doubtful, database, comm)
        del doubtful
        if comm.rank == 0 and damaged:
            what[member_of(digests, digests_of(sorted(damaged)))] |= kind
        all_damaged.update(damaged)
    return what, all_damaged


def _list(
    digests: NDArray[np.bytes_],
    kind: int,
    database: FingerprintDatabase,
    what: NDArray[np.uint8],
    verify: bool,
) -> NDArray[np.bytes_]:
    """Note what one database lacks; return the digests of what has to be read back."""
    listed = database.listing()
    there = member_of(digests, listed.everywhere)
    what[~there] |= kind
    if not verify:
        database.close()  # the archive's index takes memory
        there &= member_of(digests, listed.loose)
    del listed  # as large as what is returned
    return digests[there]


def _damaged(
    doubtful: NDArray[np.bytes_] | None, database: FingerprintDatabase, comm: Communicator
) -> dict[str, str]:
    """Read entries back, each rank some; return the damaged ones and what is wrong with them."""
    if not comm.bcast(0 if doubtful is None else len(doubtful)):
        return {}

    def part(rank: int) -> NDArray[np.bytes_]:
        assert doubtful is not None
        items = block(len(doubtful), rank, comm.size)
        return doubtful[items.start : items.stop]

    mine = to_hex(comm.scatter_each(part))

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
    suspects: Mapping[str, int],
    comm: Communicator,
) -> tuple[list[Share], dict[int, str]]:
    """Deal `what` is missing of each image; the arguments count on rank 0 only.

    Suspects come last, on the last rank, one after another: if one of them kills it
    again, that one and no other is to blame.

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
        bad = sorted(key for key, runs in suspects.items() if runs >= CRASHES)
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
    first = _scatter(comm, inventory, what, missing, owners)
    last = np.full(len(late), comm.size - 1, dtype=owners.dtype)
    return [first, _scatter(comm, inventory, what, late, last)], aside


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
    where = locators[0].tolist() if locators else None
    return Share(indices.tolist(), to_hex(digests), np.resize(kinds, len(indices)).tolist(), where)
