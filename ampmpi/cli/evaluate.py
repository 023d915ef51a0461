"""``ampmpi evaluate``: errors of calculators on images, and how much they disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ampmpi.cli.labels import label_options, reading_of
from ampmpi.cli.text import complain
from ampmpi.errors import InputError

if TYPE_CHECKING:
    from ampmpi.calculator import Amp
    from ampmpi.evaluation import Evaluation
    from ampmpi.images import Images
    from ampmpi.images.labels import LabelKeys
    from ampmpi.images.reading import Reading
    from ampmpi.parallel.comm import Communicator

SUFFIX = ".amp"


@click.command("evaluate")
@click.argument("files", nargs=-1, required=True, metavar="CALC... IMAGES...")
@click.option("--output", metavar="FILE", help="Write every image's numbers as JSON lines.")
@click.option("--outside", default=0.05, show_default=True, metavar="PART",
              type=click.FloatRange(min=0.0),
              help="Warn of features so far outside the trained range.")  # fmt: skip
@label_options
@click.option("--skip-unusable", is_flag=True, help="Leave out energies and forces that are wrong.")
def command(
    files: tuple[str, ...], output: str | None, outside: float, skip_unusable: bool, **given: Any
) -> None:
    """Compare calculators (.amp files) with images that carry energies and forces.

    With several calculators their mean is compared, and their standard deviation is the
    committee's disagreement; --output has it for each image. Under mpirun the ranks share
    the images.
    """
    from ampmpi.calculator import Amp
    from ampmpi.evaluation import rows, summary
    from ampmpi.parallel.comm import world
    from ampmpi.parallel.failure import abort_on_error, agree

    calculators = [name for name in files if name.endswith(SUFFIX)]
    images = [name for name in files if not name.endswith(SUFFIX)]
    if not calculators or not images:
        lacking = "calculator (.amp file)" if not calculators else "file of images"
        raise InputError(f"no {lacking} is given; ampmpi evaluate CALC.amp IMAGES")
    comm = world()
    with abort_on_error(comm):
        loaded = agree(comm, lambda: [Amp.load(name) for name in calculators])
        reading = agree(comm, lambda: reading_of(given))
        found_in = {
            name: _evaluate(comm, loaded, name, outside, reading, skip_unusable=skip_unusable)
            for name in images
        }
    if comm.rank:
        return
    results: list[Evaluation] = []
    for name, found in found_in.items():
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


def open_some(names: list[str], reading: Reading | None = None) -> Images:
    """Open files of images; `InputError` where there is no image."""
    from ampmpi.images import open_images
    from ampmpi.images.reading import Reading, named

    images = open_images(named(names, reading or Reading()))
    if not len(images):
        raise InputError(f"{' '.join(names)}: there is no image; give other files or frames")
    return images


def labels_in(images: Images, reading: Reading) -> LabelKeys:
    """Find out under which names the labels are, and say so; `InputError` if in doubt."""
    from ampmpi.images.glance import choose_labels

    choice = choose_labels(images, reading.keys)
    if choice.note:
        click.echo(f"Labels: {choice.note}.")
    if choice.warning:
        complain(choice.warning)
    return choice.keys


def _evaluate(
    comm: Communicator,
    calculators: list[Amp],
    name: str,
    outside: float,
    reading: Reading,
    *,
    skip_unusable: bool,
) -> list[Evaluation]:
    """Evaluate a file's images, each rank a part of them; rank 0 gets all."""
    from ampmpi.evaluation import evaluate
    from ampmpi.images.glance import unit_doubts
    from ampmpi.images.reading import named
    from ampmpi.parallel.failure import agree, on_all
    from ampmpi.parallel.schedule import block

    images = agree(comm, lambda: open_some([name], reading))
    keys = agree(comm, lambda: labels_in(images, reading))
    for doubt in agree(comm, lambda: unit_doubts(named([name], reading))):
        if comm.rank == 0:
            complain(doubt)
    share = block(len(images), comm.rank, comm.size)
    mine = on_all(
        comm,
        lambda: evaluate(calculators, images, outside, share, keys, skip_unusable=skip_unusable),
    )
    return [item for part in comm.gather(mine) or [] for item in part]
