"""``ampmpi evaluate``: errors of calculators on images, and how much they disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ampmpi.errors import InputError

if TYPE_CHECKING:
    from ampmpi.report import Evaluation

SUFFIX = ".amp"


@click.command("evaluate")
@click.argument("files", nargs=-1, required=True, metavar="CALC... IMAGES...")
@click.option("--output", metavar="FILE", help="Write every image's numbers as JSON lines.")
@click.option("--outside", default=0.05, show_default=True, metavar="PART",
              type=click.FloatRange(min=0.0),
              help="Warn of features so far outside the trained range.")  # fmt: skip
def command(files: tuple[str, ...], output: str | None, outside: float) -> None:
    """Compare calculators (.amp files) with images that carry energies and forces.

    With several calculators their mean is compared, and their standard deviation is the
    committee's disagreement.
    """
    from ampmpi.calculator import Amp
    from ampmpi.images import open_images
    from ampmpi.report import evaluate, rows, summary

    calculators = [name for name in files if name.endswith(SUFFIX)]
    images = [name for name in files if not name.endswith(SUFFIX)]
    if not calculators or not images:
        lacking = "calculator (.amp file)" if not calculators else "file of images"
        raise InputError(f"no {lacking} is given; ampmpi evaluate CALC.amp IMAGES")
    loaded = [Amp.load(name) for name in calculators]
    results: list[Evaluation] = []
    for name in images:
        found = evaluate(loaded, open_images([name]), outside)
        results += found
        for line in summary(name, found):
            click.echo(line)
        for item in found:
            for warning in item.warnings[:3]:
                click.echo(f"ampmpi: warning: {item.name}: {warning}", err=True)
    if len(images) > 1:
        for line in summary("all images", results):
            click.echo(line)
    if output is not None:
        text = "".join(json.dumps(row) + "\n" for row in rows(results))
        try:
            Path(output).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"--output {output} cannot be written: {error.strerror}") from error
