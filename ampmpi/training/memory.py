"""How much memory a training takes on a rank, before it takes it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ampmpi.database import FingerprintDatabase
from ampmpi.descriptor import Descriptor
from ampmpi.model.batch import BATCH_ATOMS
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.schedule import block
from ampmpi.training.dataset import Dataset
from ampmpi.training.shares import READ_BYTES, Source, entries_of, expected_pairs

# Images that each rank describes in order to know how many pairs the others have.
SAMPLE = 8

# What Python, numpy, ASE, numba and MPI take, and the share of free memory that may be used.
BASE_BYTES = 300e6
USABLE = 0.8


@dataclass(frozen=True)
class MemoryPlan:
    """What a training will take.

    Where the arrays are not held in memory, `recompute` says whether to compute derivatives
    anew in each pass, because that was measured to be faster than to read them; None: reading
    was not measured.
    """

    rank_bytes: float  # expected peak of a rank that holds its share
    limit: float  # bytes that a rank may take
    resident: bool  # whether the arrays are held in memory
    recompute: bool | None

    def line(self) -> str:
        """Return the plan in words."""
        need = f"{self.rank_bytes / 1e9:.2f} GB per rank, {self.limit / 1e9:.2f} GB free for each"
        if self.resident:
            return f"Memory: {need}"
        way = {
            None: "read from the database or computed anew, whichever proves faster,",
            False: "read from the database",
            True: "computed anew",
        }[self.recompute]
        return f"Memory: {need}; the derivatives do not fit and are {way} in every pass"


def plan_memory(
    comm: Communicator,
    group_size: int,
    dataset: Dataset,
    descriptor: Descriptor,
    source: Source | None,
    limit: float | None = None,
    optimiser_bytes: float = 0.0,
) -> MemoryPlan:
    """Predict what a rank takes where `group_size` ranks share the images.

    Where forces are trained, some of the images are described to know how many pairs there are.
    Reading the entries of `source` is timed, if they are there already. `limit` is how many
    bytes a rank may take; what the node has left by default. `optimiser_bytes` are taken beside
    the images.
    """
    indices = dataset.indices
    mine = block(len(indices), comm.rank, comm.size)
    picked = np.unique(np.linspace(mine.start, mine.stop - 1, min(SAMPLE, len(mine))).astype(int))
    computing = reading = 0.0
    pairs: list[tuple[float, int]] = []
    for key, _, atoms in dataset.read(indices[picked] if dataset.forces else indices[:0]):
        start = time.perf_counter()
        _, primes = descriptor.calculate(atoms)
        computing += time.perf_counter() - start
        pairs.append((expected_pairs(len(atoms)), len(primes.pairs)))
        if source is not None and source.primes is not None:
            start = time.perf_counter()
            entries_of(FingerprintDatabase(source.primes), [key])
            reading += time.perf_counter() - start
    parts = comm.allgather((pairs, computing, reading))
    rows = [row for part in parts for row in part[0]]
    expected, found = np.array(rows, dtype=float).reshape(-1, 2).sum(axis=0)
    computing, reading = np.array([part[1:] for part in parts]).sum(axis=0)
    ratio = found / max(expected, 1.0)
    width = max(descriptor.n_features.values())
    atoms_total = float(dataset.n_atoms.sum())
    pairs_total = ratio * float(sum(expected_pairs(int(n)) for n in dataset.n_atoms))
    need = 2 * 8 * width * atoms_total + 200 * atoms_total
    if dataset.forces:
        need += pairs_total * (3 * width + 1) * 8
    if dataset.stress:
        need += 6 * 8 * width * atoms_total
    need = (
        BASE_BYTES
        + optimiser_bytes
        + need / group_size * 1.05
        + 2 * READ_BYTES
        + 20 * 8 * width * BATCH_ATOMS
    )
    allowed = limit if limit is not None else _free_per_rank(comm)
    return MemoryPlan(
        rank_bytes=need,
        limit=allowed,
        resident=need <= allowed or not dataset.forces,
        recompute=None if source is None else bool(computing < reading),
    )


def _free_per_rank(comm: Communicator) -> float:
    """Return the bytes that a rank may take, the fewest of all nodes."""
    node = comm.split_nodes()
    return min(comm.allgather(USABLE * available_memory() / node.size + BASE_BYTES))


def available_memory() -> float:
    """Return the bytes that are free on this node, or in this job's control group."""
    free = np.inf
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit() and used[0].isdigit():
        free = min(free, float(limit[0]) - float(used[0]))
    return max(free, 0.0)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
