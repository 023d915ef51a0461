"""``ampmpi evaluate``: errors of calculators on images, and how much they disagree."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ampmpi.cli.descriptors import HELP, make_known
from ampmpi.cli.kinds import complete_files
from ampmpi.cli.labels import label_options, reading_of
from ampmpi.cli.text import complain
from ampmpi.errors import InputError, UnusableImagesError

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.calculator import Amp
    from ampmpi.evaluation import Evaluation
    from ampmpi.images import Images
    from ampmpi.images.labels import LabelKeys
    from ampmpi.images.reading import Reading
    from ampmpi.parallel.comm import Communicator


@click.command("evaluate")
@click.argument("files", nargs=-1, required=True, metavar="CALC... IMAGES...",
                shell_complete=complete_files)  # fmt: skip
@click.option("--predictions", metavar="FILE", shell_complete=complete_files,
              help="Write references and predictions as extended XYZ.")  # fmt: skip
@click.option("--output", metavar="FILE", shell_complete=complete_files,
              help="Write every image's numbers as JSON lines.")  # fmt: skip
@click.option("--outside", default=0.05, show_default=True, metavar="PART",
              type=click.FloatRange(min=0.0),
              help="Warn of features so far outside the trained range.")  # fmt: skip
@click.option("--descriptor", metavar="MODULE:OBJECT", help=HELP)
@label_options
@click.option("--skip-unusable", is_flag=True,
              help="Leave out images, energies and forces that are wrong.")  # fmt: skip
def command(
    files: tuple[str, ...],
    predictions: str | None,
    output: str | None,
    outside: float,
    descriptor: str | None,
    skip_unusable: bool,
    **given: Any,
) -> None:
    """Predict IMAGES with calculators, and compare with energies and forces they carry.

    CALC is a .amp file, or the label of a training: its committee, or its one calculator.
    With several calculators their mean is compared, and their standard deviation is the
    committee's disagreement. Under mpirun the ranks share the images.
    """
    from ampmpi import evaluation
    from ampmpi.calculator import Amp
    from ampmpi.parallel.comm import world
    from ampmpi.parallel.failure import abort_on_error, agree, on_all

    comm = world()
    with abort_on_error(comm):
        calculators, images = agree(comm, lambda: split(files))
        agree(
            comm, lambda: refuse_early({"--predictions": predictions, "--output": output}, images)
        )
        make_known(comm, descriptor)
        # What is one's own need not be such as can be sent: each rank loads it.
        load = agree if descriptor is None else on_all
        loaded = load(comm, lambda: [Amp.load(name) for name in calculators])
        reading = agree(comm, lambda: reading_of(given))
        found_in = {
            name: _evaluate(comm, loaded, name, outside, reading, skip_unusable=skip_unusable)
            for name in images
        }
        agree(comm, lambda: refuse_nothing(found_in))
    if comm.rank:
        return
    results: list[Evaluation] = []
    for name, found in found_in.items():
        results += found
        for line in evaluation.summary(name, found) if found else ():
            click.echo(line)
        warning = evaluation.range_warning(found)
        if warning is not None:
            complain(warning)
    if len(images) > 1:
        for line in evaluation.summary("all images", results):
            click.echo(line)
    if output is not None:
        text = "".join(json.dumps(row) + "\n" for row in evaluation.rows(results))
        _write("--output", output, text)
    if predictions is not None:
        _write("--predictions", predictions, _extended_xyz(evaluation.predictions(results)))


def split(
    files: Sequence[str], example: str = "ampmpi evaluate CALC.amp IMAGES"
) -> tuple[list[str], list[str]]:
    """Return the .amp files and the files of images among some names; InputError without both.

    What is there as a file is images, unless it ends in .amp; another name may be that of a
    training. The error shows an example.
    """
    from ampmpi.members import calculator_files

    calculators: list[str] = []
    images = []
    for name in files:
        stands_for = [] if Path(name).is_file() else calculator_files(name)
        if name.endswith(".amp"):
            calculators += calculator_files(name) or [name]
        elif stands_for:
            calculators += stands_for
        else:
            images.append(name)
    if not calculators or not images:
        lacking = "calculator (.amp file or label)" if not calculators else "file of images"
        raise InputError(f"no {lacking} is given; {example}")
    return list(dict.fromkeys(calculators)), images


def refuse_early(targets: Mapping[str, str | None], images: Sequence[str] = ()) -> None:
    """Refuse files that cannot be written, by option, or that the images are read from.

    It is done before anything is computed.
    """
    from ampmpi.images.files import is_read

    for option, path in targets.items():
        if path is None:
            continue
        if Path(path).is_dir():
            raise InputError(f"{option} {path} cannot be written: it is a folder; name a file")
        if not Path(path).absolute().parent.is_dir():
            raise InputError(
                f"{option} {path} cannot be written: there is no folder {Path(path).parent}"
            )
        if is_read(path, images):
            raise InputError(f"{option} {path}: images are read from it; give another file")


def _write(option: str, path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written: {error.strerror}") from error


def _extended_xyz(images: Iterable[Atoms]) -> str:
    from ase.io.extxyz import write_extxyz

    stream = io.StringIO()
    for atoms in images:
        write_extxyz(stream, atoms)
    return stream.getvalue()


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
    from ampmpi.evaluation import compare, remarks
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
        lambda: compare(calculators, images, outside, share, keys, skip_unusable=skip_unusable),
    )
    parts = comm.gather(mine) or []
    for line in remarks([one for _, left in parts for one in left], len(images)):
        complain(line)
    return [item for found, _ in parts for item in found]


def refuse_nothing(found_in: Mapping[str, Sequence[Evaluation]]) -> None:
    """Raise `UnusableImagesError` where all images were left out."""
    if not any(found_in.values()):
        raise UnusableImagesError(
            f"{', '.join(found_in)}: none of the images can be used, for the reasons above"
        )
