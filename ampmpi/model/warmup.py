"""Compile the kernels before they are needed."""

from __future__ import annotations

import numpy as np

from ampmpi.model.activation import activate
from ampmpi.model.contraction import force_terms


def warm_up() -> None:
    """Compile every kernel, or load it from numba's cache, for the types that `Batch` has."""
    ends = np.array([0, 1], dtype=np.int64)
    first = np.zeros(1, dtype=np.int32)
    row, vector = np.zeros((1, 1)), np.zeros((1, 3))
    primes, weight = np.zeros((1, 3, 1)), np.zeros(1)
    written = vector.copy(), row.copy()
    force_terms(ends, first, first, primes, row, vector, weight, *written)
    activate(row, "tanh")
