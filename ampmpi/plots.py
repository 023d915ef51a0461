"""Pictures of trainings and evaluations."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import InputError
from ampmpi.evaluation import Evaluation, energy_errors, force_errors, stress_errors
from ampmpi.model.layers import Array
from ampmpi.text import figures

# Curves that a legend names one by one.
NAMED = 12

# Colours of the sets of images, then those of elements (Okabe and Ito's, which colour-blind
# readers can tell apart).
SETS = ("#0072b2", "#d55e00", "#009e73")
ELEMENTS = (
    "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#b0a800",
)  # fmt: skip

# Dots of which there are more are drawn as pixels, so that a PDF stays small.
PIXELS = 2000

Sets = Mapping[str, Sequence[Evaluation]]
"""Evaluated images by what they are called in pictures; the first lies above the others."""


def curve_figure(paths: Sequence[str]) -> Any:
    """Draw the errors of trainings against their steps, those that trials did not spoil."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    tables = {label_of(path): accepted(read_curve(path)) for path in paths}
    wanted = [("energy_rmse", "energy rmse, meV/atom"), ("force_rmse", "force rmse, meV/Å")]
    if not any(np.isfinite(table["force_rmse"]).any() for table in tables.values()):
        del wanted[1]
    if any(has_stress(table) for table in tables.values()):
        wanted.append(("stress_rmse", "stress rmse, meV/Å³"))
    figure = Figure(figsize=(1.5 + 4 * len(wanted), 3.8), layout="constrained")
    validated = False
    for axes, (what, unit) in zip(figure.subplots(1, len(wanted), squeeze=False)[0], wanted,
                                  strict=True):  # fmt: skip
        for label, table in tables.items():
            if what == "stress_rmse" and not has_stress(table):
                continue
            [drawn] = axes.plot(table["step"], 1e3 * table[what], label=label, linewidth=1)
            good = np.isfinite(table[f"val_{what}"])
            validated |= bool(good.any())
            axes.plot(
                table["step"][good], 1e3 * table[f"val_{what}"][good], ".:", color=drawn.get_color()
            )
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        _plain_ticks(axes.yaxis)
        axes.grid(color="0.9", linewidth=0.6)
    title = "dotted: validation" if validated else None
    if len(tables) <= NAMED:
        named = figure.axes[0].get_legend_handles_labels()
        figure.legend(*named, loc="outside right center", title=title,
                      fontsize="small", title_fontsize="small")  # fmt: skip
    elif title:
        figure.suptitle(f"{len(tables)} fits; {title}", fontsize="small")
    return figure


def has_stress(table: Any) -> bool:
    """Whether a learning curve is that of a training of stresses."""
    return "stress_rmse" in table.dtype.names and bool(np.isfinite(table["stress_rmse"]).any())


def rounds_figure(paths: Sequence[str], ends: Sequence[int], out: Mapping[str, int]) -> Any:
    """Draw the best validation loss so far of the fits of a sweep with halving.

    Parameters
    ----------
    paths : sequence of str
        Their learning curves.
    ends : sequence of int
        Steps at which rounds ended.
    out : mapping of str to int
        By a fit's name the round after which it was out; those that are not there went on.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for path in sorted(paths, key=lambda path: -out.get(label_of(path), len(ends) + 1)):
        name, table = label_of(path), read_curve(path)
        table = table[np.isfinite(table["val_loss"])]
        if not len(table):
            continue
        best = np.minimum.accumulate(table["val_loss"])
        [drawn] = axes.plot(table["step"], best, label=name, linewidth=1 if name in out else 2)
        if name in out:
            axes.plot(table["step"][-1], best[-1], "x", color=drawn.get_color())
    for end in ends:
        axes.axvline(end, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xlabel("step")
    axes.set_ylabel("best validation loss so far")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_ticks(axis)
    axes.grid(color="0.9", linewidth=0.6)
    if len(paths) <= NAMED:
        figure.legend(loc="outside right center", title="×: out", fontsize="small",
                      title_fontsize="small")  # fmt: skip
    return figure


def label_of(path: str) -> str:
    """Return the label whose learning curve a file is."""
    return Path(path).name.removesuffix("-curve.txt")


def accepted(table: Any) -> Any:
    """Return the rows of a learning curve that lowered the loss.

    The others are trials of the optimiser's line searches, which go up and down by orders of
    magnitude and are no progress. Losses on parts of the images compare with those on the same.
    """
    losses, lower = np.where(np.isfinite(table["loss"]), table["loss"], np.inf), []
    parts = part_of_rows(table)
    for part in np.unique(parts):
        rows = np.flatnonzero(parts == part)
        before = np.minimum.accumulate(np.concatenate([[np.inf], losses[rows][:-1]]))
        lower.append(rows[losses[rows] < before])
    return table[np.sort(np.concatenate([np.zeros(0, np.int64), *lower]))]


def part_of_rows(table: Any) -> Any:
    """Return which part of the images each row is about; 0 for all of them."""
    return table["part"] if "part" in table.dtype.names else np.zeros(len(table))


def _plain_ticks(axis: Any) -> None:
    """Write the ticks of a logarithmic axis as numbers, enough of them to read values from."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low)
    every = [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    choices = [(0.7, every), (1.3, [1.0, 2.0, 3.0, 5.0]), (1.8, [1.0, 2.0, 5.0]), (2.8, [1.0, 3.0])]
    steps = next((listed for limit, listed in choices if decades < limit), [1.0])
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def outcome(path: str) -> str:
    """Say where a learning curve is best: by validation loss, or loss without validation."""
    table, name = read_curve(path), label_of(path)
    values = table["val_loss"] if np.isfinite(table["val_loss"]).any() else table["loss"]
    parts = part_of_rows(table)
    values = np.where(parts > parts.min(initial=np.inf), np.nan, values)
    if not np.isfinite(values).any():
        return f"{name}: no step yet"
    best = table[int(np.nanargmin(values))]
    text = f"{name}: {int(table['step'][-1])} steps, the best is {int(best['step'])}"
    text += ", on a part of the images" if parts.min() else ""
    for kind, prefix in (("training", ""), ("validation", "val_")):
        parts = [
            f"{1e3 * best[prefix + what]:.4g} {unit}"
            for what, unit in (
                ("energy_rmse", "meV/atom"),
                ("force_rmse", "meV/Å"),
                ("stress_rmse", "meV/Å³"),
            )
            if prefix + what in table.dtype.names and np.isfinite(best[prefix + what])
        ]
        if parts:
            text += f"; {kind} rmse {', '.join(parts)}"
    return text


def read_curve(path: str) -> Any:
    """Read a learning curve as an array with the fields of `Step`."""
    try:
        with warnings.catch_warnings():
            # a table without rows is no error
            warnings.simplefilter("ignore", UserWarning)
            table = np.atleast_1d(np.genfromtxt(path, names=True, dtype=float))
        if table.dtype.names is None or "energy_rmse" not in table.dtype.names:
            raise ValueError("it has no column energy_rmse")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no learning curve ({error}); give a LABEL-curve.txt") from None
    return table


def reference_energies(found: Iterable[Evaluation]) -> dict[str, float]:
    """Return an energy for each element, in eV, that images of atoms alone would have.

    They are those whose sums over the atoms come closest to the reference energies. Taken off,
    they leave the part of the energies that a potential has to find; without that, the parity
    of a set with several compositions shows little but these.
    """
    known = [item for item in found if item.energy is not None]
    elements = sorted({symbol for item in known for symbol in item.symbols})
    counts = [[item.symbols.count(element) for element in elements] for item in known]
    if not known:
        return {}
    numbers = np.array(counts, dtype=float)
    n_atoms = numbers.sum(axis=1)
    energies = np.array([item.energy for item in known]) / n_atoms
    fitted: Array = np.linalg.lstsq(numbers / n_atoms[:, None], energies, rcond=None)[0]
    return dict(zip(elements, fitted.tolist(), strict=True))


def parity_figure(sets: Sets) -> Any:
    """Draw predicted against reference energies, forces and stresses, and histograms of errors.

    Each set has a column. Forces have the colour of their element, the others that of their set.
    """
    from matplotlib.figure import Figure

    everything = [item for found in sets.values() for item in found]
    energies = [item for item in everything if item.energy is not None]
    forces = [item for item in everything if item.forces is not None]
    stresses = [item for item in everything if item.stress is not None]
    if not energies and not forces and not stresses:
        raise InputError("the images carry neither energies nor forces to compare with")
    n_rows, n_columns = bool(energies) + bool(forces) + bool(stresses), len(sets) + 1
    figure = Figure(figsize=(3.5 * n_columns + 0.5, 3.6 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    rows = iter(grid)
    if energies:
        _energy_row(next(rows), sets, reference_energies(energies))
    if forces:
        _force_row(next(rows), sets)
    if stresses:
        _stress_row(next(rows), sets)
    return figure


def _energy_row(row: Any, sets: Sets, elements: Mapping[str, float]) -> None:
    points = {}
    for name, found in sets.items():
        known = [item for item in found if item.energy is not None]
        totals = [
            float(item.energy or 0.0) - sum(elements[symbol] for symbol in item.symbols)
            for item in known
        ]
        points[name] = _per_atom(totals, known), energy_errors(known)
    ends = _ends(points.values(), 1e3)
    for axes, (name, (reference, errors)), color in zip(row[:-1], points.items(), SETS,
                                                        strict=False):  # fmt: skip
        _dots(axes, 1e3 * reference, 1e3 * (reference + errors), color)
        _finish_parity(axes, ends, errors, name, "energy − Σ elements", "meV/atom")
    _histogram(row[-1], {name: errors for name, (_, errors) in points.items()}, "energy, meV/atom")


def _per_atom(totals: Sequence[float], found: Sequence[Evaluation]) -> Array:
    per_atom: Array = np.array(totals) / np.array([len(item.atoms) for item in found])
    return per_atom


def _force_row(row: Any, sets: Sets) -> None:
    points, elements = {}, {}
    for name, found in sets.items():
        known = [item for item in found if item.forces is not None]
        forces = [item.forces for item in known if item.forces is not None]
        errors, elements[name] = force_errors(known)
        points[name] = np.concatenate([np.empty((0, 3)), *forces]), errors
    ends = _ends(points.values(), 1.0)
    colors = element_colors(symbol for names in elements.values() for symbol in names.tolist())
    for axes, (name, (reference, errors)) in zip(row[:-1], points.items(), strict=True):
        x, y = reference.ravel(), (reference + errors).ravel()
        _dots_by_element(axes, x, y, np.repeat(elements[name], 3), colors)
        _finish_parity(axes, ends, errors, name, "force", "eV/Å", "meV/Å")
        if len(colors) > 1:
            _legend(axes, colors, "lower right")
    _histogram(
        row[-1], {name: errors.ravel() for name, (_, errors) in points.items()}, "force, meV/Å"
    )


def _stress_row(row: Any, sets: Sets) -> None:
    points = {}
    for name, found in sets.items():
        known = [item.stress[:, np.newaxis] for item in found if item.stress is not None]
        stresses = np.concatenate([np.empty((0, 1)), *known]).reshape(-1, 6)
        reference = stresses[:, [0, 1, 2, 3, 3, 4, 4, 5, 5]].ravel()
        points[name] = reference, stress_errors(found)
    ends = _ends(points.values(), 1e3)
    for axes, (name, (reference, errors)), color in zip(row[:-1], points.items(), SETS,
                                                        strict=False):  # fmt: skip
        _dots(axes, 1e3 * reference, 1e3 * (reference + errors), color)
        _finish_parity(axes, ends, errors, name, "stress", "meV/Å³")
    _histogram(row[-1], {name: errors for name, (_, errors) in points.items()}, "stress, meV/Å³")


def element_colors(symbols: Iterable[str]) -> dict[str, str]:
    """Return a colour for each element, in alphabetical order."""
    found = sorted(set(symbols))
    return {symbol: ELEMENTS[i % len(ELEMENTS)] for i, symbol in enumerate(found)}


def _dots(axes: Any, x: Array, y: Array, color: str | Array) -> None:
    """Draw dots of one colour, or each of its own, smaller ones where they are many.

    They are drawn in an order that is mixed up, the same each time, so that no element's hide
    those of another.
    """
    order = np.random.default_rng(0).permutation(len(x))
    size = float(np.clip(150.0 / (len(x) + 1) ** 0.4, 2.5, 24.0))  # area, in points of print
    axes.scatter(x[order], y[order], s=size, c=color if isinstance(color, str) else color[order],
                 alpha=0.7, linewidths=0, rasterized=len(x) > PIXELS)  # fmt: skip


def _dots_by_element(
    axes: Any, x: Array, y: Array, symbols: NDArray[np.str_], colors: Mapping[str, str]
) -> None:
    """Draw points in the colours of their elements."""
    from matplotlib.colors import to_rgba_array

    names = list(colors)  # in alphabetical order
    palette: Array = to_rgba_array([colors[name] for name in names])
    _dots(axes, x, y, palette[np.searchsorted(names, symbols)])


def _legend(axes: Any, colors: Mapping[str, str], where: str) -> None:
    """Tell colours apart."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, label=name, marker="o", markersize=5, linestyle="")
        for name, color in colors.items()
    ]
    axes.legend(handles=handles, loc=where, fontsize="small", frameon=False, handletextpad=0.1)


def _ends(points: Iterable[tuple[Array, Array]], factor: float) -> tuple[float, float]:
    """Return the ends of axes that hold references and predictions of all sets."""
    values = np.concatenate(
        [part.ravel() for first, errors in points for part in (first, first + errors)]
    )
    low, high = factor * float(values.min()), factor * float(values.max())
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _finish_parity(
    axes: Any, ends: tuple[float, float], errors: Array, name: str, what: str, unit: str,
    error_unit: str | None = None,
) -> None:  # fmt: skip
    from matplotlib.ticker import MaxNLocator

    axes.plot(ends, ends, linewidth=0.8, color="black", zorder=0)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_box_aspect(1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    axes.set_title(name, fontsize="medium")
    axes.set_xlabel(f"reference {what}, {unit}", fontsize=9)
    axes.set_ylabel(f"predicted {what}, {unit}", fontsize=9)
    if errors.size:
        text = (
            f"rmse {figures(1e3 * np.sqrt(np.mean(errors**2)), 3)} {error_unit or unit}\n"
            f"mean abs. {figures(1e3 * np.abs(errors).mean(), 3)} {error_unit or unit}"
        )
        axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top", fontsize="small")


def _histogram(axes: Any, errors: Mapping[str, Array], what: str) -> None:
    """Draw how errors are distributed in each set; outliers are counted at the ends."""
    everything = 1e3 * np.concatenate(list(errors.values()))
    limit = float(np.quantile(np.abs(everything), 0.995)) * 1.15 or 1.0
    fewest = min(values.size for values in errors.values() if values.size)
    bins = np.linspace(-limit, limit, 2 * int(np.clip(1.2 * np.sqrt(fewest), 5, 20)) + 2)
    for (name, values), color in reversed(list(zip(errors.items(), SETS, strict=False))):
        if not values.size:
            continue
        inside = np.clip(1e3 * values, -limit, limit)
        axes.hist(inside, bins=bins, weights=np.full(len(inside), 100.0 / len(inside)),
                  histtype="stepfilled", color=color, alpha=0.35)  # fmt: skip
        axes.hist(inside, bins=bins, weights=np.full(len(inside), 100.0 / len(inside)),
                  histtype="step", color=color, label=name)  # fmt: skip
    axes.set_box_aspect(1)
    axes.set_title("errors", fontsize="medium")
    axes.set_xlabel(f"error of the {what}")
    axes.set_ylabel("% of the images" if what.startswith("energy") else "% of the components")
    if len(errors) > 1:
        axes.set_ylim(top=1.2 * axes.get_ylim()[1])  # room for the legend
        axes.legend(fontsize="small", frameon=False, loc="upper right", reverse=True)


def spread_figure(sets: Sets) -> Any:
    """Draw errors of energies and forces against the committee's disagreement.

    Both axes are logarithmic and have the same ends. On the diagonal the error is the spread.
    """
    from matplotlib.figure import Figure

    known = {
        name: [item for item in found if item.forces is not None] for name, found in sets.items()
    }
    known = {name: found for name, found in known.items() if found}
    energies = {
        name: (
            np.array([item.energy_spread for item in found if item.energy is not None]),
            np.abs(energy_errors(found)),
        )
        for name, found in sets.items()
    }
    with_energy = any(len(spreads) for spreads, _ in energies.values())
    panels = with_energy + len(known)
    figure = Figure(figsize=(0.5 + 4.2 * max(panels, 1), 4.2), layout="constrained")
    grid = iter(figure.subplots(1, max(panels, 1), squeeze=False)[0])
    if with_energy:
        axes = next(grid)
        drawn = dict(zip(energies, SETS, strict=False))
        for name, color in reversed(drawn.items()):
            spreads, errors = energies[name]
            _dots(axes, 1e3 * spreads, 1e3 * errors, color)
        _finish_spread(axes, energies.values(), energies.values(), drawn, "energy", "meV/atom")
    atoms = {name: _by_atom(found) for name, found in known.items()}
    both = [(spreads, errors) for spreads, errors, _ in atoms.values()]
    colors = element_colors(symbol for part in atoms.values() for symbol in part[2].tolist())
    for name, (spreads, errors, symbols) in atoms.items():
        axes = next(grid)
        _dots_by_element(axes, 1e3 * spreads, 1e3 * errors, symbols, colors)
        title = "force on an atom" + (f", {name}" if len(sets) > 1 else "")
        _finish_spread(axes, both, [(spreads, errors)], colors, title, "meV/Å")
    return figure


def _by_atom(found: Sequence[Evaluation]) -> tuple[Array, Array, NDArray[np.str_]]:
    """Return each atom's force spread and root mean square error of a component, and element."""
    errors, symbols = force_errors(found)
    spreads = np.concatenate([item.force_spreads for item in found])
    return spreads, np.sqrt(np.mean(errors**2, axis=1)), symbols


def _finish_spread(
    axes: Any,
    everything: Iterable[tuple[Array, Array]],
    here: Iterable[tuple[Array, Array]],
    colors: Mapping[str, str],
    what: str,
    unit: str,
) -> None:
    """Give axes the ends that hold all spreads and errors, and a legend beside those here."""
    values = 1e3 * np.concatenate([part for pair in everything for part in pair])
    positive = values[values > 0]
    high = float(positive.max(initial=0.0)) or 1.0
    low = max(float(positive.min(initial=high)), high / 1e4)
    ends = low / 1.5, high * 1.5
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot(ends, ends, linewidth=0.8, color="black", zorder=0)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_box_aspect(1)
    for axis in (axes.xaxis, axes.yaxis):
        _plain_ticks(axis)
    axes.set_title(what, fontsize="medium")
    axes.set_xlabel(f"spread of the committee, {unit}")
    axes.set_ylabel(f"error, {unit}")
    if len(colors) > 1:
        # In the corner off the diagonal where there are fewer dots.
        spreads, errors = (1e3 * np.concatenate(parts) for parts in zip(*here, strict=True))
        below = np.sum((spreads > ends[1] ** 0.7 * ends[0] ** 0.3)
                       & (errors < ends[1] ** 0.3 * ends[0] ** 0.7))  # fmt: skip
        above = np.sum((spreads < ends[1] ** 0.3 * ends[0] ** 0.7)
                       & (errors > ends[1] ** 0.7 * ends[0] ** 0.3))  # fmt: skip
        _legend(axes, colors, "lower right" if below <= above else "upper left")
