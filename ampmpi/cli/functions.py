"""``ampmpi functions``: symmetry functions that fit a set of images."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import ampmpi
from ampmpi.cli.kinds import complete_files
from ampmpi.cli.labels import label_options, reading_of
from ampmpi.errors import InputError
from ampmpi.files.whole import write_whole
from ampmpi.parallel import launch
from ampmpi.parallel.comm import Communicator, world
from ampmpi.parallel.failure import agree
from ampmpi.parallel.log import Log

if TYPE_CHECKING:
    from ampmpi.descriptor import Gaussian
    from ampmpi.functions import FunctionChoice
    from ampmpi.images.reading import Reading


@click.command("functions")
@click.argument(
    "images", nargs=-1, required=True, metavar="IMAGES...", shell_complete=complete_files
)
@click.option("-o", "--output", default="functions.toml", show_default=True, metavar="FILE",
              help="The descriptor file to write.")  # fmt: skip
@click.option("--per-element", type=click.IntRange(min=1), metavar="N",
              help="Functions of each element; by default as many as the set needs.")  # fmt: skip
@click.option("--cutoff", default=6.5, show_default=True, metavar="Å",
              type=click.FloatRange(min=0.0, min_open=True), help="Cutoff radius.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@label_options
@click.option("--skip-unusable", is_flag=True, help="Leave images out that cannot be read.")
def command(
    images: tuple[str, ...],
    output: str,
    per_element: int | None,
    cutoff: float,
    overwrite: bool,
    skip_unusable: bool,
    **given: Any,
) -> None:
    """Make symmetry functions for IMAGES: files that ASE reads, with energies and forces.

    Prints errors against cost for several numbers of functions, and what was chosen, and
    writes a descriptor file for the --descriptor of the other commands. Under mpirun the
    ranks share the work.
    """
    launch.stop.end_at_once()
    comm = world()
    agree(comm, lambda: _refuse_existing(output, overwrite))
    reading = agree(comm, lambda: reading_of(given))
    choice = make(comm, images, per_element, cutoff, reading, skip_unusable)
    log = Log(comm.rank)
    for line in choice.lines():
        log(line)
    agree(comm, lambda: write(output, choice, images))
    log(f"{output} is written: give it to train or fingerprint as --descriptor {output}")


def make(
    comm: Communicator,
    images: tuple[str, ...],
    per_element: int | None,
    cutoff: float | None,
    reading: Reading,
    skip_unusable: bool,
    *,
    forces: bool = True,
) -> FunctionChoice:
    """Make functions for the images of files; only here is the package imported."""
    from ampmpi.functions import make_functions
    from ampmpi.images.reading import named

    return make_functions(
        named(images, reading),
        per_element,
        6.5 if cutoff is None else cutoff,
        comm,
        keys=reading.keys,
        forces=forces,
        skip_unusable=skip_unusable,
    )


def write(path: str, choice: FunctionChoice, images: tuple[str, ...]) -> None:
    """Write a descriptor file that says where its functions come from."""
    remarks = [
        f"Symmetry functions made by ampmpi {ampmpi.__version__} on {date.today().isoformat()} for",
        " ".join(images).replace("\n", " "),
        "",
        *choice.lines(),
        "",
    ]
    try:
        write_whole(path, choice.descriptor.to_toml(remarks).encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def made_or_kept(
    comm: Communicator,
    path: str,
    images: tuple[str, ...],
    cutoff: float | None,
    reading: Reading,
    *,
    forces: bool,
    skip_unusable: bool,
    overwrite: bool,
    dry_run: bool,
) -> Gaussian:
    """Return the descriptor of a training, with forces or not, that makes its own functions.

    They are made once and kept in a file, so that a training that is started again, or gets
    more images, has the same ones. Where the forces that are to be trained are missing, the
    training is about to fail, and nothing is kept for the next one.
    """
    from ampmpi.descriptor import Gaussian

    log = Log(comm.rank)
    if not overwrite and agree(comm, Path(path).exists):
        descriptor = agree(comm, lambda: Gaussian.from_toml(path))
        if cutoff is not None and cutoff != descriptor.cutoff_radius:
            raise InputError(
                f"--cutoff is {cutoff:g}, but the functions in {path} were made for "
                f"{descriptor.cutoff_radius:g} Å: leave --cutoff out, or remove {path} and "
                "give another --label"
            )
        log(f"The functions in {path} are used.")
        return descriptor
    choice = make(comm, images, None, cutoff, reading, skip_unusable)
    for line in choice.lines():
        log(line)
    if not dry_run and (choice.with_forces or not forces or skip_unusable):
        agree(comm, lambda: _write_in_folder(path, choice, images))
        log(f"The functions are kept in {path}.")
    return choice.descriptor


def _write_in_folder(path: str, choice: FunctionChoice, images: tuple[str, ...]) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    write(path, choice, images)


def _refuse_existing(path: str, overwrite: bool) -> None:
    if not overwrite and Path(path).exists():
        raise InputError(f"{path} is there already: give another --output, or --overwrite")
