"""`Potential`: energies, forces and virial of atoms whose neighbours are known.

It is what stands between a neighbour list, whoever made it, and calculators: several networks
(a committee) share neighbours and fingerprints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import InputError, ModelError

if TYPE_CHECKING:
    from ampmpi.calculator import Amp
    from ampmpi.descriptor.atom_centered import AtomCentered
    from ampmpi.descriptor.neighbors import NeighborList
    from ampmpi.model import NeuralNetwork


@dataclass(frozen=True)
class Evaluation:
    """What a `Potential` says of atoms.

    Attributes
    ----------
    energies : (n_members, n_centres) float array, eV
        Atomic energies of each member.
    forces : (n_members, n_atoms, 3) float array, eV/Å
        Forces of each member on all atoms, those among them that are only neighbours.
    virial : (3, 3) float array, eV
        Mean of the members' derivatives of the energy by strain.
    """

    energies: NDArray[np.float64]
    forces: NDArray[np.float64]
    virial: NDArray[np.float64]


class Potential:
    """Descriptors and networks that are evaluated together.

    Parameters
    ----------
    members : sequence of (descriptor, model)
        `Gaussian` or `Zernike` descriptors and trained networks of the same elements.

    Raises
    ------
    InputError
        There is no member, a descriptor has no kernels, or members have other elements.
    """

    def __init__(self, members: Sequence[tuple[AtomCentered, NeuralNetwork]]) -> None:
        if not members:
            raise InputError("a potential needs at least one member")
        self._members = [
            (descriptor.resolve(model.network.elements), model) for descriptor, model in members
        ]

    @classmethod
    def of(cls, calculators: Iterable[Amp]) -> Potential:
        """Return the potential of calculators, such as ``committee.members``."""
        return cls([(one.descriptor, one.model) for one in calculators])  # type: ignore[misc]

    @property
    def elements(self) -> tuple[str, ...]:
        """Elements that all members know, sorted."""
        return self._members[0][1].network.elements

    @property
    def cutoff_radius(self) -> float:
        """The largest cutoff radius, Å."""
        return max(descriptor.cutoff_radius for descriptor, _ in self._members)

    def species_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each atom's species.

        Raises
        ------
        ModelError
            An element is not among those of the potential.
        """
        return self._members[0][0].species_of(numbers)

    def evaluate(
        self, species: NDArray[np.int64], near: NeighborList, forces: bool = True
    ) -> Evaluation:
        """Return energies, forces and virial.

        Parameters
        ----------
        species : (n_atoms,) int64 array
            Species of all atoms, those that are only neighbours behind the others.
        near : NeighborList
            The neighbours of the first n_centres atoms, closer than `cutoff_radius`.
        forces : bool
            Whether forces and virial are wanted; else they are empty.
        """
        raise NotImplementedError
