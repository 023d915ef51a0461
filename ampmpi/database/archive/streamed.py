"""Archives without an index that fits: Amp's, other tools', and damaged ones.

They are read front to back: once to learn which entries there are, and once
more for all entries that are wanted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from ampmpi.database.archive.deflate import GzipReader
from ampmpi.database.archive.reader import Archive, Identity
from ampmpi.database.archive.tar import BLOCK, MAX_ENTRY_SIZE, is_bound, members, padded
from ampmpi.errors import CorruptEntryError
from ampmpi.files.trouble import is_damage, reason_of


class StreamedArchive(Archive):
    """An archive that is read front to back.

    Of files of the same name the last one counts, as for every tar. A hard
    link stands for the file of that name before it, and is an entry as well.

    Attributes
    ----------
    damage : str or None
        Why reading ended early, or that the checksum is wrong.
    trusted : bool
        Whether the bytes before the damage, if there is any, are those that
        were written: they are in a file that was only cut off, or that the disk
        cannot read further. Otherwise an entry without a checksum of its own
        cannot be believed.
    others : int
        Number of members that are no entries.
    """

    indexed = False

    def __init__(self, path: str, descriptor: int, identity: Identity) -> None:
        super().__init__(path, descriptor, identity)
        self.trusted = True
        self.others = 0
        self._places: dict[str, int] = {}
        self._links: dict[int, set[str]] = {}
        self._resolved: set[int] = set()
        number = -1
        stream = self._stream()
        try:
            for number, member in enumerate(members(stream)):
                if member.key is not None and member.link in self._places:
                    target = self._places[member.key] = self._places[member.link]
                    self._links.setdefault(target, set()).add(member.key)
                    self._resolved.add(number)
                    continue
                if member.key is None or member.link is not None:
                    self.others += 1
                    continue
                if not stream.skip(padded(member.size)):
                    raise EOFError("the tar ends inside an entry")
                self._places[member.key] = number
            stream.finish_member()
        except EOFError as error:
            self.damage = str(error)
        except ValueError as error:
            self.damage = str(error)
            self.trusted = False
        self._count = number + 1

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return sorted(self._places)

    def read(self, key: str) -> bytes:
        """Return an entry's bytes; see `Archive.read`."""
        if key not in self._places:
            raise KeyError(key)
        ((_, data),) = self.read_many([key])
        if isinstance(data, CorruptEntryError):
            raise data
        return data

    def read_many(
        self, keys: Iterable[str] | None = None
    ) -> Iterator[tuple[str, bytes | CorruptEntryError]]:
        """Go through entries; see `Archive.read_many`."""
        wanted = self._places if keys is None else {k for k in keys if k in self._places}
        found: set[str] = set()
        if not wanted:
            return
        for key, headers, data in self.walk():
            if key in wanted and key is not None:
                reason = self.doubt(key, headers, data)
                if reason is None:
                    yield key, data
                else:
                    where = f"entry {key} in {self.path}"
                    yield key, CorruptEntryError(f"{where} cannot be believed: {reason}")
                found.add(key)
                if len(found) == len(wanted):
                    return
        for key in sorted(set(wanted) - found):
            where = f"entry {key} in {self.path}"
            yield key, CorruptEntryError(f"{where} can no longer be read: {self.damage}")

    def doubt(self, key: str, headers: bytes, data: bytes) -> str | None:
        """Say why an entry cannot be believed, if so."""
        bound = is_bound(headers[-BLOCK:], key, data)
        if bound is False:
            return "its checksum is wrong"
        if bound is None and not self.trusted:
            return f"the archive is damaged ({self.damage}), and the entry has no checksum there"
        return None

    def walk(self, others: bool = False) -> Iterator[tuple[str | None, bytes, bytes]]:
        """Go through the members that count; `damage` says afterwards if not all could be read.

        Parameters
        ----------
        others : bool
            Whether to go through members that are no entries, too, unless
            they are larger than any entry may be.

        Yields
        ------
        key : str or None
            None for a member that is no entry.
        headers : bytes
            Its tar headers.
        data : bytes
            What it holds; for one that is no entry, padding included.
        """
        stream = self._stream()
        try:
            for number, member in enumerate(members(stream)):
                if member.key is not None and member.link is None:
                    names = {member.key, *self._links.get(number, ())}
                    names = {name for name in names if self._places.get(name) == number}
                    if not names:
                        continue
                    data = stream.read(member.size)
                    if len(data) < member.size:
                        raise EOFError("the tar ends inside an entry")
                    for name in sorted(names):
                        # The checksum in the headers is of the name there.
                        yield name, member.headers if name == member.key else b"", data
                elif number in self._resolved:
                    continue
                elif others and member.size <= MAX_ENTRY_SIZE:
                    yield None, member.headers, stream.read(padded(member.size))
        except EOFError as error:
            self.damage = self.damage or str(error)
        except ValueError as error:
            self.damage, self.trusted = self.damage or str(error), False

    def _stream(self) -> GzipReader:
        position = 0

        def read(size: int) -> bytes:
            nonlocal position
            try:
                data = os.pread(self._descriptor, size, position)
            except OSError as error:
                if not is_damage(error):
                    raise
                reason = f"from byte {position} on it cannot be read: {reason_of(error)}"
                raise EOFError(reason) from error
            position += len(data)
            return data

        return GzipReader(read)
