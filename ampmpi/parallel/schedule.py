"""Who computes what: work dealt by predicted cost, the same way on every run."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import ArrayLike, NDArray

RUNS_PER_RANK = 64
"""Consecutive images are dealt together in runs of about 1/64 of a rank's work."""


def block(n_items: int, rank: int, size: int) -> range:
    """Return the consecutive items of a rank when `size` ranks share them evenly."""
    return range(n_items * rank // size, n_items * (rank + 1) // size)


def deal(costs: ArrayLike, n_ranks: int, loads: ArrayLike | None = None) -> NDArray[np.int32]:
    """Deal items to ranks so that the predicted loads come out even.

    Consecutive items are joined to runs that cost no more than 1/64 of a rank's
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
        What each rank has to do besides; zero by default.

    Returns
    -------
    (n_items,) int32 array
        The rank of each item.
    """
    cost = np.maximum(np.asarray(costs, dtype=np.float64), np.finfo(np.float64).tiny)
    load = np.zeros(n_ranks) if loads is None else np.asarray(loads, dtype=np.float64)
    if n_ranks == 1 or not len(cost):
        return np.zeros(len(cost), dtype=np.int32)
    ends = np.cumsum(cost)
    limit = (ends[-1] + load.sum()) / (n_ranks * RUNS_PER_RANK)
    run = ((ends - cost / 2) / limit).astype(np.int64)
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    totals = np.add.reduceat(cost, starts)
    heap = [(least, rank) for rank, least in enumerate(load.tolist())]
    heapq.heapify(heap)
    owners = np.empty(len(starts), dtype=np.int32)
    order = np.argsort(-totals, kind="stable")
    for index, total in zip(order.tolist(), totals[order].tolist(), strict=True):
        least, rank = heap[0]
        owners[index] = rank
        heapq.heapreplace(heap, (least + total, rank))
    lengths = np.diff(np.append(starts, len(cost)))
    return np.repeat(owners, lengths)
