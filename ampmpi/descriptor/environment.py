"""The atomic environment of one centre: its neighbours, and the radial factors at each of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .angular import LANES, make_row
from .compiled import fast, inner
from .radial import (
    COSINE,
    FITTED,
    INTEGER_POLYNOMIAL,
    cosine_factor,
    fitted_factor,
    integer_polynomial_factor,
    polynomial_factor,
)


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
        near[4, j] = 1.0 / np.sqrt(near[3, j])
        near[5, j] = max(1.0 - near[3, j], 0.0)
    env.species_start[:] = 0
    for j in range(n):
        env.species_start[species[neighbor[begin + j]] + 1] += 1
    for kind in range(1, len(env.species_start)):
        env.species_start[kind] += env.species_start[kind - 1]
    for r in range(len(tables.radial_coefficients)):
        if tables.needs_radial[s, r]:
            c = as_tuple(tables.radial_coefficients[r])
            w, dw = env.w[r], env.dw[r]
            radial_factor(tables.radial_kinds[r], n, c, near[5], w, dw)
    return n


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


@inner
def add_pull(centre, entry, neighbor, vectors, pull, forces, virial):
    """Add what an energy's derivative by a neighbour's vector does to forces and virial.

    `pull` is that of the neighbour in an entry of the list of `centre`.
    """
    for d in range(3):
        forces[neighbor[entry], d] -= pull[d]
        forces[centre, d] += pull[d]
        for e in range(3):
            virial[d, e] += pull[d] * vectors[entry, e]


@inner
def add_strain(gx, gy, gz, vector, strain):
    """Add what a derivative by a neighbour's vector is by strain, in the order of Voigt."""
    x, y, z = vector
    strain[0] += gx * x
    strain[1] += gy * y
    strain[2] += gz * z
    strain[3] += 0.5 * (gy * z + gz * y)
    strain[4] += 0.5 * (gx * z + gz * x)
    strain[5] += 0.5 * (gx * y + gy * x)
