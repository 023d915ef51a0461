"""Behler and Parrinello's symmetry functions G2, G4 and G5 of all atoms, and derivatives.

With radial factors ``w(R) = fc(R)·exp(−η(R − Rs)²/Rc²)`` (`radial`), for an atom i ::

    G2 = Σ_j w(R_ij)
    G4 = 2^(1−ζ) Σ_{j<k} (1 + γ cos θ_jik)^ζ w(R_ij) w(R_ik) w(R_jk)
    G5 = 2^(1−ζ) Σ_{j<k} (1 + γ cos θ_jik)^ζ w(R_ij) w(R_ik)

over neighbours of one element, or pairs of neighbours of two. `radial_symmetry_functions`
is G2, `angular_symmetry_functions` G4 and G5; their derivatives stand next to them.

The trick: each radial factor is evaluated once per neighbour, whichever functions share
it, and in G4 and G5 one neighbour j meets all k as a row of vector code (`angular`).
Forces never need the derivatives of single functions (`forces`). ``docs/theory.md`` has the
formulas of the derivatives.

References
----------
J. Behler and M. Parrinello, Phys. Rev. Lett. 98, 146401 (2007);
J. Behler, J. Chem. Phys. 134, 074106 (2011), Eqs. 6, 8 and 9;
A. Khorshidi and A. A. Peterson, Comput. Phys. Commun. 207, 310 (2016), for the scaling
by Rc² and 2^(1−ζ) with each pair once.
"""

from __future__ import annotations

import numpy as np

from .angular import (
    CHUNK,
    FLAT,
    LANES,
    WEIGHT,
    angular_derivative_sums,
    angular_powers,
    angular_sums,
    linear_derivative_sums,
    load_neighbors,
    triplet_derivatives,
    triplets,
)
from .compiled import SOURCES, entry, inner
from .environment import add_pull, add_strain, as_tuple, make_environment, set_centre
from .forces import HIGHEST_DEGREE, energy_gradient
from .neighbors import can_be_searched, find_neighbors
from .radial import NO_FACTOR
from .tables import unpack


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
def _radial_derivatives(s, tables, env, slots, primes):
    """Add the derivatives of G2 by the neighbours' vectors."""
    near = env.neighbors
    per_length = 1.0 / tables.cutoff
    for number in range(tables.g2_start[s], tables.g2_start[s + 1]):
        a, radial, feature = tables.g2[number, 0], tables.g2[number, 1], tables.g2[number, 2]
        for j in range(env.species_start[a], env.species_start[a + 1]):
            slope = per_length * env.dw[radial, j]
            for d in range(3):
                primes[slots[j], d, feature] += slope * near[d, j]


@inner
def angular_symmetry_functions(group, tables, env, values):
    """Add a group of G4 or G5 to one atom's features, taking each pair of neighbours once."""
    a, b, radial, third, first_term, last_term = tables.angular[group]
    kind = tables.radial_kinds[radial] if third else NO_FACTOR
    c = as_tuple(tables.radial_coefficients[radial])
    row, near, w = env.row, env.neighbors, env.w[radial]
    last = env.species_start[b + 1]
    filled = 0
    for chunk in range(env.species_start[b], last, CHUNK):
        chunk_end = min(chunk + CHUNK, last)
        n = load_neighbors(row, chunk, chunk_end, near, w)
        for j in range(env.species_start[a], chunk_end if a == b else env.species_start[a + 1]):
            begin = 0
            if a == b and j >= chunk:  # only k > j: those before lose their weight one by one
                row[WEIGHT + j - chunk] = 0.0
                begin = (j - chunk + 1) // LANES * LANES
            x, y, z, u, inverse = near[0, j], near[1, j], near[2, j], near[3, j], near[4, j]
            triplets(kind, begin, n, filled, w[j], x, y, z, u, inverse, c, row)
            filled += n - begin
            if filled >= FLAT:
                _add_terms(filled, first_term, last_term, tables, row, values)
                filled = 0
    _add_terms(filled, first_term, last_term, tables, row, values)


@inner
def _add_terms(filled, first_term, last_term, tables, row, values):
    """Add the sums over so many triplets to the features of a group."""
    terms, features = tables.terms, tables.term_features
    for term in range(first_term, last_term):
        plus, minus = angular_sums(0, filled, terms[term, 0], terms[term, 1], row)
        if features[term, 0] >= 0:
            values[features[term, 0]] += terms[term, 2] * plus
        if features[term, 1] >= 0:
            values[features[term, 1]] += terms[term, 2] * minus


@inner
def _add_derivative(primes, slot, feature, near, j, scale, dw, w, sums):
    """Add the derivative by the vector of j, given the `angular_derivative_sums` over k.

    Since t = 1 − u, the third side's derivative by its vector is −2 dw/dt times the vector.
    """
    value, along, x, y, z = sums
    across = 2.0 * scale * w
    along = scale * dw * value - across * along
    primes[slot, 0, feature] += along * near[0, j] + across * x
    primes[slot, 1, feature] += along * near[1, j] + across * y
    primes[slot, 2, feature] += along * near[2, j] + across * z


@inner
def _angular_derivatives(group, swap, tables, env, values, slots, primes):
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
            for term in range(first_term, last_term):
                gamma, zeta, scale = terms[term, 0], terms[term, 1], terms[term, 2]
                f, g = features[term, 0], features[term, 1]
                if zeta == 1.0:
                    p, m = linear_derivative_sums(n, gamma, row)
                else:
                    plus, minus = angular_powers(0, n, gamma, zeta, row)
                    p, m = angular_derivative_sums(n, gamma, zeta, plus, minus, row)
                if f >= 0:
                    values[f] += 0.5 * scale * wj * p[0]
                    _add_derivative(primes, slot, f, near, j, per_length * scale, dwj, wj, p)
                if g >= 0:
                    values[g] += 0.5 * scale * wj * m[0]
                    _add_derivative(primes, slot, g, near, j, per_length * scale, dwj, wj, m)
            if itself:
                row[WEIGHT + j - chunk] = wj


@inner
def add_derivatives(s, tables, env, values, slots, primes):
    """Add the derivatives of one atom's features by its neighbours' vectors, and its G4 and G5.

    Those of neighbour j go to ``primes[slots[j]]``.
    """
    _radial_derivatives(s, tables, env, slots, primes)
    for group in range(tables.angular_start[s], tables.angular_start[s + 1]):
        _angular_derivatives(group, False, tables, env, values, slots, primes)
        if tables.angular[group, 0] != tables.angular[group, 1]:
            _angular_derivatives(group, True, tables, env, values, slots, primes)


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
def symmetry_functions(i, s, start, neighbor, vectors, squares, species, tables, env, values):
    """Add the features of the atom whose neighbours are the i-th of the list, of species s."""
    set_centre(i, s, species, start, neighbor, vectors, squares, tables, env)
    radial_symmetry_functions(s, tables, env, values)
    for group in range(tables.angular_start[s], tables.angular_start[s + 1]):
        angular_symmetry_functions(group, tables, env, values)


@entry
def add_fingerprints(
    first, species, start, neighbor, vectors, squares, packed, values, sources=SOURCES
):
    """Add the features of the atoms from `first` on, whose neighbours are listed, to `values`."""
    tables = unpack(packed)
    env = make_environment(start, tables)
    for i in range(len(start) - 1):
        s = species[first + i]
        symmetry_functions(i, s, start, neighbor, vectors, squares, species, tables, env, values[i])


@entry
def fingerprint_image(
    positions, cell, periodic, cutoff, species, n_species, packed, values, sources=SOURCES
):
    """Add the features of each atom of an image to `values`; return the smallest squared distance.

    It is NaN for an image that cannot be used.
    """
    if not can_be_searched(positions, cell, species):
        return np.nan
    start, neighbor, vectors, squares, closest = find_neighbors(
        positions, cell, periodic, cutoff, species, n_species
    )
    tables = unpack(packed)
    env = make_environment(start, tables)
    for i in range(len(start) - 1):
        s = species[i]
        symmetry_functions(i, s, start, neighbor, vectors, squares, species, tables, env, values[i])
    return closest[2]


@entry
def add_fingerprint_primes(
    species,
    start,
    neighbor,
    vectors,
    squares,
    packed,
    pairs,
    slots,
    values,
    primes,
    sources=SOURCES,
):
    """Add the features of each atom to `values` and their derivatives to `primes`, both zero."""
    tables = unpack(packed)
    env = make_environment(start, tables)
    pair = 0
    for i in range(len(start) - 1):
        s = species[i]
        set_centre(i, s, species, start, neighbor, vectors, squares, tables, env)
        radial_symmetry_functions(s, tables, env, values[i])
        near = slots[start[i] : start[i + 1]]
        add_derivatives(s, tables, env, values[i], near, primes)
        pair = fill_own_derivatives(i, slots[len(neighbor) + i], pairs, pair, primes)


@entry
def add_forces(
    first, species, start, neighbor, vectors, squares, packed, dE_dG, forces, virial,
    sources=SOURCES,
):  # fmt: skip
    """Add an energy's forces and its derivative by strain, given its derivative by features."""
    tables = unpack(packed)
    env = make_environment(start, tables)
    gradient = np.empty((3, env.neighbors.shape[1]))
    polynomial = np.empty(HIGHEST_DEGREE + 1)
    for i in range(len(start) - 1):
        s = species[first + i]
        n = set_centre(i, s, species, start, neighbor, vectors, squares, tables, env)
        energy_gradient(s, n, tables, env, dE_dG[i], polynomial, gradient)
        for j in range(n):
            pull = (gradient[0, j], gradient[1, j], gradient[2, j])
            add_pull(first + i, start[i] + j, neighbor, vectors, pull, forces, virial)


@entry
def add_strain_derivatives(
    species, start, neighbor, vectors, squares, packed, strains, sources=SOURCES
):
    """Add the derivatives of each atom's features by strain, in the order of Voigt."""
    tables = unpack(packed)
    env = make_environment(start, tables)
    gradient = np.empty((env.neighbors.shape[1], 3, strains.shape[2]))
    slots = np.arange(env.neighbors.shape[1])
    values = np.empty(strains.shape[2])
    for i in range(len(start) - 1):
        s = species[i]
        n = set_centre(i, s, species, start, neighbor, vectors, squares, tables, env)
        gradient[:n] = 0.0
        add_derivatives(s, tables, env, values, slots, gradient)
        for j in range(n):
            for f in range(strains.shape[2]):
                add_strain(gradient[j, 0, f], gradient[j, 1, f], gradient[j, 2, f],
                           vectors[start[i] + j], strains[i, :, f])  # fmt: skip
