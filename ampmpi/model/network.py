"""The networks of all elements: their shapes, and their parameters in one vector.

One element's network maps the scaled features x of an atom to its energy,

    a_0 = x,   a_k = f(a_{k-1} W_k + b_k),   E = slope · a_K + intercept,

with the activation f on the last layer too, as in Amp. All atoms of one
element go through together, one in each column, so every step is a matrix
product. A last row of ones brings in the biases.

The parameters of all networks lie in one vector, in Amp's order: for each
element in alphabetical order its layers, each an (inputs + 1, nodes) matrix
whose last row is the bias, then for each element intercept and slope.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ModelError
from ampmpi.model.layers import ACTIVATIONS, Array, ElementParameters

MOST_TOGETHER = 5000
"""Parameters whose Hessian is kept whole: 200 MB, and a second to factorise."""


@dataclass(frozen=True)
class Network:
    """Shape of the networks: everything but the parameters.

    Attributes
    ----------
    nodes : mapping of str to tuple of int
        Per element ``(n_features, hidden…, 1)``.
    activation : {'tanh', 'sigmoid', 'linear'}
        Activation function of every layer.
    """

    nodes: Mapping[str, tuple[int, ...]]
    activation: str = "tanh"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ModelError(
                f"unknown activation {self.activation!r}: use one of {', '.join(ACTIVATIONS)}"
            )

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """The elements, sorted."""
        return tuple(sorted(self.nodes))

    @cached_property
    def shapes(self) -> list[tuple[str, int, tuple[int, int]]]:
        """``(element, layer, shape)`` of each weight matrix, in the vector's order."""
        return [
            (element, k + 1, (n_in + 1, n_out))
            for element in self.elements
            for k, (n_in, n_out) in enumerate(
                zip(self.nodes[element][:-1], self.nodes[element][1:], strict=True)
            )
        ]

    @cached_property
    def n_parameters(self) -> int:
        """Length of the parameter vector."""
        return sum(a * b for _, _, (a, b) in self.shapes) + 2 * len(self.nodes)

    def split(self, vector: Array) -> dict[str, ElementParameters]:
        """Return views of the vector, by element; writing to them writes to the vector."""
        if vector.shape != (self.n_parameters,):
            raise ModelError(
                f"{vector.size} parameters were given for networks that have {self.n_parameters}"
            )
        scaling = vector[-2 * len(self.nodes) :].reshape(-1, 2)
        return {
            element: ElementParameters(nodes, vector[block], scaling[i])
            for i, (element, nodes, block) in enumerate(self._blocks)
        }

    @cached_property
    def activation_index(self) -> int:
        """The activation function as the kernels take it."""
        return ACTIVATIONS.index(self.activation)

    @cached_property
    def _blocks(self) -> list[tuple[str, NDArray[np.int64], slice]]:
        """Each element, its nodes and the place of its weights in the vector."""
        blocks, start = [], 0
        for element in self.elements:
            nodes = np.array(self.nodes[element], dtype=np.int64)
            stop = start + int(((nodes[:-1] + 1) * nodes[1:]).sum())
            blocks.append((element, nodes, slice(start, stop)))
            start = stop
        return blocks

    @cached_property
    def curvature_blocks(self) -> list[slice]:
        """Places in the vector of parameters whose joint curvature is asked for.

        That is all of them together, or those into each node where they are many.
        """
        if self.n_parameters <= MOST_TOGETHER:
            return [slice(0, self.n_parameters)]
        blocks, start = [], 0
        for _, _, (rows, columns) in self.shapes:
            stop = start + rows * columns
            blocks += [slice(start + node, stop, columns) for node in range(columns)]
            start = stop
        return [*blocks, slice(start, self.n_parameters)]

    @cached_property
    def columns(self) -> dict[str, NDArray[np.int64]]:
        """Places in the vector of each element's first weight and of its intercept."""
        scaling = self.n_parameters - 2 * len(self.nodes)
        return {
            element: np.array([block.start, scaling + 2 * i], dtype=np.int64)
            for i, (element, _, block) in enumerate(self._blocks)
        }

    def penalty_mask(self) -> NDArray[np.bool_]:
        """Which parameters `overfit` penalises: as in Amp, the first layer without its biases."""
        mask = np.zeros(self.n_parameters, dtype=bool)
        start = 0
        for _, layer, (rows, columns) in self.shapes:
            if layer == 1:
                mask[start : start + (rows - 1) * columns] = True
            start += rows * columns
        return mask


def random_parameters(network: Network, seed: int | None) -> dict[str, list[Array]]:
    """Random weights, uniform in ±sqrt(6 / (n_in + n_out)), drawn in Amp's order.

    A seed gives the numbers that Amp draws for it. The range is that of
    Glorot and Bengio, Proc. AISTATS 9, 249 (2010).
    """
    generator = np.random.RandomState(seed)
    layers: dict[str, list[Array]] = {element: [] for element in network.elements}
    for element, _, (rows, columns) in network.shapes:
        width = 2.0 * np.sqrt(6.0 / (rows - 1 + columns))
        layers[element].append(generator.random_sample((rows, columns)) * width - width / 2.0)
    return layers
