"""Adding databases to one another."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ampmpi.database import manifest
from ampmpi.database.compress import CompressReport, Rewriting, rewrite
from ampmpi.database.layout import ARCHIVE, PACKS, Home
from ampmpi.database.lock import Lock
from ampmpi.database.manifest import Manifest, difference
from ampmpi.database.packs import open_packs
from ampmpi.database.sound import (
    ArchivedEntries,
    LooseEntries,
    PackedEntries,
    Place,
    Source,
)
from ampmpi.database.store import Store
from ampmpi.database.workers import Workers
from ampmpi.errors import DescriptorMismatchError, InputError
from ampmpi.text import amount


@dataclass
class MergeReport:
    """What a merge did.

    Attributes
    ----------
    added : dict of str to int
        Number of entries that came from each source.
    corrupt : dict of str to str
        Entries of sources of which no copy was sound, and why.
    damaged : dict of str to str
        Archives and packs of sources that are damaged, and how: what could be saved was taken.
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
    homes = [Home.open(source) for source in sources]
    into = Store(target)
    for home in homes:
        if into.home is not None and _is_same(home, into.home):
            raise InputError(f"{home.path} is the target itself: name other sources")
        if home.kind != into.kind:
            raise InputError(f"{home.path} holds {home.kind}, {into.path} {into.kind}")
    owner = _agree(into, homes, assume_same) if into.kind != "other" else None
    target_home = into.make()
    if owner is not None:
        manifest.claim(target_home, owner)
    more: list[LooseEntries | PackedEntries | ArchivedEntries] = []

    def open_sources(stack: contextlib.ExitStack, closely: Collection[Place]) -> Sequence[Source]:
        more.clear()
        for home in homes:  # what counts first comes first
            more.extend((LooseEntries(home, Workers()), PackedEntries(home, closely=closely)))
            with contextlib.suppress(FileNotFoundError):
                archived = ArchivedEntries(home, None, ARCHIVE, closely)
                more.append(stack.enter_context(archived))
        return more

    lock = Lock(target_home, wait=wait, break_lock=break_lock, job=job)
    done = rewrite(target_home, lock, what=Rewriting(more=open_sources))
    done.warnings += [
        f"{home.path} has {amount(number, 'pack')} that are not ended, whose entries were not "
        "taken: compress it and merge it again"
        for home in homes
        if (number := len(open_packs(home)))
    ]
    added = {home.path: done.given.get(home.path, 0) for home in homes}
    corrupt: dict[str, str] = {}
    damaged: dict[str, str] = {}
    for source in more:
        corrupt = source.lost | corrupt
        path = source.home.path
        if isinstance(source, ArchivedEntries) and source.archive.damage is not None:
            damaged[f"the archive of {path}"] = source.archive.damage
        elif isinstance(source, PackedEntries):
            damaged |= {f"{path}/{name}": why for name, why in source.unreadable.items()}
            damaged |= {f"{path}/{PACKS}/{name}": why for name, why in source.damaged.items()}
    corrupt = {key: reason for key, reason in corrupt.items() if key not in into}
    return MergeReport(added, corrupt, damaged, done)


def _is_same(one: Home, other: Home) -> bool:
    a, b = os.fstat(one.root.descriptor), os.fstat(other.root.descriptor)
    return os.path.samestat(a, b)


def _agree(into: Store, homes: Sequence[Home], assume_same: bool) -> Manifest | None:
    """Check that all databases are of one descriptor; return it if any of them says which."""
    said = [(into.path, into.manifest()), *((home.path, manifest.read(home)) for home in homes)]
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
