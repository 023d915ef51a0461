"""The job's end: loose entries go into the archive.

The ranks deflate, and rank 0 alone writes, verifies and renames, so that the
work is shared and the promise that nothing is lost stays with one.
"""

from __future__ import annotations

from collections.abc import Iterator

from ampmpi.database import FingerprintDatabase, loose
from ampmpi.database.compress import CompressReport, compress
from ampmpi.database.helpers import deflate_loose
from ampmpi.database.writer import Chunk
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree

PARCEL = 1 << 23
"""Bytes of deflated entries that a rank sends at a time."""


def compress_together(database: FingerprintDatabase, comm: Communicator) -> CompressReport:
    """Compress a database with all ranks; every rank calls this and gets the report.

    Raises
    ------
    LockedError
        Another process compresses it.
    DatabaseError
        The archive cannot be written; nothing has changed then.
    """
    keys = agree(comm, lambda: sorted(loose.keys(database.layout))) if comm.size > 1 else []
    helpers = comm.size - 1
    if comm.rank > 0:
        _deflate(database.path, keys[comm.rank - 1 :: helpers], comm)
    return agree(comm, lambda: _write(database, comm))


def _write(database: FingerprintDatabase, comm: Communicator) -> CompressReport:
    chunks = _receive(comm)
    try:
        return compress(database.path, chunks=chunks)
    finally:
        for _ in chunks:  # nobody may be left waiting
            pass
        database.close()


def _deflate(path: str, keys: list[str], comm: Communicator) -> None:
    parcel: list[Chunk] = []
    size = 0
    for chunk in deflate_loose(path, keys):
        parcel.append(chunk)
        size += len(chunk.raw)
        if size >= PARCEL:
            comm.send(parcel, 0)
            parcel, size = [], 0
    if parcel:
        comm.send(parcel, 0)
    comm.send([], 0)


def _receive(comm: Communicator) -> Iterator[Chunk]:
    """Take parcels from the other ranks in turn until each has sent an empty one."""
    senders = list(range(1, comm.size))
    while senders:
        for sender in tuple(senders):
            parcel: list[Chunk] = comm.receive(sender)
            if not parcel:
                senders.remove(sender)
            yield from parcel
