"""Reading everything that a database holds, saying what is wrong, and repairing it."""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ampmpi.database import deleted, entry, loose, manifest
from ampmpi.database.archive import Archive, IndexedArchive
from ampmpi.database.aside import set_aside
from ampmpi.database.atomic import temporaries, temporary_owner
from ampmpi.database.compress import YOUNG, Damage, Progress, compress
from ampmpi.database.foreign import StreamedArchive
from ampmpi.database.gzipstream import MEMBER_HEADER, combine, crc32
from ampmpi.database.intake import read_loose
from ampmpi.database.layout import Layout, is_key, require_database
from ampmpi.database.lock import read_holder
from ampmpi.database.tarstream import END
from ampmpi.database.writer import Stamp
from ampmpi.errors import CorruptEntryError, DatabaseError


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
        Problems that are still there after the repair.
    """

    path: str
    sound: int = 0
    problems: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 for a clean database, 5 for one that was repaired, 4 for a damaged one."""
        if not self.problems:
            return 0
        return 5 if self.repairs and not self.remaining else 4


def check(
    path: str | os.PathLike[str],
    *,
    repair: bool = False,
    wait: float = 0.0,
    break_lock: bool = False,
    progress: Progress | None = None,
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

    Raises
    ------
    DatabaseError
        It is no database, or it cannot be read or repaired.
    """
    found = _Check(require_database(path), progress)
    found.run()
    report = found.report
    if repair and report.problems:
        found.repair(wait, break_lock)
        again = _Check(found.layout, None)
        again.run()
        report.remaining = again.report.problems
    return report


class _Check:
    """One reading of a database."""

    def __init__(self, layout: Layout, progress: Progress | None) -> None:
        self.layout = layout
        self.report = CheckReport(layout.root)
        self._bad_loose: dict[str, Stamp] = {}
        self._bad_archived: set[str] = set()
        self._damage: Damage | None = None
        self._archive_is_bad = False
        self._manifest_is_bad = False
        self._n_features: dict[str, int] = {}
        self._loose: set[str] = set()
        self._done = self._steps = 0
        self._progress = progress

    def run(self) -> None:
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
            self._find_lost(archive)
        self._look_around()

    def _problem(self, text: str) -> None:
        self.report.problems.append(text)

    def _step(self, total: int) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(total, self._done))

    def _judge(self, data: bytes) -> None:
        """Check all that can be known of an entry."""
        kind = self.layout.kind
        if kind == "other" and data and entry.MAGIC not in data[-64:]:
            return
        found = entry.decode(data, kind=kind)
        for symbol, number in found.n_features.items():
            expected = self._n_features.get(symbol, number)
            if number != expected:
                raise CorruptEntryError(
                    f"it has {number} features for {symbol}, the descriptor has {expected}"
                )

    def _check_manifest(self) -> None:
        try:
            said = manifest.read(self.layout)
        except DatabaseError as error:
            self._problem(f"manifest: {error}")
            self._manifest_is_bad = True
            return
        if said is not None:
            self._n_features = _feature_counts(said.parameters)
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
                continue
            try:
                self._judge(data)
            except CorruptEntryError as error:
                if time.time() - stamp.mtime_ns / 1e9 < YOUNG:
                    self.report.notes.append(
                        f"loose: {key} is damaged ({error}), or still being written"
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
        for key, data in archive.read_many():
            self._step(len(self._loose) + len(archive))
            try:
                if isinstance(data, CorruptEntryError):
                    raise data
                self._judge(data)
                self.report.sound += 1
            except CorruptEntryError as error:
                self._bad_archived.add(key)
                self._archive_is_bad = True
                self._problem(f"archive: {key} is damaged: {error}")
        if archive.damage is not None:
            self._archive_is_bad = True
            self._problem(
                f"archive: {archive.path} is damaged ({archive.damage}): "
                f"{len(archive)} entries come before the damage; what comes after it may be lost"
            )
        else:
            self.report.notes.append(
                "index: the archive has none that fits (Amp or another tool wrote it): "
                "the next compression gives it one"
            )

    def _find_lost(self, archive: Archive | None) -> None:
        for key in self._bad_loose.keys() | self._bad_archived:
            in_loose = key in self._loose and key not in self._bad_loose
            in_archive = archive is not None and key in archive and key not in self._bad_archived
            if not in_loose and not in_archive:
                self.report.lost.append(key)
        self.report.lost.sort()

    def _look_around(self) -> None:
        layout, notes = self.layout, self.report.notes
        try:
            others = [name for name in os.listdir(layout.loose) if not is_key(name)]
        except OSError:
            others = []
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

    def repair(self, wait: float, break_lock: bool) -> None:
        """Do what can be done about the problems."""
        layout, done = self.layout, self.report.repairs
        layout.create()
        if self._manifest_is_bad:
            target = set_aside(layout, layout.manifest, "descriptor.json")
            done.append(f"manifest: moved to {target}")
        for key, stamp in self._bad_loose.items():
            if time.time() - stamp.mtime_ns / 1e9 >= YOUNG:
                target = set_aside(layout, layout.loose_entry(key), key)
                done.append(f"loose: {key} moved to {target}")
        if self._archive_is_bad:
            report = compress(layout.root, wait=wait, break_lock=break_lock, damage=self._damage)
            done.append(
                f"archive: written anew with {report.entries} entries"
                + (f"; the damaged one is kept as {report.copy}" if report.copy else "")
            )
            rescued = {key for key in self.report.lost if key in self._bad_archived}
            with Archive.open(layout.archive) as archive:
                self.report.lost = [
                    key for key in self.report.lost if key not in rescued or key not in archive
                ]
        if not done:
            done.append("loose: the directory was made")


def _is_dead(name: str) -> bool:
    owner = temporary_owner(name)
    return owner is not None and owner.is_dead() is True


def _feature_counts(parameters: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of features of each element, where a manifest says it."""
    functions = parameters.get("Gs")
    if not isinstance(functions, Mapping):
        return {}
    return {
        symbol: len(of_element)
        for symbol, of_element in functions.items()
        if isinstance(of_element, list)
    }


def _disagreement(archive: IndexedArchive) -> str | None:
    """Say how the index and the tar differ, when every record of the index is sound."""
    index, footer = archive.index, archive.footer
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
    if rest != END or not tail.eof:
        return "there are bytes in the tar that the index does not know"
    lengths = np.append(index.length[order], np.uint64(len(END)))
    crc = combine(np.append(index.crc[order], np.uint32(crc32(END))), lengths)
    if crc != footer.data_crc or int(lengths.sum()) != footer.data_length:
        return "the checksum of the tar is not that of its records"
    return None
