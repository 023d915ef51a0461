"""How good calculators are: their errors on images, and how much they disagree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ampmpi.descriptor import feature_names, fingerprint_once, has_derivatives, in_words
from ampmpi.errors import ImageError, InputError, ModelError, UnusableImagesError
from ampmpi.images import ImageRef, open_images
from ampmpi.images.checks import Problem, problem, unreadable
from ampmpi.images.doubts import SHOWN, named
from ampmpi.images.glance import choose_labels
from ampmpi.images.imageset import ImageList, ImageSet
from ampmpi.images.labels import (
    NO_CELL,
    NO_ENERGY,
    NO_FORCES,
    NO_STRESS,
    LabelError,
    LabelKeys,
    energy_of,
    forces_of,
    stress_of,
)
from ampmpi.model.layers import Array
from ampmpi.model.scaling import NARROWEST, beyond
from ampmpi.text import amount, figures, plain

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.entries import Fingerprint

T = TypeVar("T")


GPA = 160.21766208
"""One eV/Å³ in GPa."""

SKIP = "--skip-unusable (skip_unusable=True in a script)"
SKIP_IMAGE = f"take it out of the set, or leave such images out with {SKIP}"


@dataclass(frozen=True)
class Excess:
    """One atom whose fingerprint is outside the range of a training.

    Attributes
    ----------
    atom : int
        The atom.
    symbol : str
        Its element.
    feature : int
        The feature that is farthest outside.
    function : str
        What the feature is, in words.
    value, low, high : float
        Its value, and the ends of the trained range.
    distance : float
        How far it is outside, as a part of that range.
    """

    atom: int
    symbol: str
    feature: int
    function: str
    value: float
    low: float
    high: float
    distance: float

    def __str__(self) -> str:
        trained = f"range {self.low:.4g} to {self.high:.4g} by {self.distance:.0%} of it"
        if self.high - self.low <= NARROWEST:
            trained = f"range, which is {self.low:.4g} alone"
        return (
            f"atom {self.atom} ({self.symbol}), feature {self.feature} ({self.function}): "
            f"{self.value:.4g} is outside the trained {trained}"
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One image seen by calculators.

    Attributes
    ----------
    ref : ImageRef
        The image.
    atoms : ase.Atoms
        Its atoms and cell, without anything else that it carried.
    energy, forces : float, eV, and (n_atoms, 3) float array, eV/Å, or None
        References, where the image carries them.
    energies : (n_calculators,) float array, eV
        Predicted energies.
    predicted : (n_calculators, n_atoms, 3) float array, eV/Å
        Predicted forces; (n_calculators, 0, 3) where a descriptor has no derivatives.
    outside : tuple of Excess
        Atoms outside the trained range.
    stress : (6,) float array, eV/Å³, or None
        Reference, as ASE has it.
    stresses : (n_calculators, 6) float array, eV/Å³
        Predicted stresses; (0, 6) where there is no reference.
    """

    ref: ImageRef
    atoms: Atoms
    energy: float | None
    forces: Array | None
    energies: Array
    predicted: Array
    outside: tuple[Excess, ...]
    stress: Array | None = None
    stresses: Array = field(default_factory=lambda: np.empty((0, 6)))

    @property
    def name(self) -> str:
        """The image's name."""
        return str(self.ref)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The atoms' elements."""
        return tuple(self.atoms.symbols)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Atoms and features outside the trained range, a sentence each."""
        return tuple(map(str, self.outside))

    @property
    def mean_energy(self) -> float:
        """Mean of the predicted energies, eV."""
        return float(self.energies.mean())

    @property
    def mean_forces(self) -> Array:
        """Mean of the predicted forces, (n_atoms, 3), eV/Å."""
        mean: Array = self.predicted.mean(axis=0)
        return mean

    @property
    def mean_stress(self) -> Array:
        """Mean of the predicted stresses, (6,), eV/Å³."""
        mean: Array = self.stresses.mean(axis=0)
        return mean

    @property
    def energy_error(self) -> float:
        """Error of the mean energy, eV per atom; nan without a reference."""
        if self.energy is None:
            return float("nan")
        return (self.mean_energy - self.energy) / len(self.atoms)

    @property
    def force_errors(self) -> Array:
        """Errors of the mean forces, (n_atoms, 3), eV/Å; (0, 3) without a reference."""
        if self.forces is None:
            return np.empty((0, 3))
        errors: Array = self.mean_forces - self.forces
        return errors

    @property
    def force_rmse(self) -> float:
        """Root mean square error of the force components, eV/Å; nan without a reference."""
        errors = self.force_errors
        return float(np.sqrt(np.mean(errors**2))) if len(errors) else float("nan")

    @property
    def stress_errors(self) -> Array:
        """Errors of the nine components of the mean stress, (9,), eV/Å³; (0,) without one."""
        if self.stress is None:
            return np.empty(0)
        errors: Array = (self.mean_stress - self.stress)[[0, 1, 2, 3, 3, 4, 4, 5, 5]]
        return errors

    @property
    def stress_rmse(self) -> float:
        """Root mean square error of the stress components, eV/Å³; nan without a reference."""
        errors = self.stress_errors
        return float(np.sqrt(np.mean(errors**2))) if len(errors) else float("nan")

    @property
    def energy_spread(self) -> float:
        """Standard deviation of the energies, eV per atom; nan of one calculator."""
        return spread_of(self.energies) / len(self.atoms)

    @property
    def force_spreads(self) -> Array:
        """Spread of each atom's force, (n_atoms,), eV/Å, nan of one calculator; `atom_spreads`."""
        return atom_spreads(self.predicted)

    @property
    def force_spread(self) -> float:
        """The largest of `force_spreads`, eV/Å; nan of one calculator."""
        return float(self.force_spreads.max(initial=0.0))


@dataclass(frozen=True)
class LeftOut:
    """An image that was left out, or a reference of it.

    Attributes
    ----------
    ref : ImageRef
        The image.
    kind : str
        What is true of all images with the same fault: "has no atoms".
    predicted : bool
        Whether the image was predicted, and only not compared.
    """

    ref: ImageRef
    kind: str
    predicted: bool = False


def spread_of(energies: Array) -> float:
    """Return the standard deviation of calculators' energies; nan of one calculator.

    It is that of these calculators, with their number in the denominator.
    """
    return float(energies.std()) if len(energies) > 1 else float("nan")


def atom_spreads(forces: Array) -> Array:
    """Return how much forces differ from their mean, for each atom.

    Parameters
    ----------
    forces : (n_calculators, n_atoms, 3) float array
        Forces.

    Returns
    -------
    (n_atoms,) float array
        Root mean square deviation of a component: the mean is over calculators and the three
        components, so that the number does not change when an image is turned, and compares
        with the rmse of the forces. nan of one calculator.
    """
    if len(forces) < 2:
        return np.full(forces.shape[1], np.nan)
    spreads: Array = np.sqrt(forces.var(axis=0).mean(axis=-1))
    return spreads


def evaluate(
    calculators: Any,
    images: Any,
    outside: float = 0.05,
    indices: Sequence[int] | None = None,
    keys: LabelKeys | None = None,
    *,
    skip_unusable: bool = False,
) -> list[Evaluation]:
    """Predict images with calculators, one image in memory at a time.

    Parameters
    ----------
    calculators : Amp, Committee or sequence of Amp
        One calculator, or a committee.
    images : file name, Atoms, or iterable of these
        The images; names may be patterns and may end in ``@frames``. Those without energies
        or forces are predicted, too.
    outside : float
        A feature is outside the trained range when it is by this part of the range.
    indices : sequence of int, optional
        Which images, ascending; all by default.
    keys : LabelKeys, optional
        Names of energies, forces and stresses; found out by default, where there is no doubt.
    skip_unusable : bool
        Leave out images that cannot be read or described, and do not compare with an energy,
        forces or a stress that are wrong.

    Returns
    -------
    list of Evaluation
        What was found for each image.

    Raises
    ------
    InputError
        There is no calculator, or the images carry several sets of labels.
    UnusableImagesError
        An image cannot be read or described, or its energy, forces or stress are wrong.
    ModelError
        A calculator is not trained.
    """
    return compare(calculators, images, outside, indices, keys, skip_unusable=skip_unusable)[0]


def compare(
    calculators: Any,
    images: Any,
    outside: float = 0.05,
    indices: Sequence[int] | None = None,
    keys: LabelKeys | None = None,
    *,
    skip_unusable: bool = False,
) -> tuple[list[Evaluation], list[LeftOut]]:
    """Do what `evaluate` does; return also what was left out."""
    members = members_of(calculators)
    opened = images if isinstance(images, ImageSet | ImageList) else open_images(images)
    if keys is None:
        keys = choose_labels(opened, LabelKeys()).keys
    found: list[Evaluation] = []
    left: list[LeftOut] = []
    ranges = _distinct_ranges(members)
    with_forces = all(has_derivatives(one.descriptor) for one in members)
    wanted = range(len(opened)) if indices is None else indices
    with closing(opened):
        for index, image in opened.read_many(wanted, results=True):
            ref = opened.ref(index)
            if isinstance(image, ImageError):
                wrong: Problem | None = Problem(unreadable(image), f"cannot be read: {image}")
            else:
                wrong = problem(image)
            if wrong is not None:
                if not skip_unusable:
                    raise UnusableImagesError(f"{ref} {wrong.sentence}; {SKIP_IMAGE}")
                left.append(LeftOut(ref, wrong.kind))
                continue
            assert not isinstance(image, ImageError)
            atoms = bare(image)
            skipped = left if skip_unusable else None
            stress = _reference(stress_of, image, keys, ref, skipped) if with_forces else None
            properties = ["energy", "forces"] if with_forces else ["energy"]
            properties += [] if stress is None else ["stress"]
            energies, predicted, stresses = [], [], []
            described: dict[str, Fingerprint] = {}
            try:
                for calculator in members:
                    calculator.forget_neighbors()  # the same numbers on any number of ranks
                    calculator.calculate(atoms, properties, described=described)
                    energies.append(calculator.results["energy"])
                    predicted.append(calculator.results.get("forces", np.empty((0, 3))))
                    stresses += [] if stress is None else [calculator.results["stress"]]
            except ImageError as error:
                if not skip_unusable:
                    raise UnusableImagesError(f"{ref}: {error}") from error
                reason = plain(str(error).rstrip("."), 120)
                left.append(LeftOut(ref, f"cannot be described ({reason})"))
                continue
            except ModelError as error:
                raise ModelError(f"{ref}: {error}") from error
            energy = _reference(energy_of, image, keys, ref, skipped)
            forces = _reference(forces_of, image, keys, ref, skipped) if with_forces else None
            far = tuple(one for part in ranges for one in _outside(part, atoms, outside, described))
            found.append(
                Evaluation(
                    ref, atoms, energy, forces, np.array(energies), np.array(predicted), far,
                    stress, np.array(stresses).reshape(-1, 6),
                )
            )  # fmt: skip
    return found, left


def remarks(left: Sequence[LeftOut], n_images: int) -> list[str]:
    """Say what was left out of a set, and why: a line for images, and one for references."""
    lines = []
    for predicted in (False, True):
        some = [one for one in left if one.predicted is predicted]
        kinds = {one.kind: [each.ref for each in some if each.kind == one.kind] for one in some}
        why = []
        for kind, refs in kinds.items():
            predicate = kind if len(refs) == 1 else re.sub("^has ", "have ", kind)
            why.append(f"{len(refs)} {predicate}: {named(refs, SHOWN)}")
        if some and not predicted:
            why.insert(0, f"{len(some)} of {amount(n_images, 'image')} left out")
        elif some:
            why.insert(0, f"{amount(len(some), 'reference')} left out, the images are predicted")
        lines += [f"{why[0]}: {'; '.join(why[1:])}"] if why else []
    return lines


def members_of(calculators: Any) -> list[Any]:
    """Return the calculators of a committee, of a sequence, or the one that is given."""
    members = getattr(calculators, "members", calculators)
    found = list(members) if isinstance(members, Iterable) else [members]
    if not found:
        raise InputError("there is no calculator; give one, or a committee")
    for one in found:
        if not hasattr(one, "model") or not hasattr(one, "descriptor"):
            raise InputError(
                f"{one!r} is no calculator of ours; give Amp.load(file), a list of such, or "
                "Committee.load(files)"
            )
    return found


def bare(image: Atoms) -> Atoms:
    """Return an image's atoms and cell, without anything else that it carries."""
    from ase import Atoms

    return Atoms(numbers=image.numbers, positions=image.positions, cell=image.cell, pbc=image.pbc)


def _reference(
    take: Callable[[Any, LabelKeys], T],
    atoms: Any,
    keys: LabelKeys,
    ref: ImageRef,
    left: list[LeftOut] | None,
) -> T | None:
    """Return an image's energy, forces or stress, or None where it has none.

    One that is wrong is noted in `left`, or refused if that is None.
    """
    try:
        return take(atoms, keys)
    except LabelError as error:
        if error.kind in (NO_ENERGY, NO_FORCES, NO_STRESS, NO_CELL):
            return None
        if left is not None:
            left.append(LeftOut(ref, error.kind, predicted=True))
            return None
        raise UnusableImagesError(
            f"{ref} {error}; take it out of the set, or do not compare with it by {SKIP}"
        ) from error


def _distinct_ranges(calculators: Sequence[Any]) -> list[Any]:
    """Return one calculator for each descriptor and trained range; committees share them."""
    distinct: dict[str, Any] = {}
    for calculator in calculators:
        ranges = calculator.model.parameters["fprange"]
        distinct.setdefault(f"{calculator.descriptor.digest} {ranges}", calculator)
    return list(distinct.values())


def _outside(
    calculator: Any, atoms: Any, part: float, described: dict[str, Fingerprint]
) -> Iterator[Excess]:
    """Find atoms and features that the training did not reach, the farthest first."""
    ranges = calculator.model.fprange or {}
    descriptor = calculator.descriptor.resolve(ranges)
    fingerprint = fingerprint_once(descriptor, atoms, described)
    far = []
    for atom, symbol in enumerate(fingerprint.symbols):
        low, high = ranges[symbol].T
        values = fingerprint.values[atom, : len(low)]
        distance = beyond(values, ranges[symbol])
        feature = int(distance.argmax())
        if distance[feature] > part:
            names = feature_names(descriptor, symbol)
            name = in_words(descriptor) if names is None else names[feature]
            numbers = values[feature], low[feature], high[feature], distance[feature]
            far.append(Excess(atom, symbol, feature, name, *map(float, numbers)))
    yield from sorted(far, key=lambda one: (-one.distance, -one.atom))


def summary(name: str, found: Sequence[Evaluation]) -> list[str]:
    """Return errors of a set, then of each element's forces, then the committee's disagreement."""
    lines = [f"{name.removesuffix(':')}: {amount(len(found), 'image')}"]  # of FILE@10:
    errors = energy_errors(found)
    if len(errors):
        lines.append(f"  energy, meV/atom      {_errors(1e3 * errors)}")
    errors, symbols = force_errors(found)
    if len(errors):
        lines.append(f"  forces, meV/Å         {_errors(1e3 * errors)}")
        if len({len(item.atoms) for item in found if item.forces is not None}) > 1:
            lines.append(
                f"    rmse where each image counts the same, as in trainings: "
                f"{figures(1e3 * rmse_by_image(found), 4)}"
            )
        lines += [
            f"  forces on {symbol}, meV/Å".ljust(24) + _errors(1e3 * errors[symbols == symbol])
            for symbol in sorted(set(symbols.tolist()))
        ]
    errors = stress_errors(found)
    if len(errors):
        rmse = float(np.sqrt(np.mean(errors**2)))
        lines.append(
            f"  stress, meV/Å³        {_errors(1e3 * errors)} (rmse {figures(GPA * rmse, 3)} GPa)"
        )
    if len(lines) == 1:
        per_atom = [item.mean_energy / len(item.atoms) for item in found]
        largest = max(float(np.abs(item.mean_forces).max(initial=0.0)) for item in found)
        forces = f", force components up to {largest:.4g} eV/Å" if found[0].predicted.size else ""
        lines += [
            "  no energies or forces to compare with",
            f"  predicted energies {min(per_atom):.4f} to {max(per_atom):.4f} eV/atom{forces}",
        ]
    if len(found[0].energies) > 1:
        most = max(found, key=lambda item: item.force_spread)
        spread = float(np.mean([item.energy_spread for item in found]))
        forces = ""
        if most.predicted.size:
            forces = f", forces up to {figures(1e3 * most.force_spread, 3)} meV/Å ({most.name})"
        lines.append(
            f"  disagreement of {len(most.energies)}: energies "
            f"{figures(1e3 * spread, 3)} meV/atom on average{forces}"
        )
    outside = sum(bool(item.outside) for item in found)
    if outside:
        lines.append(f"  {amount(outside, 'image leaves', 'images leave')} the trained range")
    return lines


def energy_errors(found: Iterable[Evaluation]) -> Array:
    """Return the errors of the energies that have a reference, eV per atom."""
    return np.array([item.energy_error for item in found if item.energy is not None])


def force_errors(found: Iterable[Evaluation]) -> tuple[Array, NDArray[np.str_]]:
    """Return the errors of the forces that have a reference, eV/Å, and the atoms' elements."""
    known = [item for item in found if item.forces is not None]
    errors = np.concatenate([np.empty((0, 3)), *(item.force_errors for item in known)])
    return errors, np.array([symbol for item in known for symbol in item.symbols], dtype=str)


def stress_errors(found: Iterable[Evaluation]) -> Array:
    """Return the errors of the stresses that have a reference, nine of each image, eV/Å³."""
    return np.concatenate([np.empty(0), *(item.stress_errors for item in found)])


def rmse_by_image(found: Iterable[Evaluation]) -> float:
    """Return the rmse of the forces as trainings and Amp have it, eV/Å.

    It is the root of the mean over images of each image's mean squared component: an image
    counts as much as any other one, however many atoms it has.
    """
    squares = [item.force_rmse**2 for item in found if item.forces is not None]
    return float(np.sqrt(np.mean(squares))) if squares else float("nan")


MANY = 5
"""So many images and functions are named where many are outside the range."""


def range_warning(found: Sequence[Evaluation]) -> str | None:
    """Say in one paragraph which images leave the trained range; None where none does."""
    far = [item for item in found if item.outside]
    if not far:
        return None
    worst = max(far, key=lambda item: item.outside[0].distance)
    first = f"{worst.name}: {worst.outside[0]}"
    if len(far) == 1 and len(worst.outside) == 1:
        return first
    atoms = sum(len(item.outside) for item in far)
    which = Counter((one.symbol, one.function) for item in far for one in item.outside).most_common(
        MANY
    )
    functions = "; ".join(
        f"{function} at {symbol} ({amount(count, 'atom')})" for (symbol, function), count in which
    )
    return (
        f"{len(far)} of {amount(len(found), 'image')} "
        f"{'leaves' if len(far) == 1 else 'leave'} the trained range at {amount(atoms, 'atom')}: "
        f"{named((item.ref for item in far), MANY)}. The farthest is {first}. "
        f"Most often it is {functions}"
    )


def _errors(values: Array) -> str:
    return (
        f"rmse {figures(np.sqrt(np.mean(values**2)), 4)}, "
        f"mean absolute {figures(np.abs(values).mean(), 4)}, "
        f"largest {figures(np.abs(values).max(), 4)}"
    )


def rows(found: Sequence[Evaluation]) -> Iterator[dict[str, Any]]:
    """Yield each image's numbers, plain."""
    for item in found:
        alone = len(item.energies) == 1
        yield {
            "image": item.name,
            "n_atoms": len(item.atoms),
            "energy": item.mean_energy,
            "energy_reference": item.energy,
            "energy_spread": None if alone else item.energy_spread * len(item.atoms),
            "force_rmse": None if item.forces is None else item.force_rmse,
            "stress_rmse": None if item.stress is None else item.stress_rmse,
            "force_spread": None if alone or not item.predicted.size else item.force_spread,
            "outside": list(item.warnings),
        }


def predictions(found: Iterable[Evaluation]) -> Iterator[Atoms]:
    """Yield images with references and predictions, to be written as extended XYZ.

    References are the ``energy``, ``forces`` and ``stress`` of an image's calculator, where it
    has them. ``predicted_energy``, ``predicted_forces`` and, where there is a reference,
    ``predicted_stress`` are those of the calculator or the mean of a committee. A committee
    adds ``energy_spread`` (eV), ``forces_spread`` (eV/Å, of each atom), and
    ``member0_energy``, ``member0_forces`` and so on of its members.
    """
    from ase.calculators.singlepoint import SinglePointCalculator

    for item in found:
        atoms = item.atoms.copy()  # type: ignore[no-untyped-call]
        atoms.info["image"] = item.name
        atoms.info["predicted_energy"] = item.mean_energy
        if item.predicted.size:
            atoms.arrays["predicted_forces"] = item.mean_forces
        if item.stress is not None:
            atoms.info["predicted_stress"] = item.mean_stress
        if len(item.energies) > 1:
            atoms.info["energy_spread"] = item.energy_spread * len(atoms)
            if item.predicted.size:
                atoms.arrays["forces_spread"] = item.force_spreads
            for number, (energy, forces) in enumerate(
                zip(item.energies.tolist(), item.predicted, strict=True)
            ):
                atoms.info[f"member{number}_energy"] = energy
                if len(forces):
                    atoms.arrays[f"member{number}_forces"] = forces
        known = {"energy": item.energy, "forces": item.forces, "stress": item.stress}
        if any(reference is not None for reference in known.values()):
            atoms.calc = SinglePointCalculator(atoms, **known)  # type: ignore[no-untyped-call]
        yield atoms


def describe(name: str, calculator: Any) -> str:
    """Say what a calculator consists of."""
    model, descriptor = calculator.model, calculator.descriptor
    shapes = [f"{e} {'-'.join(map(str, n))}" for e, n in model.network.nodes.items()]
    return (
        f"{name}: {in_words(descriptor)}, networks {', '.join(shapes)}, "
        f"{model.activation}, {len(model.vector)} parameters"
    )
