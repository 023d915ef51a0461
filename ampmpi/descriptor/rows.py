"""Inner loops: one neighbour j against a row of neighbours k.

All arrays of a row lie in one flat buffer, at fixed distances: row A is
``buffer[A : A + STRIDE]``. This is what lets the compiler see that the arrays do
not overlap, so that every loop here becomes vector code without checks. Lengths
are in units of Rc. A row is padded to a multiple of `LANES` with neighbours of
no weight.

Names: c = cos θ_jik; q: leg weight of k times the third side's factor, and m: times
that factor's dw/dt; turn_j = qc/2r_j² and turn_k = q/2r_jr_k: ½ q ∂c/∂r_j is
turn_k r_k − turn_j r_j; P± = (1 ± γc)^(ζ−1).
"""

from __future__ import annotations

import numpy as np

from .compiled import fast, inner
from .factors import COSINE, INTEGER_POWER, MERGED
from .radial import cosine, integer_power, merged, power, without

LANES = 8
CHUNK = 256
"""Neighbours in a row at most."""

STRIDE = CHUNK + LANES  # not a power of two, whose rows would fall on the same cache lines
N_ROWS = 16
X, Y, Z, U, INVERSE, WEIGHT, C, Q, M, TURN_J, TURN_K, PLUS, MINUS, ONES, ANGLE, SLOPE = range(
    0, N_ROWS * STRIDE, STRIDE
)
_MASK = 0xFFFF  # tells the compiler that an index is neither negative nor wraps around

NO_FACTOR = -1


@inner
def make_buffer():
    """Return a buffer for one call, aligned to cache lines."""
    raw = np.empty(N_ROWS * STRIDE + LANES)
    shift = -(raw.ctypes.data // raw.itemsize) % LANES
    buffer = raw[shift : shift + N_ROWS * STRIDE]
    buffer[ONES : ONES + STRIDE] = 1.0
    return buffer


@fast
def load(buffer, begin, end, near, weights):
    """Put the neighbours `begin` to `end` into the buffer; return the padded length."""
    n = end - begin
    for k in range(n):
        buffer[X + k] = near[0, begin + k]
        buffer[Y + k] = near[1, begin + k]
        buffer[Z + k] = near[2, begin + k]
        buffer[U + k] = near[3, begin + k]
        buffer[INVERSE + k] = near[4, begin + k]
        buffer[WEIGHT + k] = weights[begin + k]
    padded = (n + LANES - 1) // LANES * LANES
    for k in range(n, padded):
        buffer[X + k] = 0.0
        buffer[Y + k] = 0.0
        buffer[Z + k] = 0.0
        buffer[U + k] = 2.0
        buffer[INVERSE + k] = 0.0
        buffer[WEIGHT + k] = 0.0
    return padded


@fast
def _geometry(k, x, y, z, u, inverse, buffer):
    """Cos θ, and t = 1 − u of the third side, clipped to [0, 1]."""
    dot = x * buffer[X + k] + y * buffer[Y + k] + z * buffer[Z + k]
    t = min(max(1.0 - u - buffer[U + k] + 2.0 * dot, 0.0), 1.0)
    return dot * (inverse * buffer[INVERSE + k]), t


def _make_row(factor, slopes):
    """Return the loop of `row_values` or `row_slopes` with this factor inlined."""

    @fast
    def fill_values(begin, end, x, y, z, u, inverse, c, buffer):
        begin &= _MASK
        for lane in range((end - begin) & _MASK):
            k = begin + lane
            cosine, t = _geometry(k, x, y, z, u, inverse, buffer)
            value, _ = factor(t, c)
            buffer[C + k] = cosine
            buffer[Q + k] = buffer[WEIGHT + k] * value

    @fast
    def fill_slopes(begin, end, x, y, z, u, inverse, c, buffer):
        begin &= _MASK
        for lane in range((end - begin) & _MASK):
            k = begin + lane
            cosine, t = _geometry(k, x, y, z, u, inverse, buffer)
            value, slope = factor(t, c)
            q = buffer[WEIGHT + k] * value
            buffer[C + k] = cosine
            buffer[Q + k] = q
            buffer[M + k] = buffer[WEIGHT + k] * slope
            turn = (0.5 * inverse) * q
            buffer[TURN_J + k] = inverse * (turn * cosine)
            buffer[TURN_K + k] = turn * buffer[INVERSE + k]

    return fill_slopes if slopes else fill_values


_merged_values = _make_row(merged, slopes=False)
_without_values = _make_row(without, slopes=False)
_cosine_values = _make_row(cosine, slopes=False)
_integer_power_values = _make_row(integer_power, slopes=False)
_power_values = _make_row(power, slopes=False)
_merged_slopes = _make_row(merged, slopes=True)
_without_slopes = _make_row(without, slopes=True)
_cosine_slopes = _make_row(cosine, slopes=True)
_integer_power_slopes = _make_row(integer_power, slopes=True)
_power_slopes = _make_row(power, slopes=True)


@fast
def row_values(kind, begin, end, x, y, z, u, inverse, c, buffer):
    """Fill C and Q."""
    if kind == MERGED:
        _merged_values(begin, end, x, y, z, u, inverse, c, buffer)
    elif kind == NO_FACTOR:
        _without_values(begin, end, x, y, z, u, inverse, c, buffer)
    elif kind == COSINE:
        _cosine_values(begin, end, x, y, z, u, inverse, c, buffer)
    elif kind == INTEGER_POWER:
        _integer_power_values(begin, end, x, y, z, u, inverse, c, buffer)
    else:
        _power_values(begin, end, x, y, z, u, inverse, c, buffer)


@fast
def row_slopes(kind, begin, end, x, y, z, u, inverse, c, buffer):
    """Fill C, Q, M, TURN_J and TURN_K."""
    if kind == MERGED:
        _merged_slopes(begin, end, x, y, z, u, inverse, c, buffer)
    elif kind == NO_FACTOR:
        _without_slopes(begin, end, x, y, z, u, inverse, c, buffer)
    elif kind == COSINE:
        _cosine_slopes(begin, end, x, y, z, u, inverse, c, buffer)
    elif kind == INTEGER_POWER:
        _integer_power_slopes(begin, end, x, y, z, u, inverse, c, buffer)
    else:
        _power_slopes(begin, end, x, y, z, u, inverse, c, buffer)


@fast
def powers(begin, end, gamma, zeta, buffer):
    """Put P+ and P− into the buffer and return their rows."""
    begin &= _MASK
    length = (end - begin) & _MASK
    exponent = np.int64(zeta) - 1
    if exponent + 1.0 != zeta:
        for lane in range(length):
            k = begin + lane
            buffer[PLUS + k] = max(1.0 + gamma * buffer[C + k], 0.0) ** (zeta - 1.0)
            buffer[MINUS + k] = max(1.0 - gamma * buffer[C + k], 0.0) ** (zeta - 1.0)
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
        g, more = gamma * buffer[C + k], scale * buffer[C + k]
        plus, minus = 1.0 + g, 1.0 - g
        if bit > 0:
            plus, minus = plus * plus * (1.0 + more), minus * minus * (1.0 - more)
        buffer[PLUS + k] = plus
        buffer[MINUS + k] = minus
    while bit > 1:  # from the third highest bit down: square, and multiply where it is set
        bit //= 2
        scale = gamma if exponent & bit else 0.0
        for lane in range(length):
            k = begin + lane
            plus, minus = buffer[PLUS + k], buffer[MINUS + k]
            buffer[PLUS + k] = plus * plus * (1.0 + scale * buffer[C + k])
            buffer[MINUS + k] = minus * minus * (1.0 - scale * buffer[C + k])
    return PLUS, MINUS


@fast
def sum_values(begin, end, gamma, plus, minus, buffer):
    """Σ_k P±(1 ± γc)q for both signs."""
    begin &= _MASK
    plus &= _MASK
    minus &= _MASK
    total_plus = total_minus = 0.0
    for lane in range((end - begin) & _MASK):
        k = begin + lane
        g, q = gamma * buffer[C + k], buffer[Q + k]
        total_plus += buffer[plus + k] * (1.0 + g) * q
        total_minus += buffer[minus + k] * (1.0 - g) * q
    return total_plus, total_minus


@fast
def sum_slopes(n, gamma, zeta, plus, minus, buffer):
    """For both signs: Σ Aq, Σ (Am + A' turn_j) and Σ (Am + A' turn_k) r_k."""
    plus &= _MASK
    minus &= _MASK
    vp = ap = xp = yp = zp = 0.0
    vm = am = xm = ym = zm = 0.0
    for k in range(n & _MASK):
        g, q, m = gamma * buffer[C + k], buffer[Q + k], buffer[M + k]
        turn_j = gamma * zeta * buffer[TURN_J + k]
        turn_k = gamma * zeta * buffer[TURN_K + k]
        x, y, z = buffer[X + k], buffer[Y + k], buffer[Z + k]
        p = buffer[plus + k]
        A = p * (1.0 + g)
        side = A * m
        across = side + p * turn_k
        vp += A * q
        ap += side + p * turn_j
        xp += across * x
        yp += across * y
        zp += across * z
        p = buffer[minus + k]
        A = p * (1.0 - g)
        side = A * m
        across = side - p * turn_k
        vm += A * q
        am += side - p * turn_j
        xm += across * x
        ym += across * y
        zm += across * z
    return (vp, ap, xp, yp, zp), (vm, am, xm, ym, zm)


@fast
def sum_linear_slopes(n, gamma, buffer):
    """Return what `sum_slopes` does for ζ = 1, from the sums over 1 and over c."""
    v1 = a1 = x1 = y1 = z1 = 0.0
    vc = ac = xc = yc = zc = 0.0
    for k in range(n & _MASK):
        c, q, side = buffer[C + k], buffer[Q + k], buffer[M + k]
        x, y, z = buffer[X + k], buffer[Y + k], buffer[Z + k]
        v1 += q
        a1 += side
        x1 += side * x
        y1 += side * y
        z1 += side * z
        side *= c
        across = side + buffer[TURN_K + k]
        vc += c * q
        ac += side + buffer[TURN_J + k]
        xc += across * x
        yc += across * y
        zc += across * z
    vc, ac, xc, yc, zc = gamma * vc, gamma * ac, gamma * xc, gamma * yc, gamma * zc
    return (
        (v1 + vc, a1 + ac, x1 + xc, y1 + yc, z1 + zc),
        (v1 - vc, a1 - ac, x1 - xc, y1 - yc, z1 - zc),
    )


@fast
def clear_angles(n, buffer):
    """Set the weighted sum of angular parts to zero."""
    for k in range(n & _MASK):
        buffer[ANGLE + k] = 0.0
        buffer[SLOPE + k] = 0.0


@fast
def add_angles(n, gamma, zeta, plus, minus, gp, gm, buffer):
    """Add the angular parts of two functions, weighted with `gp` and `gm`, and their slopes."""
    plus &= _MASK
    minus &= _MASK
    for k in range(n & _MASK):
        g = gamma * buffer[C + k]
        p, m = gp * buffer[plus + k], gm * buffer[minus + k]
        buffer[ANGLE + k] += p * (1.0 + g) + m * (1.0 - g)
        buffer[SLOPE + k] += gamma * zeta * (p - m)


@fast
def sum_angles(n, buffer):
    """Return sums like those of `sum_slopes`, for the weighted sum of all angular parts A."""
    v = a = x = y = z = 0.0
    for k in range(n & _MASK):
        A, slope = buffer[ANGLE + k], buffer[SLOPE + k]
        side = A * buffer[M + k]
        across = side + slope * buffer[TURN_K + k]
        v += A * buffer[Q + k]
        a += side + slope * buffer[TURN_J + k]
        x += across * buffer[X + k]
        y += across * buffer[Y + k]
        z += across * buffer[Z + k]
    return v, a, x, y, z
