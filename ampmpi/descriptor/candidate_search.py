"""The search for candidates, which `candidates` explains."""

from __future__ import annotations

import numpy as np

from .compiled import SOURCES, entry

BINS_PER_RADIUS = 2.0


@entry
def find_candidates(positions, n_centres, radius, sources=SOURCES):
    """Return what `candidates_among` does; there must be a centre."""
    n_atoms = len(positions)
    low, scale = np.zeros(3), np.zeros(3)
    count, reach = np.ones(3, np.int64), np.zeros(3, np.int64)
    length = np.zeros(3)
    for a in range(3):
        low[a] = high = positions[0, a]
        for i in range(n_atoms):
            low[a] = min(low[a], positions[i, a])
            high = max(high, positions[i, a])
        length[a] = high - low[a]
        count[a] = int(max(1.0, min(np.floor(length[a] * BINS_PER_RADIUS / radius), n_atoms)))
    while count[0] * count[1] * count[2] > max(8, 2 * n_atoms):
        largest = 0
        for a in range(3):
            if count[a] > count[largest]:
                largest = a
        count[largest] = (count[largest] + 1) // 2
    for a in range(3):
        if length[a] > 0.0:
            scale[a] = count[a] / length[a]
            bins = np.ceil(min(radius * scale[a], 1.0e9) * (1.0 + 1.0e-12))
            reach[a] = min(int(bins), count[a] - 1)

    place = np.empty((n_atoms, 3), np.int64)
    bin_start = np.zeros(count[0] * count[1] * count[2] + 2, np.int64)
    for i in range(n_atoms):
        for a in range(3):
            place[i, a] = min(int((positions[i, a] - low[a]) * scale[a]), count[a] - 1)
        bin_start[(place[i, 0] * count[1] + place[i, 1]) * count[2] + place[i, 2] + 2] += 1
    for b in range(2, len(bin_start)):
        bin_start[b] += bin_start[b - 1]
    atom = np.empty(n_atoms, np.int32)
    x, y, z = np.empty(n_atoms), np.empty(n_atoms), np.empty(n_atoms)
    for i in range(n_atoms):
        b = (place[i, 0] * count[1] + place[i, 1]) * count[2] + place[i, 2] + 1
        q = bin_start[b]
        bin_start[b] += 1
        atom[q] = i
        x[q], y[q], z[q] = positions[i, 0], positions[i, 1], positions[i, 2]

    limit = radius * radius
    start = np.zeros(n_centres + 1, np.int64)
    found = np.empty(64 * n_centres + n_atoms, np.int32)
    n_found = 0
    for i in range(n_centres):
        if len(found) < n_found + n_atoms:
            longer = np.empty(2 * len(found) + n_atoms, np.int32)
            for f in range(n_found):
                longer[f] = found[f]
            found = longer
        first2 = max(0, place[i, 2] - reach[2])
        last2 = min(count[2] - 1, place[i, 2] + reach[2])
        for b0 in range(max(0, place[i, 0] - reach[0]), min(count[0], place[i, 0] + reach[0] + 1)):
            for b1 in range(
                max(0, place[i, 1] - reach[1]), min(count[1], place[i, 1] + reach[1] + 1)
            ):
                row = (b0 * count[1] + b1) * count[2]
                for q in range(bin_start[row + first2], bin_start[row + last2 + 1]):
                    found[n_found] = atom[q]
                    square = (
                        (x[q] - positions[i, 0]) ** 2
                        + (y[q] - positions[i, 1]) ** 2
                        + (z[q] - positions[i, 2]) ** 2
                    )
                    n_found += square < limit and atom[q] != i
        start[i + 1] = n_found
    return start, found[:n_found].copy()
