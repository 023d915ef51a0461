"""How good calculators are: their errors on images, and how much they disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ampmpi.errors import ImageError, ModelError
from ampmpi.images import Images
from ampmpi.images.labels import NO_ENERGY, NO_FORCES, LabelError, LabelKeys, energy_of, forces_of
from ampmpi.model.layers import Array

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One image seen by calculators.

    Attributes
    ----------
    name : str
        The image.
    symbols : tuple of str
        Its atoms.
    energy, forces : float, eV, and (n_atoms, 3) float array, eV/Å, or None
        References, where the image carries them.
    energies : (n_calculators,) float array, eV
        Predicted energies.
    predicted : (n_calculators, n_atoms, 3) float array, eV/Å
        Predicted forces.
    warnings : tuple of str
        Atoms and features outside the trained range.
    """

    name: str
    symbols: tuple[str, ...]
    energy: float | None
    forces: Array | None
    energies: Array
    predicted: Array
    warnings: tuple[str, ...]

    @property
    def energy_error(self) -> float:
        """Error of the mean energy, eV per atom; nan without a reference."""
        if self.energy is None:
            return float("nan")
        return float(self.energies.mean() - self.energy) / len(self.symbols)

    @property
    def force_errors(self) -> Array:
        """Errors of the mean forces, (n_atoms, 3), eV/Å; (0, 3) without a reference."""
        if self.forces is None:
            return np.empty((0, 3))
        errors: Array = self.predicted.mean(axis=0) - self.forces
        return errors

    @property
    def energy_spread(self) -> float:
        """Standard deviation of the energies, eV per atom."""
        return float(self.energies.std()) / len(self.symbols)

    @property
    def force_spread(self) -> float:
        """Largest standard deviation of a force component, eV/Å."""
        return float(self.predicted.std(axis=0).max(initial=0.0))


def evaluate(
    calculators: Sequence[Any],
    images: Images,
    outside: float = 0.05,
    indices: Sequence[int] | None = None,
    keys: LabelKeys | None = None,
    *,
    skip_unusable: bool = False,
) -> list[Evaluation]:
    """Predict images with calculators, one image in memory at a time.

    Parameters
    ----------
    calculators : sequence of Amp
        A committee, or one.
    images : Images
        The images.
    outside : float
        A feature is outside the trained range when it is by this part of the range.
    indices : sequence of int, optional
        Which images, ascending; all by default.
    keys : LabelKeys, optional
        Names of energies and forces; ASE's own by default.
    skip_unusable : bool
        Compare with nothing where an energy or forces are wrong.

    Raises
    ------
    ImageError, ModelError
        An image cannot be read or described, its energy or forces are wrong, or a calculator
        is not made for it.
    """
    found = []
    ranges = _distinct_ranges(calculators)
    wanted = range(len(images)) if indices is None else indices
    with closing(images):
        for index, atoms in images.read_many(wanted, results=True):
            name = str(images.ref(index))
            if isinstance(atoms, ImageError):
                raise ImageError(f"{name}: {atoms}")
            energy = _reference(energy_of, atoms, keys, name, skip_unusable)
            forces = _reference(forces_of, atoms, keys, name, skip_unusable)
            atoms.constraints = []
            energies, predicted = [], []
            for calculator in calculators:
                try:
                    calculator.calculate(atoms, ["energy", "forces"])
                except (ImageError, ModelError) as error:
                    raise type(error)(f"{name}: {error}") from error
                energies.append(calculator.results["energy"])
                predicted.append(calculator.results["forces"])
            found.append(
                Evaluation(
                    name,
                    tuple(atoms.symbols),
                    energy,
                    forces,
                    np.array(energies),
                    np.array(predicted),
                    tuple(warning for one in ranges for warning in _outside(one, atoms, outside)),
                )
            )
    return found


def _reference(
    take: Callable[[Any, LabelKeys], T], atoms: Any, keys: LabelKeys | None, name: str, skip: bool
) -> T | None:
    """Return an image's energy or forces, or None where it has none."""
    try:
        return take(atoms, keys or LabelKeys())
    except LabelError as error:
        if skip or error.kind in (NO_ENERGY, NO_FORCES):
            return None
        raise ImageError(
            f"{name} {error}; take it out of the set, or leave that out with --skip-unusable"
        ) from error


def _distinct_ranges(calculators: Sequence[Any]) -> list[Any]:
    """Return one calculator for each descriptor and trained range; committees share them."""
    distinct: dict[str, Any] = {}
    for calculator in calculators:
        ranges = calculator.model.parameters["fprange"]
        distinct.setdefault(f"{calculator.descriptor.digest} {ranges}", calculator)
    return list(distinct.values())


# Width below which a range is a single value.
NARROW = 1e-8


def _outside(calculator: Any, atoms: Any, part: float) -> Iterator[str]:
    """Name atoms and features that the training did not reach, the farthest first."""
    ranges = calculator.model.fprange or {}
    descriptor = calculator.descriptor.resolve(ranges)
    fingerprint = descriptor.fingerprint(atoms)
    functions = descriptor.parameters["Gs"]
    far = []
    for atom, symbol in enumerate(fingerprint.symbols):
        low, high = ranges[symbol].T
        width = np.maximum(high - low, NARROW)
        values = fingerprint.values[atom, : len(low)]
        distance = np.maximum(low - values, values - high) / width
        feature = int(distance.argmax())
        if distance[feature] > part:
            far.append((float(distance[feature]), atom, symbol, feature, float(values[feature])))
    for distance, atom, symbol, feature, value in sorted(far, reverse=True):
        low, high = ranges[symbol][feature]
        trained = f"range {low:.4g} to {high:.4g} by {distance:.0%} of it"
        yield (
            f"atom {atom} ({symbol}), feature {feature} ({_named(functions[symbol][feature])}): "
            f"{value:.4g} is outside the trained "
            f"{trained if high - low > NARROW else f'range, which is {low:.4g} alone'}"
        )


def _named(function: Mapping[str, Any]) -> str:
    """Return a symmetry function's type, elements and parameters in words."""
    given = dict(function)
    elements = [given.pop("element")] if "element" in given else given.pop("elements")
    numbers = "".join(f", {key} {given[key]:.4g}" for key in sorted(given) if key != "type")
    return f"{given['type']} of {'-'.join(elements)}{numbers}"


def summary(name: str, found: Sequence[Evaluation]) -> list[str]:
    """Return errors of a set, then of each element's forces, then the committee's disagreement."""
    lines = [f"{name}: {len(found)} images"]
    errors = np.array([item.energy_error for item in found if item.energy is not None])
    if len(errors):
        lines.append(f"  energy, meV/atom      {_errors(1e3 * errors)}")
    errors = np.concatenate([item.force_errors for item in found])
    if len(errors):
        symbols = np.array([s for item in found if item.forces is not None for s in item.symbols])
        lines.append(f"  forces, meV/Å         {_errors(1e3 * errors)}")
        lines += [
            f"  forces on {symbol}, meV/Å".ljust(24) + _errors(1e3 * errors[symbols == symbol])
            for symbol in sorted(set(symbols.tolist()))
        ]
    if len(lines) == 1:
        lines.append("  no energies or forces to compare with")
    if len(found[0].energies) > 1:
        most = max(found, key=lambda item: item.force_spread)
        lines.append(
            f"  disagreement of {len(most.energies)}: energies "
            f"{1e3 * np.mean([item.energy_spread for item in found]):.3g} meV/atom on average, "
            f"forces up to {1e3 * most.force_spread:.3g} meV/Å ({most.name})"
        )
    outside = sum(bool(item.warnings) for item in found)
    if outside:
        lines.append(f"  {outside} images leave the trained range")
    return lines


def _errors(values: Array) -> str:
    return (
        f"rmse {np.sqrt(np.mean(values**2)):.4g}, mean absolute {np.abs(values).mean():.4g}, "
        f"largest {np.abs(values).max():.4g}"
    )


def rows(found: Sequence[Evaluation]) -> Iterator[dict[str, Any]]:
    """Yield each image's numbers, plain."""
    for item in found:
        errors = item.force_errors
        yield {
            "image": item.name,
            "n_atoms": len(item.symbols),
            "energy": float(item.energies.mean()),
            "energy_reference": item.energy,
            "energy_spread": item.energy_spread * len(item.symbols),
            "force_rmse": float(np.sqrt(np.mean(errors**2))) if len(errors) else None,
            "force_spread": item.force_spread,
            "outside": list(item.warnings),
        }


def describe(name: str, calculator: Any) -> str:
    """Say what a calculator consists of."""
    model, descriptor = calculator.model, calculator.descriptor
    shapes = [f"{e} {'-'.join(map(str, n))}" for e, n in model.network.nodes.items()]
    return (
        f"{name}: {descriptor.settings.cutoff}, networks {', '.join(shapes)}, "
        f"{model.activation}, {len(model.vector)} parameters"
    )
