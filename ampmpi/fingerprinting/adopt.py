"""Whose a database is; where nothing says it, some of its entries are computed again first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from ampmpi.database import FingerprintDatabase
from ampmpi.descriptor import Descriptor
from ampmpi.entries.compare import disagreement
from ampmpi.errors import (
    CorruptEntryError,
    DatabaseError,
    DescriptorMismatchError,
    ImageError,
    InputError,
)
from ampmpi.fingerprinting.changes import changes
from ampmpi.fingerprinting.inventory import Inventory
from ampmpi.fingerprinting.work import entries_of, make_ready
from ampmpi.keys import member_of, to_hex
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, on_all, share

NEEDED = 10
"""So many entries have to agree, or all if there are fewer, and one with each element."""


def resolve(
    descriptor: Descriptor,
    symbols: Iterable[str],
    database: FingerprintDatabase,
    comm: Communicator,
) -> Descriptor:
    """Fill in elements and functions that were left out, alike on every rank.

    They are those of the images, or of the database, where it was made with the same
    settings for more elements.

    Parameters
    ----------
    descriptor : Descriptor
        The descriptor as it was given. It stays on its rank: not every one can be sent.
    symbols : iterable of str
        Elements of the images.
    database : FingerprintDatabase
        The fingerprints; it need not exist.
    comm : Communicator
        The ranks.

    Raises
    ------
    InputError
        The ranks were given different descriptors.
    """
    elements = agree(comm, partial(_elements, descriptor, tuple(symbols), database))
    resolved, digest = on_all(comm, partial(_resolved, descriptor, elements))
    if len(set(comm.allgather(digest))) > 1:
        raise share(InputError("the ranks were given different descriptors: give all the same"))
    return resolved


def _elements(
    descriptor: Descriptor, symbols: tuple[str, ...], database: FingerprintDatabase
) -> tuple[str, ...]:
    """Return the elements to make a descriptor for."""
    resolved = descriptor.resolve(symbols)
    manifest = database.manifest()
    if resolved is not descriptor and manifest is not None:
        elements = manifest.parameters.get("elements") or ()
        if set(symbols) < set(elements):
            other = descriptor.resolve(elements)
            if other.digest == manifest.digest:
                return tuple(elements)
    return symbols


def _resolved(descriptor: Descriptor, elements: tuple[str, ...]) -> tuple[Descriptor, str]:
    resolved = descriptor.resolve(elements)
    return resolved, resolved.digest


def settle_owner(
    databases: Mapping[int, FingerprintDatabase],
    inventory: Inventory,
    descriptor: Descriptor,
    comm: Communicator,
    *,
    adopt: bool,
    dry_run: bool,
) -> list[str]:
    """Make sure that each database is this descriptor's, and write that down in it.

    Returns
    -------
    list of str
        What the user should know.

    Raises
    ------
    DescriptorMismatchError
        A database is another descriptor's.
    DatabaseError
        Nobody can know whose it is.
    """
    notes: list[str] = []

    def check() -> None:
        for database in databases.values():
            require_owner(database, descriptor)

    agree(comm, check)  # before the first of them is made
    if dry_run:
        return notes
    for kind, database in databases.items():
        if not agree(comm, partial(_claim, database, descriptor, adopt)):
            make_ready(descriptor, comm)
            agreeing = agree(comm, partial(_adopt, kind, database, inventory, descriptor))
            notes.append(
                f"{database.path} does not say which descriptor made it: {agreeing} of its entries "
                "were computed again and agree, so it is used"
            )
    return notes


def require_owner(database: FingerprintDatabase, descriptor: Descriptor) -> None:
    """Raise DescriptorMismatchError if a database says that it is of another descriptor."""
    found = database.manifest()
    if found is not None and found.digest != descriptor.digest:
        empty = "" if len(database) else ", or remove it, as it is empty, if no job uses it"
        raise DescriptorMismatchError(
            f"the database {database.path} holds the fingerprints of another descriptor "
            f"({changes(found.parameters, descriptor.parameters)}): choose another label or "
            f"dblabel, or that descriptor{empty}"
        )


def _claim(database: FingerprintDatabase, descriptor: Descriptor, adopt: bool) -> bool:
    """Claim a database; where it may only be read, its owner's jobs will do so."""
    try:
        return database.claim(descriptor.parameters, descriptor.digest, adopt=adopt)
    except DescriptorMismatchError:
        raise
    except DatabaseError:
        if not adopt or database.manifest() is not None or not len(database):
            raise
        return True


def _adopt(
    kind: int, database: FingerprintDatabase, inventory: Inventory, descriptor: Descriptor
) -> int:
    """Claim a database after entries of it were computed again; return how many agree.

    `NEEDED` of them, evenly spread over the images, then others until there are so many
    that are not damaged, and one with each of the descriptor's elements.
    """
    keys = database.digests()
    there = np.flatnonzero(member_of(inventory.digests, keys))
    spread = np.linspace(0, len(there) - 1, min(NEEDED, len(there))).astype(np.int64)
    elements = set(descriptor.elements or ())
    compared, seen, n_damaged = set[str](), set[str](), 0
    for places in (there[spread], np.delete(there, spread)):
        where = None if inventory.locators is None else inventory.locators[places].tolist()
        read = inventory.images.read_many(inventory.numbers[places].tolist(), where)
        for place, (index, image) in zip(places.tolist(), read, strict=True):
            enough = len(compared) >= min(NEEDED, len(keys))
            if enough and seen >= elements:
                break
            if isinstance(image, ImageError) or (enough and seen.issuperset(image.symbols)):
                continue
            (key,) = to_hex(inventory.digests[place : place + 1])
            try:
                stored = database[key]
                ((_, ours),) = entries_of(image, descriptor, kind)
            except (KeyError, CorruptEntryError):
                n_damaged += 1
                continue
            except ImageError:
                continue
            if (reason := disagreement(stored, ours)) is not None:
                raise DescriptorMismatchError(
                    f"the database {database.path} holds the fingerprints of another descriptor: "
                    f"of its entry for {inventory.images.ref(index)} ({key}), {reason}; choose "
                    "another label or dblabel, or the descriptor that it was made with"
                )
            compared.add(key)
            seen.update(image.symbols)
    needed = max(min(NEEDED, len(keys) - n_damaged), 1)
    if len(compared) < needed:
        raise _unknown_owner(
            database,
            f"only {len(compared)} of the job's images can be compared with it, where {needed} "
            "are needed",
            "add images that it was made from",
        )
    if unseen := elements - seen:
        for key, entry in database.get_many(set(database) - compared):
            if found := sorted(unseen.intersection(entry.symbols)):
                raise _unknown_owner(
                    database,
                    f"its entry {key} holds {found[0]}, which no image compared with it does",
                    "add images with that element that it was made from",
                )
    _claim(database, descriptor, adopt=True)
    return len(compared)


def _unknown_owner(database: FingerprintDatabase, why: str, remedy: str) -> DatabaseError:
    return DatabaseError(
        f"{database.path} does not say which descriptor made it, and {why}: {remedy} or, if you "
        "are sure of it, adopt it with 'ampmpi fingerprint --adopt' and start again"
    )
