"""Compile the kernels before they are needed."""

from __future__ import annotations

import numpy as np

from ampmpi.model.contraction import force_terms
from ampmpi.model.layers import (
    ElementParameters,
    energy_gradient,
    energy_rows,
    feature_gradient,
    forward,
    predict,
    sensitivities,
    tangent_gradient,
    tangent_rows,
)


def warm_up() -> None:
    """Compile every kernel, or load it from numba's cache, for the types that `Batch` has."""
    ends = np.array([0, 1], dtype=np.int64)
    first = np.zeros(1, dtype=np.int32)
    row, vector = np.zeros((1, 1)), np.zeros((1, 3))
    primes, weight = np.zeros((1, 3, 1)), np.zeros(1)
    written = vector.copy(), row.copy()
    force_terms(ends, first, first, primes, row, vector, weight, *written)

    network = ElementParameters(np.array([1, 1]), np.zeros(2), np.zeros(2))
    x = np.ones((2, 1))
    values, energies = forward(network, x, 0)
    by_value, by_net = sensitivities(network, values, 0)
    feature_gradient(network, by_net, weight, row)
    predict(network, np.zeros((1, 2)), 0.0, ends[:1], row, 0, weight, row)
    energy_gradient(network, network, x, values, energies, 0)
    tangent_gradient(network, network, x, values, by_value, by_net, energies, row, weight, 0)

    rows, columns = np.zeros((3, 4)), np.array([0, 2])
    ends = np.array([0, 1])
    energy_rows(network, x, values, by_net, ends[:1], ends[1:], weight, rows, columns)
    tangent_rows(
        network, x, values, by_value, by_net, weight, 0, first, primes, ends, rows, columns
    )
