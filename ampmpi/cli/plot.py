"""``ampmpi plot``: learning curves, parity plots, committee spread, and a page with all."""

from __future__ import annotations

import glob
import importlib.util
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ampmpi.cli.descriptors import HELP, imported
from ampmpi.cli.evaluate import labels_in, open_some, refuse_nothing
from ampmpi.cli.kinds import PREFIX, OneProcess, complete_files
from ampmpi.cli.labels import images_format_option, key_options, reading_of, units_option
from ampmpi.cli.text import complain
from ampmpi.errors import InputError
from ampmpi.files.whole import write_whole

if TYPE_CHECKING:
    from ampmpi.calculator import Amp
    from ampmpi.evaluation import Evaluation
    from ampmpi.images.reading import Reading


@click.command("plot", cls=OneProcess)
@click.argument("label", type=PREFIX)
@click.argument("images", nargs=-1, shell_complete=complete_files)
@click.option("--training", multiple=True, metavar="FILE", shell_complete=complete_files,
              help="Images that were trained on, to be shown beside IMAGES.")  # fmt: skip
@click.option("--calculator", "calculators", multiple=True, metavar="FILE",
              shell_complete=complete_files,
              help="Calculators to evaluate instead of LABEL.amp and its committee.")  # fmt: skip
@click.option("--format", "kind", default="png", show_default=True,
              type=click.Choice(["png", "pdf", "svg"]), help="Format of the pictures.")  # fmt: skip
@click.option("--descriptor", metavar="MODULE:OBJECT", help=HELP)
@key_options
@units_option
@images_format_option
@click.option("--skip-unusable", is_flag=True,
              help="Leave out images, energies and forces that are wrong.")  # fmt: skip
def command(
    label: str,
    images: tuple[str, ...],
    training: tuple[str, ...],
    calculators: tuple[str, ...],
    kind: str,
    descriptor: str | None,
    skip_unusable: bool,
    **given: Any,
) -> None:
    """Draw the training LABEL: its learning curves, and with IMAGES parity and spread.

    A .amp file in place of the label is the only calculator that is evaluated. IMAGES are to
    be held out of the training; --training shows others beside them. Writes LABEL-learning,
    LABEL-rounds (of a sweep with halving), LABEL-parity and LABEL-spread, and
    LABEL-report.html, which holds them all and opens without a network.
    """
    for module in ("matplotlib", "jinja2"):
        if importlib.util.find_spec(module) is None:
            raise InputError(f"ampmpi plot needs {module}; install ampmpi[plot]")
    from ampmpi import plots, report
    from ampmpi.calculator import Amp
    from ampmpi.members import list_of
    from ampmpi.training import halving

    if descriptor is not None:
        imported(descriptor)
    label, own = of_file(label)
    curves = _curves(label)
    names = _files(calculators or own) or _trained(label)
    wanted = {"held out" if training else "": images, "training": training}
    if not curves and not (names and (images or training)):
        raise InputError(
            f"there is nothing to draw: no {label}-curve.txt, and no calculator with images"
        )
    if (images or training) and not names:
        raise InputError("there is no calculator to evaluate; give --calculator")
    loaded = {name: Amp.load(name) for name in names}
    reading = reading_of(given)
    sets = {
        name or ", ".join(files): _evaluated(
            list(loaded.values()), files, reading, skip_unusable=skip_unusable
        )
        for name, files in wanted.items()
        if files
    }
    outcomes = [plots.outcome(path) for path in curves]
    sections = [report.training_section(label, loaded, curves, outcomes)]
    figures = {}
    if curves:
        figures["learning"] = plots.curve_figure(curves)
        sections.append(
            report.Section("Learning curves", image=report.embedded(figures["learning"]))
        )
    if known := halving.read(halving.file_of(label)):
        ends, scores, out = halving.history(known[1])
        figures["rounds"] = plots.rounds_figure(curves, ends, out)
        picture = report.embedded(figures["rounds"])
        sections.append(report.rounds_section(ends, scores, out, picture))
    if sets:
        figures["parity"] = plots.parity_figure(sets)
        sections.append(
            report.Section(
                f"Errors of {names[0] if len(names) == 1 else f'the mean of {len(names)}'}",
                _errors(sets, images, training),
                report.embedded(figures["parity"]),
            )
        )  # fmt: skip
        if len(names) > 1:
            figures["spread"] = plots.spread_figure(sets)
            sections.append(
                report.Section("Disagreement", image=report.embedded(figures["spread"]))
            )
    tables = report.members_section(list_of(label)), report.functions_section(loaded.values())
    sections += [section for section in tables if section is not None]
    for name, figure in figures.items():
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, dpi=150)
        _write(f"{label}-{name}.{kind}", stream.getvalue())
    _write(f"{label}-report.html", report.page(f"Training {label}", sections).encode())


def of_file(name: str) -> tuple[str, list[str]]:
    """Return the label that a name stands for, and the calculator if it is a .amp file.

    Files of a training stand for it: LABEL.amp, those of its committee, its learning curve.
    """
    if name.endswith("-curve.txt"):
        return name.removesuffix("-curve.txt"), []
    if not name.endswith(".amp"):
        return name, []
    label = re.sub(r"(-committee-\d+|-untrained-parameters|-checkpoint)?\.amp$", "", name)
    return label, [name]


def _files(names: Sequence[str]) -> list[str]:
    """Return the .amp files that names stand for; a name that stands for none is left to fail."""
    from ampmpi.members import calculator_files

    return [file for name in names for file in calculator_files(name) or [name]]


def _evaluated(
    calculators: Sequence[Amp], files: Sequence[str], reading: Reading, *, skip_unusable: bool
) -> list[Evaluation]:
    from ampmpi.evaluation import compare, remarks

    opened = open_some(list(files), reading)
    keys = labels_in(opened, reading)
    found, left = compare(calculators, opened, keys=keys, skip_unusable=skip_unusable)
    for line in remarks(left, len(opened)):
        complain(line)
    refuse_nothing({", ".join(files): found})
    return found


def _errors(
    sets: dict[str, list[Evaluation]], images: Sequence[str], training: Sequence[str]
) -> str:
    from ampmpi.evaluation import range_warning, summary

    lines = []
    for name, found in sets.items():
        files = ", ".join(training if name == "training" else images)
        lines += summary(files if name == files else f"{name}, {files}", found)
        outside = range_warning(found)
        lines += [f"  {outside}"] if outside else []
    return "\n".join(lines)


def _write(name: str, data: bytes) -> None:
    write_whole(name, data)
    click.echo(name)


def _curves(label: str) -> list[str]:
    """Return the learning curves of a label: those of its last training, as far as it ended."""
    from ampmpi.members import by_numbers

    table, own = Path(f"{label}-members.txt"), Path(f"{label}-curve.txt")
    members = sorted(glob.glob(f"{glob.escape(label)}-members/*-curve.txt"), key=by_numbers)
    if not table.exists():
        return [str(own)] if own.exists() else members
    rows = table.read_text(encoding="utf-8", errors="replace").splitlines()
    names = {row.partition(" ")[0] for row in rows}
    return [path for path in members if Path(path).name.removesuffix("-curve.txt") in names]


def _trained(label: str) -> list[str]:
    """Return the committee of a label, or its one calculator."""
    from ampmpi.members import calculator_files

    return calculator_files(label)
