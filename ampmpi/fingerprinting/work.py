"""One rank's work: read an image, compute its entries, put them on disk; or predict all that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import FingerprintDatabase
from ampmpi.descriptor import Descriptor, has_kernels
from ampmpi.entries import Entry
from ampmpi.entries.codec import encode
from ampmpi.errors import ImageError
from ampmpi.fingerprinting.summary import Plan
from ampmpi.fingerprinting.suspects import InFlight
from ampmpi.images import Images, digest_image
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.kernels import warm_up
from ampmpi.parallel.log import Progress
from ampmpi.parallel.stopping import Stopping

if TYPE_CHECKING:
    from ase import Atoms

FINGERPRINTS, PRIMES = 1, 2

SAMPLES = 20
"""About so many images are computed in a dry run, to learn the size of an entry."""


class Output(Protocol):
    """Where entries go: a database, or the packs of one."""

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write an entry that is encoded already."""


@dataclass(frozen=True)
class Share:
    """What one rank has to compute, in ascending order.

    Attributes
    ----------
    indices : list of int
        The images.
    keys : list of str
        Their hashes.
    what : list of int
        Which entries each lacks: `FINGERPRINTS`, `PRIMES`, or their sum.
    locators : list of int or None
        Where each is in its file.
    """

    indices: list[int]
    keys: list[str]
    what: list[int]
    locators: list[int] | None


@dataclass
class Done:
    """What one rank has done: images computed, which failed and why, and seconds spent.

    `seconds` are those of all ranks together, from the first one's start to the last one's end.
    """

    images: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    reading: float = 0.0
    computing: float = 0.0
    writing: float = 0.0
    seconds: float = 0.0


def make_ready(descriptor: Descriptor, comm: Communicator) -> None:
    """Compile what the descriptor runs, if it runs kernels of ours."""
    if has_kernels(descriptor):
        warm_up(comm, "ampmpi.descriptor")


def entries_of(atoms: Atoms, descriptor: Descriptor, what: int) -> Sequence[tuple[int, Entry]]:
    """Compute what is wanted of one image."""
    if what == FINGERPRINTS:
        return ((FINGERPRINTS, descriptor.fingerprint(atoms)),)
    fingerprint, primes = descriptor.calculate(atoms)
    if what == PRIMES:
        return ((PRIMES, primes),)
    return ((FINGERPRINTS, fingerprint), (PRIMES, primes))


def compute(
    share: Share,
    images: Images,
    descriptor: Descriptor,
    outputs: Mapping[int, Output],
    marker: InFlight,
    stopping: Stopping,
    progress: Progress,
    done: Done,
    runs: Callable[[str], int | None] = lambda _: 1,
) -> None:
    """Compute a share and write it, until it is done or the job shall stop.

    An image that cannot be used is recorded in `done`; the others go on. `runs` says of a
    key how many runs will have ended on it if this one does; None: another job has
    computed it meanwhile. A `DatabaseError` says that an entry cannot be written.
    """
    if stopping.asked():
        return
    before = perf_counter()
    read_images = images.read_many(share.indices, share.locators)
    for key, what, (index, image) in zip(share.keys, share.what, read_images, strict=True):
        read = perf_counter()
        done.reading += read - before
        count = runs(key)
        if count is not None:
            marker.start(key, count)
            try:
                if isinstance(image, ImageError):
                    raise image
                if images.has_changed(index) and digest_image(image).hex() != key:
                    raise ImageError("its file was changed while the job was running")
                # No name for the arrays: the next image's are to get their memory.
                encoded = [
                    (kind, encode(entry)) for kind, entry in entries_of(image, descriptor, what)
                ]
            except ImageError as error:
                done.failed[index] = str(error)
            except MemoryError:
                done.failed[index] = "it needs more memory than this rank can have"
            else:
                ready = perf_counter()
                done.computing += ready - read
                for kind, data in encoded:
                    outputs[kind].put_bytes(key, data)
                done.writing += perf_counter() - ready
                done.images += 1
        progress.step()
        if stopping.asked():
            return
        before = perf_counter()


def predict(
    share: Share,
    images: Images,
    descriptor: Descriptor,
    databases: Mapping[int, FingerprintDatabase],
    comm: Communicator,
) -> tuple[Plan, ...]:
    """Compute a few images of each rank's share, evenly spread, and predict the size of all."""
    make_ready(descriptor, comm)
    kinds = list(databases)
    missing = [sum(bool(what & kind) for what in share.what) for kind in kinds]
    sizes, counts = [0] * len(kinds), [0] * len(kinds)
    some = slice(0, None, -(-len(share.indices) * comm.size // SAMPLES) or 1)
    where = None if share.locators is None else share.locators[some]
    found = images.read_many(share.indices[some], where)
    for what, (_, image) in zip(share.what[some], found, strict=True):
        try:
            entries = () if isinstance(image, ImageError) else entries_of(image, descriptor, what)
        except ImageError:
            continue
        for kind, entry in entries:
            sizes[kinds.index(kind)] += len(encode(entry))
            counts[kinds.index(kind)] += 1
    totals = comm.allreduce(np.array([missing, sizes, counts], dtype=np.float64))
    n_missing, n_bytes, n_sampled = totals
    predicted: NDArray[np.float64] = n_missing * n_bytes / np.maximum(n_sampled, 1)
    return tuple(
        Plan(databases[kind].path, int(n_missing[i]), int(predicted[i]))
        for i, kind in enumerate(kinds)
    )
