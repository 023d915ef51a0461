"""Limited-memory BFGS: the direction from what was learnt of the curvature, and a line search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ampmpi.model.layers import Array

# Of the strong Wolfe conditions: how much the loss has to fall, and how flat it has to become.
FALL, FLAT = 1e-4, 0.9

TRIALS = 20
"""Trials of a line search, after which the best that lowers the loss is taken."""

SHORTEST, LONGEST = 1.1, 10.0
"""Where the loss still falls, a trial is so many times further than the one before."""

MARGIN = 0.1
"""Part of an interval at each of its ends where no trial is made."""


class Place(NamedTuple):
    """A length along a line, the loss there and its slope."""

    length: float
    value: float
    slope: float


def direction(
    gradient: Array,
    steps: Sequence[Array],
    changes: Sequence[Array],
    initial: Callable[[Array], Array],
) -> Array:
    """Return the direction of descent -H g.

    H is the inverse Hessian of the two-loop recursion (Nocedal and Wright, Numerical
    Optimization, 2nd ed., 2006, algorithm 7.4).

    Parameters
    ----------
    gradient : (n,) float array
        The gradient g.
    steps, changes : sequences of (n,) float arrays
        Steps between points, the latest last, and the changes of the gradient along them.
    initial : callable
        Applies the inverse Hessian from which the recursion starts.
    """
    q = -gradient
    factors = []
    for step, change in zip(reversed(steps), reversed(changes), strict=True):
        rho = 1.0 / (step @ change)
        alpha = rho * (step @ q)
        q = q - alpha * change
        factors.append((rho, alpha))
    q = initial(q)
    for step, change, (rho, alpha) in zip(steps, changes, reversed(factors), strict=True):
        q = q + (alpha - rho * (change @ q)) * step
    return q


def curves_up(step: Array, change: Array) -> bool:
    """Whether the gradient grew along a step by enough to learn from."""
    product = float(step @ change)
    return product > max(1e-12 * math.sqrt((step @ step) * (change @ change)), 1e-200)


def line_search(
    function: Callable[[float], tuple[float, float]], value: float, slope: float
) -> float | None:
    """Return a length along a line that meets the strong Wolfe conditions, or lowers the loss.

    The first trial is 1. As long as the loss falls, trials go further; then the interval with a
    minimum is narrowed by cubic interpolation (Nocedal and Wright, algorithms 3.5 and 3.6).

    Parameters
    ----------
    function : callable
        Takes a length, returns the loss there and its slope.
    value, slope : float
        Loss and slope at length 0; the slope is negative.

    Returns
    -------
    float or None
        None where no trial lowered the loss.
    """
    low, high = Place(0.0, value, slope), None
    length = 1.0
    for _ in range(TRIALS):
        here = Place(length, *function(length))
        if here.value > value + FALL * length * slope or here.value >= low.value:
            high = here
        elif abs(here.slope) <= -FLAT * slope:
            return length
        elif high is None and here.slope < 0.0:
            length = _further(low, here)
            low = here
            continue
        else:
            if here.slope * (length - low.length) >= 0.0:
                high = low
            low = here
        assert high is not None
        length = _between(low, high)
    return low.length if low.length > 0.0 else None


def _further(a: Place, b: Place) -> float:
    """Return a length beyond b: where the slope is zero if it goes on as from a to b."""
    rise = (b.slope - a.slope) / (b.length - a.length)
    width = b.length - a.length
    wanted = b.length - b.slope / rise if rise > 0.0 else float("inf")
    return min(max(wanted, b.length + SHORTEST * width), b.length + LONGEST * width)


def _between(a: Place, b: Place) -> float:
    """Return the minimum of the cubic through two places, not too close to either."""
    width = b.length - a.length
    d1 = a.slope + b.slope + 3.0 * (a.value - b.value) / width
    square = d1 * d1 - a.slope * b.slope
    found = a.length + 0.5 * width
    if square >= 0.0:
        d2 = math.copysign(math.sqrt(square), width)
        below = b.slope - a.slope + 2.0 * d2
        if below != 0.0:
            found = b.length - width * (b.slope + d2 - d1) / below
    first, last = sorted((a.length + MARGIN * width, b.length - MARGIN * width))
    return min(max(found, first), last)
