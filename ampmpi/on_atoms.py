"""What calculators share: a potential on ASE's atoms, step after step, in any thread."""

from __future__ import annotations

import operator
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from ase.calculators.calculator import Calculator
from numpy.typing import NDArray

from ampmpi.descriptor import can_share_neighbors, check_overlap
from ampmpi.errors import InputError, ModelError
from ampmpi.heap import keep_freed_memory
from ampmpi.parallel.wishes import note_threads
from ampmpi.potential import Potential, Prediction

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.descriptor import Descriptor, VerletList
    from ampmpi.model import NeuralNetwork

SKIN = 0.6
"""Å; candidates of neighbours are searched again when an atom has moved by half of it."""

Member: TypeAlias = "tuple[Descriptor, NeuralNetwork]"


class Outcome:
    """A potential's prediction for the atoms of one image, in their order.

    Attributes
    ----------
    energies : (n_members, n_atoms) float array, eV
        Atomic energies of each member.
    forces : (n_atoms, 3) float array, eV/Å
        Mean of the members' forces; empty where they were not asked for.
    virial : (3, 3) float array, eV
        Mean of the members' derivatives of the energy by strain.
    """

    def __init__(self, potential: Potential, found: Any, prediction: Prediction) -> None:
        self._potential, self._prediction = potential, prediction
        # The list's positions are overwritten by the next step.
        self._found = found._replace(positions=found.positions.copy())
        self.energies = found.unsort(prediction.energies)
        self.forces = found.fold(prediction.forces) if len(prediction.forces) else prediction.forces
        self.virial = prediction.virial

    def member_forces(self) -> NDArray[np.float64]:
        """Return each member's forces, (n_members, n_atoms, 3) float array, eV/Å."""
        found = self._found
        forces = self._potential.member_forces_among(
            found.positions, found.start, found.candidate, found.species, self._prediction
        )
        return np.array([found.fold(one) for one in forces])


class OnAtoms:
    """A potential that follows its models, and the candidates of the image it saw last."""

    def __init__(self) -> None:
        keep_freed_memory()  # each step takes the memory that the last one had
        self._made_of: list[Any] = []
        self._potential: Potential | None = None
        self._verlet: VerletList | None = None

    def forget_neighbors(self) -> None:
        """Forget the candidates."""
        self._verlet = None

    def evaluate(
        self, members: Sequence[Member], atoms: Atoms, forces: bool, threads: int
    ) -> Outcome | None:
        """Evaluate members on an image; None where they cannot share neighbours.

        Raises
        ------
        ImageError
            When the image cannot be used.
        ModelError
            A model is not trained, or lacks an element of the image.
        """
        made_of = [threads, *ingredients(members)]
        if not _are_same(made_of, self._made_of):
            self._potential = _potential(members, threads)
            self._made_of = made_of
            self._verlet = None
        if self._potential is None:
            return None
        if self._verlet is None:
            self._verlet = self._potential.verlet_list(SKIN)
        found = self._verlet.of(atoms)
        prediction = self._potential.evaluate_among(
            found.positions, found.start, found.candidate, found.species, forces
        )
        _check_overlap(atoms, prediction, found.owner)
        return Outcome(self._potential, found, prediction)


def ingredients(members: Sequence[Member]) -> list[Any]:
    """Return objects that are others as soon as a descriptor or a model has changed.

    Raises
    ------
    ModelError
        A model is not trained.
    """
    found: list[Any] = []
    for descriptor, model in members:
        found.append(getattr(descriptor, "settings", descriptor))
        found.append(getattr(model, "predictor", model))  # one's own model may have none
    return found


def _are_same(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _potential(members: Sequence[Member], threads: int) -> Potential | None:
    """Return the potential of members; None where they are no such members."""
    resolved = [(d.resolve(model.network.elements), model) for d, model in members]
    if not all(can_share_neighbors(descriptor) for descriptor, _ in resolved):
        return None
    if len({descriptor.elements for descriptor, _ in resolved}) > 1:
        return None
    return Potential(resolved, threads)


def _check_overlap(atoms: Atoms, prediction: Prediction, owner: NDArray[np.int64]) -> None:
    first, second, square = prediction.closest
    check_overlap(atoms, np.array([owner[int(first)], owner[int(second)], square]))


class ThreadSafeCalculator(Calculator):
    """A calculator whose atoms and results each Python thread has for itself.

    Parameters
    ----------
    threads : int
        How many threads of its own share the work of a calculation.
    **keywords
        Those of ASE's `Calculator`.

    Raises
    ------
    InputError
        `threads` is no number above zero.
    """

    def __init__(self, threads: int = 1, **keywords: Any) -> None:
        self._kept = _Kept()
        self.threads = threads
        Calculator.__init__(self, **keywords)  # type: ignore[no-untyped-call]

    @property
    def threads(self) -> int:
        """How many threads share the work of a calculation; 1 under MPI with several ranks."""
        return self._threads

    @threads.setter
    def threads(self, threads: int) -> None:
        if not isinstance(threads, int | np.integer) or isinstance(threads, bool) or threads < 1:
            raise InputError(f"threads is {threads!r}; give a whole number above zero")
        self._threads = note_threads(int(threads))

    @property
    def atoms(self) -> Any:
        """The atoms of this thread's last calculation."""
        return self._kept.atoms

    @atoms.setter
    def atoms(self, atoms: Any) -> None:
        self._kept.atoms = atoms

    @property
    def results(self) -> dict[str, Any]:
        """The results of this thread's last calculation."""
        return self._kept.results

    @results.setter
    def results(self, results: dict[str, Any]) -> None:
        self._kept.results = results

    def forget_neighbors(self) -> None:
        """Look for neighbours anew at the next calculation of this thread.

        Its results then depend on no image before it, not even in the last digit, where the
        order in which neighbours are added up shows.
        """
        self._kept.on_atoms.forget_neighbors()

    def _members(self) -> list[Member]:
        """Return the descriptors and models that the results are of."""
        raise NotImplementedError

    def _keep(self, results: dict[str, Any]) -> None:
        """Keep results of the present models."""
        self._kept.made_of = ingredients(self._members())
        self.results = results

    def check_state(self, atoms: Any, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation, as ASE asks; models count, too."""
        changes: list[str] = Calculator.check_state(  # type: ignore[no-untyped-call]
            self, atoms, tol
        )
        if self._kept.results:
            try:
                same = _are_same(ingredients(self._members()), self._kept.made_of)
            except ModelError:
                same = False
            if not same:
                changes.append("model")
        return changes

    def _forget(self) -> None:
        """Forget the results of all threads."""
        self._kept = _Kept()


class _Kept(threading.local):
    """What a thread keeps of its last calculation. Copies have that of the thread that copies."""

    def __init__(self) -> None:
        self.atoms: Any = None
        self.results: dict[str, Any] = {}
        self.made_of: list[Any] = []
        """The `ingredients` of the results."""
        self.on_atoms = OnAtoms()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.atoms, dict(self.results), self.made_of)


def _restored(atoms: Any, results: dict[str, Any], made_of: list[Any]) -> _Kept:
    kept = _Kept()
    kept.atoms, kept.results, kept.made_of = atoms, results, made_of
    return kept
