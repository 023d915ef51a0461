"""How `ampmpi fingerprint` scales: measured on this machine, and modelled far beyond it.

``python benchmarks/scaling.py strong`` runs the job on 1 and 2 ranks, 2,000 images of 32 atoms
with primes, and prints the speed-up from the first to the last image, and the start-up beside it.

``python benchmarks/scaling.py model`` measures on this machine what one image, one entry and one
item of rank 0's bookkeeping cost, and feeds a discrete-event model with it: ranks compute the
images that the job's own dealing gives them, and queue for the file system with each image's
entries: first for its metadata service, then for its bandwidth, which all share. The table says
how long 16 to 4,096 ranks take from the start to the finished archive of 10⁴ to 10⁷ images, with
loose entries and with packs, how many times the limit that is with packs, and what takes the time
above the limit. The limit is a start and then the computing of all ranks or one writing of the
archive's bytes, whichever takes longer. ``--assembly`` chooses how packs become the archive, and
the last lines say which ways there are and what each would make of the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

RANKS = (16, 64, 256, 1024, 4096)
IMAGES = (10_000, 100_000, 1_000_000, 10_000_000)
RANKS_PER_NODE = 64
BOUND = 1.5
"""Times the limit that a job may take."""
MEMORY = Path("/dev/shm")
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Costs:
    """What was measured on one core of this machine; seconds, bytes.

    Attributes
    ----------
    entries : int
        Files of an image: its fingerprint, and its primes if they are wanted.
    compute : float
        One image's entries, encoding included.
    read, digest : float
        Reading one image from a .traj file, and hashing it.
    book : float
        What rank 0 does for each image before the computing starts: look for duplicates and
        misses, and deal.
    list_one : float
        One name of the listing of a database's loose entries.
    imports : float
        Start-up of one process, files cached.
    opens : int
        How often a start-up asks for a file by its name.
    entry_bytes, archive_bytes : float
        The entries of one image, loose and archived.
    deflate, inflate, copy : float
        Compressing one image's entries; reading them back; what a compress costs rank 0 besides,
        the disk's and the metadata's time left out.
    append : float
        Putting one image's entries into packs: deflating, checksums and the write.
    assemble : float
        What the ranks take in a compress of packs for one image: copying and reading back.
    entry_books, pack_books : float
        What that costs rank 0 for each entry and for each pack.
    """

    entries: int
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
    inflate: float
    copy: float
    append: float
    assemble: float
    entry_books: float
    pack_books: float


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


# What a metadata server sees of one entry, by strace: an attribute that comes with the answer to an
# open is asked for nowhere else. Data go to other servers.
PUT = 3  # create, close, rename
READ = 2  # open, close
REMOVE = 2  # lstat, unlink
PACK_BEGIN = 1  # create
PACK_END = 3  # fsync, close, rename
COPY = 5  # open and close both files, fsync

MESSAGE = 5e-5
"""Seconds that rank 0 takes to send another rank a share or a task, and to take its answer."""

CACHE = 64e9
"""Bytes of its own packs that a node still has in memory when a job ends."""


@dataclass(frozen=True)
class Assembly:
    """How the packs of a job become its archive.

    Attributes
    ----------
    name, text : str
        What it is called, and what happens.
    at_once : bool
        At the end of the job; False: they stay packs.
    by_rank_0 : bool
        Rank 0 alone reads the indexes of all packs and unlinks all packs.
    read : bool
        Packs are read from the file system; False: each rank copies its own, which its node
        still has in memory up to `CACHE`.
    written : float
        Part of the bytes that is written anew.
    read_back : bool
        The archive is read back.
    """

    name: str
    text: str
    at_once: bool = True
    by_rank_0: bool = False
    read: bool = True
    written: float = 1.0
    read_back: bool = True


ASSEMBLIES = (
    Assembly(
        "serial", "packs are copied and read back by all; rank 0 alone reads indexes and unlinks",
        by_rank_0=True,
    ),
    Assembly("shared", "the same, but all ranks together read the indexes and unlink: as it is"),
    Assembly("own", "the same, and each rank copies its own packs out of memory", read=False),
    Assembly("trusting", "the same without reading back", read=False, read_back=False),
    Assembly(
        "in-place",
        "ranks write at their own places in one file, in which at the end a tenth is moved, as "
        "they have come to unequal sizes; nothing is read back, as nothing is removed",
        read=False, written=0.1, read_back=False,
    ),
    Assembly("left", "packs stay packs, as with --no-compress or a dblabel", at_once=False),
)  # fmt: skip


# ---- the model ----


@njit(cache=True)
def run_ranks(
    costs: NDArray[np.float64],
    starts: NDArray[np.int64],
    latency: float,
    service: float,
    servers: int,
    transfer: float,
) -> tuple[float, float, float]:
    """Let ranks compute images one after the other, and queue with each for servers and the line.

    Events are taken in the order of time from a heap of ranks, so that requests are served first
    come, first served. Data go over one line that all ranks share, after the metadata.

    Parameters
    ----------
    costs : (n_images,) float array, s
        Cost of each image, sorted by rank.
    starts : (n_ranks + 1,) int array
        Where each rank's images start.
    latency, service : float
        Of the metadata of one image's entries, s.
    servers : int
        Images that are served at once.
    transfer : float
        Time of the line for one image's entries, s.

    Returns
    -------
    last, mean : float
        When the last rank ends, and when ranks end on average, s.
    waited : float
        How long a rank spent on the line and waiting for it, on average, s.
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
    line = 0.0
    waited = 0.0
    while size > 0:
        now = heap_time[0]
        rank = heap_rank[0]
        server = np.argmin(free) if servers > 1 else 0
        begin = max(now, free[server])
        free[server] = begin + service
        written = begin + service + latency
        line = max(line, written) + transfer
        done = line
        waited += done - written
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
    return last, total / n_ranks, waited / n_ranks


def spread(n_images: int, mean: float, seed: int = 0) -> NDArray[np.float64]:
    """Return image costs that differ by a factor of about a thousand, log-normally."""
    costs = np.random.default_rng(seed).lognormal(sigma=1.1, size=n_images)
    return costs * (mean / costs.mean())


@lru_cache(maxsize=1)
def dealt(
    n_ranks: int, n_images: int, mean: float, error: float = 0.15
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Deal images as a job does; return their costs, sorted by rank, and where each rank's start.

    They are dealt by predicted costs, whose relative error (standard deviation) is `error`.
    """
    from ampmpi.parallel.schedule import deal

    predicted = spread(n_images, mean)
    noise = np.random.default_rng(1).normal(1.0, error, n_images).clip(0.5, 2.0)
    owner = deal(predicted, n_ranks)
    order = np.argsort(owner, kind="stable")
    return (predicted * noise)[order], np.searchsorted(owner[order], np.arange(n_ranks + 1))


def before(n_ranks: int, n_images: int, costs: Costs, files: FileSystem) -> dict[str, float]:
    """Return the seconds of what a job does before it computes."""
    nodes = max(1, n_ranks // RANKS_PER_NODE)
    return {
        # One node's ranks share its cache of names and files.
        "start": costs.imports + nodes * costs.opens * files.service / files.servers,
        "read, hash": n_images / n_ranks * (costs.read + costs.digest),
        "rank 0": n_images * costs.book + n_ranks * MESSAGE,
    }


def limit(n_ranks: int, n_images: int, costs: Costs, files: FileSystem) -> float:
    """Return the seconds that no job can fall below: a start, and computing or writing."""
    actual, _ = dealt(n_ranks, n_images, costs.compute)
    writing = n_images * costs.archive_bytes / files.bandwidth
    start = before(n_ranks, n_images, costs, files)["start"]
    return start + max(float(actual.sum()) / n_ranks, writing)


def simulate(n_ranks: int, n_images: int, costs: Costs, files: FileSystem) -> dict[str, float]:
    """Return the seconds of each phase of a job with loose entries, and of what may follow it.

    ``again`` is a later job's look at entries that are all there and loose: rank 0 lists them, all
    ranks read them back. ``compress`` is the end of a job without dblabel: the ranks deflate while
    rank 0 writes, then read back, then remove.

    Parameters
    ----------
    n_ranks, n_images : int
        Size of the job.
    costs, files
        What things cost.
    """
    share = n_images / n_ranks
    operation = files.latency + files.service
    phases = before(n_ranks, n_images, costs, files)
    actual, starts = dealt(n_ranks, n_images, costs.compute)
    puts = costs.entries * PUT
    last, mean, waited = run_ranks(
        actual, starts, puts * files.latency, puts * files.service, files.servers,
        costs.entry_bytes / files.bandwidth,
    )  # fmt: skip
    ideal = actual.sum() / n_ranks
    phases["compute"] = ideal
    phases["metadata"] = mean - ideal - waited
    phases["bandwidth"] = waited
    phases["uneven"] = last - mean
    served = n_images * costs.entries * files.service / files.servers
    moved = n_images * costs.entry_bytes / files.bandwidth
    reading = share * costs.entries * READ * operation
    phases["again"] = n_images * costs.entries * costs.list_one + max(reading, READ * served, moved)
    packed = n_images * costs.archive_bytes / files.bandwidth
    phases["compress"] = (
        max(
            share * (costs.entries * READ * operation + costs.deflate),
            n_images * costs.copy,
            READ * served,
            moved + packed,
        )
        + max(share * costs.inflate, packed)
        + max(share * costs.entries * REMOVE * operation, REMOVE * served)
    )
    return phases


def simulate_packs(
    n_ranks: int, n_images: int, costs: Costs, files: FileSystem
) -> tuple[dict[str, float], float]:
    """Return the seconds of each phase of a job with packs up to the last image, and their number.

    ``compute`` is what is in the limit: all ranks' computing, or one writing of the bytes,
    whichever takes longer. ``deflate`` and ``uneven`` are what the images take above that, and
    ``metadata`` is of packs that begin and end.

    Parameters
    ----------
    n_ranks, n_images : int
        Size of the job.
    costs, files
        What things cost.
    """
    from ampmpi.database.packs import PackLimits

    limits = PackLimits()
    phases = before(n_ranks, n_images, costs, files)
    actual, starts = dealt(n_ranks, n_images, costs.compute)
    n_bytes = n_images * costs.archive_bytes
    last, _, _ = run_ranks(
        actual + costs.append, starts, 0.0, 0.0, 1, costs.archive_bytes / files.bandwidth
    )
    phases["compute"] = max(float(actual.sum()) / n_ranks, n_bytes / files.bandwidth)
    above = max(0.0, last - phases["compute"])
    phases["deflate"] = min(above, n_images / n_ranks * costs.append)
    phases["uneven"] = above - phases["deflate"]
    packs = costs.entries * max(
        min(n_ranks, n_images), n_bytes / limits.n_bytes, n_ranks * last / limits.seconds
    )
    phases["metadata"] = by_all(packs * (PACK_BEGIN + PACK_END), n_ranks, files)
    return phases, packs


def by_all(operations: float, n_ranks: int, files: FileSystem) -> float:
    """Return the time of metadata operations that all ranks share."""
    served = operations * files.service / files.servers
    return max(served, operations / n_ranks * (files.latency + files.service))


def simulate_assembly(
    n_ranks: int,
    n_images: int,
    packs: float,
    costs: Costs,
    files: FileSystem,
    assembly: Assembly,
) -> dict[str, float]:
    """Return the seconds of each phase in which so many packs become the archive.

    They are ``indexes`` (reading those of the packs), ``books`` (rank 0's time for entries, packs
    and tasks), ``copy``, ``read back`` and ``unlink``.
    """
    from ampmpi.database.workers import Workers

    if not assembly.at_once:
        return {}

    def alone(operations: float) -> float:
        if assembly.by_rank_0:
            return operations * (files.latency + files.service)
        return by_all(operations, n_ranks, files)

    n_bytes = n_images * costs.archive_bytes
    line = n_bytes / files.bandwidth
    nodes = max(1, n_ranks // RANKS_PER_NODE)
    in_memory = 0.0 if assembly.read else min(1.0, nodes * CACHE / n_bytes)
    tasks = packs + n_bytes / Workers(count=n_ranks).share(int(n_bytes))
    return {
        "indexes": alone(packs * READ),
        "books": n_images * costs.entries * costs.entry_books
        + packs * costs.pack_books
        + tasks * (assembly.written + assembly.read_back) * MESSAGE,
        "copy": assembly.written
        * max(
            n_images / n_ranks * costs.assemble,
            (2.0 - in_memory) * line,
            by_all(COPY * tasks, n_ranks, files),
        ),
        "read back": assembly.read_back * max(line, by_all(READ * tasks, n_ranks, files)),
        "unlink": alone(packs * REMOVE),
    }


# ---- what things cost here ----


def best(
    function: Callable[[], object],
    repeats: int = 5,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Return the shortest time of a call, s: the processor's, unless another clock is given."""
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        times.append(clock() - start)
    return min(times)


def children() -> float:
    """Return the processor time of the processes that this one has started, s."""
    times = os.times()
    return times.children_user + times.children_system


def crystals(n_images: int, seed: int = 0, cells: int = 2) -> list:
    """Return crystals of 4 `cells`³ atoms of two elements, no two alike."""
    from ase.build import bulk

    found = []
    for i in range(n_images):
        atoms = bulk("Cu", cubic=True).repeat(cells)
        atoms.symbols[::4] = "Pt"
        atoms.rattle(0.05, seed=seed + i)
        found.append(atoms)
    return found


def measure(folder: Path, cells: int, derivatives: bool) -> Costs:
    """Measure the costs of one image and of one item of bookkeeping."""
    from ase.io import read, write

    from ampmpi import FingerprintDatabase, Gaussian, hash_image
    from ampmpi.database.archive.writer import pack
    from ampmpi.entries.codec import encode
    from ampmpi.fingerprinting.inventory import first_of_each
    from ampmpi.heap import keep_freed_memory
    from ampmpi.keys import member_of
    from ampmpi.parallel.schedule import deal

    keep_freed_memory()  # as a job does
    images = crystals(10, cells=cells)
    descriptor = Gaussian(cutoff=6.5, elements=["Cu", "Pt"]).resolve(["Cu", "Pt"])

    def calculate(atoms: Atoms) -> list[bytes]:
        if derivatives:
            return [encode(entry) for entry in descriptor.calculate(atoms)]
        return [encode(descriptor.fingerprint(atoms))]

    entries = calculate(images[0])
    compute = best(lambda: list(map(calculate, images))) / len(images)
    data = b"".join(entries)
    write(folder / "images.traj", images * 20)
    reading = best(lambda: read(folder / "images.traj", ":")) / (20 * len(images))
    digest = best(lambda: [hash_image(a) for a in images]) / len(images)
    n = 200_000
    digests = np.random.default_rng(0).integers(0, 2**63, (n, 2)).view("S16").ravel()
    usable, stored, guesses = np.ones(n, bool), np.sort(digests), spread(n, 1.0)

    def keep_books() -> None:
        first_of_each(digests, usable)
        member_of(digests, stored)
        deal(guesses, 256)

    book = best(keep_books, 3) / n
    database = FingerprintDatabase.create(folder / "x-fingerprints.ampdb")
    entry = descriptor.fingerprint(images[0])
    keys = [f"{i:032x}" for i in range(2000)]
    for key in keys:
        database.put(key, entry)
    list_one = best(database.digests) / len(keys)
    packed = pack([("0" * 32, data)]).raw
    inflate, copy = np.sum([measure_compress(entry) for entry in entries], axis=0)
    pair = crystals(1, cells=1)[0][:2]
    append, assemble, entry_books, pack_books = measure_packs(
        entries, encode(descriptor.fingerprint(pair))
    )
    program = "import ampmpi.cli.fingerprint, ampmpi.descriptor.gaussian, ase.io, mpi4py"
    command = [sys.executable, "-c", program]
    imports = best(lambda: subprocess.run(command, check=True), 5, children)
    return Costs(
        entries=len(entries),
        compute=compute,
        read=reading,
        digest=digest,
        book=book,
        list_one=list_one,
        imports=imports,
        opens=count_opens(program),
        entry_bytes=len(data),
        deflate=best(lambda: pack([("0" * 32, data)])),
        archive_bytes=len(packed),
        inflate=float(inflate),
        copy=float(copy),
        append=append,
        assemble=assemble,
        entry_books=entry_books,
        pack_books=pack_books,
    )


class Elsewhere(Executor):
    """Workers of a compress, as if they were other ranks: their time is not this process's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def submit(self, function: Callable, task: object) -> Future:
        """Return the result of a task as it comes out of a message."""
        name = getattr(function, "func", function).__name__
        start = time.process_time()
        message = pickle.dumps(function(task))
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        future: Future = Future()
        future.set_result(pickle.loads(message))
        return future


def measure_compress(entry: bytes) -> tuple[float, float]:
    """Return what reading an entry back takes, and what an entry costs rank 0 besides, s."""
    from ampmpi import FingerprintDatabase
    from ampmpi.database.compress import rewrite
    from ampmpi.database.lock import Lock
    from ampmpi.database.workers import Workers

    n = max(5, min(1000, 50_000_000 // len(entry)))
    kind = "fingerprints" if b" fingerprint" in entry[:64] else "fingerprint-primes"
    inflate, copy = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
            path = Path(scratch, f"x-{kind}.ampdb")
            with FingerprintDatabase.create(path) as database:
                for i in range(n):
                    database.put_bytes(f"{i:032x}", entry)
                home = database.make()
            others = Elsewhere()
            start = time.process_time()
            rewrite(home, Lock(home), Workers(others))
            whole = time.process_time() - start
            inflate.append(others.seconds["checksums_of"] / n)
            copy.append((whole - sum(others.seconds.values())) / n)
    return min(inflate), min(copy)


def measure_packs(entries: list[bytes], small: bytes) -> tuple[float, float, float, float]:
    """Return what an image's entries take to be put into packs, and a compress of packs, s.

    That is, for an image, what its rank and what the ranks of the compress take, and what rank 0
    takes besides for an entry and for a pack. The latter two are of `small` entries, as a large
    one costs rank 0 no more.
    """
    append = assemble = 0.0
    for entry in entries:
        n = max(20, min(1000, 50_000_000 // len(entry)))
        runs = [compress_packs(entry, n, 1) for _ in range(3)]
        append += min(putting for putting, _, _ in runs) / n
        assemble += min(others for _, others, _ in runs) / n

    def rank_0(n: int, n_packs: int) -> float:
        return min(compress_packs(small, n, n_packs)[2] for _ in range(3))

    few, many, many_packs = rank_0(2000, 2), rank_0(20_000, 2), rank_0(20_000, 202)
    return append, assemble, max(0.0, many - few) / 18_000, max(0.0, many_packs - many) / 200


def compress_packs(entry: bytes, n: int, n_packs: int) -> tuple[float, float, float]:
    """Write packs of `n` times an entry and compress; return the seconds.

    They are those of the putting, of the compress's workers, and of rank 0 besides.
    """
    from ampmpi import FingerprintDatabase
    from ampmpi.database.compress import rewrite
    from ampmpi.database.lock import Lock
    from ampmpi.database.packs import PackLimits, PackWriter
    from ampmpi.database.workers import Workers

    kind = "fingerprints" if b" fingerprint" in entry[:64] else "fingerprint-primes"
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        with FingerprintDatabase.create(Path(scratch, f"x-{kind}.ampdb")) as database:
            home = database.make()
        putting = 0.0
        for rank in range(n_packs):
            writer = PackWriter(home, rank, PackLimits())
            keys = [f"{i:032x}" for i in range(rank, n, n_packs)]
            start = time.process_time()
            for key in keys:
                writer.put_bytes(key, entry)
            putting += time.process_time() - start
            writer.close()
        others = Elsewhere()
        start = time.process_time()
        rewrite(home, Lock(home), Workers(others))
        whole = time.process_time() - start
    working = sum(others.seconds.values())
    return putting, working, whole - working


def count_opens(program: str) -> int:
    """Return how many names of files a start-up asks for, by strace where it is installed.

    What is asked of a file that is open, and the system's own files, are left out.
    """
    with tempfile.NamedTemporaryFile("r") as trace:
        strace = ["strace", "-f", "-o", trace.name, "-e", "trace=%file"]
        try:
            subprocess.run(
                [*strace, sys.executable, "-c", program], capture_output=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return 6000
        names = re.findall(r'^\d+ +\w+\([^"\n]*"([^"]+)"', trace.read(), re.MULTILINE)
    return sum(not name.startswith(("/proc", "/sys", "/dev")) for name in names)


def measure_files(folder: Path) -> FileSystem:
    """Measure one metadata operation, and the bandwidth of the disk behind its cache."""
    data = b"\0" * 4096
    n, names = 500, itertools.count()

    def put() -> None:
        for _ in range(n):
            with open(folder / "t", "wb") as file:
                file.write(data)
            (folder / "t").rename(folder / f"e{next(names)}")

    operation = best(put, 3, time.perf_counter) / n / PUT
    block = os.urandom(1 << 24)
    n_blocks = 32

    def fill() -> None:
        with open(folder / "big", "wb") as file:
            for _ in range(n_blocks):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())

    bandwidth = n_blocks * len(block) / best(fill, 3, time.perf_counter)
    return FileSystem("this machine's disk", 0.0, operation, os.cpu_count() or 1, bandwidth)


@dataclass(frozen=True)
class Cell:
    """One job of the table.

    Attributes
    ----------
    loose, packs : float
        Seconds from the start to the finished archive, with loose entries and with packs.
    ratio : float
        Of the latter to the limit.
    deflating : float
        The same ratio if deflating counts as computing.
    above : str
        The phase with packs that takes most of the time above the limit.
    """

    loose: float
    packs: float
    ratio: float
    deflating: float
    above: str

    def __str__(self) -> str:
        mark = f" {self.above}" if self.ratio > BOUND else ""
        return f"{self.loose:,.0f} | {self.packs:,.0f} s, {self.ratio:.1f}{mark}"


def cells_of(n_ranks: int, n_images: int, costs: Costs, files: FileSystem) -> dict[str, Cell]:
    """Simulate one job; return a cell for each way to assemble packs, by its name."""
    phases = simulate(n_ranks, n_images, costs, files)
    del phases["again"]
    loose = sum(phases.values())
    least = limit(n_ranks, n_images, costs, files)
    phases, packs = simulate_packs(n_ranks, n_images, costs, files)
    found = {}
    for way in ASSEMBLIES:
        whole = phases | simulate_assembly(n_ranks, n_images, packs, costs, files, way)
        total = sum(whole.values())
        del whole["compute"], whole["start"]
        above = max(whole, key=whole.__getitem__)
        deflating = total / (least + phases["deflate"])
        found[way.name] = Cell(loose, total, total / least, deflating, above)
    return found


def table(cells: dict[tuple[int, int], Cell]) -> str:
    """Return a table of jobs, given by ranks and images."""
    sizes = sorted({n_images for _, n_images in cells})
    lines = ["ranks".rjust(7) + "".join(f"{n:>30,}" for n in sizes)]
    for n_ranks in RANKS:
        row = "".join(f"{cells[n_ranks, n_images]!s:>30}" for n_images in sizes)
        lines.append(f"{n_ranks:7,}{row}")
    return "\n".join(lines)


def verdict(assembly: Assembly, cells: dict[tuple[int, int], Cell]) -> str:
    """Return in a line how many jobs exceed the bound."""
    ratios = [each.ratio for each in cells.values()]
    deflating = [each.deflating for each in cells.values()]
    over = sum(ratio > BOUND for ratio in ratios)
    over_then = sum(ratio > BOUND for ratio in deflating)
    return (
        f"{assembly.name:>9}: {over:2} of {len(ratios)} above {BOUND} times the limit, at most "
        f"{max(ratios):.1f}; {over_then:2} and {max(deflating):.1f} if deflating is computing"
    )


def model(arguments: argparse.Namespace) -> None:
    """Measure, simulate, and print the tables."""
    here = []
    if arguments.costs:
        costs = Costs(**json.loads(Path(arguments.costs).read_text()))
    else:
        with tempfile.TemporaryDirectory(dir=arguments.dir) as scratch:
            costs = measure(Path(scratch), arguments.cells, not arguments.fingerprints_only)
            here = [measure_files(Path(scratch))]
        print(json.dumps(asdict(costs), indent=2))
    systems = [
        *here,
        FileSystem("parallel file system", 5e-4, 1e-4, 4, 20e9),
        FileSystem("NFS", 1e-3, 2e-4, 1, 1e9),
    ]
    jobs = [(n, m) for n in RANKS for m in IMAGES if m <= arguments.max_images]
    found: dict[tuple[str, str], dict[tuple[int, int], Cell]] = {
        (files.name, way.name): {} for files in systems for way in ASSEMBLIES
    }
    for job in jobs:  # the outer loop, since the dealing of a job is kept until the next one
        for files in systems:
            for name, cell in cells_of(*job, costs, files).items():
                found[files.name, name][job] = cell
    print(
        "\nloose | packs, seconds; ratio of the latter to the limit, and what takes most above it"
    )
    for files in systems:
        print(
            f"\n{files.name}: {files.latency * 1e3:.2g} ms per operation, "
            f"{files.servers / files.service:,.0f} operations/s, {files.bandwidth / 1e9:.2g} GB/s"
        )
        print(table(found[files.name, arguments.assembly]))
        for way in ASSEMBLIES:
            print(verdict(way, found[files.name, way.name]))
    print()
    for way in ASSEMBLIES:
        print(f"{way.name:>9}: {way.text}")


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
    kind.add_argument(
        "--cells", type=int, default=2, help="images are of N x N x N cells of 4 atoms"
    )
    kind.add_argument("--fingerprints-only", action="store_true", help="without derivatives")
    kind.add_argument("--costs", metavar="FILE", help="measured costs, as an earlier run printed")
    kind.add_argument(
        "--assembly", default="shared", choices=[way.name for way in ASSEMBLIES],
        help="how packs become the archive",
    )  # fmt: skip
    kind.set_defaults(run=model)
    kind = kinds.add_parser("one", help="what `strong` starts")
    kind.add_argument("label")
    kind.set_defaults(run=one)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
