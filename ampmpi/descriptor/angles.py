"""Angles at which an angular function has no value: a broken power of a negative number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ImageError

if TYPE_CHECKING:
    from .neighbors import NeighborList

ROUNDING = 1.0e-9
"""How far below zero 1 + γ cos θ is still zero."""


class Doubtful(NamedTuple):
    """A function with a broken ζ and |γ| > 1, which only some angles have a value for."""

    elements: tuple[str, ...]  # of the two neighbours
    gamma: float


def doubtful_functions(
    by_element: Mapping[str, Iterable[Mapping[str, Any]]],
) -> dict[str, set[Doubtful]]:
    """Return such functions of each element that has any."""
    found: dict[str, set[Doubtful]] = {}
    for element, functions in by_element.items():
        for function in functions:
            gamma, zeta = function.get("gamma", 0.0), function.get("zeta", 1.0)
            if abs(gamma) > 1.0 and zeta != int(zeta):
                one = Doubtful(tuple(sorted(function["elements"])), gamma)
                found.setdefault(element, set()).add(one)
    return found


def check_angles(
    atoms: Any, neighbors: NeighborList, doubtful: Mapping[str, Iterable[Doubtful]]
) -> None:
    """Raise `ImageError` where one of these functions has no value in an image."""
    symbols = np.array(atoms.get_chemical_symbols())
    for centre, symbol in enumerate(symbols.tolist()):
        around = slice(*neighbors.start[centre : centre + 2].tolist())
        of = symbols[neighbors.neighbor[around]]
        directions = neighbors.vectors[around] / np.sqrt(neighbors.squares[around])[:, np.newaxis]
        for function in doubtful.get(symbol, ()):
            first, second = function.elements
            rows, columns = np.flatnonzero(of == first), np.flatnonzero(of == second)
            cosines = directions[rows] @ directions[columns].T
            others = rows[:, np.newaxis] != columns
            if (1.0 + function.gamma * cosines[others] < -ROUNDING).any():
                raise ImageError(
                    f"a function of {symbol} with gamma {function.gamma:g} and a zeta that is no "
                    f"whole number has no value at an angle at atom {centre}: 1 + gamma cos θ "
                    "is negative there; give it a whole zeta, or leave the image out."
                )
