"""Neighbour list: every pair of atoms closer than the cutoff, with any periodicity.

Atoms are sorted into bins along the (wrapped) cell axes, and each atom looks
through the bins that can hold a neighbour: the work grows as the number of atoms.
A bin may be reached several times, as several periodic images, so that cells
thinner than the cutoff need no special treatment. Axes without periodicity are
replaced by unit vectors orthogonal to the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

BINS_PER_CUTOFF = 2.0


class NeighborList(NamedTuple):
    """Neighbours of each atom, stored one row after the other.

    Attributes
    ----------
    start : (n_atoms + 1,) int64 array
        The neighbours of atom i are entries ``start[i]`` to ``start[i + 1]``,
        sorted by their place in the order that `neighbor_list` was given.
    neighbor : (n_entries,) int64 array
        The neighbouring atom; the atom itself when it is a periodic image of it.
    vectors : (3, n_entries) float array, Å
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


_jit = nb.njit(cache=True, nogil=True)


@_jit
def _complete_axes(cell, periodic):  # type: ignore[no-untyped-def]
    """Return the cell with its axes without periodicity made orthogonal to the others."""
    axes = np.zeros((3, 3))
    done = 0
    last = 0
    for a in range(3):
        if periodic[a]:
            axes[a] = cell[a]
            done += 1
            last = a
    if done == 0:
        for a in range(3):
            axes[a, a] = 1.0
        return axes
    if done == 1:
        smallest = 0
        for c in range(3):
            if abs(axes[last, c]) < abs(axes[last, smallest]):
                smallest = c
        unit = np.zeros(3)
        unit[smallest] = 1.0
        second = (last + 1) % 3
        axes[second] = _unit_normal(axes[last], unit)
        done = 2
        periodic = periodic.copy()
        periodic[second] = True
    if done == 2:
        for a in range(3):
            if not periodic[a]:
                axes[a] = _unit_normal(axes[(a + 1) % 3], axes[(a + 2) % 3])
    return axes


@_jit
def _cross(a, b):  # type: ignore[no-untyped-def]
    result = np.empty(3)
    for c in range(3):
        d, e = (c + 1) % 3, (c + 2) % 3
        result[c] = a[d] * b[e] - a[e] * b[d]
    return result


@_jit
def _unit_normal(a, b):  # type: ignore[no-untyped-def]
    normal = _cross(a, b)
    return normal / np.sqrt((normal * normal).sum())


@_jit
def _reciprocal(axes):  # type: ignore[no-untyped-def]
    """Rows b_i with ``b_i · a_j = δ_ij``; 1/|b_i| is the height of the cell along axis i."""
    rows = np.empty((3, 3))
    for a in range(3):
        rows[a] = _cross(axes[(a + 1) % 3], axes[(a + 2) % 3])
        rows[a] /= (rows[a] * axes[a]).sum()
    return rows


@_jit
def _bin_grid(fractions, reciprocal, periodic, cutoff):  # type: ignore[no-untyped-def]
    """Lowest fraction and span of each axis, number of bins, and bins to search either side."""
    low, span = np.zeros(3), np.ones(3)
    length = np.empty(3)
    count, reach = np.empty(3, np.int64), np.empty(3, np.int64)
    n_atoms = len(fractions)
    for a in range(3):
        if not periodic[a]:
            low[a] = fractions[:, a].min()
            span[a] = fractions[:, a].max() - low[a]
        length[a] = span[a] / np.sqrt((reciprocal[a] * reciprocal[a]).sum())
        wanted = np.floor(length[a] * BINS_PER_CUTOFF / cutoff)
        count[a] = int(max(1.0, min(wanted, n_atoms)))
    while count[0] * count[1] * count[2] > max(8, 2 * n_atoms):
        largest = np.argmax(count)
        count[largest] = (count[largest] + 1) // 2
    for a in range(3):
        if length[a] > 0.0:
            bins = cutoff * count[a] / length[a] * (1.0 + 1.0e-12)
            reach[a] = np.int64(np.ceil(min(bins, 1.0e9)))
        else:
            reach[a] = 0
        if not periodic[a]:
            reach[a] = min(reach[a], count[a] - 1)
    return low, span, count, reach


@_jit
def _grown(old, size):  # type: ignore[no-untyped-def]
    new = np.empty((old.shape[0], size))
    new[:, : old.shape[1]] = old
    return new


@_jit
def _half_list(positions, axes, periodic, cutoff):  # type: ignore[no-untyped-def]
    """Each pair once: rows are first atom, second atom, the vector between, its square."""
    n_atoms = len(positions)
    reciprocal = _reciprocal(axes)
    fractions = np.empty((n_atoms, 3))
    wrapped = np.empty((n_atoms, 3))
    for i in range(n_atoms):
        for a in range(3):
            wrapped[i, a] = positions[i, a]
        for a in range(3):
            f = 0.0
            for c in range(3):
                f += reciprocal[a, c] * positions[i, c]
            if periodic[a]:
                turns = np.floor(f)
                f -= turns
                for c in range(3):
                    wrapped[i, c] -= turns * axes[a, c]
            fractions[i, a] = f

    low, span, count, reach = _bin_grid(fractions, reciprocal, periodic, cutoff)
    n_bins = count[0] * count[1] * count[2]
    place = np.empty((n_atoms, 3), np.int64)
    bin_start = np.zeros(n_bins + 1, np.int64)
    for i in range(n_atoms):
        for a in range(3):
            f = (fractions[i, a] - low[a]) / span[a] if span[a] > 0.0 else 0.0
            place[i, a] = min(np.int64(f * count[a]), count[a] - 1)
        bin_start[(place[i, 0] * count[1] + place[i, 1]) * count[2] + place[i, 2] + 1] += 1
    bin_start = np.cumsum(bin_start)
    members = np.empty(n_atoms, np.int64)
    sorted_positions = np.empty((n_atoms, 3))
    cursor = bin_start[:-1].copy()
    for i in range(n_atoms):
        b = (place[i, 0] * count[1] + place[i, 1]) * count[2] + place[i, 2]
        members[cursor[b]] = i
        sorted_positions[cursor[b]] = wrapped[i]
        cursor[b] += 1

    limit = cutoff * cutoff
    n_pairs = 0
    pairs = np.empty((6, 64 + 32 * n_atoms))
    for i in range(n_atoms):
        xi, yi, zi = wrapped[i, 0], wrapped[i, 1], wrapped[i, 2]
        for s0 in range(place[i, 0] - reach[0], place[i, 0] + reach[0] + 1):
            t0 = np.int64(np.floor(s0 / count[0]))
            if t0 != 0 and not periodic[0]:
                continue
            for s1 in range(place[i, 1] - reach[1], place[i, 1] + reach[1] + 1):
                t1 = np.int64(np.floor(s1 / count[1]))
                if t1 != 0 and not periodic[1]:
                    continue
                row = ((s0 - t0 * count[0]) * count[1] + s1 - t1 * count[1]) * count[2]
                for s2 in range(place[i, 2] - reach[2], place[i, 2] + reach[2] + 1):
                    t2 = np.int64(np.floor(s2 / count[2]))
                    if t2 != 0 and not periodic[2]:
                        continue
                    b = row + s2 - t2 * count[2]
                    ox = t0 * axes[0, 0] + t1 * axes[1, 0] + t2 * axes[2, 0]
                    oy = t0 * axes[0, 1] + t1 * axes[1, 1] + t2 * axes[2, 1]
                    oz = t0 * axes[0, 2] + t1 * axes[1, 2] + t2 * axes[2, 2]
                    ahead = t0 > 0 or (t0 == 0 and (t1 > 0 or (t1 == 0 and t2 > 0)))
                    for q in range(bin_start[b], bin_start[b + 1]):
                        j = members[q]
                        if j < i or (j == i and not ahead):
                            continue
                        dx = sorted_positions[q, 0] + ox - xi
                        dy = sorted_positions[q, 1] + oy - yi
                        dz = sorted_positions[q, 2] + oz - zi
                        square = dx * dx + dy * dy + dz * dz
                        if square < limit:
                            if n_pairs == pairs.shape[1]:
                                pairs = _grown(pairs, 2 * n_pairs)
                            pairs[0, n_pairs] = i
                            pairs[1, n_pairs] = j
                            pairs[2, n_pairs] = dx
                            pairs[3, n_pairs] = dy
                            pairs[4, n_pairs] = dz
                            pairs[5, n_pairs] = square
                            n_pairs += 1
    return pairs[:, :n_pairs]


@_jit
def _neighbor_list(positions, cell, periodic, cutoff, order):  # type: ignore[no-untyped-def]
    n_atoms = len(positions)
    pairs = _half_list(positions, _complete_axes(cell, periodic), periodic, cutoff)
    n_pairs = pairs.shape[1]
    closest = np.array([-1.0, -1.0, np.inf])
    start = np.zeros(n_atoms + 1, np.int64)
    for p in range(n_pairs):
        i, j = np.int64(pairs[0, p]), np.int64(pairs[1, p])
        start[i + 1] += 1
        start[j + 1] += 1
        if pairs[5, p] < closest[2]:
            closest[0], closest[1], closest[2] = i, j, pairs[5, p]
    start = np.cumsum(start)

    # Grouped by the neighbour first: going through the groups in order then fills sorted rows.
    of_neighbor = np.empty(2 * n_pairs, np.int64)
    cursor = start[:-1].copy()
    for p in range(n_pairs):
        i, j = np.int64(pairs[0, p]), np.int64(pairs[1, p])
        of_neighbor[cursor[j]] = 2 * p
        cursor[j] += 1
        of_neighbor[cursor[i]] = 2 * p + 1
        cursor[i] += 1
    index = np.empty(2 * n_pairs, np.int64)
    vectors = np.empty((3, 2 * n_pairs))
    squares = np.empty(2 * n_pairs)
    cursor = start[:-1].copy()
    for neighbor in order:
        for q in range(start[neighbor], start[neighbor + 1]):
            p, backward = of_neighbor[q] // 2, of_neighbor[q] % 2
            atom = np.int64(pairs[backward, p])
            sign = 1.0 - 2.0 * backward
            e = cursor[atom]
            cursor[atom] += 1
            index[e] = neighbor
            for c in range(3):
                vectors[c, e] = sign * pairs[2 + c, p]
            squares[e] = pairs[5, p]
    return start, index, vectors, squares, closest


def neighbor_list(
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    periodic: NDArray[np.bool_],
    cutoff: float,
    order: NDArray[np.int64],
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
    order : (n_atoms,) int64 array
        A permutation of the atoms: the order of each atom's neighbours.
    """
    return NeighborList(*_neighbor_list(positions, cell, periodic, cutoff, order))
