"""Farthest points: rows of a matrix that are far from each other, the most unsure first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Chosen:
    """Rows in the order in which they were chosen.

    Attributes
    ----------
    rows : (n,) int64 array
        The rows.
    distances : (n,) float array
        Distance of each from the nearest of those that were there before; inf for a first one.
    n_alike : int
        Rows that were passed over because they are like one that was chosen or known.
    """

    rows: NDArray[np.int64]
    distances: Array
    n_alike: int


def nearest(vectors: Array, others: Array) -> Array:
    """Return the distance of each row from the nearest of others; inf where there is none.

    Row by row the same sum is taken, so that the numbers do not depend on how rows are shared.
    """
    found = np.full(len(vectors), np.inf)
    for other in others:
        np.minimum(found, ((vectors - other) ** 2).sum(axis=1), out=found)
    distances: Array = np.sqrt(found)
    return distances


def choose(vectors: Array, weights: Array, distances: Array, n: int, tolerance: float) -> Chosen:
    """Choose rows one after the other: each time the one of largest weight times distance.

    The distance is that from the nearest row that was chosen before, or is known. While there
    is none, the row of largest weight is taken.

    Parameters
    ----------
    vectors : (n_rows, n_components) float array
        The rows.
    weights : (n_rows,) float array
        How much each is wanted, above 0.
    distances : (n_rows,) float array
        Distance of each from the nearest known row; inf where none is known. It is not changed.
    n : int
        Rows to choose at most.
    tolerance : float
        Rows that are not farther than this are alike, and only one of them is chosen.
    """
    distances = distances.copy()
    rows: list[int] = []
    at: list[float] = []
    free = distances > tolerance
    while len(rows) < n and free.any():
        wanted = weights if np.isinf(distances[free]).any() else weights * distances
        best = int(np.argmax(np.where(free, wanted, -np.inf)))
        rows.append(best)
        at.append(float(distances[best]))
        np.minimum(distances, nearest(vectors, vectors[best : best + 1]), out=distances)
        free &= distances > tolerance
    return Chosen(
        np.array(rows, dtype=np.int64),
        np.array(at),
        int((distances <= tolerance).sum()) - len(rows),
    )
