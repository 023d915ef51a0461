"""n2p2's files of a potential: input.nn, scaling.data and weights.ZZZ.data.

The potential is the same to rounding. Lengths and energies stay in Å and eV, which needs no word
in the files.

- G2 is n2p2's type 2, G4 type 3, G5 type 9. Its η has a unit: ours divided by Rc².
- Elements come in the order of their atomic numbers, and n2p2 sorts each element's functions by
  itself; scaling.data and the rows of the first weights follow that order.
- A function that was constant in the training is not scaled: the range from -1 to 1 says so.
- n2p2's last node is linear and ours is activated. Ours becomes a hidden layer of one node, before
  a linear one whose weight is the slope and whose bias is the intercept.
- Released versions of n2p2 (2.3.0 is the last one) have one list of layers for all elements.
  Smaller layers are filled up with nodes of weight zero. Shorter networks are filled up with
  layers of one node that hand a number on, which tanh does where it is small: tanh(εx) is εx to
  rounding for |x| ≤ 1 and ε = 2⁻²⁷. A sigmoid, which does so nowhere, is written as a tanh then:
  1/(1 + exp(-x)) = (1 + tanh(x/2))/2.

References
----------
A. Singraber, J. Behler, C. Dellago, J. Chem. Theory Comput. 15, 1827 (2019);
n2p2's documentation, "NNP configuration: keywords" and "Symmetry functions".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.geometry import complete_cell
from numpy.typing import NDArray

from ampmpi.descriptor import Cosine, Polynomial
from ampmpi.errors import InputError
from ampmpi.model.scaling import network_input

from .folder import write_folder
from .potential import Potential, from_units, in_units, is_scaled, name_of, potential_of

if TYPE_CHECKING:
    from ampmpi.calculator import Amp

PROGRAM = "n2p2"
TYPES = {"G2": 2, "G4": 3, "G5": 9}
LETTERS = {"tanh": "t", "sigmoid": "s", "linear": "l"}
SMALL = 2.0**-27
LAST_ELEMENT = 102
"""Atomic number of the heaviest element that n2p2 knows."""


def save_to_n2p2(
    calc: Amp, folder: str | os.PathLike[str], overwrite: bool = False, images: Any = None
) -> list[str]:
    """Save a potential as n2p2's files, which LAMMPS' ``pair_style hdnnp`` reads, too.

    Parameters
    ----------
    calc : Amp
        A trained calculator with a `Gaussian` descriptor.
    folder : path
        Where input.nn, scaling.data and weights.ZZZ.data go. It is made if need be.
    overwrite : bool
        Write into a folder that holds something already.
    images : ase.Atoms or list of ase.Atoms, optional
        Images for n2p2's tools, which go to input.data.

    Returns
    -------
    list of str
        Names of the files.

    Raises
    ------
    InputError
        The potential has something that n2p2 has no word for, or the folder is not empty.
    ModelError
        The model is not trained.
    """
    files = n2p2_files(calc)
    if images is not None:
        files["input.data"] = input_data(images)
    return write_folder(folder, files, last="input.nn", overwrite=overwrite)


def n2p2_files(calc: Amp) -> dict[str, str]:
    """Return n2p2's files of a potential, by name."""
    potential = potential_of(calc, PROGRAM)
    _require_known(potential)
    elements = sorted(potential.elements, key=atomic_numbers.__getitem__)
    order = {element: _order(potential, element) for element in elements}
    activation, layers = _networks(potential, order)
    files = {
        f"weights.{atomic_numbers[element]:03d}.data": "".join(
            f"{value!r}\n" for matrix in layers[element] for value in matrix.ravel().tolist()
        )
        for element in elements
    }
    files["scaling.data"] = "".join(
        _scaling_lines(number, potential.ranges[element][order[element]])
        for number, element in enumerate(elements, 1)
    )
    nodes = [matrix.shape[1] for matrix in layers[elements[0]]]
    files["input.nn"] = "".join(
        [
            f"# {calc.descriptor!r}\n",
            "# Length unit: Angstrom, energy unit: eV\n",
            f"number_of_elements {len(elements)}\n",
            f"elements {' '.join(elements)}\n",
            f"cutoff_type {1 if isinstance(potential.cutoff, Cosine) else 5} 0.0\n",
            "scale_symmetry_functions\n",
            "scale_min_short -1.0\n",
            "scale_max_short 1.0\n",
            "use_short_forces\n",
            f"global_hidden_layers_short {len(nodes) - 1}\n",
            f"global_nodes_short {' '.join(map(str, nodes[:-1]))}\n",
            f"global_activation_short {' '.join([LETTERS[activation]] * (len(nodes) - 1))} l\n",
            *(
                f"symfunction_short {element} {_words(potential, element, number)}\n"
                for element in elements
                for number in order[element]
            ),
        ]
    )
    return files


def lammps_lines(calc: Amp, folder: str | os.PathLike[str], units: str = "metal") -> list[str]:
    """Return the lines of a LAMMPS input that use the potential in a folder.

    The cutoff is a little larger than the functions' own, so that rounding in conversions of
    units cannot make it smaller. Every 1,000 steps the mean number of functions that are outside
    their trained range is printed; so many that they end the run are for the user to set, as the
    number grows with the system.
    """
    potential = potential_of(calc, PROGRAM)
    cutoff = float(f"{1.001 * in_units(potential.cutoff.Rc, 'distance', units):.4g}")
    length, energy = (from_units(1.0, what, units) for what in ("distance", "energy"))
    return [
        f"units {units}",
        f'pair_style hdnnp {cutoff!r} dir "{os.fspath(folder).rstrip("/")}/" showew no '
        f"showewsum 1000 resetew yes maxew 1000000 cflength {length!r} cfenergy {energy!r}",
        f"pair_coeff * * {' '.join(potential.elements)}",
    ]


def input_data(images: Atoms | Iterable[Atoms]) -> str:
    """Return images in the form of n2p2's input.data, Å, eV and eV/Å.

    Energies and forces are those that the images carry, else 0. n2p2 has either no periodic axis
    or three: where only some are, the others get a cell vector that ends 50 Å behind the atoms.

    Parameters
    ----------
    images : ase.Atoms or iterable of ase.Atoms
        The images.
    """
    return "".join(_structure(atoms) for atoms in _listed(images))


def sorting_key(function: dict[str, Any], eta: float) -> tuple[float, ...]:
    """Return by what n2p2 sorts the functions of an element; `eta` is in 1/Å²."""
    neighbors = [function["element"]] if "element" in function else function["elements"]
    return (
        TYPES[function["type"]],
        eta,
        function.get("offset", 0.0),
        function.get("zeta", 0.0),
        function.get("gamma", 0.0),
        *sorted(atomic_numbers[symbol] for symbol in neighbors),
    )


def _require_known(potential: Potential) -> None:
    """Refuse what n2p2 has no word for."""
    cutoff = potential.cutoff
    if isinstance(cutoff, Polynomial) and cutoff.gamma != 2.0:
        raise InputError(
            f"{PROGRAM} cannot have the cutoff {cutoff}: of polynomials it knows the one with "
            "gamma 2 only; Cosine goes, too"
        )
    for element, functions in potential.functions.items():
        if atomic_numbers[element] > LAST_ELEMENT:
            raise InputError(f"{PROGRAM} does not know the element {element}")
        for number, function in enumerate(functions):
            if abs(function.get("gamma", 0.0)) > 1.0:
                raise InputError(
                    f"{PROGRAM} cannot have {name_of(element, number, function)}: its gamma is "
                    f"{function['gamma']:g}, and there 1 + gamma cos θ must not be negative"
                )


def _eta(potential: Potential, function: dict[str, Any]) -> float:
    return float(function["eta"]) / potential.cutoff.Rc**2


def _is_known(potential: Potential, function: dict[str, Any]) -> bool:
    """Whether the model has all neighbours that a function counts."""
    neighbors = [function["element"]] if "element" in function else function["elements"]
    return set(neighbors) <= set(potential.elements)


def _order(potential: Potential, element: str) -> list[int]:
    """Return the numbers of an element's functions as n2p2 sorts them.

    Those of neighbours that the model does not know are left out: they are 0 for every image
    that it can predict.
    """
    functions = potential.functions[element]
    kept = [i for i, function in enumerate(functions) if _is_known(potential, function)]
    if not kept:
        raise InputError(f"no function of {element} is about an element of the model")
    return sorted(kept, key=lambda i: sorting_key(functions[i], _eta(potential, functions[i])))


def _words(potential: Potential, element: str, number: int) -> str:
    """Return type, neighbours and parameters of a function as input.nn has them."""
    function = potential.functions[element][number]
    head = f"{TYPES[function['type']]} "
    eta, radius = _eta(potential, function), potential.cutoff.Rc
    if "element" in function:
        return head + f"{function['element']} {eta!r} {function['offset']!r} {radius!r}"
    neighbors = " ".join(function["elements"])
    return head + f"{neighbors} {eta!r} {function['gamma']!r} {function['zeta']!r} {radius!r}"


def _layers(potential: Potential, element: str, order: list[int]) -> list[NDArray[np.float64]]:
    """Return the layers of an element's network, with the linear one at the end."""
    first, *others = potential.layers[element]
    values = network_input(np.zeros((1, len(first) - 1)), potential.ranges[element])[:-1, 0]
    values[order] = 0.0
    bias = first[-1] + values @ first[:-1]  # with what the functions add that are left out
    intercept, slope = potential.scalings[element]
    return [np.vstack([first[order], bias]), *others, np.array([[slope], [intercept]])]


def _lengthened(layers: list[NDArray[np.float64]], depth: int) -> list[NDArray[np.float64]]:
    """Put layers of one node before the last one, which hand a small number on."""
    if len(layers) == depth:
        return layers
    *own, last = layers
    through = [np.array([[SMALL], [0.0]])] + [np.array([[1.0], [0.0]])] * (depth - len(layers) - 1)
    return [*own, *through, last * [[1.0 / SMALL], [1.0]]]


def _as_tanh(layers: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Return the network of tanh that a network of sigmoids is."""
    result = []
    for number, matrix in enumerate(layers):
        if number > 0:
            weights = matrix[:-1] / 2.0
            matrix = np.vstack([weights, matrix[-1] + weights.sum(axis=0)])
        result.append(matrix if number == len(layers) - 1 else matrix / 2.0)
    return result


def _widened(layers: list[NDArray[np.float64]], width: list[int]) -> list[NDArray[np.float64]]:
    """Give each layer as many nodes, new ones with weights of zero."""
    inputs = [len(layers[0]) - 1, *width[:-1]]
    result = [np.zeros((a + 1, b)) for a, b in zip(inputs, width, strict=True)]
    for target, matrix in zip(result, layers, strict=True):
        target[: len(matrix) - 1, : matrix.shape[1]] = matrix[:-1]
        target[-1, : matrix.shape[1]] = matrix[-1]
    return result


def _networks(
    potential: Potential, order: dict[str, list[int]]
) -> tuple[str, dict[str, list[NDArray[np.float64]]]]:
    """Return an activation function, and for each element layers of the same sizes."""
    activation = potential.activation
    layers = {element: _layers(potential, element, own) for element, own in order.items()}
    depths = {len(own) for own in layers.values()}
    if len(depths) > 1 and activation == "sigmoid":
        activation = "tanh"
        layers = {element: _as_tanh(own) for element, own in layers.items()}
    layers = {element: _lengthened(own, max(depths)) for element, own in layers.items()}
    width = [max(own[k].shape[1] for own in layers.values()) for k in range(max(depths))]
    return activation, {element: _widened(own, width) for element, own in layers.items()}


def _scaling_lines(number: int, ranges: NDArray[np.float64]) -> str:
    ends = np.where(is_scaled(ranges)[:, np.newaxis], ranges, [-1.0, 1.0])
    return "".join(
        f"{number} {i} {low!r} {high!r} {(low + high) / 2.0!r} {(high - low) / 2.0!r}\n"
        for i, (low, high) in enumerate(ends.tolist(), 1)
    )


def _listed(images: Atoms | Iterable[Atoms]) -> Iterable[Atoms]:
    return [images] if isinstance(images, Atoms) else images


def _structure(atoms: Atoms) -> str:
    calc = atoms.calc
    # A calculator may have gone on to other atoms.
    known = calc.results if calc is not None and not calc.check_state(atoms) else {}
    energy = float(known.get("energy", 0.0))
    forces = np.asarray(known.get("forces", np.zeros((len(atoms), 3))))
    lattice = _lattice(atoms) if atoms.pbc.any() else []
    rows = zip(atoms.positions.tolist(), atoms.symbols, forces.tolist(), strict=True)
    return "".join(
        [
            "begin\n",
            *(f"lattice {_numbers(row)}\n" for row in lattice),
            *(f"atom {_numbers(r)} {symbol} 0.0 0.0 {_numbers(f)}\n" for r, symbol, f in rows),
            f"energy {energy!r}\n",
            "charge 0.0\n",
            "end\n",
        ]
    )


def _numbers(row: Sequence[float]) -> str:
    return " ".join(map(repr, row))


def _lattice(atoms: Atoms) -> list[list[float]]:
    periodic = atoms.pbc[:, np.newaxis]
    cell = complete_cell(  # type: ignore[no-untyped-call]
        np.where(periodic, atoms.cell.array, 0.0)
    )
    lengths = np.ptp(atoms.positions @ cell.T, axis=0) + 50.0  # other vectors have length 1
    rows: list[list[float]] = np.where(periodic, cell, lengths[:, np.newaxis] * cell).tolist()
    return rows
