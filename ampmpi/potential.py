"""`Potential`: energies, forces and virial of atoms whose neighbours are known.

It is what stands between a neighbour list, whoever made it, and calculators. Several networks
(a committee) share neighbours, fingerprints and, since forces are linear in dE/dG, the forces of
their mean energy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ampmpi.descriptor import can_share_neighbors
from ampmpi.errors import InputError

if TYPE_CHECKING:
    from ampmpi.calculator import Amp
    from ampmpi.descriptor import AtomCentered, NeighborList, VerletList
    from ampmpi.model import NeuralNetwork
    from ampmpi.model.predictor import Predictor

FloatArray: TypeAlias = NDArray[np.float64]
_Range: TypeAlias = tuple[int, int]
_Neighbors: TypeAlias = Callable[[int, int], Any]
_T = TypeVar("_T")

BATCH = 128
"""Atoms that go through all steps together: their neighbours fit into a core's cache."""

SMALLEST_PART, MOST_PARTS = 128, 16
"""Forces are summed over parts of so many atoms at least, and over so many parts at most.

As both do not depend on the number of threads, no sum does.
"""

FARTHEST = (-1.0, -1.0, float("inf"))
"""The closest atoms where no atom has a neighbour."""


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
    closest : tuple of three float
        The two atoms that are closest, and their squared distance (infinity when no atom has
        a neighbour); atoms on top of each other have no energy that means anything.
    """

    energies: FloatArray
    forces: FloatArray
    virial: FloatArray
    features: tuple[FloatArray, ...]
    gradients: tuple[FloatArray, ...]
    closest: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class _Group:
    """Members with one descriptor: it, their numbers and their networks."""

    descriptor: AtomCentered
    members: tuple[int, ...]
    predictors: tuple[Predictor, ...]

    @property
    def width(self) -> int:
        return max(self.descriptor.n_features.values())


@dataclass(frozen=True, eq=False)
class _Part:
    """Forces on all atoms and the virial of some atoms' energies, and the closest of them."""

    forces: FloatArray
    virial: FloatArray
    closest: tuple[float, ...]

    def plus(self, other: _Part) -> _Part:
        if len(self.forces):
            self.forces[:] += other.forces
        return _Part(
            self.forces if len(self.forces) else other.forces,
            self.virial + other.virial,
            min(self.closest, other.closest, key=lambda one: one[2]),
        )


class Potential:
    """Descriptors and networks that are evaluated together.

    Later changes of the models are not followed.

    Parameters
    ----------
    members : sequence of (descriptor, model)
        `Gaussian` or `Zernike` descriptors and trained networks of the same elements.
    threads : int
        How many threads share the work; the results do not depend on it.

    Raises
    ------
    InputError
        There is no member, a descriptor has no kernels, or members have other elements.
    ModelError
        A model is not trained, or does not belong to its descriptor.
    """

    def __init__(self, members: Sequence[tuple[Any, NeuralNetwork]], threads: int = 1) -> None:
        if not members:
            raise InputError("a potential needs at least one member")
        self._threads = threads
        self.n_members = len(members)
        found: dict[str, list[tuple[int, Any, Predictor]]] = {}
        self.elements: tuple[str, ...] = ()
        """Elements that the members know, sorted: their numbers are the atoms' species."""
        for number, (descriptor, model) in enumerate(members):
            resolved = descriptor.resolve(model.network.elements)
            if not can_share_neighbors(resolved):
                raise InputError(
                    f"member {number} has the descriptor {descriptor!r}, which cannot be computed "
                    "from lists of neighbours: give Gaussian or Zernike, and no function with a "
                    "gamma above 1 and a zeta that is no whole number"
                )
            self.elements = self.elements or resolved.elements
            if resolved.elements != self.elements:
                raise InputError(
                    f"member {number} has a descriptor of {', '.join(resolved.elements)}, where "
                    f"member 0 has one of {', '.join(self.elements)}: give members of the same "
                    "elements"
                )
            found.setdefault(resolved.digest, []).append((number, resolved, model.predictor))
        self._groups = [
            _Group(one[0][1], tuple(n for n, _, _ in one), tuple(p for _, _, p in one))
            for one in found.values()
        ]

    @classmethod
    def of(cls, calculators: Iterable[Amp], threads: int = 1) -> Potential:
        """Return the potential of calculators, such as ``committee.members``."""
        return cls([(one.descriptor, one.model) for one in calculators], threads)

    @property
    def descriptors(self) -> tuple[AtomCentered, ...]:
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

    def verlet_list(self, skin: float) -> VerletList:
        """Return a list of an image's candidates for `evaluate_among`; `skin` in Å."""
        found: VerletList = self._first.verlet_list(skin, self.cutoff_radius)
        return found

    def neighbors_among(
        self,
        positions: FloatArray,
        candidate_start: NDArray[np.int64],
        candidate: NDArray[np.int32],
        species: NDArray[np.int64],
        first: int = 0,
    ) -> NeighborList:
        """Choose the neighbours, closer than `cutoff_radius`, of some atoms from candidates.

        Parameters
        ----------
        positions : (n_atoms, 3) float array, Å
            Positions of all atoms; periodic images are atoms of their own, behind the others.
        candidate_start : (n_centres + 1,) int64 array
            The candidates of atom ``first + i`` are ``candidate_start[i]`` to
            ``candidate_start[i + 1]``.
        candidate : (n_candidates,) int32 array
            Atoms that may be neighbours; never the atom itself.
        species : (n_atoms,) int64 array
            Species of all atoms.
        first : int
            The first atom whose neighbours are wanted.

        Returns
        -------
        NeighborList
            For `evaluate`. Its `closest` names the two atoms that are closest.
        """
        found: NeighborList = self._first.neighbors_among(
            positions, candidate_start, candidate, species, self.cutoff_radius, first
        )
        return found

    def evaluate(
        self, species: NDArray[np.int64], near: NeighborList, forces: bool = True
    ) -> Prediction:
        """Return energies, forces and virial of atoms whose neighbours are known.

        Parameters
        ----------
        species : (n_atoms,) int64 array
            Species of all atoms, those that are only neighbours behind the others.
        near : NeighborList
            The neighbours of the first n_centres atoms, closer than `cutoff_radius`.
        forces : bool
            Whether forces and virial are wanted.

        Raises
        ------
        ModelError
            A model lacks an element of the atoms.
        """
        return self._evaluate(species, len(near.start) - 1, _part_of(near), forces)

    def evaluate_among(
        self,
        positions: FloatArray,
        candidate_start: NDArray[np.int64],
        candidate: NDArray[np.int32],
        species: NDArray[np.int64],
        forces: bool = True,
    ) -> Prediction:
        """Return what `evaluate` does of atoms of which candidates are known.

        It is faster than `neighbors_among` and `evaluate`: some atoms after the others go through
        all steps, so that their neighbours stay in the processor's cache. The arguments are those
        of the two, and an image that cannot be used shows in `Prediction.closest`.
        """
        near = self._near(positions, candidate_start, candidate, species)
        return self._evaluate(species, len(candidate_start) - 1, near, forces)

    def member_forces(
        self, species: NDArray[np.int64], near: NeighborList, prediction: Prediction
    ) -> FloatArray:
        """Return each member's forces, (n_members, n_atoms, 3) float array, eV/Å.

        Every member costs as much as the forces of `evaluate`, whose arguments and result are
        to be given. The spread of forces is made of them.
        """
        return self._member_forces(species, len(near.start) - 1, _part_of(near), prediction)

    def member_forces_among(
        self,
        positions: FloatArray,
        candidate_start: NDArray[np.int64],
        candidate: NDArray[np.int32],
        species: NDArray[np.int64],
        prediction: Prediction,
    ) -> FloatArray:
        """Return what `member_forces` does, given the arguments and result of `evaluate_among`."""
        near = self._near(positions, candidate_start, candidate, species)
        return self._member_forces(species, len(candidate_start) - 1, near, prediction)

    def _near(
        self,
        positions: FloatArray,
        candidate_start: NDArray[np.int64],
        candidate: NDArray[np.int32],
        species: NDArray[np.int64],
    ) -> _Neighbors:
        """Return the function that chooses the neighbours of some of the atoms."""

        def near(first: int, last: int) -> NeighborList:
            start = candidate_start[first : last + 1]
            return self.neighbors_among(positions, start, candidate, species, first)

        return near

    @property
    def _first(self) -> AtomCentered:
        return self._groups[0].descriptor

    def _evaluate(
        self, species: NDArray[np.int64], n_centres: int, near: _Neighbors, forces: bool
    ) -> Prediction:
        """Cut the centres into parts, evaluate these, and add up what each does to all atoms."""
        self._check_elements(species[:n_centres])
        energies = np.zeros((self.n_members, n_centres))
        features = tuple(np.zeros((n_centres, group.width)) for group in self._groups)
        gradients = [np.empty((0, 0))] * self.n_members
        for group in self._groups:
            for number in group.members:
                gradients[number] = np.zeros((n_centres, group.width))
        empty = Prediction(
            energies, np.zeros((0, 3)), np.zeros((3, 3)), features, tuple(gradients), FARTHEST
        )

        def one(part: _Range) -> _Part:
            found = _Part(np.zeros((len(species) if forces else 0, 3)), np.zeros((3, 3)), FARTHEST)
            for first, last in _cut(*part, BATCH):
                found = self._add_batch(first, last, species, near(first, last), empty, found)
            return found

        total = _Part(np.zeros((0, 3)), np.zeros((3, 3)), FARTHEST)
        for found in self._in_order(one, _parts(n_centres)):
            total = total.plus(found)
        return replace(empty, forces=total.forces, virial=total.virial, closest=total.closest)

    def _add_batch(
        self,
        first: int,
        last: int,
        species: NDArray[np.int64],
        near: NeighborList,
        results: Prediction,
        part: _Part,
    ) -> _Part:
        """Write energies, features and gradients of some atoms; add their forces to a part's."""
        kinds = species[first:last]
        rows = [np.flatnonzero(kinds == number) for number in range(len(self.elements))]
        virial = part.virial
        for group, features in zip(self._groups, results.features, strict=True):
            values = group.descriptor.features_among(species, near, first)
            features[first:last] = values
            for number, predictor in zip(group.members, group.predictors, strict=True):
                energies = results.energies[number, first:last]
                gradient = results.gradients[number][first:last]
                for element, some in zip(self.elements, rows, strict=True):
                    if len(some):
                        predictor.predict(element, some, values, energies, gradient)
            if len(part.forces):
                mean = results.gradients[group.members[0]][first:last]
                if self.n_members > 1:
                    mean = sum((results.gradients[n][first:last] for n in group.members[1:]), mean)
                    mean = mean / self.n_members
                strain = group.descriptor.forces_among(species, near, mean, first, part.forces)[1]
                virial = virial + strain
        closest = min(part.closest, tuple(near.closest.tolist()), key=lambda one: one[2])
        return _Part(part.forces, virial, closest)

    def _member_forces(
        self, species: NDArray[np.int64], n_centres: int, near: _Neighbors, prediction: Prediction
    ) -> FloatArray:
        def one(part: _Range) -> FloatArray:
            forces = np.zeros((self.n_members, len(species), 3))
            for first, last in _cut(*part, BATCH):
                around = near(first, last)
                for group in self._groups:
                    for number in group.members:
                        gradient = prediction.gradients[number][first:last]
                        group.descriptor.forces_among(
                            species, around, gradient, first, forces[number]
                        )
            return forces

        return sum(
            self._in_order(one, _parts(n_centres)), np.zeros((self.n_members, len(species), 3))
        )

    def _check_elements(self, species: NDArray[np.int64]) -> None:
        """Raise `ModelError` where a model has no network for one of the species."""
        there = np.bincount(species, minlength=len(self.elements)).tolist()
        for group in self._groups:
            for predictor in group.predictors:
                for element, count in zip(self.elements, there, strict=True):
                    if count:
                        predictor.check(element, group.descriptor.n_features[element])

    def _in_order(self, one: Callable[[_Range], _T], parts: list[_Range]) -> Iterator[_T]:
        """Yield what `one` makes of each part, in the parts' order whoever made it."""
        if self._threads == 1 or len(parts) == 1:
            return map(one, parts)
        return _pool(self._threads).map(one, parts)


def _part_of(near: NeighborList) -> _Neighbors:
    """Return the function that gives the neighbours of some of the atoms in a list."""
    return lambda first, last: near._replace(start=near.start[first : last + 1])


def _parts(n_centres: int) -> list[_Range]:
    """Cut the atoms into parts; how, depends on their number alone."""
    n_parts = max(1, min(MOST_PARTS, n_centres // SMALLEST_PART))
    return list(_cut(0, n_centres, -(-n_centres // n_parts) if n_centres else 1))


def _cut(first: int, last: int, size: int) -> Iterator[_Range]:
    for begin in range(first, last, size):
        yield begin, min(begin + size, last)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="ampmpi")
