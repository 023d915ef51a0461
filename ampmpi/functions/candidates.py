"""Candidates for symmetry functions, from the shortest distances and the cutoff.

Three kinds for each centre, in the spirit of Gastegger et al.:

- G2 centred on the atom, of widths from the shortest distance to the cutoff;
- G2 centred on shells between these, as wide as the shells are apart, for several
  numbers of shells;
- G4 for each pair of elements, over widths, ζ and γ = ±1.

References
----------
M. Gastegger, L. Schwiedrzik, M. Bittermann, F. Berzsenyi and P. Marquetand,
J. Chem. Phys. 148, 241709 (2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any, TypeAlias

import numpy as np

Function: TypeAlias = dict[str, Any]
"""A symmetry function, as `Gaussian` takes it."""

MOST = 340
"""Candidates of an element beyond which a coarser grid is taken."""

CLOSER = 0.9
"""The innermost functions are placed at this part of the shortest distance."""

SHORTEST = 0.3
"""Å; no function is narrower or placed farther inside."""


@dataclass(frozen=True)
class Grid:
    """How many candidates of each kind there are."""

    n_centred: int
    shells: tuple[int, ...]
    n_angular_widths: int
    zetas: tuple[float, ...]

    def count(self, n_elements: int) -> int:
        """Return the number of candidates of one centre."""
        pairs = n_elements * (n_elements + 1) // 2
        radial = n_elements * (self.n_centred + sum(self.shells))
        return radial + pairs * self.n_angular_widths * len(self.zetas) * 2


GRIDS = (
    Grid(8, (5, 10, 16), 4, (1.0, 2.0, 4.0, 16.0)),
    Grid(8, (5, 10, 16), 3, (1.0, 4.0, 16.0)),
    Grid(6, (5, 10), 2, (1.0, 4.0, 16.0)),
    Grid(4, (8,), 2, (1.0, 4.0)),
)


def make_candidates(
    elements: Sequence[str], shortest: Mapping[tuple[str, str], float], cutoff: float
) -> dict[str, list[Function]]:
    """Return the candidates of each element.

    Parameters
    ----------
    elements : sequence of str
        Elements of the set, sorted.
    shortest : mapping of (str, str) to float, Å
        Shortest distance from an atom of the first element to one of the second, for
        pairs that occur within the cutoff.
    cutoff : float, Å
        Cutoff radius.
    """
    grid = next((grid for grid in GRIDS if grid.count(len(elements)) <= MOST), GRIDS[-1])
    return {
        element: [
            *(
                function
                for other in elements
                if (element, other) in shortest
                for function in _radial(other, shortest[element, other], cutoff, grid)
            ),
            *_angular(element, elements, shortest, cutoff, grid),
        ]
        for element in elements
    }


def _radial(other: str, shortest: float, cutoff: float, grid: Grid) -> list[Function]:
    inner = min(max(CLOSER * shortest, SHORTEST), 0.9 * cutoff)
    found = [
        _g2(other, width, 0.0, cutoff) for width in np.geomspace(inner, cutoff, grid.n_centred)
    ]
    for n in grid.shells:
        edges = np.linspace(inner, cutoff, n + 1)
        found += [_g2(other, edges[1] - edges[0], offset, cutoff) for offset in edges[:-1]]
    return found


def _angular(
    element: str,
    elements: Sequence[str],
    shortest: Mapping[tuple[str, str], float],
    cutoff: float,
    grid: Grid,
) -> list[Function]:
    near = {other: shortest[element, other] for other in elements if (element, other) in shortest}
    if not near:
        return []
    inner = max(min(near.values()), SHORTEST)
    widths = np.geomspace(min(1.5 * inner, 0.7 * cutoff), 0.8 * cutoff, grid.n_angular_widths - 1)
    etas = [0.005, *(_eta(width, cutoff) for width in widths)]
    return [
        {"type": "G4", "elements": [a, b], "eta": eta, "gamma": gamma, "zeta": zeta}
        for a, b in combinations_with_replacement([e for e in elements if e in near], 2)
        for eta in etas
        for zeta in grid.zetas
        for gamma in (1.0, -1.0)
    ]


def _g2(other: str, width: float, offset: float, cutoff: float) -> Function:
    return {
        "type": "G2",
        "element": other,
        "eta": _eta(width, cutoff),
        "offset": _rounded(offset),
    }


def _eta(width: float, cutoff: float) -> float:
    """Return η, in 1/Rc², of a Gaussian whose standard deviation is `width`, Å."""
    return _rounded(0.5 * (cutoff / width) ** 2)


def _rounded(value: float) -> float:
    """Keep four digits, for people who read the file."""
    return float(f"{value:.4g}")
