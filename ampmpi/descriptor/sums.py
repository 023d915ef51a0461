"""Sums over the neighbours of one atom, and over pairs of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import rows
from .compiled import fast, inner
from .factors import COSINE, INTEGER_POWER, MERGED
from .radial import cosine, integer_power, merged, power
from .rows import CHUNK, LANES, NO_FACTOR, WEIGHT


class Work(NamedTuple):
    """One thread's arrays for one centre.

    Attributes
    ----------
    buffer : see `rows`
    near : (6, most_neighbors) float array
        x, y, z, u, 1/R of each neighbour in units of Rc, and 1 − u.
    first : (n_species + 1,) int64 array
        Where the neighbours of each species begin.
    weights, slopes : (n_radials, most_neighbors) float array
        Each radial w at each neighbour, and dw/d(vector) per length of the vector.
    """

    buffer: NDArray[np.float64]
    near: NDArray[np.float64]
    first: NDArray[np.int64]
    weights: NDArray[np.float64]
    slopes: NDArray[np.float64]


def _make_legs(factor):
    """Return the loop that evaluates one radial at each neighbour, with this factor inlined."""

    @fast
    def legs(n, c, t, weights, slopes):
        for j in range(n):
            weight, slope = factor(t[j], c)
            weights[j] = weight
            slopes[j] = -2.0 * slope

    return legs


_merged_legs = _make_legs(merged)
_cosine_legs = _make_legs(cosine)
_integer_power_legs = _make_legs(integer_power)
_power_legs = _make_legs(power)


@inner
def _coefficients(c):
    return (c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11])


@inner
def prepare(i, species, start, neighbor, vectors, squares, plan, work):
    """Fill `work` with the neighbours of atom i; return their number."""
    begin, n = start[i], start[i + 1] - start[i]
    scale = 1.0 / plan.cutoff
    near = work.near
    for j in range(n):
        near[0, j] = scale * vectors[begin + j, 0]
        near[1, j] = scale * vectors[begin + j, 1]
        near[2, j] = scale * vectors[begin + j, 2]
        near[3, j] = scale * scale * squares[begin + j]
        near[4, j] = 1.0 / np.sqrt(near[3, j])
        near[5, j] = max(1.0 - near[3, j], 0.0)
    work.first[:] = 0
    for j in range(n):
        work.first[species[neighbor[begin + j]] + 1] += 1
    for s in range(1, len(work.first)):
        work.first[s] += work.first[s - 1]
    for r in range(len(plan.radials)):
        if plan.radial_of[species[i], r]:
            c = _coefficients(plan.radials[r])
            weights, slopes = work.weights[r], work.slopes[r]
            if plan.radial_kinds[r] == MERGED:
                _merged_legs(n, c, near[5], weights, slopes)
            elif plan.radial_kinds[r] == COSINE:
                _cosine_legs(n, c, near[5], weights, slopes)
            elif plan.radial_kinds[r] == INTEGER_POWER:
                _integer_power_legs(n, c, near[5], weights, slopes)
            else:
                _power_legs(n, c, near[5], weights, slopes)
    return n


@inner
def pair_values(s, plan, work, values):
    """Add the functions of pairs, G2, to one atom's features."""
    for row in range(plan.pair_start[s], plan.pair_start[s + 1]):
        a, radial, feature = plan.pairs[row, 0], plan.pairs[row, 1], plan.pairs[row, 2]
        total = 0.0
        for j in range(work.first[a], work.first[a + 1]):
            total += work.weights[radial, j]
        values[feature] += total


@inner
def _pair_gradient(s, plan, work, dE_dG, slots, gradient):
    """Add the derivatives of G2, or of the energy through G2, to the gradient."""
    near = work.near
    per_length = 1.0 / plan.cutoff
    for row in range(plan.pair_start[s], plan.pair_start[s + 1]):
        a, radial, feature = plan.pairs[row, 0], plan.pairs[row, 1], plan.pairs[row, 2]
        scale, column = per_length, feature
        if len(dE_dG) > 0:
            scale, column = per_length * dE_dG[feature], 0
        for j in range(work.first[a], work.first[a + 1]):
            slope = scale * work.slopes[radial, j]
            for d in range(3):
                gradient[slots[j], d, column] += slope * near[d, j]


@inner
def group_values(row, plan, work, values):
    """Add a group's angular functions to one atom's features, taking each pair once."""
    a, b, radial, third, first_channel, last_channel = plan.groups[row]
    kind = plan.radial_kinds[radial] if third else NO_FACTOR
    c = _coefficients(plan.radials[radial])
    channels, features = plan.channels, plan.channel_features
    buffer, near, weights = work.buffer, work.near, work.weights[radial]
    last = work.first[b + 1]
    for chunk in range(work.first[b], last, CHUNK):
        chunk_end = min(chunk + CHUNK, last)
        n = rows.load(buffer, chunk, chunk_end, near, weights)
        for j in range(work.first[a], chunk_end if a == b else work.first[a + 1]):
            begin = 0
            if a == b and j >= chunk:  # only k > j: those before lose their weight one by one
                buffer[WEIGHT + j - chunk] = 0.0
                begin = (j - chunk + 1) // LANES * LANES
            rows.row_values(
                kind,
                begin,
                n,
                near[0, j],
                near[1, j],
                near[2, j],
                near[3, j],
                near[4, j],
                c,
                buffer,
            )
            for channel in range(first_channel, last_channel):
                gamma, zeta = channels[channel, 0], channels[channel, 1]
                plus, minus = rows.powers(begin, n, gamma, zeta, buffer)
                total_plus, total_minus = rows.sum_values(begin, n, gamma, plus, minus, buffer)
                scale = weights[j] * channels[channel, 2]
                if features[channel, 0] >= 0:
                    values[features[channel, 0]] += scale * total_plus
                if features[channel, 1] >= 0:
                    values[features[channel, 1]] += scale * total_minus


@inner
def _add_row(gradient, slot, column, near, j, scale, slope, w, sums):
    """Add what one row says of the vector of j; ``sums`` as `rows.sum_slopes` gives them.

    Since t = 1 − u, the third side's derivative by its vector is −2 dw/dt times the vector.
    """
    value, along, x, y, z = sums
    across = 2.0 * scale * w
    along = scale * slope * value - across * along
    gradient[slot, 0, column] += along * near[0, j] + across * x
    gradient[slot, 1, column] += along * near[1, j] + across * y
    gradient[slot, 2, column] += along * near[2, j] + across * z


@inner
def _group_gradient(row, swap, plan, work, dE_dG, values, slots, gradient):
    """Add the derivatives of a group's angular functions by the vectors of the neighbours j.

    Each pair of neighbours is taken in both orders (`swap` for the second, where
    the elements differ), so that only the vector of j is to be looked after.
    The values come out of the same sums; half of each belongs to each order.
    """
    a, b, radial, third, first_channel, last_channel = plan.groups[row]
    if swap:
        a, b = b, a
    kind = plan.radial_kinds[radial] if third else NO_FACTOR
    c = _coefficients(plan.radials[radial])
    channels, features = plan.channels, plan.channel_features
    buffer, near = work.buffer, work.near
    weights, slopes = work.weights[radial], work.slopes[radial]
    energy = len(dE_dG) > 0
    per_length = 1.0 / plan.cutoff
    last = work.first[b + 1]
    for chunk in range(work.first[b], last, CHUNK):
        chunk_end = min(chunk + CHUNK, last)
        n = rows.load(buffer, chunk, chunk_end, near, weights)
        for j in range(work.first[a], work.first[a + 1]):
            w, slope, inverse, slot = weights[j], slopes[j], near[4, j], slots[j]
            itself = a == b and chunk <= j < chunk_end
            if itself:
                buffer[WEIGHT + j - chunk] = 0.0
            rows.row_slopes(
                kind, 0, n, near[0, j], near[1, j], near[2, j], near[3, j], inverse, c, buffer
            )
            if energy:
                rows.clear_angles(n, buffer)
            for channel in range(first_channel, last_channel):
                gamma, zeta, scale = (
                    channels[channel, 0],
                    channels[channel, 1],
                    channels[channel, 2],
                )
                f, g = features[channel, 0], features[channel, 1]
                if energy:
                    plus, minus = rows.powers(0, n, gamma, zeta, buffer)
                    gp = scale * dE_dG[f] if f >= 0 else 0.0
                    gm = scale * dE_dG[g] if g >= 0 else 0.0
                    rows.add_angles(n, gamma, zeta, plus, minus, gp, gm, buffer)
                    continue
                if zeta == 1.0:
                    p, m = rows.sum_linear_slopes(n, gamma, buffer)
                else:
                    plus, minus = rows.powers(0, n, gamma, zeta, buffer)
                    p, m = rows.sum_slopes(n, gamma, zeta, plus, minus, buffer)
                if f >= 0:
                    values[f] += 0.5 * scale * w * p[0]
                    _add_row(gradient, slot, f, near, j, per_length * scale, slope, w, p)
                if g >= 0:
                    values[g] += 0.5 * scale * w * m[0]
                    _add_row(gradient, slot, g, near, j, per_length * scale, slope, w, m)
            if energy:
                sums = rows.sum_angles(n, buffer)
                _add_row(gradient, slot, 0, near, j, per_length, slope, w, sums)
            if itself:
                buffer[WEIGHT + j - chunk] = w


@inner
def add_gradient(s, plan, work, dE_dG, values, slots, gradient):
    """Add the derivatives of an atom's features, or of the energy, by its neighbours' vectors.

    Those of neighbour j go to ``gradient[slots[j]]``.
    """
    _pair_gradient(s, plan, work, dE_dG, slots, gradient)
    for row in range(plan.group_start[s], plan.group_start[s + 1]):
        _group_gradient(row, False, plan, work, dE_dG, values, slots, gradient)
        if plan.groups[row, 0] != plan.groups[row, 1]:
            _group_gradient(row, True, plan, work, dE_dG, values, slots, gradient)


@inner
def make_work(start, plan):
    """Return arrays that are large enough for every centre."""
    most = LANES
    for i in range(len(start) - 1):
        most = max(most, start[i + 1] - start[i])
    return Work(
        rows.make_buffer(),
        np.empty((6, most)),
        np.zeros(plan.n_species + 1, np.int64),
        np.empty((len(plan.radials), most)),
        np.empty((len(plan.radials), most)),
    )
