"""Candidates: atoms that are close enough to become neighbours before they have moved far.

They are for those who keep a list over many steps and hand in all atoms themselves, periodic
images included, such as a program with its own domain decomposition.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def candidates_among(
    positions: NDArray[np.float64], n_centres: int, radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Find all atoms closer to the first atoms than a radius, in the order of their places.

    Parameters
    ----------
    positions : (n_atoms, 3) float array, Å
        Finite positions of all atoms, those that are only candidates behind the others.
    n_centres : int
        How many of the atoms have candidates.
    radius : float, Å
        The cutoff and how far two atoms may come closer before the candidates are found anew.

    Returns
    -------
    start : (n_centres + 1,) int64 array
        The candidates of atom i are ``start[i]`` to ``start[i + 1]``.
    candidate : (n_candidates,) int32 array
        Those atoms, never atom i itself.
    """
    if n_centres == 0:
        return np.zeros(1, np.int64), np.empty(0, np.int32)
    from .candidate_search import find_candidates

    start, candidate = find_candidates(positions, n_centres, radius)
    return start, candidate
