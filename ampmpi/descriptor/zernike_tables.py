"""The constants of a Zernike descriptor laid out in arrays, as the kernels take them.

The 3D Zernike functions are products of a polynomial in u = ρ² and a solid harmonic ::

    Z_nlm = g_nl(u) S_lm(x, y, z),   g_nl = √(2n+3) P_k^(0, l+1/2)(2u − 1),   k = (n − l)/2

with Jacobi polynomials P_k. S_lm are the *real* solid harmonics, orthonormal on the unit sphere,
m = −l … l: the sum over m of squares, which is all that a feature is made of, is that of the
complex ones. Both have recursions that add what they need and lose no digits, in place of the
sums of binomials with alternating signs by which they are often defined.

References
----------
M. Novotni and R. Klein, Comput.-Aided Des. 36, 1047 (2004), Eqs. 7 and 11;
A. Khorshidi and A. A. Peterson, Comput. Phys. Commun. 207, 310 (2016), Eq. 16;
NIST Digital Library of Mathematical Functions, 18.9.1 and 18.9.2 (Jacobi polynomials) and
14.10.3 (Legendre functions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from .cutoffs import Cutoff
from .radial import choose_radial_factors
from .tables import NOT_AN_ELEMENT

NONE = -1


class ZernikeTables(NamedTuple):
    """Tables of a descriptor. Species are numbered; harmonic (l, m) has number l² + l + m.

    Attributes
    ----------
    species_of : (120,) int64 array
        Species of each atomic number; -1 for those that the descriptor does not know.
    n_species : int
        Number of species.
    cutoff : float
        Rc, Å.
    cutoff_kind, cutoff_coefficients : int, (12,) float array
        How to evaluate the cutoff function; see `radial`.
    weights : (n_species, n_species) float array
        η by the species of the centre and of the neighbour.
    degree, n_features : (n_species,) int64 array
        nmax of each centre, and the number of its features: the first ones of the list below.
    features : (n_features, 4) int64 array
        l of each feature, the features (n − 2, l) and (n − 4, l), or -1, and where its
        2l + 1 moments begin.
    polynomials : (n_features, 3) float array
        a, b, c of g_n = (a u + b) g_(n−2) + c g_(n−4); b alone where n = l.
    harmonics : (n_harmonics, 2) float array
        a, c of S_l = a z S_(l−1) + c u S_(l−2), all of the same m; where |m| = l, a is the
        factor of S_(l−1) with the same |m| − 1, times x and y.
    gradient_start : (n_harmonics + 1,) int64 array
        Rows of the next two that belong to each harmonic.
    gradient_of : (n, 2) int64 array
        Direction, and m + l − 1 of a harmonic of degree l − 1.
    gradient_factors : (n,) float array
        The derivative by that direction is the sum of these times those harmonics.
    """

    species_of: NDArray[np.int64]
    n_species: int
    cutoff: float
    cutoff_kind: int
    cutoff_coefficients: NDArray[np.float64]
    weights: NDArray[np.float64]
    degree: NDArray[np.int64]
    n_features: NDArray[np.int64]
    features: NDArray[np.int64]
    polynomials: NDArray[np.float64]
    harmonics: NDArray[np.float64]
    gradient_start: NDArray[np.int64]
    gradient_of: NDArray[np.int64]
    gradient_factors: NDArray[np.float64]


def degrees_of_features(nmax: int) -> list[tuple[int, int]]:
    """Return n and l of each feature, in Amp's order."""
    return [(n, l) for n in range(nmax + 1) for l in range(n % 2, n + 1, 2)]


def make_tables(
    cutoff: Cutoff, weights: Mapping[str, Mapping[str, float]], degrees: Mapping[str, int]
) -> ZernikeTables:
    """Lay out weights and degrees of each element."""
    elements = sorted(degrees)
    species_of = np.full(120, NOT_AN_ELEMENT, np.int64)
    for species, element in enumerate(elements):
        species_of[atomic_numbers[element]] = species
    largest = max(degrees.values())
    listed = degrees_of_features(largest)
    number = {degree: feature for feature, degree in enumerate(listed)}
    features, polynomials, begin = [], [], 0
    for n, l in listed:
        features.append((l, number.get((n - 2, l), NONE), number.get((n - 4, l), NONE), begin))
        polynomials.append(_polynomial_recursion(n, l))
        begin += 2 * l + 1
    gradients = [_gradient(l, m) for l in range(largest + 1) for m in range(-l, l + 1)]
    rows = [row for gradient in gradients for row in gradient]
    kinds, coefficients = choose_radial_factors(cutoff, np.zeros((1, 2)))
    return ZernikeTables(
        species_of=species_of,
        n_species=len(elements),
        cutoff=cutoff.Rc,
        cutoff_kind=int(kinds[0]),
        cutoff_coefficients=coefficients[0],
        weights=np.array([[weights[a][b] for b in elements] for a in elements]),
        degree=np.array([degrees[element] for element in elements], np.int64),
        n_features=np.array(
            [len(degrees_of_features(degrees[element])) for element in elements], np.int64
        ),
        features=np.array(features, np.int64),
        polynomials=np.array(polynomials),
        harmonics=np.array(
            [_harmonic_recursion(l, m) for l in range(largest + 1) for m in range(-l, l + 1)]
        ),
        gradient_start=np.cumsum([0, *map(len, gradients)], dtype=np.int64),
        gradient_of=np.array([row[:2] for row in rows], np.int64).reshape(-1, 2),
        gradient_factors=np.array([row[2] for row in rows], float),
    )


def _polynomial_recursion(n: int, l: int) -> tuple[float, float, float]:
    """Return a, b, c of g_n = (a u + b) g_(n−2) + c g_(n−4)."""
    k, beta = (n - l) // 2, l + 0.5
    if k == 0:
        return 0.0, math.sqrt(2 * n + 3), 0.0
    ratio = math.sqrt((2 * n + 3) / (2 * n - 1))
    if k == 1:
        return ratio * (2.0 + beta), -ratio * (1.0 + beta), 0.0
    # DLMF 18.9.2 with α = 0, for the argument 2u − 1.
    p = 2 * k + beta
    common = 2 * k * (k + beta) * (p - 2)
    slope = (p - 1) * p * (p - 2) / common
    constant = -(p - 1) * beta**2 / common
    before = -2 * (k - 1) * (k + beta - 1) * p / common
    return (
        ratio * 2.0 * slope,
        ratio * (constant - slope),
        before * math.sqrt((2 * n + 3) / (2 * n - 5)),
    )


def _harmonic_recursion(l: int, m: int) -> tuple[float, float]:
    """Return a and c of S_l = a z S_(l−1) + c u S_(l−2); where |m| = l, the factor of x ± iy."""
    m = abs(m)
    if l == 0:
        return 1.0 / math.sqrt(4.0 * math.pi), 0.0
    if m == l:
        return math.sqrt(3.0) if l == 1 else math.sqrt((2 * l + 1) / (2 * l)), 0.0
    a = math.sqrt((4 * l * l - 1) / (l * l - m * m))
    if m == l - 1:
        return a, 0.0
    c = (2 * l + 1) * ((l - 1) ** 2 - m * m) / ((2 * l - 3) * (l * l - m * m))
    return a, -math.sqrt(c)


def _gradient(l: int, m: int) -> list[tuple[int, int, float]]:
    """Return the gradient of S_lm: directions, and m + l − 1 and factors of S_(l−1)m.

    ∂S/∂z keeps m, and ∂S/∂x ± i∂S/∂y take it to m ± 1.
    """
    if l == 0:
        return []
    size, ratio = abs(m), (2 * l + 1) / (2 * l - 1)
    up = 0.5 * math.sqrt(ratio * (l - size) * (l - size - 1))
    down = 0.5 * math.sqrt(ratio * (l + size) * (l + size - 1))
    rows = [(2, m, math.sqrt(ratio * (l * l - m * m)))]
    if m == 0:
        up *= math.sqrt(2.0)
        rows += [(0, 1, -up), (1, -1, -up)]
    elif m == 1:
        rows += [(0, 2, -up), (0, 0, math.sqrt(2.0) * down), (1, -2, -up)]
    elif m == -1:
        rows += [(0, -2, -up), (1, 2, up), (1, 0, math.sqrt(2.0) * down)]
    elif m > 1:
        rows += [(0, m + 1, -up), (0, m - 1, down), (1, -m - 1, -up), (1, 1 - m, -down)]
    else:
        rows += [(0, m - 1, -up), (0, m + 1, down), (1, size + 1, up), (1, size - 1, down)]
    return [(d, other + l - 1, factor) for d, other, factor in rows if abs(other) < l]
