"""``amp-plotconvergence``: the trainings of a log, as Amp draws them."""

from __future__ import annotations

import click

from ampmpi.cli.kinds import OneProcess, complete_files
from ampmpi.text import amount


@click.command("amp-plotconvergence", cls=OneProcess)
@click.argument("logfile", shell_complete=complete_files)
@click.argument("plotfile", default="convergence.pdf", shell_complete=complete_files)
def command(logfile: str, plotfile: str) -> None:
    """Draw how the loss fell in LOGFILE, the log of trainings by Amp or ampmpi.

    PLOTFILE is a PDF, convergence.pdf by default, and has a page for each training.
    """
    from ampmpi.amp._pictures import as_pdf, require_matplotlib, write_picture
    from ampmpi.amp._trainlog import plot_convergence, read_trainlog
    from ampmpi.errors import InputError

    require_matplotlib()
    if not plotfile.endswith(".pdf"):
        raise InputError(f"{plotfile} is no name of a PDF; give one that ends in .pdf")
    found = read_trainlog(logfile, verbose=False, multiple=True)
    drawn = [data for data in found if data.get("convergence", {}).get("steps")]
    if not drawn:
        raise InputError(f"{logfile} has no row of a training; give the log of one")
    write_picture(plotfile, as_pdf(plot_convergence(data, None) for data in drawn))
    click.echo(f"{plotfile}: {amount(len(drawn), 'training')}")
