"""Adding databases to one another, and turning an archive back into loose files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from ampmpi.database import deleted, loose
from ampmpi.database.archive.reader import Archive, IndexedArchive
from ampmpi.database.archive.salvage import rescue
from ampmpi.database.archive.streamed import StreamedArchive
from ampmpi.database.archive.writer import Chunk, deflate_entry
from ampmpi.database.aside import keep_copy, set_aside, set_aside_as_read
from ampmpi.database.compress import (
    CompressReport,
    Progress,
    archive_identity,
    compress,
)
from ampmpi.database.database import FingerprintDatabase
from ampmpi.database.intake import judge, read_loose, remove_as_read, stamp_of
from ampmpi.database.layout import Layout, require_database
from ampmpi.database.lock import Lock
from ampmpi.database.manifest import Manifest, difference
from ampmpi.errors import CorruptEntryError, DatabaseError, DescriptorMismatchError, InputError
from ampmpi.files.atomic import Temporary, database_error


@dataclass
class MergeReport:
    """What a merge did.

    Attributes
    ----------
    added : dict of str to int
        Number of entries that came from each source.
    corrupt : dict of str to str
        Entries of sources that are damaged, and how.
    damaged : dict of str to str
        Sources whose archive is damaged, and how: what could be saved was taken.
    compress : CompressReport
        What became of the target.
    """

    added: dict[str, int]
    corrupt: dict[str, str]
    damaged: dict[str, str]
    compress: CompressReport


def merge(
    target: str | os.PathLike[str],
    sources: Sequence[str | os.PathLike[str]],
    *,
    assume_same: bool = False,
    wait: float = 0.0,
    break_lock: bool = False,
    job: str | None = None,
) -> MergeReport:
    """Add the entries of databases to the archive of another one.

    Entries that the target has stay as they are; of those that several sources
    have the first one counts. Sources are not changed.

    Parameters
    ----------
    target : path
        The database that grows; made if it does not exist.
    sources : sequence of path
        Those that it takes entries from.
    assume_same : bool
        Take databases that do not say whose descriptor they are of for ones of
        the others' descriptor.
    wait, break_lock, job
        As for `compress`.

    Raises
    ------
    DescriptorMismatchError
        A source has another descriptor, or does not say which one.
    InputError
        A source is the target, or holds entries of another kind.
    DatabaseError
        A database cannot be read or written.
    """
    databases = [FingerprintDatabase(require_database(source).root) for source in sources]
    into = FingerprintDatabase(target)
    for database in databases:
        if os.path.exists(into.path) and os.path.samefile(database.path, into.path):
            raise InputError(f"{database.path} is the target itself: name other sources")
        if database.kind != into.kind:
            raise InputError(f"{database.path} holds {database.kind}, {into.path} {into.kind}")
    owner = _agree(into, databases, assume_same) if into.kind != "other" else None
    into.layout.create()
    if owner is not None:
        into.claim(owner.parameters, owner.digest, adopt=True)
    new = _New(into, databases)
    done = compress(into.path, chunks=new, wait=wait, break_lock=break_lock, job=job)
    if any(loose.exists(into.layout, key) for key in into.corrupt):
        # Damaged loose copies would hide the sound ones that were added.
        after = compress(into.path, wait=wait, break_lock=break_lock, job=job)
        for mine, other in ((done.set_aside, after.set_aside), (done.stuck, after.stuck)):
            mine.update(other)
    return MergeReport(new.added, new.corrupt, new.damaged, done)


class _New:
    """The entries of sources that a target lacks; they can be iterated over more than once."""

    def __init__(self, into: FingerprintDatabase, sources: list[FingerprintDatabase]) -> None:
        self.added: dict[str, int] = {}
        self.corrupt: dict[str, str] = {}
        self.damaged: dict[str, str] = {}
        self._into = into
        self._sources = sources

    def __iter__(self) -> Iterator[Chunk]:
        self.added.clear()
        self.corrupt.clear()
        self.damaged.clear()
        taken: set[str] = set()
        for source in self._sources:
            before = len(taken)
            # A damaged copy in the target does not count: the source's is taken.
            wanted = self._into.missing(set(source) - taken, check=True)
            for key, data in _sound(source, wanted):
                taken.add(key)
                yield deflate_entry(key, data)
            self.corrupt.update(source.corrupt)
            if (damage := source.archive_damage()) is not None:
                self.damaged[source.path] = damage
            if damage is not None or source.corrupt.keys() - taken:
                hidden = deleted.marked(source.layout).keys() | taken
                saved = {key for key, _ in _rescued(source.layout, hidden)}
                wanted = self._into.missing(saved, check=True)
                for key, data in _rescued(source.layout, hidden):
                    if key in wanted:
                        wanted.discard(key)
                        taken.add(key)
                        self.corrupt.pop(key, None)
                        yield deflate_entry(key, data)
            self.added[source.path] = len(taken) - before


def _agree(
    into: FingerprintDatabase, databases: list[FingerprintDatabase], assume_same: bool
) -> Manifest | None:
    """Check that all databases are of one descriptor; return it if any of them says which."""
    said = [(database.path, database.manifest()) for database in (into, *databases)]
    known = [(path, found) for path, found in said if found is not None]
    unknown = [path for path, found in said if found is None]
    if into.path in unknown and not len(into):
        unknown.remove(into.path)
    for path, found in known[1:]:
        first_path, first = known[0]
        if found.digest != first.digest:
            raise DescriptorMismatchError(
                f"{path} and {first_path} are of different descriptors "
                f"({difference(first.parameters, found.parameters)}): they cannot be merged"
            )
    if unknown and not assume_same:
        raise DescriptorMismatchError(
            f"{unknown[0]} does not say of which descriptor it is: run a job on it, which "
            f"compares its entries, or say --assume-same if you know that it is the same"
        )
    return known[0][1] if known else None


def _sound(database: FingerprintDatabase, keys: set[str]) -> Iterator[tuple[str, bytes]]:
    def parse(key: str, data: bytes) -> bytes:
        judge(data, database.kind)
        return data

    return database.scan(keys, parse)


def _rescued(layout: Layout, but: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Go through the entries that lie anywhere in a damaged archive, but for some keys."""
    try:
        for key, data in rescue(layout.archive):
            if key not in but:
                with contextlib.suppress(CorruptEntryError):
                    judge(data, layout.kind)
                    yield key, data
    except FileNotFoundError:
        return


@dataclass
class UncompressReport:
    """What an uncompress did.

    Attributes
    ----------
    written : int
        Number of loose entries that were made.
    corrupt : dict of str to str
        Archived entries that are damaged, and how.
    set_aside : dict of str to str
        Loose entries that were damaged and made way for archived ones, and how.
    damage : str or None
        What was wrong with the archive as a whole: entries may be lost.
    copy : str or None
        Where the archive is kept, if it was damaged or holds other files.
    """

    written: int = 0
    damage: str | None = None
    corrupt: dict[str, str] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    copy: str | None = None


def uncompress(
    path: str | os.PathLike[str],
    *,
    wait: float = 0.0,
    break_lock: bool = False,
    job: str | None = None,
    progress: Progress | None = None,
) -> UncompressReport:
    """Make loose entries of all archived ones, and remove the archive.

    A loose entry that is there already stays, if it is sound: it is newer.

    Parameters are those of `compress`.

    Raises
    ------
    DatabaseError
        It cannot be read or written; the archive is still there.
    """
    layout, report = require_database(path), UncompressReport()
    layout.create()
    with Lock(layout, wait=wait, break_lock=break_lock, job=job) as lock:
        try:
            archive = Archive.open(layout.archive)
        except FileNotFoundError:
            return report
        with archive:
            marks = deleted.marked(layout)
            wanted = set(archive.keys()) - marks.keys()
            wanted -= _keep_sound(layout, wanted & loose.keys(layout), report)
            for done, (key, data) in enumerate(archive.read_many(wanted)):
                try:
                    if isinstance(data, CorruptEntryError):
                        raise data
                    judge(data, layout.kind)
                except CorruptEntryError as error:
                    report.corrupt[key] = str(error)
                else:
                    report.written += _put_back(layout, key, data)
                if progress is not None:
                    progress(done + 1, len(wanted))
            report.damage = archive.damage
            if report.corrupt or report.damage:
                sound = set(archive.keys()) - report.corrupt.keys()
                for key, data in _rescued(layout, sound | marks.keys()):
                    report.written += _put_back(layout, key, data)
                    report.corrupt.pop(key, None)
            os.sync()
            if report.corrupt or report.damage or _has_others(archive):
                report.copy = keep_copy(layout, layout.archive)
            lock.require()
            if archive_identity(layout) != archive.identity:
                raise DatabaseError(f"{layout.archive} was replaced meanwhile: start again")
            try:
                os.unlink(layout.archive)
            except OSError as error:
                raise database_error(error, "remove", layout.archive) from error
            deleted.unmark(layout, marks)
    return report


def _keep_sound(layout: Layout, keys: set[str], report: UncompressReport) -> set[str]:
    """Return those loose entries that are sound; the others make way for archived ones."""
    sound = set()
    for key in sorted(keys):
        stamp, path = None, layout.loose_entry(key)
        try:
            data, stamp = read_loose(layout, key)
            judge(data, layout.kind)
        except FileNotFoundError:
            continue
        except OSError as error:
            try:
                if stamp is None:
                    set_aside(layout, path, key)
                elif set_aside_as_read(layout, path, stamp) is None:
                    continue
            except OSError as reason:
                raise database_error(reason, "set aside the damaged entry", path) from error
            report.set_aside[key] = error.strerror or str(error)
        else:
            sound.add(key)
    return sound


def _put_back(layout: Layout, key: str, data: bytes) -> bool:
    """Make a loose entry, unless one was made or the key deleted meanwhile."""
    target = layout.loose_entry(key)
    if deleted.is_marked(layout, key):
        return False
    try:
        with Temporary(layout.temporaries, "put") as temporary:
            temporary.write(data)
            stamp = stamp_of(os.fstat(temporary.descriptor))
            if temporary.link(target):
                if deleted.is_marked(layout, key):
                    # Deleted meanwhile, perhaps before there was a loose entry to remove.
                    with contextlib.suppress(OSError):
                        remove_as_read(target, stamp)
                    return False
                return True
    except FileNotFoundError as error:
        raise database_error(error, "write", target) from error
    if loose.exists(layout, key):
        return False
    # What has the name is no entry: it makes way, or refuses, as for every put.
    loose.put(layout, key, data)
    return True


def _has_others(archive: Archive) -> bool:
    if isinstance(archive, IndexedArchive):
        return len(archive.index.offset) > len(archive)
    return isinstance(archive, StreamedArchive) and archive.others > 0
