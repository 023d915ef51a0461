"""How good calculators are: evaluations, pictures, and a page that holds both."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ampmpi.errors import ImageError, InputError, ModelError
from ampmpi.images import Images
from ampmpi.model.layers import Array
from ampmpi.training.curve import read

if TYPE_CHECKING:
    from ampmpi.calculator import Amp


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
    def force_errors(self) -> Array | None:
        """Errors of the mean forces, (n_atoms, 3), eV/Å."""
        if self.forces is None:
            return None
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
    calculators: Sequence[Amp],
    images: Images,
    outside: float = 0.05,
    indices: Sequence[int] | None = None,
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

    Raises
    ------
    ImageError, ModelError
        An image cannot be read or described, or a calculator is not made for it.
    """
    found = []
    ranges = _distinct_ranges(calculators)
    wanted = range(len(images)) if indices is None else indices
    with closing(images):
        for index, atoms in images.read_many(wanted, results=True):
            name = str(images.ref(index))
            if isinstance(atoms, ImageError):
                raise ImageError(f"{name}: {atoms}")
            energy, forces = _reference(atoms)
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


def _reference(atoms: Any) -> tuple[float | None, Array | None]:
    """Energy and forces that an image carries."""
    results = getattr(atoms.calc, "results", {})
    energy = results.get("energy")
    forces = results.get("forces")
    return (
        None if energy is None else float(energy),
        None if forces is None else np.array(forces, dtype=np.float64),
    )


def _distinct_ranges(calculators: Sequence[Amp]) -> list[Amp]:
    """Return one calculator for each descriptor and trained range: a committee has but one."""
    distinct: dict[str, Amp] = {}
    for calculator in calculators:
        ranges = calculator.model.parameters["fprange"]
        distinct.setdefault(f"{calculator.descriptor.digest} {ranges}", calculator)
    return list(distinct.values())


# Width below which a range is a single value.
NARROW = 1e-8


def _outside(calculator: Amp, atoms: Any, part: float) -> Iterator[str]:
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
    """Errors of a set, then of each element's forces, then the committee's disagreement."""
    with_energy = [item for item in found if item.energy is not None]
    with_forces = [item for item in found if item.forces is not None]
    lines = [f"{name}: {len(found)} images"]
    if with_energy:
        errors = np.array([item.energy_error for item in with_energy])
        lines.append(f"  energy, meV/atom      {_errors(1e3 * errors)}")
    if with_forces:
        errors = np.concatenate([_force_errors(item) for item in with_forces])
        symbols = np.concatenate([np.array(item.symbols) for item in with_forces])
        lines.append(f"  forces, meV/Å         {_errors(1e3 * errors)}")
        lines += [
            f"  forces on {symbol}, meV/Å".ljust(24) + _errors(1e3 * errors[symbols == symbol])
            for symbol in sorted(set(symbols.tolist()))
        ]
    if not (with_energy or with_forces):
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


def _force_errors(item: Evaluation) -> Array:
    errors = item.force_errors
    assert errors is not None
    return errors


def _errors(values: Array) -> str:
    return (
        f"rmse {np.sqrt(np.mean(values**2)):.4g}, mean absolute {np.abs(values).mean():.4g}, "
        f"largest {np.abs(values).max():.4g}"
    )


def rows(found: Sequence[Evaluation]) -> Iterator[dict[str, Any]]:
    """Each image's numbers, plain."""
    for item in found:
        errors = item.force_errors
        yield {
            "image": item.name,
            "n_atoms": len(item.symbols),
            "energy": float(item.energies.mean()),
            "energy_reference": item.energy,
            "energy_spread": item.energy_spread * len(item.symbols),
            "force_rmse": None if errors is None else float(np.sqrt(np.mean(errors**2))),
            "force_spread": item.force_spread,
            "outside": list(item.warnings),
        }


# Curves that a legend names one by one.
NAMED = 12


def curve_figure(paths: Sequence[str]) -> Any:
    """Draw the errors of trainings against their steps."""
    from matplotlib.figure import Figure

    tables = {Path(path).name.removesuffix("-curve.txt"): read_curve(path) for path in paths}
    wanted = [("energy_rmse", "energy rmse, meV/atom"), ("force_rmse", "force rmse, meV/Å")]
    if not any(np.isfinite(table["force_rmse"]).any() for table in tables.values()):
        del wanted[1]
    figure = Figure(figsize=(1.5 + 4 * len(wanted), 3.6), layout="constrained")
    validated = False
    for axes, (what, unit) in zip(figure.subplots(1, len(wanted), squeeze=False)[0], wanted,
                                  strict=True):  # fmt: skip
        for label, table in tables.items():
            [drawn] = axes.plot(table["step"], 1e3 * table[what], label=label, linewidth=1)
            good = np.isfinite(table[f"val_{what}"])
            validated |= bool(good.any())
            axes.plot(
                table["step"][good], 1e3 * table[f"val_{what}"][good], ".:", color=drawn.get_color()
            )
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.set_yscale("log")
    title = "dotted: validation" if validated else None
    if len(tables) <= NAMED:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", title=title,
                      fontsize="small", title_fontsize="small")  # fmt: skip
    elif title:
        figure.suptitle(f"{len(tables)} fits; {title}", fontsize="small")
    return figure


def outcome(path: str) -> str:
    """Say where a learning curve is best: by validation loss, or loss without validation."""
    table = read_curve(path)
    name = Path(path).name.removesuffix("-curve.txt")
    values = table["val_loss"] if np.isfinite(table["val_loss"]).any() else table["loss"]
    if not np.isfinite(values).any():
        return f"{name}: no step yet"
    best = table[int(np.nanargmin(values))]
    text = f"{name}: {int(table['step'][-1])} steps, the best is {int(best['step'])}"
    for kind, prefix in (("training", ""), ("validation", "val_")):
        parts = [
            f"{1e3 * best[prefix + what]:.4g} {unit}"
            for what, unit in (("energy_rmse", "meV/atom"), ("force_rmse", "meV/Å"))
            if np.isfinite(best[prefix + what])
        ]
        if parts:
            text += f"; {kind} rmse {', '.join(parts)}"
    return text


def describe(name: str, calculator: Amp) -> str:
    """Say what a calculator consists of."""
    model, descriptor = calculator.model, calculator.descriptor
    shapes = [f"{e} {'-'.join(map(str, n))}" for e, n in model.network.nodes.items()]
    return (
        f"{name}: {descriptor.settings.cutoff}, networks {', '.join(shapes)}, "
        f"{model.activation}, {len(model.vector)} parameters"
    )


def read_curve(path: str) -> Any:
    """Read a learning curve; `InputError` where it is none."""
    try:
        table = read(path)
        if table.dtype.names is None or "energy_rmse" not in table.dtype.names:
            raise ValueError("it has no column energy_rmse")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no learning curve ({error}); give a LABEL-curve.txt") from None
    return table


def parity_figure(found: Sequence[Evaluation]) -> Any:
    """Draw predicted against reference energies and forces, with histograms of the errors."""
    from matplotlib.figure import Figure

    energies = [item for item in found if item.energy is not None]
    forces = [item for item in found if item.forces is not None]
    known = [item.forces.ravel() for item in found if item.forces is not None]
    rows = []
    if energies:
        reference = np.array([(item.energy or 0.0) / len(item.symbols) for item in energies])
        errors = np.array([item.energy_error for item in energies])
        rows.append((reference, errors, "energy", "eV/atom"))
    if forces:
        reference = np.concatenate(known)
        errors = np.concatenate([_force_errors(item).ravel() for item in forces])
        rows.append((reference, errors, "force", "eV/Å"))
    if not rows:
        raise InputError("the images carry neither energies nor forces to compare with")
    figure = Figure(figsize=(8, 3.2 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for (left, right), (reference, errors, what, unit) in zip(axes, rows, strict=True):
        predicted = reference + errors
        left.plot(reference, predicted, ".", markersize=6 if len(reference) < 300 else 2)
        ends = [min(reference.min(), predicted.min()), max(reference.max(), predicted.max())]
        left.plot(ends, ends, linewidth=0.8, color="black")
        right.hist(1e3 * errors, bins=50)
        left.set_xlabel(f"reference {what}, {unit}")
        left.set_ylabel(f"predicted {what}, {unit}")
        right.set_xlabel(f"error of the {what}, m{unit}")
        right.set_ylabel("count")
    return figure


def spread_figure(found: Sequence[Evaluation]) -> Any:
    """Draw each image's force error against the committee's disagreement."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([1e3 * item.energy_spread for item in found], ".")
    left.set_xlabel("image")
    left.set_ylabel("energy spread, meV/atom")
    known = [item for item in found if item.forces is not None]
    errors = [1e3 * float(np.abs(_force_errors(item)).max()) for item in known]
    right.plot([1e3 * item.force_spread for item in known], errors, ".")
    right.set_xlabel("largest force spread, meV/Å")
    right.set_ylabel("largest force error, meV/Å")
    return figure


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font-family: sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { overflow-x: auto; background: #f4f4f4; padding: 0.5rem; }
img { max-width: 100%; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.text %}<pre>{{ section.text }}</pre>{% endif %}
{% if section.image %}
<img alt="{{ section.title }}" src="data:image/png;base64,{{ section.image }}">
{% endif %}
{% endfor %}
</body>
</html>
"""


@dataclass(frozen=True)
class Section:
    """One part of a page: a title, with text or a base64 PNG."""

    title: str
    text: str = ""
    image: str = ""


def embedded(figure: Any) -> str:
    """Return a figure as base64 of a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return base64.b64encode(stream.getvalue()).decode()


def page(title: str, sections: Sequence[Section]) -> str:
    """Return one HTML page that needs no network and no other file."""
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(PAGE)
    return template.render(title=title, sections=sections)
