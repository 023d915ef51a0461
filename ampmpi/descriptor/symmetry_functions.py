"""Symmetry functions: Behler's G2, G4 and G5 as checked, canonical dictionaries.

For an atom i, with cutoff function fc and cutoff radius Rc ::

    G2 = Σ_j exp(−η(R_ij − Rs)²/Rc²) fc(R_ij)
    G4 = 2^(1−ζ) Σ_{j<k} (1 + γ cos θ_jik)^ζ exp(−η(R_ij² + R_ik² + R_jk²)/Rc²)
         · fc(R_ij) fc(R_ik) fc(R_jk)
    G5 = the same without R_jk

The dictionaries are Amp's, so that parameters go to and from Amp unchanged; Rs is the
offset, in Å::

    {"type": "G2", "element": "O", "eta": 0.05, "offset": 0.0}
    {"type": "G4", "elements": ["H", "O"], "eta": 0.005, "gamma": 1.0, "zeta": 4.0}

`kernels` evaluates the functions and their derivatives.

References
----------
J. Behler, J. Chem. Phys. 134, 074106 (2011), Eqs. 6, 8 and 9;
A. Khorshidi and A. A. Peterson, Comput. Phys. Commun. 207, 310 (2016), for the scaling:
distances are divided by Rc, so that η has no unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from ase.data import atomic_numbers

from ..errors import DescriptorError
from .cutoffs import finite_number

SymmetryFunction: TypeAlias = dict[str, Any]

LARGEST_ZETA = 1000.0

_KEYS = {
    "G2": {"type", "element", "eta", "offset"},
    "G4": {"type", "elements", "eta", "gamma", "zeta"},
    "G5": {"type", "elements", "eta", "gamma", "zeta"},
}


def check_element(symbol: Any, where: str) -> str:
    """Return `symbol` as a str, or raise `DescriptorError` if it is not a chemical element."""
    if not isinstance(symbol, str) or atomic_numbers.get(str(symbol), 0) == 0:
        raise DescriptorError(f"{where}: {symbol!r} is not a chemical element.")
    return str(symbol)


def canonical_function(function: Any, where: str) -> SymmetryFunction:
    """Return one symmetry function with plain values, every key present, and elements sorted.

    Parameters
    ----------
    function : mapping
        Amp's dictionary of a function; ``offset`` may be left out (0).
    where : str
        Named in messages, as in ``"function 3 of Cu"``.

    Raises
    ------
    DescriptorError
        For an unknown type or key, a missing key, or a value out of range.
    """
    if not isinstance(function, Mapping):
        raise DescriptorError(f"{where} is {function!r}: give a dictionary such as Amp's.")
    kind = function.get("type")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise DescriptorError(f"{where} has type {kind!r}: use 'G2', 'G4' or 'G5'.")
    if unknown := sorted(str(key) for key in set(function) - _KEYS[kind]):
        raise DescriptorError(
            f"{where} has the key {unknown[0]!r}, which {kind} does not know: "
            f"its keys are {', '.join(sorted(_KEYS[kind]))}."
        )
    if missing := sorted(_KEYS[kind] - set(function) - {"offset"}):
        raise DescriptorError(f"{where} ({kind}) lacks {missing[0]!r}.")

    eta = finite_number(function["eta"], f"eta of {where}")
    if eta < 0.0:
        raise DescriptorError(f"eta of {where} is {eta:g}: give a number of at least 0.")
    if kind == "G2":
        offset = finite_number(function.get("offset", 0.0), f"offset of {where}")
        element = check_element(function["element"], where)
        return {"type": kind, "element": element, "eta": eta, "offset": offset + 0.0}
    return {
        "type": kind,
        "elements": _two_elements(function["elements"], where),
        "eta": eta,
        **_angle(function, where),
    }


def _two_elements(elements: Any, where: str) -> list[str]:
    if isinstance(elements, str) or not isinstance(elements, Iterable):
        raise DescriptorError(f"elements of {where} is {elements!r}: give a list of two.")
    symbols = sorted(check_element(symbol, where) for symbol in elements)
    if len(symbols) != 2:
        raise DescriptorError(f"elements of {where} names {len(symbols)} elements: give two.")
    return symbols


def _angle(function: Mapping[str, Any], where: str) -> dict[str, float]:
    gamma = finite_number(function["gamma"], f"gamma of {where}")
    zeta = finite_number(function["zeta"], f"zeta of {where}")
    if zeta <= 0.0:
        raise DescriptorError(f"zeta of {where} is {zeta:g}: give a number above zero.")
    if zeta > LARGEST_ZETA:
        raise DescriptorError(
            f"zeta of {where} is {zeta:g}: give at most {LARGEST_ZETA:g}, "
            "beyond which numbers overflow."
        )
    return {"gamma": gamma + 0.0, "zeta": zeta}


def canonical_functions(functions: Any, where: str) -> list[SymmetryFunction]:
    """Return a non-empty list of canonical functions; `where` is named in messages."""
    if isinstance(functions, str | Mapping) or not isinstance(functions, Iterable):
        raise DescriptorError(f"{where} is {functions!r}: give a list of symmetry functions.")
    result = [
        canonical_function(function, f"function {number} of {where}")
        for number, function in enumerate(functions)
    ]
    if not result:
        raise DescriptorError(f"{where} has no symmetry functions: give at least one.")
    return result


def make_symmetry_functions(
    elements: Sequence[str],
    type: str,  # Amp's name of this argument
    etas: Iterable[float],
    offsets: Iterable[float] | None = None,
    zetas: Iterable[float] | None = None,
    gammas: Iterable[float] | None = None,
) -> list[SymmetryFunction]:
    """Return every combination of the given parameters, in Amp's order.

    Parameters
    ----------
    elements : sequence of str
        Elements of the neighbours.
    type : {'G2', 'G4', 'G5'}
        Type of the functions.
    etas : iterable of float
        Widths η, in units of 1/Rc².
    offsets : iterable of float, optional
        Centres of the Gaussians of G2, Å; 0 when left out.
    zetas, gammas : iterable of float
        Angular parameters; needed for G4 and G5.

    Returns
    -------
    list of dict
        The functions, as `Gaussian` takes them.

    Raises
    ------
    DescriptorError
        For an unknown type, or a parameter that the type lacks or does not have.
    """
    if type == "G2":
        if zetas is not None or gammas is not None:
            raise DescriptorError("zetas and gammas are not parameters of G2: leave them out.")
        offsets = [0.0] if offsets is None else list(offsets)
        return [
            {"type": "G2", "element": element, "eta": eta, "offset": offset}
            for eta in etas
            for element in elements
            for offset in offsets
        ]
    if not isinstance(type, str) or type not in _KEYS:
        raise DescriptorError(f"there is no symmetry function {type!r}: use 'G2', 'G4' or 'G5'.")
    if zetas is None or gammas is None:
        raise DescriptorError(f"{type} needs zetas and gammas.")
    if offsets is not None:
        raise DescriptorError(f"offsets are not parameters of {type}: leave them out.")
    zetas, gammas = list(zetas), list(gammas)
    return [
        {
            "type": type,
            "elements": sorted([first, second]),
            "eta": eta,
            "gamma": gamma,
            "zeta": zeta,
        }
        for eta in etas
        for zeta in zetas
        for gamma in gammas
        for index, first in enumerate(elements)
        for second in elements[index:]
    ]


def make_default_symmetry_functions(elements: Sequence[str]) -> dict[str, list[SymmetryFunction]]:
    """Return Amp's default functions for each element.

    Four G2 per element of the neighbour, η spaced evenly in its logarithm from
    0.05 to 5; and G4 with η = 0.005, ζ = 1 and 4, γ = ±1 per pair of elements.

    Parameters
    ----------
    elements : sequence of str
        Elements of the set, each of which becomes a centre.
    """
    etas = np.logspace(np.log10(0.05), np.log10(5.0), num=4)
    functions = make_symmetry_functions(elements, "G2", etas)
    functions += make_symmetry_functions(
        elements, "G4", [0.005], zetas=[1.0, 4.0], gammas=[1.0, -1.0]
    )
    return {element: [dict(function) for function in functions] for element in elements}
