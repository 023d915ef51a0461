"""Verlet lists: neighbours that are searched once and serve as long as atoms have moved little.

The candidates of an atom are all atoms and periodic images within the cutoff radius and a skin.
While no atom has moved by more than half of the skin, no other atom can have come closer than
the cutoff radius, and each step only measures the candidates' distances.

The list has its own order of the atoms, in which those that are close to each other in space
mostly are in memory; the images that are someone's candidates stand behind them.

References
----------
L. Verlet, Phys. Rev. 159, 98 (1967).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .checks import check_cell, check_elements, check_numbers
from .compiled import SOURCES, entry
from .neighbors import bin_of, grown, make_candidates, make_grid, search_axes, wrap

if TYPE_CHECKING:
    from ase import Atoms

FloatArray = NDArray[np.float64]


@entry
def _find_candidates(positions, cell, periodic, radius, sources=SOURCES):  # type: ignore[no-untyped-def]
    n_atoms = len(positions)
    axes = search_axes(cell, periodic)
    wrapped, fractions, heights = wrap(positions, axes, periodic)
    grid = make_grid(fractions, heights, periodic, radius)
    atom, x, y, z, bin_start = make_candidates(wrapped, fractions, axes, periodic, grid)
    count, reach = grid.n_bins, grid.reach
    size1, size2 = count[1] + 2 * reach[1], count[2] + 2 * reach[2]

    # Atoms themselves lie in the bins in the middle: they are numbered bin by bin.
    number = np.full(len(atom), -1, np.int32)
    itself = np.empty(n_atoms, np.int64)
    n_owners = 0
    for e0 in range(reach[0], reach[0] + count[0]):
        for e1 in range(reach[1], reach[1] + count[1]):
            row = (e0 * size1 + e1) * size2 + reach[2]
            for q in range(bin_start[row], bin_start[row + count[2]]):
                number[q] = n_owners
                itself[n_owners] = q
                n_owners += 1

    limit = radius * radius
    square = np.empty(len(atom))
    used = np.zeros(len(atom), np.bool_)
    start = np.zeros(n_atoms + 1, np.int64)
    candidate = np.empty(64 * n_atoms, np.int32)
    n_found = 0
    for k in range(n_atoms):
        own = itself[k]
        i = atom[own]
        b0, b1 = bin_of(grid, fractions, i, 0), bin_of(grid, fractions, i, 1)
        b2 = bin_of(grid, fractions, i, 2)
        for e0 in range(b0, b0 + 2 * reach[0] + 1):
            for e1 in range(b1, b1 + 2 * reach[1] + 1):
                row = (e0 * size1 + e1) * size2 + b2
                begin, end = bin_start[row], bin_start[row + 2 * reach[2] + 1]
                if n_found + end - begin > len(candidate):
                    candidate = grown(candidate, n_found + end - begin)
                for q in range(begin, end):
                    square[q] = (x[q] - x[own]) ** 2 + (y[q] - y[own]) ** 2 + (z[q] - z[own]) ** 2
                for q in range(begin, end):
                    candidate[n_found] = q
                    if square[q] < limit and q != own:
                        used[q] = True
                        n_found += 1
        start[k + 1] = n_found

    for q in range(len(atom)):
        if number[q] < 0 and used[q]:
            number[q] = n_owners
            n_owners += 1
    owner = np.empty(n_owners, np.int64)
    shift = np.empty((n_owners, 3))
    for q in range(len(atom)):
        k = number[q]
        if k >= 0:
            i = atom[q]
            owner[k] = i
            shift[k, 0] = x[q] - positions[i, 0]
            shift[k, 1] = y[q] - positions[i, 1]
            shift[k, 2] = z[q] - positions[i, 2]
    chosen = np.empty(n_found, np.int32)
    for c in range(n_found):
        chosen[c] = number[candidate[c]]
    return owner, shift, start, chosen


@entry
def _place(positions, reference, owner, shift, placed, sources=SOURCES):  # type: ignore[no-untyped-def]
    """Fill the positions of all atoms and images; return the largest squared displacement."""
    farthest = 0.0
    for i in range(len(positions)):
        square = 0.0
        for d in range(3):
            square += (positions[i, d] - reference[i, d]) ** 2
        if not square <= farthest:  # true of NaN, too
            farthest = square
            if farthest != farthest:
                return farthest
    for k in range(len(owner)):
        for d in range(3):
            placed[k, d] = positions[owner[k], d] + shift[k, d]
    return farthest


@entry
def _fold(forces, owner, n_atoms, sources=SOURCES):  # type: ignore[no-untyped-def]
    total = np.zeros((n_atoms, 3))
    for k in range(len(owner)):
        for d in range(3):
            total[owner[k], d] += forces[k, d]
    return total


class Candidates(NamedTuple):
    """Atoms, their images, and who may be whose neighbour.

    Attributes
    ----------
    positions : (n_owners, 3) float array, Å
        Of the atoms in the list's order, then of images; overwritten by the next step.
    owner : (n_owners,) int64 array
        Which atom each of them is, or is an image of.
    species : (n_owners,) int64 array
        Species of each of them.
    start : (n_atoms + 1,) int64 array
        The candidates of atom ``owner[k]`` are ``start[k]`` to ``start[k + 1]``.
    candidate : (n_candidates,) int32 array
        Numbers of atoms and images.
    """

    positions: FloatArray
    owner: NDArray[np.int64]
    species: NDArray[np.int64]
    start: NDArray[np.int64]
    candidate: NDArray[np.int32]

    def fold(self, forces: FloatArray) -> FloatArray:
        """Return forces (n_atoms, 3) on the atoms from forces (n_owners, 3), images included."""
        total: FloatArray = _fold(forces, self.owner, len(self.start) - 1)
        return total

    def unsort(self, values: FloatArray) -> FloatArray:
        """Return values (…, n_atoms) in the atoms' order from those in the list's order."""
        result = np.empty_like(values)
        result[..., self.owner[: len(self.start) - 1]] = values
        return result


class VerletList:
    """The candidates of one image after the other, searched anew where it has to be.

    Parameters
    ----------
    species_of : (120,) int64 array
        Species of each atomic number; -1 for none.
    elements : tuple of str
        The elements that have one, for the message of an image with another.
    cutoff : float, Å
        Neighbours are closer than this.
    skin : float, Å
        Candidates are closer than this and the cutoff together.
    """

    def __init__(
        self, species_of: NDArray[np.int64], elements: tuple[str, ...], cutoff: float, skin: float
    ) -> None:
        self._species_of, self._elements = species_of, elements
        self._cutoff, self._skin = cutoff, skin
        self._found: Candidates | None = None
        self._shift = self._reference = np.empty((0, 3))
        self._image: tuple[Any, ...] = ()
        self.n_searches = 0
        """How often candidates have been searched."""

    def of(self, atoms: Atoms) -> Candidates:
        """Return the candidates of an image.

        Raises
        ------
        ImageError
            When the image cannot be used. Overlapping atoms are not looked for.
        """
        found = self._found
        if found is not None and self._is_same(atoms):
            positions = np.array(atoms.positions, dtype=float, order="C")
            moved = _place(positions, self._reference, found.owner, self._shift, found.positions)
            if moved <= (0.5 * self._skin) ** 2:
                return found
        self._found = self._search(atoms)
        return self._found

    def _is_same(self, atoms: Atoms) -> bool:
        """Whether nothing but positions differs from the image whose candidates were searched."""
        numbers, cell, periodic = self._image
        return bool(
            len(numbers) == len(atoms.numbers)
            and (numbers == atoms.numbers).all()
            and (cell == atoms.cell.array).all()
            and (periodic == atoms.pbc).all()
        )

    def _search(self, atoms: Atoms) -> Candidates:
        self._found = None
        check_numbers(atoms)
        numbers = np.array(atoms.numbers)
        species = self._species_of[numbers]
        check_elements(atoms, species, self._elements)
        positions = np.array(atoms.positions, dtype=float, order="C")
        cell = np.array(atoms.cell.array, dtype=float, order="C")
        periodic = np.array(atoms.pbc, dtype=bool)
        check_cell(cell, periodic, len(atoms), self._cutoff)
        radius = self._cutoff + self._skin
        owner, shift, start, candidate = _find_candidates(positions, cell, periodic, radius)
        self.n_searches += 1
        self._image, self._reference, self._shift = (numbers, cell, periodic), positions, shift
        placed = positions[owner] + shift
        return Candidates(placed, owner, species[owner], start, candidate)
