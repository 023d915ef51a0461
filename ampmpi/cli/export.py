"""``ampmpi export``: potentials as files of n2p2, OpenKIM and PROPhet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ampmpi.cli.kinds import PREFIX, OneProcess, complete_files
from ampmpi.errors import InputError

if TYPE_CHECKING:
    from ampmpi.calculator import Amp

LAST = {"n2p2": "input.nn", "openkim": "amp.params", "prophet": ""}


@click.command("export", cls=OneProcess)
@click.argument("program", type=click.Choice(["n2p2", "openkim", "prophet"]))
@click.argument("label", type=PREFIX, shell_complete=complete_files)
@click.option("--output", "-o", required=True, metavar="FOLDER", shell_complete=complete_files,
              help="Folder for the files; it is made if need be.")  # fmt: skip
@click.option("--units", default="metal", show_default=True,
              type=click.Choice(["metal", "real", "electron", "si", "cgs"]),
              help="Style of units of the LAMMPS input.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Write into a FOLDER that holds files.")
def command(program: str, label: str, output: str, units: str, overwrite: bool) -> None:
    """Write the potential of a training, or of a .amp file, as files of another program.

    n2p2 is also for LAMMPS with ML-HDNNP (pair_style hdnnp), openkim for Amp's KIM model driver,
    prophet for PROPhet's pair_style nn.

    The lines of a LAMMPS input that use it are printed; put the elements of pair_coeff in the
    order of your atom types. Each member of a committee gets a folder of its own in FOLDER.
    """
    from ampmpi.calculator import Amp
    from ampmpi.export.folder import require_room, write_folder
    from ampmpi.members import calculator_files

    names = calculator_files(label)
    if not names:
        raise InputError(f"{label}: there is no such .amp file, and no training of this name")
    folders = [str(Path(output, Path(name).stem)) if len(names) > 1 else output for name in names]
    ready = [_files(program, Amp.load(name), folder, units)
             for name, folder in zip(names, folders, strict=True)]  # fmt: skip
    for folder in folders:
        require_room(folder, overwrite=overwrite)
    for folder, (files, lines) in zip(folders, ready, strict=True):
        last = LAST[program] or next(iter(files))
        for name in write_folder(folder, files, last=last, overwrite=overwrite):
            click.echo(name)
        click.echo("\nIn LAMMPS:\n")
        for line in lines:
            click.echo(f"    {line}")
        click.echo()


def _files(program: str, calc: Amp, folder: str, units: str) -> tuple[dict[str, str], list[str]]:
    """Return files by name, and lines for LAMMPS."""
    from ampmpi.export import n2p2, openkim, prophet

    if program == "n2p2":
        return n2p2.n2p2_files(calc), n2p2.lammps_lines(calc, folder, units)
    if program == "openkim":
        return {"amp.params": openkim.openkim_text(calc, units)}, openkim.lammps_lines(calc, units)
    files = {f"potential_{e}": text for e, text in prophet.prophet_texts(calc, units).items()}
    return files, prophet.lammps_lines(calc, folder, units)
