"""Compile the kernels before they are needed."""

from __future__ import annotations

import numpy as np

from ampmpi.entries import FingerprintPrimes
from ampmpi.model.contraction import contract
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
from ampmpi.model.packed import join, pack


def warm_up() -> None:
    """Compile every kernel, or load it from numba's cache, for the types that `Batch` has."""
    row, vector, weight = np.zeros((1, 1)), np.zeros((1, 3)), np.zeros(1)
    ends = np.array([0, 1])
    pair = np.zeros((1, 2), dtype=np.int32)
    one = pack(FingerprintPrimes(("H",), {"H": 1}, pair, np.ones((1, 3, 1))))
    one = join([one], [np.zeros(1, np.int64)])
    one[pair[0, :1]]
    contract(one, row, vector, weight)

    network = ElementParameters(np.array([1, 1]), np.zeros(2), np.zeros(2))
    x = np.ones((2, 1))
    values, energies = forward(network, x, 0)
    by_value, by_net = sensitivities(network, values, 0)
    feature_gradient(network, by_net, weight, row)
    predict(network, np.zeros((1, 2)), 0.0, ends[:1], row, 0, weight, row)
    energy_gradient(network, network, x, values, energies, 0)
    tangent_gradient(network, network, x, values, by_value, by_net, energies, row, weight, 0)

    rows, columns, some = np.zeros((3, 4)), np.array([0, 2]), one[pair[0, :1]]
    energy_rows(network, x, values, by_net, ends[:1], ends[1:], weight, rows, columns)
    tangent_rows(
        network, x, values, by_value, by_net, weight, 0, one.moved, some, ends, rows, columns
    )
