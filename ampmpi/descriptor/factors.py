"""Radial factors ``w(R) = fc(R)·exp(−η(R − offset)²/Rc²)``: how each is to be evaluated.

With u = (R/Rc)² and t = 1 − u the cosine cutoff is a square, cos²(π√u/2), and
cos(π√u/2)·exp(−ηu/2) is an entire function of u that vanishes at t = 0. For
small η it is t·p(t) with a short polynomial p: no square root, cosine or
exponential is left, and clipping t at 0 does the cutoff. Other factors are the
same polynomial for η = 0, or the polynomial cutoff, times an exponential.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

from .cutoffs import Cosine, Cutoff

DEGREE = 8
"""Degree of p(t)."""

TOLERANCE = 2.0e-15
"""Largest relative error of p(t) with which it may stand for cosine and exponential."""

MERGED, COSINE, INTEGER_POWER, POWER = range(4)
"""Kinds of factors: the polynomial p alone; p and an exponential; the polynomial cutoff with
a whole-numbered γ from 2 to 17, or any other γ, and an exponential."""


def merged_coefficients(eta: float) -> tuple[NDArray[np.float64], float]:
    """Coefficients of p(t) for one η, lowest first, and its largest relative error on [0, 1]."""
    nodes = 0.5 + 0.5 * np.cos(np.pi * (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1))
    fit = Chebyshev.fit(nodes, _cosine_times_exponential(nodes, eta), DEGREE, domain=[0.0, 1.0])
    coefficients = np.asarray(fit.convert(kind=Polynomial).coef, dtype=np.float64)
    t = np.linspace(1.0e-3, 1.0, 1000)
    error = np.polynomial.polynomial.polyval(t, coefficients) / _cosine_times_exponential(t, eta)
    return coefficients, float(np.abs(error - 1.0).max())


def _cosine_times_exponential(t: NDArray[np.float64], eta: float) -> NDArray[np.float64]:
    """Evaluate ``cos(π√(1−t)/2)·exp(−η(1−t)/2)/t``, with the cosine free of cancellation."""
    cosine = np.sin(0.5 * np.pi * t / (1.0 + np.sqrt(1.0 - t)))
    value: NDArray[np.float64] = cosine / t * np.exp(-0.5 * eta * (1.0 - t))
    return value


def choose_factors(
    cutoff: Cutoff, radials: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose how to evaluate each factor.

    Parameters
    ----------
    cutoff : Cosine or Polynomial
        The cutoff function.
    radials : (n_radials, 2) float array
        η and offset/Rc.

    Returns
    -------
    kinds : (n_radials,) int64 array
        `MERGED`, `COSINE`, `INTEGER_POWER` or `POWER`.
    coefficients : (n_radials, DEGREE + 4) float array
        η, offset/Rc, the polynomial cutoff's γ, and p(t), lowest power first.
    """
    kinds = np.empty(len(radials), np.int64)
    coefficients = np.zeros((len(radials), DEGREE + 4))
    coefficients[:, :2] = radials
    if not isinstance(cutoff, Cosine):
        gamma = cutoff.gamma
        coefficients[:, 2] = gamma
        kinds[:] = INTEGER_POWER if gamma == int(gamma) and 2.0 <= gamma <= 17.0 else POWER
        return kinds, coefficients
    cosine_alone, _ = merged_coefficients(0.0)
    for number, (eta, offset) in enumerate(radials):
        merged = False
        if offset == 0.0 and eta < 1.0:
            polynomial, error = merged_coefficients(eta)
            merged = error < TOLERANCE
        kinds[number] = MERGED if merged else COSINE
        coefficients[number, 3:] = polynomial if merged else cosine_alone
    return kinds, coefficients
