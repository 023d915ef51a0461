"""``ampmpi compress`` and ``amp-compress``: move loose entries and packs into the archive."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

import ampmpi
from ampmpi.cli.kinds import OneProcess, complete_files
from ampmpi.cli.text import amount, complain, size
from ampmpi.database.compress import CompressReport, compress
from ampmpi.database.database import FingerprintDatabase
from ampmpi.database.layout import SUFFIX, Home, is_database
from ampmpi.database.lock import Lock
from ampmpi.errors import AmpmpiError, DatabaseError, InputError
from ampmpi.parallel import launch
from ampmpi.parallel.log import Log, counted


def _some(
    context: click.Context, parameter: click.Parameter, paths: tuple[str, ...]
) -> tuple[str, ...]:
    """See that there is something to compress; labels, being eager, are known before paths."""
    if not (paths or context.params["labels"]):
        raise click.MissingParameter(ctx=context, param=parameter)
    return paths


@click.command("compress", cls=OneProcess, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, metavar="FILE...", callback=_some, shell_complete=complete_files)
@click.option("--label", "labels", multiple=True, metavar="LABEL", is_eager=True,
              help="The databases of a job's label or dblabel.")  # fmt: skip
@click.option("-r", "--recursive", is_flag=True, help="Every .ampdb in or below directories.")
@click.option("-d", "--delete", is_flag=True, help="Delete the databases found (with -r).")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS",
              help="Wait this long for another process's lock.")  # fmt: skip
@click.option("--break-lock", is_flag=True, help="Take the lock from whoever holds it.")
@click.option("-p", "--processes", type=click.IntRange(min=1), metavar="N",
              help="How many processes deflate: by default one a core, up to 8.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Say only what went wrong.")
@click.version_option(ampmpi.__version__)
@click.pass_context
def command(
    context: click.Context,
    paths: tuple[str, ...],
    labels: tuple[str, ...],
    recursive: bool,
    delete: bool,
    yes: bool,
    dry_run: bool,
    wait: float,
    break_lock: bool,
    processes: int | None,
    quiet: bool,
) -> None:
    """Move the loose entries and packs of databases into their archives.

    FILE is an .ampdb; with -r it is a directory. It is safe beside jobs that
    read or write the same database, and beside other compressions.

    The exit code is 5 if something was damaged: it is in damaged/, and what
    could not be saved must be computed again; 4 if something damaged could
    not be moved there.
    """
    launch.stop.end_at_once()
    if delete and (labels or not recursive):
        raise InputError("--delete needs --recursive: name a directory with -r")
    databases = _once(list(_below(paths))) if recursive else list(paths)
    if recursive and paths and not databases and not labels:
        raise InputError(f"there is no {SUFFIX} in or below {', '.join(paths)}: nothing was done")
    databases += [path for label in labels for path in _of(label)]
    if delete and not dry_run and databases and not yes:
        _ask(databases)
    total, code = CompressReport("Total"), 0
    for path in databases:
        try:
            if dry_run:
                _preview(path, delete)
            elif delete:
                _delete(path, wait, break_lock)
                if not quiet:
                    click.echo(f"Deleted {path}.")
            else:
                report = _compress(path, wait, break_lock, processes or _cores(), quiet)
                _add(total, report)
                code = worse(code, report.exit_code)
        except AmpmpiError as error:
            complain(error)
            code = worse(code, error.exit_code)
    if len(databases) > 1 and not (delete or dry_run or quiet):
        click.echo(_line(total))
    context.exit(code)


def _of(label: str) -> list[str]:
    """Return the databases that jobs with a label have made."""
    names = [f"{label}-{kind}{SUFFIX}" for kind in ("fingerprints", "fingerprint-primes")]
    found = [name for name in names if is_database(name)]
    if not found:
        raise DatabaseError(f"there is neither {names[0]} nor {names[1]}: check --label")
    return found


def _below(paths: tuple[str, ...]) -> Iterator[str]:
    """Find the databases in or below directories."""
    for path in paths:
        if not Path(path).is_dir():
            raise InputError(f"{path} is no directory: -r takes directories")
        for folder, folders, _ in os.walk(path, onerror=_skip):
            full = Path(folder).resolve()
            if is_database(full):
                folders.clear()
                # A database that is the working directory has its name only in full.
                yield folder if folder.endswith(SUFFIX) else str(full)
                continue
            folders.sort()
            links = (Path(folder, name) for name in folders)
            yield from (str(link) for link in links if link.is_symlink() and is_database(link))


def _once(paths: list[str]) -> list[str]:
    """Leave out links to databases that were found themselves."""
    found = {Path(path).resolve() for path in paths if not Path(path).is_symlink()}
    return [
        path for path in paths if not Path(path).is_symlink() or Path(path).resolve() not in found
    ]


def _skip(error: OSError) -> None:
    complain(f"{error.filename} is passed over: {error.strerror}")


def _ask(databases: list[str]) -> None:
    click.echo("This deletes for ever:")
    for path in databases:
        click.echo(f"  {path}")
    answer = click.prompt('Type "yes" to go on', default="", show_default=False)
    if answer != "yes":
        raise click.Abort


def _delete(path: str, wait: float, break_lock: bool) -> None:
    home = Home.open(Path(path).absolute())
    with Lock(home, wait=wait, break_lock=break_lock):
        try:
            shutil.rmtree(home.path)
        except OSError as error:
            raise AmpmpiError(f"{path} cannot be deleted: {error.strerror or error}") from error


def _preview(path: str, delete: bool) -> None:
    with FingerprintDatabase(path) as database:
        info = database.info()
    what = "would be deleted" if delete else "would go into the archive"
    entries = info.entries if delete else min(info.loose + info.packed, info.entries)
    packs = amount(info.packs, "pack")
    packed = f"{info.packed} in {packs}, {size(info.bytes_packs)}; " if info.packs else ""
    click.echo(
        f"{info.path}: {amount(entries, 'entry', 'entries')} {what} "
        f"({info.loose} loose, {size(info.bytes_loose)}; {packed}"
        f"{info.archived} archived, {size(info.bytes_archive)})"
    )


def _cores() -> int:
    """How many cores this process may use, up to where writing is what takes the time."""
    cores = len(os.sched_getaffinity(0))
    granted = os.environ.get("SLURM_CPUS_ON_NODE", "")  # not every SLURM keeps a job to them
    return min(cores, int(granted) if granted.isdecimal() else cores, 8)


def _compress(
    path: str, wait: float, break_lock: bool, processes: int, quiet: bool
) -> CompressReport:
    with counted(Log(quiet=quiet), Path(path).name, "steps") as progress:
        report = compress(
            path,
            processes=processes,
            wait=wait,
            break_lock=break_lock,
            job=os.environ.get("SLURM_JOB_ID"),
            progress=progress,
        )
    for remark in report.remarks():
        complain(remark)
    if not quiet:
        click.echo(_line(report))
    return report


def worse(one: int, other: int) -> int:
    """Of two exit codes return the worse: clean, repaired, then anything else."""
    return max(one, other, key=lambda code: (code != 0, code != 5, code))


def _add(total: CompressReport, report: CompressReport) -> None:
    for name in ("added", "removed", "entries", "bytes_before", "bytes_after", "files_freed"):
        setattr(total, name, getattr(total, name) + getattr(report, name))
    total.seconds += report.seconds


def _line(report: CompressReport) -> str:
    return (
        f"{report.path}: {amount(report.added, 'entry', 'entries')} archived, "
        f"{report.entries} in the archive; {size(report.bytes_before)} before, "
        f"{size(report.bytes_after)} after; {amount(report.files_freed, 'inode')} freed; "
        f"{report.seconds:.1f} s"
    )
