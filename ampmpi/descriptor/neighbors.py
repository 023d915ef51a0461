"""Neighbour list: every pair of atoms closer than the cutoff, with any periodicity.

The atoms and those of their periodic images that can be neighbours are sorted
into a grid of bins, laid out along the axes of the reduced cell. An atom then
looks through rows of bins, in which candidates lie one after the other: the
work grows as the number of atoms. Cells thinner than the cutoff need no special
treatment, they only have more images. Axes without periodicity are replaced by
unit vectors orthogonal to the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .checks import FARTHEST
from .compiled import SOURCES, entry, inner

BINS_PER_CUTOFF = 2.0


class NeighborList(NamedTuple):
    """Neighbours of each atom, stored one atom after the other.

    Attributes
    ----------
    start : (n_atoms + 1,) int64 array
        The neighbours of atom i are entries ``start[i]`` to ``start[i + 1]``,
        grouped by species in ascending order.
    neighbor : (n_entries,) int64 array
        The neighbouring atom; the atom itself when it is a periodic image of it.
    vectors : (n_entries, 3) float array, Å
        From the atom to the neighbour.
    squares : (n_entries,) float array, Å²
        Squared distances.
    closest : (3,) float array
        The two atoms that are closest, and their squared distance (infinity
        when no atom has a neighbour).
    """

    start: NDArray[np.int64]
    neighbor: NDArray[np.int64]
    vectors: NDArray[np.float64]
    squares: NDArray[np.float64]
    closest: NDArray[np.float64]


class _Grid(NamedTuple):
    """Bins along the three axes.

    Attributes
    ----------
    low, scale : (3,) float array
        A fractional coordinate f lies in bin ``(f − low)·scale``.
    n_bins : (3,) int64 array
        Bins that the atoms themselves occupy.
    reach : (3,) int64 array
        Bins to look through on either side; the grid is as much longer at both ends.
    """

    low: NDArray[np.float64]
    scale: NDArray[np.float64]
    n_bins: NDArray[np.int64]
    reach: NDArray[np.int64]


class _Candidates(NamedTuple):
    """Atoms and images in the order of their bins: atom and place of each, first of each bin."""

    atom: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    z: NDArray[np.float64]
    bin_start: NDArray[np.int64]


@inner
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inner
def _cross(a, b, result):
    for c in range(3):
        d, e = (c + 1) % 3, (c + 2) % 3
        result[c] = a[d] * b[e] - a[e] * b[d]


@inner
def _scale(a, factor):
    for c in range(3):
        a[c] *= factor


@inner
def _reduce(axes, periodic):
    """Shorten periodic axes by whole numbers of the others, in place; the lattice stays."""
    shorter = np.empty(3)
    changed = True
    while changed:
        changed = False
        for a in range(3):
            for b in range(3):
                if a != b and periodic[a] and periodic[b]:
                    turns = np.rint(_dot(axes[a], axes[b]) / _dot(axes[b], axes[b]))
                    for c in range(3):
                        shorter[c] = axes[a, c] - turns * axes[b, c]
                    if _dot(shorter, shorter) < 0.999999 * _dot(axes[a], axes[a]):
                        for c in range(3):
                            axes[a, c] = shorter[c]
                        changed = True


@inner
def search_axes(cell, periodic):
    """Axes of the reduced cell, those without periodicity orthogonal to the others."""
    axes = np.empty((3, 3))
    known = np.empty(3, np.bool_)
    n_known = 0
    for a in range(3):
        known[a] = periodic[a]
        n_known += known[a]
        for c in range(3):
            axes[a, c] = cell[a, c] if periodic[a] else 0.0
    _reduce(axes, periodic)
    if n_known == 0:
        axes[0, 0] = 1.0
        known[0] = True
        n_known = 1
    if n_known == 1:
        first = 0
        for a in range(3):
            if known[a]:
                first = a
        smallest = 0
        for c in range(3):
            if abs(axes[first, c]) < abs(axes[first, smallest]):
                smallest = c
        unit = np.zeros(3)
        unit[smallest] = 1.0
        second = (first + 1) % 3
        _cross(axes[first], unit, axes[second])
        _scale(axes[second], 1.0 / np.sqrt(_dot(axes[second], axes[second])))
        known[second] = True
    for a in range(3):
        if not known[a]:
            _cross(axes[(a + 1) % 3], axes[(a + 2) % 3], axes[a])
            _scale(axes[a], 1.0 / np.sqrt(_dot(axes[a], axes[a])))
    return axes


@inner
def wrap(positions, axes, periodic):
    """Positions in the cell along periodic axes, the fractions of axes, and the cell's heights."""
    n_atoms = len(positions)
    wrapped = np.empty((n_atoms, 3))
    fractions = np.empty((n_atoms, 3))
    heights = np.empty(3)
    reciprocal = np.empty(3)
    for i in range(n_atoms):
        for c in range(3):
            wrapped[i, c] = positions[i, c]
    for a in range(3):
        _cross(axes[(a + 1) % 3], axes[(a + 2) % 3], reciprocal)
        _scale(reciprocal, 1.0 / _dot(reciprocal, axes[a]))
        heights[a] = 1.0 / np.sqrt(_dot(reciprocal, reciprocal))
        for i in range(n_atoms):
            f = _dot(reciprocal, positions[i])
            if periodic[a]:
                turns = np.floor(f)
                f -= turns
                for c in range(3):
                    wrapped[i, c] -= turns * axes[a, c]
            fractions[i, a] = f
    return wrapped, fractions, heights


@inner
def make_grid(fractions, heights, periodic, cutoff):
    """Return the bins for a search within a cutoff."""
    n_atoms = len(fractions)
    low, span, length = np.zeros(3), np.ones(3), np.empty(3)
    count, reach = np.ones(3, np.int64), np.zeros(3, np.int64)
    for a in range(3):
        if not periodic[a]:
            low[a] = high = fractions[0, a]
            for i in range(n_atoms):
                low[a] = min(low[a], fractions[i, a])
                high = max(high, fractions[i, a])
            span[a] = high - low[a]
        length[a] = span[a] * heights[a]
        wanted = np.floor(length[a] * BINS_PER_CUTOFF / cutoff)
        count[a] = int(max(1.0, min(wanted, n_atoms)))
    while count[0] * count[1] * count[2] > max(8, 2 * n_atoms):
        largest = 0
        for a in range(3):
            if count[a] > count[largest]:
                largest = a
        count[largest] = (count[largest] + 1) // 2
    scale = np.zeros(3)
    for a in range(3):
        if periodic[a]:
            reach[a] = int(np.ceil(cutoff * count[a] / length[a] * (1.0 + 1.0e-12)))
        elif length[a] > 0.0:
            bins = np.ceil(min(cutoff * count[a] / length[a], 1.0e9) * (1.0 + 1.0e-12))
            reach[a] = min(int(bins), count[a] - 1)
        if span[a] > 0.0:
            scale[a] = count[a] / span[a]
    return _Grid(low, scale, count, reach)


@inner
def bin_of(grid, fractions, i, a):
    """Return the bin of atom i along axis a."""
    place = int((fractions[i, a] - grid.low[a]) * grid.scale[a])
    return min(place, grid.n_bins[a] - 1)


@inner
def _images(place, a, grid, periodic):
    """First and last turn along an axis that bring an atom from its bin into the grid."""
    if not periodic[a]:
        return 0, 0
    count, reach = grid.n_bins[a], grid.reach[a]
    return -((reach + place) // count), (count + reach - 1 - place) // count


@inner
def make_candidates(wrapped, fractions, axes, periodic, grid):
    """Return atoms and images in the order of their bins."""
    n_atoms = len(wrapped)
    count, reach = grid.n_bins, grid.reach
    size0, size1, size2 = (
        count[0] + 2 * reach[0],
        count[1] + 2 * reach[1],
        count[2] + 2 * reach[2],
    )
    bin_start = np.zeros(size0 * size1 * size2 + 1, np.int64)
    for fill in range(2):  # count first, then place
        if fill:
            n_candidates = 0
            for b in range(len(bin_start)):
                n_candidates += bin_start[b]
                bin_start[b] = n_candidates - bin_start[b]
            atom = np.empty(n_candidates, np.int64)
            x, y, z = np.empty(n_candidates), np.empty(n_candidates), np.empty(n_candidates)
        for i in range(n_atoms):
            p0 = bin_of(grid, fractions, i, 0)
            p1 = bin_of(grid, fractions, i, 1)
            p2 = bin_of(grid, fractions, i, 2)
            first0, last0 = _images(p0, 0, grid, periodic)
            first1, last1 = _images(p1, 1, grid, periodic)
            first2, last2 = _images(p2, 2, grid, periodic)
            for t0 in range(first0, last0 + 1):
                row0 = (p0 + reach[0] + t0 * count[0]) * size1
                for t1 in range(first1, last1 + 1):
                    row1 = (row0 + p1 + reach[1] + t1 * count[1]) * size2
                    for t2 in range(first2, last2 + 1):
                        b = row1 + p2 + reach[2] + t2 * count[2]
                        if fill:
                            q = bin_start[b]
                            atom[q] = i
                            x[q] = wrapped[i, 0] + (
                                t0 * axes[0, 0] + t1 * axes[1, 0] + t2 * axes[2, 0]
                            )
                            y[q] = wrapped[i, 1] + (
                                t0 * axes[0, 1] + t1 * axes[1, 1] + t2 * axes[2, 1]
                            )
                            z[q] = wrapped[i, 2] + (
                                t0 * axes[0, 2] + t1 * axes[1, 2] + t2 * axes[2, 2]
                            )
                        bin_start[b] += 1
    for b in range(len(bin_start) - 1, 0, -1):
        bin_start[b] = bin_start[b - 1]
    bin_start[0] = 0
    return _Candidates(atom, x, y, z, bin_start)


@inner
def grown(old, needed):
    """Return a copy of an array with at least twice its room."""
    new = np.empty(max(needed, 2 * len(old)), old.dtype)
    for index in range(len(old)):
        new[index] = old[index]
    return new


@inner
def can_be_searched(positions, cell, species):
    """Whether there are atoms, all of known species and at finite positions that are not too far.

    What is wrong otherwise, the checks of `checks` say.
    """
    for i in range(len(positions)):
        if species[i] < 0:
            return False
        for d in range(3):
            if not abs(positions[i, d]) <= FARTHEST:
                return False
    for a in range(3):
        for d in range(3):
            if not np.isfinite(cell[a, d]):
                return False
    return len(positions) > 0


@inner
def find_neighbors(positions, cell, periodic, cutoff, species, n_species):
    """Return the fields of a `NeighborList`; the arguments are those of `neighbor_list`."""
    n_atoms = len(positions)
    axes = search_axes(cell, periodic)
    wrapped, fractions, heights = wrap(positions, axes, periodic)
    grid = make_grid(fractions, heights, periodic, cutoff)
    atom, x, y, z, bin_start = make_candidates(wrapped, fractions, axes, periodic, grid)
    size1 = grid.n_bins[1] + 2 * grid.reach[1]
    size2 = grid.n_bins[2] + 2 * grid.reach[2]

    limit = cutoff * cutoff
    square = np.empty(len(atom))
    found = np.empty(len(atom), np.int64)
    cursor = np.empty(n_species + 1, np.int64)
    closest = np.array([-1.0, -1.0, np.inf])
    start = np.zeros(n_atoms + 1, np.int64)
    neighbor = np.empty(64 * n_atoms, np.int64)
    vectors = np.empty(3 * 64 * n_atoms)
    squares = np.empty(64 * n_atoms)
    for i in range(n_atoms):
        xi, yi, zi = wrapped[i, 0], wrapped[i, 1], wrapped[i, 2]
        b0, b1, b2 = (
            bin_of(grid, fractions, i, 0),
            bin_of(grid, fractions, i, 1),
            bin_of(grid, fractions, i, 2),
        )
        n_found = 0
        for e0 in range(b0, b0 + 2 * grid.reach[0] + 1):
            for e1 in range(b1, b1 + 2 * grid.reach[1] + 1):
                row = (e0 * size1 + e1) * size2 + b2
                begin, end = bin_start[row], bin_start[row + 2 * grid.reach[2] + 1]
                for q in range(begin, end):
                    square[q] = (x[q] - xi) ** 2 + (y[q] - yi) ** 2 + (z[q] - zi) ** 2
                for q in range(begin, end):
                    found[n_found] = q
                    n_found += square[q] < limit

        # The atom itself is among them, at distance 0: the first of its kind is left out.
        first = start[i]
        start[i + 1] = first + n_found - 1
        if start[i + 1] > len(neighbor):
            neighbor = grown(neighbor, start[i + 1])
            vectors = grown(vectors, 3 * start[i + 1])
            squares = grown(squares, start[i + 1])
        for s in range(n_species + 1):
            cursor[s] = 0
        cursor[species[i] + 1] = -1
        for f in range(n_found):
            cursor[species[atom[found[f]]] + 1] += 1
        cursor[0] = first
        for s in range(n_species):
            cursor[s + 1] += cursor[s]
        seen = False
        for f in range(n_found):
            q = found[f]
            j = atom[q]
            if j == i and square[q] == 0.0 and not seen:
                seen = True
                continue
            if square[q] < closest[2]:
                closest[0], closest[1], closest[2] = i, j, square[q]
            k = cursor[species[j]]
            cursor[species[j]] += 1
            neighbor[k] = j
            vectors[3 * k] = x[q] - xi
            vectors[3 * k + 1] = y[q] - yi
            vectors[3 * k + 2] = z[q] - zi
            squares[k] = square[q]
    n = start[n_atoms]
    return start, neighbor[:n], vectors[: 3 * n].reshape(n, 3), squares[:n], closest


@entry
def _neighbor_list(positions, cell, periodic, cutoff, species, n_species, sources=SOURCES):
    return find_neighbors(positions, cell, periodic, cutoff, species, n_species)


def neighbor_list(
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    periodic: NDArray[np.bool_],
    cutoff: float,
    species: NDArray[np.int64],
    n_species: int,
) -> NeighborList:
    """Find all neighbours closer than the cutoff.

    Parameters
    ----------
    positions : (n_atoms, 3) float array, Å
        Positions, inside the cell or not; finite.
    cell : (3, 3) float array, Å
        Cell vectors as rows; those along periodic axes must be independent.
    periodic : (3,) bool array
        Which axes are periodic.
    cutoff : float, Å
        Neighbours are closer than this.
    species : (n_atoms,) int64 array
        Number of each atom's species, by which neighbours are grouped.
    n_species : int
        Number of species.
    """
    return NeighborList(*_neighbor_list(positions, cell, periodic, cutoff, species, n_species))


@entry
def _neighbors_among(
    first, positions, candidate_start, candidate, species, n_species, cutoff, sources=SOURCES
):
    n_centres = len(candidate_start) - 1
    limit = cutoff * cutoff
    closest = np.array([-1.0, -1.0, np.inf])
    start = np.zeros(n_centres + 1, np.int64)
    n_candidates = candidate_start[n_centres] - candidate_start[0]
    neighbor = np.empty(n_candidates, np.int64)
    vectors = np.empty((n_candidates, 3))
    squares = np.empty(n_candidates)
    most = 0
    for i in range(n_centres):
        most = max(most, candidate_start[i + 1] - candidate_start[i])
    found = np.empty(most, np.int64)
    square = np.empty(most)
    cursor = np.empty(n_species + 1, np.int64)
    for i in range(n_centres):
        begin, end = candidate_start[i], candidate_start[i + 1]
        centre = first + i
        xi, yi, zi = positions[centre, 0], positions[centre, 1], positions[centre, 2]
        n_found = 0
        cursor[:] = 0
        for q in range(begin, end):
            j = candidate[q]
            x, y, z = positions[j, 0] - xi, positions[j, 1] - yi, positions[j, 2] - zi
            found[n_found] = j
            square[n_found] = x * x + y * y + z * z
            n_found += square[n_found] < limit
        for f in range(n_found):
            cursor[species[found[f]] + 1] += 1
        cursor[0] = start[i]
        for s in range(n_species):
            cursor[s + 1] += cursor[s]
        start[i + 1] = start[i] + n_found
        for f in range(n_found):
            j = found[f]
            k = cursor[species[j]]
            cursor[species[j]] += 1
            neighbor[k] = j
            vectors[k, 0] = positions[j, 0] - xi
            vectors[k, 1] = positions[j, 1] - yi
            vectors[k, 2] = positions[j, 2] - zi
            squares[k] = square[f]
            if square[f] < closest[2]:
                closest[0], closest[1], closest[2] = centre, j, square[f]
    n = start[n_centres]
    return start, neighbor[:n], vectors[:n], squares[:n], closest


def neighbors_among(
    positions: NDArray[np.float64],
    candidate_start: NDArray[np.int64],
    candidate: NDArray[np.int32],
    species: NDArray[np.int64],
    n_species: int,
    cutoff: float,
    first: int = 0,
) -> NeighborList:
    """Choose the neighbours of some atoms from candidates.

    There are no periodic images here: those that matter are atoms of their own, behind the
    others.

    Parameters
    ----------
    positions : (n_atoms, 3) float array, Å
        Positions of all atoms.
    candidate_start : (n_centres + 1,) int64 array
        The candidates of atom ``first + i`` are ``candidate_start[i]`` to
        ``candidate_start[i + 1]``.
    candidate : (n_candidates,) int32 array
        Atoms that may be closer than the cutoff; never the atom itself.
    species : (n_atoms,) int64 array
        Number of each atom's species, by which neighbours are grouped.
    n_species : int
        Number of species.
    cutoff : float, Å
        Neighbours are closer than this.
    first : int
        The first atom whose neighbours are wanted.
    """
    return NeighborList(
        *_neighbors_among(first, positions, candidate_start, candidate, species, n_species, cutoff)
    )


@inner
def _sorted_by(keys, order, n_keys):
    """Sort the indices in `order` by their keys, all below `n_keys`; ties keep their order."""
    cursor = np.zeros(n_keys + 1, np.int64)
    for index in order:
        cursor[keys[index] + 1] += 1
    for key in range(n_keys):
        cursor[key + 1] += cursor[key]
    result = np.empty(len(order), np.int64)
    for index in order:
        result[cursor[keys[index]]] = index
        cursor[keys[index]] += 1
    return result


@entry
def derivative_pairs(start, neighbor, sources=SOURCES):
    """Find which atoms move which features.

    Returns
    -------
    pairs : (n_pairs, 2) int32 array
        Pairs (m, n) of an atom and a centre that it is a neighbour of, or is
        itself, sorted by n, then m.
    slots : (n_entries + n_atoms,) int64 array
        The pair of each entry of the neighbour list, then of each atom itself.
    """
    n_atoms = len(start) - 1
    n_entries = len(neighbor)
    centre = np.empty(n_entries + n_atoms, np.int64)
    moved = np.empty(n_entries + n_atoms, np.int64)
    for n in range(n_atoms):
        for q in range(start[n], start[n + 1]):
            centre[q] = n
            moved[q] = neighbor[q]
        centre[n_entries + n] = n
        moved[n_entries + n] = n
    by_moved = _sorted_by(moved, np.arange(n_entries + n_atoms), n_atoms)
    by_centre = _sorted_by(centre, by_moved, n_atoms)
    slots = np.empty(n_entries + n_atoms, np.int64)
    pairs = np.empty((n_entries + n_atoms, 2), np.int32)
    n_pairs = 0
    for q in by_centre:
        m, n = moved[q], centre[q]
        if n_pairs == 0 or pairs[n_pairs - 1, 0] != m or pairs[n_pairs - 1, 1] != n:
            pairs[n_pairs, 0] = m
            pairs[n_pairs, 1] = n
            n_pairs += 1
        slots[q] = n_pairs - 1
    return pairs[:n_pairs], slots
