"""Trusting a database of which nothing says whose it is: some entries are recomputed first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import FingerprintDatabase
from ampmpi.database.manifest import Manifest, require_same
from ampmpi.entries.compare import disagreement
from ampmpi.errors import CorruptEntryError, DatabaseError, DescriptorMismatchError, ImageError
from ampmpi.fingerprinting.inventory import Inventory
from ampmpi.fingerprinting.work import entries_of
from ampmpi.images import Images
from ampmpi.keys import member_of
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, agree_alone, on_all, share
from ampmpi.parallel.kernels import warm_up

if TYPE_CHECKING:
    from ampmpi.descriptor import Gaussian

NEEDED = 10
"""So many entries have to agree, or all if there are fewer, and one with each element."""


def settle_owner(
    databases: Mapping[int, FingerprintDatabase],
    inventory: Inventory,
    descriptor: Gaussian,
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
    notes = []
    for kind, database in databases.items():
        if dry_run:
            agree(comm, partial(_check_owner, database, descriptor))
            continue
        claim = partial(database.claim, descriptor.parameters, descriptor.digest)
        if agree(comm, partial(_claimed, claim, database, adopt)):
            continue
        candidates = comm.bcast(agree_alone(comm, partial(_candidates, database, inventory)))
        assert candidates is not None
        warm_up(comm, "ampmpi.descriptor")
        agreeing = compare(candidates, inventory.images, descriptor, database, kind, comm)
        agree(comm, partial(_claimed, claim, database, True))
        notes.append(
            f"{database.path} does not say which descriptor made it: {agreeing} of its entries "
            "were computed again and agree, so it is used"
        )
    return notes


def _claimed(claim: partial[bool], database: FingerprintDatabase, adopt: bool) -> bool:
    """Claim a database; where it may only be read, its owner's jobs will do so."""
    try:
        return claim(adopt=adopt)
    except DescriptorMismatchError:
        raise
    except DatabaseError:
        if not adopt or database.manifest() is not None or not len(database):
            raise
        return True


def _check_owner(database: FingerprintDatabase, descriptor: Gaussian) -> None:
    found, home = database.manifest(), database.home
    if found is not None and home is not None:
        require_same(home, found, Manifest(descriptor.parameters, descriptor.digest))


@dataclass(frozen=True)
class Candidates:
    """Images whose entries are in the database, in ascending order.

    Attributes
    ----------
    indices : (n,) int array
        The images.
    digests : (n,) array of 16 bytes
        Their hashes.
    locators : (n,) int64 array or None
        Where each is in its file.
    n_entries : int
        How many entries the database has.
    """

    indices: NDArray[np.integer]
    digests: NDArray[np.bytes_]
    locators: NDArray[np.int64] | None
    n_entries: int


def _candidates(database: FingerprintDatabase, inventory: Inventory) -> Candidates:
    """List the images that are in a database."""
    keys = database.digests()
    there = member_of(inventory.digests, keys)
    where = None if inventory.locators is None else inventory.locators[there]
    return Candidates(inventory.numbers[there], inventory.digests[there], where, len(keys))


@dataclass
class _Comparison:
    """What was compared, and entries that are damaged: these are never believed."""

    compared: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    elements: set[str] = field(default_factory=set)

    def shared(self, comm: Communicator) -> _Comparison:
        """Return what all ranks have compared."""
        everyone = comm.allgather(self)
        return _Comparison(
            set().union(*(one.compared for one in everyone)),
            set().union(*(one.damaged for one in everyone)),
            set().union(*(one.elements for one in everyone)),
        )


def compare(
    candidates: Candidates,
    images: Images,
    descriptor: Gaussian,
    database: FingerprintDatabase,
    what: int,
    comm: Communicator,
) -> int:
    """Recompute entries, each rank some, and compare; return how many agree.

    `NEEDED` of them, evenly spread over the images, then the others until there are so
    many, and one with each of the descriptor's elements.

    Raises
    ------
    DescriptorMismatchError
        An entry differs: the database is another descriptor's.
    DatabaseError
        Too few of the job's images are in the database, or none with some element.
    """
    total = len(candidates.indices)
    first = np.unique(np.linspace(0, total - 1, min(NEEDED, total)).astype(np.int64))
    rest = np.setdiff1d(np.arange(total), first)
    known, state = _Comparison(), _Comparison()
    for chosen in (first, rest):
        mine = chosen[comm.rank :: comm.size]
        on_all(
            comm,
            partial(
                _compare_some, mine, known, candidates, images, descriptor, database, what, state
            ),
        )
        known = state.shared(comm)
    needed = min(NEEDED, candidates.n_entries - len(known.damaged))
    if len(known.compared) < max(needed, 1):
        raise share(
            _unknown_owner(
                database,
                f"only {len(known.compared)} of the job's images can be compared with it, where "
                f"{max(needed, 1)} are needed",
                "add images that it was made from",
            )
        )
    unseen = set(descriptor.elements or ()) - known.elements
    if unseen:
        agree(comm, lambda: _check_unseen(database, known.compared, unseen))
    return len(known.compared)


def _unknown_owner(database: FingerprintDatabase, why: str, remedy: str) -> DatabaseError:
    return DatabaseError(
        f"{database.path} does not say which descriptor made it, and {why}: {remedy} or, if you "
        "are sure of it, adopt it with 'ampmpi fingerprint --adopt' and start again"
    )


def _check_unseen(database: FingerprintDatabase, compared: set[str], unseen: set[str]) -> None:
    """Check that no other entry has an element whose functions were not compared."""
    for key, entry in database.get_many(set(database) - compared):
        if found := sorted(unseen.intersection(entry.symbols)):
            raise _unknown_owner(
                database,
                f"its entry {key} holds {found[0]}, which no image compared with it does",
                "add images with that element that it was made from",
            )


def _compare_some(
    chosen: NDArray[np.int64],
    known: _Comparison,
    candidates: Candidates,
    images: Images,
    descriptor: Gaussian,
    database: FingerprintDatabase,
    what: int,
    state: _Comparison,
) -> None:
    """Compare the chosen candidates, as long as entries or elements are lacking."""
    elements = set(descriptor.elements or ())
    enough = min(NEEDED, candidates.n_entries)
    where = None if candidates.locators is None else candidates.locators[chosen].tolist()
    read = images.read_many(candidates.indices[chosen].tolist(), where)
    for position, (index, image) in zip(chosen.tolist(), read, strict=True):
        covered = known.elements | state.elements
        few = len(known.compared | state.compared) < enough
        if not few and covered >= elements:
            return
        if isinstance(image, ImageError) or (not few and set(image.symbols) <= covered):
            continue
        key = candidates.digests[position : position + 1].tobytes().hex()
        try:
            stored = database[key]
            ((_, ours),) = entries_of(image, descriptor, what)
        except (KeyError, CorruptEntryError):
            state.damaged.add(key)
            continue
        except ImageError:
            continue
        if (reason := disagreement(stored, ours)) is not None:
            raise DescriptorMismatchError(
                f"the database {database.path} holds the fingerprints of another descriptor: of "
                f"its entry for {images.ref(index)} ({key}), {reason}; choose another label or "
                "dblabel, or the descriptor that it was made with"
            )
        state.compared.add(key)
        state.elements |= set(image.symbols)
