"""Which rank computes which image."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.fingerprinting.compute import Share
from ampmpi.fingerprinting.inflight import CRASHES
from ampmpi.fingerprinting.inventory import Inventory
from ampmpi.keys import digests_of, member_of
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.schedule import by_rank, deal, index_dtype

ASIDE = (
    f"{CRASHES} ranks crashed, ran out of memory or were killed while computing it: "
    "it is set aside; --retry tries it again"
)


def deal_images(
    inventory: Inventory,
    what: NDArray[np.uint8],
    crashes: Counter[str],
    comm: Communicator,
) -> tuple[list[Share], dict[int, str]]:
    """Deal what is missing; the arguments count on rank 0 only.

    Images on which a rank died once come last, on the last rank, one after
    another: if one of them kills it again, that one and no other is to blame.

    Parameters
    ----------
    inventory : Inventory
        The images.
    what : (n,) uint8 array
        What each of them lacks.
    crashes : Counter
        How often a rank died on an image, by its hash.
    comm : Communicator
        The ranks.

    Returns
    -------
    shares : list of Share
        This rank's images, and after them those on which a rank died.
    aside : dict of int to str
        On rank 0, the images that are set aside, and why.
    """
    missing = np.flatnonzero(what).astype(index_dtype(len(what)), copy=False)
    late, aside = missing[:0], dict[int, str]()
    if crashes:
        digests = inventory.digests[missing]
        suspect = member_of(digests, digests_of(sorted(crashes)))
        bad = member_of(digests, digests_of(sorted(k for k, n in crashes.items() if n >= CRASHES)))
        aside = {int(index): ASIDE for index in inventory.numbers[missing[bad]]}
        late = missing[suspect & ~bad]
        missing = missing[~suspect]
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
    text = digests.tobytes().hex()
    keys = [text[start : start + 32] for start in range(0, len(text), 32)]
    where = locators[0].tolist() if locators else None
    return Share(indices.tolist(), keys, np.resize(kinds, len(keys)).tolist(), where)
