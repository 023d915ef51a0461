"""Moving loose entries and packs into the archive, so that at no moment one is lost.

The order is what makes it safe: the new archive is written beside the old one,
is on the disk, and was read back whole, before it takes the old one's place;
loose files and packs go only after that, and only those that are still what was read.

Loose entries are deflated; records of packs and of the old archive are copied as they
are, each piece by whoever has a hand free, to where room was left for it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ampmpi.database.archive.index import read_index
from ampmpi.database.archive.writer import ArchiveWriter
from ampmpi.database.layout import ARCHIVE, LOOSE, PACKS, TEMPORARIES, Home
from ampmpi.database.lock import Lock
from ampmpi.database.loose import digests
from ampmpi.database.loose import remove as remove_loose
from ampmpi.database.packs import pack_names, salvage, unfinished
from ampmpi.database.sound import (
    ArchiveChangedError,
    ArchivedEntries,
    BadRecordsError,
    Copying,
    LooseEntries,
    NotTogetherError,
    PackedEntries,
    Place,
    Source,
    checksums_of,
    copy_records,
    remove_packs,
    remove_taken,
)
from ampmpi.database.workers import Workers, forked
from ampmpi.errors import AmpmpiError, DatabaseError
from ampmpi.files.atomic import (
    Temporary,
    is_abandoned,
    is_replaced,
    is_young,
    keep_copy,
    purpose_of,
    set_aside,
    sweep,
    temporaries,
)
from ampmpi.files.folder import Stamp
from ampmpi.files.trouble import database_error, is_damage, reason_of
from ampmpi.heap import keep_freed_memory
from ampmpi.keys import digests_of, is_key, member_of, to_hex, union
from ampmpi.text import amount

Progress = Callable[[int, int], None]

KEPT = frozenset({"archive", "pack", "suspect"})
"""Purposes of temporaries that are not swept: what is in them may still be needed."""

_ATTEMPTS = 5
_SHOWN = 10
_LOCK_GONE = "somebody took the lock away meanwhile"


@dataclass
class CompressReport:
    """What a compress did.

    Attributes
    ----------
    path : str
        The database.
    added : int
        Number of entries that went into the archive.
    packs, packs_left : int
        Number of packs that did, and of those that are still in ``packs/`` too.
    salvaged : int
        Number of entries that were saved from packs whose writers were killed.
    given : dict of str to int
        How many entries further sources gave (see `Rewriting.more`), by their database's path.
    removed : int
        Number of deleted entries that were taken out of the archive.
    entries : int
        Number of entries in the archive now.
    bytes_before, bytes_after : int
        Size of the archive, the packs and the loose files.
    files_freed : int
        How many fewer files there are.
    set_aside, packs_aside : dict of str to str
        Damaged loose entries, and packs, that were moved to ``damaged/``, and why.
    left : dict of str to str
        Loose entries that stay loose for now, and why.
    stuck : dict of str to str
        Loose entries that cannot be read, or are damaged and cannot be set aside, and why.
    lost : dict of str to str
        Entries of a damaged archive or pack that could not be saved, and why.
    copy : str or None
        Where the damaged archive is kept.
    warnings : list of str
        What else the user should know.
    seconds : float
        How long it took.
    """

    path: str
    added: int = 0
    packs: int = 0
    packs_left: int = 0
    salvaged: int = 0
    given: dict[str, int] = field(default_factory=dict)
    removed: int = 0
    entries: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    files_freed: int = 0
    set_aside: dict[str, str] = field(default_factory=dict)
    packs_aside: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    stuck: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    copy: str | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """As of a check: 4 if damage is left, 5 if it is set aside, else 0."""
        if self.stuck:
            return DatabaseError.exit_code
        return 5 if self.lost or self.set_aside or self.packs_aside or self.copy else 0

    def remarks(self) -> list[str]:
        """Return what the user should know, a sentence each; many of a kind are summed up."""
        lines = [
            *_several("loose entry {} is damaged ({}): moved to damaged/", self.set_aside),
            *_several(
                "{} stays where it is: {}",
                {
                    f"loose entry {name}" if is_key(name) else name: reason
                    for name, reason in (self.left | self.stuck).items()
                },
            ),
            *_several(
                "pack {} is damaged ({}): moved to damaged/; what could be saved is archived",
                self.packs_aside,
            ),
            *_several(
                "{} is lost ({}): the next job that needs it computes it again",
                self.lost,
            ),
        ]
        if self.salvaged:
            lines.append(
                f"{amount(self.salvaged, 'entry', 'entries')} saved from packs that killed ranks "
                "had left unfinished"
            )
        if self.copy is not None:
            lines.append(
                f"the archive was damaged and is kept as {self.copy}; what could be saved is "
                "archived anew, and entries of other images may be missing"
            )
        return [f"{self.path}: {line}" for line in (*lines, *self.warnings)]


def _several(text: str, found: dict[str, str]) -> Iterator[str]:
    for key, reason in list(found.items())[:_SHOWN]:
        yield text.format(key, reason)
    if len(found) > _SHOWN:
        yield f"so it is with {len(found) - _SHOWN} more (ampmpi check --verbose names all)"


def _nothing_more(*_: object) -> Sequence[Source]:
    return ()


@dataclass(frozen=True)
class Rewriting:
    """What is to be done to an archive.

    Attributes
    ----------
    take_loose : bool
        Move the loose entries into it.
    more : callable
        Opens what gives further entries, that the database itself lacks, given a stack that
        closes it and the places to look at closely; called for each attempt.
    without : (n,) array of 16-byte strings
        Keys of entries to leave out, sorted; their loose copies are removed.
    anew : bool
        Write it even if nothing is to be added, and keep the old one.
    """

    take_loose: bool = True
    more: Callable[[contextlib.ExitStack, Collection[Place]], Sequence[Source]] = _nothing_more
    without: NDArray[np.bytes_] = field(default_factory=lambda: digests_of([]))
    anew: bool = False


def compress(
    path: str | os.PathLike[str] | Home,
    *,
    processes: int = 1,
    wait: float = 0.0,
    break_lock: bool = False,
    job: str | None = None,
    progress: Progress | None = None,
) -> CompressReport:
    """Move a database's loose entries and packs into its archive.

    It may run beside readers, writers, and other compressors of this package.

    Parameters
    ----------
    path : path or Home
        The database.
    processes : int
        How many processes deflate, and read the new archive back; with more
        than one they are forked from this one, which must not have initialised MPI.
    wait : float
        How many seconds to wait for another process's lock.
    break_lock : bool
        Take the lock from whoever holds it.
    job : str, optional
        Id of this batch job, written into the lock.
    progress : callable, optional
        Called now and then with the steps done and the steps in all.

    Raises
    ------
    LockedError
        Another process compresses it.
    DatabaseError
        It is no database, or the archive cannot be written: nothing has changed.
    """
    home = path if isinstance(path, Home) else Home.open(path)
    with forked(processes) as workers:
        lock = Lock(home, wait=wait, break_lock=break_lock, job=job)
        return rewrite(home, lock, workers, progress=progress)


def rewrite(
    home: Home,
    lock: Lock,
    workers: Workers | None = None,
    what: Rewriting | None = None,
    progress: Progress | None = None,
) -> CompressReport:
    """Write a database's archive anew from all sound copies, as compress, merge and repair do.

    Parameters
    ----------
    home, lock : Home, Lock
        The database, and its lock, which is taken here.
    workers : Workers, optional
        Who deflates and reads back; this process by default.
    what : Rewriting, optional
        To move loose entries by default.
    progress : callable, optional
        As for `compress`.

    Raises
    ------
    LockedError
        Another process holds the lock.
    DatabaseError
        The archive cannot be written: nothing has changed.
    """
    started = time.monotonic()
    keep_freed_memory()
    sweep(home.temporaries, KEPT)  # before the lock, which takes a file itself
    closely: set[Place] = set()
    together, changes = True, 0
    report = CompressReport(home.path)
    with lock:
        while changes < _ATTEMPTS:
            run = _Run(home, lock, workers or Workers(), what or Rewriting(), progress, report)
            report = run.report
            try:
                run.run(closely, together)
            except ArchiveChangedError:
                changes += 1
                continue
            except BadRecordsError as error:
                closely |= error.places
                continue
            except NotTogetherError as error:
                if not together:
                    raise database_error(error, "compress", home.path) from error
                together = False
                continue
            except FileNotFoundError as error:
                raise home.removed() from error
            except OSError as error:
                if isinstance(error, AmpmpiError):
                    raise
                raise database_error(error, "compress", home.path) from error
            report.seconds = time.monotonic() - started
            return report
    raise DatabaseError(
        f"{home.full(ARCHIVE)} is changed again and again by another program: "
        f"stop it (Amp's own compression?) and start again"
    )


class _Run:
    """One attempt to write the archive of a database whose lock is held."""

    def __init__(
        self,
        home: Home,
        lock: Lock,
        workers: Workers,
        what: Rewriting,
        progress: Progress | None,
        before: CompressReport,
    ) -> None:
        self.home, self.lock, self.workers, self.what = home, lock, workers, what
        # What an attempt before this one saved and set aside stays so.
        self.report = CompressReport(
            home.path,
            salvaged=before.salvaged,
            set_aside=before.set_aside,
            warnings=[*before.warnings],
            files_freed=len(before.set_aside),
        )
        self._progress = progress
        self._steps = 0
        self._done = 0.0
        self._taken = what.without

    def run(self, closely: Collection[Place], together: bool) -> None:
        """Do it once; some places are looked at closely, and workers may write together or not."""
        home, report = self.home, self.report
        self._together, self._closely = together, closely
        with contextlib.ExitStack() as stack:
            old = self._open(stack, None, ARCHIVE)
            like = None if old is None else os.fstat(old.archive.descriptor)
            loose = LooseEntries(home, self.workers) if self.what.take_loose else None
            # Under the lock: what its last holder left has to be among them, or what is
            # deleted now comes back.
            left = temporaries(home.temporaries)
            for count, trouble in self.workers.map(partial(salvage, home), unfinished(home, left)):
                report.salvaged += count
                report.warnings += [trouble] if trouble else []
            packed = PackedEntries(home, self.workers, closely)
            report.stuck |= packed.unreadable
            left_over = [
                source
                for name in abandoned(home, found=left)
                if (source := self._open(stack, TEMPORARIES, name)) is not None
            ]
            report.bytes_before = old.archive.stamp.size if old else 0
            report.bytes_after = report.bytes_before
            n_old = len(old.digests()) if old else 0
            n_new = len(packed.digests()) + (len(loose.digests()) if loose else 0)
            self._steps = 2 * (n_old + n_new)
            temporary = stack.enter_context(Temporary(home.temporaries, "archive", like=like))
            writer = ArchiveWriter(temporary)
            if loose is not None:
                report.added += self._add(writer, temporary, loose)
                self._judge(loose)
            report.added += self._add(writer, temporary, packed)
            more: list[Source] = [*left_over, *self.what.more(stack, closely)]
            if packed.packs or self._is_needed(writer, old, more):
                if old is not None:
                    report.removed = int(member_of(old.digests(), self.what.without).sum())
                    self._add(writer, temporary, old)
                for other in more:
                    number = self._add(writer, temporary, other)
                    report.given[other.home.path] = report.given.get(other.home.path, 0) + number
                    report.added += number
                report.lost = self._not_given(packed.lost | ({} if old is None else old.lost))
                self._finish(temporary, writer, old)
                report.files_freed -= old is None
            else:
                report.entries = n_old
            self._remove_packs(packed)
            for done in left_over:
                with contextlib.suppress(OSError):
                    home.temporaries.unlink(os.path.basename(done.archive.path))
            # Under the lock: a compress between would have taken them into the archive.
            for key in to_hex(self.what.without):
                remove_loose(home, key)
        if loose is not None:
            self._remove(loose.taken)

    def _open(
        self, stack: contextlib.ExitStack, folder: str | None, name: str
    ) -> ArchivedEntries | None:
        try:
            source = ArchivedEntries(self.home, folder, name, self._closely, others=folder is None)
        except FileNotFoundError:
            return None
        return stack.enter_context(source)

    def _add(self, writer: ArchiveWriter, temporary: Temporary, source: Source) -> int:
        """Write what a source has and no earlier one gave; return how many entries."""
        before = len(self._taken)
        added = [self._taken, *self._copy(writer, temporary, source)]
        self._taken = union(*added)
        added = [self._taken]
        for parcel in source.parcels(self._taken):
            writer.add(parcel)
            added.append(parcel.digests[parcel.is_entry])
            self._step(len(parcel.digests))
        if len(added) > 1:
            self._taken = union(*added)
        return len(self._taken) - before

    def _copy(
        self, writer: ArchiveWriter, temporary: Temporary, source: Source
    ) -> list[NDArray[np.bytes_]]:
        """Let records be copied, each worker some of them; return the keys of entries."""
        workers = self.workers if self._together else Workers()
        # Alone by the open file: an archive that nobody may write to is not opened again.
        target = temporary.descriptor if workers.executor is None else temporary.name
        given: list[NDArray[np.bytes_]] = []
        bad: set[Place] = set()
        waiting: deque[tuple[Copying, int]] = deque()

        def tasks() -> Iterator[tuple[Copying, int]]:
            for copying in source.copyings(self._taken):
                for piece in copying.pieces(workers.share(source.n_bytes)):
                    waiting.append((piece, writer.leave_room(piece.records)))
                    yield waiting[-1]

        copy = partial(copy_records, self.home, target, workers.apart)
        for done in workers.map(copy, tasks()):
            copying, begin = waiting.popleft()
            if done is None:
                bad.add(copying.place)
                continue
            checksum, crc, raw_crc = done
            records = copying.records._replace(raw_crc=raw_crc)
            writer.fill(records, begin, checksum, crc)
            given.append(records.digests[records.is_entry])
            self._step(len(records.offset))
        if bad:
            raise BadRecordsError(bad)
        if given:
            temporary.seek(writer.size)
        return given

    def _not_given(self, lost: dict[str, str]) -> dict[str, str]:
        """Return what is lost in archive and packs, and did not come from elsewhere, either."""
        keys = digests_of(filter(is_key, lost))
        given = set(to_hex(keys[member_of(keys, self._taken)]))
        return {key: reason for key, reason in lost.items() if key not in given}

    def _judge(self, loose: LooseEntries) -> None:
        """Set damaged loose entries aside, unless they may still be in the making."""
        report = self.report
        for key, reason in loose.lost.items():
            stamp = loose.damaged.get(key)
            if stamp is None:
                report.stuck[key] = reason
            elif is_young(stamp):
                report.left[key] = f"{reason}; it is younger than a minute, so it stays"
            else:
                try:
                    moved = set_aside(self.home.needed(LOOSE), key, stamp, self.home.damaged)
                except OSError as error:
                    why = error.strerror or str(error)
                    report.stuck[key] = f"{reason}; it cannot be set aside: {why}"
                    continue
                if moved is not None:
                    report.set_aside[key] = reason
                    report.files_freed += 1

    def _is_needed(
        self, writer: ArchiveWriter, old: ArchivedEntries | None, more: Sequence[Source]
    ) -> bool:
        """Whether the archive has to be written: else it stays as it is."""
        if writer.entries or self.what.anew or (old is not None and old.is_odd):
            return True
        there = digests_of([]) if old is None else old.digests()
        if member_of(there, self.what.without).any():
            return True
        known = union(there, self.what.without)
        return any(source.is_odd or not member_of(source.digests(), known).all() for source in more)

    def _finish(
        self, temporary: Temporary, writer: ArchiveWriter, old: ArchivedEntries | None
    ) -> None:
        """End the new archive, see that it is on the disk, and put it in the old one's place."""
        self.report.entries = writer.close().entries
        with ThreadPoolExecutor(1) as disk:
            synced = disk.submit(temporary.sync)
            if self.workers.apart:
                synced.result()
            self._read_back(temporary, writer)
            synced.result()
        self._keep_damaged(old)
        self.lock.require()
        if old is None:
            placed = temporary.place(self.home.root, ARCHIVE, small=False)
        else:
            placed = temporary.exchange(self.home.root, ARCHIVE, old.archive.stamp)
        if not placed:
            raise ArchiveChangedError
        self.home.root.sync()
        self.report.bytes_after = writer.size

    def _read_back(self, temporary: Temporary, writer: ArchiveWriter) -> None:
        """Read all that was written, and compare it with what was verified before."""
        workers = self.workers if self._together else Workers()
        check = partial(checksums_of, self.home, TEMPORARIES, temporary.name, workers.apart)
        groups = _grouped(writer.written, workers.share(writer.size))
        results = workers.map(check, ([piece[:2] for piece in group] for group in groups))
        per_piece = writer.entries / len(writer.written)
        is_whole = True
        for group, checksums in zip(groups, results, strict=True):
            is_whole &= checksums == [wanted for _, _, wanted in group]
            self._step(per_piece * len(group))
        if is_whole:
            found = read_index(temporary.descriptor, writer.size)
            is_whole = (
                found is not None
                and found.misfit is None
                and found.footer.entries == writer.entries
            )
        if not is_whole:
            if self._together and self.workers.executor is not None:
                raise NotTogetherError
            raise DatabaseError(
                f"{temporary.path} reads back otherwise than it was written: the disk or its "
                "cable may be failing; the database is as it was"
            )

    def _keep_damaged(self, old: ArchivedEntries | None) -> None:
        """Keep a second name of an archive that is not taken over whole."""
        if old is None:
            return
        if not (self._not_given(old.lost) or old.archive.damage or self.what.anew):
            return
        try:
            self.report.copy = keep_copy(self.home.root, ARCHIVE, self.home.damaged)
        except OSError as error:
            if not is_damage(error):
                raise database_error(error, "keep a copy of", old.archive.path) from error
            self.report.warnings.append(
                f"there is no whole copy of the damaged {old.archive.path}: {reason_of(error)}"
            )

    def _remove_packs(self, packed: PackedEntries) -> None:
        """Remove the packs that are in the archive now; damaged ones are set aside."""
        report, damaged = self.report, packed.damaged
        taken = {pack.name: pack.stamp for pack in packed.packs if pack.is_open}
        report.bytes_before += sum(stamp.size for stamp in taken.values())
        if not self.lock.is_held():
            done: list[tuple[str, str | None]] = [(name, _LOCK_GONE) for name in taken]
        else:
            done = [(name, self._set_aside(name, taken[name], damaged[name])) for name in damaged]
            sound = [(name, stamp) for name, stamp in taken.items() if name not in damaged]
            tasks = self.workers.deal(sound)
            for some in self.workers.map(partial(remove_packs, self.home), tasks):
                done += some
        left = [(name, reason) for name, reason in done if reason is not None]
        report.packs = len(done) - len(left)
        report.files_freed += report.packs
        report.bytes_after += sum(taken[name].size for name, _ in left)
        if left:
            report.packs_left = len(left)
            report.warnings.append(
                f"{amount(len(left), 'pack')}, {left[0][0]} the first, are in the archive now but "
                f"were not removed ({left[0][1]}): the next compression tries again"
            )

    def _set_aside(self, name: str, stamp: Stamp, reason: str) -> str | None:
        """Set a damaged pack aside; return why it cannot be, if so."""
        try:
            set_aside(self.home.needed(PACKS), name, stamp, self.home.damaged)
        except OSError as error:
            return error.strerror or str(error)
        self.report.packs_aside[name] = reason
        return None

    def _remove(self, several: Sequence[NDArray[np.void]]) -> None:
        """Remove the loose entries that are in the archive now."""
        if not several:
            return
        if not self.lock.is_held():
            self.report.warnings.append(
                "somebody took the lock away meanwhile: loose files stay where they are, "
                "and the next compression removes those that are in the archive"
            )
            return
        failed, reason = 0, ""
        taken = np.concatenate(several)
        self.report.bytes_before += int(taken["size"].sum())
        tasks = self.workers.cut(taken)  # equally many, whatever their sizes are
        for removed, stayed in self.workers.map(partial(remove_taken, self.home), tasks):
            self.report.files_freed += removed
            for key, size, why in stayed:
                if why is None:
                    self.report.left[key] = "it was written again meanwhile"
                else:
                    failed, reason = failed + 1, why
                self.report.bytes_after += size
        if failed:
            self.report.warnings.append(
                f"{failed} loose files are in the archive now but cannot be removed "
                f"({reason}): the next compression tries again"
            )

    def _step(self, count: float = 1) -> None:
        self._done += count
        if self._progress is not None:
            done = int(self._done)
            self._progress(done, max(self._steps, done))


def is_compressed(home: Home) -> bool:
    """Whether a compress would find nothing to move; looks without writing anything."""
    return not (
        pack_names(home) or len(digests(home)) or unfinished(home, exactly=False) or abandoned(home)
    )


def _grouped(
    written: Sequence[tuple[int, int, int]], n_bytes: int
) -> list[list[tuple[int, int, int]]]:
    """Put pieces of a file together, so that it is not opened for each of them."""
    groups: list[list[tuple[int, int, int]]] = []
    size = n_bytes
    for piece in written:
        if size + piece[1] > n_bytes:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece[1]
    return groups


def abandoned(
    home: Home, purpose: str = "archive", found: Sequence[str] | None = None
) -> list[str]:
    """Names of abandoned temporaries of one purpose; of all for ``""``.

    Those that there are may be given.

    An archive that a killed compress left may hold entries that are nowhere else: when it
    was killed between putting its own archive in place and giving back the one that
    another process had put there meanwhile. The one that it was to replace, and did, is
    none of these: what was deleted would come back from it.
    """
    folder = home.inner(TEMPORARIES)
    if folder is None:
        return []
    names = [
        name
        for name in (temporaries(folder) if found is None else found)
        if purpose in ("", purpose_of(name)) and is_abandoned(folder, name)
    ]
    return [name for name in names if not (purpose == "archive" and is_replaced(folder, name))]
