"""``ampmpi uncompress``: move archived entries back to loose files."""

from __future__ import annotations

import os

import click

from ampmpi.cli.kinds import OneProcess
from ampmpi.cli.text import amount, complain
from ampmpi.database.merge import uncompress
from ampmpi.parallel import launch
from ampmpi.parallel.log import Log, counted


@click.command("uncompress", cls=OneProcess)
@click.argument("database", metavar="DB")
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS",
              help="Wait this long for another process's lock.")  # fmt: skip
@click.option("--break-lock", is_flag=True, help="Take the lock from whoever holds it.")
@click.pass_context
def command(context: click.Context, database: str, wait: float, break_lock: bool) -> None:
    """Make loose files of all archived entries of DB, and remove the archive.

    The exit code is 5 if something was damaged: it is in damaged/, and what could
    be saved is loose; 4 if entries are lost.
    """
    launch.stop.end_at_once()
    with counted(Log(), "uncompress", "entries") as progress:
        report = uncompress(
            database,
            wait=wait,
            break_lock=break_lock,
            job=os.environ.get("SLURM_JOB_ID"),
            progress=progress,
        )
    for key, reason in report.set_aside.items():
        complain(f"loose entry {key} was damaged ({reason}): moved to damaged/")
    for key, reason in report.corrupt.items():
        complain(f"entry {key} is lost, compute it again: {reason}")
    if report.damage is not None:
        complain(f"the archive was damaged ({report.damage}): it is kept as {report.copy}")
    elif report.copy is not None:
        complain(
            f"the archive holds more than could be written as loose entries: see {report.copy}"
        )
    click.echo(f"{amount(report.written, 'loose entry', 'loose entries')} written")
    context.exit(4 if report.corrupt else 5 if report.damage or report.set_aside else 0)
