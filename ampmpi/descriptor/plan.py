"""The work of a descriptor laid out in arrays, as the kernels take it.

Functions that share a radial factor or an angle are brought together, so that
each is evaluated once per pair or triplet:

- a *radial* is a pair (η, offset); it gives ``exp(−η(R − offset)²/Rc²)·fc(R)``,
- a *group* is a centre's angular functions with the same type, elements and η,
- a *channel* of a group is a pair (|γ|, ζ), with the function of +γ and that of −γ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from .cutoffs import Cutoff
from .factors import choose_factors
from .symmetry import SymmetryFunction

NOT_AN_ELEMENT = -1


class Plan(NamedTuple):
    """Tables of a descriptor. Species are numbered; every table is an array.

    Attributes
    ----------
    species_of : (120,) int64 array
        Species of each atomic number; -1 for those that cannot be centres.
    n_species : int
        Number of species, those that are neighbours alone included.
    cutoff : float
        Rc, Å.
    radial_kinds, radials : (n_radials,) int64 array, (n_radials, 12) float array
        How to evaluate each radial, and its coefficients; see `factors`.
    radial_of : (n_species, n_radials) bool array
        Which radials a centre needs.
    pairs : (n, 3) int64 array
        G2 functions: species of the neighbour, radial, feature.
    pair_start : (n_species + 1,) int64 array
        The G2 functions of centre s are rows ``pair_start[s]`` to ``pair_start[s + 1]``.
    groups : (n_groups, 6) int64 array
        Species a ≤ b of the two neighbours, radial, 1 for G4 and 0 for G5, and
        the first and last + 1 of the channels.
    group_start : (n_species + 1,) int64 array
        Rows of `groups` that belong to each centre.
    channels : (n_channels, 3) float array
        |γ|, ζ and the prefactor 2^(1 − ζ).
    channel_features : (n_channels, 2) int64 array
        Features of +γ and −γ; -1 where there is none.
    """

    species_of: NDArray[np.int64]
    n_species: int
    cutoff: float
    radial_kinds: NDArray[np.int64]
    radials: NDArray[np.float64]
    radial_of: NDArray[np.bool_]
    pairs: NDArray[np.int64]
    pair_start: NDArray[np.int64]
    groups: NDArray[np.int64]
    group_start: NDArray[np.int64]
    channels: NDArray[np.float64]
    channel_features: NDArray[np.int64]


def make_plan(cutoff: Cutoff, functions: Mapping[str, list[SymmetryFunction]]) -> Plan:
    """Lay out the functions of each element."""
    elements = sorted(functions)
    species = {element: number for number, element in enumerate(elements)}
    for element in _neighbor_elements(functions):
        species.setdefault(element, len(species))
    species_of = np.full(120, NOT_AN_ELEMENT, np.int64)
    for element in elements:
        species_of[atomic_numbers[element]] = species[element]

    radials: dict[tuple[float, float], int] = {}
    pairs: list[tuple[int, int, int]] = []
    groups: list[tuple[int, int, int, int, int, int]] = []
    channels: list[tuple[float, float]] = []
    channel_features: list[list[int]] = []
    pair_start, group_start = [0], [0]
    for element in elements:
        collected: dict[tuple[int, int, int, int], dict[tuple[float, float], list[list[int]]]] = {}
        for feature, function in enumerate(functions[element]):
            offset = function.get("offset", 0.0) / cutoff.Rc
            radial = radials.setdefault((function["eta"], offset), len(radials))
            if function["type"] == "G2":
                pairs.append((species[function["element"]], radial, feature))
                continue
            a, b = sorted(species[symbol] for symbol in function["elements"])
            group = collected.setdefault((a, b, radial, int(function["type"] == "G4")), {})
            gamma = function["gamma"]
            twins = group.setdefault((abs(gamma), function["zeta"]), [])
            _add_feature(twins, feature, minus=gamma < 0.0)
        for key, by_angle in collected.items():
            first = len(channels)
            for angle, twins in by_angle.items():
                channels += [angle] * len(twins)
                channel_features += twins
            groups.append((*key, first, len(channels)))
        pair_start.append(len(pairs))
        group_start.append(len(groups))
    kinds, coefficients = choose_factors(cutoff, np.array(list(radials), float).reshape(-1, 2))
    radial_of = np.zeros((len(elements), len(radials)), np.bool_)
    for s in range(len(elements)):
        for _, radial, _ in pairs[pair_start[s] : pair_start[s + 1]]:
            radial_of[s, radial] = True
        for _, _, radial, *_ in groups[group_start[s] : group_start[s + 1]]:
            radial_of[s, radial] = True
    return Plan(
        species_of=species_of,
        n_species=len(species),
        cutoff=cutoff.Rc,
        radial_kinds=kinds,
        radials=coefficients,
        radial_of=radial_of,
        pairs=np.array(pairs, np.int64).reshape(-1, 3),
        pair_start=np.array(pair_start, np.int64),
        groups=np.array(groups, np.int64).reshape(-1, 6),
        group_start=np.array(group_start, np.int64),
        channels=np.array(
            [(gamma, zeta, 2.0 ** (1.0 - zeta)) for gamma, zeta in channels], float
        ).reshape(-1, 3),
        channel_features=np.array(channel_features, np.int64).reshape(-1, 2),
    )


def _neighbor_elements(functions: Mapping[str, list[SymmetryFunction]]) -> list[str]:
    named: set[str] = set()
    for listed in functions.values():
        for function in listed:
            named.update(function["elements"] if "elements" in function else [function["element"]])
    return sorted(named)


def _add_feature(twins: list[list[int]], feature: int, *, minus: bool) -> None:
    """Put the feature where its sign of γ is still free; the same function may come twice."""
    for twin in twins:
        if twin[minus] < 0:
            twin[minus] = feature
            return
    twins.append([-1, -1])
    twins[-1][minus] = feature
