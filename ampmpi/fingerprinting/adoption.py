"""Trusting a database of which nothing says whose it is: its entries are recomputed first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import FingerprintDatabase
from ampmpi.database.manifest import difference as settings_difference
from ampmpi.entries import Entry, Fingerprint, FingerprintPrimes
from ampmpi.errors import (
    CorruptEntryError,
    DatabaseError,
    DescriptorMismatchError,
    ImageError,
)
from ampmpi.fingerprinting.compute import entries_of
from ampmpi.fingerprinting.inventory import Inventory
from ampmpi.images import Images
from ampmpi.keys import member_of
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, agree_alone, on_all, share
from ampmpi.parallel.kernels import warm_up

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.descriptor import Gaussian

FEWEST = 10
TOLERANCE = 1e-8
"""Largest difference, relative to the largest value, between equal entries of Amp and ours."""


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


def needed_of(n_entries: int) -> int:
    """Return how many entries have to agree: ten or one per cent, but no more than there are."""
    return min(n_entries, max(FEWEST, -(-n_entries // 100)))


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
        if agree(comm, partial(claim, adopt=adopt)):
            continue
        listed = agree_alone(comm, partial(_candidates, database, inventory))
        candidates = comm.bcast(listed)
        assert candidates is not None
        warm_up(comm, "ampmpi.descriptor")
        n_agree = compare(candidates, inventory.images, descriptor, database, kind, comm)
        agree(comm, partial(claim, adopt=True))
        notes.append(
            f"{database.path} said of no descriptor: {n_agree} of its entries were computed "
            "again and agree, so that it is used"
        )
    return notes


def _check_owner(database: FingerprintDatabase, descriptor: Gaussian) -> None:
    manifest = database.manifest()
    if manifest is not None and manifest.digest != descriptor.digest:
        raise DescriptorMismatchError(
            f"the database {database.path} holds the fingerprints of another descriptor "
            f"({settings_difference(manifest.parameters, descriptor.parameters)}): "
            "choose another label or dblabel, or that descriptor"
        )


def _candidates(database: FingerprintDatabase, inventory: Inventory) -> Candidates:
    """List the images that are in a database."""
    keys = database.digests()
    there = member_of(inventory.digests, keys)
    where = None if inventory.locators is None else inventory.locators[there]
    return Candidates(inventory.numbers[there], inventory.digests[there], where, len(keys))


@dataclass
class _Comparison:
    """What a rank has compared, and entries that are damaged: these are never believed."""

    compared: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    elements: set[str] = field(default_factory=set)


def compare(
    candidates: Candidates,
    images: Images,
    descriptor: Gaussian,
    database: FingerprintDatabase,
    what: int,
    comm: Communicator,
) -> int:
    """Recompute entries, each rank some, and compare; return how many agree.

    At least `needed_of` the entries are compared, evenly spread over the images, and
    at least one with each element that occurs in the database.

    Raises
    ------
    DescriptorMismatchError
        An entry differs: the database is another descriptor's.
    DatabaseError
        Too few of the job's images are in the database, or none with some element.
    """
    total, needed = len(candidates.indices), needed_of(candidates.n_entries)
    if total < needed:
        raise share(_unknown_owner(database, f"only {total}", needed))
    state = _Comparison()
    mine = np.arange(comm.rank, total, comm.size)
    spread = np.unique(np.linspace(0, total - 1, needed).astype(np.int64))

    def compare_some(chosen: NDArray[np.int64], covered: set[str] | None) -> None:
        on_all(
            comm,
            lambda: _compare_some(
                chosen, covered, candidates, images, descriptor, database, what, state
            ),
        )

    def all_of(found: set[str]) -> set[str]:
        return set[str]().union(*comm.allgather(found))

    compare_some(spread[comm.rank :: comm.size], None)
    compare_some(mine, all_of(state.elements))
    if len(all_of(state.compared)) < needed:
        # Some could not be compared: all others are.
        compare_some(mine, None)
    compared, damaged = all_of(state.compared), all_of(state.damaged)
    needed = needed_of(candidates.n_entries - len(damaged))
    if len(compared) < needed:
        raise share(_unknown_owner(database, f"only {len(compared)} that can be compared", needed))
    unseen = set(descriptor.elements or ()) - all_of(state.elements)
    if unseen:
        agree(comm, lambda: _check_unseen(database, compared, unseen))
    return len(compared)


def _unknown_owner(database: FingerprintDatabase, what: str, needed: int) -> DatabaseError:
    return DatabaseError(
        f"nothing says whose descriptor {database.path} was made with, and {what} "
        f"of the job's images are in it, where {needed} have to be compared: "
        "add images that it was made from or, if you are sure, adopt it with "
        "'ampmpi fingerprint --adopt' and start again"
    )


def _check_unseen(database: FingerprintDatabase, compared: set[str], unseen: set[str]) -> None:
    """Check that no other entry has an element whose functions were not compared."""
    for key, entry in database.get_many(set(database) - compared):
        if found := sorted(unseen.intersection(entry.symbols)):
            raise DatabaseError(
                f"nothing says whose descriptor {database.path} was made with, and its entry "
                f"{key} holds {found[0]}, of which no image of the job is in it: add images with "
                "that element that it was made from or, if you are sure, adopt it with "
                "'ampmpi fingerprint --adopt' and start again"
            )


def _compare_some(
    chosen: NDArray[np.int64],
    covered: set[str] | None,
    candidates: Candidates,
    images: Images,
    descriptor: Gaussian,
    database: FingerprintDatabase,
    what: int,
    state: _Comparison,
) -> None:
    """Compare the chosen candidates; with `covered`, only those that bring in a new element."""
    if covered is not None and covered >= set(descriptor.elements or ()):
        return
    where = None if candidates.locators is None else candidates.locators[chosen].tolist()
    read = images.read_many(candidates.indices[chosen].tolist(), where)
    for position, (index, image) in zip(chosen.tolist(), read, strict=True):
        if isinstance(image, ImageError):
            continue
        if covered is not None and set(image.symbols) <= covered:
            continue
        key = candidates.digests[position : position + 1].tobytes().hex()
        if key in state.compared or key in state.damaged:
            continue
        try:
            stored = database[key]
            ((_, ours),) = entries_of(image, descriptor, what)
        except (KeyError, CorruptEntryError):
            state.damaged.add(key)
            continue
        except ImageError:
            continue
        worst = difference(stored, ours, image)
        if worst > TOLERANCE:
            raise DescriptorMismatchError(
                f"the database {database.path} holds the fingerprints of another descriptor: "
                f"its entry for {images.ref(index)} ({key}) differs from this one's by "
                f"{worst:.1e} of the largest value; choose another label or dblabel, or the "
                "descriptor that it was made with"
            )
        state.compared.add(key)
        state.elements |= set(image.symbols)
        if covered is not None:
            covered |= set(image.symbols)


def difference(stored: Entry, ours: Entry, image: Atoms) -> float:
    """Return the largest difference relative to the largest value; infinite for another shape."""
    if stored.symbols != ours.symbols or dict(stored.n_features) != dict(ours.n_features):
        return np.inf
    if isinstance(stored, Fingerprint) and isinstance(ours, Fingerprint):
        a, b = stored.values, ours.values
    elif isinstance(stored, FingerprintPrimes) and isinstance(ours, FingerprintPrimes):
        n_atoms = len(image)
        codes = [entry.pairs[:, 1] * n_atoms + entry.pairs[:, 0] for entry in (stored, ours)]
        union = np.union1d(*codes)
        a, b = (np.zeros((len(union), *ours.values.shape[1:])) for _ in range(2))
        a[np.searchsorted(union, codes[0])] = stored.values
        b[np.searchsorted(union, codes[1])] = ours.values
    else:
        return np.inf
    if a.shape != b.shape:
        return np.inf
    scale = max(float(np.abs(a).max(initial=0.0)), float(np.abs(b).max(initial=0.0)), 1e-300)
    return float(np.abs(a - b).max(initial=0.0)) / scale
