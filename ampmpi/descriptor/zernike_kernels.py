"""Zernike features of all atoms, and derivatives.

With r_j the vector to neighbour j in units of Rc, u = r², its weight η_j, the cutoff function fc,
and g_nl and S_lm of `zernike_tables`, for an atom ::

    c_nlm = Σ_j h_nl(j) S_lm(r_j),     h_nl(j) = η_j fc(r_j) g_nl(u_j)
    G_nl  = Σ_m c_nlm²
    dG_nl/dr_j = 2 [ σ_nl(j) r_j Σ_m c_nlm S_lm(r_j) + h_nl(j) Σ_m c_nlm ∇S_lm(r_j) ]

where σ_nl is (dh_nl/dr)/r. Everything is a polynomial of x, y and z but for fc: there are no
angles, and nothing is special about neighbours along an axis.

The trick: the gradient of a harmonic of degree l is made of those of degree l − 1, so that
Σ_m c_nlm ∂S_lm is Σ_m b_m S_(l−1)m, where b is found once per atom. h and σ follow the
recursion of g, weights included. The work is proportional to the number of neighbours, and
each loop over them is vector code.

References
----------
A. Khorshidi and A. A. Peterson, Comput. Phys. Commun. 207, 310 (2016), Eqs. 13 to 16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .compiled import SOURCES, entry, fast, inner
from .environment import add_pull, add_strain, as_tuple, radial_factor
from .kernels import fill_own_derivatives
from .neighbors import can_be_searched, find_neighbors

if TYPE_CHECKING:
    pass

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]


class Environment(NamedTuple):
    """The atomic environment of one centre, in arrays that all centres of a call share.

    Attributes
    ----------
    neighbors : (5, most_neighbors) float array
        x, y, z and u = R² of each neighbour in units of Rc, and t = 1 − u, at least 0.
    weight, weight_slope : (most_neighbors,) float array
        η fc of each neighbour, and its derivative by R, divided by R.
    harmonics : (n_harmonics, most_neighbors) float array
        S_lm of each neighbour.
    h, slope : (n_features, most_neighbors) float array
        h_nl and σ_nl of each neighbour.
    moments : (n_moments,) float array
        c_nlm.
    lowered : (3, 2·nmax) float array
        By direction, the factors b of S_(l−1)m in Σ_m c_nlm ∇S_lm.
    along, across : (most_neighbors,) and (3, most_neighbors) float array
        2 σ Σ_m c_nlm S_lm, and 2 h Σ_m c_nlm ∇S_lm: the former times r, and the latter.
    """

    neighbors: FloatArray
    weight: FloatArray
    weight_slope: FloatArray
    harmonics: FloatArray
    h: FloatArray
    slope: FloatArray
    moments: FloatArray
    lowered: FloatArray
    along: FloatArray
    across: FloatArray


@inner
def make_environment(start, tables):
    """Return an environment with room for the neighbours of every centre."""
    most = 1
    for i in range(len(start) - 1):
        most = max(most, start[i + 1] - start[i])
    n_features = len(tables.features)
    last = n_features - 1
    n_moments = tables.features[last, 3] + 2 * tables.features[last, 0] + 1
    return Environment(
        np.empty((5, most)),
        np.empty(most),
        np.empty(most),
        np.empty((len(tables.harmonics), most)),
        np.empty((n_features, most)),
        np.empty((n_features, most)),
        np.empty(n_moments),
        np.empty((3, 2 * tables.features[last, 0] + 1)),
        np.empty(most),
        np.empty((3, most)),
    )


@inner
def set_centre(i, s, species, start, neighbor, vectors, squares, tables, env):
    """Make the i-th atom of the list, of species s, the centre; return how many neighbours."""
    begin, n = start[i], start[i + 1] - start[i]
    scale = 1.0 / tables.cutoff
    near = env.neighbors
    for j in range(n):
        near[0, j] = scale * vectors[begin + j, 0]
        near[1, j] = scale * vectors[begin + j, 1]
        near[2, j] = scale * vectors[begin + j, 2]
        near[3, j] = scale * scale * squares[begin + j]
        near[4, j] = max(1.0 - near[3, j], 0.0)
    c = as_tuple(tables.cutoff_coefficients)
    radial_factor(tables.cutoff_kind, n, c, near[4], env.weight, env.weight_slope)
    for j in range(n):
        eta = tables.weights[s, species[neighbor[begin + j]]]
        env.weight[j] *= eta
        env.weight_slope[j] *= eta
    solid_harmonics(tables.degree[s], n, near, tables.harmonics, env.harmonics)
    return n


@fast
def solid_harmonics(degree, n, near, recursion, S):
    """Fill the real solid harmonics of n neighbours, up to a degree."""
    x, y, z, u = near[0], near[1], near[2], near[3]
    for j in range(n):
        S[0, j] = recursion[0, 0]
    for l in range(1, degree + 1):
        middle, below, second = l * l + l, l * l - l, (l - 1) * (l - 2)
        for m in range(1 - l, l):
            a, c = recursion[middle + m, 0], recursion[middle + m, 1]
            s, s1 = S[middle + m], S[below + m]
            if abs(m) < l - 1:
                s2 = S[second + m]
                for j in range(n):
                    s[j] = a * z[j] * s1[j] + c * u[j] * s2[j]
            else:
                for j in range(n):
                    s[j] = a * z[j] * s1[j]
        a = recursion[middle + l, 0]
        cosine, sine = S[middle + l], S[middle - l]
        if l == 1:
            for j in range(n):
                cosine[j] = a * x[j] * S[0, j]
                sine[j] = a * y[j] * S[0, j]
        else:
            cosine1, sine1 = S[below + l - 1], S[below - l + 1]
            for j in range(n):
                cosine[j] = a * (x[j] * cosine1[j] - y[j] * sine1[j])
                sine[j] = a * (y[j] * cosine1[j] + x[j] * sine1[j])


@fast
def set_polynomial(f, n, tables, env):
    """Fill h and σ of feature f; those of the same l and smaller n are there."""
    a, b, c = tables.polynomials[f, 0], tables.polynomials[f, 1], tables.polynomials[f, 2]
    one, two = tables.features[f, 1], tables.features[f, 2]
    u, h, slope = env.neighbors[3], env.h[f], env.slope[f]
    if one < 0:
        for j in range(n):
            h[j] = b * env.weight[j]
            slope[j] = b * env.weight_slope[j]
        return
    h1, slope1 = env.h[one], env.slope[one]
    if two < 0:
        for j in range(n):
            h[j] = (a * u[j] + b) * h1[j]
            slope[j] = (a * u[j] + b) * slope1[j] + 2.0 * a * h1[j]
        return
    h2, slope2 = env.h[two], env.slope[two]
    for j in range(n):
        h[j] = (a * u[j] + b) * h1[j] + c * h2[j]
        slope[j] = (a * u[j] + b) * slope1[j] + 2.0 * a * h1[j] + c * slope2[j]


@fast
def set_moments(f, n, tables, env):
    """Fill c_nlm of feature f; return the sum of their squares, the feature."""
    l, begin = tables.features[f, 0], tables.features[f, 3]
    h = env.h[f]
    value = 0.0
    for m in range(2 * l + 1):
        s = env.harmonics[l * l + m]
        c = 0.0
        for j in range(n):
            c += h[j] * s[j]
        env.moments[begin + m] = c
        value += c * c
    return value


@inner
def zernike_features(s, n, tables, env, values):
    """Set the features of one atom of species s, and leave its moments in the environment."""
    for f in range(tables.n_features[s]):
        set_polynomial(f, n, tables, env)
        values[f] = set_moments(f, n, tables, env)


@fast
def lower(f, tables, env):
    """Fill the factors of the harmonics of degree l − 1 that the gradient of feature f has."""
    l, begin = tables.features[f, 0], tables.features[f, 3]
    env.lowered[:] = 0.0
    for m in range(2 * l + 1):
        c = env.moments[begin + m]
        lm = l * l + m
        for row in range(tables.gradient_start[lm], tables.gradient_start[lm + 1]):
            d, other = tables.gradient_of[row, 0], tables.gradient_of[row, 1]
            env.lowered[d, other] += tables.gradient_factors[row] * c


@fast
def add_gradient(f, factor, n, tables, env):
    """Add the derivatives of feature f, times a factor, to `along` and `across`."""
    l, begin = tables.features[f, 0], tables.features[f, 3]
    lower(f, tables, env)
    h, slope, along = env.h[f], env.slope[f], env.along
    across_x, across_y, across_z = env.across[0], env.across[1], env.across[2]
    for m in range(2 * l + 1):
        c = 2.0 * factor * env.moments[begin + m]
        s = env.harmonics[l * l + m]
        for j in range(n):
            along[j] += c * slope[j] * s[j]
    for m in range(2 * l - 1):
        bx = 2.0 * factor * env.lowered[0, m]
        by = 2.0 * factor * env.lowered[1, m]
        bz = 2.0 * factor * env.lowered[2, m]
        s = env.harmonics[(l - 1) * (l - 1) + m]
        for j in range(n):
            hs = h[j] * s[j]
            across_x[j] += bx * hs
            across_y[j] += by * hs
            across_z[j] += bz * hs


@inner
def clear_gradient(n, env):
    """Set `along` and `across` of n neighbours to zero."""
    env.along[:n] = 0.0
    env.across[:, :n] = 0.0


@inner
def gradient_at(j, env):
    """Return the gradient by the vector of neighbour j."""
    near, along, across = env.neighbors, env.along[j], env.across
    return (
        along * near[0, j] + across[0, j],
        along * near[1, j] + across[1, j],
        along * near[2, j] + across[2, j],
    )


@entry
def add_fingerprints(
    first, species, start, neighbor, vectors, squares, tables, values, sources=SOURCES
):
    """Set the features of the atoms from `first` on, whose neighbours are listed, in `values`."""
    env = make_environment(start, tables)
    for i in range(len(start) - 1):
        s = species[first + i]
        n = set_centre(i, s, species, start, neighbor, vectors, squares, tables, env)
        zernike_features(s, n, tables, env, values[i])


@entry
def fingerprint_image(
    positions, cell, periodic, cutoff, species, n_species, tables, values, sources=SOURCES
):
    """Set the features of each atom of an image in `values`; return the smallest squared distance.

    It is NaN for an image that cannot be used.
    """
    if not can_be_searched(positions, cell, species):
        return np.nan
    start, neighbor, vectors, squares, closest = find_neighbors(
        positions, cell, periodic, cutoff, species, n_species
    )
    env = make_environment(start, tables)
    for i in range(len(start) - 1):
        s = species[i]
        n = set_centre(i, s, species, start, neighbor, vectors, squares, tables, env)
        zernike_features(s, n, tables, env, values[i])
    return closest[2]


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
    """Set the features of each atom in `values` and add their derivatives to `primes`, zero."""
    env = make_environment(start, tables)
    per_length = 1.0 / tables.cutoff
    pair = 0
    for i in range(len(start) - 1):
        s = species[i]
        n = set_centre(i, s, species, start, neighbor, vectors, squares, tables, env)
        zernike_features(s, n, tables, env, values[i])
        for f in range(tables.n_features[s]):
            clear_gradient(n, env)
            add_gradient(f, per_length, n, tables, env)
            for j in range(n):
                slot = slots[start[i] + j]
                gx, gy, gz = gradient_at(j, env)
                primes[slot, 0, f] += gx
                primes[slot, 1, f] += gy
                primes[slot, 2, f] += gz
        pair = fill_own_derivatives(i, slots[len(neighbor) + i], pairs, pair, primes)


@entry
def add_forces(
    first, species, start, neighbor, vectors, squares, tables, dE_dG, forces, virial,
    sources=SOURCES,
):  # fmt: skip
    """Add an energy's forces and its derivative by strain, given its derivative by features."""
    env = make_environment(start, tables)
    per_length = 1.0 / tables.cutoff
    values = np.empty(len(tables.features))
    for i in range(len(start) - 1):
        s = species[first + i]
        n = set_centre(i, s, species, start, neighbor, vectors, squares, tables, env)
        zernike_features(s, n, tables, env, values)
        clear_gradient(n, env)
        for f in range(tables.n_features[s]):
            add_gradient(f, per_length * dE_dG[i, f], n, tables, env)
        for j in range(n):
            pull = gradient_at(j, env)
            add_pull(first + i, start[i] + j, neighbor, vectors, pull, forces, virial)


@entry
def add_strain_derivatives(
    species, start, neighbor, vectors, squares, tables, strains, sources=SOURCES
):
    """Add the derivatives of each atom's features by strain, in the order of Voigt."""
    env = make_environment(start, tables)
    per_length = 1.0 / tables.cutoff
    values = np.empty(len(tables.features))
    for i in range(len(start) - 1):
        s = species[i]
        n = set_centre(i, s, species, start, neighbor, vectors, squares, tables, env)
        zernike_features(s, n, tables, env, values)
        for f in range(tables.n_features[s]):
            clear_gradient(n, env)
            add_gradient(f, per_length, n, tables, env)
            for j in range(n):
                gx, gy, gz = gradient_at(j, env)
                add_strain(gx, gy, gz, vectors[start[i] + j], strains[i, :, f])
