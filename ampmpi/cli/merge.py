"""``ampmpi merge``: add the entries of databases to another one."""

from __future__ import annotations

import os

import click

from ampmpi.cli.kinds import OneProcess
from ampmpi.cli.text import amount, complain, size
from ampmpi.database.merge import merge
from ampmpi.parallel import launch


@click.command("merge", cls=OneProcess)
@click.argument("target")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--assume-same", is_flag=True,
              help="Databases that name no descriptor are of the same one.")  # fmt: skip
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS",
              help="Wait this long for another process's lock.")  # fmt: skip
@click.option("--break-lock", is_flag=True, help="Take the lock from whoever holds it.")
@click.pass_context
def command(
    context: click.Context,
    target: str,
    sources: tuple[str, ...],
    assume_same: bool,
    wait: float,
    break_lock: bool,
) -> None:
    """Add the entries of SOURCE databases to TARGET's archive.

    All must be of one descriptor. Entries that TARGET has stay as they are, and
    the sources are not changed.
    """
    launch.stop.end_at_once()
    report = merge(
        target,
        sources,
        assume_same=assume_same,
        wait=wait,
        break_lock=break_lock,
        job=os.environ.get("SLURM_JOB_ID"),
    )
    for key, reason in report.corrupt.items():
        complain(f"{key} was not taken over: {reason}")
    for what, reason in report.damaged.items():
        complain(
            f"{what} is damaged ({reason}): what could be saved was taken; "
            "keep it until you know that nothing is missing"
        )
    for remark in report.compress.remarks():
        complain(remark)
    for path, added in report.added.items():
        click.echo(f"{path}: {amount(added, 'entry', 'entries')} added")
    result = report.compress
    click.echo(f"{result.path}: {result.entries} in the archive; {size(result.bytes_after)}")
    context.exit(4 if report.corrupt or report.damaged else result.exit_code)
