"""The symmetry functions of a descriptor laid out in arrays, as the kernels take them.

Functions that share a radial factor or an angle are brought together, so that
each is evaluated once per pair or triplet:

- a *radial factor* is a pair (η, Rs) of ``exp(−η(R − Rs)²/Rc²)·fc(R)``,
- an *angular group* is a centre's G4 or G5 with the same elements and η,
- a *term* of a group is a pair (|γ|, ζ), with the function of +γ and that of −γ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from .compiled import inner
from .cutoffs import Cutoff
from .radial import choose_radial_factors
from .symmetry_functions import SymmetryFunction

NOT_AN_ELEMENT = -1


class FunctionTables(NamedTuple):
    """Tables of a descriptor's functions. Species are numbered.

    Attributes
    ----------
    n_species : int
        Number of species, those that are neighbours alone included.
    cutoff : float
        Rc, Å.
    radial_kinds, radial_coefficients : (n_radials,) int64 array, (n_radials, 12) float array
        How to evaluate each radial factor, and its coefficients; see `radial`.
    needs_radial : (n_elements, n_radials) int64 array
        1 where a centre needs the radial factor.
    g2 : (n, 3) int64 array
        G2 functions: species of the neighbour, radial factor, feature.
    g2_start : (n_elements + 1,) int64 array
        The G2 functions of a centre of species s are rows ``g2_start[s]`` to ``g2_start[s + 1]``.
    angular : (n_groups, 6) int64 array
        Groups of G4 and G5: species a ≤ b of the two neighbours, radial factor, 1 for G4
        and 0 for G5, and the first and last + 1 of the terms.
    angular_start : (n_elements + 1,) int64 array
        Rows of `angular` that belong to each centre.
    terms : (n_terms, 3) float array
        |γ|, ζ and the prefactor 2^(1 − ζ).
    term_features : (n_terms, 2) int64 array
        Features of +γ and −γ; -1 where there is none.
    """

    n_species: int
    cutoff: float
    radial_kinds: NDArray[np.int64]
    radial_coefficients: NDArray[np.float64]
    needs_radial: NDArray[np.int64]
    g2: NDArray[np.int64]
    g2_start: NDArray[np.int64]
    angular: NDArray[np.int64]
    angular_start: NDArray[np.int64]
    terms: NDArray[np.float64]
    term_features: NDArray[np.int64]


class Tables(NamedTuple):
    """What a descriptor's kernels are given.

    Attributes
    ----------
    species_of : (120,) int64 array
        Species of each atomic number; -1 for those that cannot be centres.
    n_species : int
        Number of species, those that are neighbours alone included.
    for_kernels : tuple
        `FunctionTables`, packed, since it takes time to hand a kernel many arrays; or
        `ZernikeTables`.
    """

    species_of: NDArray[np.int64]
    n_species: int
    for_kernels: tuple[Any, ...]


def pack(tables: FunctionTables) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return all tables as one array of integers and one of floats, for `unpack`."""
    sizes = [tables.n_species, len(tables.needs_radial), len(tables.radial_kinds),
             len(tables.g2), len(tables.angular), len(tables.terms)]  # fmt: skip
    integers = [tables.radial_kinds, tables.needs_radial, tables.g2, tables.g2_start,
                tables.angular, tables.angular_start, tables.term_features]  # fmt: skip
    floats = [np.array([tables.cutoff]), tables.radial_coefficients, tables.terms]
    return (
        np.concatenate([np.array(sizes, np.int64), *(table.ravel() for table in integers)]),
        np.concatenate([table.ravel() for table in floats]),
    )


@inner
def unpack(packed):  # type: ignore[no-untyped-def]
    """Return `FunctionTables`, views of the two arrays that `pack` made."""
    integers, floats = packed
    n_species, n_elements, n_radials = integers[0], integers[1], integers[2]
    n_g2, n_groups, n_terms = integers[3], integers[4], integers[5]
    kinds = 6
    needs = kinds + n_radials
    g2 = needs + n_elements * n_radials
    g2_start = g2 + 3 * n_g2
    angular = g2_start + n_elements + 1
    angular_start = angular + 6 * n_groups
    term_features = angular_start + n_elements + 1
    terms = 1 + 12 * n_radials
    return FunctionTables(
        n_species,
        floats[0],
        integers[kinds:needs],
        floats[1:terms].reshape(n_radials, 12),
        integers[needs:g2].reshape(n_elements, n_radials),
        integers[g2:g2_start].reshape(n_g2, 3),
        integers[g2_start:angular],
        integers[angular:angular_start].reshape(n_groups, 6),
        integers[angular_start:term_features],
        floats[terms : terms + 3 * n_terms].reshape(n_terms, 3),
        integers[term_features : term_features + 2 * n_terms].reshape(n_terms, 2),
    )


def make_tables(cutoff: Cutoff, functions: Mapping[str, list[SymmetryFunction]]) -> Tables:
    """Lay out the functions of each element."""
    elements = sorted(functions)
    species = {element: number for number, element in enumerate(elements)}
    for element in _neighbor_elements(functions):
        species.setdefault(element, len(species))
    species_of = np.full(120, NOT_AN_ELEMENT, np.int64)
    for element in elements:
        species_of[atomic_numbers[element]] = species[element]

    radials: dict[tuple[float, float], int] = {}
    g2: list[tuple[int, int, int]] = []
    angular: list[tuple[int, int, int, int, int, int]] = []
    terms: list[tuple[float, float]] = []
    term_features: list[list[int]] = []
    g2_start, angular_start = [0], [0]
    for element in elements:
        collected: dict[tuple[int, int, int, int], dict[tuple[float, float], list[list[int]]]] = {}
        for feature, function in enumerate(functions[element]):
            offset = function.get("offset", 0.0) / cutoff.Rc
            radial = radials.setdefault((function["eta"], offset), len(radials))
            if function["type"] == "G2":
                g2.append((species[function["element"]], radial, feature))
                continue
            a, b = sorted(species[symbol] for symbol in function["elements"])
            group = collected.setdefault((a, b, radial, int(function["type"] == "G4")), {})
            gamma = function["gamma"]
            twins = group.setdefault((abs(gamma), function["zeta"]), [])
            _add_feature(twins, feature, minus=gamma < 0.0)
        for key, by_angle in collected.items():
            first = len(terms)
            for angle, twins in by_angle.items():
                terms += [angle] * len(twins)
                term_features += twins
            angular.append((*key, first, len(terms)))
        g2_start.append(len(g2))
        angular_start.append(len(angular))
    kinds, coefficients = choose_radial_factors(
        cutoff, np.array(list(radials), float).reshape(-1, 2)
    )
    needs_radial = np.zeros((len(elements), len(radials)), np.int64)
    for s in range(len(elements)):
        for _, radial, _ in g2[g2_start[s] : g2_start[s + 1]]:
            needs_radial[s, radial] = 1
        for _, _, radial, *_ in angular[angular_start[s] : angular_start[s + 1]]:
            needs_radial[s, radial] = 1
    tables = FunctionTables(
        n_species=len(species),
        cutoff=cutoff.Rc,
        radial_kinds=kinds,
        radial_coefficients=coefficients,
        needs_radial=needs_radial,
        g2=np.array(g2, np.int64).reshape(-1, 3),
        g2_start=np.array(g2_start, np.int64),
        angular=np.array(angular, np.int64).reshape(-1, 6),
        angular_start=np.array(angular_start, np.int64),
        terms=np.array(
            [(gamma, zeta, 2.0 ** (1.0 - zeta)) for gamma, zeta in terms], float
        ).reshape(-1, 3),
        term_features=np.array(term_features, np.int64).reshape(-1, 2),
    )
    return Tables(species_of, len(species), pack(tables))


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
