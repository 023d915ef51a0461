"""The Gaussian descriptor: settings in, fingerprints of images out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ..entries import Fingerprint, FingerprintPrimes
from ..errors import DescriptorError
from ..parameters import Parameters
from .amp_methods import AmpDescriptor
from .angles import Doubtful, check_angles, doubtful_functions
from .checks import MOST_NEIGHBORS, check_cell, check_elements, check_numbers, check_overlap
from .protocol import Descriptor
from .settings import MODE, VERSION, Settings, from_amp
from .toml import read_settings, write_settings

if TYPE_CHECKING:
    from ase import Atoms

    from .neighbors import NeighborList
    from .tables import FunctionTables


ATOM_SIZE = 2.5
"""Å; added to the extent of the positions where a density is estimated."""


class Surroundings(NamedTuple):
    """An image made ready for the kernels: the species of its atoms and their neighbours."""

    species: NDArray[np.int64]
    neighbors: NeighborList


class Gaussian(AmpDescriptor, Descriptor):
    """Behler's symmetry functions of each atom, with Amp's constants and order.

    Parameters
    ----------
    cutoff : float, Cosine, Polynomial or dict, default 6.5
        Cutoff function, or its radius in Å for a cosine.
    Gs : dict, list or None
        Symmetry functions: for each element a list of dictionaries as Amp
        takes them, or one list for every element, or None for Amp's defaults.
    dblabel : str, optional
        Prefix of the databases, where several jobs share them.
    elements : list of str, optional
        Elements of the set; left out, they are those of `Gs` or of the images.
    version : str, optional
        Amp's version of the scheme; only ``'2015.12'``.
    fortran : bool
        Amp's switch between Fortran and Python; without effect here.
    mode : str
        Only ``'atom-centered'``.

    Raises
    ------
    DescriptorError
        When a setting is wrong.

    References
    ----------
    J. Behler, J. Chem. Phys. 134, 074106 (2011);
    A. Khorshidi and A. A. Peterson, Comput. Phys. Commun. 207, 310 (2016).
    """

    has_kernels = True

    def __init__(
        self,
        cutoff: Any = 6.5,
        Gs: Any = None,
        dblabel: str | None = None,
        elements: Iterable[str] | None = None,
        version: str | None = None,
        fortran: bool = True,
        mode: str = MODE,
    ) -> None:
        if version not in (None, VERSION):
            raise DescriptorError(f"version is {version!r}: only {VERSION!r} can be used.")
        if mode != MODE:
            raise DescriptorError(f"mode is {mode!r}: only {MODE!r} can be used.")
        self.dblabel = dblabel
        self.fortran = fortran
        self.settings = Settings.from_arguments(cutoff, Gs, elements)

    @classmethod
    def _from_settings(cls, settings: Settings, dblabel: str | None = None) -> Gaussian:
        new = cls.__new__(cls)
        new.dblabel = dblabel
        new.fortran = True
        new.settings = settings
        return new

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Gaussian:
        """Return the descriptor that `parameters` of this or of Amp's class describe."""
        return cls._from_settings(from_amp(parameters))

    @classmethod
    def from_toml(cls, path: str | Path) -> Gaussian:
        """Return the descriptor written down in a TOML file."""
        return cls._from_settings(read_settings(path))

    @classmethod
    def from_images(
        cls, images: Any, per_element: int | None = None, cutoff: Any = 6.5, comm: Any = None
    ) -> Gaussian:
        """Return a descriptor with functions made for a set of images.

        Parameters
        ----------
        images : file names or list of ase.Atoms
            The set, with energies and forces where it has them.
        per_element : int, optional
            Functions of each element; by default as many as the set needs, up to 32.
        cutoff : float, Cosine or Polynomial
            Cutoff function, or its radius in Å.
        comm : communicator, optional
            The ranks, which all get the same descriptor; all of the job by default.

        Raises
        ------
        InputError
            There is no image, or `per_element` is not a number of functions.
        ImageError
            An image cannot be read or used.
        """
        from ampmpi.functions import make_functions  # joins images, ranks and this class

        return make_functions(images, per_element, cutoff, comm).descriptor

    def to_toml(self, remarks: Iterable[str] = ()) -> str:
        """Return the text of a TOML file for `from_toml`, with `remarks` as comments.

        Raises
        ------
        DescriptorError
            The elements are not known yet.
        """
        return write_settings(self.settings, remarks)

    def resolve(self, elements: Iterable[str]) -> Gaussian:
        """Return the descriptor with elements and functions filled in; self when complete."""
        settings = self.settings.resolve(elements)
        if settings is self.settings:
            return self
        return self._from_settings(settings, self.dblabel)

    @property
    def parameters(self) -> Parameters:
        """Amp's parameters of the descriptor, as plain numbers, strings, lists and dicts."""
        return Parameters(self.settings.to_amp())

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, over all that determines the numbers."""
        return self.settings.digest

    @property
    def cutoff_radius(self) -> float:
        """Cutoff radius, Å."""
        return self.settings.cutoff.Rc

    @property
    def elements(self) -> tuple[str, ...] | None:
        """Elements that can be centres, sorted; None while they are not known."""
        return self.settings.elements

    @cached_property
    def n_features(self) -> dict[str, int]:
        """Number of functions of each element."""
        return {element: len(listed) for element, listed in self.settings.by_element.items()}

    @cached_property
    def _tables(self) -> FunctionTables:
        from .tables import make_tables

        return make_tables(self.settings.cutoff, self.settings.by_element)

    @cached_property
    def _doubtful(self) -> dict[str, set[Doubtful]]:
        return doubtful_functions(self.settings.by_element)

    def __repr__(self) -> str:
        functions = "elements and functions of the images"
        if self.elements is not None:
            counts = (f"{count} for {element}" for element, count in self.n_features.items())
            functions = f"functions: {', '.join(counts)}"
        return f"<Gaussian: {self.settings.cutoff}, {functions}>"

    @property
    def in_words(self) -> str:
        """The cutoff function, for reports."""
        return str(self.settings.cutoff)

    def feature_names(self, element: str) -> list[str]:
        """Return type, neighbours and parameters of each function of an element, in words."""
        return [_named(function) for function in self.settings.by_element[element]]

    def check(self, atoms: Atoms) -> None:
        """Raise `ImageError` when the image cannot be used.

        That is when an element has no functions, a position or the cell is not finite,
        atoms overlap, or the cell is singular along its periodic axes. The other methods
        check the same.
        """
        self.surroundings(atoms)

    def surroundings(self, atoms: Atoms) -> Surroundings:
        """Check an image and find its neighbours."""
        from .neighbors import neighbor_list

        tables = self._tables
        check_numbers(atoms)
        species = tables.species_of[atoms.numbers]
        check_elements(atoms, species, self.elements or ())
        # Copies: what the kernels are given always has the one type they are compiled for.
        positions = np.array(atoms.positions, dtype=float, order="C")
        cell = np.array(atoms.cell.array, dtype=float, order="C")
        periodic = np.array(atoms.pbc, dtype=bool)
        radius = self.cutoff_radius
        check_cell(cell, periodic, len(atoms), radius)
        neighbors = neighbor_list(positions, cell, periodic, radius, species, tables.n_species)
        check_overlap(atoms, neighbors.closest)
        if self._doubtful:
            check_angles(atoms, neighbors, self._doubtful)
        return Surroundings(species, neighbors)

    def fingerprint(self, atoms: Atoms) -> Fingerprint:
        """Return the fingerprint of one image.

        Raises
        ------
        ImageError
            When the image cannot be used.
        """
        from . import kernels

        surroundings = self.surroundings(atoms)
        symbols, n_features = self._features(atoms)
        values = kernels.fingerprints(self._tables, *surroundings, max(n_features.values()))
        return Fingerprint(symbols, n_features, values)

    def fingerprint_primes(self, atoms: Atoms) -> FingerprintPrimes:
        """Return the derivatives of one image's fingerprint; errors as `fingerprint`."""
        return self.calculate(atoms)[1]

    def calculate(self, atoms: Atoms) -> tuple[Fingerprint, FingerprintPrimes]:
        """Return fingerprint and derivatives of one image, computed together.

        Raises
        ------
        ImageError
            When the image cannot be used.
        """
        from . import kernels

        surroundings = self.surroundings(atoms)
        symbols, n_features = self._features(atoms)
        width = max(n_features.values())
        values, pairs, primes = kernels.fingerprint_primes(self._tables, *surroundings, width)
        return (
            Fingerprint(symbols, n_features, values),
            FingerprintPrimes(symbols, n_features, pairs, primes),
        )

    def contract(
        self, atoms: Atoms, dE_dG: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return forces and virial from the derivative of an energy by the features.

        Parameters
        ----------
        atoms : Atoms
            The image.
        dE_dG : (n_atoms, max_features) float array, eV
            Derivative of the energy by each feature of each atom.

        Returns
        -------
        forces : (n_atoms, 3) float array, eV/Å
            Forces on the atoms.
        virial : (3, 3) float array, eV
            Derivative of the energy by strain; divided by the volume, the stress.
        """
        from . import kernels

        weights = np.array(dE_dG, dtype=float, order="C")
        return kernels.forces(self._tables, *self.surroundings(atoms), weights)

    def predict_cost(self, atoms: Atoms) -> float:
        """Return about how many μs the image takes, from its density alone.

        Only the ratio between images matters. Images that cannot be used have a cost, too.
        """
        n_atoms = len(atoms)
        near = min(_expected_neighbors(atoms, self.cutoff_radius), float(MOST_NEIGHBORS))
        return 25.0 + n_atoms * (0.5 + 0.1 * near + 0.0035 * near**2)

    def _features(self, atoms: Atoms) -> tuple[tuple[str, ...], dict[str, int]]:
        """Return the symbol of each atom, and the number of features of each element."""
        symbols = tuple([chemical_symbols[number] for number in atoms.numbers.tolist()])
        return symbols, {symbol: self.n_features[symbol] for symbol in sorted(set(symbols))}


def _named(function: Mapping[str, Any]) -> str:
    """Return a symmetry function's type, elements and parameters in words."""
    given = dict(function)
    elements = [given.pop("element")] if "element" in given else given.pop("elements")
    numbers = "".join(f", {key} {given[key]:.4g}" for key in sorted(given) if key != "type")
    return f"{given['type']} of {'-'.join(elements)}{numbers}"


def _expected_neighbors(atoms: Atoms, radius: float) -> float:
    """Neighbours of an atom if the atoms filled the cell, or the box around them, evenly."""
    n_atoms = len(atoms)
    axes = atoms.cell.array[atoms.pbc]
    if n_atoms == 0 or not (np.isfinite(atoms.positions).all() and np.isfinite(axes).all()):
        return 0.0
    sphere = 4.0 / 3.0 * np.pi * radius**3
    if len(axes) == 3:
        volume = float(atoms.cell.volume)
        return n_atoms * sphere / volume if volume > 0.0 else 0.0
    # Orthonormal directions; the first ones span the periodic axes.
    directions, triangle = np.linalg.qr(np.vstack([axes, np.eye(3)]).T)
    open_lengths = np.ptp(atoms.positions @ directions[:, len(axes) :], axis=0) + ATOM_SIZE
    volume = abs(float(np.prod(np.diag(triangle)[: len(axes)]) * np.prod(open_lengths)))
    box = np.prod(np.minimum(open_lengths, 2.0 * radius)) * (2.0 * radius) ** len(axes)
    reach = min(sphere, float(box))
    if len(axes) == 0:
        return min(n_atoms - 1.0, n_atoms * reach / volume)
    return n_atoms * reach / volume if volume > 0.0 else 0.0
