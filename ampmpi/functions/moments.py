"""What candidates do in a set of images, as sums that ranks can add up.

In a model that is linear in the features, E = Σ_i Σ_k w_k G_ik, the forces are
F_m = −Σ_k w_k Σ_i dG_ik/dR_m: each function has a *response*, one number per force
component. Fitting and choosing need only the products of responses with each other and
with the true forces, and each image's sums of features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ampmpi.descriptor import Gaussian
from ampmpi.functions.candidates import Function
from ampmpi.parallel.comm import Communicator

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]

PIECE = 100
"""Functions of an element whose derivatives are in memory at a time."""


@dataclass(frozen=True, eq=False)
class Sample:
    """An image whose responses are taken.

    Attributes
    ----------
    number : int
        Its number in the sample.
    name : str
        What it is called in messages.
    atoms : Atoms
        The image.
    energy, forces : float, eV, and (n_atoms, 3) float array, eV/Å, or None
        Its labels, where it has them.
    """

    number: int
    name: str
    atoms: Atoms
    energy: float | None
    forces: Array | None


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the images of a sample, by fold. Columns are the functions of all elements.

    Attributes
    ----------
    owner : (n_columns,) int array
        The element, by number, that a column belongs to.
    spread : (n_columns,) float array
        Largest minus smallest value of the feature.
    products : (n_folds, n_columns, n_columns) float array
        Products of responses, summed over force components.
    with_forces : (n_folds, n_columns) float array
        Products of responses and forces; zero without labels.
    squares : (n_folds,) float array
        Sums of squared force components.
    n_components : (n_folds,) float array
        Numbers of force components.
    folds : (n_images,) int array
        Fold of each image.
    sums : (n_images, n_columns) float array
        Sums of each image's features.
    energies : (n_images,) float array, eV
        Energies; zero without labels.
    composition : (n_images, n_elements) float array
        Numbers of atoms.
    """

    owner: NDArray[np.int64]
    spread: Array
    products: Array
    with_forces: Array
    squares: Array
    n_components: Array
    folds: NDArray[np.int64]
    sums: Array
    energies: Array
    composition: Array


def take_moments(
    comm: Communicator,
    candidates: Mapping[str, list[Function]],
    cutoff: Any,
    samples: Iterable[Sample],
    n_folds: int,
) -> Moments:
    """Compute the moments of this rank's images and add up those of all ranks."""
    elements = sorted(candidates)
    owner = np.repeat(np.arange(len(elements)), [len(candidates[e]) for e in elements])
    n = len(owner)
    products, with_forces = np.zeros((n_folds, n, n)), np.zeros((n_folds, n))
    squares, n_components = np.zeros(n_folds), np.zeros(n_folds)
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    rows = []
    pieces = _pieces(candidates, cutoff)
    for sample in samples:
        symbols = np.array(list(sample.atoms.symbols))
        response, total = np.zeros((3 * len(symbols), n)), np.zeros(n)
        for descriptor, columns in pieces:
            _add_responses(descriptor, columns, sample.atoms, symbols, response, total, low, high)
        fold = sample.number % n_folds
        products[fold] += response.T @ response
        n_components[fold] += len(response)
        if sample.forces is not None:
            forces = sample.forces.ravel()
            with_forces[fold] += response.T @ forces
            squares[fold] += forces @ forces
        composition = [float(np.sum(symbols == element)) for element in elements]
        rows.append((sample.number, total, sample.energy or 0.0, composition))
    # One fold after the other: a message of MPI has an upper limit.
    products = np.array([comm.allreduce(part) for part in products])
    gathered = sorted((row for part in comm.allgather(rows) for row in part), key=lambda r: r[0])
    bounds = comm.allgather((low, high))
    lowest = np.min([one for one, _ in bounds], axis=0)
    highest = np.max([one for _, one in bounds], axis=0)
    return Moments(
        owner=owner,
        spread=np.maximum(highest - lowest, 0.0),
        products=products,
        with_forces=comm.allreduce(with_forces),
        squares=comm.allreduce(squares),
        n_components=comm.allreduce(n_components),
        folds=np.array([row[0] % n_folds for row in gathered], dtype=np.int64),
        sums=np.array([row[1] for row in gathered]).reshape(-1, n),
        energies=np.array([row[2] for row in gathered], dtype=float),
        composition=np.array([row[3] for row in gathered]).reshape(-1, len(elements)),
    )


def _pieces(
    candidates: Mapping[str, list[Function]], cutoff: Any
) -> list[tuple[Gaussian, dict[str, range]]]:
    """Split the functions into descriptors of a few each; each with the columns that it fills."""
    elements, first, start = sorted(candidates), {}, 0
    for element in elements:
        first[element] = start
        start += len(candidates[element])
    found = []
    for begin in range(0, max(len(listed) for listed in candidates.values()), PIECE):
        functions, columns = {}, {}
        for element in elements:
            listed = candidates[element]
            part = listed[begin : begin + PIECE]
            columns[element] = range(first[element] + begin, first[element] + begin + len(part))
            # A centre needs a function; one without columns is computed for nothing.
            functions[element] = part or [_ANY]
        found.append((Gaussian(cutoff=cutoff, Gs=functions), columns))
    return found


_ANY: Function = {"type": "G2", "element": "H", "eta": 1.0, "offset": 0.0}


def _add_responses(
    descriptor: Gaussian,
    columns: Mapping[str, range],
    atoms: Atoms,
    symbols: NDArray[np.str_],
    response: Array,
    total: Array,
    low: Array,
    high: Array,
) -> None:
    """Fill in the columns of one descriptor's functions for one image."""
    fingerprint, primes = descriptor.calculate(atoms)
    moved, centre = primes.pairs.T
    n_atoms = len(symbols)
    for element, where in columns.items():
        n = len(where)
        if n == 0 or not (symbols == element).any():
            continue
        into = slice(where.start, where.stop)
        values = fingerprint.values[symbols == element, :n]
        total[into] = values.sum(axis=0)
        low[into] = np.minimum(low[into], values.min(axis=0))
        high[into] = np.maximum(high[into], values.max(axis=0))
        pairs = np.flatnonzero(symbols[centre] == element)
        by_pair = primes.values[pairs, :, :n].reshape(len(pairs), 3 * n)
        shape = (n_atoms, len(pairs))
        onto = csr_matrix((np.ones(len(pairs)), (moved[pairs], np.arange(len(pairs)))), shape)
        response[:, into] = -(onto @ by_pair).reshape(3 * n_atoms, n)
