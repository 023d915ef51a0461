"""Which rank computes what: work is dealt by predicted cost, the same way on every run."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHUNK = 16
"""Number of consecutive images that a rank reads and hashes at a time."""

RUNS_PER_RANK = 64
"""Consecutive images are dealt together in runs of about 1/64 of a rank's work."""

ROWS = 1 << 16
"""Number of rows that are handled at a time where that saves memory."""


def block(n_items: int, rank: int, size: int) -> range:
    """Return the consecutive items of a rank when `size` ranks share them evenly."""
    return range(n_items * rank // size, n_items * (rank + 1) // size)


def index_dtype(n_items: int) -> np.dtype[Any]:
    """Return the integer type for numbers of items; small, since rank 0 holds one per image."""
    return np.dtype(np.int32 if n_items < 1 << 31 else np.int64)


def rank_dtype(size: int) -> np.dtype[Any]:
    """Return the integer type for ranks, small for all but the largest jobs."""
    return np.dtype(np.uint16 if size <= 1 << 16 else np.int32)


def chunks(n_items: int, rank: int, size: int, length: int = CHUNK) -> NDArray[Any]:
    """Return the items of a rank when `size` ranks take chunks of consecutive ones in turn."""
    length = max(1, min(length, n_items // size))
    begins = np.arange(rank * length, n_items, size * length, dtype=index_dtype(n_items))
    items = (begins[:, None] + np.arange(length, dtype=begins.dtype)).ravel()
    mine: NDArray[Any] = items[items < n_items]
    return mine


def by_rank(owners: NDArray[Any], size: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Sort items by rank.

    Parameters
    ----------
    owners : (n_items,) int array
        The rank of each item.
    size : int
        Number of ranks.

    Returns
    -------
    order : (n_items,) int array
        The items of rank 0 in ascending order, then those of rank 1, …
    ends : (size,) int64 array
        Where each rank's items end in `order`.
    """
    counts = np.zeros(size, np.int64)
    for start in range(0, len(owners), ROWS):  # bincount makes a copy of 8 bytes an item
        counts += np.bincount(owners[start : start + ROWS], minlength=size)
    order = np.argsort(owners, kind="stable").astype(index_dtype(len(owners)), copy=False)
    return order, np.cumsum(counts)


def deal(
    costs: ArrayLike,
    n_ranks: int,
    loads: ArrayLike | None = None,
    homes: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Deal items to ranks so that the predicted loads come out even.

    Consecutive items are joined into runs that cost no more than 1/64 of a rank's
    share, plus one item; the runs are dealt longest first, each to the rank
    with the least load (Graham, SIAM J. Appl. Math. 17, 416 (1969)). No rank ends
    later than the mean by more than one run, and each reads neighbouring images.

    Parameters
    ----------
    costs : (n_items,) float array
        Predicted cost of each item, not negative.
    n_ranks : int
        Number of ranks.
    loads : (n_ranks,) float array, optional
        What each rank has to do in addition; zero by default.
    homes : (n_items,) int array, optional
        The rank that has each item in memory; it keeps the item unless that makes its
        load larger than the mean.

    Returns
    -------
    (n_items,) int array
        The rank of each item.
    """
    cost = np.asarray(costs, dtype=np.float32)
    if not np.all(cost > 0):
        cost = np.maximum(cost, np.finfo(np.float32).tiny)
    load = np.zeros(n_ranks) if loads is None else np.asarray(loads, dtype=np.float64)
    if n_ranks == 1 or not len(cost):
        return np.zeros(len(cost), dtype=rank_dtype(n_ranks))
    if homes is not None:
        return _deal_at_home(cost, load, homes)
    starts = _runs(cost, (cost.sum(dtype=np.float64) + load.sum()) / (n_ranks * RUNS_PER_RANK))
    totals = np.add.reduceat(cost, starts, dtype=np.float64)
    heap = [(least, rank) for rank, least in enumerate(load.tolist())]
    heapq.heapify(heap)
    owners = np.empty(len(starts), dtype=rank_dtype(n_ranks))
    order = np.argsort(-totals, kind="stable")
    for index, total in zip(order.tolist(), totals[order].tolist(), strict=True):
        least, rank = heap[0]
        owners[index] = rank
        heapq.heapreplace(heap, (least + total, rank))
    lengths = np.diff(np.append(starts, len(cost)))
    return np.repeat(owners, lengths)


def _runs(cost: NDArray[np.float32], limit: float) -> NDArray[np.int64]:
    """Return where runs of consecutive items begin whose middles lie in one interval of `limit`."""
    middle = np.cumsum(cost, dtype=np.float64)
    middle -= cost / 2
    middle /= limit
    np.floor(middle, out=middle)
    begins = np.ones(len(cost), dtype=bool)
    np.not_equal(middle[1:], middle[:-1], out=begins[1:])
    return np.flatnonzero(begins)


def _deal_at_home(
    cost: NDArray[np.float32], load: NDArray[np.float64], homes: NDArray[Any]
) -> NDArray[Any]:
    """Leave items where they are as long as no rank has more than the mean; deal the others."""
    n_ranks = len(load)
    mean = (cost.sum(dtype=np.float64) + load.sum()) / n_ranks
    order, ends = by_rank(homes, n_ranks)
    goes = np.ones(len(cost), dtype=bool)
    kept = load.copy()
    for rank, items in enumerate(np.split(order, ends[:-1])):
        sums = load[rank] + np.cumsum(cost[items], dtype=np.float64)
        n_stay = int(np.searchsorted(sums, mean, side="right"))
        goes[items[:n_stay]] = False
        if n_stay:
            kept[rank] = sums[n_stay - 1]
    del order, items
    go = np.flatnonzero(goes)
    owners = homes.astype(rank_dtype(n_ranks))
    owners[go] = deal(cost[go], n_ranks, kept)
    return owners
