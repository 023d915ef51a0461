"""The steps of the job, and who takes part in each."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import FingerprintDatabase
from ampmpi.database.layout import TEMPORARIES, Home, check_place
from ampmpi.database.packs import (
    SECONDS,
    SIZE,
    PackLimits,
    PackWriter,
    has_ended,
    open_packs,
    salvage,
    unfinished,
)
from ampmpi.errors import InputError, UnusableImagesError
from ampmpi.files.folder import Folder
from ampmpi.fingerprinting.adopt import resolve, settle_owner
from ampmpi.fingerprinting.finalize import compress_all
from ampmpi.fingerprinting.inventory import Inventory, take_inventory
from ampmpi.fingerprinting.missing import deal_images, find_misses
from ampmpi.fingerprinting.summary import FailedImage, Plan, Summary
from ampmpi.fingerprinting.suspects import InFlight, forget, read_suspects
from ampmpi.fingerprinting.work import FINGERPRINTS, PRIMES, Done, Share, compute, predict
from ampmpi.heap import keep_freed_memory
from ampmpi.images.imageset import as_read
from ampmpi.keys import digests_of, member_of
from ampmpi.parallel import launch
from ampmpi.parallel.comm import Communicator, as_communicator
from ampmpi.parallel.failure import abort_on_error, agree, install_excepthook, on_all, share
from ampmpi.parallel.kernels import warm_up
from ampmpi.parallel.log import Log, in_notebook
from ampmpi.parallel.stopping import Stopping
from ampmpi.text import amount

if TYPE_CHECKING:
    from ampmpi.descriptor import Gaussian


@dataclass(frozen=True)
class Options:
    """What the job is told; see `fingerprint`."""

    prefix: str
    derivatives: bool = False
    compress: bool = True
    dry_run: bool = False
    adopt: bool = False
    verify: bool = False
    retry: bool = False
    packs: PackLimits | None = None


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
    packs: bool = False,
    pack_size: float = SIZE,
    pack_seconds: float = SECONDS,
    units: str | None = None,
    format: str | None = None,
    log: Log | None = None,
) -> Summary:
    """Compute the fingerprints of images that are not in the database yet.

    Every rank of `comm` calls this with the same arguments. An image that cannot
    be used is recorded in the summary, and all others are done. A database in which
    nothing is missing is not written to.

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
        Put loose entries and packs into the archive at the end, unless a `dblabel` is given.
    dry_run : bool
        Only say what would be computed; nothing is written.
    adopt : bool
        Use a database of which nothing says whose descriptor it is without
        comparing its entries.
    verify : bool
        Read back archived entries, too, and compute damaged ones again.
    retry : bool
        Try again images that were set aside because ranks crashed on them.
    packs : bool
        Let each rank append its entries to files of its own, instead of writing one file
        an entry. Real Amp sees such entries once they are compressed.
    pack_size, pack_seconds : float
        End a pack, so that other jobs see what is in it, once it has as many megabytes or
        is as old; 256 and 300.
    units : str, optional
        What the numbers in files of images are, such as ``eV,Å`` or ``atomic``; ASE's units by
        default.
    format : str, optional
        ASE's name of their format, where ASE cannot guess it.
    log : Log, optional
        Where to report progress; silent by default.

    Returns
    -------
    Summary
        The same on every rank.

    Raises
    ------
    InputError
        There are no images, a setting is wrong, or the ranks were given different ones.
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
    log = Log(ranks.rank, quiet=not in_notebook()) if log is None else log
    if descriptor is None:
        from ampmpi.descriptor import Gaussian

        descriptor = Gaussian()
    if not hasattr(descriptor, "predict_cost"):
        raise share(InputError(f"the descriptor is {descriptor!r}; give a Gaussian(...)"))
    try:
        limits = PackLimits.of(pack_size, pack_seconds) if packs else None
    except InputError as error:
        raise share(error) from None
    options = Options(
        os.fspath(label if dblabel is None else dblabel),
        derivatives,
        compress and dblabel is None and not dry_run,
        dry_run,
        adopt,
        verify,
        retry,
        limits,
    )
    started = perf_counter()
    with abort_on_error(ranks):
        named = {**asdict(options), "units": units, "format": format}
        require_same(ranks, {"label or dblabel": named.pop("prefix"), **named})
        files = on_all(ranks, lambda: as_read(images, units, format))
        return _Job(ranks, log, options).run(files, descriptor, started)


def require_same(comm: Communicator, options: Mapping[str, Any]) -> None:
    """Check that all ranks were given the same options; else they would wait for each other."""
    for other in comm.allgather(dict(options)):
        for name, value in options.items():
            if other[name] != value:
                pair = sorted((str(value), str(other[name])))
                raise share(
                    InputError(
                        f"the ranks were given different values of {name}: {pair[0]} and "
                        f"{pair[1]}: give all the same"
                    )
                )


class _Job:
    """One run; its steps share the ranks, the databases and the notes."""

    def __init__(self, comm: Communicator, log: Log, options: Options) -> None:
        self.comm, self.log, self.options = comm, log, options
        self.stopping = Stopping(comm)
        self.databases: dict[int, FingerprintDatabase] = {}
        self.notes: list[str] = []

    def run(self, images: Any, descriptor: Gaussian, started: float) -> Summary:
        """Do everything."""
        keep_freed_memory()
        self.open_databases()
        inventory = take_inventory(images, descriptor, self.comm, self.stopping)
        try:
            if not inventory.symbols and descriptor.elements is None:
                agree(self.comm, partial(refuse_useless, inventory))
            self.log(f"{len(inventory.images)} images of {', '.join(inventory.symbols)} read")
            resolved = agree(
                self.comm,
                partial(resolve, descriptor, inventory.symbols, self.databases[FINGERPRINTS]),
            )
            summary = self.work(inventory, resolved)
        finally:
            inventory.images.close()
        if self.options.compress:
            self.finalize()
        notes = tuple(dict.fromkeys(self.notes))
        return replace(summary, seconds=perf_counter() - started, notes=notes)

    def open_databases(self) -> None:
        """Open the databases of the job, which need not exist yet.

        Where they could not be made it is said now, not after all images are read.
        """
        prefix, rank = self.options.prefix, self.comm.rank
        names = {FINGERPRINTS: f"{prefix}-fingerprints.ampdb"}
        if self.options.derivatives:
            names[PRIMES] = f"{prefix}-fingerprint-primes.ampdb"

        def check_places() -> None:
            for name in names.values():
                if Home.find(name) is None and not self.options.dry_run:
                    check_place(name)

        agree(self.comm, check_places)
        self.databases = on_all(
            self.comm,
            lambda: {kind: FingerprintDatabase(name, rank) for kind, name in names.items()},
        )

    def work(self, inventory: Inventory, descriptor: Gaussian) -> Summary:
        """Do what is missing."""
        comm, options = self.comm, self.options
        if not options.dry_run:
            self.salvage(self.unclaimed())  # to have something to compare
        self.notes += settle_owner(
            self.databases, inventory, descriptor, comm,
            adopt=options.adopt, dry_run=options.dry_run or not inventory.symbols,
        )  # fmt: skip
        what, damaged = find_misses(inventory.digests, self.databases, comm, options.verify)
        is_lacking = comm.bcast(bool(what.any()))
        suspects: dict[str, int] = {}
        if is_lacking and not options.dry_run:
            self.hold_databases()
            if self.salvage(self.databases):
                what, damaged = find_misses(inventory.digests, self.databases, comm, options.verify)
                is_lacking = comm.bcast(bool(what.any()))
            suspects = agree(comm, partial(self.suspects, inventory.digests))
        shares, aside = deal_images(inventory, what, suspects, comm)
        done, plan = Done(), tuple[Plan, ...]()
        if options.dry_run:
            plan = predict(shares[0], inventory.images, descriptor, self.databases, comm)
        elif is_lacking:
            if len(suspects) > len(aside):
                self.log(
                    f"{len(suspects) - len(aside)} images that earlier runs, or other jobs now, "
                    "are at are computed last"
                )
            done = self.compute(shares, inventory, descriptor)
            if suspects:
                agree(comm, partial(self.forget, suspects))
        return self.summarize(inventory, what, damaged, aside, done, plan)

    def hold_databases(self) -> None:
        """Make the databases that do not exist; from here on every rank holds the same ones.

        A rank to which another directory shows itself by the name raises an error.
        """

        def make() -> dict[int, Home]:
            homes = {kind: database.make() for kind, database in self.databases.items()}
            for home in homes.values():
                home.complete()
            return homes

        for kind, home in agree(self.comm, make).items():
            self.databases[kind].hold(home)

    def unclaimed(self) -> list[int]:
        """Databases that do not say whose they are, but may hold something."""

        def look() -> list[int]:
            return [
                kind
                for kind, database in self.databases.items()
                if database.home is not None and database.manifest() is None
            ]

        return agree(self.comm, look)

    def salvage(self, kinds: Iterable[int]) -> int:
        """Save what killed ranks left in unfinished packs; return how many entries there were."""
        comm, saved = self.comm, 0
        for database in map(self.databases.__getitem__, kinds):
            home = database.make()
            names = self.left_packs(home)[comm.rank :: comm.size]
            mine = on_all(comm, lambda: [salvage(home, name) for name in names])  # noqa: B023
            done = [each for part in comm.allgather(mine) for each in part]
            of_all = sum(count for count, _ in done)
            self.notes += (f"{home.path}: {trouble}" for _, trouble in done if trouble)
            if of_all:
                self.notes.append(
                    f"{database.path}: {amount(of_all, 'entry', 'entries')} saved from packs that "
                    "killed ranks had left unfinished"
                )
                database.close()
            saved += of_all
        return saved

    def left_packs(self, home: Home) -> list[str]:
        """Names of unfinished packs; only on its own host can it be known that a writer is gone."""
        comm = self.comm

        def look() -> tuple[list[str], list[str]]:
            there = open_packs(home)
            return there, unfinished(home, there)

        there, left = agree(comm, look)
        if not there:
            return []
        ended = comm.allreduce(np.array([has_ended(name) for name in there], dtype=np.float64))
        return sorted({*left, *itertools.compress(there, ended)})

    @property
    def markers(self) -> Folder:
        """Where ranks say what they compute.

        With derivatives that is another folder than without: an image that takes
        too much memory with them may do without.
        """
        return self.databases[max(self.databases)].make().needed(TEMPORARIES)

    def suspects(self, digests: NDArray[np.bytes_]) -> dict[str, int]:
        """Return those of the job's images that left-over files name, on rank 0."""
        found = read_suspects(self.markers)
        keys = sorted(found)
        there = member_of(digests_of(keys), np.sort(digests))
        mine = {key: found[key] for key in itertools.compress(keys, there)}
        if self.options.retry:
            forget(self.markers, mine)
            return {}
        return mine

    def forget(self, suspects: Mapping[str, int]) -> None:
        """Remove the files of suspects that are in all the job's databases by now."""
        keys = set(suspects)
        for database in self.databases.values():
            keys -= database.missing(keys)
            database.close()  # the archive's index takes memory
        forget(self.markers, keys)

    def compute(self, shares: list[Share], inventory: Inventory, descriptor: Gaussian) -> Done:
        """Compute every rank's shares; return what this rank did."""
        comm = self.comm
        warm_up(comm, "ampmpi.descriptor")
        comm.barrier()
        started = perf_counter()
        done = Done()
        marker = on_all(comm, lambda: InFlight(self.markers, comm.rank))
        limits = self.options.packs
        packs = (
            {}
            if limits is None
            else {
                kind: PackWriter(database.make(), comm.rank, limits)
                for kind, database in self.databases.items()
            }
        )
        what = "computing" if comm.size == 1 else f"computing, rank 0 of {comm.size}"

        def runs(key: str) -> int | None:
            """Look once more whether others are at a suspect, or have done it."""
            if all(key in database for database in self.databases.values()):
                return None
            return read_suspects(self.markers, but=marker.name).get(key, 0) + 1

        with contextlib.ExitStack() as at_end:
            at_end.callback(marker.end)
            for writer in packs.values():
                at_end.callback(writer.close)
            first, suspects = shares
            total = len(first.indices) + len(suspects.indices)
            with self.log.progress(total, what) as progress:
                at_work = partial(
                    compute,
                    images=inventory.images,
                    descriptor=descriptor,
                    outputs=packs or self.databases,
                    marker=marker,
                    stopping=self.stopping,
                    progress=progress,
                    done=done,
                )
                at_work(first)
                at_work(suspects, runs=runs)
        comm.rest()
        done.seconds = perf_counter() - started
        self.stopping.raise_if_asked("computing")
        return done

    def summarize(
        self,
        inventory: Inventory,
        what: NDArray[np.uint8],
        damaged: dict[str, str],
        aside: dict[int, str],
        done: Done,
        plan: tuple[Plan, ...],
    ) -> Summary:
        """Bring together on every rank what all of them did."""
        comm, images = self.comm, inventory.images
        everyone = comm.gather(done)

        def describe() -> Summary:
            assert everyone is not None
            failed = {**inventory.failed, **aside}
            for one in everyone:
                failed |= one.failed
            times = zip(inventory.repeated.tolist(), inventory.times.tolist(), strict=True)
            return Summary(
                images=len(images),
                duplicates=len(images) - len(inventory.failed) - len(inventory.numbers),
                repeated=tuple((images.ref(index), count) for index, count in times),
                found=int(np.count_nonzero(what == 0)),
                computed=sum(one.images for one in everyone),
                failed=tuple(
                    FailedImage(images.ref(index), failed[index]) for index in sorted(failed)
                ),
                recomputed=damaged,
                databases=tuple(database.path for database in self.databases.values()),
                ranks=comm.size,
                compute_seconds=done.seconds,
                split={
                    name: sum(getattr(one, name) for one in everyone) / comm.size
                    for name in ("reading", "computing", "writing")
                },
                plan=plan,
                packs=self.options.packs,
            )

        return agree(comm, describe)

    def finalize(self) -> None:
        """Put loose entries and packs into the archives."""
        self.stopping.raise_if_asked("compressing")
        for report in compress_all(self.databases.values(), self.comm):
            if report.added:
                self.log(f"{report.path}: {report.added} entries archived, {report.seconds:.1f} s")
            self.notes += report.remarks()


def refuse_useless(inventory: Inventory) -> None:
    """Raise the first image's error: no image says of which elements the descriptor is."""
    first = min(inventory.failed)
    raise UnusableImagesError(
        f"none of the images can be used, the first: {inventory.images.ref(first)}: "
        f"{inventory.failed[first]}"
    )
