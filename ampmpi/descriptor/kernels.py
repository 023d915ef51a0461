"""Kernels: sums over neighbours and pairs of neighbours, on arrays alone."""

from __future__ import annotations

import numba as nb
import numpy as np

from .plan import COSINE

_jit = nb.njit(cache=True, nogil=True)


@_jit
def _cutoff(kind, parameters, x):  # type: ignore[no-untyped-def]
    """Cutoff function and its derivative by x = R/Rc."""
    if x >= 1.0:
        return 0.0, 0.0
    if kind == COSINE:
        return 0.5 * (1.0 + np.cos(np.pi * x)), -0.5 * np.pi * np.sin(np.pi * x)
    g = parameters[1]
    return 1.0 + g * x ** (g + 1.0) - (g + 1.0) * x**g, g * (g + 1.0) * (x**g - x ** (g - 1.0))


@_jit
def _radial(kind, parameters, eta, offset, square):  # type: ignore[no-untyped-def]
    """w(R) and l with dw/dR_vector = l·R_vector."""
    Rc = parameters[0]
    x = np.sqrt(square) / Rc
    fc, slope = _cutoff(kind, parameters, x)
    e = np.exp(-eta * (x - offset) ** 2)
    return e * fc, e * (slope - 2.0 * eta * (x - offset) * fc) / (x * Rc * Rc)


@_jit
def _angle(gamma, zeta, c):  # type: ignore[no-untyped-def]
    """Return ``2^(1−ζ)(1 + γc)^ζ`` and its derivative by c."""
    base = max(1.0 + gamma * c, 0.0) if abs(gamma) <= 1.0 else 1.0 + gamma * c
    power = 2.0 ** (1.0 - zeta) * base ** (zeta - 1.0)
    return power * base, gamma * zeta * power


@_jit
def fingerprint(species, start, index, vectors, squares, plan, slots, values, primes):  # type: ignore[no-untyped-def]
    """Add feature values and, where `slots` has entries, their derivatives."""
    for i in range(len(species)):
        lo, hi = start[i], start[i + 1]
        s = species[i]
        for f in range(plan.pair_start[s], plan.pair_start[s + 1]):
            a, radial, feature = plan.pairs[f]
            eta, offset = plan.radials[radial]
            for j in range(lo, hi):
                if species[index[j]] == a:
                    w, slope = _radial(plan.cutoff_kind, plan.cutoff, eta, offset, squares[j])
                    values[i, feature] += w
                    if len(slots) > 0:
                        for d in range(3):
                            primes[slots[j], d, feature] += slope * vectors[d, j]
                            primes[slots[len(index) + i], d, feature] -= slope * vectors[d, j]
        for group in range(plan.group_start[s], plan.group_start[s + 1]):
            a, b, radial, third, first, last = plan.groups[group]
            eta = plan.radials[radial, 0]
            for j in range(lo, hi):
                for k in range(j + 1, hi):
                    sj, sk = species[index[j]], species[index[k]]
                    if min(sj, sk) != a or max(sj, sk) != b:
                        continue
                    wj, lj = _radial(plan.cutoff_kind, plan.cutoff, eta, 0.0, squares[j])
                    wk, lk = _radial(plan.cutoff_kind, plan.cutoff, eta, 0.0, squares[k])
                    dot = 0.0
                    square = 0.0
                    for d in range(3):
                        dot += vectors[d, j] * vectors[d, k]
                        square += (vectors[d, j] - vectors[d, k]) ** 2
                    q, m = 1.0, 0.0
                    if third:
                        q, m = _radial(plan.cutoff_kind, plan.cutoff, eta, 0.0, square)
                    inverse = 1.0 / np.sqrt(squares[j] * squares[k])
                    c = dot * inverse
                    for channel in range(first, last):
                        gamma, zeta = plan.channels[channel]
                        for sign in range(2):
                            feature = plan.channel_features[channel, sign]
                            if feature < 0:
                                continue
                            A, dA = _angle(gamma * (1 - 2 * sign), zeta, c)
                            values[i, feature] += A * wj * wk * q
                            if len(slots) > 0:
                                W = wj * wk * q
                                b_ = dA * W * inverse - A * wj * wk * m
                                aj = A * wk * (q * lj + wj * m) - dA * W * c / squares[j]
                                ak = A * wj * (q * lk + wk * m) - dA * W * c / squares[k]
                                for d in range(3):
                                    gj = aj * vectors[d, j] + b_ * vectors[d, k]
                                    gk = ak * vectors[d, k] + b_ * vectors[d, j]
                                    primes[slots[j], d, feature] += gj
                                    primes[slots[k], d, feature] += gk
                                    primes[slots[len(index) + i], d, feature] -= gj + gk


@_jit
def derivative_pairs(start, index):  # type: ignore[no-untyped-def]
    """Pairs (m, n) sorted by n, then m; and the pair of each neighbour entry, then of each atom."""
    n_atoms = len(start) - 1
    last = np.full(n_atoms, -1, np.int64)
    count = np.zeros(n_atoms + 1, np.int64)
    for m in range(n_atoms):
        count[m + 1] += 1
        last[m] = m
        for q in range(start[m], start[m + 1]):
            if last[index[q]] != m:
                last[index[q]] = m
                count[index[q] + 1] += 1
    first = np.cumsum(count)
    pairs = np.empty((first[n_atoms], 2), np.int32)
    cursor = first[:-1].copy()
    last[:] = -1
    for m in range(n_atoms):
        last[m] = m
        pairs[cursor[m]] = m
        cursor[m] += 1
        for q in range(start[m], start[m + 1]):
            n = index[q]
            if last[n] != m:
                last[n] = m
                pairs[cursor[n], 0] = m
                pairs[cursor[n], 1] = n
                cursor[n] += 1
    slots = np.empty(len(index) + n_atoms, np.int64)
    for n in range(n_atoms):
        for p in range(first[n], first[n + 1]):
            last[pairs[p, 0]] = p
        for q in range(start[n], start[n + 1]):
            slots[q] = last[index[q]]
        slots[len(index) + n] = last[n]
    return pairs, slots
