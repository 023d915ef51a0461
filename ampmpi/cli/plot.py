"""``ampmpi plot``: learning curves, parity plots, committee spread, and a page with all."""

from __future__ import annotations

import glob
import importlib.util
import io
from pathlib import Path
from typing import Any

import click

from ampmpi.cli.evaluate import labels_in, open_some
from ampmpi.cli.kinds import PREFIX, OneProcess
from ampmpi.cli.labels import key_options, reading_of, units_option
from ampmpi.errors import InputError
from ampmpi.files.whole import write_whole


@click.command("plot", cls=OneProcess)
@click.argument("label", type=PREFIX)
@click.argument("images", nargs=-1)
@click.option("--calculator", "calculators", multiple=True, metavar="FILE",
              help="Calculators to evaluate instead of LABEL.amp and its committee.")  # fmt: skip
@click.option("--format", "kind", default="png", show_default=True,
              type=click.Choice(["png", "pdf", "svg"]), help="Format of the pictures.")  # fmt: skip
@key_options
@units_option
@click.option("--images-format", "format", metavar="NAME", help="ASE's name of the images' format.")
@click.option("--skip-unusable", is_flag=True, help="Leave out energies and forces that are wrong.")
def command(
    label: str,
    images: tuple[str, ...],
    calculators: tuple[str, ...],
    kind: str,
    skip_unusable: bool,
    **given: Any,
) -> None:
    """Draw the training LABEL: its learning curves, and with IMAGES parity and spread.

    Writes LABEL-learning, LABEL-parity and LABEL-spread, and LABEL-report.html, which
    holds them all and opens without a network.
    """
    for module in ("matplotlib", "jinja2"):
        if importlib.util.find_spec(module) is None:
            raise InputError(f"ampmpi plot needs {module}; install ampmpi[plot]")
    from ampmpi import evaluation, plots
    from ampmpi.calculator import Amp

    curves = _curves(label)
    names = list(calculators) or _trained(label)
    if not curves and not (names and images):
        raise InputError(
            f"there is nothing to draw: no {label}-curve.txt, and no calculator with images"
        )
    loaded = [Amp.load(name) for name in names]
    about = [evaluation.describe(*both) for both in zip(names, loaded, strict=True)]
    about += [plots.outcome(path) for path in curves]
    sections, figures = [plots.Section("Training", "\n".join(about))], {}
    members = Path(f"{label}-members.txt")
    if members.exists():
        sections.append(plots.Section("Members", members.read_text(encoding="utf-8")))
    if curves:
        figures["learning"] = plots.curve_figure(curves)
        sections.append(plots.Section("Learning curves", image=plots.embedded(figures["learning"])))
    if images:
        if not loaded:
            raise InputError("there is no calculator to evaluate; give --calculator")
        reading = reading_of(given)
        opened = open_some(list(images), reading)
        keys = labels_in(opened, reading)
        found = evaluation.evaluate(loaded, opened, keys=keys, skip_unusable=skip_unusable)
        text = "\n".join(evaluation.summary(", ".join(images), found))
        figures["parity"] = plots.parity_figure(found)
        sections.append(
            plots.Section("Errors of " + ", ".join(names), text, plots.embedded(figures["parity"]))
        )
        if len(names) > 1:
            figures["spread"] = plots.spread_figure(found)
            sections.append(plots.Section("Disagreement", image=plots.embedded(figures["spread"])))
    for name, figure in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format=kind, dpi=150)
        _write(f"{label}-{name}.{kind}", picture.getvalue())
    _write(f"{label}-report.html", plots.page(f"Training {label}", sections).encode())


def _write(name: str, data: bytes) -> None:
    write_whole(name, data)
    click.echo(name)


def _curves(label: str) -> list[str]:
    """Return the learning curves of a label: those of its last training, as far as it ended."""
    table, own = Path(f"{label}-members.txt"), Path(f"{label}-curve.txt")
    members = sorted(glob.glob(f"{glob.escape(label)}-members/*-curve.txt"))
    if not table.exists():
        return [str(own)] if own.exists() else members
    rows = table.read_text(encoding="utf-8", errors="replace").splitlines()
    names = {row.partition(" ")[0] for row in rows}
    return [path for path in members if Path(path).name.removesuffix("-curve.txt") in names]


def _trained(label: str) -> list[str]:
    """Return the committee of a label, or its one calculator."""
    from ampmpi.members import committee_files

    committee = committee_files(label)
    return committee or glob.glob(f"{glob.escape(label)}.amp")
