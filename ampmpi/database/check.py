"""Reading everything that a database holds, saying what is wrong, and repairing it.

A repair sets aside what is damaged and writes a damaged archive anew from what is
sound. It never removes an entry that is whole.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ampmpi.database import loose, manifest
from ampmpi.database.archive.deflate import MEMBER_HEADER, combine
from ampmpi.database.archive.index import read_exactly
from ampmpi.database.archive.reader import Archive, IndexedArchive, StreamedArchive
from ampmpi.database.archive.tar import END
from ampmpi.database.compress import Progress, Rewriting, abandoned, rewrite
from ampmpi.database.layout import ARCHIVE, DAMAGED, LOOSE, MANIFEST, PACKS, Home
from ampmpi.database.lock import Lock, read_holder
from ampmpi.database.manifest import DamagedManifestError, Manifest
from ampmpi.database.packs import pack_names, unfinished
from ampmpi.database.sound import salvageable
from ampmpi.entries import Entry, codec
from ampmpi.entries.checksum import crc32
from ampmpi.errors import CorruptEntryError, DatabaseError, LockedError
from ampmpi.files.atomic import is_young, set_aside
from ampmpi.files.folder import Folder, Stamp
from ampmpi.files.trouble import unless_damaged
from ampmpi.keys import is_key, to_hex


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


_PLACES = {"archive": "archived", "pack": "in a pack"}

Doubt = Callable[[Manifest], str | None]


def check(
    path: str | os.PathLike[str],
    *,
    repair: bool = False,
    wait: float = 0.0,
    break_lock: bool = False,
    progress: Progress | None = None,
    doubt: Doubt | None = None,
) -> CheckReport:
    """Read all entries of a database and verify them.

    Parameters
    ----------
    path : path
        The database.
    repair : bool
        Set aside what is damaged, save what is sound in a damaged archive, and
        keep a copy of that archive. Where the archive has to be written anew,
        loose entries move into it. No entry that is whole is removed.
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
    home = Home.open(path)
    found = _Check(home, progress, doubt)
    found.run()
    report = found.report
    report.repair = repair
    if repair and report.problems:
        failed = found.repair(Lock(home, wait=wait, break_lock=break_lock))
        after = _Check(home, None, doubt)
        after.run(report.lost)
        report.lost = after.report.lost
        report.remaining = failed + after.report.problems
    return report


class _Check:
    """One reading of a database."""

    def __init__(self, home: Home, progress: Progress | None, doubt: Doubt | None) -> None:
        self.home = home
        self.report = CheckReport(home.path)
        self._doubt = doubt
        self._functions: Mapping[str, Any] | None = None
        self._bad_manifest: Stamp | None = None
        self._loose: set[str] = set()
        self._loose_is_missing = False
        self._bad_loose: dict[str, Stamp] = {}
        self._young: set[str] = set()
        self._bad_archived: set[str] = set()
        self._archive_is_bad = False
        self._bad_packed: set[str] = set()
        self._packed: set[str] = set()
        self._packs_are_bad = False
        self._done = 0
        self._progress = progress

    def run(self, suspects: Iterable[str] = ()) -> None:
        """Read everything; of suspects, too, find out whether they are lost."""
        self._check_manifest()
        self._check_loose()
        self._check_packs()
        with contextlib.ExitStack() as stack:
            archive: Archive | None = None
            with contextlib.suppress(FileNotFoundError):
                archive = stack.enter_context(Archive.open(self.home.root, ARCHIVE))
            if isinstance(archive, IndexedArchive):
                self._archive_is_bad = self._check_indexed(archive, "archive", self._bad_archived)
            elif isinstance(archive, StreamedArchive):
                self._check_streamed(archive)
            self._find_lost(archive, suspects)
        self._look_around()

    def _problem(self, text: str) -> None:
        self.report.problems.append(text)

    def _step(self, total: int) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(total, self._done))

    def _judge(self, where: str, key: str, data: bytes) -> bool:
        """Check all that can be known of an entry; whether it fits the manifest is said alone."""
        kind = self.home.kind
        if kind == "other" and data and codec.MAGIC not in data[-64:]:
            return True
        entry = codec.decode(data)
        try:
            codec.require_kind(entry, kind)
            if self._functions is not None:
                _require_fit(entry, self._functions)
        except CorruptEntryError as error:
            self._problem(
                f"value: {key} ({where}) is whole, but {error}: if the database's name and "
                f"{MANIFEST} are right, delete it (FingerprintDatabase.delete) and start the job "
                "again"
            )
            return False
        return True

    def _check_manifest(self) -> None:
        root = self.home.root
        stamp: Stamp | None = None
        with contextlib.suppress(OSError):
            stamp = Stamp.of(root.status(MANIFEST))
        try:
            said = manifest.read(self.home)
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
                self._problem(f"manifest: {root.full(MANIFEST)} cannot be believed: {reason}")
                self._bad_manifest = stamp
            elif isinstance(functions := said.parameters.get("Gs"), Mapping):
                self._functions = functions or None
        elif self.home.kind != "other":
            self.report.notes.append(
                "manifest: there is none: the next job compares entries with its own "
                "before it uses them"
            )

    def _check_loose(self) -> None:
        self._loose = set(to_hex(loose.digests(self.home)))
        for key in sorted(self._loose):
            self._step(len(self._loose))
            stamp: Stamp | None = None
            try:
                found = loose.read(self.home, key)
                if found is None:
                    self._loose.discard(key)
                    continue
                data, stamp = found
                self.report.sound += self._judge(LOOSE, key, data)
            except CorruptEntryError as error:
                self._loose.discard(key)
                self._bad_loose_entry(key, stamp, error)

    def _bad_loose_entry(self, key: str, stamp: Stamp | None, error: CorruptEntryError) -> None:
        if stamp is None:
            self._problem(f"loose: {key} cannot be read: {error}")
            self._bad_archived.add(key)  # lost, unless there is another copy
        elif is_young(stamp):
            self._young.add(key)
            self.report.notes.append(
                f"loose: {key} is damaged ({error}), or still being written: "
                f"it is younger than a minute; check again later"
            )
        else:
            self._problem(f"loose: {key} is damaged: {error}")
            self._bad_loose[key] = stamp

    def _check_packs(self) -> None:
        for name in sorted(pack_names(self.home)):
            try:
                with Archive.open(self.home.needed(PACKS), name) as pack:
                    keys = set(to_hex(pack.digests()))
                    bad: set[str] = set()
                    if isinstance(pack, IndexedArchive):
                        self._packs_are_bad |= self._check_indexed(pack, "pack", bad)
                    elif isinstance(pack, StreamedArchive):
                        self._packs_are_bad = True
                        keys.update(to_hex(pack.expected))
                        bad = keys - _sound(pack)
                        self._problem(
                            f"pack: {pack.path} has no index that fits"
                            + (f" ({pack.damage})" if pack.damage else "")
                            + ": --repair or the next compression saves what is sound in it"
                        )
                    if bad:
                        bad -= salvageable(pack, self.home.kind)
            except FileNotFoundError:
                continue  # a compress has taken it
            except DatabaseError as error:
                self._packs_are_bad = True
                self._problem(f"pack: {error}")
                continue
            self._packed |= keys - bad
            self._bad_packed |= bad

    def _check_indexed(self, archive: IndexedArchive, what: str, bad_keys: set[str]) -> bool:
        """Read an archive or pack with an index; return whether anything is wrong with it."""
        if is_bad := archive.damage is not None:
            self._problem(
                f"{what}: {archive.path} is damaged ({archive.damage}), but its index is whole"
            )
        records = archive.records()
        total = len(self._loose) + len(records.part.offset)
        for number, raw in records.walk():
            self._step(total)
            key = records.key(number)
            try:
                if isinstance(raw, CorruptEntryError):
                    raise raw
                data = records.entry(number, raw)
                if key is not None:
                    self.report.sound += self._judge(_PLACES[what], key, data)
            except CorruptEntryError as error:
                is_bad = True
                if key is not None:
                    bad_keys.add(key)
                    self._problem(f"{what}: {key}: {error}")
                else:
                    self._problem(f"{what}: {error}")
        if not is_bad and (reason := _disagreement(archive)) is not None:
            is_bad = True
            where = "index" if what == "archive" else f"pack: {archive.path}"
            self._problem(f"{where}: {reason}")
        return is_bad

    def _check_streamed(self, archive: StreamedArchive) -> None:
        missing = set(to_hex(archive.digests()))
        before = len(missing)
        for key, headers, data in archive.walk():
            if key is None:
                continue
            missing.discard(key)
            self._step(len(self._loose) + before)
            try:
                if (doubt := archive.doubt(key, headers, data)) is not None:
                    raise CorruptEntryError(doubt)
                self.report.sound += self._judge("archived", key, data)
            except CorruptEntryError as error:
                self._bad_archived.add(key)
                self._archive_is_bad = True
                self._problem(f"archive: {key} is damaged: {error}")
        self._bad_archived |= missing
        if archive.damage is not None:
            self._archive_is_bad = True
            seen = set(to_hex(archive.digests())) - missing
            self._bad_archived |= set(to_hex(archive.expected)) - seen
            saved = len(salvageable(archive, self.home.kind) - seen)
            self._problem(
                f"archive: {archive.path} is damaged ({archive.damage}): "
                f"{len(seen)} entries come before the damage; what comes after it may be lost"
                + (f", but for {saved} that can be saved" if saved else "")
            )
        elif archive.is_ours:
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
        lost = {*self._bad_loose, *self._bad_archived, *self._bad_packed, *suspects}
        lost -= self._loose | self._packed
        if archive is not None:
            lost = {key for key in lost if key in self._bad_archived or key not in archive}
            if lost:
                lost -= salvageable(archive, self.home.kind)
        self.report.lost = sorted(lost)

    def _look_around(self) -> None:
        home, notes = self.home, self.report.notes
        folder = home.loose
        if folder is None:
            self._loose_is_missing = True
            self._problem("loose: the directory loose/ is missing: Amp cannot use the database")
        else:
            with folder.scan() as found:
                others = sum(not loose.is_entry(item) for item in found)
            if others:
                notes.append(
                    f"loose: {others} names in loose/ are not entries: they are left alone"
                )
        archives = len(abandoned(home))
        if archives:
            notes.append(
                f"tmp: {archives} archives that killed compressions left: the next one takes over "
                "what only they hold"
            )
        packs = len(unfinished(home, exactly=False))
        if packs:
            notes.append(
                f"tmp: {packs} packs that killed ranks left unfinished: the next job or "
                "compression saves what is in them"
            )
        others = len(abandoned(home, "")) - archives - len(abandoned(home, "pack"))
        if others:
            notes.append(
                f"tmp: {others} temporaries of killed processes: a compression removes them"
            )
        if holder := read_holder(home):
            notes.append(f"lock: held by {holder}")

    def repair(self, lock: Lock) -> list[str]:
        """Do what can be done about the problems, and report it; return what could not be done."""
        failed: list[str] = []
        home, report = self.home, self.report
        if self._loose_is_missing:
            try:
                home.complete()
                report.repairs.append("loose: the directory was made")
            except DatabaseError as error:
                failed.append(f"loose: {error}")
        if self._bad_manifest is not None:
            self._set_aside("manifest", home.root, MANIFEST, self._bad_manifest, failed)
        for key, stamp in self._bad_loose.items():
            self._set_aside("loose", home.needed(LOOSE), key, stamp, failed)
        if self._archive_is_bad or self._packs_are_bad:
            try:
                done = rewrite(home, lock, what=Rewriting(anew=self._archive_is_bad))
            except DatabaseError as error:
                report.locked = isinstance(error, LockedError)
                failed.append(f"archive: {error}")
            else:
                report.repairs.append(
                    f"archive: written anew with {done.entries} entries"
                    + (f"; the damaged one is kept as {done.copy}" if done.copy else "")
                )
                for name in done.packs_aside:
                    report.repairs.append(f"pack: {name} moved to {home.full(DAMAGED)}")
                report.lost = sorted({*report.lost, *filter(is_key, done.lost)})
        return failed

    def _set_aside(
        self, where: str, folder: Folder, name: str, stamp: Stamp, failed: list[str]
    ) -> None:
        try:
            target = set_aside(folder, name, stamp, self.home.damaged)
        except OSError as error:
            failed.append(f"{where}: {name} cannot be moved to damaged/: {error.strerror or error}")
            return
        if target is not None:
            self.report.repairs.append(f"{where}: {name} moved to {target}")
        else:
            self.report.notes.append(
                f"{where}: {name} was written again or removed during the check: it was left alone"
            )


def _sound(archive: StreamedArchive) -> set[str]:
    """Return the keys of entries of an archive without an index that are what was archived."""
    return {
        key
        for key, headers, data in archive.walk()
        if key is not None and archive.doubt(key, headers, data) is None
    }


def _require_fit(found: Entry, functions: Mapping[str, Any]) -> None:
    """Check that an entry has the features that a descriptor's functions give each element."""
    for symbol, number in found.n_features.items():
        of_element = functions.get(symbol)
        if of_element is None:
            raise CorruptEntryError(
                f"it has features for {symbol}, for which the descriptor has none"
            )
        if isinstance(of_element, list) and number != len(of_element):
            raise CorruptEntryError(
                f"it has {number} features for {symbol}, where the descriptor has {len(of_element)}"
            )


def _disagreement(archive: IndexedArchive) -> str | None:
    """Say how the index and the tar differ, when every record of the index is sound."""
    part, footer = archive.records().part, archive.footer
    start = part.offset.astype(np.int64)
    end = start + part.packed.astype(np.int64)
    if not np.array_equal(start, np.concatenate(([len(MEMBER_HEADER)], end[:-1]))[: len(start)]):
        return "there are bytes in the tar that the index does not know"
    last = int(end[-1]) if len(end) else len(MEMBER_HEADER)
    tail = zlib.decompressobj(-15)
    rest = b""
    with unless_damaged(zlib.error, EOFError) as damage:
        raw = read_exactly(archive.descriptor, footer.data_size - 8 - last, last)
        rest = tail.decompress(raw, 2 * len(END))
    if damage:
        return f"the end of the tar is damaged ({damage[0]})"
    if rest != END or not tail.eof:
        return "there are bytes in the tar that the index does not know"
    lengths = np.append(part.length, np.uint64(len(END)))
    crc = combine(np.append(part.crc, np.uint32(crc32(END))), lengths)
    if crc != footer.data_crc or int(lengths.sum()) != footer.data_length:
        return "the checksum of the tar is not that of its records"
    return None
