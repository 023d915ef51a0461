"""Kernels over the layers of one element's network, its atoms in columns.

The activation function f is tanh, the logistic function or the identity. The slope of each is
a polynomial of its value, ``f' = p + q f + r f²``, so that ``f'' = (q + 2 r f) f'``, and
nothing but the values has to be kept for the passes backwards.

Everything is in one file because numba compiles a function anew when its own file changes,
not when a file changes from which it takes another.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

ACTIVATIONS = ("tanh", "sigmoid", "linear")

# The coefficients p, q and r of each activation function's slope.
SLOPES = ((1.0, 0.0, -1.0), (0.0, 1.0, -1.0), (1.0, 0.0, 0.0))

# ln 2 in two parts (Cody and Waite): the product of the first with a small integer is exact.
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
PER_LN2 = 1.0 / math.log(2.0)

# Coefficients of the Taylor series of exp(r).
THIRD, FOURTH, FIFTH, SIXTH, SEVENTH, EIGHTH, NINTH, TENTH, ELEVENTH, TWELFTH, THIRTEENTH = (
    1.0 / math.factorial(n) for n in range(3, 14)
)

# Added to a number below 2^51 it leaves the nearest integer in the last bits.
ROUND = 1.5 * 2.0**52


class ElementParameters(NamedTuple):
    """Parameters of one element's network.

    Attributes
    ----------
    nodes : (n_layers + 1,) int64 array
        Number of features, then of each layer's nodes.
    weights : (n_weights,) float array
        The matrices of all layers, one after another, each (inputs + 1, nodes) with the
        biases in the last row.
    scaling : (2,) float array, eV
        Intercept and slope.
    """

    nodes: NDArray[np.int64]
    weights: Array
    scaling: Array

    @property
    def layers(self) -> list[Array]:
        """Views of the layers' matrices."""
        return [_matrix.py_func(self, layer) for layer in range(1, len(self.nodes))]  # type: ignore[no-untyped-call]


entry = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
inner = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)


@inner
def _matrix(parameters, layer):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Weights of layer 1, 2, …."""
    nodes, start = parameters.nodes, 0
    for k in range(1, layer):
        start += (nodes[k - 1] + 1) * nodes[k]
    inputs, outputs = nodes[layer - 1] + 1, nodes[layer]
    return parameters.weights[start : start + inputs * outputs].reshape(inputs, outputs)


@inner
def _rows(parameters, array, layer):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Rows of layer 1, 2, … in an array like the values that `forward` returns."""
    nodes, start = parameters.nodes, 0
    for k in range(1, layer):
        start += nodes[k] + 1
    return array[start : start + nodes[layer]]


@inner
def _with_ones(parameters, x, values, layer):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Values that layer `layer` + 1 takes, with their row of ones."""
    if layer == 0:
        return x
    nodes, start = parameters.nodes, 0
    for k in range(1, layer):
        start += nodes[k] + 1
    return values[start : start + nodes[layer] + 1]


@inner
def _power_and_series(y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return a and b such that exp(y) = a + a b, for -700 < y <= 0.

    From y = k ln 2 + r with |r| <= ln 2 / 2 follows a = 2^k and b = exp(r) - 1, which is
    its Taylor series, of which the first term left out is below 2e-17 r.
    """
    shifted = y * PER_LN2 + ROUND
    k = shifted - ROUND
    r = (y - k * LN2_HIGH) - k * LN2_LOW
    r2 = r * r
    r4 = r2 * r2
    low = (0.5 + THIRD * r) + (FOURTH + FIFTH * r) * r2
    middle = (SIXTH + SEVENTH * r) + (EIGHTH + NINTH * r) * r2
    high = (TENTH + ELEVENTH * r) + (TWELFTH + THIRTEENTH * r) * r2
    exponent = np.int64((np.float64(shifted).view(np.int64) + 1023) << 52)
    return exponent.view(np.float64), r + r2 * (low + (middle + high * r4) * r4)


@inner
def _tanh(x):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return tanh(x) without cancellation anywhere; of NaN it is NaN.

    With E = exp(-2|x|) - 1, tanh|x| = -E / (2 + E).
    """
    y = -2.0 * abs(x)
    y = -40.0 if y < -40.0 else y  # where tanh is 1 to the last bit
    power, series = _power_and_series(y)
    E = power * series + (power - 1.0)
    return math.copysign(E / (2.0 + E), x)


@inner
def _sigmoid(x):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return 1 / (1 + exp(-x)); of NaN it is NaN."""
    y = -abs(x)
    y = -700.0 if y < -700.0 else y
    power, series = _power_and_series(y)
    e = power * series + power
    return (e if x < 0.0 else 1.0) / (1.0 + e)


@inner
def activate(net, activation):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Replace what nodes receive by their values, several at a time.

    Parameters
    ----------
    net : (n_nodes, n_atoms) float array
        Overwritten.
    activation : int
        Index into `ACTIVATIONS`.
    """
    for i in range(net.shape[0]):
        row = net[i]
        if activation == 0:
            for j in range(len(row)):
                row[j] = _tanh(row[j])
        elif activation == 1:
            for j in range(len(row)):
                row[j] = _sigmoid(row[j])


@inner
def _times_slope(array, values, activation):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Multiply an array by f'(net) in place."""
    p, q, r = SLOPES[activation]
    for i in range(array.shape[0]):
        for j in range(array.shape[1]):
            value = values[i, j]
            array[i, j] *= p + (q + r * value) * value


@entry
def forward(parameters, x, activation):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Run atoms of one element through their network.

    Parameters
    ----------
    parameters : ElementParameters
        The network.
    x : (n_features + 1, n_atoms) float array
        Scaled features and a row of ones, as `network_input` makes them.
    activation : int
        Index into `ACTIVATIONS`.

    Returns
    -------
    values : (Σ (n_nodes + 1), n_atoms) float array
        Values of the nodes of layers 1, 2, …, each layer with a row of ones.
    energies : (n_atoms,) float array, eV
        Atomic energies.
    """
    nodes = parameters.nodes
    values = np.ones((nodes[1:].sum() + len(nodes) - 1, x.shape[1]))
    for layer in range(1, len(nodes)):
        net = _rows(parameters, values, layer)
        before = _with_ones(parameters, x, values, layer - 1)
        np.dot(_matrix(parameters, layer).T, before, net)
        activate(net, activation)
    intercept, slope = parameters.scaling
    return values, slope * values[-2] + intercept


@entry
def sensitivities(parameters, values, activation):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Differentiate the atomic energies with respect to every node.

    Parameters
    ----------
    parameters, values, activation
        As `forward` takes and returns them.

    Returns
    -------
    by_value, by_net : (Σ (n_nodes + 1), n_atoms) float arrays
        Derivatives with respect to the nodes' values and to what the nodes receive, in the
        rows of `values`.
    """
    by_value, by_net = np.zeros_like(values), np.zeros_like(values)
    last = len(parameters.nodes) - 1
    _rows(parameters, by_value, last)[:] = parameters.scaling[1]
    for layer in range(last, 0, -1):
        value, net = _rows(parameters, by_value, layer), _rows(parameters, by_net, layer)
        net[:] = value
        _times_slope(net, _rows(parameters, values, layer), activation)
        if layer > 1:
            matrix = _matrix(parameters, layer)[:-1]
            np.dot(matrix, net, _rows(parameters, by_value, layer - 1))
    return by_value, by_net


@entry
def feature_gradient(  # type: ignore[no-untyped-def]  # pragma: no cover
    parameters, by_net, factor, out
):
    """Differentiate the atomic energies with respect to the unscaled features.

    Parameters
    ----------
    parameters, by_net
        The network, and what `sensitivities` returns.
    factor : (n_features,) float array
        Derivative of the scaled features.
    out : (n_atoms, max_features) float array, eV
        Its first columns are written.
    """
    scaled = np.dot(_matrix(parameters, 1)[:-1], _rows(parameters, by_net, 1))
    for f in range(scaled.shape[0]):
        for i in range(scaled.shape[1]):
            out[i, f] = factor[f] * scaled[f, i]


@entry
def predict(  # type: ignore[no-untyped-def]  # pragma: no cover
    parameters, ranges, narrowest, rows, features, activation, energies, dE_dG
):
    """Write atomic energies of one element, and their derivatives, into rows of arrays.

    Parameters
    ----------
    parameters : ElementParameters
        The network.
    ranges : (n_features, 2) float array
        Smallest and largest value of each feature in the training set.
    narrowest : float
        A feature whose range is not wider is not scaled.
    rows : (n,) int64 array
        Which rows of the other arrays are atoms of this element.
    features : (n_atoms, max_features) float array
        Features of atoms.
    activation : int
        Index into `ACTIVATIONS`.
    energies : (n_atoms,) float array, eV
        Written.
    dE_dG : (n_atoms, max_features) float array, eV
        Its first columns are written.
    """
    n = len(ranges)
    x = np.ones((n + 1, len(rows)))
    for f in range(n):
        low, width = ranges[f, 0], ranges[f, 1] - ranges[f, 0]
        for i in range(len(rows)):
            value = features[rows[i], f]
            x[f, i] = -1.0 + 2.0 * ((value - low) / width) if width > narrowest else value
    values, found = forward(parameters, x, activation)
    _, by_net = sensitivities(parameters, values, activation)
    scaled = np.dot(_matrix(parameters, 1)[:-1], _rows(parameters, by_net, 1))
    for i in range(len(rows)):
        energies[rows[i]] = found[i]
    for f in range(n):
        width = ranges[f, 1] - ranges[f, 0]
        factor = 2.0 / width if width > narrowest else 1.0
        for i in range(len(rows)):
            dE_dG[rows[i], f] = factor * scaled[f, i]


@entry
def energy_gradient(  # type: ignore[no-untyped-def]  # pragma: no cover
    parameters, gradient, x, values, seeds, activation
):
    """Add the parameter gradient of ``Σ seeds · E`` to `gradient`.

    Parameters
    ----------
    parameters, x, values, activation
        As `forward` takes and returns them.
    gradient : ElementParameters
        Views of the gradient vector, added to in place.
    seeds : (n_atoms,) float array
        Weight of each atomic energy.
    """
    back = (parameters.scaling[1] * seeds).reshape(1, len(seeds))
    for layer in range(len(parameters.nodes) - 1, 0, -1):
        _times_slope(back, _rows(parameters, values, layer), activation)
        target = _matrix(gradient, layer)
        target += np.dot(_with_ones(parameters, x, values, layer - 1), back.T)
        if layer > 1:
            back = np.dot(_matrix(parameters, layer)[:-1], back)
    gradient.scaling[0] += seeds.sum()
    gradient.scaling[1] += np.dot(seeds, values[-2])


@entry
def tangent_gradient(  # type: ignore[no-untyped-def]  # pragma: no cover
    parameters, gradient, x, values, by_value, by_net, seeds, direction, factor, activation
):
    """Add the parameter gradient of ``Σ seeds · E + Σ direction · dE/dG`` to `gradient`.

    The second sum is a directional derivative: one forward-mode pass carries
    `direction` through the layers, and one backward pass through both gives
    the gradient. The backward pass of the tangents is `sensitivities` itself.

    Parameters
    ----------
    parameters, gradient, x, values, seeds, activation
        As in `energy_gradient`.
    by_value, by_net
        What `sensitivities` returns.
    direction : (n_atoms, max_features) float array
        Weight of each component of dE/dG, in unscaled features, in the first columns.
    factor : (n_features,) float array
        Derivative of the scaled features.
    """
    tangent = np.empty((len(factor), len(direction)))
    for f in range(tangent.shape[0]):
        for i in range(tangent.shape[1]):
            tangent[f, i] = factor[f] * direction[i, f]
    tangents = [tangent]
    for layer in range(1, len(parameters.nodes)):
        tangent = np.dot(_matrix(parameters, layer)[:-1].T, tangent)
        _times_slope(tangent, _rows(parameters, values, layer), activation)
        tangents.append(tangent)

    _, q, r = SLOPES[activation]
    back = (parameters.scaling[1] * seeds).reshape(1, len(seeds))
    for layer in range(len(parameters.nodes) - 1, 0, -1):
        value, sensitive = _rows(parameters, values, layer), _rows(parameters, by_value, layer)
        _times_slope(back, value, activation)
        tangent = tangents[layer]
        for i in range(back.shape[0]):
            for j in range(back.shape[1]):
                back[i, j] += sensitive[i, j] * (q + 2.0 * r * value[i, j]) * tangent[i, j]
        target = _matrix(gradient, layer)
        target += np.dot(_with_ones(parameters, x, values, layer - 1), back.T)
        target[:-1] += np.dot(tangents[layer - 1], _rows(parameters, by_net, layer).T)
        if layer > 1:
            back = np.dot(_matrix(parameters, layer)[:-1], back)
    gradient.scaling[0] += seeds.sum()
    gradient.scaling[1] += np.dot(seeds, values[-2]) + tangents[-1].sum()


@inner
def _gathered(array, columns):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return columns of an array as the rows of a new one."""
    found = np.empty((len(columns), array.shape[0]))
    for t in range(len(columns)):
        for i in range(array.shape[0]):
            found[t, i] = array[i, columns[t]]
    return found


@entry
def energy_rows(  # type: ignore[no-untyped-def]  # pragma: no cover
    parameters, x, values, by_net, starts, ends, weights, rows, columns
):
    """Add the parameter gradients of sums of atomic energies to rows of a matrix.

    Row g gets that of ``weights[g] · Σ E`` over the atoms from ``starts[g]`` to ``ends[g]``.

    Parameters
    ----------
    parameters, x, values, by_net
        As `forward` takes and returns them, and what `sensitivities` returns.
    starts, ends : (n_groups,) int arrays
        Where the atoms of each group start and end.
    weights : (n_groups,) float array
        Factor of each group.
    rows : (n_groups, n_parameters) float array
        Added to.
    columns : (2,) int array
        Columns of the first weight and of the intercept.
    """
    nodes, intercept = parameters.nodes, columns[1]
    column = columns[0]
    for layer in range(1, len(nodes)):
        before = np.ascontiguousarray(_with_ones(parameters, x, values, layer - 1).T)
        back = np.ascontiguousarray(_rows(parameters, by_net, layer).T)
        inputs, outputs = nodes[layer - 1] + 1, nodes[layer]
        for g in range(len(weights)):
            a, b = starts[g], ends[g]
            if a < b:
                block = rows[g, column : column + inputs * outputs].reshape(inputs, outputs)
                block += weights[g] * np.dot(before[a:b].T, back[a:b])
        column += inputs * outputs
    for g in range(len(weights)):
        a, b = starts[g], ends[g]
        rows[g, intercept] += weights[g] * (b - a)
        rows[g, intercept + 1] += weights[g] * values[-2, a:b].sum()


@entry
def tangent_rows(  # type: ignore[no-untyped-def]  # pragma: no cover
    parameters,
    x,
    values,
    by_value,
    by_net,
    factor,
    activation,
    atoms,
    directions,
    starts,
    rows,
    columns,
):
    """Add the parameter gradients of directional derivatives to rows of a matrix.

    Row ``g · n_components + d`` gets that of ``Σ_p directions[p, d] · dE_a(p)/dG`` over the
    terms p from ``starts[g]`` to ``starts[g + 1]``: of one component of a force or a stress.
    As in `tangent_gradient`, one forward-mode pass carries the direction through the layers, and
    one backward pass gives the gradient.

    Parameters
    ----------
    parameters, x, values, by_value, by_net, factor, activation
        As `tangent_gradient` takes them.
    atoms : (n_terms,) int array
        Column of x of the atom that each term is about.
    directions : (n_terms, n_components, max_features) float array
        Weight of each component of dE/dG, in unscaled features, in the first columns.
    starts : (n_groups + 1,) int array
        Where the terms of each group start.
    rows : (n_groups · n_components, n_parameters) float array
        Added to.
    columns : (2,) int array
        Columns of the first weight and of the intercept.
    """
    nodes = parameters.nodes
    last = len(nodes) - 1
    n_terms, n_components = directions.shape[0], directions.shape[1]
    n_groups = len(starts) - 1
    p, q, r = SLOPES[activation]

    tangent = np.empty((n_components * n_terms, len(factor)))
    for d in range(n_components):
        for t in range(n_terms):
            for f in range(len(factor)):
                tangent[d * n_terms + t, f] = factor[f] * directions[t, d, f]
    tangents = [tangent]
    before = [_gathered(_with_ones(parameters, x, values, 0), atoms)]
    for layer in range(1, len(nodes)):
        value = _gathered(_with_ones(parameters, x, values, layer), atoms)
        tangent = np.dot(tangent, _matrix(parameters, layer)[:-1])
        for d in range(n_components):
            for t in range(n_terms):
                for j in range(tangent.shape[1]):
                    v = value[t, j]
                    tangent[d * n_terms + t, j] *= p + (q + r * v) * v
        tangents.append(tangent)
        before.append(value)

    intercept = columns[1]
    for g in range(n_groups):
        for d in range(n_components):
            total = 0.0
            for t in range(starts[g], starts[g + 1]):
                total += tangent[d * n_terms + t, 0]
            rows[g * n_components + d, intercept + 1] += total

    column = columns[0]
    for layer in range(1, len(nodes)):
        column += (nodes[layer - 1] + 1) * nodes[layer]
    back = np.zeros((n_components * n_terms, nodes[last]))
    for layer in range(last, 0, -1):
        inputs, outputs = nodes[layer - 1] + 1, nodes[layer]
        column -= inputs * outputs
        value, tangent = before[layer], tangents[layer]
        sensitive = _gathered(_rows(parameters, by_value, layer), atoms)
        net = _gathered(_rows(parameters, by_net, layer), atoms)
        for d in range(n_components):
            for t in range(n_terms):
                k = d * n_terms + t
                for j in range(outputs):
                    v = value[t, j]
                    back[k, j] = (
                        back[k, j] * (p + (q + r * v) * v)
                        + sensitive[t, j] * (q + 2.0 * r * v) * tangent[k, j]
                    )
        inwards, node = tangents[layer - 1], before[layer - 1]
        for g in range(n_groups):
            a, b = starts[g], starts[g + 1]
            if a == b:
                continue
            for d in range(n_components):
                m, n = d * n_terms + a, d * n_terms + b
                row = rows[g * n_components + d, column : column + inputs * outputs]
                block = row.reshape(inputs, outputs)
                block += np.dot(node[a:b].T, back[m:n])
                block[:-1] += np.dot(inwards[m:n].T, net[a:b])
        if layer > 1:
            back = np.dot(back, _matrix(parameters, layer)[:-1].T)
