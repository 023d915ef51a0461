"""The report of a training: one HTML page that needs no network and no other file."""

from __future__ import annotations

import base64
import io
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import ampmpi
from ampmpi.descriptor import feature_names, in_words
from ampmpi.errors import ModelError
from ampmpi.evaluation import describe
from ampmpi.model import checkpoint as checkpoints

Row = tuple[str, ...]

UNITS = {
    "energy_rmse": "eV per atom",
    "energy_maxresid": "eV per atom",
    "force_rmse": "eV/Å",
    "force_maxresid": "eV/Å",
    "stress_rmse": "eV/Å³",
    "stress_maxresid": "eV/Å³",
}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font-family: sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  line-height: 1.4; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f4f4f4; padding: 0.5rem;
  font-size: 0.8rem; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { text-align: left; vertical-align: top; padding: 0.15rem 1rem 0.15rem 0;
  border-bottom: 1px solid #ddd; overflow-wrap: break-word; }
table.facts th { font-weight: normal; color: #555; white-space: nowrap; }
table.wide { font-size: 0.8rem; }
table.wide th, table.wide td { padding-right: 0.6rem; }
h2 { break-after: avoid; }
tr, img { break-inside: avoid; }
@page { margin: 1.2cm; }
@media print {
  body { margin: 0; padding: 0; max-width: none; }
  table.wide { font-size: 0.6rem; }
  table.wide td { overflow-wrap: anywhere; }
}
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.text %}<pre>{{ section.text }}</pre>{% endif %}
{% if section.facts %}
<table class="facts">
{% for name, value in section.facts %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
{% endif %}
{% if section.table %}
<table class="wide">
<tr>{% for cell in section.table[0] %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in section.table[1:] %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endif %}
{% if section.image %}
<img alt="{{ section.title }}" src="data:image/png;base64,{{ section.image }}">
{% endif %}
{% endfor %}
</body>
</html>
"""


@dataclass(frozen=True)
class Section:
    """One part of a page: a title, with text, facts, a table with its head, or a base64 PNG."""

    title: str
    text: str = ""
    image: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    table: tuple[Row, ...] = ()


def embedded(figure: Any) -> str:
    """Return a figure as base64 of a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return base64.b64encode(stream.getvalue()).decode()


def page(title: str, sections: Sequence[Section]) -> str:
    """Return the page."""
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(PAGE)
    return template.render(title=title, sections=sections)


def training_section(
    label: str,
    calculators: Mapping[str, Any],
    curves: Sequence[str],
    outcomes: Sequence[str],
) -> Section:
    """Say what was trained on what, how, and how it ended.

    Parameters
    ----------
    label : str
        The training's label.
    calculators : mapping of str to Amp
        Its calculators, by the names of their files.
    curves : sequence of str
        Files of learning curves, beside which the checkpoints are.
    outcomes : sequence of str
        How each fit ended, in words.
    """
    known = [found for path in curves if (found := _checkpoint(path)) is not None]
    facts = [
        ("label", label),
        ("report", f"{time.strftime('%Y-%m-%d %H:%M')}, ampmpi {ampmpi.__version__}"),
    ]
    if known:
        facts += _about(known[0].state.get("about"))
    alike: dict[str, list[str]] = {}
    for name, one in calculators.items():
        alike.setdefault(describe("", one), []).append(name)
    facts += [("calculator", ", ".join(names) + text) for text, names in alike.items()]
    for text in dict.fromkeys(map(_functions_in_short, calculators.values())):
        facts.append(("descriptor", text))
    if known:
        facts += _how(known)
    facts += [("fit", text) for text in outcomes]
    return Section("Training", facts=tuple(facts))


def _checkpoint(curve: str) -> checkpoints.Checkpoint | None:
    """Return the checkpoint beside a learning curve, if there is one that can be read."""
    try:
        path = curve.removesuffix("-curve.txt") + "-checkpoint.npz"
        return checkpoints.load(path, whole=False)
    except ModelError:
        return None


def _about(about: Any) -> list[tuple[str, str]]:
    """Return what a checkpoint says of the images it was trained on, and when."""
    if not isinstance(about, Mapping):
        return []
    facts = [("trained", f"{about.get('date')}, ampmpi {about.get('version')}")]
    images = about.get("images")
    if isinstance(images, Mapping):
        facts += [(str(name), str(value)) for name, value in images.items()]
    return facts


def _how(known: Sequence[checkpoints.Checkpoint]) -> list[tuple[str, str]]:
    """Return loss, criteria, optimiser and seeds of fits."""
    settings, ends = known[0].settings, known[0].state["ends"]
    loss, optimiser = settings.get("loss"), settings.get("optimiser")
    criteria = ends.get("convergence")
    facts = []
    if isinstance(loss, Mapping):
        words = [f"energy coefficient {loss.get('energy_coefficient')}"]
        force = loss.get("force_coefficient")
        words.append("no forces" if force is None else f"force coefficient {force}")
        if loss.get("stress_coefficient"):
            words.append(f"stress coefficient {loss['stress_coefficient']}")
        if loss.get("overfit"):
            words.append(f"overfit {loss['overfit']}")
        if loss.get("weight_duplicates"):
            words.append("duplicates count as often as they come")
        facts.append(("loss", ", ".join(words)))
    if isinstance(criteria, Mapping):
        words = [
            f"{name.replace('_', ' ')} {value} {UNITS.get(name, '')}".rstrip()
            for name, value in sorted(criteria.items())
            if value is not None
        ]
        facts.append(("criteria", ", ".join(words) or "none"))
    limits = [f"at most {ends.get('maxiter')} steps"]
    if ends.get("patience"):
        limits.append(f"patience of {ends['patience']} steps")
    if isinstance(optimiser, Mapping):
        limits.insert(0, str(optimiser.get("optimizer")))
    facts.append(("optimiser", ", ".join(limits)))
    seeds = dict.fromkeys(str(one.settings.get("seed")) for one in known)
    facts.append(("seed" if len(seeds) == 1 else "seeds", ", ".join(seeds)))
    return facts


def _functions_in_short(calculator: Any) -> str:
    descriptor = calculator.descriptor
    counts = {} if descriptor.elements is None else descriptor.n_features
    numbers = ", ".join(f"{count} for {element}" for element, count in counts.items())
    what = "symmetry functions" if _symmetry_functions(descriptor) else "features"
    return f"{in_words(descriptor)}; {what}: {numbers or 'defaults'}"


def functions_section(calculators: Iterable[Any]) -> Section | None:
    """List the symmetry functions of each different descriptor, alike ones in one row."""
    head = ("element", "type", "neighbours", "γ", "ζ", "offset, Å", "η", "number")
    rows: list[Row] = []
    for calculator in {one.descriptor.digest: one for one in calculators}.values():
        for element, listed in _symmetry_functions(calculator.descriptor).items():
            rows += _rows(element, listed)
    if rows:
        return Section("Symmetry functions", table=(head, *rows))
    return _features_section(calculators)


def _symmetry_functions(descriptor: Any) -> dict[str, list[Mapping[str, Any]]]:
    """Return the functions in a descriptor's parameters, by element; none in other descriptors'."""
    listed = descriptor.parameters.get("Gs")
    if not isinstance(listed, Mapping):
        return {}
    return {
        element: functions
        for element, functions in listed.items()
        if isinstance(functions, list) and all("type" in function for function in functions)
    }


def _features_section(calculators: Iterable[Any]) -> Section | None:
    """List the features of each different descriptor that names them."""
    rows: list[Row] = []
    for descriptor in {one.descriptor.digest: one.descriptor for one in calculators}.values():
        for element in descriptor.elements or ():
            names = feature_names(descriptor, element)
            if names is not None:
                rows.append((in_words(descriptor), element, "; ".join(names)))
    head = ("descriptor", "element", "features")
    return Section("Features", table=(head, *rows)) if rows else None


def _rows(element: str, listed: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return the functions of one element; those that differ in η or offset share a row."""

    def kind(function: Mapping[str, Any]) -> tuple[str, ...]:
        of = [function["element"]] if "element" in function else sorted(function["elements"])
        numbers = [_number(function.get(name)) for name in ("gamma", "zeta")]
        return str(function["type"]), "-".join(of), *numbers

    rows: list[Row] = []
    for (form, of, gamma, zeta), group in groupby(sorted(listed, key=kind), key=kind):
        by_offset = sorted(group, key=lambda one: (one.get("offset") or 0.0, one["eta"]))
        offsets = groupby(by_offset, key=lambda one: one.get("offset") or 0.0)
        by_etas: dict[tuple[str, ...], list[str]] = {}
        for offset, alike in offsets:
            etas = tuple(_number(one["eta"]) for one in alike)
            by_etas.setdefault(etas, []).append(_number(offset))
        for etas, places in by_etas.items():
            at = ", ".join(places) if form == "G2" else ""
            count = str(len(etas) * len(places))
            rows.append((element, form, of, gamma, zeta, at, ", ".join(etas), count))
    return rows


def _rounded(cell: str) -> str:
    """Return a number with four digits; anything else as it is."""
    try:
        return cell if cell.isdecimal() else f"{float(cell):.4g}"
    except ValueError:
        return cell


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.6g}"


def rounds_section(
    ends: Sequence[int],
    scores: Mapping[str, Sequence[float]],
    out: Mapping[str, int],
    image: str = "",
) -> Section:
    """Show how the fits of a sweep with halving competed: who was out when, and how good.

    Parameters
    ----------
    ends : sequence of int
        Steps at which rounds ended.
    scores : mapping of str to sequence of float
        By a fit's name its best validation loss at the end of each round that it took part in;
        infinite where it failed.
    out : mapping of str to int
        By a fit's name the round after which it was out; those that are not there went on.
    image : str
        A picture of it, as base64 of a PNG.
    """
    head = ("fit", *(f"round {i}, to step {steps}" for i, steps in enumerate(ends, 1)))
    rows: list[Row] = []
    for name in sorted(scores, key=lambda name: (-out.get(name, len(ends) + 1), scores[name][-1])):
        cells = [f"{score:.4g}" if math.isfinite(score) else "failed" for score in scores[name]]
        if name in out:
            cells[-1] += ", out"
        rows.append((name, *cells, *[""] * (len(ends) - len(cells))))
    return Section(
        "Rounds",
        "best validation loss at the end of each round, when the worse half was out; those that "
        "were left went on to the end",
        image,
        table=(head, *rows),
    )


def members_section(path: Path) -> Section | None:
    """Show the table of a committee's or a sweep's members."""
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return Section(
        "Members",
        "errors in eV per atom (energies), eV/Å (forces) and eV/Å³ (stresses)",
        table=(
            *(tuple(cell.replace("_", " ") for cell in line.split()) for line in lines[:1]),
            *(tuple(map(_rounded, line.split())) for line in lines[1:]),
        ),
    )
