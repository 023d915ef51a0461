"""One rank's work: read an image, compute its entries, put them on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from ampmpi.database import FingerprintDatabase
from ampmpi.entries import Entry
from ampmpi.entries.codec import encode
from ampmpi.errors import ImageError
from ampmpi.fingerprinting.suspects import InFlight
from ampmpi.images import Images, digest_image
from ampmpi.parallel.log import Progress
from ampmpi.parallel.stopping import Stopping

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.descriptor import Gaussian

FINGERPRINTS, PRIMES = 1, 2


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

    def __getitem__(self, chosen: slice) -> Share:
        """Return a part of the share."""
        where = None if self.locators is None else self.locators[chosen]
        return Share(self.indices[chosen], self.keys[chosen], self.what[chosen], where)


@dataclass
class Done:
    """What one rank has done.

    Attributes
    ----------
    images : int
        Images computed.
    failed : dict of int to str
        Images that could not be computed, and why.
    reading, computing, writing : float
        Seconds spent.
    """

    images: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    reading: float = 0.0
    computing: float = 0.0
    writing: float = 0.0


def entries_of(atoms: Atoms, descriptor: Gaussian, what: int) -> Sequence[tuple[int, Entry]]:
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
    descriptor: Gaussian,
    databases: dict[int, FingerprintDatabase],
    marker: InFlight,
    stopping: Stopping,
    progress: Progress,
    done: Done,
    runs: Callable[[str], int | None] = lambda _: 1,
) -> None:
    """Compute a share and write it, until it is done or the job shall stop.

    An image that cannot be used is recorded; the others go on.

    Parameters
    ----------
    share : Share
        What to compute.
    images, descriptor, databases
        From which images, how, and where to.
    marker : InFlight
        Names each image while it is computed.
    stopping : Stopping
        Whether the job shall stop.
    progress, done
        Are told of each image.
    runs : callable
        Says of a key how many runs will have ended on it if this one does; None: another
        job has computed it meanwhile.

    Raises
    ------
    DatabaseError
        An entry cannot be written.
    """
    if stopping.asked():
        return
    before = perf_counter()
    listed = zip(
        share.keys, share.what, images.read_many(share.indices, share.locators), strict=True
    )
    for key, what, (index, image) in listed:
        read = perf_counter()
        done.reading += read - before
        count = runs(key)
        if count is None:
            progress.step()
            continue
        marker.start(key, count)
        try:
            if isinstance(image, ImageError):
                raise image
            if images.has_changed(index) and digest_image(image).hex() != key:
                raise ImageError("its file was changed while the job was running")
            entries = [(kind, encode(entry)) for kind, entry in entries_of(image, descriptor, what)]
        except ImageError as error:
            done.failed[index] = str(error)
        except MemoryError:
            done.failed[index] = "it needs more memory than this rank can have"
        else:
            ready = perf_counter()
            done.computing += ready - read
            for kind, data in entries:
                databases[kind].put_bytes(key, data)
            done.writing += perf_counter() - ready
            done.images += 1
        progress.step()
        if stopping.asked():
            return
        before = perf_counter()
