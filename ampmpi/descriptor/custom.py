"""A descriptor from plain functions of an image."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..entries import Fingerprint, FingerprintPrimes
from ..errors import DescriptorError, ImageError
from ..parameters import Parameters
from .amp_methods import AmpDescriptor
from .checks import check_elements, check_numbers
from .protocol import Descriptor, as_json
from .symmetry_functions import check_element

if TYPE_CHECKING:
    from ase import Atoms

ROOM = 20.0
"""Å; edge of the cell of a lone atom whose features are counted."""


class Custom(AmpDescriptor, Descriptor):
    """A descriptor of your own, made of functions.

    Parameters
    ----------
    function : callable
        Takes an `ase.Atoms` and returns the features, an (n_atoms, n_features) array or, where
        elements have different numbers of them, a list of an array for each atom. For an image
        that it cannot describe it raises `ampmpi.errors.ImageError`.
    name : str
        What it is called, an identifier such as ``SOAP``. Its importname is ``custom.NAME``.
    parameters : mapping, optional
        Everything that determines the numbers, as plain JSON values: the functions cannot be
        looked into, and databases know by name, elements and these whose they are.
    elements : list of str, optional
        Elements that can be described; by default those of the images.
    derivatives : callable, optional
        Takes an `ase.Atoms` and returns the derivatives of the features with respect to the
        positions (1/Å), or features and derivatives as a tuple, where these are computed
        together. Derivatives are an (n_atoms, n_atoms, 3, n_features) array, ``[n, m, d]`` those
        of atom n's features by coordinate d of atom m and all its periodic images, or Amp's
        dictionary ``{(m, symbol_m, n, symbol_n, d): features}``, which leaves out zeros.
        Without it energies can be trained and predicted, but no forces.
    n_features : int or dict, optional
        Number of features, or that of each element; by default it is that of a lone atom.
    cost : callable, optional
        Takes an `ase.Atoms` and returns how long it takes, compared with others; by default its
        number of atoms.
    dblabel : str, optional
        Prefix of the databases, where several jobs share them.

    Raises
    ------
    DescriptorError
        An argument is wrong.
    """

    def __init__(
        self,
        function: Callable[[Atoms], Any],
        *,
        name: str,
        parameters: Mapping[str, Any] | None = None,
        elements: Iterable[str] | None = None,
        derivatives: Callable[[Atoms], Any] | None = None,
        n_features: int | Mapping[str, int] | None = None,
        cost: Callable[[Atoms], float] | None = None,
        dblabel: str | None = None,
    ) -> None:
        if not isinstance(name, str) or not name.isidentifier():
            raise DescriptorError(f"name is {name!r}: give letters and digits, such as SOAP.")
        for what, given in (("function", function), ("derivatives", derivatives), ("cost", cost)):
            if given is not None and not callable(given):
                raise DescriptorError(f"{what} of {name} is {given!r}: give a function of Atoms.")
        if not isinstance(parameters or {}, Mapping):
            raise DescriptorError(f"parameters of {name} are {parameters!r}: give a dictionary.")
        self.name = name
        self.dblabel = dblabel
        self._function, self._derivatives, self._cost = function, derivatives, cost
        self._own = json.loads(as_json(dict(parameters or {})))
        self._elements = None if elements is None else _sorted(elements)
        self._given = n_features

    def __repr__(self) -> str:
        elements = "of the images" if self._elements is None else ", ".join(self._elements)
        own = ", ".join(f"{key} {value}" for key, value in self._own.items())
        return f"<{self.name}: {own + '; ' if own else ''}elements: {elements}>"

    @property
    def parameters(self) -> Parameters:
        """Importname, elements and the function's own parameters."""
        return Parameters(
            importname=f"custom.{self.name}",
            elements=None if self._elements is None else list(self._elements),
            parameters=copy.deepcopy(self._own),
        )

    @property
    def elements(self) -> tuple[str, ...] | None:
        """Elements that can be described, sorted; None while they are not known."""
        return self._elements

    @property
    def has_derivatives(self) -> bool:
        """Whether forces can be trained and predicted."""
        return self._derivatives is not None

    @property
    def in_words(self) -> str:
        """The name."""
        return self.name

    @cached_property
    def n_features(self) -> dict[str, int]:
        """Number of features of each element."""
        if self._elements is None:
            raise DescriptorError(
                f"the elements of {self.name} are not known yet: give elements, or call resolve() "
                "with those of the images."
            )
        if self._given is None:
            return {element: self._of_a_lone_atom(element) for element in self._elements}
        given = self._given
        numbers = (
            dict(given) if isinstance(given, Mapping) else dict.fromkeys(self._elements, given)
        )
        for element in self._elements:
            number = numbers.get(element)
            if not isinstance(number, int | np.integer) or number < 1:
                raise DescriptorError(
                    f"n_features of {self.name} for {element} is {number!r}: give a number."
                )
        return {element: int(numbers[element]) for element in self._elements}

    def _of_a_lone_atom(self, element: str) -> int:
        from ase import Atoms

        middle = [[ROOM / 2] * 3]
        try:
            rows = self._function(Atoms(element, positions=middle, cell=[ROOM] * 3))
            return len(_rows(self.name, rows, 1)[0])
        except Exception as error:  # whatever a function does that is not made for lone atoms
            raise DescriptorError(
                f"{self.name} does not describe a lone atom of {element} ({error}), so that its "
                "features cannot be counted: give n_features."
            ) from error

    def resolve(self, elements: Iterable[str]) -> Self:
        """Return the descriptor with these elements, where it was made without; else itself."""
        if self._elements is not None:
            return self
        new = copy.copy(self)
        new._elements = _sorted(elements)
        return new

    def predict_cost(self, atoms: Atoms) -> float:
        """Return what `cost` says, or the number of atoms."""
        return super().predict_cost(atoms) if self._cost is None else float(self._cost(atoms))

    def fingerprint(self, atoms: Atoms) -> Fingerprint:
        """Return the fingerprint of one image.

        Raises
        ------
        ImageError
            An element is not described, or a feature is not finite.
        DescriptorError
            The function returns something else than features.
        """
        self._check(atoms)
        return self._fingerprint(atoms, self._function(_copy(atoms)))

    def calculate(self, atoms: Atoms) -> tuple[Fingerprint, FingerprintPrimes]:
        """Return fingerprint and derivatives of one image.

        Raises
        ------
        ImageError
            An element is not described, or a number is not finite.
        DescriptorError
            There are no derivatives, or a function returns something else.
        """
        if self._derivatives is None:
            raise DescriptorError(
                f"{self.name} has no derivatives, which forces need: train and predict energies "
                "only, or give it derivatives."
            )
        self._check(atoms)
        found = self._derivatives(_copy(atoms))
        if isinstance(found, tuple) and len(found) == 2:
            features, found = found
        else:
            features = self._function(_copy(atoms))
        fingerprint = self._fingerprint(atoms, features)
        if isinstance(found, Mapping):
            pairs, values = _from_amp(self.name, found, fingerprint)
        else:
            pairs, values = _from_array(self.name, found, fingerprint)
        if not np.isfinite(values).all():
            raise ImageError(f"{self.name} has derivatives that are not finite: leave it out.")
        return fingerprint, FingerprintPrimes(
            fingerprint.symbols, fingerprint.n_features, pairs, values
        )

    def _check(self, atoms: Atoms) -> None:
        check_numbers(atoms)
        if self._elements is not None:
            known = np.isin(np.array(atoms.symbols), self._elements)
            check_elements(atoms, known.astype(np.int64) - 1, self._elements)

    def _fingerprint(self, atoms: Atoms, features: Any) -> Fingerprint:
        symbols = tuple(atoms.symbols)
        rows = _rows(self.name, features, len(symbols))
        numbers: dict[str, int] = {}
        expected = self.__dict__.get("n_features", {})  # where they have been counted
        for symbol, row in zip(symbols, rows, strict=True):
            number = numbers.setdefault(symbol, expected.get(symbol, len(row)))
            if number != len(row):
                raise DescriptorError(
                    f"{self.name} returns {number} features of {symbol}, and {len(row)}: give "
                    "every atom of an element the same number."
                )
        values = np.zeros((len(rows), max(numbers.values())))
        for row, into in zip(rows, values, strict=True):
            into[: len(row)] = row
        if not np.isfinite(values).all():
            raise ImageError(f"{self.name} has features that are not finite: leave it out.")
        return Fingerprint(symbols, dict(sorted(numbers.items())), values)


def _sorted(elements: Iterable[str]) -> tuple[str, ...]:
    if isinstance(elements, str):
        raise DescriptorError(f"elements is {elements!r}: give a list such as ['Cu', 'Pt'].")
    return tuple(sorted({check_element(element, "elements") for element in elements}))


def _copy(atoms: Atoms) -> Atoms:
    """Return atoms and cell alone: a function may change them, and sees nothing else."""
    from ase import Atoms

    return Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def _rows(name: str, features: Any, n_atoms: int) -> list[NDArray[np.float64]]:
    """Return the features of each atom."""
    try:
        rows = [np.asarray(row, dtype=float) for row in features]
    except (TypeError, ValueError) as error:
        raise DescriptorError(f"{name} returns features that are no arrays ({error}).") from error
    if len(rows) != n_atoms or any(row.ndim != 1 or not len(row) for row in rows):
        shapes = [row.shape for row in rows[:3]]
        raise DescriptorError(
            f"{name} returns {len(rows)} rows of the shapes {shapes} for {n_atoms} atoms: return "
            "a row of features for each atom."
        )
    return rows


def _from_array(
    name: str, given: Any, fingerprint: Fingerprint
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return pairs and derivatives of an array that holds those of all pairs."""
    n_atoms, width = fingerprint.values.shape
    try:
        dense = np.asarray(given, dtype=float)
    except (TypeError, ValueError) as error:
        raise DescriptorError(f"{name} returns derivatives that are no array ({error}).") from error
    if dense.shape != (n_atoms, n_atoms, 3, width):
        raise DescriptorError(
            f"{name} returns derivatives of the shape {dense.shape}, where it should be "
            f"{(n_atoms, n_atoms, 3, width)}: centre, moved atom, direction, feature."
        )
    there = dense.any(axis=(2, 3)) | np.eye(n_atoms, dtype=bool)
    centres, moved = np.nonzero(there)
    return np.array([moved, centres], dtype=np.int32).T, dense[centres, moved]


def _from_amp(
    name: str, given: Mapping[Any, Any], fingerprint: Fingerprint
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return pairs and derivatives of Amp's dictionary."""
    symbols = fingerprint.symbols
    n_atoms, width = fingerprint.values.shape
    blocks = {(n, n): np.zeros((3, width)) for n in range(n_atoms)}
    for key, row in given.items():
        try:
            m, symbol_m, n, symbol_n, d = key
            is_right = (symbols[m], symbols[n]) == (symbol_m, symbol_n) and min(m, n) >= 0
            number = fingerprint.n_features[symbol_n]
            if not is_right or d not in (0, 1, 2) or len(row) != number:
                raise ValueError("its atoms, direction or length are wrong")
            blocks.setdefault((int(n), int(m)), np.zeros((3, width)))[d, :number] = row
        except (TypeError, ValueError, LookupError) as error:
            raise DescriptorError(
                f"{name} returns derivatives with the key {key!r} ({error}): use those of Amp, "
                "(m, symbol of m, n, symbol of n, direction)."
            ) from error
    order = sorted(blocks)
    pairs = np.array([(m, n) for n, m in order], dtype=np.int32)
    return pairs, np.array([blocks[pair] for pair in order])
