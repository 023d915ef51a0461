"""The job's end: loose entries and packs go into the archive.

All ranks deflate, copy, read back and remove; rank 0 alone begins and ends the new file,
and puts in place what all have found to be right, so that the promise that nothing is lost
stays with one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from ampmpi.database import FingerprintDatabase
from ampmpi.database.compress import CompressReport, is_compressed, rewrite
from ampmpi.database.lock import Lock
from ampmpi.database.workers import Workers
from ampmpi.errors import DatabaseError, LockedError
from ampmpi.parallel import launch
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.executor import as_executor
from ampmpi.parallel.failure import agree, on_all

NOT_YOURS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What the system says where a database may only be read."""


def compress_all(
    databases: Iterable[FingerprintDatabase], comm: Communicator
) -> list[CompressReport]:
    """Compress the databases of a job with all its ranks; every rank gets the reports.

    A database that has nothing to compress is not written to. One that another process
    compresses, or that may only be read, keeps its loose entries, and its report says so.

    Raises
    ------
    DatabaseError
        An archive cannot be written; nothing has changed then.
    """
    return [report for each in databases if (report := _compress(each, comm)) is not None]


def _compress(database: FingerprintDatabase, comm: Communicator) -> CompressReport | None:
    if agree(comm, lambda: database.home is None or is_compressed(database.home)):
        return None
    try:
        return compress_together(database, comm)
    except LockedError:
        why = (
            "the entries stay where they are, as another process compresses it; amp-compress or "
            "the next job archives them"
        )
    except DatabaseError as error:
        if error.errno not in NOT_YOURS:
            raise
        why = f"the entries stay where they are, as it may only be read here ({error})"
    return CompressReport(database.path, warnings=[why])


def compress_together(database: FingerprintDatabase, comm: Communicator) -> CompressReport:
    """Compress a database with all ranks; every rank calls this and gets the report.

    Raises
    ------
    LockedError
        Another process compresses it.
    DatabaseError
        The archive cannot be written; nothing has changed then.
    """
    home = database.make()
    apart = comm.split_nodes().size < comm.size

    def work() -> CompressReport | None:
        with as_executor(comm) as executor:
            if comm.rank != 0:
                return None
            workers = Workers(executor, comm.size if executor else 1, apart)
            return rewrite(home, Lock(home, job=launch.batch_job()[0] or None), workers)

    report = comm.bcast(on_all(comm, work))
    database.close()
    assert report is not None
    return report
