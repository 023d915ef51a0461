"""What this package's own descriptors share: checks, neighbours, and entries from kernels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ..entries import Fingerprint, FingerprintPrimes
from ..parameters import Parameters
from .amp_methods import AmpDescriptor
from .checks import (
    MOST_NEIGHBORS,
    SMALLEST_DISTANCE,
    check_cell,
    check_elements,
    check_numbers,
    check_overlap,
)
from .protocol import Descriptor

if TYPE_CHECKING:
    from ase import Atoms

    from .neighbors import NeighborList
    from .verlet import VerletList

ATOM_SIZE = 2.5
"""Å; added to the extent of the positions where a density is estimated."""


class Surroundings(NamedTuple):
    """An image made ready for the kernels: the species of its atoms and their neighbours."""

    species: NDArray[np.int64]
    neighbors: NeighborList


class Composition(NamedTuple):
    """The symbol of each atom, the number of features of each element, and the largest one."""

    symbols: tuple[str, ...]
    n_features: dict[str, int]
    width: int


class AtomCentered(AmpDescriptor, Descriptor):
    """A descriptor of each atom's neighbours within a cutoff, computed by kernels.

    A class that derives from it says how its settings are laid out in tables, and which
    module has the kernels that take them.
    """

    has_kernels = True
    settings: Any
    dblabel: str | None
    fortran: bool

    @classmethod
    def _from_settings(cls, settings: Any, dblabel: str | None = None) -> Self:
        new = cls.__new__(cls)
        new.dblabel = dblabel
        new.fortran = True
        new.settings = settings
        return new

    def resolve(self, elements: Iterable[str]) -> Self:
        """Return the descriptor with what depends on the elements filled in; self when complete."""
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
        digest: str = self.settings.digest
        return digest

    @property
    def cutoff_radius(self) -> float:
        """Cutoff radius, Å."""
        radius: float = self.settings.cutoff.Rc
        return radius

    @property
    def elements(self) -> tuple[str, ...] | None:
        """Elements that can be centres, sorted; None while they are not known."""
        elements: tuple[str, ...] | None = self.settings.elements
        return elements

    @property
    @abstractmethod
    def _tables(self) -> Any:
        """Settings as the kernels take them, with ``species_of`` and ``n_species``."""

    @property
    @abstractmethod
    def _kernels(self) -> ModuleType:
        """The module with the entries.

        They are `fingerprint_image`, `add_fingerprints`, `add_fingerprint_primes` and
        `add_forces`.
        """

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
        tables, radius = self._tables, self.cutoff_radius
        numbers = atoms.numbers
        if len(numbers) == 0 or self.looks_at_angles:
            self.surroundings(atoms)
        species = tables.species_of[numbers]
        # Copies: what the kernels are given always has the one type they are compiled for.
        positions = np.array(atoms.positions, dtype=float, order="C")
        cell = np.array(atoms.cell.array, dtype=float, order="C")
        periodic = np.array(atoms.pbc, dtype=bool)
        composition = self._features(numbers)
        values = np.zeros((len(species), composition.width))
        check_cell(cell, periodic, len(species), radius)
        closest = self._kernels.fingerprint_image(
            positions, cell, periodic, radius, species, tables.n_species, tables.for_kernels, values
        )
        if not closest >= SMALLEST_DISTANCE**2:
            self.surroundings(atoms)  # says what is wrong
        return Fingerprint(composition.symbols, composition.n_features, values)

    def calculate(self, atoms: Atoms) -> tuple[Fingerprint, FingerprintPrimes]:
        """Return fingerprint and derivatives of one image, computed together.

        Raises
        ------
        ImageError
            When the image cannot be used.
        """
        from .neighbors import derivative_pairs

        species, near = self.surroundings(atoms)
        symbols, n_features, width = self._features(atoms.numbers)
        pairs, slots = derivative_pairs(near.start, near.neighbor)
        values = np.zeros((len(species), width))
        primes = np.zeros((len(pairs), 3, width))
        self._kernels.add_fingerprint_primes(
            species, *near[:4], self._tables.for_kernels, pairs, slots, values, primes
        )
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
        species, near = self.surroundings(atoms)
        return self.forces_among(species, near, weights)

    def species_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each atom's species, as `neighbors` are grouped by; -1 for none."""
        species: NDArray[np.int64] = self._tables.species_of[numbers]
        return species

    def neighbors_among(
        self,
        positions: NDArray[np.float64],
        candidate_start: NDArray[np.int64],
        candidate: NDArray[np.int32],
        species: NDArray[np.int64],
        cutoff: float | None = None,
        first: int = 0,
    ) -> NeighborList:
        """Choose the neighbours of some atoms from candidates.

        Parameters
        ----------
        positions : (n_atoms, 3) float array, Å
            Positions of all atoms; periodic images are atoms of their own.
        candidate_start : (n_centres + 1,) int64 array
            The candidates of atom ``first + i`` are ``candidate_start[i]`` to
            ``candidate_start[i + 1]``.
        candidate : (n_candidates,) int32 array
            Atoms that may be neighbours; never the atom itself.
        species : (n_atoms,) int64 array
            Species of all atoms.
        cutoff : float, Å, optional
            Neighbours are closer than this; by default than the descriptor's cutoff radius.
        first : int
            The first atom whose neighbours are wanted.
        """
        from .neighbors import neighbors_among

        radius = self.cutoff_radius if cutoff is None else cutoff
        n_species = self._tables.n_species
        return neighbors_among(
            positions, candidate_start, candidate, species, n_species, radius, first
        )

    def verlet_list(self, skin: float, cutoff: float | None = None) -> VerletList:
        """Return a list of candidates that is kept while atoms move by less than half the skin.

        `cutoff` is that of `neighbors_among`; both are in Å.
        """
        from .verlet import VerletList

        radius = self.cutoff_radius if cutoff is None else cutoff
        return VerletList(self._tables.species_of, self.elements or (), radius, skin)

    def features_among(
        self, species: NDArray[np.int64], near: NeighborList, first: int = 0
    ) -> NDArray[np.float64]:
        """Return the features of the atoms whose neighbours are listed.

        Parameters
        ----------
        species : (n_atoms,) int64 array
            Species of all atoms, those that are only neighbours among them.
        near : NeighborList
            The neighbours of n_centres atoms.
        first : int
            The first of these atoms; the others follow it.

        Returns
        -------
        (n_centres, max_features) float array
        """
        values = np.zeros((len(near.start) - 1, max(self.n_features.values())))
        tables = self._tables.for_kernels
        self._kernels.add_fingerprints(first, species, *near[:4], tables, values)
        return values

    def forces_among(
        self,
        species: NDArray[np.int64],
        near: NeighborList,
        dE_dG: NDArray[np.float64],
        first: int = 0,
        forces: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return forces on all atoms, (n_atoms, 3), and the virial, as `contract`.

        `species`, `near` and `first` are those of `features_among`; `dE_dG` has a row for each
        centre. Where `forces` are given, they are added to.
        """
        if forces is None:
            forces = np.zeros((len(species), 3))
        virial = np.zeros((3, 3))
        tables = self._tables.for_kernels
        self._kernels.add_forces(first, species, *near[:4], tables, dE_dG, forces, virial)
        return forces, virial

    def expected_neighbors(self, atoms: Atoms) -> float:
        """Neighbours of an atom if the atoms filled the cell, or the box around them, evenly.

        At most as many as an image may have that is used; costs are predicted from it.
        """
        return min(_expected_neighbors(atoms, self.cutoff_radius), float(MOST_NEIGHBORS))

    @property
    def looks_at_angles(self) -> bool:
        """Whether `surroundings` refuses images for their angles."""
        return False

    def _features(self, numbers: NDArray[np.int64]) -> Composition:
        """Return symbols and numbers of features; those of the last image are kept."""
        key = self.settings, numbers.tobytes()
        kept: tuple[Any, Composition] | None = self.__dict__.get("_last_composition")
        if kept is not None and kept[0][0] is key[0] and kept[0][1] == key[1]:
            return kept[1]
        symbols = tuple([chemical_symbols[number] for number in numbers.tolist()])
        n_features = {symbol: self.n_features.get(symbol, 0) for symbol in sorted(set(symbols))}
        found = Composition(symbols, n_features, max(n_features.values()))
        self.__dict__["_last_composition"] = key, found
        return found


def can_share_neighbors(descriptor: Any) -> bool:
    """Whether a descriptor, `resolve`d, can be computed from a neighbour list alone."""
    return isinstance(descriptor, AtomCentered) and not descriptor.looks_at_angles


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
