"""How `ampmpi fingerprint` scales: measured on this machine, and modelled far beyond it.

``python benchmarks/scaling.py strong`` runs the job on 1 and 2 ranks, 2,000 images of 32 atoms
with primes, and prints the speed-up from the first to the last image, and the start-up beside it.

``python benchmarks/scaling.py model`` measures on this machine what one image, one entry and one
item of rank 0's bookkeeping cost, and feeds a discrete-event model with it: ranks compute the
images that the job's own dealing gives them, and queue for the file system's metadata service
with each entry. The table says what 16 to 4,096 ranks make of 10⁴ to 10⁷ images, and on what they
spend the time that they do not compute.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

RANKS = (16, 64, 256, 1024, 4096)
IMAGES = (10_000, 100_000, 1_000_000, 10_000_000)
RANKS_PER_NODE = 64
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Costs:
    """What was measured on one core of this machine; seconds, bytes.

    Attributes
    ----------
    compute : float
        Fingerprint and primes of one image, encoding included.
    read, digest : float
        Reading one image from a .traj file, and hashing it.
    book : float
        What rank 0 does for each image before the computing starts: look for duplicates and
        misses, and deal.
    list_one : float
        One name of a database's listing.
    imports : float
        Start-up of one process, files cached.
    opens : int
        Files that a start-up looks for or opens.
    entry_bytes, archive_bytes : float
        Both entries of one image, loose and archived.
    deflate, copy : float
        Compressing one image's entries; writing them to the archive and reading them back.
    """

    compute: float
    read: float
    digest: float
    book: float
    list_one: float
    imports: float
    opens: int
    entry_bytes: float
    archive_bytes: float
    deflate: float
    copy: float


@dataclass(frozen=True)
class FileSystem:
    """A file system as its clients see it.

    Attributes
    ----------
    name : str
        What it stands for.
    latency : float
        Time of one metadata operation when nobody else asks, s.
    service : float
        Time for which an operation keeps one of the servers busy, s.
    servers : int
        Operations that are served at once.
    bandwidth : float
        Of all clients together, bytes/s.
    """

    name: str
    latency: float
    service: float
    servers: int
    bandwidth: float


OPERATIONS_PER_ENTRY = (
    4  # create, write and close, rename, each of them a metadata operation or two
)


# ---- the model ----


@njit(cache=True)
def run_ranks(
    costs: NDArray[np.float64],
    starts: NDArray[np.int64],
    latency: float,
    service: float,
    servers: int,
) -> tuple[float, float]:
    """Let ranks compute images one after the other, and queue with each entry for a server.

    Events are taken in the order of time from a heap of ranks, so that requests are served first
    come, first served.

    Parameters
    ----------
    costs : (n_images,) float array, s
        Cost of each image, sorted by rank.
    starts : (n_ranks + 1,) int array
        Where each rank's images start.
    latency, service : float
        Of one entry, s.
    servers : int
        Entries that are served at once.

    Returns
    -------
    last, mean : float
        When the last rank ends, and when ranks end on average, s.
    """
    n_ranks = len(starts) - 1
    heap_time = np.empty(n_ranks)
    heap_rank = np.empty(n_ranks, np.int64)
    following = starts[:-1].copy()
    size = 0
    last = 0.0
    total = 0.0
    for rank in range(n_ranks):
        if following[rank] == starts[rank + 1]:
            continue
        child = size
        size += 1
        when = costs[following[rank]]
        while child > 0:
            parent = (child - 1) // 2
            if heap_time[parent] <= when:
                break
            heap_time[child] = heap_time[parent]
            heap_rank[child] = heap_rank[parent]
            child = parent
        heap_time[child] = when
        heap_rank[child] = rank
    free = np.zeros(servers)
    while size > 0:
        now = heap_time[0]
        rank = heap_rank[0]
        server = np.argmin(free) if servers > 1 else 0
        begin = max(now, free[server])
        free[server] = begin + service
        done = begin + service + latency
        following[rank] += 1
        if following[rank] == starts[rank + 1]:
            last = max(last, done)
            total += done
            size -= 1
            when = heap_time[size]
            rank = heap_rank[size]
        else:
            when = done + costs[following[rank]]
        parent = 0
        while True:
            child = 2 * parent + 1
            if child >= size:
                break
            if child + 1 < size and heap_time[child + 1] < heap_time[child]:
                child += 1
            if heap_time[child] >= when:
                break
            heap_time[parent] = heap_time[child]
            heap_rank[parent] = heap_rank[child]
            parent = child
        if size > 0:
            heap_time[parent] = when
            heap_rank[parent] = rank
    return last, total / n_ranks


def spread(n_images: int, mean: float, seed: int = 0) -> NDArray[np.float64]:
    """Return image costs that differ by a factor of about a thousand, log-normally."""
    costs = np.random.default_rng(seed).lognormal(sigma=1.1, size=n_images)
    return costs * (mean / costs.mean())


def simulate(
    n_ranks: int, n_images: int, costs: Costs, files: FileSystem, error: float = 0.15
) -> dict[str, float]:
    """Return the seconds of each phase of a job.

    Parameters
    ----------
    n_ranks, n_images : int
        Size of the job.
    costs, files
        What things cost.
    error : float
        Relative error (standard deviation) of the predicted cost that images are dealt by.
    """
    from ampmpi.parallel.schedule import deal

    share = n_images / n_ranks
    nodes = max(1, n_ranks // RANKS_PER_NODE)
    phases = {}
    # One node's ranks share its cache of names and files.
    phases["start"] = costs.imports + nodes * costs.opens * files.service / files.servers
    phases["read, hash"] = share * (costs.read + costs.digest)
    phases["rank 0"] = n_images * costs.book
    predicted = spread(n_images, costs.compute)
    noise = np.random.default_rng(1).normal(1.0, error, n_images).clip(0.5, 2.0)
    owner = deal(predicted, n_ranks)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(n_ranks + 1))
    actual = (predicted * noise)[order]
    entry = 2 * OPERATIONS_PER_ENTRY
    last, mean = run_ranks(
        actual, starts, entry * files.latency, entry * files.service, files.servers
    )
    ideal = actual.sum() / n_ranks
    phases["compute"] = ideal
    phases["files"] = mean - ideal
    phases["uneven"] = last - mean
    phases["compress"] = (
        share * costs.deflate
        + n_images * max(costs.copy, 2 * costs.archive_bytes / files.bandwidth)
        + n_images * 2 * (files.service / files.servers + files.latency / 8)
    )
    return phases


# ---- what things cost here ----


def best(function: Callable[[], object], repeats: int = 5) -> float:
    """Return the shortest time of a call, s."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def crystals(n_images: int, seed: int = 0) -> list:
    """Return crystals of 32 atoms of two elements, no two alike."""
    from ase.build import bulk

    found = []
    for i in range(n_images):
        atoms = bulk("Cu", cubic=True).repeat((2, 2, 2))
        atoms.symbols[::4] = "Pt"
        atoms.rattle(0.05, seed=seed + i)
        found.append(atoms)
    return found


def measure(folder: Path) -> Costs:
    """Measure the costs of one image and of one item of bookkeeping."""
    from ase.io import read, write

    from ampmpi import FingerprintDatabase, Gaussian, hash_image
    from ampmpi.database.entry import encode
    from ampmpi.database.writer import deflate_entry
    from ampmpi.parallel.schedule import deal

    images = crystals(40)
    descriptor = Gaussian(cutoff=6.5, elements=["Cu", "Pt"]).resolve(["Cu", "Pt"])
    descriptor.calculate(images[0])
    compute = best(lambda: [list(map(encode, descriptor.calculate(a))) for a in images[:10]]) / 10
    data = b"".join(map(encode, descriptor.calculate(images[0])))
    write(folder / "images.traj", images)
    reading = best(lambda: read(folder / "images.traj", ":")) / len(images)
    digest = best(lambda: [hash_image(a) for a in images]) / len(images)
    n = 200_000
    digests = np.random.default_rng(0).integers(0, 2**63, (n, 2)).view("S16").ravel()
    book = best(lambda: (np.unique(digests, return_index=True), deal(spread(n, 1.0), 256)), 3) / n
    database = FingerprintDatabase.create(folder / "x-fingerprints.ampdb")
    entry = descriptor.fingerprint(images[0])
    keys = [f"{i:032x}" for i in range(2000)]
    for key in keys:
        database.put(key, entry)
    list_one = best(lambda: database.missing(keys)) / len(keys)
    packed = deflate_entry("0" * 32, data).raw
    archive = folder / "archive"

    def copy() -> None:
        with open(archive, "wb") as file:
            for _ in range(100):
                file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        archive.read_bytes()

    program = "import ampmpi.cli.fingerprint, ampmpi.descriptor.gaussian, ase.io, mpi4py"
    imports = best(lambda: subprocess.run([sys.executable, "-c", program], check=True), 3)
    return Costs(
        compute=compute,
        read=reading,
        digest=digest,
        book=book,
        list_one=list_one,
        imports=imports,
        opens=count_opens(program),
        entry_bytes=len(data),
        deflate=best(lambda: deflate_entry("0" * 32, data)),
        archive_bytes=len(packed),
        copy=best(copy) / 100,
    )


def count_opens(program: str) -> int:
    """Return how many files a start-up looks for or opens, by strace where it is installed."""
    try:
        done = subprocess.run(
            ["strace", "-f", "-c", "-e", "trace=%file", sys.executable, "-c", program],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return 8000
    match = re.search(r"([\d]+)(?:\s+\d+)? total", done.stderr)
    return int(match[1]) if match else 8000


def measure_files(folder: Path) -> FileSystem:
    """Measure one metadata operation and the bandwidth of the file system here."""
    data = b"\0" * 4096
    n = 500

    def put() -> None:
        for i in range(n):
            with open(folder / "t", "wb") as file:
                file.write(data)
            (folder / "t").rename(folder / f"e{i % 50}")

    operation = best(put, 3) / n / OPERATIONS_PER_ENTRY
    block = os.urandom(1 << 24)
    seconds = best(lambda: (folder / "big").write_bytes(block))
    return FileSystem(
        "this machine's disk", 0.0, operation, os.cpu_count() or 1, (1 << 24) / seconds
    )


def table(costs: Costs, files: FileSystem, max_images: int) -> str:
    """Return a table of jobs: seconds to the last image, efficiency, and the largest loss.

    The last line is the compression that follows where there is no dblabel.
    """
    lines = [
        f"{files.name}: {files.latency * 1e3:.2g} ms per operation, "
        f"{files.servers / files.service:,.0f} operations/s, {files.bandwidth / 1e9:.2g} GB/s",
        "ranks".rjust(7) + "".join(f"{n:>30,}" for n in IMAGES if n <= max_images),
    ]
    last = {}
    for n_ranks in RANKS:
        cells = []
        for n_images in IMAGES:
            if n_images > max_images:
                continue
            phases = simulate(n_ranks, n_images, costs, files)
            last[n_images] = phases.pop("compress")
            total = sum(phases.values())
            ideal = phases.pop("compute")
            loss = max(phases, key=phases.__getitem__)
            cells.append(f"{total:,.0f} s {100 * ideal / total:3.0f} % ({loss})".rjust(30))
        lines.append(f"{n_ranks:7,}" + "".join(cells))
    lines.append(
        "  after" + "".join(f"{seconds:,.0f} s compress".rjust(30) for seconds in last.values())
    )
    return "\n".join(lines)


def model(arguments: argparse.Namespace) -> None:
    """Measure, simulate, and print the tables."""
    with tempfile.TemporaryDirectory(dir=arguments.dir) as scratch:
        costs = measure(Path(scratch))
        here = measure_files(Path(scratch))
    if arguments.compute is not None:
        costs = replace(costs, compute=arguments.compute)
    print(json.dumps(asdict(costs), indent=2))
    systems = [
        here,
        FileSystem("parallel file system", 5e-4, 1e-4, 4, 20e9),
        FileSystem("NFS", 1e-3, 2e-4, 1, 1e9),
    ]
    for files in systems:
        print("\n" + table(costs, files, arguments.max_images))


# ---- strong scaling, for real ----


def strong(arguments: argparse.Namespace) -> None:
    """Run the job on 1 and 2 ranks in turn, and print the medians and their ratio."""
    from ase.io import write

    times: dict[int, list[float]] = {1: [], 2: []}
    startup: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(dir=arguments.dir) as scratch:
        write(Path(scratch, "images.traj"), crystals(arguments.images))
        for repeat in range(arguments.repeats):
            for ranks in (1, 2):
                seconds, whole = run_job(Path(scratch), ranks, f"r{repeat}n{ranks}")
                times[ranks].append(seconds)
                startup[ranks].append(whole - seconds)
    one, two = (statistics.median(times[ranks]) for ranks in (1, 2))
    for ranks in (1, 2):
        print(
            f"{ranks} ranks: {statistics.median(times[ranks]):.2f} s from the first to the last "
            f"image, {statistics.median(startup[ranks]):.2f} s besides"
        )
    print(f"speed-up {one / two:.2f}")


def run_job(folder: Path, ranks: int, label: str) -> tuple[float, float]:
    """Run one job; return the seconds from its first to its last image, and of the whole."""
    command = [str(BIN / "mpirun"), "-n", str(ranks)]
    command += [sys.executable, str(Path(__file__).resolve()), "one", label]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    whole = time.perf_counter() - start
    for kind in ("fingerprints", "fingerprint-primes"):
        shutil.rmtree(folder / f"{label}-{kind}.ampdb")
    return float(done.stdout.split()[-1]), whole


def one(arguments: argparse.Namespace) -> None:
    """Be one rank of a job."""
    from ampmpi import fingerprint
    from ampmpi.parallel.launch import speaks

    summary = fingerprint(
        "images.traj", label=arguments.label, dblabel=arguments.label, derivatives=True
    )
    assert summary.computed == summary.images
    if speaks():
        print(summary.compute_seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", help="where to write; on the file system of interest")
    kinds = parser.add_subparsers(required=True)
    kind = kinds.add_parser("strong", help="1 and 2 ranks on this machine")
    kind.add_argument("--images", type=int, default=2000)
    kind.add_argument("--repeats", type=int, default=3)
    kind.set_defaults(run=strong)
    kind = kinds.add_parser("model", help="16 to 4,096 ranks in a discrete-event model")
    kind.add_argument("--max-images", type=int, default=IMAGES[-1])
    kind.add_argument("--compute", type=float, help="seconds per image, instead of those measured")
    kind.set_defaults(run=model)
    kind = kinds.add_parser("one", help="what `strong` starts")
    kind.add_argument("label")
    kind.set_defaults(run=one)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
