"""Compressing with several processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from archive_samples import archived, damage_archived, make_data, make_database, names, put
from entry_samples import make_key

from ampmpi.cli import compress as cli_compress
from ampmpi.database import compress as compress_module
from ampmpi.database import sound, workers
from ampmpi.database.compress import compress
from ampmpi.database.layout import Home
from ampmpi.database.sound import TAKEN, remove_taken
from ampmpi.database.workers import Workers, forked
from ampmpi.errors import DatabaseError
from ampmpi.files.folder import Stamp


@pytest.fixture
def database(tmp_path):
    database = make_database(tmp_path / "x-fingerprints.ampdb")
    put(database, make_data(30))
    return database


@pytest.fixture
def small_tasks(monkeypatch):
    """Make every task one of a few entries."""
    monkeypatch.setattr(workers, "_PORTION", 7)
    monkeypatch.setattr(sound, "_PARCEL", 1500)
    monkeypatch.setattr(sound, "_BATCH", 3000)


@pytest.mark.parametrize("processes", [2, 3])
def test_entries_and_report_are_those_of_one_process(tmp_path, small_tasks, processes):
    damaged = {make_key(100 + number): b"torn" for number in range(3)}
    ours, alone = (make_database(tmp_path / f"{name}-fingerprints.ampdb") for name in "ab")
    for database in (ours, alone):
        put(database, make_data(30) | damaged)
    report, reference = compress(ours, processes=processes), compress(alone)
    assert archived(ours) == archived(alone) == make_data(30)
    assert report.set_aside.keys() == reference.set_aside.keys() == damaged.keys()
    for name in ("added", "entries", "bytes_before", "bytes_after", "files_freed", "left"):
        assert getattr(report, name) == getattr(reference, name), name
    assert names(ours, "loose") == names(ours, "tmp") == []
    assert not (ours / "lock").exists()


def test_archives_are_equal_to_the_byte(database, monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "_PORTION", 7)
    alone = make_database(tmp_path / "y-fingerprints.ampdb")
    put(alone, make_data(30))
    compress(database, processes=3)
    compress(alone)
    ours, reference = ((path / "archive.tar.gz").read_bytes() for path in (database, alone))
    assert ours == reference


def test_damage_in_the_old_archive_is_found(database, small_tasks):
    compress(database)
    damage_archived(database, make_key(5))
    more = make_data(33)
    put(database, {make_key(number): more[make_key(number)] for number in (30, 31)})
    report = compress(database, processes=2)
    assert report.lost.keys() == {make_key(5)}
    assert archived(database).keys() == {make_key(number) for number in range(32) if number != 5}


@pytest.mark.parametrize(
    ("module", "name"),
    [(sound, "_pack_some"), (compress_module, "copy_records"), (compress_module, "checksums_of")],
)
def test_a_killed_worker_ends_the_compress_and_nothing_changes(database, monkeypatch, module, name):
    old = {make_key(number): make_data(33)[make_key(number)] for number in (30, 31)}
    put(database, old)
    for key in make_data(30):
        os.rename(database / "loose" / key, database / "tmp" / key)
    compress(database)
    for key in make_data(30):
        os.rename(database / "tmp" / key, database / "loose" / key)

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    die.__module__, die.__qualname__ = module.__name__, name
    monkeypatch.setattr(module, name, die)
    with pytest.raises(DatabaseError, match=r"killed.*--processes 1"):
        compress(database, processes=2)
    assert len(names(database, "loose")) == 30
    assert names(database, "tmp") == []
    assert archived(database) == old
    assert not (database / "lock").exists()
    monkeypatch.undo()
    assert compress(database, processes=2).added == 30


PARENT = """
import os, time
from ampmpi.database.workers import forked
def pid(_):
    time.sleep(0.3)
    return os.getpid()
with forked(2) as pair:
    print(*pair.map(pid, range(2)), flush=True)
    time.sleep(600)
"""


def test_workers_end_with_a_killed_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    with parent:
        pids = {int(word) for word in parent.stdout.readline().split()}
        assert len(pids) == 2
        parent.kill()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("count", "items", "sizes"),
    [
        (1, 8, [4, 4]),
        (2, 15, [4, 4, 4, 3]),
        (2, 14, [7, 7]),
        (3, 2, [1, 1]),
        (3, 22, [4, 4, 4, 4, 3, 3]),
        (2, 0, [0]),
    ],
)
def test_every_worker_has_equally_many_tasks_of_one_size(monkeypatch, count, items, sizes):
    monkeypatch.setattr(workers, "_PORTION", 7)
    tasks = Workers(None, count).cut(np.arange(items))
    assert [len(task) for task in tasks] == sizes
    assert np.concatenate(tasks).tolist() == list(range(items))


def test_of_what_was_taken_only_what_is_the_same_is_removed(database):
    keys = [make_key(number) for number in range(4)]
    stamps = [Stamp.of(os.stat(database / "loose" / key)) for key in keys]
    os.unlink(database / "loose" / keys[1])
    put(database, {keys[2]: b"written again"}, age=0)
    rows = [(bytes.fromhex(key), *stamp) for key, stamp in zip(keys, stamps, strict=True)]
    removed, stayed = remove_taken(Home.open(database), np.array(rows, TAKEN))
    assert removed == 2
    assert stayed == [(keys[2], stamps[2].size, None)]
    assert set(names(database, "loose")) == {*make_data(30)} - {keys[0], keys[1], keys[3]}


def test_where_processes_cannot_be_forked_one_does_it_alone(database, monkeypatch):
    real, forks = os.fork, []

    def fork():
        forks.append(1)
        if len(forks) > 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real()

    monkeypatch.setattr(os, "fork", fork)
    assert compress(database, processes=3).added == 30
    assert len(forks) == 2
    assert multiprocessing.active_children() == []
    assert archived(database) == make_data(30)


def test_who_stops_early_is_not_kept_waiting():
    with pytest.raises(KeyError), forked(2) as pair:
        results = pair.map(time.sleep, [0.1] * 50)
        next(results)
        raise KeyError
    results.close()
    with forked(2) as pair:
        results = pair.map(time.sleep, [0.1] * 50)
        next(results)
        results.close()
        assert list(pair.map(abs, range(3))) == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 3])
def test_results_are_in_order_and_errors_come_through(count):
    with forked(count) as some:
        assert list(some.map(np.sqrt, range(50))) == [np.sqrt(number) for number in range(50)]
        with pytest.raises(ValueError):
            list(some.map(int, ["1", "x", "2"]))


def test_no_more_than_a_few_results_wait_to_be_taken():
    """So that memory does not grow with the number of tasks."""
    asked = []

    def tasks():
        for number in range(100):
            asked.append(number)
            yield number

    with forked(2) as pair:
        results = pair.map(abs, tasks())
        for number in range(50):
            assert next(results) == number
            assert len(asked) <= number + 10


@pytest.mark.parametrize(
    ("granted", "expected"), [("1", 1), ("3", 3), ("64", 8), ("", 8), ("2(x2)", 8)]
)
def test_a_slurm_job_takes_the_cores_that_it_was_granted(monkeypatch, granted, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", granted)
    assert cli_compress._cores() == expected
