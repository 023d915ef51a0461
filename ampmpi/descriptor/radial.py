"""Radial factors, evaluated: one function for each kind that `factors` tells apart.

Each takes t = 1 − (R/Rc)², clipped to [0, 1], and a row of coefficients, and
returns w and dw/dt. None has a branch that depends on t, so that a loop that
calls it becomes vector code.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import intrinsic

from .compiled import exact

_SMALLEST = 1.0e-30
_LOG2_E = 1.0 / math.log(2.0)
_LN2_HIGH = 0.6931471803691238  # ln 2 to 33 bits: small multiples of it are exact
_LN2_LOW = 1.9082149292705877e-10  # the rest of ln 2
_ROUNDER = 1.5 * 2.0**52  # added and taken away again, it rounds to a whole number


@intrinsic
def _bits_of(typing, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), generate


@intrinsic
def _float_of(typing, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), generate


@exact
def exponential(x):
    """Evaluate e^x for x ≤ 0, to rounding; below −700 it is 0.

    x = n·ln 2 + r with |r| ≤ ln 2/2; e^r is its Taylor series, and 2^n is made
    from the bits of n. No branch and no table: a loop over it becomes vector code.
    """
    small = x < -700.0
    x = max(x, -700.0)
    rounded = x * _LOG2_E + _ROUNDER
    n = rounded - _ROUNDER
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    p *= _float_of((_bits_of(rounded) + 1023) << 52)  # type: ignore[call-arg]
    return 0.0 if small else p


@exact
def _step(value, slope, t, coefficient):
    """One step of Horner's scheme for a polynomial and its derivative."""
    return value * t + coefficient, slope * t + value


@exact
def merged(t, c):
    """W and dw/dt as a square, ``(t·p(t))²``."""
    q, s = c[11], 0.0
    q, s = _step(q, s, t, c[10])
    q, s = _step(q, s, t, c[9])
    q, s = _step(q, s, t, c[8])
    q, s = _step(q, s, t, c[7])
    q, s = _step(q, s, t, c[6])
    q, s = _step(q, s, t, c[5])
    q, s = _step(q, s, t, c[4])
    q, s = _step(q, s, t, c[3])
    q, s = _step(q, s, t, 0.0)
    return q * q, 2.0 * q * s


@exact
def cosine(t, c):
    """W and dw/dt with the cosine cutoff and an exponential."""
    fc, slope = merged(t, c)
    return _times_exponential(fc, slope, t, c)


@exact
def integer_power(t, c):
    """W and dw/dt with the polynomial cutoff, γ a whole number from 2 to 17."""
    u = max(1.0 - t, _SMALLEST)
    x = np.sqrt(u)
    n = np.int64(c[2]) - 2
    power = x if n & 1 else 1.0
    power *= u if n & 2 else 1.0
    power *= u * u if n & 4 else 1.0
    power *= (u * u) * (u * u) if n & 8 else 1.0
    return _polynomial_cutoff(power, x, u, t, c)


@exact
def power(t, c):
    """W and dw/dt with the polynomial cutoff, any γ."""
    u = max(1.0 - t, _SMALLEST)
    x = np.sqrt(u)
    return _polynomial_cutoff(x ** (c[2] - 2.0), x, u, t, c)


@exact
def _polynomial_cutoff(power, x, u, t, c):
    """Take ``x^(γ−2)`` to w and dw/dt: fc = 1 + γx^(γ+1) − (γ+1)x^γ, u = x² = 1 − t."""
    g = c[2]
    fc = 1.0 + (g * x - (g + 1.0)) * u * power
    slope = 0.5 * g * (g + 1.0) * (1.0 - x) * power
    inside = t > 0.0
    return _times_exponential(fc if inside else 0.0, slope if inside else 0.0, t, c)


@exact
def _times_exponential(fc, slope, t, c):
    """Fc and dfc/dt to w and dw/dt, by exp(−η(x − o)²) with x = R/Rc and o = offset/Rc."""
    x = np.sqrt(max(1.0 - t, _SMALLEST))
    eta, offset = c[0], c[1]
    e = exponential(-eta * (x - offset) * (x - offset))
    return e * fc, e * (slope + eta * (1.0 - offset / x) * fc)


@exact
def without(t, c):
    """Stand for the third side in G5, which has no factor."""
    return 1.0, 0.0
