"""The job's end: loose entries go into the archive.

The ranks deflate, and rank 0 alone writes, verifies and renames, so that the
work is shared and the promise that nothing is lost stays with one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

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
    mine = deflate_loose(database.path, keys[comm.rank :: comm.size])
    if comm.rank > 0:
        _send(mine, comm)
    return agree(comm, lambda: _write(database, mine, comm))


def _write(
    database: FingerprintDatabase, mine: Generator[Chunk, None, None], comm: Communicator
) -> CompressReport:
    chunks = _gather(mine, comm)
    try:
        return compress(database.path, chunks=chunks)
    finally:
        mine.close()
        for _ in chunks:  # nobody may be left waiting
            pass
        database.close()


def _send(chunks: Iterator[Chunk], comm: Communicator) -> None:
    parcel: list[Chunk] = []
    size = 0
    for chunk in chunks:
        parcel.append(chunk)
        size += len(chunk.raw)
        if size >= PARCEL:
            comm.send(parcel, 0)
            parcel, size = [], 0
    if parcel:
        comm.send(parcel, 0)
    comm.send([], 0)


def _gather(mine: Iterator[Chunk], comm: Communicator) -> Iterator[Chunk]:
    """Take parcels from the other ranks until each has sent an empty one.

    While none waits, this rank deflates entries of its own.
    """
    senders = list(range(1, comm.size))
    while senders:
        ready = [sender for sender in senders if comm.has_sent(sender)]
        if not ready and (chunk := next(mine, None)) is not None:
            yield chunk
            continue
        for sender in ready or senders[:1]:
            parcel: list[Chunk] = comm.receive(sender)
            if not parcel:
                senders.remove(sender)
            yield from parcel
    yield from mine
