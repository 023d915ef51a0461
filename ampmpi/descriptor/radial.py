"""Radial factors of the symmetry functions: ``w(R) = fc(R)·exp(−η(R − Rs)²/Rc²)``.

G2 is a sum of them over neighbours; in G4 and G5 they belong to the sides of a
triangle. With u = (R/Rc)² and t = 1 − u, the cutoff functions fc are ::

    cosine      (1 + cos(πR/Rc))/2 = cos²(π√u/2)
    polynomial  1 + γ(R/Rc)^(γ+1) − (γ+1)(R/Rc)^γ

The trick: cos(π√u/2)·exp(−ηu/2) is an entire function of u that vanishes at
t = 0. For small η it is t·p(t) with a short polynomial p, so that the whole factor
is (t·p(t))²: no square root, cosine or exponential is left, and clipping t at 0 does
the cutoff. Other factors are the same polynomial for η = 0, or the polynomial cutoff,
times an exponential that needs no table. `choose_radial_factors` decides when a
descriptor is set up; the functions that end in ``_factor`` evaluate.

References
----------
J. Behler, J. Chem. Phys. 134, 074106 (2011), Eqs. 4 and 6;
A. Khorshidi and A. A. Peterson, Comput. Phys. Commun. 207, 310 (2016).
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

from .compiled import exact
from .cutoffs import Cosine, Cutoff

DEGREE = 8
"""Degree of p(t)."""

TOLERANCE = 2.0e-15
"""Largest relative error of p(t) with which it may stand for cosine and exponential."""

FITTED, COSINE, INTEGER_POLYNOMIAL, POLYNOMIAL = range(4)
"""Kinds of radial factors: the fitted p(t) alone; the cosine cutoff times a Gaussian; the
polynomial cutoff with a whole-numbered γ from 2 to 17, or any other γ, times a Gaussian."""

NO_FACTOR = -1
"""The kind of what G5 has in place of a third factor: 1."""


def fit_cosine_gaussian(eta: float) -> tuple[NDArray[np.float64], float]:
    """Fit p(t) for one η.

    Returns
    -------
    coefficients : (DEGREE + 1,) float array
        Its coefficients, lowest power first.
    error : float
        Its largest relative error on [0, 1].
    """
    nodes = 0.5 + 0.5 * np.cos(np.pi * (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1))
    fit = Chebyshev.fit(nodes, _cosine_times_gaussian(nodes, eta), DEGREE, domain=[0.0, 1.0])
    coefficients = np.asarray(fit.convert(kind=Polynomial).coef, dtype=np.float64)
    t = np.linspace(1.0e-3, 1.0, 1000)
    error = np.polynomial.polynomial.polyval(t, coefficients) / _cosine_times_gaussian(t, eta)
    return coefficients, float(np.abs(error - 1.0).max())


def _cosine_times_gaussian(t: NDArray[np.float64], eta: float) -> NDArray[np.float64]:
    """Evaluate ``cos(π√(1−t)/2)·exp(−η(1−t)/2)/t``, with the cosine free of cancellation."""
    cosine = np.sin(0.5 * np.pi * t / (1.0 + np.sqrt(1.0 - t)))
    value: NDArray[np.float64] = cosine / t * np.exp(-0.5 * eta * (1.0 - t))
    return value


def choose_radial_factors(
    cutoff: Cutoff, radials: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose how each radial factor is evaluated.

    Parameters
    ----------
    cutoff : Cosine or Polynomial
        The cutoff function.
    radials : (n_radials, 2) float array
        η and Rs/Rc of each; Rs is the offset.

    Returns
    -------
    kinds : (n_radials,) int64 array
        `FITTED`, `COSINE`, `INTEGER_POLYNOMIAL` or `POLYNOMIAL`.
    coefficients : (n_radials, DEGREE + 4) float array
        η, Rs/Rc, the polynomial cutoff's γ, and p(t), lowest power first.
    """
    kinds = np.empty(len(radials), np.int64)
    coefficients = np.zeros((len(radials), DEGREE + 4))
    coefficients[:, :2] = radials
    if not isinstance(cutoff, Cosine):
        gamma = cutoff.gamma
        coefficients[:, 2] = gamma
        kinds[:] = (
            INTEGER_POLYNOMIAL if gamma == int(gamma) and 2.0 <= gamma <= 17.0 else POLYNOMIAL
        )
        return kinds, coefficients
    cosine_alone, _ = fit_cosine_gaussian(0.0)
    for number, (eta, offset) in enumerate(radials):
        fitted = False
        if offset == 0.0 and eta < 1.0:
            polynomial, error = fit_cosine_gaussian(eta)
            fitted = error < TOLERANCE
        kinds[number] = FITTED if fitted else COSINE
        coefficients[number, 3:] = polynomial if fitted else cosine_alone
    return kinds, coefficients


# The functions below evaluate a factor: each takes t, clipped to [0, 1], and the
# coefficients, and returns w and dw/dt. None has a branch that depends on t, so that a loop
# over one of them becomes vector code.

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
def fitted_factor(t, c):
    """Evaluate cosine cutoff and Gaussian together as ``(t·p(t))²``."""
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
def cosine_factor(t, c):
    """Evaluate the cosine cutoff, fitted, times a Gaussian."""
    fc, slope = fitted_factor(t, c)
    return _times_gaussian(fc, slope, t, c)


@exact
def integer_polynomial_factor(t, c):
    """Evaluate the polynomial cutoff, γ a whole number from 2 to 17, times a Gaussian."""
    u = max(1.0 - t, _SMALLEST)
    x = np.sqrt(u)
    n = np.int64(c[2]) - 2
    power = x if n & 1 else 1.0
    power *= u if n & 2 else 1.0
    power *= u * u if n & 4 else 1.0
    power *= (u * u) * (u * u) if n & 8 else 1.0
    return _polynomial_cutoff(power, x, u, t, c)


@exact
def polynomial_factor(t, c):
    """Evaluate the polynomial cutoff with any γ times a Gaussian."""
    u = max(1.0 - t, _SMALLEST)
    x = np.sqrt(u)
    return _polynomial_cutoff(x ** (c[2] - 2.0), x, u, t, c)


@exact
def _polynomial_cutoff(power, x, u, t, c):
    """Evaluate fc = 1 + γx^(γ+1) − (γ+1)x^γ, given x^(γ−2), and multiply by a Gaussian."""
    g = c[2]
    fc = 1.0 + (g * x - (g + 1.0)) * u * power
    slope = 0.5 * g * (g + 1.0) * (1.0 - x) * power
    inside = t > 0.0
    return _times_gaussian(fc if inside else 0.0, slope if inside else 0.0, t, c)


@exact
def _times_gaussian(fc, slope, t, c):
    """Take fc and dfc/dt to w and dw/dt, by exp(−η(x − o)²) with x = R/Rc and o = Rs/Rc."""
    x = np.sqrt(max(1.0 - t, _SMALLEST))
    eta, offset = c[0], c[1]
    e = exponential(-eta * (x - offset) * (x - offset))
    return e * fc, e * (slope + eta * (1.0 - offset / x) * fc)


@exact
def no_factor(t, c):
    """Stand for the third side in G5, which has no factor of its own."""
    return 1.0, 0.0
