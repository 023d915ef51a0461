"""Fingerprints for a script that asks a descriptor for them, in its databases or in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ampmpi.database import FingerprintDatabase
from ampmpi.descriptor import EntriesByKey, has_kernels
from ampmpi.entries import Entry
from ampmpi.errors import ImageError, InputError
from ampmpi.fingerprinting.adopt import resolve
from ampmpi.fingerprinting.job import fingerprint, require_same
from ampmpi.images import hash_image
from ampmpi.parallel import launch
from ampmpi.parallel.comm import Communicator, as_communicator
from ampmpi.parallel.failure import abort_on_error, install_excepthook, on_all, share
from ampmpi.parallel.kernels import warm_up
from ampmpi.parallel.wishes import note_parallel

FINGERPRINTS, PRIMES = "fingerprints", "fingerprintprimes"


def calculate(
    descriptor: Any,
    images: Mapping[str, Any],
    parallel: Mapping[str, Any] | None,
    log: Callable[[str], object] | None,
    *,
    derivatives: bool,
) -> None:
    """Do what `AmpDescriptor.calculate_fingerprints` of the descriptor promises."""
    if not isinstance(images, Mapping):
        raise share(
            InputError(
                f"calculate_fingerprints: images is a {type(images).__name__}; give the dictionary "
                "that hash_images makes of them"
            )
        )
    launch.prepare()
    ranks = as_communicator(None)
    install_excepthook(ranks)
    on_all(ranks, partial(note_parallel, parallel))
    hashes = {key: hash_image(atoms) for key, atoms in images.items()}
    unique = {hashes[key]: atoms for key, atoms in images.items()}
    prefix = prefix_of(descriptor)
    with abort_on_error(ranks):
        require_same(ranks, {"images": sorted(unique), "label or dblabel": prefix})
        symbols = sorted({symbol for atoms in unique.values() for symbol in atoms.symbols})
        say = log if log is not None and ranks.rank == 0 else _say_nothing
        say(f"{len(unique)} images of {', '.join(symbols)}")
        if prefix is None:
            descriptor.complete_as(on_all(ranks, partial(descriptor.resolve, symbols)))
            found = _in_memory(ranks, descriptor, unique, derivatives=derivatives)
        else:
            found = _in_databases(
                ranks, descriptor, unique, symbols, prefix, say, derivatives=derivatives
            )
    for name, entries in found.items():
        before = getattr(descriptor, name, None)
        known = {} if before is None else before.hashes
        setattr(descriptor, name, EntriesByKey(entries, {**known, **hashes}))
    say("The fingerprints are there.")


def prefix_of(descriptor: Any) -> str | None:
    """Return the prefix of a descriptor's databases: its own, or its calculator's."""
    prefix: str | None = descriptor.dblabel
    if prefix is None and descriptor.parent is not None:
        prefix = descriptor.parent.dblabel or descriptor.parent.label
    return prefix


def databases_of(prefix: str, rank: int, *, derivatives: bool) -> dict[str, FingerprintDatabase]:
    """Open the databases of a prefix."""
    found = {FINGERPRINTS: FingerprintDatabase(f"{prefix}-fingerprints.ampdb", rank)}
    if derivatives:
        found[PRIMES] = FingerprintDatabase(f"{prefix}-fingerprint-primes.ampdb", rank)
    return found


def show(descriptor: Any, prefix: str, rank: int, *, derivatives: bool) -> None:
    """Let a descriptor show what is in the databases of a prefix."""
    for name, database in databases_of(prefix, rank, derivatives=derivatives).items():
        setattr(descriptor, name, EntriesByKey(database, {}))


def _in_databases(
    comm: Communicator,
    descriptor: Any,
    images: Mapping[str, Any],
    symbols: list[str],
    prefix: str,
    say: Callable[[str], object],
    *,
    derivatives: bool,
) -> Mapping[str, Mapping[str, Entry]]:
    """Do the job, and return its databases."""
    databases = on_all(comm, partial(databases_of, prefix, comm.rank, derivatives=derivatives))
    descriptor.complete_as(resolve(descriptor, symbols, databases[FINGERPRINTS], comm))
    summary = fingerprint(
        images, descriptor, label=prefix, derivatives=derivatives, compress=False, comm=comm
    )
    for line in (*summary.lines(), *summary.remarks()):
        say(line)
    if summary.failed:
        raise share(
            ImageError(
                f"{len(summary.failed)} images cannot be fingerprinted, the first: "
                f"{str(summary.failed[0]).rstrip('.')}; take them out of the set"
            )
        )
    return databases


def _in_memory(
    comm: Communicator, descriptor: Any, images: Mapping[str, Any], *, derivatives: bool
) -> Mapping[str, Mapping[str, Entry]]:
    """Calculate what the descriptor does not hold yet, each rank a part; every rank gets all."""
    names = [FINGERPRINTS, PRIMES] if derivatives else [FINGERPRINTS]
    held: dict[str, dict[str, Entry]] = {
        name: dict(getattr(getattr(descriptor, name, None), "entries", {})) for name in names
    }
    missing = [key for key in sorted(images) if not all(key in held[name] for name in names)]
    if has_kernels(descriptor):
        warm_up(comm, "ampmpi.descriptor")

    def mine() -> dict[str, tuple[Entry, ...]]:
        return {
            key: descriptor.calculate(images[key])
            if derivatives
            else (descriptor.fingerprint(images[key]),)
            for key in missing[comm.rank :: comm.size]
        }

    for part in comm.allgather(on_all(comm, mine)):
        for key, entries in part.items():
            for name, entry in zip(names, entries, strict=True):
                held[name][key] = entry
    return held


def _say_nothing(line: str) -> None:
    """Be silent: there is no log, or this is not the first rank."""
