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
    from ampmpi.training.dataset import Dataset


@click.command("functions")
@click.argument(
    "images", nargs=-1, required=True, metavar="IMAGES...", shell_complete=complete_files
)
@click.option("-o", "--output", default="functions.toml", show_default=True, metavar="FILE",
              shell_complete=complete_files, help="The descriptor file to write.")  # fmt: skip
@click.option("--per-element", type=click.IntRange(min=1), metavar="N",
              help="Functions of each element; by default as many as the set needs.")  # fmt: skip
@click.option("--cutoff", default=6.5, show_default=True, metavar="Å",
              type=click.FloatRange(min=0.0, min_open=True), help="Cutoff radius.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@label_options
@click.option("--skip-unusable", is_flag=True, help="Leave images out that cannot be used.")
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


class OwnFunctions:
    """Functions that a training makes for the images it trains on, and keeps in a file.

    They are made once, so that a training that is started again, or gets more images, has the
    same ones.
    """

    def __init__(
        self,
        comm: Communicator,
        path: str,
        images: tuple[str, ...],
        cutoff: float | None,
        *,
        skip_unusable: bool,
    ) -> None:
        self._comm, self._path, self._images = comm, path, images
        self._cutoff = 6.5 if cutoff is None else cutoff
        self._skip_unusable = skip_unusable
        self._choice: FunctionChoice | None = None
        self._was_there = agree(comm, Path(path).exists)

    def __str__(self) -> str:
        return "Symmetry functions are made for the images."

    def make(self, dataset: Dataset) -> Gaussian:
        """Return the descriptor of a training."""
        from ampmpi.functions import make_for_training

        self._choice = make_for_training(
            self._comm, dataset, self._cutoff, skip_unusable=self._skip_unusable
        )
        log = Log(self._comm.rank)
        for line in self._choice.lines():
            log(line)
        return self._choice.descriptor

    def keep(self) -> None:
        """Write the file."""
        choice = self._choice
        assert choice is not None
        agree(self._comm, lambda: write(self._path, choice, self._images))
        Log(self._comm.rank)(f"The functions are kept in {self._path}.")

    def discard(self) -> None:
        """Remove the file of a training that came to nothing."""
        if self._comm.rank == 0 and not self._was_there:
            Path(self._path).unlink(missing_ok=True)


def made_or_kept(
    comm: Communicator,
    path: str,
    images: tuple[str, ...],
    cutoff: float | None,
    *,
    skip_unusable: bool,
    overwrite: bool,
) -> Gaussian | OwnFunctions:
    """Return the descriptor that an earlier training has kept, or what makes it."""
    from ampmpi.descriptor import Gaussian

    def kept() -> Gaussian | None:
        if overwrite or not Path(path).exists():
            return None
        descriptor = Gaussian.from_toml(path)
        if cutoff is not None and cutoff != descriptor.cutoff_radius:
            raise InputError(
                f"--cutoff is {cutoff:g}, but the functions in {path} were made for "
                f"{descriptor.cutoff_radius:g} Å: leave --cutoff out, or remove {path} and "
                "give another --label"
            )
        return descriptor

    descriptor = agree(comm, kept)
    if descriptor is None:
        return OwnFunctions(comm, path, images, cutoff, skip_unusable=skip_unusable)
    Log(comm.rank)(f"The functions in {path} are used.")
    return descriptor


def _refuse_existing(path: str, overwrite: bool) -> None:
    if not overwrite and Path(path).exists():
        raise InputError(f"{path} is there already: give another --output, or --overwrite")
