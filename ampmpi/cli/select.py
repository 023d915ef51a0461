"""``ampmpi select``: the images of trajectories that are most worth computing next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ampmpi.cli.descriptors import HELP, make_known
from ampmpi.cli.evaluate import refuse_early, split
from ampmpi.cli.kinds import complete_files
from ampmpi.cli.labels import reading_options
from ampmpi.errors import InputError

EXAMPLE = "ampmpi select COMMITTEE TRAJECTORIES -n 20 -o next.traj"


@click.command("select")
@click.argument("files", nargs=-1, required=True, metavar="COMMITTEE TRAJECTORIES...",
                shell_complete=complete_files)  # fmt: skip
@click.option("-n", "--number", "n", required=True, type=click.IntRange(min=1), metavar="N",
              help="Images to choose at most.")  # fmt: skip
@click.option("-o", "--output", required=True, metavar="FILE", shell_complete=complete_files,
              help="Where they go: .traj, .xyz or .extxyz.")  # fmt: skip
@click.option("--known", multiple=True, metavar="FILE", shell_complete=complete_files,
              help="Images that are computed already; repeatable.")  # fmt: skip
@click.option("--limit", type=click.FloatRange(min=0.0), metavar="eV/Å",
              help="Choose where the forces of an atom disagree by more.")  # fmt: skip
@click.option("--quantile", type=click.FloatRange(0.0, 1.0), metavar="PART",
              help="It is above this part of all.  [default: 0.7]")  # fmt: skip
@click.option("--upper", type=click.FloatRange(min=0.0, min_open=True), metavar="eV/Å",
              help="Leave out where they disagree by more than this.")  # fmt: skip
@click.option("--closest", type=click.FloatRange(min=0.0), metavar="PART", default=0.6,
              show_default=True,
              help="Leave out atoms closer than this part of their covalent radii.")  # fmt: skip
@click.option("--tolerance", type=click.FloatRange(min=0.0), metavar="PART", default=0.003,
              show_default=True,
              help="Images are alike whose features differ by less.")  # fmt: skip
@click.option("--descriptor", metavar="MODULE:OBJECT", help=HELP)
@reading_options
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
def command(
    files: tuple[str, ...],
    n: int,
    output: str,
    known: tuple[str, ...],
    limit: float | None,
    quantile: float | None,
    upper: float | None,
    closest: float,
    tolerance: float,
    descriptor: str | None,
    overwrite: bool,
    **given: Any,
) -> None:
    """Choose from TRAJECTORIES the images that are most worth computing next.

    COMMITTEE is the label of a training with --committee, or its .amp files; TRAJECTORIES
    are any files that ASE reads, without labels. The images of which the committee is unsure
    are taken so that they are far from each other and from those of --known. Under mpirun the
    ranks share the images.
    """
    from ampmpi.calculator import Amp
    from ampmpi.committee import Committee
    from ampmpi.parallel import launch
    from ampmpi.parallel.comm import world
    from ampmpi.parallel.failure import abort_on_error, agree, on_all
    from ampmpi.parallel.log import Log
    from ampmpi.selection import select
    from ampmpi.selection.job import QUANTILE

    launch.stop.end_at_once()
    comm = world()
    with abort_on_error(comm):
        calculators, images = agree(comm, lambda: split(files, EXAMPLE))
        agree(comm, lambda: _refuse(output, (*images, *known), limit, quantile, overwrite))
        make_known(comm, descriptor)
        # What is one's own need not be such as can be sent: each rank loads it.
        load = agree if descriptor is None else on_all
        members = load(comm, lambda: [Amp.load(name) for name in calculators])
        found = select(
            Committee(members),
            images,
            n,
            known=list(known) or None,
            limit=limit,
            quantile=QUANTILE if quantile is None else quantile,
            upper=float("inf") if upper is None else upper,
            closest=closest,
            tolerance=tolerance,
            comm=comm,
            **given,
        )
        log = Log(comm.rank)
        for line in found.lines():
            log(line)
        if not found.picks:
            log(f"No image is chosen, and {output} is not written")
            return
        agree(comm, lambda: found.write(output))
        log(f"{output} is written: compute energies and forces of its images")


def _refuse(
    output: str,
    images: Sequence[str],
    limit: float | None,
    quantile: float | None,
    overwrite: bool,
) -> None:
    """Refuse what cannot be written or contradicts itself, before anything is computed."""
    from ampmpi.selection.writing import check_name

    if limit is not None and quantile is not None:
        raise InputError("--limit and --quantile are given: both set the limit; give one of them")
    if Path(check_name(output)).exists() and not overwrite:
        raise InputError(f"{output} is there already: give another --output, or --overwrite")
    refuse_early({"--output": output}, images)
