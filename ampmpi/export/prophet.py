"""PROPhet's files of a potential, one an element, for its LAMMPS pair style nn.

The text is Amp's, for the branch ``amp_compatible`` of PROPhet that Amp's documentation names.
PROPhet computes each function for all neighbours, and each angular one for all pairs of them:
the set of functions must be complete. Amp takes it for granted that they come in blocks, in the
order of the elements; here they are looked up. PROPhet scales a function by mean and spread: one
that was constant in the training, by whose range of zero Amp divides, gets 0 and 1.
"""

from __future__ import annotations

import os
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ampmpi.errors import InputError
from ampmpi.files.whole import write_whole

from .potential import (
    Potential,
    in_units,
    is_scaled,
    name_of,
    potential_of,
    require_cosine,
    require_plain,
)

if TYPE_CHECKING:
    from ampmpi.calculator import Amp

PROGRAM = "PROPhet"


def save_to_prophet(
    calc: Amp,
    filename: str | os.PathLike[str] = "potential_",
    overwrite: bool = False,
    units: str = "metal",
) -> list[str]:
    """Save a potential as PROPhet's files, one for each element.

    Parameters
    ----------
    calc : Amp
        A trained calculator with a `Gaussian` descriptor.
    filename : path
        Beginning of the files' names, to which the element is added.
    overwrite : bool
        Replace files that are there.
    units : {'metal', 'real', 'electron', 'si', 'cgs'}
        LAMMPS' style of units in which the potential will be used.

    Returns
    -------
    list of str
        Names of the files.

    Raises
    ------
    InputError
        The potential has something that PROPhet does not know, the units are unknown, or a file
        is there.
    ModelError
        The model is not trained.
    """
    texts = {
        f"{os.fspath(filename)}{element}": text
        for element, text in prophet_texts(calc, units).items()
    }
    taken = [] if overwrite else [name for name in texts if Path(name).exists()]
    if taken:
        raise InputError(f"{taken[0]} is there already: give another name, or overwrite=True")
    for name, text in texts.items():
        write_whole(name, text.encode())
    return list(texts)


def prophet_texts(calc: Amp, units: str = "metal") -> dict[str, str]:
    """Return the text of each element's file."""
    potential = potential_of(calc, PROGRAM)
    radius = in_units(require_cosine(potential, PROGRAM), "distance", units)
    require_plain(potential, PROGRAM)
    if potential.activation != "tanh":
        raise InputError(
            f"{PROGRAM} cannot have the activation {potential.activation}: it knows tanh only"
        )
    around = _neighbor_order(potential)
    return {
        element: _text(potential, element, around, radius, units) for element in potential.elements
    }


def lammps_lines(calc: Amp, folder: str | os.PathLike[str], units: str = "metal") -> list[str]:
    """Return the lines of a LAMMPS input that use files potential_X in a folder."""
    potential = potential_of(calc, PROGRAM)
    radius = in_units(require_cosine(potential, PROGRAM), "distance", units)
    return [
        f"units {units}",
        f"pair_style nn {radius!r}",
        *(
            f'pair_coeff {number} "{os.fspath(folder).rstrip("/")}/potential_{element}"'
            for number, element in enumerate(potential.elements, 1)
        ),
    ]


def _text(potential: Potential, element: str, around: list[str], radius: float, units: str) -> str:
    families, columns = _families(potential, element, around)
    ranges = potential.ranges[element]
    scaled = is_scaled(ranges)
    middle = np.where(scaled, ranges.sum(axis=1) / 2.0, 0.0)[columns]
    half = np.where(scaled, (ranges[:, 1] - ranges[:, 0]) / 2.0, 1.0)[columns]
    first, *others = potential.layers[element]
    layers = [first[[*columns, -1]], *others]
    intercept, slope = (in_units(x, "energy", units) for x in potential.scalings[element])
    lines = [
        "nn",
        "structure",
        f"{element}:  {''.join(f'{symbol} ' for symbol in around)}",
        str(len(families)),
        *(_family_line(family, radius) for family in families),
        "".join(f"{value} " for value in middle.tolist()),
        "".join(f"{value} " for value in half.tolist()),
        "energy",
        "0",
        "1",
        " ".join(str(layer.shape[1]) for layer in layers),
    ]
    node = 0
    for number, layer in enumerate(layers):
        lines.append(f"[[ layer {number} ]]")
        for column in layer.T.tolist():
            lines += [
                f"  [ node {node} ]  tanh",
                f"   {''.join(f'{value}     ' for value in column[:-1])}",
                f"   {column[-1]}",
            ]
            node += 1
    lines += [
        f"[[ layer {len(layers)} ]]",
        f"  [ node {node} ]  linear",
        f"   {slope}",
        f"   {intercept}",
    ]
    return "\n".join(lines) + "\n"


def _neighbor_order(potential: Potential) -> list[str]:
    """Return the elements in the order in which the functions name them first."""
    seen: dict[str, None] = {}
    for functions in potential.functions.values():
        for function in functions:
            neighbors = [function["element"]] if "element" in function else function["elements"]
            seen.update(dict.fromkeys(neighbors))
    return list(seen)


def _families(
    potential: Potential, element: str, around: list[str]
) -> tuple[list[tuple[Any, ...]], list[int]]:
    """Return the functions without their neighbours, and the places of all in PROPhet's order.

    That is: for each neighbour or pair of neighbours, each function.
    """
    found: dict[tuple[Any, ...], dict[tuple[str, ...], int]] = {}
    for number, function in enumerate(potential.functions[element]):
        if function["type"] == "G2":
            family: tuple[Any, ...] = ("G2", function["eta"])
            neighbors: tuple[str, ...] = (function["element"],)
        else:
            family = ("G4", function["eta"], function["zeta"], function["gamma"])
            neighbors = tuple(sorted(function["elements"]))
        if neighbors in found.setdefault(family, {}):
            raise InputError(
                f"{PROGRAM} cannot have {name_of(element, number, function)}: it is there twice"
            )
        found[family][neighbors] = number
    columns = []
    families: list[tuple[Any, ...]] = []
    for kind, size in (("G2", 1), ("G4", 2)):
        alike = [family for family in found if family[0] == kind]
        families += alike
        for neighbors in combinations_with_replacement(around, size):
            for family in alike:
                if tuple(sorted(neighbors)) not in found[family]:
                    raise InputError(
                        f"{PROGRAM} needs every function of {element} for all neighbours, and "
                        f"{kind} with eta {family[1]:g} lacks {'-'.join(neighbors)}"
                    )
                columns.append(found[family][tuple(sorted(neighbors))])
    return families, columns


def _family_line(family: tuple[Any, ...], radius: float) -> str:
    kind, eta, *others = family
    if kind == "G2":
        return f"G2 {radius} 0 {eta / radius**2} 0.0"
    zeta, gamma = others
    return f"G3 {radius} 0 {eta / radius**2} {zeta} {gamma}"
