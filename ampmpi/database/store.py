"""Reading and writing the entries of a database that others use at the same time."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import loose, manifest
from ampmpi.database.archive.reader import Archive
from ampmpi.database.layout import (
    ARCHIVE,
    DAMAGED,
    LOCK,
    LOOSE,
    TEMPORARIES,
    Home,
    database_path,
    kind_of,
)
from ampmpi.database.manifest import Manifest
from ampmpi.database.packed import PackReader
from ampmpi.database.packs import open_packs
from ampmpi.entries import Entry, Fingerprint, Kind
from ampmpi.entries.codec import decode, encode, judge
from ampmpi.errors import CorruptEntryError, DatabaseError
from ampmpi.files.atomic import temporaries
from ampmpi.files.folder import Stamp
from ampmpi.files.trouble import database_error
from ampmpi.keys import digests_of, is_key, member_of, to_hex, union

T = TypeVar("T")
_FEW = 32
_TRIES = 10
_LOOSE, _PACKED, _ARCHIVED = "its loose copy", "its copy in a pack", "its copy in the archive"


@dataclass(frozen=True)
class DatabaseInfo:
    """What a database holds, and what lies in its directory.

    Attributes
    ----------
    path : str
        The directory.
    kind : str
        ``"fingerprints"``, ``"primes"`` or ``"other"``.
    entries, loose, packed, archived : int
        Keys in all, and where they are; a key may be in several places.
    bytes_loose, bytes_packs, bytes_archive : int
        Sizes of the files.
    packs, open_packs : int
        Number of packs, and of those that are still being written or were left unfinished.
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
    damage : str or None
        What is wrong with the archive as a whole, so that entries may be missing.
    """

    path: str
    kind: Kind
    entries: int
    loose: int
    packed: int
    archived: int
    bytes_loose: int
    bytes_packs: int
    bytes_archive: int
    packs: int
    open_packs: int
    files: int
    others: int
    temporaries: int
    damaged: int
    locked: bool
    manifest: Manifest | None
    damage: str | None


class Listing(NamedTuple):
    """What a database held when it was listed, as sorted 16-byte strings.

    Attributes
    ----------
    everywhere : (n,) array of 16-byte strings
        All keys.
    loose : (m,) array of 16-byte strings
        Those of loose entries.
    """

    everywhere: NDArray[np.bytes_]
    loose: NDArray[np.bytes_]


class Store:
    """The entries of one database; see `ampmpi.FingerprintDatabase`."""

    def __init__(self, path: str | os.PathLike[str], rank: int = 0) -> None:
        self._home = Home.find(path)
        self.path = database_path(path) if self._home is None else self._home.path
        self.rank = rank
        self.corrupt: dict[str, str] = {}
        self._archive: Archive | None = None
        self._packs: PackReader | None = None

    @classmethod
    def create(cls, path: str | os.PathLike[str], rank: int = 0) -> Self:
        """Open a database, and make its directory if it does not exist."""
        database = cls(path, rank)
        database.make()
        return database

    def make(self) -> Home:
        """Return the database's directory, made if it did not exist."""
        if self._home is None:
            self._home = Home.create(self.path)
        return self._home

    def hold(self, home: Home) -> None:
        """Use a directory that is open already."""
        if self._home is not home:
            self._home = home
            self.close()

    @property
    def home(self) -> Home | None:
        """The database's directory, held open from when it is first seen; None if there is none."""
        if self._home is None:
            self._home = Home.find(self.path)
        return self._home

    @property
    def kind(self) -> Kind:
        """What the database holds, by its name."""
        return kind_of(self.path)

    def close(self) -> None:
        """Close the archive and forget the packs; the database can be used again nevertheless."""
        # Dropped, not closed: someone may be in the middle of get_many.
        self._archive = self._packs = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def __getitem__(self, key: str) -> Entry:
        """Return an entry; raises CorruptEntryError if all of its copies are damaged."""
        return self._get(key, lambda _, data: decode(data, kind=self.kind))

    def get_bytes(self, key: str) -> bytes:
        """Return an entry as it is stored, whatever it holds."""
        return self._get(key, lambda _, data: data)

    def _get(self, key: str, parse: Callable[[str, bytes], T]) -> T:
        reasons: dict[str, str] = {}

        def look() -> tuple[bool, T | None]:
            for place, read in (
                (_LOOSE, self._from_loose),
                (_PACKED, self._from_packs),
                (_ARCHIVED, self._from_archive),
            ):
                value = _parse(key, place, read(key), parse, reasons)
                if value is not None:
                    return True, value
            return key in reasons, None

        value = self._settle(look) if is_key(key) else None
        self.corrupt.update(reasons)
        if value is not None:
            return value
        if key in reasons:
            raise CorruptEntryError(
                f"entry {key} of {self.path} is damaged ({reasons[key]}): compute it again"
            )
        raise KeyError(key)

    def _settle(self, look: Callable[[], tuple[bool, T]]) -> T:
        """Look until it is known to be found, or nothing has moved since the last look.

        Another process may move entries from one place to the other, and back, at any
        time, so that a key is absent only if it was in no place while all of them
        stayed the same. The same loop opens anew what a file server no longer has.
        """
        for attempt in range(_TRIES + 1):
            # Not at the first look: it costs a request, and most often finds the entry.
            before = self._state() if attempt else None
            try:
                settled, found = look()
            except OSError as error:
                if error.errno != errno.ESTALE or attempt == _TRIES:
                    if isinstance(error, DatabaseError):
                        raise
                    raise database_error(error, "read", self.path) from error
                self.close()
            else:
                if settled or attempt == _TRIES or (attempt and self._state() == before):
                    return found
        raise AssertionError("unreachable")

    def _state(self) -> object:
        """Return what changes when entries move.

        That is which file the archive is now and, if there is none, when names here last changed,
        since one may have come and gone between two looks; and the state of the packs.
        """
        packs = self._pack_reader()
        return self._archive_state(), None if packs is None else packs.state()

    def _archive_state(self) -> tuple[Stamp | None, int]:
        home = self.home
        if home is None:
            return None, 0
        stamp = self._archive_stamp(home)
        return stamp, 0 if stamp else os.fstat(home.root.descriptor).st_mtime_ns

    def _pack_reader(self) -> PackReader | None:
        home = self.home
        if self._packs is None and home is not None:
            self._packs = PackReader(home)
        return self._packs

    def _archive_stamp(self, home: Home) -> Stamp | None:
        try:
            return Stamp.of(home.root.status(ARCHIVE))
        except FileNotFoundError:
            return None

    def _current_archive(self) -> Archive | None:
        """Return the archive that is there now, opened again if it was replaced."""
        home = self.home
        stamp = None if home is None else self._archive_stamp(home)
        if home is None or self._archive is None or self._archive.stamp != stamp:
            self._archive = None
            if home is not None and stamp is not None:
                with contextlib.suppress(FileNotFoundError):
                    self._archive = Archive.open(home.root, ARCHIVE)
        return self._archive

    def _from_loose(self, key: str) -> bytes | CorruptEntryError | None:
        if (home := self.home) is None:
            return None
        try:
            found = loose.read(home, key)
        except CorruptEntryError as error:
            return error
        return None if found is None else found[0]

    def _from_packs(self, key: str) -> bytes | CorruptEntryError | None:
        packs = self._pack_reader()
        return None if packs is None else packs.read(key)

    def _from_archive(self, key: str) -> bytes | CorruptEntryError | None:
        archive = self._current_archive()
        if archive is None:
            return None
        try:
            return archive.read(key)
        except KeyError:
            return None
        except CorruptEntryError as error:
            return error

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
        loose.put(self.make(), key, data, self.rank)
        self.corrupt.pop(key, None)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str) or not is_key(key):
            return False

        def look() -> tuple[bool, bool]:
            home, packs = self.home, self._pack_reader()
            if home is None or packs is None:
                return False, False
            found = loose.exists(home, key) or key in packs
            found = found or ((archive := self._current_archive()) is not None and key in archive)
            return found, found

        return self._settle(look)

    def digests(self) -> NDArray[np.bytes_]:
        """Return all keys as 16-byte strings, sorted: takes a tenth of the memory of a list."""
        return self.listing().everywhere

    def listing(self) -> Listing:
        """List the database once; see `digests`."""

        def look() -> tuple[bool, Listing]:
            # Packs that come meanwhile unsettle nothing: entries move on to the archive.
            before = self._archive_state()
            home, packs = self.home, self._pack_reader()
            if home is None or packs is None:
                return True, Listing(digests_of([]), digests_of([]))
            in_loose = loose.digests(home)
            places = [in_loose, packs.current().digests()]
            archive = self._current_archive()
            if archive is not None:
                places.append(archive.digests())
            filled = [digests for digests in places if len(digests)]
            everywhere = union(*filled) if len(filled) > 1 else (filled or places)[0]
            return self._archive_state() == before, Listing(everywhere, in_loose)

        return self._settle(look)

    def __iter__(self) -> Iterator[str]:
        return iter(to_hex(self.digests()))

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
            return wanted - {key for key, _ in self._scan(wanted, self._verified)}
        return wanted.difference(self)

    def _verified(self, key: str, data: bytes) -> bool:
        if self.kind == "other":
            judge(data, self.kind)
        else:
            decode(data, kind=self.kind)
        return True

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

        return self._scan(set(self if keys is None else keys), parse)

    def _scan(self, keys: set[str], parse: Callable[[str, bytes], T]) -> Iterator[tuple[str, T]]:
        """Go through what `parse` makes of entries' bytes; as `get_many` otherwise."""
        rest = set(filter(is_key, keys))
        reasons: dict[str, str] = {}
        for place, copies in (
            (_LOOSE, self._loose_copies(rest)),
            (_PACKED, self._packed_copies(rest)),
            (_ARCHIVED, self._archived_copies(rest)),
        ):
            for key, data in copies:
                if key not in rest:
                    continue
                value = _parse(key, place, data, parse, reasons)
                if value is not None:
                    rest.discard(key)
                    yield key, value
        rest -= reasons.keys()
        self.corrupt.update(reasons)
        if rest:
            # Another process may have moved some from one place to the other.
            for key in sorted(rest.intersection(self)):
                with contextlib.suppress(KeyError, CorruptEntryError):
                    yield key, self._get(key, parse)

    def _loose_copies(self, keys: set[str]) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        listed = sorted(keys)
        if len(keys) > _FEW:
            wanted = digests_of(listed)
            listed = to_hex(wanted[member_of(wanted, self.listing().loose)])
        for key in listed:
            try:
                data = self._from_loose(key)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                continue  # it was replaced on its server: it is looked for again in the end
            if data is not None:
                yield key, data

    def _packed_copies(self, keys: set[str]) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        packs = self._pack_reader() if keys else None
        if packs is None:
            return
        try:
            if packs.current().packs:
                yield from packs.read_many(digests_of(sorted(keys)))
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise database_error(error, "read", self.path) from error
            self.close()  # it was replaced on its server: the rest is looked for one by one

    def _archived_copies(self, keys: set[str]) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        archive = self._current_archive() if keys else None
        if archive is None:
            return
        try:
            yield from archive.read_many(digests_of(sorted(keys)))
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise database_error(error, "read", archive.path) from error
            self.close()  # it was replaced on its server: the rest is looked for one by one

    def manifest(self) -> Manifest | None:
        """Whose fingerprints these are; None if the database does not say."""
        home = self.home
        return None if home is None else manifest.read(home)

    def claim(self, parameters: Mapping[str, object], digest: str, adopt: bool = False) -> bool:
        """Write down whose fingerprints are in this database; the first one to do so is right.

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
            False if there are entries of an unknown descriptor, also in packs that are not
            ended; nothing was done then.

        Raises
        ------
        DescriptorMismatchError
            It holds those of another descriptor.
        DatabaseError
            The manifest cannot be read or written.
        """
        mine = Manifest(parameters, digest)
        found = self.manifest()
        if found is not None:
            assert self._home is not None
            manifest.require_same(self._home, found, mine)
            return True
        if not adopt and (len(self) > 0 or (self._home and open_packs(self._home))):
            return False
        manifest.claim(self.make(), mine)
        return True

    def info(self) -> DatabaseInfo:
        """Return what the database holds, and what lies in its directory."""
        home = self.home or Home.open(self.path)
        loose_keys, sizes, others = [], 0, 0
        folder = home.loose
        try:
            if folder is not None:
                with folder.scan() as found:
                    for item in found:
                        if loose.is_entry(item):
                            loose_keys.append(item.name)
                            with contextlib.suppress(OSError):
                                sizes += item.stat().st_size
                        else:
                            others += 1
        except OSError as error:
            raise database_error(error, "list", home.full(LOOSE)) from error
        packs = self._settle(lambda: (True, PackReader(home).current()))
        archive = self._current_archive()
        archived = digests_of([]) if archive is None else archive.digests()
        aside = home.inner(DAMAGED)
        return DatabaseInfo(
            path=self.path,
            kind=self.kind,
            entries=len(union(digests_of(loose_keys), packs.digests(), archived)),
            loose=len(loose_keys),
            packed=len(packs.digests()),
            archived=len(archived),
            bytes_loose=sizes,
            bytes_packs=sum(pack.stamp.size for pack in packs.packs),
            bytes_archive=archive.stamp.size if archive is not None else 0,
            packs=len(packs.packs),
            open_packs=len(open_packs(home)),
            files=sum(len(folders) + len(files) for _, folders, files in os.walk(self.path)) + 1,
            others=others,
            temporaries=len(temporaries(home.inner(TEMPORARIES))),
            damaged=0 if aside is None else len(aside.names()),
            locked=home.root.has(LOCK),
            manifest=self.manifest(),
            damage=None if archive is None else archive.damage,
        )


def _parse(
    key: str,
    place: str,
    data: bytes | CorruptEntryError | None,
    parse: Callable[[str, bytes], T],
    reasons: dict[str, str],
) -> T | None:
    """Return what `parse` makes of a copy; None, and the reason kept, if it is damaged."""
    if data is None:
        return None
    if isinstance(data, CorruptEntryError):
        reasons.setdefault(key, str(data))
        return None
    try:
        return parse(key, data)
    except CorruptEntryError as error:
        reasons.setdefault(key, f"{place}: {error}")
        return None
