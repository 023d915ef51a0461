"""What this package's own descriptors share: checks, neighbours, and entries from kernels."""

from __future__ import annotations

from abc import abstractmethod
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ..entries import Fingerprint, FingerprintPrimes
from .amp_methods import AmpDescriptor
from .checks import MOST_NEIGHBORS, check_cell, check_elements, check_numbers, check_overlap
from .protocol import Descriptor

if TYPE_CHECKING:
    from ase import Atoms

    from .neighbors import NeighborList

ATOM_SIZE = 2.5
"""Å; added to the extent of the positions where a density is estimated."""


class Surroundings(NamedTuple):
    """An image made ready for the kernels: the species of its atoms and their neighbours."""

    species: NDArray[np.int64]
    neighbors: NeighborList


class AtomCentered(AmpDescriptor, Descriptor):
    """A descriptor of each atom's neighbours within a cutoff, computed by kernels.

    A class that derives from it says how its settings are laid out in tables, and which
    module has the kernels that take them.
    """

    has_kernels = True

    @property
    @abstractmethod
    def cutoff_radius(self) -> float:
        """Cutoff radius, Å."""

    @property
    @abstractmethod
    def _tables(self) -> Any:
        """Settings as the kernels take them, with ``species_of`` and ``n_species``."""

    @property
    @abstractmethod
    def _kernels(self) -> ModuleType:
        """The module with `fingerprints`, `fingerprint_primes` and `forces`."""

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
        return Surroundings(species, neighbors)

    def fingerprint(self, atoms: Atoms) -> Fingerprint:
        """Return the fingerprint of one image.

        Raises
        ------
        ImageError
            When the image cannot be used.
        """
        surroundings = self.surroundings(atoms)
        symbols, n_features = self._features(atoms)
        width = max(n_features.values())
        values = self._kernels.fingerprints(self._tables, *surroundings, width)
        return Fingerprint(symbols, n_features, values)

    def calculate(self, atoms: Atoms) -> tuple[Fingerprint, FingerprintPrimes]:
        """Return fingerprint and derivatives of one image, computed together.

        Raises
        ------
        ImageError
            When the image cannot be used.
        """
        surroundings = self.surroundings(atoms)
        symbols, n_features = self._features(atoms)
        width = max(n_features.values())
        values, pairs, primes = self._kernels.fingerprint_primes(self._tables, *surroundings, width)
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
        weights = np.array(dE_dG, dtype=float, order="C")
        forces, virial = self._kernels.forces(self._tables, *self.surroundings(atoms), weights)
        return forces, virial

    def expected_neighbors(self, atoms: Atoms) -> float:
        """Neighbours of an atom if the atoms filled the cell, or the box around them, evenly.

        At most as many as an image may have that is used; costs are predicted from it.
        """
        return min(_expected_neighbors(atoms, self.cutoff_radius), float(MOST_NEIGHBORS))

    def _features(self, atoms: Atoms) -> tuple[tuple[str, ...], dict[str, int]]:
        """Return the symbol of each atom, and the number of features of each element."""
        symbols = tuple([chemical_symbols[number] for number in atoms.numbers.tolist()])
        return symbols, {symbol: self.n_features[symbol] for symbol in sorted(set(symbols))}


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
