"""Which rank computes which image."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.index import digests_of
from ampmpi.fingerprinting.compute import Share
from ampmpi.fingerprinting.inflight import CRASHES
from ampmpi.fingerprinting.inventory import DIGEST, Inventory, present
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.schedule import deal

ASIDE = (
    f"{CRASHES} ranks crashed, ran out of memory or were killed while computing it: "
    "it is set aside; --retry tries it again"
)


def deal_images(
    inventory: Inventory,
    first: NDArray[np.int64],
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
        All images.
    first : (n,) int64 array
        The different ones.
    what : (n,) uint8 array
        What each of these lacks.
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
    missing = np.flatnonzero(what)
    late, aside = missing[:0], dict[int, str]()
    if crashes:
        digests = inventory.digests[first[missing]]
        suspect = present(digests, digests_of(sorted(crashes)))
        bad = present(digests, digests_of(sorted(k for k, n in crashes.items() if n >= CRASHES)))
        aside = {int(index): ASIDE for index in first[missing[bad]]}
        late = missing[suspect & ~bad]
        missing = missing[~suspect]
        del digests
    loads = np.zeros(comm.size)
    loads[-1] = inventory.costs[first[late]].sum(dtype=np.float64)
    owners = deal(
        inventory.costs[first[missing]], comm.size, loads, inventory.homes[first[missing]]
    )
    last = np.full(len(late), comm.size - 1, dtype=np.int32)
    return [
        _scatter(comm, inventory, first, what, missing, owners),
        _scatter(comm, inventory, first, what, late, last),
    ], aside


def _scatter(
    comm: Communicator,
    inventory: Inventory,
    first: NDArray[np.int64],
    what: NDArray[np.uint8],
    chosen: NDArray[np.int64],
    owners: NDArray[np.int32],
) -> Share:
    """Give each rank its share, column by column, so that rank 0 holds no second copy of all."""
    order = chosen[np.argsort(owners, kind="stable")]
    counts = np.bincount(owners, minlength=comm.size).tolist()
    where = first[order]
    has_locators = comm.bcast(inventory.locators is not None)
    indices = comm.scatter_rows(where, counts)
    kinds = comm.scatter_rows(what[order], counts)
    rows = inventory.digests[where].view(np.uint8).reshape(-1, DIGEST.itemsize)
    digests = comm.scatter_rows(rows, counts)
    locators = None
    if has_locators:
        at = None if inventory.locators is None else inventory.locators[where]
        locators = comm.scatter_rows(at, counts).tolist()
    keys = [row.tobytes().hex() for row in digests]
    return Share(indices.tolist(), keys, kinds.tolist(), locators)
