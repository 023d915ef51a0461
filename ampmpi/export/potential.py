"""What every export needs of a calculator, checked for what other programs have no words for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.lammps.unitconvert import convert
from numpy.typing import NDArray

from ampmpi.descriptor import Cosine, Gaussian, Polynomial, as_cutoff, in_words
from ampmpi.errors import InputError
from ampmpi.model import NeuralNetwork
from ampmpi.model.scaling import NARROWEST

if TYPE_CHECKING:
    from ampmpi.calculator import Amp

UNITS = ("metal", "real", "electron", "si", "cgs")
"""LAMMPS' styles of units that ASE converts from."""


@dataclass(frozen=True, eq=False)
class Potential:
    """A trained potential of symmetry functions, in plain arrays.

    Attributes
    ----------
    cutoff : Cosine or Polynomial
        The cutoff function, Å.
    activation : {'tanh', 'sigmoid', 'linear'}
        Activation function of every layer, the last one included.
    functions : dict of str to list of dict
        Symmetry functions of each element, sorted by symbol.
    ranges : dict of str to (n_functions, 2) float array
        Smallest and largest value of each function in the training set.
    layers : dict of str to list of (inputs + 1, nodes) float arrays
        Weights of each element's layers, with the biases in the last row.
    scalings : dict of str to (float, float)
        Intercept and slope of each element, eV.
    """

    cutoff: Cosine | Polynomial
    activation: str
    functions: dict[str, list[dict[str, Any]]]
    ranges: dict[str, NDArray[np.float64]]
    layers: dict[str, list[NDArray[np.float64]]]
    scalings: dict[str, tuple[float, float]]

    @property
    def elements(self) -> list[str]:
        """The elements, sorted by symbol."""
        return list(self.functions)


def potential_of(calc: Amp, program: str) -> Potential:
    """Return a calculator's potential; `program` is named where that cannot be exported.

    Raises
    ------
    InputError
        The descriptor is no `Gaussian`, or the model no neural network.
    ModelError
        The model is not trained.
    """
    descriptor, model = calc.descriptor, calc.model
    if not isinstance(model, NeuralNetwork):
        raise InputError(
            f"{program} cannot have the model {model!r}: only neural networks go there"
        )
    network = model.network
    if not isinstance(descriptor, Gaussian):
        raise InputError(
            f"{program} cannot have the descriptor {in_words(descriptor)}: it knows Gaussian's "
            "symmetry functions only"
        )
    parameters = descriptor.resolve(network.elements).parameters
    parts = network.split(model.vector)
    ranges = {element: np.array(model.parameters["fprange"][element]) for element in parts}
    functions = {element: list(parameters["Gs"][element]) for element in parts}
    for element, listed in functions.items():
        if len(listed) != len(ranges[element]):
            raise InputError(
                f"the model takes {len(ranges[element])} features for {element}, but the "
                f"descriptor has {len(listed)} functions: they do not belong together"
            )
    return Potential(
        cutoff=as_cutoff(parameters["cutoff"]),
        activation=network.activation,
        functions=functions,
        ranges=ranges,
        layers={element: list(part.layers) for element, part in parts.items()},
        scalings={e: (float(part.scaling[0]), float(part.scaling[1])) for e, part in parts.items()},
    )


def name_of(element: str, number: int, function: dict[str, Any]) -> str:
    """Return what errors call a function."""
    return f"function {number} of {element} ({function['type']})"


def require_cosine(potential: Potential, program: str) -> float:
    """Return the radius of a cosine cutoff, Å; `InputError` for another one."""
    if not isinstance(potential.cutoff, Cosine):
        raise InputError(
            f"{program} cannot have the cutoff {potential.cutoff}: it knows Cosine only"
        )
    return potential.cutoff.Rc


def require_plain(potential: Potential, program: str) -> None:
    """Raise `InputError` unless the functions are G2 around zero, and G4."""
    for element, functions in potential.functions.items():
        for number, function in enumerate(functions):
            what = f"{program} cannot have {name_of(element, number, function)}"
            if function["type"] not in ("G2", "G4"):
                raise InputError(f"{what}: it knows G2 and G4 only")
            if function.get("offset", 0.0) != 0.0:
                raise InputError(f"{what}: its G2 have no offset, and this one's is not 0")


def is_scaled(ranges: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which functions the network takes scaled to [-1, 1], and not as they are."""
    scaled: NDArray[np.bool_] = ranges[:, 1] - ranges[:, 0] > NARROWEST
    return scaled


def in_units(value: float, quantity: str, units: str) -> float:
    """Convert a 'distance' (Å) or an 'energy' (eV) to one of LAMMPS' styles of units.

    Raises
    ------
    InputError
        The style is unknown.
    """
    return _converted(value, quantity, "ASE", _known(units))


def from_units(value: float, quantity: str, units: str) -> float:
    """Convert from one of LAMMPS' styles of units to Å or eV; see `in_units`."""
    return _converted(value, quantity, _known(units), "ASE")


def _converted(value: float, quantity: str, old: str, new: str) -> float:
    return float(convert(value, quantity, old, new))  # type: ignore[no-untyped-call]


def _known(units: str) -> str:
    if units not in UNITS:
        raise InputError(f"units is {units!r}: give one of LAMMPS' styles {', '.join(UNITS)}")
    return units
