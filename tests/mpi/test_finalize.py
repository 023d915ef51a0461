"""Compressing with all ranks."""

import errno
import os

import numpy as np
import pytest

from ampmpi import FingerprintDatabase
from ampmpi.database import compress, sound, workers
from ampmpi.database.lock import Lock
from ampmpi.entries import Fingerprint
from ampmpi.errors import DatabaseError, LockedError
from ampmpi.fingerprinting import finalize

KEYS = [f"{number:032x}" for number in range(61)]
STEPS = {"_pack_some": sound, "copy_records": compress, "checksums_of": compress,
         "remove_taken": compress}  # fmt: skip
"""What the ranks do, and where it is looked up."""


def entry(number: int) -> Fingerprint:
    values = np.random.default_rng(number).normal(size=(3 + number % 4, 8))
    return Fingerprint(("Cu",) * len(values), {"Cu": 8}, values)


@pytest.fixture
def database(comm, shared_path):
    path = shared_path / "x-fingerprints"
    if comm.rank == 0:
        with FingerprintDatabase.create(path) as database:
            for number, key in enumerate(KEYS):
                database[key] = entry(number)
    comm.barrier()
    with FingerprintDatabase(path) as database:
        yield database
    comm.barrier()


@pytest.fixture(params=[1, 7, 256])
def portion(request, monkeypatch):
    """Entries in a task."""
    monkeypatch.setattr(workers, "_PORTION", request.param)
    return request.param


@pytest.mark.parametrize("parcel", [2000, 1 << 21])
def test_every_entry_arrives(comm, database, portion, monkeypatch, parcel):
    monkeypatch.setattr(sound, "_PARCEL", parcel)
    monkeypatch.setattr(sound, "_BATCH", 2 * parcel)
    report = finalize.compress_together(database, comm)
    assert (report.added, report.entries, report.files_freed) == (61, 61, 60)
    assert dict(database.get_many()) == {key: entry(n) for n, key in enumerate(KEYS)}
    assert os.listdir(f"{database.path}/loose") == []


def test_a_second_compress_adds_to_the_first(comm, database, portion):
    finalize.compress_together(database, comm)
    more = {f"{number:032x}": entry(number) for number in (100, 101)}
    if comm.rank == 0:
        with FingerprintDatabase(database.path) as writer:
            for key, value in more.items():
                writer[key] = value
    comm.barrier()
    assert finalize.compress_together(database, comm).entries == 63
    assert len(dict(database.get_many())) == 63


def replace(monkeypatch, name, function):
    """Let a step of the work be another function, which all ranks find by its name."""
    function.__module__, function.__qualname__ = f"{sound.__name__}", name
    monkeypatch.setattr(sound, name, function)
    monkeypatch.setattr(STEPS[name], name, function)


@pytest.mark.parametrize("name", STEPS)
def test_all_ranks_share_every_step(comm, database, monkeypatch, name):
    real, calls = getattr(sound, name), []

    def counted(*arguments):
        calls.append(name)
        return real(*arguments)

    monkeypatch.setattr(workers, "_PORTION", 1)
    monkeypatch.setattr(workers, "_MOST", 1)
    monkeypatch.setattr(sound, "_PARCEL", 1)
    monkeypatch.setattr(sound, "_BATCH", 1)
    if name == "copy_records":  # records of an archive that is there
        finalize.compress_together(database, comm)
        if comm.rank == 0:
            database["f" * 32] = entry(100)
        comm.barrier()
    replace(monkeypatch, name, counted)
    finalize.compress_together(database, comm)
    found = comm.allgather(len(calls))
    assert sum(found) >= 61
    # None of the ranks waits for another's task.
    assert all(count > 0 for count in found[1:])


def test_a_lock_held_elsewhere_lets_nobody_wait(comm, database):
    lock = Lock(database.make())
    if comm.rank == 0:
        lock.__enter__()
    comm.barrier()
    with pytest.raises(LockedError):
        finalize.compress_together(database, comm)
    comm.barrier()
    (report,) = finalize.compress_all([database], comm)
    assert "the entries stay where they are, as another process compresses it" in report.warnings[0]
    comm.barrier()
    if comm.rank == 0:
        lock.__exit__(None, None, None)
        assert len(os.listdir(f"{database.path}/loose")) == 61


@pytest.mark.parametrize("name", ["_pack_some", "checksums_of"])
def test_what_a_disk_does_to_one_rank_all_hear_of(comm, database, monkeypatch, name):
    def fail(*_):
        raise OSError(errno.EIO, "what the disk says")

    monkeypatch.setattr(workers, "_PORTION", 1)
    monkeypatch.setattr(workers, "_MOST", 1)
    if comm.rank == comm.size - 1:
        replace(monkeypatch, name, fail)
    with pytest.raises(DatabaseError, match="input/output error"):
        finalize.compress_together(database, comm)
    comm.barrier()
    assert len(os.listdir(f"{database.path}/loose")) == 61
    assert os.listdir(f"{database.path}/tmp") == []
    assert not os.path.exists(f"{database.path}/archive.tar.gz")


def test_a_database_that_may_only_be_read_keeps_its_loose_entries(comm, database, monkeypatch):
    def refuse(*_):
        error = DatabaseError("cannot write there")
        error.errno = errno.EROFS
        raise error

    monkeypatch.setattr(finalize, "rewrite", refuse)
    (report,) = finalize.compress_all([database], comm)
    assert "it may only be read here (cannot write there)" in report.warnings[0]


@pytest.mark.parametrize("kind", ["archived", "loose"])
def test_a_compressed_database_is_not_written_to(comm, database, kind):
    if kind == "archived":
        finalize.compress_together(database, comm)
        comm.barrier()
        before = os.stat(database.path)
        assert finalize.compress_all([database], comm) == []
        assert os.stat(database.path) == before
    else:
        (report,) = finalize.compress_all([database], comm)
        assert report.added == 61
    comm.barrier()
