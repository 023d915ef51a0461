"""The steps of the job, and who takes part in each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import FingerprintDatabase
from ampmpi.errors import ImageError, InputError, LockedError
from ampmpi.fingerprinting.adoption import settle_owner
from ampmpi.fingerprinting.compute import FINGERPRINTS, PRIMES, Done, Share, compute
from ampmpi.fingerprinting.dead import find_dead
from ampmpi.fingerprinting.dealing import deal_images
from ampmpi.fingerprinting.finalize import compress_together
from ampmpi.fingerprinting.inflight import (
    InFlight,
    Job,
    collect_crashes,
    forget,
    read_markers,
)
from ampmpi.fingerprinting.inventory import Inventory, take_inventory
from ampmpi.fingerprinting.misses import Misses, find_misses
from ampmpi.fingerprinting.planning import predict
from ampmpi.fingerprinting.summary import FailedImage, Plan, Summary
from ampmpi.heap import keep_freed_memory
from ampmpi.keys import digests_of, member_of
from ampmpi.parallel import launch
from ampmpi.parallel.comm import Communicator, as_communicator
from ampmpi.parallel.failure import (
    abort_on_error,
    agree,
    agree_alone,
    install_excepthook,
    share,
)
from ampmpi.parallel.kernels import warm_up
from ampmpi.parallel.log import Log
from ampmpi.parallel.stopping import Stopping

if TYPE_CHECKING:
    from ampmpi.descriptor import Gaussian


@dataclass(frozen=True)
class Options:
    """What the job may do besides; see `fingerprint`."""

    dry_run: bool = False
    adopt: bool = False
    verify: bool = False
    retry: bool = False


def fingerprint(
    images: Any,
    descriptor: Gaussian | None = None,
    *,
    label: str | os.PathLike[str],
    dblabel: str | os.PathLike[str] | None = None,
    derivatives: bool = False,
    comm: Any = None,
    compress: bool = True,
    dry_run: bool = False,
    adopt: bool = False,
    verify: bool = False,
    retry: bool = False,
    log: Log | None = None,
) -> Summary:
    """Compute the fingerprints of images that are not in the database yet.

    Every rank of `comm` calls this with the same arguments. An image that cannot
    be used is recorded in the summary, and all others are done.

    Parameters
    ----------
    images : file name, Atoms, mapping of hash to Atoms, or sequence of file names or of Atoms
        The images; file names may be patterns and may end in ``@frames``.
    descriptor : Gaussian, optional
        Amp's default settings when left out.
    label : path
        Prefix of the databases: ``label-fingerprints.ampdb`` and
        ``label-fingerprint-primes.ampdb``.
    dblabel : path, optional
        Prefix of databases that several jobs share; taken instead of `label`,
        and not compressed at the end.
    derivatives : bool
        Compute the fingerprint primes, too.
    comm : mpi4py communicator, Communicator or None
        The ranks; all of them by default.
    compress : bool
        Put loose entries into the archive at the end, unless a `dblabel` is given.
    dry_run : bool
        Only say what would be computed; nothing is written.
    adopt : bool
        Use a database of which nothing says whose descriptor it is without
        comparing its entries.
    verify : bool
        Read back archived entries, too, and compute damaged ones again.
    retry : bool
        Try again images that were set aside because ranks crashed on them.
    log : Log, optional
        Where to report progress; silent by default.

    Returns
    -------
    Summary
        The same on every rank.

    Raises
    ------
    InputError
        There are no images, or a setting is wrong.
    ImageFileError
        A file is missing or cannot be read.
    DatabaseError
        A database cannot be used.
    DescriptorMismatchError
        A database holds the fingerprints of another descriptor.
    Unfinished
        A signal asked the job to stop; start it again to go on.
    """
    launch.prepare()
    ranks = as_communicator(comm)
    install_excepthook(ranks)
    log = Log(ranks.rank, quiet=True) if log is None else log
    if descriptor is not None and not hasattr(descriptor, "predict_cost"):
        raise share(InputError(f"the descriptor is {descriptor!r}; give a Gaussian(...)"))
    prefix = os.fspath(label if dblabel is None else dblabel)
    started = perf_counter()
    with abort_on_error(ranks):
        job = _Job(ranks, log, Options(dry_run, adopt, verify, retry))
        summary = job.run(images, descriptor, prefix, derivatives)
        if compress and dblabel is None and not dry_run:
            job.finalize()
        return job.finish(summary, perf_counter() - started)


def default_descriptor() -> Gaussian:
    """Return Amp's default descriptor."""
    from ampmpi.descriptor import Gaussian

    return Gaussian()


def among(keys: Iterable[str], digests: NDArray[np.bytes_]) -> set[str]:
    """Return which keys are among digests, which are in ascending order."""
    listed = sorted(keys)
    there = member_of(digests_of(listed), digests)
    return {key for key, found in zip(listed, there.tolist(), strict=True) if found}


class _Job:
    """One run; its steps share the ranks, the databases and the notes."""

    def __init__(self, comm: Communicator, log: Log, options: Options) -> None:
        self.comm, self.log, self.options = comm, log, options
        self.stopping = Stopping(comm)
        self.databases: dict[int, FingerprintDatabase] = {}
        self.notes: list[str] = []
        self.identity = comm.bcast(Job.new())

    def run(
        self, images: Any, descriptor: Gaussian | None, prefix: str, derivatives: bool
    ) -> Summary:
        """Do everything up to the last entry."""
        keep_freed_memory()
        given = descriptor or default_descriptor()
        self.open_databases(prefix, derivatives)
        inventory = take_inventory(images, given, self.comm, self.stopping)
        if not inventory.symbols and given.elements is None:
            agree(self.comm, partial(refuse_useless, inventory))
        self.log(f"{len(inventory.images)} images of {', '.join(inventory.symbols)} read")
        descriptor = agree(self.comm, lambda: self.resolve(given, inventory.symbols))
        if not self.options.dry_run:
            self.make_databases()
        try:
            return self.work(inventory, descriptor)
        finally:
            inventory.images.close()

    def work(self, inventory: Inventory, descriptor: Gaussian) -> Summary:
        """Do what is missing."""
        self.notes += settle_owner(
            self.databases, inventory, descriptor, self.comm,
            adopt=self.options.adopt, dry_run=self.options.dry_run,
        )  # fmt: skip
        misses = find_misses(inventory.digests, self.databases, self.comm, self.options.verify)
        crashes = self.crashes(inventory.digests)
        shares, aside = deal_images(inventory, misses.what, crashes, self.comm)
        done, seconds = Done(), 0.0
        plan: tuple[Plan, ...] = ()
        if self.options.dry_run:
            plan = predict(shares[0], inventory.images, descriptor, self.databases, self.comm)
        elif self.comm.bcast(bool(misses.what.any())):
            done, seconds = self.compute(shares, inventory, descriptor)
        if crashes:
            forget(self.markers, self.done_of(crashes))
        return self.summarize(inventory, misses, aside, done, seconds, plan)

    def open_databases(self, prefix: str, derivatives: bool) -> None:
        """Open the databases of the job, which need not exist yet.

        Where they could not be written it is said now, not after all images are read.
        """
        names = {FINGERPRINTS: f"{prefix}-fingerprints.ampdb"}
        if derivatives:
            names[PRIMES] = f"{prefix}-fingerprint-primes.ampdb"
        rank = self.comm.rank

        def open_all() -> dict[int, FingerprintDatabase]:
            return {kind: FingerprintDatabase(name, rank) for kind, name in names.items()}

        def try_all() -> None:
            for database in open_all().values():
                if not self.options.dry_run:
                    database.layout.probe()

        agree_alone(self.comm, try_all)
        self.databases = open_all()

    def make_databases(self) -> None:
        """Make the databases that do not exist, and see that they can be written to."""

        def make() -> None:
            for database in self.databases.values():
                database.layout.create()
                InFlight(database.layout.temporaries, self.comm.rank, self.identity).end()

        agree(self.comm, make)

    def resolve(self, descriptor: Gaussian, symbols: tuple[str, ...]) -> Gaussian:
        """Fill in elements and functions that were left out.

        They are those of the images, or of the database, where it was made with
        the same settings for more elements.
        """
        resolved = descriptor.resolve(symbols)
        manifest = self.databases[FINGERPRINTS].manifest()
        if resolved is descriptor or manifest is None or manifest.digest == resolved.digest:
            return resolved
        elements = manifest.parameters.get("elements") or ()
        if set(symbols) < set(elements):
            other = descriptor.resolve(elements)
            if other.digest == manifest.digest:
                return other
        return resolved

    @property
    def markers(self) -> str:
        """Where ranks say what they compute.

        With derivatives that is another folder than without: an image that takes
        too much memory with them may do without.
        """
        return self.databases[max(self.databases)].layout.temporaries

    def crashes(self, digests: NDArray[np.bytes_]) -> Counter[str]:
        """Return on rank 0 how often a rank died on each image that was not done since."""
        if self.options.dry_run:
            return Counter()
        markers = agree(self.comm, lambda: read_markers(self.markers))
        dead = find_dead(self.markers, markers, self.identity, self.comm)
        if self.comm.rank != 0:
            return Counter()
        found = collect_crashes(self.markers, dead)
        if self.options.retry and found:
            again = among(found, np.sort(digests))
            forget(self.markers, again)
            found = Counter({key: n for key, n in found.items() if key not in again})
        return found

    def done_of(self, crashes: Counter[str]) -> set[str]:
        """Return which of the images on which ranks died are in all the job's databases.

        The other ones may be those of another job.
        """
        keys = set(crashes)
        for database in self.databases.values():
            keys = among(keys, database.digests())
            database.close()  # the archive's index takes memory
        return keys

    def compute(
        self, shares: list[Share], inventory: Inventory, descriptor: Gaussian
    ) -> tuple[Done, float]:
        """Compute every rank's shares; return what this rank did and how long all took."""
        comm = self.comm
        warm_up(comm, "ampmpi.descriptor")
        comm.barrier()
        started = perf_counter()
        done = Done()
        marker = InFlight(self.markers, comm.rank, self.identity)
        what = "computing" if comm.size == 1 else f"computing, rank 0 of {comm.size}"
        try:
            with self.log.progress(sum(len(share.indices) for share in shares), what) as progress:
                for share in shares:
                    compute(share, inventory.images, descriptor, self.databases, marker,
                            self.stopping, progress, done)  # fmt: skip
        finally:
            marker.end()
        comm.rest()
        seconds = perf_counter() - started
        self.stopping.raise_if_asked("computing")
        return done, seconds

    def summarize(
        self,
        inventory: Inventory,
        misses: Misses,
        aside: dict[int, str],
        done: Done,
        seconds: float,
        plan: tuple[Plan, ...],
    ) -> Summary:
        """Bring together on every rank what all of them did."""
        comm, images = self.comm, inventory.images
        everyone = comm.gather(done)

        def describe() -> Summary:
            assert everyone is not None
            failed = {**inventory.failed, **aside}
            for one in everyone:
                failed.update(one.failed)
            busy = [one.busy for one in everyone]
            n_unusable = len(inventory.failed)
            return Summary(
                images=len(images),
                duplicates=len(images) - n_unusable - len(inventory.numbers),
                repeated=tuple(
                    (images.ref(index), count)
                    for index, count in zip(
                        inventory.repeated.tolist(), inventory.times.tolist(), strict=True
                    )
                ),
                found=int(np.count_nonzero(misses.what == 0)),
                computed=sum(one.images for one in everyone),
                failed=tuple(
                    FailedImage(images.ref(index), failed[index]) for index in sorted(failed)
                ),
                recomputed=misses.damaged,
                databases=tuple(database.path for database in self.databases.values()),
                ranks=comm.size,
                compute_seconds=seconds,
                split={
                    "reading": sum(one.reading for one in everyone) / comm.size,
                    "computing": sum(one.computing for one in everyone) / comm.size,
                    "writing": sum(one.writing for one in everyone) / comm.size,
                },
                slowest=max(busy) * comm.size / max(sum(busy), 1e-9) if any(busy) else 1.0,
                plan=plan,
            )

        return agree(comm, describe)

    def finalize(self) -> None:
        """Put all loose entries into the archives."""
        for database in self.databases.values():
            self.stopping.raise_if_asked("compressing")
            try:
                report = compress_together(database, self.comm)
            except LockedError:
                self.notes.append(
                    f"{database.path}: the entries stay loose, as another process compresses it; "
                    "amp-compress or the next job archives them"
                )
                continue
            if report.added:
                self.log(f"{report.path}: {report.added} entries archived, {report.seconds:.1f} s")
            self.notes += report.remarks()

    def finish(self, summary: Summary, seconds: float) -> Summary:
        """Complete the summary."""
        notes = tuple(dict.fromkeys(self.notes))
        return replace(summary, seconds=seconds, notes=notes)


def refuse_useless(inventory: Inventory) -> None:
    """Raise the first image's error: no image says of which elements the descriptor is."""
    first = min(inventory.failed)
    raise ImageError(
        f"none of the images can be used, the first: {inventory.images.ref(first)}: "
        f"{inventory.failed[first]}"
    )
