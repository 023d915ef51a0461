"""Forces of an energy through symmetry functions, given its derivatives g = dE/dG.

The energy of a centre is, as far as forces go, one function of its neighbours: with A the sum
of the angular factors of a group (`tables`), weighted with g ::

    E = Σ_j g w(R_j)  +  Σ_{j<k} A(cos θ) w(R_j) w(R_k) w(R_jk),     A = Σ g 2^(1−ζ) (1 + γ cos θ)^ζ

The trick: with whole-numbered ζ, A is one polynomial of cos θ whatever the number of functions,
and its coefficients are found once per centre. Each pair of neighbours is taken once: with
w_jk = w(R_jk), s its derivative by t = 1 − R_jk², lengths in units of Rc, and the derivative of
w(R_j) by the vector of j written w'_j r_j ::

    X   = w_j w_k (2 A s + A' w_jk/(R_j R_k))
    D_j = w'_j w_k A w_jk − w_j w_k (2 A s + A' w_jk cos θ/R_j²)

    dE/dr_j = D_j r_j + X r_k,     dE/dr_k = D_k r_k + X r_j

The sums for j stay in registers, and those for k are arrays along the row: WEIGHT_SLOPE holds
w'_k, ALONG collects D_k, and ACROSS_X, _Y, _Z collect X r_j. MIXTURE and MIXTURE_SLOPE hold A
and A'.

References
----------
J. Behler, J. Chem. Phys. 134, 074106 (2011), Eqs. 6, 8 and 9.
"""

from __future__ import annotations

from .angular import (
    ACROSS_X,
    ACROSS_Y,
    ACROSS_Z,
    ALONG,
    CHUNK,
    COS,
    INVERSE,
    LANES,
    MASK,
    MIXTURE,
    MIXTURE_SLOPE,
    PRODUCT,
    PRODUCT_SLOPE,
    WEIGHT,
    WEIGHT_SLOPE,
    X,
    Y,
    Z,
    angular_powers,
    cosine_and_third_side,
    load_neighbors,
)
from .compiled import fast, inner
from .environment import as_tuple
from .radial import (
    COSINE,
    FITTED,
    INTEGER_POLYNOMIAL,
    NO_FACTOR,
    cosine_factor,
    fitted_factor,
    integer_polynomial_factor,
    no_factor,
    polynomial_factor,
)

HIGHEST_DEGREE = 16
"""The largest ζ of a polynomial; functions with others are summed one by one."""

NO_POLYNOMIAL = -1


def _make_loop(factor):
    """Return the loop that evaluates cosines and third sides, with the latter's factor inlined."""

    @fast
    def fill(begin, end, x, y, z, u, inverse, c, row):
        begin &= MASK
        for lane in range((end - begin) & MASK):
            k = begin + lane
            cos_theta, t = cosine_and_third_side(k, x, y, z, u, inverse, row)
            value, slope = factor(t, c)
            row[COS + k] = cos_theta
            row[PRODUCT + k] = value
            row[PRODUCT_SLOPE + k] = slope

    return fill


_fitted_sides = _make_loop(fitted_factor)
_no_factor_sides = _make_loop(no_factor)
_cosine_sides = _make_loop(cosine_factor)
_integer_polynomial_sides = _make_loop(integer_polynomial_factor)
_polynomial_sides = _make_loop(polynomial_factor)


@fast
def third_sides(kind, begin, end, x, y, z, u, inverse, c, row):
    """Fill COS, and w_jk and its slope in PRODUCT and PRODUCT_SLOPE."""
    if kind == FITTED:
        _fitted_sides(begin, end, x, y, z, u, inverse, c, row)
    elif kind == NO_FACTOR:
        _no_factor_sides(begin, end, x, y, z, u, inverse, c, row)
    elif kind == COSINE:
        _cosine_sides(begin, end, x, y, z, u, inverse, c, row)
    elif kind == INTEGER_POLYNOMIAL:
        _integer_polynomial_sides(begin, end, x, y, z, u, inverse, c, row)
    else:
        _polynomial_sides(begin, end, x, y, z, u, inverse, c, row)


@inner
def _as_tuple(p):
    """Return the coefficients of a polynomial as scalars."""
    return (p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8],
            p[9], p[10], p[11], p[12], p[13], p[14], p[15], p[16])  # fmt: skip


def _make_horner(degree):
    """Return the loop that evaluates a polynomial of this degree and its slope, unrolled."""

    @fast
    def highest(c, p):
        return p[degree], 0.0

    def make_step(above, power):
        @fast
        def step(c, p):
            value, slope = above(c, p)
            return value * c + p[power], slope * c + value

        return step

    polynomial = highest
    for power in range(degree - 1, -1, -1):
        polynomial = make_step(polynomial, power)

    @fast
    def fill(begin, end, coefficients, row):
        begin &= MASK
        p = _as_tuple(coefficients)
        for lane in range((end - begin) & MASK):
            k = begin + lane
            value, slope = polynomial(row[COS + k], p)
            row[MIXTURE + k] = value
            row[MIXTURE_SLOPE + k] = slope

    return fill


_degree_1, _degree_2, _degree_4 = _make_horner(1), _make_horner(2), _make_horner(4)
_degree_8, _degree_16 = _make_horner(8), _make_horner(HIGHEST_DEGREE)


@fast
def _fill_mixture(degree, begin, end, coefficients, row):
    """Fill MIXTURE and MIXTURE_SLOPE with a polynomial of cos θ; coefficients above are zero."""
    if degree <= 1:
        _degree_1(begin, end, coefficients, row)
    elif degree <= 2:
        _degree_2(begin, end, coefficients, row)
    elif degree <= 4:
        _degree_4(begin, end, coefficients, row)
    elif degree <= 8:
        _degree_8(begin, end, coefficients, row)
    else:
        _degree_16(begin, end, coefficients, row)


@inner
def _make_polynomial(first_term, last_term, tables, dE_dG, coefficients):
    """Fill the coefficients of A; return its degree, `NO_POLYNOMIAL` where it is none."""
    coefficients[:] = 0.0
    degree = 0
    for term in range(first_term, last_term):
        gamma, zeta, scale = tables.terms[term, 0], tables.terms[term, 1], tables.terms[term, 2]
        f, g = tables.term_features[term, 0], tables.term_features[term, 1]
        if zeta > HIGHEST_DEGREE or zeta != int(zeta):
            return NO_POLYNOMIAL
        highest = int(zeta)
        degree = max(degree, highest)
        plus = scale * dE_dG[f] if f >= 0 else 0.0
        minus = scale * dE_dG[g] if g >= 0 else 0.0
        binomial = 1.0  # times γ to its power
        for power in range(highest + 1):
            coefficients[power] += binomial * (plus + minus if power % 2 == 0 else plus - minus)
            binomial *= gamma * (highest - power) / (power + 1)
    return degree


@fast
def _clear_mixture(begin, end, row):
    for k in range(begin & MASK, end & MASK):
        row[MIXTURE + k] = 0.0
        row[MIXTURE_SLOPE + k] = 0.0


@fast
def _add_to_mixture(begin, end, gamma, zeta, plus, minus, gp, gm, row):
    """Add the angular factors of two functions, weighted with `gp` and `gm`, and their slopes."""
    begin &= MASK
    plus &= MASK
    minus &= MASK
    for lane in range((end - begin) & MASK):
        k = begin + lane
        g = gamma * row[COS + k]
        p, m = gp * row[plus + k], gm * row[minus + k]
        row[MIXTURE + k] += p * (1.0 + g) + m * (1.0 - g)
        row[MIXTURE_SLOPE + k] += gamma * zeta * (p - m)


@inner
def _sum_mixture(begin, end, first_term, last_term, tables, dE_dG, row):
    """Fill MIXTURE and MIXTURE_SLOPE function by function."""
    _clear_mixture(begin, end, row)
    for term in range(first_term, last_term):
        gamma, zeta, scale = tables.terms[term, 0], tables.terms[term, 1], tables.terms[term, 2]
        f, g = tables.term_features[term, 0], tables.term_features[term, 1]
        plus, minus = angular_powers(begin, end, gamma, zeta, row)
        gp = scale * dE_dG[f] if f >= 0 else 0.0
        gm = scale * dE_dG[g] if g >= 0 else 0.0
        _add_to_mixture(begin, end, gamma, zeta, plus, minus, gp, gm, row)


@fast
def _pair_sums(begin, end, x, y, z, inverse, wj, row):
    """Add what neighbour j does to each k; return the sums that make what all k do to j."""
    begin &= MASK
    value = along = across_x = across_y = across_z = 0.0
    jx, jy, jz = wj * x, wj * y, wj * z
    for lane in range((end - begin) & MASK):
        k = begin + lane
        A, slope, wk, inverse_k = (
            row[MIXTURE + k],
            row[MIXTURE_SLOPE + k],
            row[WEIGHT + k],
            row[INVERSE + k],
        )
        energy = A * row[PRODUCT + k]
        side = 2.0 * (A * row[PRODUCT_SLOPE + k])
        turn = slope * row[PRODUCT + k]
        turn_along = turn * row[COS + k]
        across = wk * (side + turn * (inverse * inverse_k))
        value += wk * energy
        along += wk * (side + turn_along * (inverse * inverse))
        across_x += across * row[X + k]
        across_y += across * row[Y + k]
        across_z += across * row[Z + k]
        row[ACROSS_X + k] += across * jx
        row[ACROSS_Y + k] += across * jy
        row[ACROSS_Z + k] += across * jz
        row[ALONG + k] += wj * (
            row[WEIGHT_SLOPE + k] * energy - wk * (side + turn_along * (inverse_k * inverse_k))
        )
    return value, along, across_x, across_y, across_z


@fast
def _begin_row(chunk, chunk_end, n, slopes, row):
    for k in range(n & MASK):
        row[ALONG + k] = 0.0
        row[ACROSS_X + k] = 0.0
        row[ACROSS_Y + k] = 0.0
        row[ACROSS_Z + k] = 0.0
        row[WEIGHT_SLOPE + k] = 0.0
    for k in range(chunk_end - chunk):
        row[WEIGHT_SLOPE + k] = slopes[chunk + k]


@fast
def _end_row(chunk, chunk_end, near, row, gradient):
    for k in range(chunk_end - chunk):
        m = chunk + k
        along = row[ALONG + k]
        gradient[0, m] += along * near[0, m] + row[ACROSS_X + k]
        gradient[1, m] += along * near[1, m] + row[ACROSS_Y + k]
        gradient[2, m] += along * near[2, m] + row[ACROSS_Z + k]


@inner
def _angular_gradient(group, tables, env, dE_dG, coefficients, gradient):
    """Add the derivative through a group of G4 or G5, taking each pair of neighbours once."""
    a, b, radial, third, first_term, last_term = tables.angular[group]
    kind = tables.radial_kinds[radial] if third else NO_FACTOR
    c = as_tuple(tables.radial_coefficients[radial])
    degree = _make_polynomial(first_term, last_term, tables, dE_dG, coefficients)
    row, near, w, dw = env.row, env.neighbors, env.w[radial], env.dw[radial]
    last = env.species_start[b + 1]
    for chunk in range(env.species_start[b], last, CHUNK):
        chunk_end = min(chunk + CHUNK, last)
        n = load_neighbors(row, chunk, chunk_end, near, w)
        _begin_row(chunk, chunk_end, n, dw, row)
        for j in range(env.species_start[a], chunk_end if a == b else env.species_start[a + 1]):
            begin = 0
            if a == b and j >= chunk:  # only k > j: those before lose their weight one by one
                row[WEIGHT + j - chunk] = 0.0
                row[WEIGHT_SLOPE + j - chunk] = 0.0
                begin = (j - chunk + 1) // LANES * LANES
            x, y, z, u, inverse = near[0, j], near[1, j], near[2, j], near[3, j], near[4, j]
            third_sides(kind, begin, n, x, y, z, u, inverse, c, row)
            if degree == NO_POLYNOMIAL:
                _sum_mixture(begin, n, first_term, last_term, tables, dE_dG, row)
            else:
                _fill_mixture(degree, begin, n, coefficients, row)
            value, along, across_x, across_y, across_z = _pair_sums(
                begin, n, x, y, z, inverse, w[j], row
            )
            along = dw[j] * value - w[j] * along
            gradient[0, j] += along * x + w[j] * across_x
            gradient[1, j] += along * y + w[j] * across_y
            gradient[2, j] += along * z + w[j] * across_z
        _end_row(chunk, chunk_end, near, row, gradient)


@inner
def energy_gradient(s, n, tables, env, dE_dG, coefficients, gradient):
    """Fill the derivative of the energy of a centre of species s by its n neighbours' vectors.

    Parameters
    ----------
    dE_dG : (max_features,) float array, eV
        Derivatives of the energy by the centre's features.
    coefficients : (HIGHEST_DEGREE + 1,) float array
        Overwritten.
    gradient : (3, most_neighbors) float array, eV/Å
        Its first n columns are written.
    """
    near = env.neighbors
    gradient[:, :n] = 0.0
    for number in range(tables.g2_start[s], tables.g2_start[s + 1]):
        a, radial, feature = tables.g2[number, 0], tables.g2[number, 1], tables.g2[number, 2]
        weight, dw = dE_dG[feature], env.dw[radial]
        for j in range(env.species_start[a], env.species_start[a + 1]):
            gradient[0, j] += weight * dw[j]
    for j in range(n):
        slope = gradient[0, j]
        gradient[0, j] = slope * near[0, j]
        gradient[1, j] = slope * near[1, j]
        gradient[2, j] = slope * near[2, j]
    for group in range(tables.angular_start[s], tables.angular_start[s + 1]):
        _angular_gradient(group, tables, env, dE_dG, coefficients, gradient)
    for d in range(3):
        for j in range(n):
            gradient[d, j] *= 1.0 / tables.cutoff
