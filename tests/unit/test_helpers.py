"""Compressing with several processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from archive_samples import damage, make_data
from entry_samples import make_key

from ampmpi.cli import compress as cli_compress
from ampmpi.database import forked, helpers
from ampmpi.database.archive.reader import Archive
from ampmpi.database.compress import compress
from ampmpi.database.forked import Forked
from ampmpi.database.intake import (
    STAMPS,
    ChangedError,
    LooseFiles,
    read_loose,
    remove_archived,
)
from ampmpi.database.layout import Layout
from ampmpi.errors import DatabaseError
from ampmpi.keys import digests_of, to_hex


@pytest.fixture
def layout(tmp_path):
    return make_database(tmp_path / "x-fingerprints.ampdb", make_data(30))


@pytest.fixture
def small_tasks(monkeypatch):
    """Make every task one of a few entries."""
    monkeypatch.setattr(helpers, "_PORTION", 7)
    monkeypatch.setattr(helpers, "_PARCEL", 1500)
    monkeypatch.setattr(helpers, "_BATCH", 500)


def make_database(path, data):
    layout = Layout(str(path))
    layout.create()
    for key, content in data.items():
        with open(layout.loose_entry(key), "wb") as file:
            file.write(content)
        os.utime(layout.loose_entry(key), (1e9, 1e9))
    return layout


def content(layout):
    with Archive.open(layout.archive) as archive:
        assert archive.indexed
        return dict(archive.read_many())


@pytest.mark.parametrize("processes", [2, 3])
def test_entries_and_report_are_those_of_one_process(layout, tmp_path, small_tasks, processes):
    damaged = {make_key(100 + number): b"torn" for number in range(3)}
    data = make_data(30) | damaged
    ours = make_database(tmp_path / "a-fingerprints.ampdb", data)
    alone = make_database(tmp_path / "b-fingerprints.ampdb", data)
    report, reference = compress(ours.root, processes=processes), compress(alone.root)
    assert content(ours) == content(alone) == make_data(30)
    assert report.set_aside.keys() == reference.set_aside.keys() == damaged.keys()
    for name in ("added", "entries", "bytes_before", "bytes_after", "files_freed", "left"):
        assert getattr(report, name) == getattr(reference, name), name
    assert os.listdir(ours.loose) == os.listdir(ours.temporaries) == []
    assert not os.path.exists(ours.lock)


@pytest.mark.parametrize("place", [100, 1 << 20])
def test_archives_are_equal_to_the_byte(layout, monkeypatch, tmp_path, place):
    monkeypatch.setattr(helpers, "_PORTION", 7)
    monkeypatch.setattr(forked, "_PLACE", place)
    alone = make_database(tmp_path / "y-fingerprints.ampdb", make_data(30))
    compress(layout.root, processes=3)
    compress(alone.root)
    with open(layout.archive, "rb") as ours, open(alone.archive, "rb") as reference:
        assert ours.read() == reference.read()


def test_damage_in_the_old_archive_is_found(layout, small_tasks):
    compress(layout.root)
    damage(layout, make_key(5))
    more = make_data(33)
    make_database(layout.root, {make_key(number): more[make_key(number)] for number in (30, 31)})
    report = compress(layout.root, processes=2)
    assert report.lost.keys() == {make_key(5)}
    assert content(layout).keys() == {make_key(number) for number in range(32) if number != 5}


@pytest.mark.parametrize("name", ["_deflate_some", "_find_damaged"])
def test_a_killed_helper_ends_the_compress_and_nothing_changes(layout, monkeypatch, name):
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    die.__module__, die.__qualname__ = "ampmpi.database.helpers", name
    monkeypatch.setattr(helpers, name, die)
    with pytest.raises(DatabaseError, match=r"killed.*--processes 1"):
        compress(layout.root, processes=2)
    assert len(os.listdir(layout.loose)) == 30
    assert os.listdir(layout.temporaries) == []
    assert not os.path.exists(layout.archive)
    assert not os.path.exists(layout.lock)
    monkeypatch.undo()
    assert compress(layout.root, processes=2).added == 30


PARENT = """
import os, time
from ampmpi.cli import compress as cli_compress
from ampmpi.database.forked import Forked
def pid(_):
    time.sleep(0.3)
    return os.getpid()
with Forked(2) as pair:
    print(*pair.map(pid, range(2)), flush=True)
    time.sleep(600)
"""


def test_helpers_end_with_a_killed_parent():
    script = PARENT.replace(
        "with", "def pid(_):\n    time.sleep(0.3)\n    return os.getpid()\nwith"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent:
        pids = {int(word) for word in parent.stdout.readline().split()}
        assert len(pids) == 2
        parent.kill()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_files_are_removed_many_at_a_time_however_few_came_at_a_time(monkeypatch):
    monkeypatch.setattr(helpers, "_PORTION", 7)
    files = [
        LooseFiles(digests_of([make_key(number)]), np.array([(number, 1, 2)], STAMPS))
        for number in range(30)
    ]
    found = list(helpers.portions(Forked(3), files))
    assert [len(portion.digests) for portion in found] == [5] * 6
    assert [int(i) for portion in found for i in portion.stamps["inode"]] == list(range(30))
    keys = [key for portion in found for key in to_hex(portion.digests)]
    assert keys == [make_key(number) for number in range(30)]
    assert list(helpers.portions(Forked(3), [])) == []


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
def test_every_helper_has_equally_many_tasks_of_one_size(monkeypatch, count, items, sizes):
    monkeypatch.setattr(helpers, "_PORTION", 7)
    tasks = helpers._cut(Forked(count), np.arange(items))
    assert [len(task) for task in tasks] == sizes
    assert np.concatenate(tasks).tolist() == list(range(items))


def test_a_hidden_entry_stays_and_one_that_is_gone_is_missing(layout):
    keys = [make_key(number) for number in range(3)]
    stamps = [read_loose(layout, key)[1] for key in keys]
    os.unlink(layout.loose_entry(keys[1]))
    files = LooseFiles(digests_of(keys), np.array(stamps, STAMPS))
    removed, stayed = remove_archived(layout, {keys[0], keys[1]}, files)
    assert removed == 1
    assert [(key, type(error)) for key, _, error in stayed] == [
        (keys[0], ChangedError),
        (keys[1], FileNotFoundError),
    ]
    assert os.path.exists(layout.loose_entry(keys[0]))


def test_where_processes_cannot_be_forked_one_does_it_alone(layout, monkeypatch):
    real, forks = os.fork, []

    def fork():
        forks.append(1)
        if len(forks) > 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real()

    monkeypatch.setattr(os, "fork", fork)
    assert compress(layout.root, processes=3).added == 30
    assert len(forks) == 2
    assert multiprocessing.active_children() == []
    assert content(layout) == make_data(30)


def test_who_stops_early_is_not_kept_waiting():
    with pytest.raises(KeyError), Forked(2) as pair:
        results = pair.map(time.sleep, [0.1] * 50)
        next(results)
        raise KeyError
    results.close()
    with Forked(2) as pair:
        results = pair.map(time.sleep, [0.1] * 50)
        next(results)
        results.close()
        assert list(pair.map(abs, range(3))) == [0, 1, 2]


def test_results_are_in_order_and_errors_come_through():
    with Forked(3) as three:
        assert list(three.map(np.sqrt, range(50))) == [np.sqrt(number) for number in range(50)]
        with pytest.raises(ValueError):
            list(three.map(int, ["1", "x", "2"]))


@pytest.mark.parametrize(
    ("granted", "expected"), [("1", 1), ("3", 3), ("64", 8), ("", 8), ("2(x2)", 8)]
)
def test_a_slurm_job_takes_the_cores_that_it_was_granted(monkeypatch, granted, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", granted)
    assert cli_compress._cores() == expected
