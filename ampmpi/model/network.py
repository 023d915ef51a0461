"""The networks of all elements on arrays: energies, their gradients, and what a loss needs.

One element's network maps the scaled features x of an atom to its energy,

    a_0 = x,   a_k = f(a_{k-1} W_k + b_k),   E = slope · a_K + intercept,

with the activation f on the last layer too, as in Amp. All atoms of one
element go through together, so every step is a matrix product.

The parameters of all networks lie in one vector, in Amp's order: for each
element in alphabetical order its layers, each an (inputs + 1, nodes) matrix
whose last row is the bias, then for each element intercept and slope.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ModelError

Array: TypeAlias = NDArray[np.float64]

ACTIVATIONS = ("tanh", "sigmoid", "linear")


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

    @property
    def elements(self) -> tuple[str, ...]:
        """The elements, sorted."""
        return tuple(sorted(self.nodes))

    @property
    def shapes(self) -> list[tuple[str, int, tuple[int, int]]]:
        """``(element, layer, shape)`` of each weight matrix, in the vector's order."""
        return [
            (element, k + 1, (n_in + 1, n_out))
            for element in self.elements
            for k, (n_in, n_out) in enumerate(
                zip(self.nodes[element][:-1], self.nodes[element][1:], strict=True)
            )
        ]

    @property
    def n_parameters(self) -> int:
        """Length of the parameter vector."""
        return sum(a * b for _, _, (a, b) in self.shapes) + 2 * len(self.nodes)

    def split(self, vector: Array) -> dict[str, ElementParameters]:
        """Return views of the vector, by element; writing to them writes to the vector."""
        if vector.shape != (self.n_parameters,):
            raise ModelError(
                f"{vector.size} parameters were given for networks that have {self.n_parameters}"
            )
        matrices: dict[str, list[Array]] = {element: [] for element in self.elements}
        start = 0
        for element, _, (rows, columns) in self.shapes:
            matrices[element].append(vector[start : start + rows * columns].reshape(rows, columns))
            start += rows * columns
        return {
            element: ElementParameters(
                tuple(matrices[element]), vector[start + 2 * i : start + 2 * i + 2]
            )
            for i, element in enumerate(self.elements)
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


@dataclass(frozen=True, eq=False)
class ElementParameters:
    """Parameters of one element's network.

    Attributes
    ----------
    layers : tuple of (n_in + 1, n_out) float arrays
        Weights; the last row is the bias.
    scaling : (2,) float array, eV
        Intercept and slope.
    """

    layers: tuple[Array, ...]
    scaling: Array


@dataclass(frozen=True, eq=False)
class Forward:
    """What a forward pass leaves for the passes that follow.

    Attributes
    ----------
    outputs : tuple of (n_atoms, n_nodes) float arrays
        Node values a_0 … a_K.
    slopes : tuple of (n_atoms, n_nodes) float arrays
        f'(net) of layers 1 … K.
    energies : (n_atoms,) float array, eV
        Atomic energies.
    """

    outputs: tuple[Array, ...]
    slopes: tuple[Array, ...]
    energies: Array


def forward(parameters: ElementParameters, x: Array, activation: str) -> Forward:
    """Run atoms of one element through their network.

    Parameters
    ----------
    parameters : ElementParameters
        The network.
    x : (n_atoms, n_features) float array
        Scaled features.
    activation : str
        Activation function.
    """
    outputs = [x]
    slopes = []
    for weights in parameters.layers:
        a = outputs[-1] @ weights[:-1]
        a += weights[-1]
        if activation == "tanh":
            np.tanh(a, out=a)
            slope = 1.0 - a * a
        elif activation == "sigmoid":
            # exp(-net) overflows to inf for net < -709, where 1/(1 + inf) = 0 is right
            with np.errstate(over="ignore"):
                a = 1.0 / (1.0 + np.exp(-a))
            slope = a * (1.0 - a)
        else:
            slope = np.ones_like(a)
        outputs.append(a)
        slopes.append(slope)
    intercept, slope_E = parameters.scaling
    return Forward(tuple(outputs), tuple(slopes), slope_E * outputs[-1][:, 0] + intercept)


def sensitivities(parameters: ElementParameters, state: Forward) -> tuple[list[Array], Array]:
    """Differentiate the atomic energies with respect to what each layer receives.

    Returns
    -------
    dE_dnet : list of (n_atoms, n_nodes) float arrays
        dE/d(net_k) of layers 1 … K.
    dE_dx : (n_atoms, n_features) float array, eV
        Derivative with respect to the scaled features.
    """
    delta = parameters.scaling[1] * state.slopes[-1]
    dE_dnet = [delta]
    for weights, slope in zip(parameters.layers[:0:-1], state.slopes[-2::-1], strict=True):
        delta = (delta @ weights[:-1].T) * slope
        dE_dnet.append(delta)
    dE_dnet.reverse()
    return dE_dnet, delta @ parameters.layers[0][:-1].T


def energy_gradient(
    parameters: ElementParameters,
    gradient: ElementParameters,
    state: Forward,
    dE_dnet: list[Array],
    seeds: Array,
) -> None:
    """Add the parameter gradient of ``Σ seeds · E`` to `gradient`.

    Parameters
    ----------
    parameters : ElementParameters
        The network.
    gradient : ElementParameters
        Views of the gradient vector, added to in place.
    state, dE_dnet
        From `forward` and `sensitivities`.
    seeds : (n_atoms,) float array
        Weight of each atomic energy.
    """
    column = seeds[:, np.newaxis]
    for k, target in enumerate(gradient.layers):
        delta = dE_dnet[k] * column
        target[:-1] += state.outputs[k].T @ delta
        target[-1] += delta.sum(axis=0)
    gradient.scaling[0] += seeds.sum()
    gradient.scaling[1] += seeds @ state.outputs[-1][:, 0]


def tangent_gradient(
    parameters: ElementParameters,
    gradient: ElementParameters,
    state: Forward,
    dE_dnet: list[Array],
    seeds: Array,
    direction: Array,
    activation: str,
) -> None:
    """Add the parameter gradient of ``Σ seeds · E + Σ direction · dE/dx`` to `gradient`.

    The second sum is a directional derivative: one forward-mode pass carries
    `direction` through the layers, and one backward pass through both gives
    the gradient. The backward pass of the tangents is `dE_dnet` itself.

    Parameters
    ----------
    parameters, gradient, state, dE_dnet, seeds
        As in `energy_gradient`.
    direction : (n_atoms, n_features) float array
        Weight of each component of dE/dx, in scaled features.
    activation : str
        Activation function.
    """
    tangents = [direction]
    for weights, slope in zip(parameters.layers, state.slopes, strict=True):
        tangents.append((tangents[-1] @ weights[:-1]) * slope)

    slope_E = parameters.scaling[1]
    back = slope_E * seeds[:, np.newaxis]
    last = len(parameters.layers) - 1
    for k in range(last, -1, -1):
        a, tangent, slope = state.outputs[k + 1], tangents[k + 1], state.slopes[k]
        # dJ/d(tangent of layer k + 1), before its activation's slope
        upper = (
            dE_dnet[k + 1] @ parameters.layers[k + 1][:-1].T
            if k < last
            else np.full_like(a, slope_E)
        )
        back = back * slope + upper * _slope_change(a, tangent, activation)
        target = gradient.layers[k]
        target[:-1] += state.outputs[k].T @ back
        target[:-1] += tangents[k].T @ dE_dnet[k]
        target[-1] += back.sum(axis=0)
        if k:
            back = back @ parameters.layers[k][:-1].T
    gradient.scaling[0] += seeds.sum()
    gradient.scaling[1] += seeds @ state.outputs[-1][:, 0] + tangents[-1].sum()


def _slope_change(a: Array, tangent: Array, activation: str) -> Array | float:
    """f''(net) times the tangent of net, where `tangent` is f'(net) times that."""
    if activation == "tanh":
        return -2.0 * a * tangent
    if activation == "sigmoid":
        return (1.0 - 2.0 * a) * tangent
    return 0.0


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
