"""The database as a mapping from an image's hash to its entry."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import deleted, loose, manifest
from ampmpi.database.archive.reader import Archive, Identity
from ampmpi.database.intake import judge
from ampmpi.database.layout import Layout, database_path, require_database
from ampmpi.database.manifest import Manifest
from ampmpi.entries import Entry, Fingerprint, Kind
from ampmpi.entries.codec import decode, encode
from ampmpi.errors import CorruptEntryError, DatabaseError
from ampmpi.files.atomic import database_error, temporaries
from ampmpi.keys import digests_of, distinct, is_key, to_hex

if TYPE_CHECKING:
    from ampmpi.database.compress import CompressReport

T = TypeVar("T")
_FEW = 32
_TRIES = 10
_LOOSE, _ARCHIVED = "its loose copy", "its copy in the archive"


@dataclass(frozen=True)
class DatabaseInfo:
    """What a database holds, and what lies in its directory.

    Attributes
    ----------
    path : str
        The directory.
    kind : str
        ``"fingerprints"``, ``"primes"`` or ``"other"``.
    entries, loose, archived : int
        Keys in all, and where they are; a key may be in both places.
    deleted : int
        Keys whose archived copy goes at the next compress.
    bytes_loose, bytes_archive : int
        Sizes of the files.
    files : int
        Number of files and directories: the inodes in use.
    others : int
        What lies in ``loose/`` and is no entry.
    temporaries, damaged : int
        Number of temporaries of writers, and of files set aside.
    locked : bool
        Whether a compress is running, or was killed.
    manifest : Manifest or None
        The descriptor; None if the database has none.
    """

    path: str
    kind: Kind
    entries: int
    loose: int
    archived: int
    deleted: int
    bytes_loose: int
    bytes_archive: int
    files: int
    others: int
    temporaries: int
    damaged: int
    locked: bool
    manifest: Manifest | None


class FingerprintDatabase(MutableMapping[str, Entry]):
    """The fingerprints, or their primes, of images.

    Any number of processes on any number of hosts may use one database at once.
    A damaged entry is never returned: its other copy is used if there is one,
    and the key is kept in `corrupt` with what is wrong.

    Parameters
    ----------
    path : path
        The directory; ``.ampdb`` is appended where it is missing, as in Amp.
        It is made when something is first written.
    rank : int
        MPI rank of this process, for the names of temporaries.

    Attributes
    ----------
    path : str
        The directory.
    kind : str
        ``"fingerprints"``, ``"primes"``, or ``"other"`` for a name that does
        not say; an entry of the other kind counts as damaged.
    corrupt : dict of str to str
        What was found damaged, and how.

    Raises
    ------
    DatabaseError
        There is something else of that name.
    """

    def __init__(self, path: str | os.PathLike[str], rank: int = 0) -> None:
        root = database_path(path)
        exists = os.path.lexists(root) or os.path.lexists(path)
        self.layout = require_database(path) if exists else Layout(root)
        self.path = self.layout.root
        self.kind: Kind = self.layout.kind
        self.rank = rank
        self.corrupt: dict[str, str] = {}
        self._archive: Archive | None = None

    @classmethod
    def create(cls, path: str | os.PathLike[str], rank: int = 0) -> Self:
        """Open a database, and make its directory if it does not exist."""
        database = cls(path, rank)
        database.layout.create()
        return database

    def close(self) -> None:
        """Close the archive; the database can be used again nevertheless."""
        # Dropped, not closed: someone may be in the middle of get_many.
        self._archive = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FingerprintDatabase({self.path!r})"

    def __getitem__(self, key: str) -> Entry:
        """Return an entry.

        Raises
        ------
        KeyError
            There is none.
        CorruptEntryError
            All of its copies are damaged.
        """
        reasons: dict[str, str] = {}
        for place, data in self._copies(key):
            entry = _parse(key, place, data, self._decoded, reasons)
            if entry is not None:
                self.corrupt.update(reasons)
                return entry
        self.corrupt.update(reasons)
        if key in reasons:
            raise CorruptEntryError(
                f"entry {key} of {self.path} is damaged ({reasons[key]}): compute it again"
            )
        raise KeyError(key)

    def get_bytes(self, key: str) -> bytes:
        """Return an entry as it is stored, whatever it holds.

        Raises
        ------
        KeyError
            There is none.
        CorruptEntryError
            No copy can be read.
        """
        error: CorruptEntryError | None = None
        for _, data in self._copies(key):
            if not isinstance(data, CorruptEntryError):
                return data
            error = error or data
        raise error or KeyError(key)

    def _copies(self, key: str) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        """Go through the copies of an entry, the one that counts first.

        Another process may move the entry from one place to the other, and back,
        at any time, so that a key is absent only if it was in neither place
        while the archive stayed the same.
        """
        if not isinstance(key, str) or not is_key(key):
            return
        for attempt in range(_TRIES + 1):
            # Not at the first look: it costs a request, and most often finds the entry.
            before = self._state() if attempt else None
            found = False
            for copy in self._both_copies(key):
                found = True
                yield copy
            if found or (attempt and self._state() == before):
                return

    def _both_copies(self, key: str) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        for place, get in ((_LOOSE, self._from_loose), (_ARCHIVED, self._from_archive)):
            data = get(key)
            if data is not None:
                yield place, data

    def _from_loose(self, key: str) -> bytes | CorruptEntryError | None:
        try:
            return loose.read(self.layout, key)
        except CorruptEntryError as error:
            return error

    def _from_archive(self, key: str) -> bytes | CorruptEntryError | None:
        for _ in range(_TRIES):
            archive = self._archive_unless_deleted(key)
            if archive is None:
                return None
            try:
                return archive.read(key)
            except KeyError:
                return None
            except CorruptEntryError as error:
                return error
            except OSError as error:
                self._archive_failed(error)
        return None

    def _archive_unless_deleted(self, key: str) -> Archive | None:
        """Return the archive, if there is one and its copy of a key is not deleted."""
        # The mark first: a compress takes it away when its new archive is in place.
        return None if deleted.is_marked(self.layout, key) else self._current_archive()

    def _archive_failed(self, error: OSError) -> None:
        """Open the archive anew if it was replaced under us; otherwise raise."""
        if error.errno != errno.ESTALE:
            raise database_error(error, "read", self.layout.archive) from error
        self.close()

    def _archive_identity(self) -> Identity | None:
        """Which file the archive is now."""
        for _ in range(_TRIES):
            try:
                return Identity.of(os.stat(self.layout.archive))
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise database_error(error, "look for", self.layout.archive) from error
        raise DatabaseError(f"{self.layout.archive} is replaced all the time: try again later")

    def _state(self) -> Identity | int | None:
        """Which file the archive is now; if there is none, when names here last changed.

        An archive may have come and gone between two looks.
        """
        if (identity := self._archive_identity()) is not None:
            return identity
        try:
            return os.stat(self.layout.root).st_mtime_ns
        except OSError:
            return None

    def _current_archive(self) -> Archive | None:
        """Return the archive that is there now, opened again if it was replaced."""
        identity = self._archive_identity()
        if self._archive is None or self._archive.identity != identity:
            self.close()
            with contextlib.suppress(FileNotFoundError):
                self._archive = Archive.open(self.layout.archive)
        return self._archive

    def __setitem__(self, key: str, entry: Entry) -> None:
        """Write an entry; see `put`."""
        self.put(key, entry)

    def put(self, key: str, entry: Entry) -> bytes:
        """Write an entry, whole or not at all, and return what was written.

        Raises
        ------
        ImageError
            A value is not finite.
        DatabaseError
            It cannot be written; what was there before is still there.
        """
        if self.kind != "other" and isinstance(entry, Fingerprint) != (self.kind == "fingerprints"):
            raise DatabaseError(f"{self.path} holds {self.kind}, not a {type(entry).__name__}")
        data = encode(entry)
        self.put_bytes(key, data)
        return data

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write an entry that is encoded already; see `put`."""
        loose.put(self.layout, key, data, self.rank)
        self.corrupt.pop(key, None)

    def __delitem__(self, key: str) -> None:
        """Remove an entry; its copy in the archive is hidden now and goes at the next compress."""
        if key not in self:
            raise KeyError(key)
        deleted.mark(self.layout, key)
        loose.remove(self.layout, key)
        # Once more: a compress may have taken away the mark together with the loose entry.
        deleted.mark(self.layout, key)
        self.corrupt.pop(key, None)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str) or not is_key(key):
            return False
        for _ in range(_TRIES):
            before = self._state()
            if loose.exists(self.layout, key):
                return True
            archive = self._archive_unless_deleted(key)
            if archive is not None and key in archive:
                return True
            if self._state() == before:
                break
        return False

    def digests(self) -> NDArray[np.bytes_]:
        """Return all keys as 16-byte strings, sorted: takes a tenth of the memory of a list.

        Raises
        ------
        DatabaseError
            The database cannot be read.
        """
        for _ in range(_TRIES):
            before = self._state()
            found = loose.digests(self.layout)
            hidden = deleted.marked(self.layout).keys()
            archive = self._current_archive()
            if archive is not None:
                found = _union(found, archive.digests(), digests_of(sorted(hidden)))
            if self._state() == before:
                break
        return found

    def _list(self) -> list[str]:
        """Return all keys, sorted."""
        return to_hex(self.digests())

    def __iter__(self) -> Iterator[str]:
        return iter(self._list())

    def __len__(self) -> int:
        return len(self.digests())

    def missing(self, keys: Iterable[str], check: bool = False) -> set[str]:
        """Return those keys that have no entry, by one listing.

        Parameters
        ----------
        keys : iterable of str
            The keys that are wanted.
        check : bool
            Whether to read what is there, too, and count a damaged entry as
            missing; it is then in `corrupt`.
        """
        wanted = set(keys)
        if check:
            return wanted - {key for key, _ in self.scan(wanted, self._verified)}
        return wanted.difference(self._list())

    def get_many(
        self, keys: Iterable[str] | None = None, n_atoms: Mapping[str, int] | None = None
    ) -> Iterator[tuple[str, Entry]]:
        """Go through many entries: loose ones are listed once, the archive is read front to back.

        Parameters
        ----------
        keys : iterable of str, optional
            Which; all by default. Each is returned once, in no order.
        n_atoms : mapping of str to int, optional
            The number of atoms of each key's image; an entry that has another
            one counts as damaged.

        Yields
        ------
        key, entry
            Keys that are not there are passed over; so are damaged ones, which
            are then in `corrupt`.
        """
        numbers = n_atoms or {}

        def parse(key: str, data: bytes) -> Entry:
            return decode(data, numbers.get(key), self.kind)

        return self.scan(set(self._list() if keys is None else keys), parse)

    def scan(self, keys: set[str], parse: Callable[[str, bytes], T]) -> Iterator[tuple[str, T]]:
        """Go through what `parse` makes of entries' bytes; as `get_many` otherwise.

        `parse` raises CorruptEntryError for a damaged one.
        """
        rest = set(filter(is_key, keys))
        reasons: dict[str, str] = {}
        for place, copies in (
            (_LOOSE, self._loose_copies(rest)),
            (_ARCHIVED, self._archived_copies(rest)),
        ):
            for key, data in copies:
                value = _parse(key, place, data, parse, reasons)
                if value is not None:
                    rest.discard(key)
                    yield key, value
        rest -= reasons.keys()
        if rest:
            # Another process may have moved some from one place to the other.
            for key in sorted(rest.intersection(self._list())):
                for place, data in self._copies(key):
                    value = _parse(key, place, data, parse, reasons)
                    if value is not None:
                        yield key, value
                        break
        self.corrupt.update(reasons)

    def _loose_copies(self, keys: set[str]) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        listed = keys if len(keys) <= _FEW else keys & loose.keys(self.layout)
        for key in sorted(listed):
            data = self._from_loose(key)
            if data is not None:
                yield key, data

    def _archived_copies(self, keys: set[str]) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        hidden = deleted.marked(self.layout).keys() if keys else set()
        archive = self._current_archive() if keys else None
        if archive is None:
            return
        try:
            yield from archive.read_many(keys - hidden)
        except OSError as error:
            self._archive_failed(error)

    def _decoded(self, key: str, data: bytes) -> Entry:
        return decode(data, kind=self.kind)

    def _verified(self, key: str, data: bytes) -> bool:
        judge(data, self.kind)
        return True

    def archive_damage(self) -> str | None:
        """Say what is wrong with the archive as a whole, so that entries may be missing."""
        archive = self._current_archive()
        return None if archive is None else archive.damage

    def manifest(self) -> Manifest | None:
        """Whose fingerprints these are; None if the database does not say.

        Raises
        ------
        DatabaseError
            The manifest cannot be read, or is damaged.
        """
        return manifest.read(self.layout)

    def needs_adoption(self) -> bool:
        """Whether there are entries, and nothing says of which descriptor."""
        return self.manifest() is None and len(self) > 0

    def claim(self, parameters: Mapping[str, Any], digest: str, adopt: bool = False) -> bool:
        """Say whose fingerprints are in this database; the first one to do so is right.

        Parameters
        ----------
        parameters : mapping
            All settings of the descriptor, of plain JSON values.
        digest : str
            Digest of those that determine the numbers.
        adopt : bool
            Whether to claim entries of which nothing says whose they are:
            they were compared, or the user wants it so.

        Returns
        -------
        bool
            False if the database needs adoption; nothing was done then.

        Raises
        ------
        DescriptorMismatchError
            It holds those of another descriptor.
        DatabaseError
            The manifest cannot be read or written.
        """
        if not adopt and self.needs_adoption():
            return False
        manifest.claim(self.layout, Manifest(parameters, digest))
        return True

    def compress(self, **options: Any) -> CompressReport:
        """Move the loose entries into the archive; see `ampmpi.database.compress`."""
        from ampmpi.database.compress import compress

        try:
            return compress(self.path, **options)
        finally:
            self.close()

    def info(self) -> DatabaseInfo:
        """Return what the database holds, and what lies in its directory."""
        layout = self.layout
        loose_keys, sizes, others = set(), 0, 0
        try:
            with os.scandir(layout.loose) as found:
                for item in found:
                    if loose.is_entry(item):
                        loose_keys.add(item.name)
                        with contextlib.suppress(OSError):
                            sizes += item.stat().st_size
                    else:
                        others += 1
        except FileNotFoundError:
            pass
        except OSError as error:
            raise database_error(error, "list", layout.loose) from error
        archive = self._current_archive()
        hidden = deleted.marked(layout).keys()
        archived = set(archive.keys()) - hidden if archive is not None else set()
        return DatabaseInfo(
            path=self.path,
            kind=self.kind,
            entries=len(loose_keys | archived),
            loose=len(loose_keys),
            archived=len(archived),
            deleted=len(hidden),
            bytes_loose=sizes,
            bytes_archive=archive.identity.size if archive is not None else 0,
            files=sum(len(folders) + len(files) for _, folders, files in os.walk(self.path)) + 1,
            others=others,
            temporaries=len(temporaries(layout.temporaries)),
            damaged=sum(len(files) for _, _, files in os.walk(layout.damaged)),
            locked=os.path.lexists(layout.lock),
            manifest=self.manifest(),
        )


def _union(
    loose_keys: NDArray[np.bytes_], archived: NDArray[np.bytes_], hidden: NDArray[np.bytes_]
) -> NDArray[np.bytes_]:
    """Join sorted keys of both places; those hidden count only where they are loose."""
    if len(hidden):
        archived = archived[~np.isin(archived, hidden)]
    if not len(loose_keys):
        return archived
    both = np.concatenate((loose_keys, archived))
    both.sort()
    return distinct(both)


def _parse(
    key: str,
    place: str,
    data: bytes | CorruptEntryError,
    parse: Callable[[str, bytes], T],
    reasons: dict[str, str],
) -> T | None:
    """Return what `parse` makes of a copy; None, and the reason kept, if it is damaged."""
    if isinstance(data, CorruptEntryError):
        reasons.setdefault(key, str(data))
        return None
    try:
        return parse(key, data)
    except CorruptEntryError as error:
        reasons.setdefault(key, f"{place}: {error}")
        return None
