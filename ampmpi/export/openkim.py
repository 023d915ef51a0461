"""OpenKIM's parameters of a potential: the file amp.params of Amp's KIM model driver.

The text is Amp's. The driver takes lengths and energies in the units of the program that calls
it, as they stand: the cutoff and the scalings of the energies are converted to them (Amp
converts the cutoff only). It knows G2 without offset, G4, and a cosine cutoff, and needs as many
functions for each element.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ampmpi.errors import InputError
from ampmpi.files.whole import write_whole

from .potential import Potential, in_units, potential_of, require_cosine, require_plain

if TYPE_CHECKING:
    from ampmpi.calculator import Amp

PROGRAM = "Amp's KIM model driver"


def save_to_openkim(
    calc: Amp,
    filename: str | os.PathLike[str] = "amp.params",
    overwrite: bool = False,
    units: str = "metal",
) -> str:
    """Save a potential as the parameters of Amp's KIM model driver.

    Parameters
    ----------
    calc : Amp
        A trained calculator with a `Gaussian` descriptor.
    filename : path
        The file; the driver's parametrised model expects ``amp.params``.
    overwrite : bool
        Replace the file if it is there.
    units : {'metal', 'real', 'electron', 'si', 'cgs'}
        LAMMPS' style of units in which the potential will be used.

    Returns
    -------
    str
        Name of the file.

    Raises
    ------
    InputError
        The potential has something that the driver does not know, the units are unknown, or
        the file is there.
    ModelError
        The model is not trained.
    """
    text = openkim_text(calc, units)
    if not overwrite and Path(filename).exists():
        raise InputError(
            f"{os.fspath(filename)} is there already: give another file, or overwrite=True"
        )
    write_whole(filename, text.encode())
    return os.fspath(filename)


def openkim_text(calc: Amp, units: str = "metal") -> str:
    """Return the text of amp.params."""
    potential = potential_of(calc, PROGRAM)
    radius = require_cosine(potential, PROGRAM)
    require_plain(potential, PROGRAM)
    counts = {element: len(functions) for element, functions in potential.functions.items()}
    if len(set(counts.values())) > 1:
        raise InputError(
            f"{PROGRAM} needs as many functions for each element, and there are "
            + ", ".join(f"{count} of {element}" for element, count in counts.items())
        )
    lines = [
        f"{len(counts)}  # number of chemical species",
        f"{' '.join(counts)}  # chemical species",
        f"{' '.join(map(str, counts.values()))}  # number of fingerprints of each chemical species",
    ]
    for element, functions in potential.functions.items():
        for number, function in enumerate(functions):
            low, high = potential.ranges[element][number].tolist()
            lines += [
                f"{element} {function['type'].lower()}  # fingerprint of {element}",
                _words(function),
                f"{low} {high}  # range of fingerprint {number} of {element}",
            ]
    lines += [
        f"{in_units(radius, 'distance', units)}  # cutoff radius",
        f"{potential.activation}  # activation function",
    ]
    for element, layers in potential.layers.items():
        hidden = [str(layer.shape[1]) for layer in layers[:-1]]
        lines += [
            f"{len(hidden)}  # number of hidden-layers of {element} neural network",
            f"{' '.join(hidden)}  # number of nodes of hidden-layers of {element} neural network",
        ]
    values = " ".join(str(value) for value in _vector(potential, units))
    lines.append(f"{values}  # weights, biases, and scalings of neural networks")
    return "\n".join(lines) + "\n"


def lammps_lines(calc: Amp, units: str = "metal") -> list[str]:
    """Return the lines of a LAMMPS input that use the model, installed under its usual name."""
    return [
        f"units {units}",
        "pair_style kim amp_parameterized_model",
        f"pair_coeff * * {' '.join(calc.model.network.elements)}",
    ]


def _words(function: dict[str, Any]) -> str:
    if function["type"] == "G2":
        return f"{function['element']} {function['eta']}  # eta"
    first, second = function["elements"]
    return (
        f"{first} {second} {function['eta']} {function['gamma']} {function['zeta']}"
        "  # eta, gamma, zeta"
    )


def _vector(potential: Potential, units: str) -> list[float]:
    """Return all weights, then intercept and slope of each element, in Amp's order."""
    weights = [
        value
        for layers in potential.layers.values()
        for layer in layers
        for value in layer.ravel().tolist()
    ]
    scalings = [
        in_units(value, "energy", units) for pair in potential.scalings.values() for value in pair
    ]
    return weights + scalings
