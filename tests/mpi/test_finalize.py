"""Compressing with all ranks."""

import os

import numpy as np
import pytest

from ampmpi import FingerprintDatabase
from ampmpi.database.lock import Lock
from ampmpi.entries import Fingerprint
from ampmpi.errors import LockedError
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


@pytest.mark.parametrize("parcel", [1, 2000, finalize.PARCEL])
def test_every_entry_arrives(comm, database, monkeypatch, parcel):
    monkeypatch.setattr(finalize, "PARCEL", parcel)
    report = finalize.compress_together(database, comm)
    assert (report.added, report.entries, report.files_freed) == (61, 61, 60)
    assert dict(database.get_many()) == {key: entry(n) for n, key in enumerate(KEYS)}
    assert os.listdir(database.layout.loose) == []


def test_every_rank_deflates(comm, database, monkeypatch):
    deflate, mine = finalize.deflate_loose, []

    def counted(path, keys):
        for chunk in deflate(path, keys):
            mine.append(chunk.key)
            yield chunk

    monkeypatch.setattr(finalize, "deflate_loose", counted)
    finalize.compress_together(database, comm)
    found = comm.allgather(mine)
    if comm.size > 1:
        assert sorted(key for keys in found for key in keys) == KEYS
        assert {len(keys) for keys in found} <= {61 // comm.size, 61 // comm.size + 1}


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
