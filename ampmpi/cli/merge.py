"""``ampmpi merge``: add the entries of databases to another one."""

from __future__ import annotations

import os

import click

from ampmpi.cli.kinds import OneProcess, complete_files
from ampmpi.cli.text import amount, complain, size
from ampmpi.database.layout import SUFFIX, database_path, is_database, kind_of
from ampmpi.database.merge import merge
from ampmpi.parallel import launch


@click.command("merge", cls=OneProcess)
@click.argument("target", shell_complete=complete_files)
@click.argument(
    "sources", nargs=-1, required=True, metavar="SOURCE...", shell_complete=complete_files
)
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
    the sources are not changed. TARGET is made if it is not there.
    """
    launch.stop.end_at_once()
    path = _named(target, sources)
    is_new = not is_database(path)
    report = merge(
        path,
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
    result = report.compress
    if is_new:
        click.echo(f"{result.path}: made")
    for source, added in report.added.items():
        click.echo(f"{source}: {amount(added, 'entry', 'entries')} added")
    click.echo(f"{result.path}: {result.entries} in the archive; {size(result.bytes_after)}")
    context.exit(4 if report.corrupt or report.damaged else result.exit_code)


def _named(target: str, sources: tuple[str, ...]) -> str:
    """Return the target's path; the name of a new one gets what the sources' names end in.

    That ending says what a database holds.
    """
    path = database_path(target)
    kinds = {kind_of(source) for source in sources}
    if is_database(path) or kind_of(path) != "other" or len(kinds) > 1 or kinds == {"other"}:
        return path
    (kind,) = kinds
    ending = "fingerprints" if kind == "fingerprints" else "fingerprint-primes"
    return f"{path.removesuffix(SUFFIX)}-{ending}{SUFFIX}"
