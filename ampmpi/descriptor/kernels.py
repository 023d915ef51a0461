"""Behler and Parrinello's symmetry functions G2, G4 and G5 of all atoms, and derivatives.

With radial factors ``w(R) = fc(R)·exp(−η(R − Rs)²/Rc²)`` (`radial`), for an atom i ::

    G2 = Σ_j w(R_ij)
    G4 = 2^(1−ζ) Σ_{j<k} (1 + γ cos θ_jik)^ζ w(R_ij) w(R_ik) w(R_jk)
    G5 = 2^(1−ζ) Σ_{j<k} (1 + γ cos θ_jik)^ζ w(R_ij) w(R_ik)

over neighbours of one element, or pairs of neighbours of two. `radial_symmetry_functions`
is G2, `angular_symmetry_functions` G4 and G5; their derivatives stand next to them.

The trick: each radial factor is evaluated once per neighbour, whichever functions share
it, and in G4 and G5 one neighbour j meets all k as a row of vector code (`angular`).
Forces never need the derivatives of single functions: the weights dE/dG are summed into
one angular factor first. ``docs/theory.md`` has the formulas of the derivatives.

References
----------
J. Behler and M. Parrinello, Phys. Rev. Lett. 98, 146401 (2007);
J. Behler, J. Chem. Phys. 134, 074106 (2011), Eqs. 6, 8 and 9;
A. Khorshidi and A. A. Peterson, Comput. Phys. Commun. 207, 310 (2016), for the scaling
by Rc² and 2^(1−ζ) with each pair once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .angular import (
    CHUNK,
    LANES,
    WEIGHT,
    add_to_mixture,
    angular_derivative_sums,
    angular_powers,
    angular_sums,
    clear_mixture,
    linear_derivative_sums,
    load_neighbors,
    make_row,
    mixture_derivative_sums,
    triplet_derivatives,
    triplets,
)
from .compiled import SOURCES, entry, fast, inner
from .radial import (
    COSINE,
    FITTED,
    INTEGER_POLYNOMIAL,
    NO_FACTOR,
    cosine_factor,
    fitted_factor,
    integer_polynomial_factor,
    polynomial_factor,
)

if TYPE_CHECKING:
    pass

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]


class Environment(NamedTuple):
    """The atomic environment of one centre, in arrays that all centres of a call share.

    Attributes
    ----------
    row : float array
        The arrays of the loops over triplets; see `angular`.
    neighbors : (6, most_neighbors) float array
        x, y, z, u = R² and 1/R of each neighbour in units of Rc, and t = 1 − u.
    species_start : (n_species + 1,) int64 array
        Where the neighbours of each species begin.
    w, dw : (n_radials, most_neighbors) float array
        Each radial factor w at each neighbour, and (dw/dR)/R; the derivative by the
        neighbour's vector is the latter times the vector.
    """

    row: NDArray[np.float64]
    neighbors: NDArray[np.float64]
    species_start: NDArray[np.int64]
    w: NDArray[np.float64]
    dw: NDArray[np.float64]


def _make_loop(factor):
    """Return the loop that evaluates a radial factor at each neighbour, with it inlined."""

    @fast
    def loop(n, c, t, w, dw):
        for j in range(n):
            value, slope = factor(t[j], c)
            w[j] = value
            dw[j] = -2.0 * slope

    return loop


_fitted_loop = _make_loop(fitted_factor)
_cosine_loop = _make_loop(cosine_factor)
_integer_polynomial_loop = _make_loop(integer_polynomial_factor)
_polynomial_loop = _make_loop(polynomial_factor)


@fast
def radial_factor(kind, n, c, t, w, dw):
    """Evaluate a radial factor at n neighbours, given t = 1 − u: fill w and (dw/dR)/R."""
    if kind == FITTED:
        _fitted_loop(n, c, t, w, dw)
    elif kind == COSINE:
        _cosine_loop(n, c, t, w, dw)
    elif kind == INTEGER_POLYNOMIAL:
        _integer_polynomial_loop(n, c, t, w, dw)
    else:
        _polynomial_loop(n, c, t, w, dw)


@inner
def as_tuple(c):
    """Return the coefficients of a radial factor as scalars, which stay in registers."""
    return (c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11])


@inner
def set_centre(i, species, start, neighbor, vectors, squares, tables, env):
    """Make atom i the centre of the environment; return the number of its neighbours."""
    begin, n = start[i], start[i + 1] - start[i]
    scale = 1.0 / tables.cutoff
    near = env.neighbors
    for j in range(n):
        near[0, j] = scale * vectors[begin + j, 0]
        near[1, j] = scale * vectors[begin + j, 1]
        near[2, j] = scale * vectors[begin + j, 2]
        near[3, j] = scale * scale * squares[begin + j]
        near[4, j] = 1.0 / np.sqrt(near[3, j])
        near[5, j] = max(1.0 - near[3, j], 0.0)
    env.species_start[:] = 0
    for j in range(n):
        env.species_start[species[neighbor[begin + j]] + 1] += 1
    for s in range(1, len(env.species_start)):
        env.species_start[s] += env.species_start[s - 1]
    for r in range(len(tables.radial_coefficients)):
        if tables.needs_radial[species[i], r]:
            c = as_tuple(tables.radial_coefficients[r])
            w, dw = env.w[r], env.dw[r]
            radial_factor(tables.radial_kinds[r], n, c, near[5], w, dw)
    return n


@inner
def radial_symmetry_functions(s, tables, env, values):
    """Add G2 to the features of one atom of species s: ``Σ_j w(R_ij)``."""
    for number in range(tables.g2_start[s], tables.g2_start[s + 1]):
        a, radial, feature = tables.g2[number, 0], tables.g2[number, 1], tables.g2[number, 2]
        total = 0.0
        for j in range(env.species_start[a], env.species_start[a + 1]):
            total += env.w[radial, j]
        values[feature] += total


@inner
def _radial_derivatives(s, tables, env, dE_dG, slots, gradient):
    """Add the derivatives of G2, or of the energy through G2, by the neighbours' vectors."""
    near = env.neighbors
    per_length = 1.0 / tables.cutoff
    for number in range(tables.g2_start[s], tables.g2_start[s + 1]):
        a, radial, feature = tables.g2[number, 0], tables.g2[number, 1], tables.g2[number, 2]
        scale, column = per_length, feature
        if len(dE_dG) > 0:
            scale, column = per_length * dE_dG[feature], 0
        for j in range(env.species_start[a], env.species_start[a + 1]):
            slope = scale * env.dw[radial, j]
            for d in range(3):
                gradient[slots[j], d, column] += slope * near[d, j]


@inner
def angular_symmetry_functions(group, tables, env, values):
    """Add a group of G4 or G5 to one atom's features, taking each pair of neighbours once."""
    a, b, radial, third, first_term, last_term = tables.angular[group]
    kind = tables.radial_kinds[radial] if third else NO_FACTOR
    c = as_tuple(tables.radial_coefficients[radial])
    terms, features = tables.terms, tables.term_features
    row, near, w = env.row, env.neighbors, env.w[radial]
    last = env.species_start[b + 1]
    for chunk in range(env.species_start[b], last, CHUNK):
        chunk_end = min(chunk + CHUNK, last)
        n = load_neighbors(row, chunk, chunk_end, near, w)
        for j in range(env.species_start[a], chunk_end if a == b else env.species_start[a + 1]):
            begin = 0
            if a == b and j >= chunk:  # only k > j: those before lose their weight one by one
                row[WEIGHT + j - chunk] = 0.0
                begin = (j - chunk + 1) // LANES * LANES
            x, y, z, u, inverse = near[0, j], near[1, j], near[2, j], near[3, j], near[4, j]
            triplets(kind, begin, n, x, y, z, u, inverse, c, row)
            for term in range(first_term, last_term):
                gamma, zeta = terms[term, 0], terms[term, 1]
                plus, minus = angular_powers(begin, n, gamma, zeta, row)
                total_plus, total_minus = angular_sums(begin, n, gamma, plus, minus, row)
                scale = w[j] * terms[term, 2]
                if features[term, 0] >= 0:
                    values[features[term, 0]] += scale * total_plus
                if features[term, 1] >= 0:
                    values[features[term, 1]] += scale * total_minus


@inner
def _add_derivative(gradient, slot, column, near, j, scale, dw, w, sums):
    """Add the derivative by the vector of j, given the `angular_derivative_sums` over k.

    Since t = 1 − u, the third side's derivative by its vector is −2 dw/dt times the vector.
    """
    value, along, x, y, z = sums
    across = 2.0 * scale * w
    along = scale * dw * value - across * along
    gradient[slot, 0, column] += along * near[0, j] + across * x
    gradient[slot, 1, column] += along * near[1, j] + across * y
    gradient[slot, 2, column] += along * near[2, j] + across * z


@inner
def _angular_derivatives(group, swap, tables, env, dE_dG, values, slots, gradient):
    """Add the derivatives of a group of G4 or G5 by the neighbours' vectors, and its values.

    Each pair of neighbours is taken in both orders (the second with `swap`, where
    the elements differ): summing for the vector of j alone is faster than scattering to
    that of k. The values come out of the same sums; half of each belongs to each order.
    """
    a, b, radial, third, first_term, last_term = tables.angular[group]
    if swap:
        a, b = b, a
    kind = tables.radial_kinds[radial] if third else NO_FACTOR
    c = as_tuple(tables.radial_coefficients[radial])
    terms, features = tables.terms, tables.term_features
    row, near = env.row, env.neighbors
    w, dw = env.w[radial], env.dw[radial]
    energy = len(dE_dG) > 0
    per_length = 1.0 / tables.cutoff
    last = env.species_start[b + 1]
    for chunk in range(env.species_start[b], last, CHUNK):
        chunk_end = min(chunk + CHUNK, last)
        n = load_neighbors(row, chunk, chunk_end, near, w)
        for j in range(env.species_start[a], env.species_start[a + 1]):
            wj, dwj, inverse, slot = w[j], dw[j], near[4, j], slots[j]
            itself = a == b and chunk <= j < chunk_end
            if itself:
                row[WEIGHT + j - chunk] = 0.0
            triplet_derivatives(
                kind, 0, n, near[0, j], near[1, j], near[2, j], near[3, j], inverse, c, row
            )
            if energy:
                clear_mixture(n, row)
            for term in range(first_term, last_term):
                gamma, zeta, scale = terms[term, 0], terms[term, 1], terms[term, 2]
                f, g = features[term, 0], features[term, 1]
                if energy:
                    plus, minus = angular_powers(0, n, gamma, zeta, row)
                    gp = scale * dE_dG[f] if f >= 0 else 0.0
                    gm = scale * dE_dG[g] if g >= 0 else 0.0
                    add_to_mixture(n, gamma, zeta, plus, minus, gp, gm, row)
                    continue
                if zeta == 1.0:
                    p, m = linear_derivative_sums(n, gamma, row)
                else:
                    plus, minus = angular_powers(0, n, gamma, zeta, row)
                    p, m = angular_derivative_sums(n, gamma, zeta, plus, minus, row)
                if f >= 0:
                    values[f] += 0.5 * scale * wj * p[0]
                    _add_derivative(gradient, slot, f, near, j, per_length * scale, dwj, wj, p)
                if g >= 0:
                    values[g] += 0.5 * scale * wj * m[0]
                    _add_derivative(gradient, slot, g, near, j, per_length * scale, dwj, wj, m)
            if energy:
                sums = mixture_derivative_sums(n, row)
                _add_derivative(gradient, slot, 0, near, j, per_length, dwj, wj, sums)
            if itself:
                row[WEIGHT + j - chunk] = wj


@inner
def add_derivatives(s, tables, env, dE_dG, values, slots, gradient):
    """Add the derivatives of one atom's features by its neighbours' vectors to the gradient.

    Those of neighbour j go to ``gradient[slots[j]]``. Where `dE_dG` is not empty, the
    features are contracted with it: the gradient has the one column of the energy, and no
    values are added.
    """
    _radial_derivatives(s, tables, env, dE_dG, slots, gradient)
    for group in range(tables.angular_start[s], tables.angular_start[s + 1]):
        _angular_derivatives(group, False, tables, env, dE_dG, values, slots, gradient)
        if tables.angular[group, 0] != tables.angular[group, 1]:
            _angular_derivatives(group, True, tables, env, dE_dG, values, slots, gradient)


@inner
def fill_own_derivatives(i, own, pairs, pair, primes):
    """Set the derivatives of atom i's features by its own position; return the next atom's pair.

    Moving all atoms by the same vector changes nothing: it is minus the sum of the
    others, and the atom's own images do not count.
    """
    primes[own] = 0.0
    while pair < len(pairs) and pairs[pair, 1] == i:
        if pair != own:
            for d in range(3):
                for f in range(primes.shape[2]):
                    primes[own, d, f] -= primes[pair, d, f]
        pair += 1
    return pair


@inner
def make_environment(start, tables):
    """Return an environment with room for the neighbours of every centre."""
    most = LANES
    for i in range(len(start) - 1):
        most = max(most, start[i + 1] - start[i])
    return Environment(
        make_row(),
        np.empty((6, most)),
        np.zeros(tables.n_species + 1, np.int64),
        np.empty((len(tables.radial_coefficients), most)),
        np.empty((len(tables.radial_coefficients), most)),
    )


@entry
def add_fingerprints(species, start, neighbor, vectors, squares, tables, values, sources=SOURCES):
    """Add the features of each atom to `values`."""
    env = make_environment(start, tables)
    for i in range(len(start) - 1):
        s = species[i]
        set_centre(i, species, start, neighbor, vectors, squares, tables, env)
        radial_symmetry_functions(s, tables, env, values[i])
        for group in range(tables.angular_start[s], tables.angular_start[s + 1]):
            angular_symmetry_functions(group, tables, env, values[i])


@entry
def add_fingerprint_primes(
    species,
    start,
    neighbor,
    vectors,
    squares,
    tables,
    pairs,
    slots,
    values,
    primes,
    sources=SOURCES,
):
    """Add the features of each atom to `values` and their derivatives to `primes`, both zero."""
    env = make_environment(start, tables)
    no_energy = np.empty(0)
    pair = 0
    for i in range(len(start) - 1):
        s = species[i]
        set_centre(i, species, start, neighbor, vectors, squares, tables, env)
        radial_symmetry_functions(s, tables, env, values[i])
        near = slots[start[i] : start[i + 1]]
        add_derivatives(s, tables, env, no_energy, values[i], near, primes)
        pair = fill_own_derivatives(i, slots[len(neighbor) + i], pairs, pair, primes)


@entry
def add_forces(
    species, start, neighbor, vectors, squares, tables, dE_dG, forces, virial, sources=SOURCES
):
    """Add an energy's forces and its derivative by strain, given its derivative by features."""
    env = make_environment(start, tables)
    gradient = np.empty((env.neighbors.shape[1], 3, 1))
    slots = np.arange(env.neighbors.shape[1])
    no_values = np.empty(0)
    for i in range(len(start) - 1):
        n = set_centre(i, species, start, neighbor, vectors, squares, tables, env)
        gradient[:n] = 0.0
        add_derivatives(species[i], tables, env, dE_dG[i], no_values, slots, gradient)
        for j in range(n):
            near = start[i] + j
            for d in range(3):
                pull = gradient[j, d, 0]
                forces[neighbor[near], d] -= pull
                forces[i, d] += pull
                for e in range(3):
                    virial[d, e] += pull * vectors[near, e]
