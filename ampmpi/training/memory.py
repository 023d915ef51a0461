"""How much memory a training takes on a rank, before it takes it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ampmpi.database import FingerprintDatabase
from ampmpi.descriptor import Descriptor
from ampmpi.model.batch import BATCH_ATOMS, BATCH_BYTES
from ampmpi.model.layers import Array
from ampmpi.model.packed import pack
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.kernels import warm_up
from ampmpi.parallel.schedule import block
from ampmpi.training.dataset import Dataset
from ampmpi.training.shares import Source, entries_of, expected_pairs

# Images that each rank describes in order to know how many pairs the others have.
SAMPLE = 8

# What Python, numpy, ASE, numba and MPI take, for a moment and once kernels are loaded, and the
# share of free memory that may be used.
START_BYTES = 220e6
BASE_BYTES = 172e6
USABLE = 0.8

# Bytes that reading an entry takes, times those of its derivatives.
READING = 3.0


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
    if dataset.forces:
        warm_up(comm, "ampmpi.model")
    indices = dataset.indices
    mine = block(len(indices), comm.rank, comm.size)
    picked = np.unique(np.linspace(mine.start, mine.stop - 1, min(SAMPLE, len(mine))).astype(int))
    computing = reading = 0.0
    sizes: list[tuple[float, int, int]] = []
    for key, _, atoms in dataset.read(indices[picked] if dataset.forces else indices[:0]):
        start = time.perf_counter()
        _, primes = descriptor.calculate(atoms)
        computing += time.perf_counter() - start
        sizes.append((expected_pairs(len(atoms)), primes.values.nbytes, pack(primes).nbytes))
        if source is not None and source.primes is not None:
            start = time.perf_counter()
            entries_of(FingerprintDatabase(source.primes), [key])
            reading += time.perf_counter() - start
    parts = comm.allgather((sizes, computing, reading))
    rows = [row for part in parts for row in part[0]]
    computing, reading = np.array([part[1:] for part in parts]).sum(axis=0)
    sizes_of = np.array(rows, dtype=float).reshape(-1, 3)
    need = _peak(dataset, sizes_of, descriptor, group_size) + optimiser_bytes
    allowed = limit if limit is not None else _free_per_rank(comm)
    return MemoryPlan(
        rank_bytes=need,
        limit=allowed,
        resident=need <= allowed or not dataset.forces,
        recompute=None if source is None else bool(computing < reading),
    )


def _peak(dataset: Dataset, sizes: Array, descriptor: Descriptor, group_size: int) -> float:
    """Return the bytes that a rank takes at most, where `group_size` ranks share the images.

    `sizes` of some images are the number of pairs that is expected, and the bytes of their
    derivatives, as they are read and as they are held.
    """
    width = max(descriptor.n_features.values())
    per_atom = (2 + 6 * dataset.stress) * 8 * width + 200
    features = per_atom * float(dataset.n_atoms.sum()) / group_size
    working = 20 * 8 * width * min(BATCH_ATOMS, float(dataset.n_atoms.sum()))
    held = 0.0
    if dataset.forces:
        _, read, packed = sizes.sum(axis=0) / sizes[:, 0].sum()
        pairs = np.array([expected_pairs(int(n)) for n in dataset.n_atoms])
        held = packed * pairs.sum() / group_size
        working = max(working, min(BATCH_BYTES, held) + READING * read * pairs.max())
    return max(START_BYTES, BASE_BYTES + 1.02 * (features + held) + working)


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
