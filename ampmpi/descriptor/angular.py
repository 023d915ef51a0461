"""Angular part of G4 and G5: one neighbour j against a row of neighbours k.

With w the radial factors (`radial`) and θ the angle at the centre between j and k ::

    G4 = 2^(1−ζ) Σ_{j<k} (1 + γ cos θ)^ζ w(R_j) w(R_k) w(R_jk)
    G5 = 2^(1−ζ) Σ_{j<k} (1 + γ cos θ)^ζ w(R_j) w(R_k)

The trick: all arrays of a row lie in one flat buffer at fixed distances, so that the
compiler sees that they do not overlap and makes vector code of every loop without
checks; array A of the buffer is ``row[A : A + STRIDE]``, and longer for COS, PRODUCT, PLUS,
MINUS and ONES, which take the rows of several j one behind the other where only sums over all
pairs are wanted. Lengths are in units of Rc.
A row is padded to a multiple of `LANES` with neighbours of no weight. Functions with
+γ and −γ share everything but the last step, and (1 ± γ cos θ)^(ζ−1) with a
whole-numbered ζ is made by squaring.

The arrays, by neighbour k:

- X, Y, Z, U, INVERSE: its vector, u = R², and 1/R; WEIGHT: w(R_k);
- COS: cos θ; PRODUCT: q = w(R_k) w(R_jk), in `triplets` times w(R_j);
  PRODUCT_SLOPE: w(R_k) dw/dt(R_jk);
- COS_SLOPE_J = q cos θ/2R_j² and COS_SLOPE_K = q/2R_jR_k: the derivative of cos θ by
  the vector of j, times q/2, is COS_SLOPE_K r_k − COS_SLOPE_J r_j;
- PLUS, MINUS: (1 ± γ cos θ)^(ζ−1); ONES: the same for ζ = 1.

`forces` has further ones.

References
----------
J. Behler, J. Chem. Phys. 134, 074106 (2011), Eqs. 8 and 9;
A. Khorshidi and A. A. Peterson, Comput. Phys. Commun. 207, 310 (2016).
"""

from __future__ import annotations

import numpy as np

from .compiled import fast, inner
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

LANES = 8
CHUNK = 256
"""Neighbours in a row at most."""

STRIDE = CHUNK + LANES  # not a power of two, whose arrays would fall on the same cache lines

FLAT = 512
"""Triplets of several j that stand one behind the other before they are summed."""

LONG_STRIDE = FLAT + STRIDE
_ROWS = 16
LENGTH = _ROWS * STRIDE + 5 * LONG_STRIDE
X, Y, Z, U, INVERSE, WEIGHT, PRODUCT_SLOPE, COS_SLOPE_J, COS_SLOPE_K = range(0, 9 * STRIDE, STRIDE)
MIXTURE, MIXTURE_SLOPE, WEIGHT_SLOPE, ALONG, ACROSS_X, ACROSS_Y, ACROSS_Z = range(
    9 * STRIDE, _ROWS * STRIDE, STRIDE
)
COS, PRODUCT, PLUS, MINUS, ONES = range(_ROWS * STRIDE, LENGTH, LONG_STRIDE)
MASK = 0xFFFF  # tells the compiler that an index is neither negative nor wraps around


@inner
def make_row():
    """Return the buffer of a row, aligned to cache lines."""
    raw = np.empty(LENGTH + LANES)
    shift = -(raw.ctypes.data // raw.itemsize) % LANES
    row = raw[shift : shift + LENGTH]
    row[ONES : ONES + LONG_STRIDE] = 1.0
    return row


@fast
def load_neighbors(row, begin, end, near, weights):
    """Put the neighbours `begin` to `end` into the row; return the padded length."""
    n = end - begin
    for k in range(n):
        row[X + k] = near[0, begin + k]
        row[Y + k] = near[1, begin + k]
        row[Z + k] = near[2, begin + k]
        row[U + k] = near[3, begin + k]
        row[INVERSE + k] = near[4, begin + k]
        row[WEIGHT + k] = weights[begin + k]
    padded = (n + LANES - 1) // LANES * LANES
    for k in range(n, padded):
        row[X + k] = 0.0
        row[Y + k] = 0.0
        row[Z + k] = 0.0
        row[U + k] = 2.0
        row[INVERSE + k] = 0.0
        row[WEIGHT + k] = 0.0
    return padded


@fast
def cosine_and_third_side(k, x, y, z, u, inverse, row):
    """Return cos θ, and t = 1 − R_jk² of the third side, clipped to [0, 1]."""
    dot = x * row[X + k] + y * row[Y + k] + z * row[Z + k]
    t = min(max(1.0 - u - row[U + k] + 2.0 * dot, 0.0), 1.0)
    return dot * (inverse * row[INVERSE + k]), t


def _make_loop(factor, slopes):
    """Return the loop of `triplets` or `triplet_derivatives` with this factor inlined."""

    @fast
    def fill_triplets(begin, end, at, weight, x, y, z, u, inverse, c, row):
        begin &= MASK
        at &= MASK
        for lane in range((end - begin) & MASK):
            k = begin + lane
            cos_theta, t = cosine_and_third_side(k, x, y, z, u, inverse, row)
            value, _ = factor(t, c)
            row[COS + at + lane] = cos_theta
            row[PRODUCT + at + lane] = weight * row[WEIGHT + k] * value

    @fast
    def fill_derivatives(begin, end, x, y, z, u, inverse, c, row):
        begin &= MASK
        for lane in range((end - begin) & MASK):
            k = begin + lane
            cos_theta, t = cosine_and_third_side(k, x, y, z, u, inverse, row)
            value, slope = factor(t, c)
            q = row[WEIGHT + k] * value
            row[COS + k] = cos_theta
            row[PRODUCT + k] = q
            row[PRODUCT_SLOPE + k] = row[WEIGHT + k] * slope
            half = (0.5 * inverse) * q
            row[COS_SLOPE_J + k] = inverse * (half * cos_theta)
            row[COS_SLOPE_K + k] = half * row[INVERSE + k]

    return fill_derivatives if slopes else fill_triplets


_fitted_triplets = _make_loop(fitted_factor, slopes=False)
_no_factor_triplets = _make_loop(no_factor, slopes=False)
_cosine_triplets = _make_loop(cosine_factor, slopes=False)
_integer_polynomial_triplets = _make_loop(integer_polynomial_factor, slopes=False)
_polynomial_triplets = _make_loop(polynomial_factor, slopes=False)
_fitted_derivatives = _make_loop(fitted_factor, slopes=True)
_no_factor_derivatives = _make_loop(no_factor, slopes=True)
_cosine_derivatives = _make_loop(cosine_factor, slopes=True)
_integer_polynomial_derivatives = _make_loop(integer_polynomial_factor, slopes=True)
_polynomial_derivatives = _make_loop(polynomial_factor, slopes=True)


@fast
def triplets(kind, begin, end, at, weight, x, y, z, u, inverse, c, row):
    """Fill COS and PRODUCT, times a weight, from `at` on."""
    if kind == FITTED:
        _fitted_triplets(begin, end, at, weight, x, y, z, u, inverse, c, row)
    elif kind == NO_FACTOR:
        _no_factor_triplets(begin, end, at, weight, x, y, z, u, inverse, c, row)
    elif kind == COSINE:
        _cosine_triplets(begin, end, at, weight, x, y, z, u, inverse, c, row)
    elif kind == INTEGER_POLYNOMIAL:
        _integer_polynomial_triplets(begin, end, at, weight, x, y, z, u, inverse, c, row)
    else:
        _polynomial_triplets(begin, end, at, weight, x, y, z, u, inverse, c, row)


@fast
def triplet_derivatives(kind, begin, end, x, y, z, u, inverse, c, row):
    """Fill COS, PRODUCT, PRODUCT_SLOPE, COS_SLOPE_J and COS_SLOPE_K."""
    if kind == FITTED:
        _fitted_derivatives(begin, end, x, y, z, u, inverse, c, row)
    elif kind == NO_FACTOR:
        _no_factor_derivatives(begin, end, x, y, z, u, inverse, c, row)
    elif kind == COSINE:
        _cosine_derivatives(begin, end, x, y, z, u, inverse, c, row)
    elif kind == INTEGER_POLYNOMIAL:
        _integer_polynomial_derivatives(begin, end, x, y, z, u, inverse, c, row)
    else:
        _polynomial_derivatives(begin, end, x, y, z, u, inverse, c, row)


@fast
def angular_powers(begin, end, gamma, zeta, row):
    """Evaluate (1 ± γ cos θ)^(ζ−1), 0 where the base is not above 0; return the two arrays."""
    begin &= MASK
    length = (end - begin) & MASK
    exponent = np.int64(zeta) - 1
    if exponent + 1.0 != zeta:
        for lane in range(length):
            k = begin + lane
            plus, minus = 1.0 + gamma * row[COS + k], 1.0 - gamma * row[COS + k]
            row[PLUS + k] = plus ** (zeta - 1.0) if plus > 0.0 else 0.0
            row[MINUS + k] = minus ** (zeta - 1.0) if minus > 0.0 else 0.0
        return PLUS, MINUS
    if exponent == 0:
        return ONES, ONES
    bit = np.int64(1)
    while 2 * bit <= exponent:
        bit *= 2
    bit //= 2
    scale = gamma if exponent & bit else 0.0
    for lane in range(length):
        k = begin + lane
        g, more = gamma * row[COS + k], scale * row[COS + k]
        plus, minus = 1.0 + g, 1.0 - g
        if bit > 0:
            plus, minus = plus * plus * (1.0 + more), minus * minus * (1.0 - more)
        row[PLUS + k] = plus
        row[MINUS + k] = minus
    while bit > 1:  # from the third highest bit down: square, and multiply where it is set
        bit //= 2
        scale = gamma if exponent & bit else 0.0
        for lane in range(length):
            k = begin + lane
            plus, minus = row[PLUS + k], row[MINUS + k]
            row[PLUS + k] = plus * plus * (1.0 + scale * row[COS + k])
            row[MINUS + k] = minus * minus * (1.0 - scale * row[COS + k])
    return PLUS, MINUS


@fast
def _linear_sums(begin, end, gamma, row):
    begin &= MASK
    total = total_cos = 0.0
    for lane in range((end - begin) & MASK):
        k = begin + lane
        total += row[PRODUCT + k]
        total_cos += row[COS + k] * row[PRODUCT + k]
    return total + gamma * total_cos, total - gamma * total_cos


@fast
def _square(x):
    return x * x


@fast
def _to_the_4th(x):
    return _square(x * x)


@fast
def _to_the_8th(x):
    return _to_the_4th(x * x)


@fast
def _to_the_16th(x):
    return _to_the_8th(x * x)


def _make_power_sums(power):
    """Return the sums of `angular_sums` for one ζ, without arrays of powers in between."""

    @fast
    def power_sums(begin, end, gamma, row):
        begin &= MASK
        total_plus = total_minus = 0.0
        for lane in range((end - begin) & MASK):
            k = begin + lane
            g, q = gamma * row[COS + k], row[PRODUCT + k]
            total_plus += power(1.0 + g) * q
            total_minus += power(1.0 - g) * q
        return total_plus, total_minus

    return power_sums


_sums_2, _sums_4 = _make_power_sums(_square), _make_power_sums(_to_the_4th)
_sums_8, _sums_16 = _make_power_sums(_to_the_8th), _make_power_sums(_to_the_16th)


@fast
def angular_sums(begin, end, gamma, zeta, row):
    """Return Σ_k (1 ± γ cos θ)^ζ q for both signs."""
    if zeta == 1.0:
        return _linear_sums(begin, end, gamma, row)
    if zeta == 2.0:
        return _sums_2(begin, end, gamma, row)
    if zeta == 4.0:
        return _sums_4(begin, end, gamma, row)
    if zeta == 8.0:
        return _sums_8(begin, end, gamma, row)
    if zeta == 16.0:
        return _sums_16(begin, end, gamma, row)
    plus, minus = angular_powers(begin, end, gamma, zeta, row)
    return _sums_of_powers(begin, end, gamma, plus, minus, row)


@fast
def _sums_of_powers(begin, end, gamma, plus, minus, row):
    begin &= MASK
    plus &= MASK
    minus &= MASK
    total_plus = total_minus = 0.0
    for lane in range((end - begin) & MASK):
        k = begin + lane
        g, q = gamma * row[COS + k], row[PRODUCT + k]
        total_plus += row[plus + k] * (1.0 + g) * q
        total_minus += row[minus + k] * (1.0 - g) * q
    return total_plus, total_minus


@fast
def angular_derivative_sums(n, gamma, zeta, plus, minus, row):
    """Return the sums over k from which values and derivatives by the vector of j are made.

    For both signs, with A = (1 ± γ cos θ)^ζ, A' = dA/d cos θ, and b_j, b_k for
    ``A PRODUCT_SLOPE + A' COS_SLOPE_J`` and ``… COS_SLOPE_K``: the sums of A PRODUCT, of
    b_j, and of the three components of b_k r_k.
    """
    plus &= MASK
    minus &= MASK
    vp = ap = xp = yp = zp = 0.0
    vm = am = xm = ym = zm = 0.0
    for k in range(n & MASK):
        g, q, m = gamma * row[COS + k], row[PRODUCT + k], row[PRODUCT_SLOPE + k]
        cos_slope_j = gamma * zeta * row[COS_SLOPE_J + k]
        cos_slope_k = gamma * zeta * row[COS_SLOPE_K + k]
        x, y, z = row[X + k], row[Y + k], row[Z + k]
        p = row[plus + k]
        A = p * (1.0 + g)
        side = A * m
        across = side + p * cos_slope_k
        vp += A * q
        ap += side + p * cos_slope_j
        xp += across * x
        yp += across * y
        zp += across * z
        p = row[minus + k]
        A = p * (1.0 - g)
        side = A * m
        across = side - p * cos_slope_k
        vm += A * q
        am += side - p * cos_slope_j
        xm += across * x
        ym += across * y
        zm += across * z
    return (vp, ap, xp, yp, zp), (vm, am, xm, ym, zm)


@fast
def linear_derivative_sums(n, gamma, row):
    """Return the same as `angular_derivative_sums` for ζ = 1, from the sums over 1 and cos θ."""
    v1 = a1 = x1 = y1 = z1 = 0.0
    vc = ac = xc = yc = zc = 0.0
    for k in range(n & MASK):
        c, q, side = row[COS + k], row[PRODUCT + k], row[PRODUCT_SLOPE + k]
        x, y, z = row[X + k], row[Y + k], row[Z + k]
        v1 += q
        a1 += side
        x1 += side * x
        y1 += side * y
        z1 += side * z
        side *= c
        across = side + row[COS_SLOPE_K + k]
        vc += c * q
        ac += side + row[COS_SLOPE_J + k]
        xc += across * x
        yc += across * y
        zc += across * z
    vc, ac, xc, yc, zc = gamma * vc, gamma * ac, gamma * xc, gamma * yc, gamma * zc
    return (
        (v1 + vc, a1 + ac, x1 + xc, y1 + yc, z1 + zc),
        (v1 - vc, a1 - ac, x1 - xc, y1 - yc, z1 - zc),
    )
