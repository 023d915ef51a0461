"""Shortest distances in an image, and whether they can be those of its elements in Å."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii, vdw_radii

from ampmpi.images.checks import problem
from ampmpi.images.units import LENGTHS

if TYPE_CHECKING:
    from ase import Atoms

Pairs = dict[tuple[str, str], float]
"""Shortest distance in Å by pair of elements, the two in alphabetical order."""

ENTRIES = 2_000_000
"""Pairs of atoms that are looked at in one image; of larger ones, not every atom's neighbours."""

LOOSE = frozenset({"He", "Ne", "Ar", "Kr", "Xe", "Rn"})
"""Elements without bonds: their van der Waals radii stand in for covalent ones."""

SHORT, LONG = 0.55, 1.55
"""Shortest distances, as parts of the sum of covalent radii, between which a set usually is:
Å taken for Bohr make them 0.53 times, Bohr taken for Å 1.9 times what they are."""

USUAL = (0.72, 1.4)
"""Between which a set has to be after its unit was corrected."""


def shortest(atoms: Atoms) -> Pairs:
    """Return the shortest distance of each pair of elements, periodic images included."""
    from ase.geometry import minkowski_reduce

    n, periodic = len(atoms), np.flatnonzero(atoms.pbc)
    positions, cell = atoms.positions, np.array(atoms.cell.array)
    if problem(atoms) is not None:
        return {}
    if len(periodic):
        reduced = np.array(minkowski_reduce(cell, atoms.pbc)[0])  # type: ignore[no-untyped-call]
        axes = reduced[periodic]
    rows = np.unique(np.linspace(0, n - 1, max(1, min(n, ENTRIES // n))).astype(int))
    vectors = positions[rows, None] - positions[None]
    shifts = np.zeros((1, 3))
    if len(periodic):
        vectors -= np.rint(vectors @ np.linalg.pinv(axes)) @ axes
        # One of each shift and its opposite: every pair is there in both orders.
        turns = [
            turn
            for turn in product((0, 1, -1), repeat=len(periodic))
            if turn >= (0,) * len(periodic)
        ]
        shifts = np.array(turns if len(rows) == n else [*turns, *-np.array(turns)]) @ axes
    squares = np.full((len(rows), n), np.inf)
    for number, shift in enumerate(shifts):
        moved = vectors + shift if number else vectors
        found = np.einsum("ijk,ijk->ij", moved, moved)
        if not number:
            found[np.arange(len(rows)), rows] = np.inf
        np.minimum(squares, found, out=squares, where=found > 0.0 if number else True)
    kinds = {chemical_symbols[z]: atoms.numbers == z for z in np.unique(atoms.numbers)}
    pairs: Pairs = {}
    for a, is_a in kinds.items():
        nearest = squares[:, is_a].min(axis=1)
        for b, is_b in kinds.items():
            least = float(np.sqrt(nearest[is_b[rows]].min(initial=np.inf)))
            if np.isfinite(least):
                pair = min(a, b), max(a, b)
                pairs[pair] = min(least, pairs.get(pair, np.inf))
    return pairs


def ratio(pairs: Mapping[tuple[str, str], float]) -> float | None:
    """Return the smallest distance as part of the sum of radii; None where no pair has one."""
    parts = [
        distance / _bond(a, b) for (a, b), distance in pairs.items() if (a in LOOSE) == (b in LOOSE)
    ]
    return min(parts) if parts else None


def _bond(a: str, b: str) -> float:
    radii = vdw_radii if a in LOOSE else covalent_radii
    return float(radii[[atomic_numbers[a], atomic_numbers[b]]].sum())


def merge(parts: Sequence[Mapping[tuple[str, str], float]]) -> Pairs:
    """Return the shortest distances of several images."""
    merged: Pairs = {}
    for part in parts:
        for pair, distance in part.items():
            merged[pair] = min(distance, merged.get(pair, np.inf))
    return merged


def likely_unit(found: float, read_as: str) -> str | None:
    """Return the unit of length that makes distances usual, or None.

    Parameters
    ----------
    found : float
        Distances as part of the sum of covalent radii.
    read_as : str
        The unit for which the numbers in the file were taken.
    """
    for name, value in LENGTHS.items():
        if name != read_as and USUAL[0] <= found * value / LENGTHS[read_as] <= USUAL[1]:
            return name
    return None
