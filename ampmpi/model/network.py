"""The networks of all elements on arrays: energies, their gradients, and what a loss needs.

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
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ModelError
from ampmpi.model.activation import ACTIVATIONS, activate, slope_change

Array: TypeAlias = NDArray[np.float64]


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
        layers: dict[str, list[Array]] = {element: [] for element in self.elements}
        for element, block, shape in self._blocks:
            layers[element].append(vector[block].reshape(shape))
        scaling = vector[-2 * len(layers) :].reshape(-1, 2)
        return {
            element: ElementParameters(tuple(layers[element]), scaling[i])
            for i, element in enumerate(self.elements)
        }

    @cached_property
    def _blocks(self) -> list[tuple[str, slice, tuple[int, int]]]:
        """Element, place in the vector and shape of each weight matrix."""
        blocks, start = [], 0
        for element, _, (rows, columns) in self.shapes:
            blocks.append((element, slice(start, start + rows * columns), (rows, columns)))
            start += rows * columns
        return blocks

    def penalty_mask(self) -> NDArray[np.bool_]:
        """Which parameters `overfit` penalises: as in Amp, the first layer without its biases."""
        mask = np.zeros(self.n_parameters, dtype=bool)
        start = 0
        for _, layer, (rows, columns) in self.shapes:
            if layer == 1:
                mask[start : start + (rows - 1) * columns] = True
            start += rows * columns
        return mask


class ElementParameters(NamedTuple):
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


class Forward(NamedTuple):
    """What a forward pass leaves for the passes that follow.

    Attributes
    ----------
    outputs : tuple of (n_nodes + 1, n_atoms) float arrays
        Node values a_0 … a_K, each with a row of ones.
    slopes : tuple of (n_nodes, n_atoms) float arrays
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
    x : (n_features + 1, n_atoms) float array
        Scaled features and a row of ones, as `network_input` makes them.
    activation : str
        Activation function.
    """
    outputs, slopes = [x], []
    for weights in parameters.layers:
        values = np.empty((weights.shape[1] + 1, x.shape[1]))
        values[-1] = 1.0
        np.matmul(weights.T, outputs[-1], out=values[:-1])
        slopes.append(activate(values[:-1], activation))
        outputs.append(values)
    intercept, slope_E = parameters.scaling
    return Forward(tuple(outputs), tuple(slopes), slope_E * outputs[-1][0] + intercept)


class Sensitivities(NamedTuple):
    """Derivatives of the atomic energies with respect to the nodes of layers 1 … K.

    Attributes
    ----------
    values : tuple of (n_nodes, n_atoms) float arrays
        dE/da_k.
    nets : tuple of (n_nodes, n_atoms) float arrays
        dE/d(net_k), with respect to what the nodes receive.
    """

    values: tuple[Array, ...]
    nets: tuple[Array, ...]


def sensitivities(parameters: ElementParameters, state: Forward) -> Sensitivities:
    """Differentiate the atomic energies with respect to every node."""
    value = np.full_like(state.slopes[-1], parameters.scaling[1])
    values, nets = [value], [value * state.slopes[-1]]
    for weights, slope in zip(parameters.layers[:0:-1], state.slopes[-2::-1], strict=True):
        values.append(_backward(weights, nets[-1]))
        nets.append(values[-1] * slope)
    return Sensitivities(tuple(reversed(values)), tuple(reversed(nets)))


def _backward(weights: Array, nets: Array) -> Array:
    """Take derivatives from what a layer receives to the nodes before it."""
    # for a single node the elementwise product is faster than the matrix product
    inner: Array = weights[:-1] * nets if len(nets) == 1 else weights[:-1] @ nets
    return inner


def feature_gradient(
    parameters: ElementParameters, sensitive: Sensitivities, factor: Array
) -> Array:
    """Differentiate the atomic energies with respect to the unscaled features.

    Parameters
    ----------
    parameters, sensitive
        The network, and what `sensitivities` returns.
    factor : (n_features,) float array
        Derivative of the scaled features.

    Returns
    -------
    (n_atoms, n_features) float array, eV
    """
    gradient: Array = sensitive.nets[0].T @ _unscaled(parameters, factor).T
    return gradient


def _unscaled(parameters: ElementParameters, factor: Array) -> Array:
    """First layer's weights for features that are not scaled, without the biases."""
    weights: Array = parameters.layers[0][:-1] * factor[:, np.newaxis]
    return weights


def energy_gradient(
    parameters: ElementParameters, gradient: ElementParameters, state: Forward, seeds: Array
) -> None:
    """Add the parameter gradient of ``Σ seeds · E`` to `gradient`.

    Parameters
    ----------
    parameters : ElementParameters
        The network.
    gradient : ElementParameters
        Views of the gradient vector, added to in place.
    state : Forward
        What `forward` returns.
    seeds : (n_atoms,) float array
        Weight of each atomic energy.
    """
    back = parameters.scaling[1] * seeds[np.newaxis]
    for k in range(len(parameters.layers) - 1, -1, -1):
        back *= state.slopes[k]
        target = gradient.layers[k]
        target += state.outputs[k] @ back.T
        if k:
            back = _backward(parameters.layers[k], back)
    gradient.scaling[0] += seeds.sum()
    gradient.scaling[1] += seeds @ state.outputs[-1][0]


def tangent_gradient(
    parameters: ElementParameters,
    gradient: ElementParameters,
    state: Forward,
    sensitive: Sensitivities,
    seeds: Array,
    direction: Array,
    factor: Array,
    activation: str,
) -> None:
    """Add the parameter gradient of ``Σ seeds · E + Σ direction · dE/dG`` to `gradient`.

    The second sum is a directional derivative: one forward-mode pass carries
    `direction` through the layers, and one backward pass through both gives
    the gradient. The backward pass of the tangents is `sensitive` itself.

    Parameters
    ----------
    parameters, gradient, state, seeds
        As in `energy_gradient`.
    sensitive : Sensitivities
        What `sensitivities` returns.
    direction : (n_atoms, n_features) float array
        Weight of each component of dE/dG, in unscaled features.
    factor : (n_features,) float array
        Derivative of the scaled features.
    activation : str
        Activation function.
    """
    tangents = [_unscaled(parameters, factor).T @ direction.T * state.slopes[0]]
    for weights, slope in zip(parameters.layers[1:], state.slopes[1:], strict=True):
        tangents.append(weights[:-1].T @ tangents[-1] * slope)

    back = parameters.scaling[1] * seeds[np.newaxis]
    for k in range(len(parameters.layers) - 1, -1, -1):
        change = slope_change(state.outputs[k + 1][:-1], tangents[k], activation)
        back *= state.slopes[k]
        back += sensitive.values[k] * change
        target = gradient.layers[k]
        target += state.outputs[k] @ back.T
        if k:
            target[:-1] += tangents[k - 1] @ sensitive.nets[k].T
            back = _backward(parameters.layers[k], back)
        else:
            target[:-1] += factor[:, np.newaxis] * (direction.T @ sensitive.nets[0].T)
    gradient.scaling[0] += seeds.sum()
    gradient.scaling[1] += seeds @ state.outputs[-1][0] + tangents[-1].sum()


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
