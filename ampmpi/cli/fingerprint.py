"""``ampmpi fingerprint``: the main job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ampmpi.cli.kinds import PREFIX, complete_files
from ampmpi.cli.labels import reading_of, reading_options
from ampmpi.cli.packs import pack_options
from ampmpi.cli.text import amount, complain
from ampmpi.errors import ImageError, InputError, UnusableImagesError
from ampmpi.parallel.comm import world
from ampmpi.parallel.failure import agree, share
from ampmpi.parallel.launch import check_compiler
from ampmpi.parallel.log import Log

if TYPE_CHECKING:
    from ampmpi.descriptor import Gaussian
    from ampmpi.fingerprinting import Summary


@click.command("fingerprint")
@click.argument(
    "images", nargs=-1, required=True, metavar="IMAGES...", shell_complete=complete_files
)
@click.option("--label", required=True, type=PREFIX, help="Prefix of the databases.")
@click.option(
    "--dblabel", type=PREFIX, help="Prefix of databases that jobs share; these are not compressed."
)
@click.option("--derivatives", is_flag=True, help="Compute the fingerprint primes, too.")
@click.option("--descriptor", "settings", metavar="FILE", shell_complete=complete_files,
              help="Descriptor settings, a TOML file.")  # fmt: skip
@click.option("--cutoff", type=float, metavar="R", help="Cutoff radius in Å, default 6.5.")
@click.option("--no-compress", is_flag=True, help="Leave the entries out of the archive.")
@pack_options
@click.option("--dry-run", is_flag=True, help="Only say what would be computed.")
@click.option("--adopt", is_flag=True,
              help="Use a database without descriptor.json without comparing.")  # fmt: skip
@click.option("--verify", is_flag=True, help="Read back what is in the archive, too.")
@click.option("--retry", is_flag=True, help="Try images that were set aside again.")
@reading_options
@click.option("-q", "--quiet", is_flag=True, help="Say only what went wrong.")
def command(
    images: tuple[str, ...],
    label: str,
    dblabel: str | None,
    derivatives: bool,
    settings: str | None,
    cutoff: float | None,
    no_compress: bool,
    packs: bool,
    pack_size: float,
    pack_seconds: float,
    dry_run: bool,
    adopt: bool,
    verify: bool,
    retry: bool,
    quiet: bool,
    units: str | None,
    format: str | None,
) -> None:
    """Fingerprint images into LABEL-fingerprints.ampdb, on all ranks.

    IMAGES are files that ASE reads, patterns, or FILE@FRAMES such as
    run.traj@::10. Images that the database has already are not computed again,
    so that a job that was stopped is simply started again.
    """
    comm = world()
    log = Log(comm.rank, quiet=quiet)
    agree(comm, check_compiler)
    descriptor = agree(comm, lambda: _descriptor(settings, cutoff))
    from ampmpi.fingerprinting import fingerprint
    from ampmpi.images.glance import unit_doubts
    from ampmpi.images.reading import named

    reading = agree(comm, lambda: reading_of({"units": units, "format": format}))
    files = named(images, reading)
    for doubt in agree(comm, lambda: unit_doubts(files)):
        if comm.rank == 0:
            complain(doubt)
    summary = fingerprint(
        files,
        descriptor,
        label=label,
        dblabel=dblabel,
        derivatives=derivatives,
        comm=comm,
        compress=not no_compress,
        dry_run=dry_run,
        adopt=adopt,
        verify=verify,
        retry=retry,
        packs=packs,
        pack_size=pack_size,
        pack_seconds=pack_seconds,
        log=log,
    )
    for line in summary.report():
        log(line)
    if quiet and comm.rank == 0:
        for line in summary.remarks():
            complain(line)
    if summary.failed:
        nothing = not (summary.found or summary.computed)
        raise share((UnusableImagesError if nothing else ImageError)(_complaint(summary)))


def _descriptor(settings: str | None, cutoff: float | None) -> Gaussian:
    from ampmpi.descriptor import Gaussian

    if settings is None:
        return Gaussian() if cutoff is None else Gaussian(cutoff=cutoff)
    if cutoff is not None:
        raise InputError("--cutoff and --descriptor exclude each other: put the cutoff in the file")
    return Gaussian.from_toml(settings)


def _complaint(summary: Summary) -> str:
    """Return the sentence for the images that failed, the first ones on lines of their own."""
    from ampmpi.fingerprinting.summary import SHOWN
    from ampmpi.images.doubts import named

    lines = [f"  {failed}" for failed in summary.failed[:SHOWN]]
    others = [failed.image for failed in summary.failed[SHOWN:]]
    if others:
        lines.append(f"  and {len(others)} more: {named(others)}")
    rest = "all others are done" if summary.computed or summary.found else "and nothing was done"
    if summary.plan:
        rest = "nothing was computed for them"
    return "\n".join([f"{amount(len(summary.failed), 'image')} failed, {rest}:", *lines])
