"""Moving loose entries into the archive, so that at no moment one is lost.

The order is what makes it safe: the new archive is written beside the old one,
is on the disk, and was read back whole, before it takes the old one's place;
loose files go only after that, and only those that are still what was read.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import deleted, loose
from ampmpi.database.archive.reader import Archive, Identity, IndexedArchive
from ampmpi.database.archive.salvage import rescue
from ampmpi.database.archive.streamed import StreamedArchive
from ampmpi.database.archive.writer import (
    ArchiveWriter,
    Chunk,
    Parcel,
    deflate_entry,
    deflate_record,
)
from ampmpi.database.aside import is_young, keep_copy, set_aside_as_read
from ampmpi.database.forked import Forked
from ampmpi.database.helpers import Helpers, deflate_with, portions, read_back
from ampmpi.database.intake import (
    STAMPS,
    ChangedError,
    LooseFiles,
    Stamp,
    judge,
    read_loose,
    remove_archived,
)
from ampmpi.database.layout import Layout, require_database
from ampmpi.database.lock import Lock
from ampmpi.errors import AmpmpiError, CorruptEntryError, DatabaseError
from ampmpi.files.atomic import Temporary, database_error, sweep, sync_directory
from ampmpi.files.trouble import is_damage, reason_of
from ampmpi.heap import keep_freed_memory
from ampmpi.keys import to_hex

Progress = Callable[[int, int], None]

_ATTEMPTS = 3


@dataclass
class CompressReport:
    """What a compress did.

    Attributes
    ----------
    path : str
        The database.
    added : int
        Number of entries that went from loose files into the archive.
    removed : int
        Number of deleted entries that were taken out of the archive.
    entries : int
        Number of entries in the archive now.
    bytes_before, bytes_after : int
        Size of the archive and the loose files.
    files_freed : int
        How many fewer files there are.
    set_aside : dict of str to str
        Damaged loose entries that were moved to ``damaged/``, and why.
    left : dict of str to str
        Loose entries that stay loose for now, and why.
    stuck : dict of str to str
        Loose entries that cannot be read, or are damaged and cannot be set aside, and why.
    lost : dict of str to str
        Entries of a damaged archive that could not be saved, and why.
    copy : str or None
        Where the damaged archive is kept.
    warnings : list of str
        What else the user should know.
    seconds : float
        How long it took.
    """

    path: str
    added: int = 0
    removed: int = 0
    entries: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    files_freed: int = 0
    set_aside: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    stuck: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    copy: str | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def remarks(self) -> list[str]:
        """Return what the user should know, one line each; empty where all was well."""
        lines = [
            f"loose entry {key} is damaged ({reason}): moved to damaged/"
            for key, reason in self.set_aside.items()
        ]
        lines += [
            f"loose entry {key} stays where it is: {reason}"
            for key, reason in (self.left | self.stuck).items()
        ]
        lines += [
            f"{key} is lost from the archive ({reason}): it will be computed again"
            for key, reason in self.lost.items()
        ]
        if self.copy is not None:
            lines.append(
                f"the archive was damaged and is kept as {self.copy}; what could be saved is "
                "archived anew, and entries of other images may be missing"
            )
        return [f"{self.path}: {line}" for line in [*lines, *self.warnings]]


def compress(
    path: str | os.PathLike[str],
    *,
    chunks: Iterable[Chunk] = (),
    processes: int = 1,
    helpers: Helpers | None = None,
    wait: float = 0.0,
    break_lock: bool = False,
    job: str | None = None,
    progress: Progress | None = None,
    damage: Damage | None = None,
) -> CompressReport:
    """Move a database's loose entries into its archive.

    It may run beside readers, writers, and other compressors of this package.

    Parameters
    ----------
    path : path
        The database.
    chunks : iterable of Chunk, optional
        Entries that are not loose; taken one by one, always to the end, before
        loose ones of the same key. Where the archive turns out to be damaged, or
        is replaced meanwhile, they are iterated over again.
    processes : int
        How many processes deflate, and read the new archive back; with more
        than one they are forked from this one, which must not have initialised MPI.
    helpers : Helpers, optional
        Who does this instead.
    wait : float
        How many seconds to wait for another process's lock.
    break_lock : bool
        Take the lock from whoever holds it.
    job : str, optional
        Id of this batch job, written into the lock.
    progress : callable, optional
        Called now and then with the steps done and the steps in all.
    damage : Damage, optional
        What a check found in the archive. Other damage is found on the way,
        when the new archive is read back.

    Raises
    ------
    LockedError
        Another process compresses it.
    DatabaseError
        It is no database, or the archive cannot be written: nothing has changed.
    """
    started = time.monotonic()
    keep_freed_memory()
    layout = require_database(path)
    with (
        Forked(processes if helpers is None else 1) as forked,
        Lock(layout, wait=wait, break_lock=break_lock, job=job) as lock,
    ):
        sweep(layout.temporaries)
        for _ in range(_ATTEMPTS):
            run = _Run(layout, lock, helpers or forked, progress, damage)
            try:
                report = run.compress(iter(chunks))
            except _ArchiveChangedError:
                continue
            except _ArchiveDamagedError as error:
                damage = error.damage
                continue
            except OSError as error:
                if isinstance(error, AmpmpiError):
                    raise
                raise database_error(error, "compress", layout.root) from error
            report.seconds = time.monotonic() - started
            return report
    raise DatabaseError(
        f"{layout.archive} is changed again and again by another program: "
        f"stop it (Amp's own compression?) and start again"
    )


def archive_identity(layout: Layout) -> Identity | None:
    """Which file the archive is now, or None."""
    try:
        return Identity.of(os.stat(layout.archive))
    except FileNotFoundError:
        return None


class _ArchiveChangedError(Exception):
    """Somebody replaced the archive meanwhile."""


@dataclass(frozen=True)
class Damage:
    """Records of an archive that must be left out of the next one.

    Attributes
    ----------
    identity : Identity
        Which archive.
    rows : dict of int to str
        Rows of its index, and what is wrong with each.
    """

    identity: Identity
    rows: dict[int, str]


class _ArchiveDamagedError(Exception):
    """The old archive turned out to be damaged."""

    def __init__(self, damage: Damage) -> None:
        super().__init__()
        self.damage = damage


def _blame(new: IndexedArchive, row: int, old: Archive | None) -> dict[int, str]:
    """Find the damaged row of the old archive that a row of the new one was copied from."""
    if isinstance(old, IndexedArchive):
        if row < len(new):
            found = old.index.row(bytes.fromhex(new.key_of(row)))
            candidates = [] if found is None else [found]
        else:
            same = old.index.crc[len(old) :] == new.index.crc[row]
            candidates = (np.flatnonzero(same) + len(old)).tolist()
        for old_row, raw in old.raw_records(np.array(candidates, np.intp)):
            try:
                old.verify(old_row, raw)
            except CorruptEntryError as reason:
                return {old_row: str(reason)}
    raise _unreadable(new.path)


def _unreadable(path: str) -> DatabaseError:
    return DatabaseError(
        f"{path} reads back otherwise than it was written: the disk or its cable may be "
        f"failing; the database is as it was"
    )


def _whole(digests: NDArray[np.bytes_]) -> Iterator[bytes]:
    """Go through 16-byte strings; numpy's own items lack the zeros at their ends."""
    raw = digests.tobytes()
    return (raw[start : start + 16] for start in range(0, len(raw), 16))


class _Run:
    """One attempt to compress a database whose lock is held."""

    def __init__(
        self,
        layout: Layout,
        lock: Lock,
        helpers: Helpers,
        progress: Progress | None,
        damage: Damage | None,
    ) -> None:
        self.layout = layout
        self.lock = lock
        self._helpers = helpers
        self.report = CompressReport(layout.root)
        self._damage = damage
        self._progress = progress
        self._steps = self._done = 0
        self._added: set[bytes] = set()
        self._taken: list[LooseFiles] = []

    def compress(self, chunks: Iterator[Chunk]) -> CompressReport:
        layout, report = self.layout, self.report
        with contextlib.ExitStack() as stack:
            old: Archive | None = None
            with contextlib.suppress(FileNotFoundError):
                old = stack.enter_context(Archive.open(layout.archive))
            marks, digests = deleted.marked(layout), loose.digests(layout)
            self._steps = 2 * (len(digests) + (len(old) if old is not None else 0))
            report.bytes_before = report.bytes_after = old.identity.size if old is not None else 0
            temporary = stack.enter_context(Temporary(layout.temporaries, "archive"))
            writer = ArchiveWriter(temporary)
            self._add_chunks(writer, chunks)
            self._add_loose(writer, digests)
            gone = {key for key in marks if old is not None and key in old}
            if self._is_needed(old, gone):
                self._add_old(writer, old, set(marks))
                report.removed = len(gone)
                report.entries = writer.close().entries
                with ThreadPoolExecutor(1) as disk:
                    synced = disk.submit(temporary.sync)
                    if self._helpers.apart:
                        synced.result()
                    self._verify(temporary.path, old)
                    synced.result()
                self._keep_damaged(old)
                self._replace(temporary, old)
                report.bytes_after = writer.size
                report.files_freed -= old is None
            else:
                report.entries = len(old) if old is not None else 0
        if self.lock.is_held():
            deleted.unmark(layout, marks)
            self._remove_loose(set(deleted.marked(layout)))
        else:
            report.warnings.append(
                "somebody took the lock away meanwhile: loose files stay where they are, "
                "and the next compression removes those that are in the archive"
            )
        return report

    def _add(self, writer: ArchiveWriter, chunk: Chunk) -> None:
        if chunk.key is not None:
            self._added.add(bytes.fromhex(chunk.key))
        writer.add(chunk)
        self._step()

    def _add_chunks(self, writer: ArchiveWriter, chunks: Iterator[Chunk]) -> None:
        for chunk in chunks:
            if chunk.key is None or bytes.fromhex(chunk.key) in self._added:
                continue
            self._add(writer, chunk)
            self.report.added += 1

    def _add_loose(self, writer: ArchiveWriter, digests: NDArray[np.bytes_]) -> None:
        for deflated in deflate_with(self._helpers, self.layout, self._left(digests)):
            writer.add_parcel(deflated.parcel)
            self._note_loose(deflated.files)
        for key in to_hex(self._left(digests)):
            self._add_doubtful(writer, key)

    def _left(self, digests: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
        """Return those that are not added yet."""
        if not self._added:
            return digests
        return digests[[key not in self._added for key in _whole(digests)]]

    def _add_doubtful(self, writer: ArchiveWriter, key: str) -> None:
        """Add a loose entry that could not be read, or was found to be damaged, if it can be."""
        try:
            data, stamp = read_loose(self.layout, key)
        except FileNotFoundError:
            return
        except OSError as error:
            self.report.stuck[key] = f"it cannot be read: {error.strerror or error}"
            return
        try:
            judge(data, self.layout.kind)
        except CorruptEntryError as error:
            self._put_aside(key, stamp, str(error))
            return
        parcel = Parcel.of([deflate_entry(key, data)])
        writer.add_parcel(parcel)
        self._note_loose(LooseFiles(parcel.digests, np.array([stamp], STAMPS)))

    def _note_loose(self, files: LooseFiles) -> None:
        """Note loose files that may go once what was read of them is archived."""
        self._added.update(_whole(files.digests))
        self._taken.append(files)
        self.report.added += len(files.digests)
        self.report.bytes_before += int(files.stamps["size"].sum())
        self._step(len(files.digests))

    def _put_aside(self, key: str, stamp: Stamp, reason: str) -> None:
        """Move a damaged loose entry away, unless it may still be in the making."""
        if is_young(stamp):
            self.report.left[key] = f"{reason}; it is younger than a minute, so it stays"
            return
        try:
            moved = set_aside_as_read(self.layout, self.layout.loose_entry(key), stamp)
        except OSError as error:
            self.report.stuck[key] = f"{reason}; it cannot be set aside: {error.strerror or error}"
            return
        if moved is not None:
            self.report.set_aside[key] = reason
            self.report.files_freed += 1

    def _is_needed(self, old: Archive | None, gone: set[str]) -> bool:
        is_odd = old is not None and (not old.indexed or old.damage is not None)
        return bool(self._added or gone or self._damage or is_odd)

    def _add_old(self, writer: ArchiveWriter, old: Archive | None, marks: set[str]) -> None:
        if isinstance(old, IndexedArchive):
            dropped = self._added | {bytes.fromhex(key) for key in marks}
            keep = np.ones(len(old.index.offset), bool)
            rows = old.index.rows(np.array(sorted(dropped), "S16"))
            keep[rows[rows >= 0]] = False
            damaged: dict[int, str] = {}
            if self._damage is not None and self._damage.identity == old.identity:
                damaged = self._damage.rows
            if old.damage is not None:
                bad = old.find_damaged(np.argsort(old.index.offset))
                damaged = dict.fromkeys(bad, old.damage) | damaged
            self._leave_out(old, keep, damaged)
            try:
                unreadable = writer.copy(old, keep, self._step)
                if unreadable:  # once more: a network mount may have been away for a moment
                    again = np.zeros_like(keep)
                    again[list(unreadable)] = True
                    unreadable = writer.copy(old, again)
            except EOFError:
                raise _ArchiveChangedError from None
            self._leave_out(old, keep, unreadable)
            damaged = damaged | unreadable
            if damaged or old.damage is not None:
                # Not those that are whole, but no entries of this database.
                rows = np.array(sorted(damaged, key=old.index.offset.__getitem__), np.intp)
                broken = {old.key_of(row) for row in old.find_damaged(rows) if row < len(old)}
                self._rescue(writer, old, marks | (set(old.keys()) - broken))
        elif isinstance(old, StreamedArchive):
            self._add_streamed(writer, old, marks)

    def _leave_out(
        self, old: IndexedArchive, keep: NDArray[np.bool_], rows: dict[int, str]
    ) -> None:
        for row, reason in rows.items():
            if keep[row]:
                keep[row] = False
                name = old.key_of(row) if row < len(old) else f"member {row - len(old)}"
                self.report.lost[name] = reason

    def _add_streamed(self, writer: ArchiveWriter, old: StreamedArchive, marks: set[str]) -> None:
        for key, headers, data in old.walk(others=True):
            if key is None:
                self._add(writer, deflate_record(None, headers + data))
            elif key not in marks:
                self._add_saved(writer, key, data, old.doubt(key, headers, data))
        if old.damage is not None:
            for key in set(old.keys()) - marks:
                if bytes.fromhex(key) not in self._added:
                    self.report.lost.setdefault(key, old.damage)
            self._rescue(writer, old, marks)

    def _rescue(self, writer: ArchiveWriter, old: Archive, others: set[str]) -> None:
        """Take over what lies elsewhere than where the archive has it, but for some keys."""
        for key, data in rescue(old.path):
            if key not in others:
                self._add_saved(writer, key, data, None)

    def _add_saved(self, writer: ArchiveWriter, key: str, data: bytes, doubt: str | None) -> None:
        """Take over an entry of an archive without an index, if it is sound and not there yet."""
        if bytes.fromhex(key) in self._added:
            return
        try:
            if doubt is not None:
                raise CorruptEntryError(doubt)
            judge(data, self.layout.kind)
        except CorruptEntryError as error:
            self.report.lost[key] = str(error)
        else:
            self.report.lost.pop(key, None)
            self._add(writer, deflate_entry(key, data))

    def _verify(self, path: str, old: Archive | None) -> None:
        """Read the new archive back; where that fails, find out which archive is damaged."""
        bad: dict[int, str] = {}
        with Archive.open(path) as new:
            if not isinstance(new, IndexedArchive) or len(new) != self.report.entries:
                raise _unreadable(path)
            for count, damaged in read_back(self._helpers, new):
                for row in damaged:
                    bad |= _blame(new, row, old)
                self._step(count)
        if bad and old is not None:
            if self._damage is not None and self._damage.identity == old.identity:
                bad = self._damage.rows | bad
            raise _ArchiveDamagedError(Damage(old.identity, bad))

    def _keep_damaged(self, old: Archive | None) -> None:
        """Keep a second name of an archive that is not taken over whole."""
        if old is None or not (self.report.lost or old.damage or self._damage):
            return
        try:
            self.report.copy = keep_copy(self.layout, self.layout.archive)
        except OSError as error:
            if not is_damage(error):
                raise database_error(error, "keep a copy of", old.path) from error
            self.report.warnings.append(
                f"there is no whole copy of the damaged {old.path}: {reason_of(error)}"
            )

    def _replace(self, temporary: Temporary, old: Archive | None) -> None:
        self.lock.require()
        if archive_identity(self.layout) != (old.identity if old is not None else None):
            raise _ArchiveChangedError
        temporary.replace(self.layout.archive)
        sync_directory(self.layout.root)

    def _remove_loose(self, hidden: set[str]) -> None:
        # A key marked meanwhile and written again: only its loose copy can be seen.
        failed, reason = 0, ""
        remove = partial(remove_archived, self.layout, hidden)
        for removed, stayed in self._helpers.map(remove, portions(self._helpers, self._taken)):
            self.report.files_freed += removed
            for key, size, error in stayed:
                if isinstance(error, FileNotFoundError):
                    continue
                if isinstance(error, ChangedError):
                    self.report.left[key] = "it was written again meanwhile"
                else:
                    failed, reason = failed + 1, error.strerror or str(error)
                self.report.bytes_after += size
        if failed:
            self.report.warnings.append(
                f"{failed} loose files are in the archive now but cannot be removed "
                f"({reason}): the next compression tries again"
            )

    def _step(self, count: int = 1) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, max(self._steps, self._done))
