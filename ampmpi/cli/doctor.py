"""``ampmpi doctor``: the surroundings of a job, and what to change about them."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import click

from ..errors import DatabaseError, LaunchError
from ..parallel.about import MPILibrary, RankSurroundings, mpi_library, surroundings
from ..parallel.comm import Communicator, SerialCommunicator, world
from ..parallel.launch import speaks, under_launcher
from ..text import amount, plain
from .filesystem import (
    FileSystem,
    file_system,
    is_writable,
    nearest_folder,
    quota,
    seconds_per_file,
)

FEW_INODES = 100_000
LITTLE_SPACE = 10e9
SLOW_FILE = 0.02


@click.command()
@click.argument("path", default=".", type=click.Path(path_type=Path))
@click.pass_context
def command(context: click.Context, path: Path) -> None:
    """Check MPI, threads, caches and the file system of PATH, a database or a folder.

    Run it the way the job will run: `srun --mpi=pmi2 ampmpi doctor`, `mpirun ampmpi doctor`.
    The exit code is 4 if no file can be written in PATH, and 7 if ranks do not see each other.
    """
    wrong: LaunchError | None = None
    comm: Communicator = SerialCommunicator()
    try:
        comm = world()
    except LaunchError as error:
        wrong = error
    ranks = comm.allgather(surroundings(os.environ))
    if comm.rank == 0 and (wrong is None or speaks()):
        library = mpi_library()
        lines, advice = describe_ranks(library, ranks, os.environ)
        for more, hints in (describe_cache(os.environ), describe_folder(path)):
            lines += more
            advice += hints
        for name, text in lines:
            click.echo(f"{name + ':' if name else '':13s}{text}")
        for hint in advice:
            click.echo(f"  → {hint}")
        if not advice and wrong is None:
            click.echo("Nothing to improve.")
    usable = comm.bcast(comm.rank != 0 or is_writable(nearest_folder(path)))
    if wrong is not None:
        raise wrong
    context.exit(0 if usable else DatabaseError.exit_code)


Report = tuple[list[tuple[str, str]], list[str]]


def describe_ranks(
    library: MPILibrary | str, ranks: Sequence[RankSurroundings], environ: Mapping[str, str]
) -> Report:
    """Describe versions, MPI, ranks and threads, with advice."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("ampmpi", "numpy", "numba", "ase"))
    lines = [("Versions", f"{packages}, Python {platform.python_version()}")]
    advice = []
    if isinstance(library, str):
        lines.append(("MPI", f"none: {library}"))
        advice.append(
            "mpi4py finds no MPI library, so only serial runs work: load your site's MPI "
            "module, or pip install 'ampmpi[mpich]'"
        )
    else:
        lines.append(
            ("MPI", f"{library.name} {library.version} (MPI {library.standard}), "
             f"mpi4py {library.mpi4py}")
        )  # fmt: skip
    on_host = Counter(rank.host for rank in ranks)
    where = ", ".join(f"{n} on {host}" for host, n in sorted(on_host.items())[:8])
    more = len(on_host) - 8
    lines.append(("Ranks", f"{len(ranks)}: {where}" + (f", and {more} more hosts" * (more > 0))))
    if not under_launcher(environ):
        advice.append(
            "this was a single process: to check the ranks, start it like your job, with srun or "
            "mpirun"
        )
    if len(set(on_host.values())) > 1:
        advice.append("hosts have different numbers of ranks: set --ntasks-per-node")
    cores = {
        host: len(frozenset().union(*(rank.cores for rank in ranks if rank.host == host)))
        for host in on_host
    }
    crowded = [host for host, n in on_host.items() if n > 1 and cores[host] < n]
    if crowded:
        host = crowded[0]
        advice.append(
            f"{on_host[host]} ranks share {amount(cores[host], 'core')} on {host}: start no more "
            "ranks than cores, and let the launcher bind each rank to its own core"
        )
    threads = sorted({"; ".join(f"{k}={v}" for k, v in rank.threads.items()) for rank in ranks})
    lines.append(("Threads", " | ".join(text or "not set" for text in threads)))
    if len(ranks) > 1 and any(n != "1" for rank in ranks for n in rank.threads.values()):
        advice.append(
            "ranks have more than one thread: export OMP_NUM_THREADS=1, and the same for the other "
            "variables above"
        )
    return lines, advice


def describe_cache(environ: Mapping[str, str]) -> Report:
    """Describe where compiled kernels are kept."""
    given = environ.get("NUMBA_CACHE_DIR")
    if given is None:
        return [("Kernels", "kept beside the package")], []
    folder = nearest_folder(Path(given))
    system = file_system(folder)
    files = sum(1 for _ in Path(given).rglob("*.nbc"))
    lines = [("Kernels", f"{files} compiled in {given} ({system.kind})")]
    advice = []
    if not is_writable(folder):
        advice.append(
            f"NUMBA_CACHE_DIR={given} is not writable, so every job compiles its kernels again: "
            "set it to a folder of your own"
        )
    elif system.is_network:
        advice.append(
            f"compiled kernels are on {system.kind}: with many nodes, set NUMBA_CACHE_DIR to a "
            "local disk or to the scratch file system"
        )
    return lines, advice


def describe_folder(path: Path) -> Report:
    """Describe the file system of a database or folder."""
    folder = nearest_folder(path)
    system = file_system(folder)
    inodes = (
        "inodes are not counted" if system.free_inodes is None else f"{system.free_inodes:,} inodes"
    )
    lines = [
        ("Folder", f"{folder} on {system.kind}, mounted at {plain(str(system.mount))}"),
        ("Free", f"{system.free_bytes / 1e9:,.1f} GB, {inodes}"),
    ]
    used = quota(system)
    if used:
        lines += [("Quota" if i == 0 else "", line) for i, line in enumerate(used.splitlines())]
    advice = []
    if folder != path.absolute():
        advice.append(f"{path} is not an existing folder: all of this is about {folder}")
    try:
        seconds = seconds_per_file(folder)
    except OSError as error:
        advice.append(f"no file can be written in {folder} ({error.strerror}): use another folder")
    else:
        advice += advise_packs(system, seconds)
        lines.append(
            ("Small files", f"{1000 * seconds:.2f} ms to write, rename, read and remove one")
        )
    return lines, [*advice, *advise_on(system)]


def advise_packs(system: FileSystem, seconds_per_file: float) -> list[str]:
    """Return advice to write packs, in one sentence, where small files are many or slow."""
    reasons = []
    if system.free_inodes is not None and system.free_inodes < FEW_INODES:
        reasons.append(f"only {system.free_inodes:,} more files fit")
    if seconds_per_file > SLOW_FILE:
        reasons.append("small files are slow")
    if system.is_network:
        reasons.append(f"nodes share {system.kind}")
    if not reasons:
        return []
    return [
        f"{', and '.join(reasons)}: give fingerprint and train --packs, with which they write a "
        "few files a rank and database; without it they write one an image and database"
    ]


def advise_on(system: FileSystem) -> list[str]:
    """Return advice about a file system."""
    advice = []
    if system.free_bytes < LITTLE_SPACE:
        advice.append(
            "less than 10 GB are free: `ampmpi fingerprint --dry-run` tells how much you need"
        )
    if system.kind == "lustre":
        advice.append(
            "Lustre: without --packs one stripe is best: run `lfs setstripe -c 1 FOLDER` before "
            "the first job"
        )
    elif system.kind.startswith("nfs"):
        advice.append(
            "NFS: nodes see each other's files late, which may cost time but never results; for "
            "many nodes the scratch file system is faster"
        )
    elif system.is_memory:
        advice.append(
            f"{system.kind} is this node's memory: other nodes do not see it, and its files are "
            "gone after the job"
        )
    return advice
