"""Compressing with all ranks."""

import errno
import os

import numpy as np
import pytest

from ampmpi import FingerprintDatabase
from ampmpi.database import helpers, intake
from ampmpi.database.lock import Lock
from ampmpi.entries import Fingerprint
from ampmpi.errors import DatabaseError, LockedError
from ampmpi.fingerprinting import finalize

KEYS = [f"{number:032x}" for number in range(61)]


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
    monkeypatch.setattr(helpers, "_PORTION", request.param)
    return request.param


@pytest.mark.parametrize("ahead", [1, 64])
def test_every_entry_arrives(comm, database, portion, monkeypatch, ahead):
    monkeypatch.setattr(finalize, "AHEAD", ahead)
    monkeypatch.setattr(helpers, "_PARCEL", 2000)
    monkeypatch.setattr(helpers, "_BATCH", 500)
    report = finalize.compress_together(database, comm)
    assert (report.added, report.entries, report.files_freed) == (61, 61, 60)
    assert dict(database.get_many()) == {key: entry(n) for n, key in enumerate(KEYS)}
    assert os.listdir(database.layout.loose) == []


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


@pytest.mark.parametrize("name", ["_deflate_some", "_find_damaged", "remove_archived"])
def test_all_ranks_share_every_step(comm, database, monkeypatch, name):
    module = intake if name == "remove_archived" else helpers
    real, calls = getattr(module, name), []

    def counted(*arguments):
        calls.append(name)
        return real(*arguments)

    counted.__module__, counted.__qualname__ = module.__name__, name
    monkeypatch.setattr(helpers, "_PORTION", 1)
    monkeypatch.setattr(module, name, counted)
    monkeypatch.setattr(f"ampmpi.database.compress.{name}", counted, raising=False)
    finalize.compress_together(database, comm)
    found = comm.allgather(len(calls))
    assert sum(found) == 61
    # A rank has one task at a time, and none of them waits for another's.
    assert all(count > 0 for count in found[1:])


def test_a_lock_held_elsewhere_lets_nobody_wait(comm, database):
    lock = Lock(database.layout)
    if comm.rank == 0:
        lock.__enter__()
    comm.barrier()
    with pytest.raises(LockedError):
        finalize.compress_together(database, comm)
    comm.barrier()
    if comm.rank == 0:
        lock.__exit__(None, None, None)
        assert len(os.listdir(database.layout.loose)) == 61


@pytest.mark.parametrize("name", ["_deflate_some", "_find_damaged"])
def test_what_a_disk_does_to_one_rank_all_hear_of(comm, database, monkeypatch, name):
    if comm.size == 1:
        name = "_find_damaged"  # one rank deflates entry by entry

    def fail(*_):
        raise OSError(errno.EIO, "what the disk says")

    fail.__module__, fail.__qualname__ = helpers.__name__, name
    monkeypatch.setattr(helpers, "_PORTION", 1)
    if comm.rank == comm.size - 1:
        monkeypatch.setattr(helpers, name, fail)
    with pytest.raises(DatabaseError, match="input/output error"):
        finalize.compress_together(database, comm)
    comm.barrier()
    assert len(os.listdir(database.layout.loose)) == 61
    assert os.listdir(database.layout.temporaries) == []
    assert not os.path.exists(database.layout.archive)
