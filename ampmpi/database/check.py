"""Reading everything that a database holds, saying what is wrong, and repairing it."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ampmpi.database import deleted, loose, manifest
from ampmpi.database.archive.deflate import MEMBER_HEADER, combine
from ampmpi.database.archive.reader import Archive, IndexedArchive
from ampmpi.database.archive.salvage import rescue
from ampmpi.database.archive.streamed import StreamedArchive
from ampmpi.database.archive.tar import BLOCK, END, is_bound
from ampmpi.database.aside import is_young, set_aside_as_read
from ampmpi.database.compress import Damage, Progress, compress
from ampmpi.database.intake import Stamp, read_loose, stamp_of
from ampmpi.database.layout import Layout, require_database
from ampmpi.database.lock import read_holder
from ampmpi.database.manifest import DamagedManifestError, Manifest
from ampmpi.entries import Entry, codec
from ampmpi.entries.checksum import crc32
from ampmpi.errors import CorruptEntryError, DatabaseError, LockedError
from ampmpi.files.atomic import temporaries, temporary_owner
from ampmpi.files.trouble import is_damage
from ampmpi.keys import is_key


@dataclass
class CheckReport:
    """What a check found, and what it did about it.

    Attributes
    ----------
    path : str
        The database.
    sound : int
        Number of copies of entries that were read and are sound.
    problems : list of str
        What is wrong; the first word says where.
    lost : list of str
        Keys of which no copy is sound: they have to be computed again.
    notes : list of str
        What is unusual and does no harm.
    repairs : list of str
        What was done.
    remaining : list of str
        Problems that are still there after the repair, and what it could not do.
    repair : bool
        Whether a repair was asked for.
    locked : bool
        Whether the archive was not repaired because another process holds the lock.
    """

    path: str
    sound: int = 0
    problems: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)
    repair: bool = False
    locked: bool = False

    @property
    def exit_code(self) -> int:
        """0 for a clean database, 5 for one that was repaired, 4 for a damaged one.

        6 if somebody else's lock kept it from being repaired.
        """
        if not self.problems:
            return 0
        if self.repair and not self.remaining:
            return 5
        return LockedError.exit_code if self.locked else DatabaseError.exit_code


def check(
    path: str | os.PathLike[str],
    *,
    repair: bool = False,
    wait: float = 0.0,
    break_lock: bool = False,
    progress: Progress | None = None,
    doubt: Callable[[Manifest], str | None] | None = None,
) -> CheckReport:
    """Read all entries of a database and verify them.

    Parameters
    ----------
    path : path
        The database.
    repair : bool
        Set aside what is damaged, save what is sound in a damaged archive, and
        keep a copy of that archive. Where the archive has to be written anew,
        loose entries move into it.
    wait, break_lock
        As for `compress`; only for a repair.
    progress : callable, optional
        Called now and then with the steps done and the steps in all.
    doubt : callable, optional
        Says what is wrong with a manifest whose checksum is right; None if nothing is.

    Raises
    ------
    DatabaseError
        It is no database, or it cannot be read. What cannot be repaired is in the report.
    """
    found = _look(require_database(path), progress, doubt)
    report = found.report
    report.repair = repair
    # Twice: what an archive without an index holds can be left out once it has one.
    for _ in range(2 if repair and report.problems else 0):
        failed = found.repair(report, wait, break_lock)
        found = _look(found.layout, None, doubt, report.lost)
        report.lost = found.report.lost
        report.remaining = failed + found.report.problems
        if failed or not found.report.problems:
            break
    return report


def _look(
    layout: Layout,
    progress: Progress | None,
    doubt: Callable[[Manifest], str | None] | None,
    suspects: Iterable[str] = (),
) -> _Check:
    """Read everything; twice where the manifest is foreign, by which sound entries look damaged."""
    found = _Check(layout, progress, doubt)
    found.run(suspects)
    if found.foreign is not None:
        found = _Check(layout, None, doubt, found.foreign)
        found.run(suspects)
    return found


@dataclass(frozen=True)
class _Foreign:
    """A manifest that most entries disagree with.

    Attributes
    ----------
    stamp : Stamp
        Which file it is.
    reason : str
        What is wrong with it.
    """

    stamp: Stamp
    reason: str


class _Check:
    """One reading of a database."""

    def __init__(
        self,
        layout: Layout,
        progress: Progress | None,
        doubt: Callable[[Manifest], str | None] | None,
        foreign: _Foreign | None = None,
    ) -> None:
        self.layout = layout
        self.foreign = foreign
        self._doubt = doubt
        self.report = CheckReport(layout.root)
        self._bad_loose: dict[str, Stamp] = {}
        self._young: set[str] = set()
        self._unread: set[str] = set()
        self._bad_archived: set[str] = set()
        self._saved: set[str] | None = None
        self._damage: Damage | None = None
        self._archive_is_bad = False
        self._manifest: Stamp | None = None
        self._bad_manifest: Stamp | None = None
        self._fits = 0
        self._misfits: list[str] = []
        self._functions: Mapping[str, Any] | None = None
        self._loose: set[str] = set()
        self._loose_is_missing = False
        self._done = 0
        self._progress = progress

    def run(self, suspects: Iterable[str] = ()) -> None:
        """Read everything; of suspects, too, find out whether they are lost."""
        self._check_manifest()
        self._loose = loose.keys(self.layout)
        self._check_loose()
        with contextlib.ExitStack() as stack:
            archive: Archive | None = None
            with contextlib.suppress(FileNotFoundError):
                archive = stack.enter_context(Archive.open(self.layout.archive))
            if isinstance(archive, IndexedArchive):
                self._check_indexed(archive)
            elif isinstance(archive, StreamedArchive):
                self._check_streamed(archive)
            self._find_lost(archive, suspects)
        self._look_around()
        if len(self._misfits) > self._fits and self._manifest is not None:
            self.foreign = _Foreign(
                self._manifest,
                f"{self.layout.manifest} is that of another descriptor: "
                f"{len(self._misfits)} of {len(self._misfits) + self._fits} entries do not fit it "
                f"(of the first, {self._misfits[0]})",
            )

    def _problem(self, text: str) -> None:
        self.report.problems.append(text)

    def _step(self, total: int) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(total, self._done))

    def _judge(self, data: bytes) -> None:
        """Check all that can be known of an entry, and count it for or against the manifest."""
        if (misfit := self._misfit(data)) is not None:
            self._misfits.append(misfit)
            raise CorruptEntryError(misfit)
        self._fits += 1

    def _misfit(self, data: bytes) -> str | None:
        """Say how an entry that is sound disagrees with the manifest, if so."""
        kind = self.layout.kind
        if kind == "other" and data and codec.MAGIC not in data[-64:]:
            return None
        found = codec.decode(data, kind=kind)
        return None if self._functions is None else _difference(found, self._functions)

    def _check_manifest(self) -> None:
        if self.foreign is not None:
            self._problem(f"manifest: {self.foreign.reason}")
            self._bad_manifest = self.foreign.stamp
            return
        stamp: Stamp | None = None
        with contextlib.suppress(OSError):
            stamp = stamp_of(os.lstat(self.layout.manifest))
        try:
            said = manifest.read(self.layout)
        except DamagedManifestError as error:
            self._problem(f"manifest: {error}")
            self._bad_manifest = stamp
            return
        except DatabaseError as error:
            self._problem(f"manifest: {error}")
            return
        if said is not None:
            if self._doubt is not None and (reason := self._doubt(said)) is not None:
                # What it says of features is not to be believed, either.
                self._problem(f"manifest: {self.layout.manifest} cannot be believed: {reason}")
                self._bad_manifest = stamp
            elif isinstance(functions := said.parameters.get("Gs"), Mapping):
                self._functions, self._manifest = functions or None, stamp
        elif self.layout.kind != "other":
            self.report.notes.append(
                "manifest: there is none: the next job compares entries with its own "
                "before it uses them"
            )

    def _check_loose(self) -> None:
        for key in sorted(self._loose):
            self._step(len(self._loose))
            try:
                data, stamp = read_loose(self.layout, key)
            except FileNotFoundError:
                self._loose.discard(key)
                continue
            except OSError as error:
                self._problem(f"loose: {key} cannot be read: {error.strerror or error}")
                self._loose.discard(key)
                self._unread.add(key)
                continue
            try:
                self._judge(data)
            except CorruptEntryError as error:
                if is_young(stamp):
                    self._young.add(key)
                    self.report.notes.append(
                        f"loose: {key} is damaged ({error}), or still being written: "
                        f"it is younger than a minute; check again later"
                    )
                else:
                    self._problem(f"loose: {key} is damaged: {error}")
                self._bad_loose[key] = stamp
            else:
                self.report.sound += 1

    def _check_indexed(self, archive: IndexedArchive) -> None:
        bad: dict[int, str] = {}
        index = archive.index
        if archive.damage is not None:
            self._archive_is_bad = True
            self._problem(
                f"archive: {archive.path} is damaged ({archive.damage}), but its index is whole"
            )
        for row, raw in archive.raw_records(np.argsort(index.offset)):
            self._step(len(self._loose) + len(index.offset))
            try:
                if row < len(archive):
                    self._judge(archive.entry(row, raw))
                    self.report.sound += 1
                else:
                    archive.record(row, raw)
            except CorruptEntryError as error:
                bad[row] = str(error)
                if row < len(archive):
                    self._bad_archived.add(archive.key_of(row))
                    self._problem(f"archive: {archive.key_of(row)}: {error}")
                else:
                    self._problem(f"archive: {error}")
        if bad:
            self._damage = Damage(archive.identity, bad)
            self._archive_is_bad = True
        elif archive.damage is None and (reason := _disagreement(archive)) is not None:
            self._problem(f"index: {reason}")
            self._damage = Damage(archive.identity, {})
            self._archive_is_bad = True

    def _check_streamed(self, archive: StreamedArchive) -> None:
        is_ours, missing = False, set(archive.keys())
        for key, headers, data in archive.walk():
            if key is None:
                continue
            missing.discard(key)
            self._step(len(self._loose) + len(archive))
            is_ours = is_ours or is_bound(headers[-BLOCK:], key, data) is not None
            try:
                if (doubt := archive.doubt(key, headers, data)) is not None:
                    raise CorruptEntryError(doubt)
                self._judge(data)
                self.report.sound += 1
            except CorruptEntryError as error:
                self._bad_archived.add(key)
                self._archive_is_bad = True
                self._problem(f"archive: {key} is damaged: {error}")
        self._bad_archived |= missing
        if archive.damage is not None:
            self._archive_is_bad = True
            before = set(archive.keys()) - missing
            saved = len(self._salvageable(archive) - before)
            self._problem(
                f"archive: {archive.path} is damaged ({archive.damage}): "
                f"{len(before)} entries come before the damage; what comes after it may be lost"
                + (f", but for {saved} that can be saved" if saved else "")
            )
        elif is_ours:
            self._archive_is_bad = True
            self._problem(
                "index: it is missing or damaged, so that entries cannot be read at random: "
                "--repair or the next compression writes it anew"
            )
        else:
            self.report.notes.append(
                "index: the archive has none that fits (Amp or another tool wrote it): "
                "the next compression gives it one"
            )

    def _find_lost(self, archive: Archive | None, suspects: Iterable[str]) -> None:
        hidden = deleted.marked(self.layout).keys()
        torn = self._bad_loose.keys() - self._young
        lost = torn | self._unread | (self._bad_archived - hidden) | set(suspects)
        lost -= self._loose - self._bad_loose.keys()
        if archive is not None:
            unseen = self._bad_archived | hidden
            lost = {key for key in lost if key in unseen or key not in archive}
            if lost and self._archive_is_bad:
                lost -= self._salvageable(archive)
        self.report.lost = sorted(lost)

    def _salvageable(self, archive: Archive) -> set[str]:
        """Find what a repair saves from a damaged archive besides the entries that are sound."""
        if self._saved is None:
            self._saved, hidden = set(), deleted.marked(self.layout).keys()
            known = (set(archive.keys()) - self._bad_archived) | hidden
            for key, data in rescue(archive.path):
                if key not in known:
                    with contextlib.suppress(CorruptEntryError):
                        if self._misfit(data) is None:
                            self._saved.add(key)
        return self._saved

    def _look_around(self) -> None:
        layout, notes = self.layout, self.report.notes
        try:
            with os.scandir(layout.loose) as found:
                others = [item.name for item in found if not loose.is_entry(item)]
        except OSError:
            others = []
            self._loose_is_missing = True
            self._problem("loose: the directory loose/ is missing: Amp cannot use the database")
        if others:
            notes.append(f"loose: {len(others)} names in loose/ are no entries; they are let be")
        dead = [n for n in temporaries(layout.temporaries) if _is_dead(n)]
        if dead:
            notes.append(f"tmp: {len(dead)} temporaries of killed processes; a compression removes")
        if holder := read_holder(layout):
            notes.append(f"lock: held by {holder}")
        if marks := deleted.marked(layout):
            notes.append(f"deleted: {len(marks)} entries go at the next compression")

    def repair(self, report: CheckReport, wait: float, break_lock: bool) -> list[str]:
        """Do what can be done about the problems, and report it; return what could not be done."""
        failed: list[str] = []
        if self._loose_is_missing:
            try:
                self.layout.create()
                report.repairs.append("loose: the directory was made")
            except DatabaseError as error:
                failed.append(f"loose: {error}")
        if self._bad_manifest is not None:
            self._set_aside(report, "manifest", self.layout.manifest, self._bad_manifest, failed)
        for key, stamp in self._bad_loose.items():
            if key not in self._young:
                self._set_aside(report, "loose", self.layout.loose_entry(key), stamp, failed)
        if self._archive_is_bad:
            self._write_archive(report, wait, break_lock, failed)
        return failed

    def _set_aside(
        self, report: CheckReport, where: str, path: str, stamp: Stamp, failed: list[str]
    ) -> None:
        name = os.path.basename(path)
        try:
            target = set_aside_as_read(self.layout, path, stamp)
        except OSError as error:
            failed.append(f"{where}: {name} cannot be moved to damaged/: {error.strerror or error}")
            return
        if target is not None:
            report.repairs.append(f"{where}: {name} moved to {target}")
        else:
            report.notes.append(
                f"{where}: {name} was written again or removed during the check: it is let be"
            )

    def _write_archive(
        self, report: CheckReport, wait: float, break_lock: bool, failed: list[str]
    ) -> None:
        try:
            done = compress(self.layout.root, wait=wait, break_lock=break_lock, damage=self._damage)
        except DatabaseError as error:
            report.locked = isinstance(error, LockedError)
            failed.append(f"archive: {error}")
            return
        report.repairs.append(
            f"archive: written anew with {done.entries} entries"
            + (f"; the damaged one is kept as {done.copy}" if done.copy else "")
        )
        report.lost = sorted({*report.lost, *filter(is_key, done.lost)})


def _difference(found: Entry, functions: Mapping[str, Any]) -> str | None:
    """Say how an entry disagrees with a descriptor's functions of each element, if so."""
    for symbol, number in found.n_features.items():
        of_element = functions.get(symbol)
        if of_element is None:
            return f"it has features for {symbol}, for which the descriptor has none"
        if isinstance(of_element, list) and number != len(of_element):
            return f"it has {number} features for {symbol}, the descriptor has {len(of_element)}"
    return None


def _is_dead(name: str) -> bool:
    owner = temporary_owner(name)
    return owner is not None and owner.is_dead() is True


def _disagreement(archive: IndexedArchive) -> str | None:
    """Say how the index and the tar differ, when every record of the index is sound."""
    index, footer = archive.index, archive.footer
    assert footer is not None
    order = np.argsort(index.offset)
    start = index.offset[order].astype(np.int64)
    end = start + index.packed[order].astype(np.int64)
    if not np.array_equal(start, np.concatenate(([len(MEMBER_HEADER)], end[:-1]))[: len(start)]):
        return "there are bytes in the tar that the index does not know"
    last = int(end[-1]) if len(end) else len(MEMBER_HEADER)
    tail = zlib.decompressobj(-15)
    try:
        rest = tail.decompress(archive.bytes_at(last, footer.data_size - 8 - last), 2 * len(END))
    except (zlib.error, EOFError):
        return "the end of the tar is damaged"
    except OSError as error:
        if not is_damage(error):
            raise
        return "the end of the tar cannot be read"
    if rest != END or not tail.eof:
        return "there are bytes in the tar that the index does not know"
    lengths = np.append(index.length[order], np.uint64(len(END)))
    crc = combine(np.append(index.crc[order], np.uint32(crc32(END))), lengths)
    if crc != footer.data_crc or int(lengths.sum()) != footer.data_length:
        return "the checksum of the tar is not that of its records"
    return None
