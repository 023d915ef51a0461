"""`Potential`: energies, forces and virial of atoms whose neighbours are known.

It is what stands between a neighbour list, whoever made it, and calculators. Several networks
(a committee) share neighbours, fingerprints and, since forces are linear in dE/dG, the forces of
their mean energy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.descriptor import has_kernels
from ampmpi.errors import InputError

if TYPE_CHECKING:
    from ampmpi.calculator import Amp
    from ampmpi.model import NeuralNetwork
    from ampmpi.model.predictor import Predictor

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a `Potential` says of atoms.

    Attributes
    ----------
    energies : (n_members, n_centres) float array, eV
        Atomic energies of each member.
    forces : (n_atoms, 3) float array, eV/Å
        Mean of the members' forces on all atoms, also on those that are only neighbours;
        empty where they were not asked for.
    virial : (3, 3) float array, eV
        Mean of the members' derivatives of the energy by strain; zeros without forces.
    features : tuple of (n_centres, max_features) float array
        Features of each different descriptor, in the order of `Potential.descriptors`.
    gradients : tuple of (n_centres, max_features) float array, eV
        dE/dG of each member.
    """

    energies: FloatArray
    forces: FloatArray
    virial: FloatArray
    features: tuple[FloatArray, ...]
    gradients: tuple[FloatArray, ...]


@dataclass(frozen=True, eq=False)
class _Group:
    """Members with one descriptor: it, their numbers and their networks."""

    descriptor: Any
    members: tuple[int, ...]
    predictors: tuple[Predictor, ...]


class Potential:
    """Descriptors and networks that are evaluated together.

    Later changes of the models are not followed.

    Parameters
    ----------
    members : sequence of (descriptor, model)
        `Gaussian` or `Zernike` descriptors and trained networks of the same elements.

    Raises
    ------
    InputError
        There is no member, a descriptor has no kernels, or members have other elements.
    ModelError
        A model is not trained, or does not belong to its descriptor.
    """

    def __init__(self, members: Sequence[tuple[Any, NeuralNetwork]]) -> None:
        if not members:
            raise InputError("a potential needs at least one member")
        found: dict[str, list[tuple[int, Any, Predictor]]] = {}
        self.n_members = len(members)
        self.elements = members[0][1].network.elements
        """Elements that the members know, sorted: their numbers are the atoms' species."""
        for number, (descriptor, model) in enumerate(members):
            if not has_kernels(descriptor):
                raise InputError(
                    f"member {number} has the descriptor {descriptor!r}, which has no kernels: "
                    "give Gaussian or Zernike"
                )
            resolved, predictor = descriptor.resolve(model.network.elements), model.predictor
            if model.network.elements != self.elements or resolved.elements != self.elements:
                raise InputError(
                    f"member {number} has the elements {', '.join(model.network.elements)} and a "
                    f"descriptor of {', '.join(resolved.elements)}, where member 0 has "
                    f"{', '.join(self.elements)}: give members of the same elements"
                )
            for element in self.elements:
                predictor.check(element, resolved.n_features[element])
            found.setdefault(resolved.digest, []).append((number, resolved, predictor))
        self._groups = [
            _Group(one[0][1], tuple(n for n, _, _ in one), tuple(p for _, _, p in one))
            for one in found.values()
        ]

    @classmethod
    def of(cls, calculators: Iterable[Amp]) -> Potential:
        """Return the potential of calculators, such as ``committee.members``."""
        return cls([(one.descriptor, one.model) for one in calculators])

    @property
    def descriptors(self) -> tuple[Any, ...]:
        """The different descriptors of the members."""
        return tuple(group.descriptor for group in self._groups)

    @property
    def cutoff_radius(self) -> float:
        """The largest cutoff radius, Å."""
        return max(float(group.descriptor.cutoff_radius) for group in self._groups)

    def ranges(self, number: int) -> list[dict[str, FloatArray]]:
        """Return the trained ranges, by element, of the members with descriptor `number`."""
        return [dict(one.ranges) for one in self._groups[number].predictors]

    def species_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the species of atomic numbers: their place in `elements`, -1 for none."""
        species: NDArray[np.int64] = self._groups[0].descriptor.species_of(numbers)
        return species

    def neighbors_among(
        self,
        positions: FloatArray,
        candidate_start: NDArray[np.int64],
        candidate: NDArray[np.int32],
        species: NDArray[np.int64],
    ) -> Any:
        """Choose the neighbours, closer than `cutoff_radius`, of the first atoms from candidates.

        Parameters
        ----------
        positions : (n_atoms, 3) float array, Å
            Positions of all atoms; periodic images are atoms of their own, behind the others.
        candidate_start : (n_centres + 1,) int64 array
            The candidates of atom i are ``candidate_start[i]`` to ``candidate_start[i + 1]``.
        candidate : (n_candidates,) int32 array
            Atoms that may be neighbours; never the atom itself.
        species : (n_atoms,) int64 array
            Species of all atoms.

        Returns
        -------
        NeighborList
            For `evaluate`. Its `closest` names the two atoms that are closest.
        """
        return self._groups[0].descriptor.neighbors_among(
            positions, candidate_start, candidate, species, self.cutoff_radius
        )

    def evaluate(self, species: NDArray[np.int64], near: Any, forces: bool = True) -> Prediction:
        """Return energies, forces and virial.

        Parameters
        ----------
        species : (n_atoms,) int64 array
            Species of all atoms, those that are only neighbours behind the others.
        near : NeighborList
            The neighbours of the first n_centres atoms, closer than `cutoff_radius`.
        forces : bool
            Whether forces and virial are wanted.
        """
        n_centres = len(near.start) - 1
        rows = [
            np.flatnonzero(species[:n_centres] == number) for number in range(len(self.elements))
        ]
        energies = np.zeros((self.n_members, n_centres))
        features = []
        dE_dG: list[FloatArray] = [np.empty((0, 0))] * self.n_members
        total, virial = np.zeros((len(species) if forces else 0, 3)), np.zeros((3, 3))
        for group in self._groups:
            values = group.descriptor.features_among(species, near)
            features.append(values)
            for number, predictor in zip(group.members, group.predictors, strict=True):
                dE_dG[number] = np.zeros_like(values)
                for element, some in zip(self.elements, rows, strict=True):
                    if len(some):
                        predictor.predict(element, some, values, energies[number], dE_dG[number])
            if forces:
                mean = sum(dE_dG[number] for number in group.members) / self.n_members
                part, strain = group.descriptor.forces_among(species, near, mean)
                total += part
                virial += strain
        return Prediction(energies, total, virial, tuple(features), tuple(dE_dG))

    def member_forces(
        self, species: NDArray[np.int64], near: Any, prediction: Prediction
    ) -> FloatArray:
        """Return each member's forces, (n_members, n_atoms, 3) float array, eV/Å.

        Every member costs as much as the forces of `evaluate`, whose arguments and result are
        to be given. The spread of forces is made of them.
        """
        forces = np.empty((self.n_members, len(species), 3))
        for group in self._groups:
            for number in group.members:
                forces[number], _ = group.descriptor.forces_among(
                    species, near, prediction.gradients[number]
                )
        return forces
