"""Kernels: features, derivatives and forces of all atoms, on arrays alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .compiled import SOURCES, entry, inner
from .sums import add_gradient, group_values, make_work, pair_values, prepare

if TYPE_CHECKING:
    from .neighbors import NeighborList
    from .plan import Plan

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]


@entry
def add_values(species, start, neighbor, vectors, squares, plan, values, sources=SOURCES):
    """Add the features of each atom to `values`."""
    work = make_work(start, plan)
    for i in range(len(species)):
        s = species[i]
        prepare(i, species, start, neighbor, vectors, squares, plan, work)
        pair_values(s, plan, work, values[i])
        for row in range(plan.group_start[s], plan.group_start[s + 1]):
            group_values(row, plan, work, values[i])


@entry
def add_primes(
    species, start, neighbor, vectors, squares, plan, pairs, slots, values, primes, sources=SOURCES
):
    """Add the features of each atom to `values` and their derivatives to `primes`, both zero.

    Moving all atoms by the same vector changes nothing: the derivative by the
    centre's own position is minus the sum of the others, and its images do not count.
    """
    work = make_work(start, plan)
    no_energy = np.empty(0)
    pair = 0
    for i in range(len(species)):
        s = species[i]
        prepare(i, species, start, neighbor, vectors, squares, plan, work)
        pair_values(s, plan, work, values[i])
        near = slots[start[i] : start[i + 1]]
        add_gradient(s, plan, work, no_energy, values[i], near, primes)
        own = slots[len(neighbor) + i]
        primes[own] = 0.0
        while pair < len(pairs) and pairs[pair, 1] == i:
            if pair != own:
                for d in range(3):
                    for f in range(primes.shape[2]):
                        primes[own, d, f] -= primes[pair, d, f]
            pair += 1


@entry
def add_forces(
    species, start, neighbor, vectors, squares, plan, dE_dG, forces, virial, sources=SOURCES
):
    """Add an energy's forces and its derivative by strain, given its derivative by features."""
    work = make_work(start, plan)
    gradient = np.empty((work.near.shape[1], 3, 1))
    slots = np.arange(work.near.shape[1])
    no_values = np.empty(0)
    for i in range(len(species)):
        n = prepare(i, species, start, neighbor, vectors, squares, plan, work)
        gradient[:n] = 0.0
        add_gradient(species[i], plan, work, dE_dG[i], no_values, slots, gradient)
        for j in range(n):
            near = start[i] + j
            for d in range(3):
                pull = gradient[j, d, 0]
                forces[neighbor[near], d] -= pull
                forces[i, d] += pull
                for e in range(3):
                    virial[d, e] += pull * vectors[near, e]


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


def values(plan: Plan, species: IntArray, near: NeighborList, width: int) -> FloatArray:
    """Return the features of each atom, an (n_atoms, width) float array."""
    result = np.zeros((len(species), width))
    add_values(species, *near[:4], plan, result)
    return result


def primes(
    plan: Plan, species: IntArray, near: NeighborList, width: int
) -> tuple[FloatArray, NDArray[np.int32], FloatArray]:
    """Return features, the pairs (m, n), and the derivatives of n's features by m's position."""
    pairs, slots = derivative_pairs(near.start, near.neighbor)
    result = np.zeros((len(species), width))
    derivatives = np.zeros((len(pairs), 3, width))
    add_primes(species, *near[:4], plan, pairs, slots, result, derivatives)
    return result, pairs, derivatives


def forces(
    plan: Plan, species: IntArray, near: NeighborList, dE_dG: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return forces, (n_atoms, 3), and virial, (3, 3), of an energy given by its derivatives."""
    result, virial = np.zeros((len(species), 3)), np.zeros((3, 3))
    add_forces(species, *near[:4], plan, dE_dG, result, virial)
    return result, virial
