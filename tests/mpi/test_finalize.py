"""Compressing with all ranks."""

import errno
import os
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest

from ampmpi import FingerprintDatabase
from ampmpi.database import compress, sound, workers
from ampmpi.database.archive.reader import Archive, IndexedArchive
from ampmpi.database.check import check
from ampmpi.database.lock import Lock
from ampmpi.database.packs import PackLimits, PackWriter
from ampmpi.entries import Fingerprint
from ampmpi.entries.codec import encode
from ampmpi.errors import DatabaseError, LockedError
from ampmpi.files.folder import Folder
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


@pytest.fixture
def small_pieces(monkeypatch):
    """Let every task copy a few records."""
    monkeypatch.setattr(workers, "_LEAST", 1)
    monkeypatch.setattr(workers, "_MOST", 1000)
    monkeypatch.setattr(sound, "_PARCEL", 500)


@pytest.fixture
def packed(comm, shared_path):
    """Return a database in which every rank has left packs; some entries were archived before."""
    path = shared_path / "p-fingerprints"
    if comm.rank == 0:
        with FingerprintDatabase.create(path) as database:
            for number, key in enumerate(KEYS[:5]):
                database[key] = entry(number)
            database.compress()
    comm.barrier()
    with FingerprintDatabase(path) as database:
        writer = PackWriter(database.make(), comm.rank, PackLimits(4000))
        for number in range(5 + comm.rank, 61, comm.size):
            writer.put_bytes(KEYS[number], encode(entry(number)))
        writer.close()
        comm.barrier()
        yield database
    comm.barrier()


@pytest.fixture(params=["one node", "two nodes"])
def nodes(request, comm, monkeypatch):
    """Let the ranks be on one node, or on several."""
    if request.param == "two nodes":
        monkeypatch.setattr(type(comm), "split_nodes", lambda _: SimpleNamespace(size=0))
    return request.param


def assert_same_archive(comm, database, lost=()):
    """Check that an archive is whole, and has the entries that loose ones would have given."""
    assert sorted(database) == sorted(set(KEYS).difference(lost))
    assert os.listdir(f"{database.path}/packs") == os.listdir(f"{database.path}/tmp") == []
    if comm.rank == 0:
        expected = {key: encode(entry(n)) for n, key in enumerate(KEYS) if key not in lost}
        with Archive.open(database.home.root, "archive.tar.gz") as archive:
            assert isinstance(archive, IndexedArchive) and archive.damage is None
            assert archive.index.raw_crc.all()
            assert dict(archive.read_many()) == expected
        with tarfile.open(f"{database.path}/archive.tar.gz") as tar:
            assert {each.name: tar.extractfile(each).read() for each in tar} == expected
        assert check(database.path).exit_code == 0
    comm.barrier()


def test_packs_give_the_archive_that_loose_entries_give(comm, packed, small_pieces, nodes):
    n_packs = len(os.listdir(f"{packed.path}/packs"))
    assert n_packs > comm.size
    report = finalize.compress_together(packed, comm)
    assert (report.added, report.packs, report.entries) == (56, n_packs, 61)
    assert report.files_freed == n_packs and report.remarks() == []
    assert_same_archive(comm, packed)


def test_loose_entries_and_packs_at_once(comm, database, small_pieces, nodes):
    writer = PackWriter(database.make(), comm.rank)
    writer.put_bytes(f"{100 + comm.rank:032x}", encode(entry(100 + comm.rank)))
    writer.put_bytes(KEYS[comm.rank], encode(entry(200)))  # the loose one counts
    writer.close()
    comm.barrier()
    report = finalize.compress_together(database, comm)
    assert report.entries == 61 + comm.size
    assert all(database[key] == entry(number) for number, key in enumerate(KEYS))
    assert all(database[f"{100 + n:032x}"] == entry(100 + n) for n in range(comm.size))


def test_where_several_cannot_write_into_one_file_rank_0_writes_alone(
    comm, packed, small_pieces, nodes, monkeypatch
):
    """What the others write is not there when it is read back."""
    written = []

    def write_at(descriptor, data, position):
        written.append(position)
        os.pwrite(descriptor, bytes(len(data)) if comm.rank else data, position)

    monkeypatch.setattr(sound, "_write_at", write_at)
    report = finalize.compress_together(packed, comm)
    assert report.entries == 61 and report.exit_code == 0
    assert written
    assert_same_archive(comm, packed)


def test_a_rank_that_cannot_open_the_new_archive_leaves_it_to_rank_0(
    comm, packed, small_pieces, monkeypatch
):
    asked = []

    def refuse(*_):
        asked.append(1)
        raise OSError(errno.ENOENT, "it does not show itself here")

    if comm.size > 1 and comm.rank == comm.size - 1:
        monkeypatch.setattr(Folder, "open_to_write", refuse)
    report = finalize.compress_together(packed, comm)
    assert report.entries == 61 and report.exit_code == 0
    assert any(comm.allgather(bool(asked))) == (comm.size > 1)
    assert_same_archive(comm, packed)


@pytest.mark.parametrize("where", ["packs", "archive.tar.gz"])
def test_a_bad_record_is_found_by_whoever_copies_it(comm, packed, small_pieces, nodes, where):
    if comm.rank == 0:
        found = packed.home.root if where != "packs" else packed.home.needed("packs")
        name = where if where != "packs" else sorted(os.listdir(found.path))[0]
        with Archive.open(found, name) as archive:
            part = archive.records().part
            bad = archive.records().key(2)
        with open(found.full(name), "r+b") as file:
            file.seek(int(part.offset[2] + part.packed[2] // np.uint64(2)))
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 4]))
    bad = comm.bcast(bad if comm.rank == 0 else None)
    report = finalize.compress_together(packed, comm)
    assert report.lost.keys() == {bad} and report.exit_code == 5
    assert len(report.packs_aside) == (where == "packs")
    assert (report.copy is not None) == (where != "packs")
    assert_same_archive(comm, packed, [bad])
    assert finalize.compress_all([packed], comm) == []


def test_a_disk_that_is_full_for_one_rank_changes_nothing(comm, packed, small_pieces, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = sorted(os.listdir(f"{packed.path}/packs"))
    comm.barrier()
    with monkeypatch.context() as patch:
        if comm.rank == comm.size - 1:
            patch.setattr(os, "pwrite", full)
        with pytest.raises(DatabaseError, match="the disk is full"):
            finalize.compress_together(packed, comm)
    comm.barrier()
    assert sorted(os.listdir(f"{packed.path}/packs")) == before
    assert os.listdir(f"{packed.path}/tmp") == []
    comm.barrier()
    assert finalize.compress_together(packed, comm).entries == 61
    assert_same_archive(comm, packed)
