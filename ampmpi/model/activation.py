"""The activation functions and their slopes."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

ACTIVATIONS = ("tanh", "sigmoid", "linear")

# ln 2 in two parts (Cody and Waite): the product of the first with a small integer is exact.
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
PER_LN2 = 1.0 / math.log(2.0)

# Coefficients of the Taylor series of exp(r).
THIRD, FOURTH, FIFTH, SIXTH, SEVENTH, EIGHTH, NINTH, TENTH, ELEVENTH, TWELFTH, THIRTEENTH = (
    1.0 / math.factorial(n) for n in range(3, 14)
)

# Added to a number below 2^51 it leaves the nearest integer in the last bits.
ROUND = 1.5 * 2.0**52


def activate(net: NDArray[np.float64], activation: str) -> NDArray[np.float64]:
    """Replace what nodes receive by their values f(net); return f'(net).

    Parameters
    ----------
    net : (n_nodes, n_atoms) float array
        Overwritten with the values.
    activation : {'tanh', 'sigmoid', 'linear'}
        Activation function f.
    """
    if activation == "tanh":
        slopes = np.empty_like(net)
        tanh_and_slope(net, slopes)
        return slopes
    if activation == "sigmoid":
        # exp(-net) overflows to inf for net < -709, where 1/(1 + inf) = 0 is right
        with np.errstate(over="ignore"):
            np.divide(1.0, 1.0 + np.exp(-net), out=net)
        return net * (1.0 - net)
    return np.ones_like(net)


def slope_change(
    values: NDArray[np.float64], tangent: NDArray[np.float64], activation: str
) -> NDArray[np.float64] | float:
    """f''(net) times the tangent of net, where `tangent` is f'(net) times that."""
    if activation == "tanh":
        return -2.0 * values * tangent
    if activation == "sigmoid":
        return (1.0 - 2.0 * values) * tangent
    return 0.0


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def tanh_and_slope(values, slopes):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Replace values x by t = tanh(x), and write 1 - t², several at a time.

    With E = exp(-2|x|) - 1, tanh|x| = -E / (2 + E), without cancellation anywhere. From
    -2|x| = k ln 2 + r with |r| <= ln 2 / 2 follows E = 2^k (exp(r) - 1) + (2^k - 1), and
    exp(r) - 1 is its Taylor series, of which the first term left out is below 2e-17 r.
    NaN stays NaN.

    Parameters
    ----------
    values : (n_nodes, n_atoms) float array
        Overwritten.
    slopes : (n_nodes, n_atoms) float array
        Written.
    """
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            x = values[i, j]
            y = -2.0 * abs(x)
            y = -40.0 if y < -40.0 else y  # where tanh is 1 to the last bit
            shifted = y * PER_LN2 + ROUND
            k = shifted - ROUND
            r = (y - k * LN2_HIGH) - k * LN2_LOW
            r2 = r * r
            r4 = r2 * r2
            low = (0.5 + THIRD * r) + (FOURTH + FIFTH * r) * r2
            middle = (SIXTH + SEVENTH * r) + (EIGHTH + NINTH * r) * r2
            high = (TENTH + ELEVENTH * r) + (TWELFTH + THIRTEENTH * r) * r2
            series = r + r2 * (low + (middle + high * r4) * r4)
            exponent = np.int64((np.float64(shifted).view(np.int64) + 1023) << 52)
            power = exponent.view(np.float64)
            E = power * series + (power - 1.0)
            t = math.copysign(E / (2.0 + E), x)
            values[i, j] = t
            slopes[i, j] = 1.0 - t * t
