"""Pictures of trainings and evaluations, and a page that holds them."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ampmpi.errors import InputError
from ampmpi.evaluation import Evaluation

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


def parity_figure(found: Sequence[Evaluation]) -> Any:
    """Draw predicted against reference energies and forces, with histograms of the errors."""
    from matplotlib.figure import Figure

    energies = [
        (item.energy / len(item.symbols), item.energy_error)
        for item in found
        if item.energy is not None
    ]
    forces = [item.forces.ravel() for item in found if item.forces is not None]
    rows = []
    if energies:
        reference, errors = np.array(energies).T
        rows.append((reference, errors, "energy", "eV/atom"))
    if forces:
        errors = np.concatenate([item.force_errors.ravel() for item in found])
        rows.append((np.concatenate(forces), errors, "force", "eV/Å"))
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
    errors = [1e3 * float(np.abs(item.force_errors).max()) for item in known]
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
