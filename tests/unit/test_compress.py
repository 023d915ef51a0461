import errno
import os
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from archive_samples import damage, make_data, place_of, spoil_sector
from entry_samples import limited_memory, make_entries, make_key

from ampmpi import FingerprintDatabase
from ampmpi.database import aside
from ampmpi.database import compress as compress_module
from ampmpi.database.archive.reader import Archive
from ampmpi.database.archive.writer import deflate_entry
from ampmpi.database.compress import compress
from ampmpi.database.forked import Forked
from ampmpi.database.helpers import Deflated, deflate_with
from ampmpi.database.layout import Layout
from ampmpi.errors import DatabaseError, LockedError
from ampmpi.keys import digests_of, to_hex


@pytest.fixture
def layout(tmp_path):
    layout = Layout(str(tmp_path / "x-fingerprints.ampdb"))
    layout.create()
    return layout


def put(layout, data, age=3600.0):
    for key, content in data.items():
        path = layout.loose_entry(key)
        with open(path, "wb") as file:
            file.write(content)
        status = os.stat(path)
        os.utime(path, (status.st_atime - age, status.st_mtime - age))


def archived(layout):
    with Archive.open(layout.archive) as archive:
        assert archive.indexed
        return dict(archive.read_many())


def test_loose_entries_go_into_the_archive(layout):
    data = make_data(20)
    put(layout, data)
    report = compress(layout.root)
    assert archived(layout) == data
    assert os.listdir(layout.loose) == []
    assert sorted(os.listdir(layout.root)) == ["archive.tar.gz", "loose", "tmp"]
    assert os.listdir(layout.temporaries) == []
    assert (report.added, report.entries, report.files_freed) == (20, 20, 19)
    assert report.bytes_before == sum(map(len, data.values()))
    assert report.bytes_after == os.path.getsize(layout.archive)


def test_ten_times_a_few_more(layout):
    data = make_data(50)
    for start in range(0, 50, 5):
        put(layout, dict(list(data.items())[start : start + 5]))
        assert compress(layout.root).entries == start + 5
    assert archived(layout) == data
    with tarfile.open(layout.archive, "r|gz") as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == data


def test_nothing_to_do_leaves_the_archive_untouched(layout):
    assert compress(layout.root).entries == 0
    assert not os.path.exists(layout.archive)
    put(layout, make_data(3))
    compress(layout.root)
    before = os.stat(layout.archive)
    report = compress(layout.root)
    assert os.stat(layout.archive) == before
    assert (report.added, report.entries, report.files_freed) == (0, 3, 0)


def test_a_loose_entry_replaces_the_archived_one(layout):
    data = make_data(6)
    put(layout, data)
    compress(layout.root)
    newer = {make_key(2): make_data(1, n_atoms=5)[make_key(0)]}
    put(layout, newer)
    compress(layout.root)
    assert archived(layout) == data | newer


def test_deleted_entries_go(layout):
    put(layout, make_data(6))
    compress(layout.root)
    with FingerprintDatabase(layout.root) as database:
        del database[make_key(4)]
        report = database.compress()
        assert report.removed == 1
        assert make_key(4) not in database
        assert len(database) == 5
    assert make_key(4) not in archived(layout)
    assert os.listdir(layout.deleted) == []


def test_an_entry_deleted_while_it_is_being_archived_stays_deleted(layout, monkeypatch):
    put(layout, make_data(6))
    database = FingerprintDatabase(layout.root)
    original = compress_module._Run._replace

    def replace(self, *arguments):
        del database[make_key(4)]
        original(self, *arguments)

    monkeypatch.setattr(compress_module._Run, "_replace", replace)
    compress(layout.root)
    assert make_key(4) not in database
    monkeypatch.undo()
    compress(layout.root)
    assert make_key(4) not in archived(layout)


def test_bad_loose_entries_are_set_aside(layout):
    data = make_data(6)
    bad = {make_key(7): b"", make_key(8): b"no pickle", make_key(9): data[make_key(1)][:-3]}
    put(layout, data | bad)
    report = compress(layout.root)
    assert report.set_aside.keys() == bad.keys()
    assert archived(layout) == data
    assert os.listdir(layout.loose) == []
    assert {path.name: path.read_bytes() for path in Path(layout.damaged).iterdir()} == bad


def test_a_bad_entry_that_may_still_be_in_the_making_stays(layout):
    put(layout, make_data(2))
    put(layout, {make_key(8): b"Amp is writ"}, age=5.0)
    report = compress(layout.root)
    assert report.left.keys() == {make_key(8)}
    assert os.listdir(layout.loose) == [make_key(8)]
    assert len(archived(layout)) == 2


def test_a_bad_loose_entry_does_not_harm_its_archived_copy(layout):
    data = make_data(3)
    put(layout, data)
    compress(layout.root)
    put(layout, {make_key(1): b"torn"})
    compress(layout.root)
    assert archived(layout) == data


def test_other_files_in_loose_survive(layout):
    names = [".nfs000000001", "README", make_key(0) + "~", "." + make_key(0) + ".swp"]
    for name in names:
        with open(f"{layout.loose}/{name}", "w") as file:
            file.write("mine")
    os.mkdir(layout.loose_entry(make_key(5)))
    os.symlink("/etc/passwd", layout.loose_entry(make_key(6)))
    os.mkfifo(layout.loose_entry(make_key(7)))
    put(layout, make_data(3))
    for _ in range(2):
        compress(layout.root)
        kept = {*names, make_key(5), make_key(6), make_key(7)}
        assert set(os.listdir(layout.loose)) == kept
        assert set(archived(layout)) == set(make_data(3))


def test_another_kind_of_database_is_archived_byte_for_byte(tmp_path):
    layout = Layout(str(tmp_path / "x-neighborlists.ampdb"))
    layout.create()
    data = {make_key(0): b"(lp0\n.", make_key(1): b"anything at all", make_key(2): os.urandom(999)}
    put(layout, data)
    compress(layout.root)
    assert archived(layout) == data


def test_an_entry_written_again_meanwhile_stays_loose(layout, monkeypatch):
    data = make_data(4)
    put(layout, data)
    newer = make_data(1, n_atoms=5)[make_key(0)]
    original = compress_module._Run._replace

    def replace(self, *arguments):
        put(layout, {make_key(2): newer}, age=0)
        original(self, *arguments)

    monkeypatch.setattr(compress_module._Run, "_replace", replace)
    report = compress(layout.root)
    assert report.left.keys() == {make_key(2)}
    with FingerprintDatabase(layout.root) as database:
        assert database.get_bytes(make_key(2)) == newer
    monkeypatch.undo()
    compress(layout.root)
    assert archived(layout)[make_key(2)] == newer


def test_an_archive_that_somebody_replaced_meanwhile_is_read_again(layout, monkeypatch):
    data = make_data(8)
    keys = list(data)
    put(layout, {key: data[key] for key in keys[:4]})
    compress(layout.root)
    put(layout, {keys[4]: data[keys[4]]})
    original = compress_module._Run._replace
    calls = []

    def replace(self, *arguments):
        calls.append(1)
        if len(calls) == 1:
            with tarfile.open(layout.archive, "w:gz") as tar:
                for key in keys[5:]:
                    put(layout, {key: data[key]})
                    tar.add(layout.loose_entry(key), key)
                    os.unlink(layout.loose_entry(key))
        original(self, *arguments)

    monkeypatch.setattr(compress_module._Run, "_replace", replace)
    compress(layout.root)
    assert set(archived(layout)) == set(keys[4:])
    assert len(calls) == 2


def test_an_archive_that_changes_again_and_again_is_an_error(layout, monkeypatch):
    put(layout, make_data(2))
    monkeypatch.setattr(compress_module, "archive_identity", lambda _: object())
    with pytest.raises(DatabaseError, match="again and again"):
        compress(layout.root)
    assert len(os.listdir(layout.loose)) == 2
    assert os.listdir(layout.temporaries) == []


def test_a_lock_that_was_broken_stops_the_replacement(layout, monkeypatch):
    put(layout, make_data(2))
    original = compress_module._Run._verify

    def verify(self, *arguments):
        os.unlink(layout.lock)
        return original(self, *arguments)

    monkeypatch.setattr(compress_module._Run, "_verify", verify)
    with pytest.raises(LockedError):
        compress(layout.root)
    assert not os.path.exists(layout.archive)
    assert len(os.listdir(layout.loose)) == 2


def test_a_lock_that_was_broken_at_the_last_moment_leaves_loose_files(layout, monkeypatch):
    """Another compress may have read the old archive before this one's took its place."""
    data = make_data(2)
    put(layout, data)
    original = compress_module._Run._replace

    def replace(self, *arguments):
        original(self, *arguments)
        os.unlink(layout.lock)

    monkeypatch.setattr(compress_module._Run, "_replace", replace)
    report = compress(layout.root)
    assert "took the lock away" in report.warnings[0]
    assert sorted(os.listdir(layout.loose)) == sorted(data)
    monkeypatch.undo()
    compress(layout.root)
    assert os.listdir(layout.loose) == [] and archived(layout) == data


def test_damaged_entries_of_the_old_archive_are_left_out_and_a_copy_is_kept(layout):
    data = make_data(20)
    keys = list(data)
    put(layout, {key: data[key] for key in keys[:18]})
    compress(layout.root)
    damage(layout, keys[5])
    damage(layout, keys[9])
    with open(layout.archive, "rb") as file:
        before = file.read()
    put(layout, {key: data[key] for key in (keys[9], *keys[18:])})
    report = compress(layout.root)
    assert report.lost.keys() == {keys[5]}
    assert archived(layout) == {key: data[key] for key in keys if key != keys[5]}
    with open(report.copy, "rb") as file:
        assert file.read() == before


def test_what_is_sound_in_an_archive_without_index_is_saved(layout):
    data = make_data(30)
    put(layout, data)
    compress(layout.root)
    size = os.path.getsize(layout.archive)
    with open(layout.archive, "r+b") as file:
        file.seek(size // 3)
        file.write(b"\xff" * 8)
        file.truncate(size - 300)
    report = compress(layout.root)
    found = archived(layout)
    assert found.items() <= data.items()
    assert len(found) >= 25
    assert report.copy == f"{layout.damaged}/archive.tar.gz"


def test_the_new_archive_is_read_before_anything_is_removed(layout, monkeypatch):
    """What does not come back from the disk as it was written must not count."""
    put(layout, make_data(5))
    original = compress_module._Run._verify

    def verify(self, path, old):
        with open(path, "r+b") as file:
            file.seek(100)
            file.write(b"\xff\xff\xff")
        return original(self, path, old)

    monkeypatch.setattr(compress_module._Run, "_verify", verify)
    with pytest.raises(DatabaseError, match="reads back otherwise"):
        compress(layout.root)
    assert len(os.listdir(layout.loose)) == 5
    assert not os.path.exists(layout.archive)
    assert os.listdir(layout.temporaries) == []


def test_an_archive_of_another_tool_gains_an_index_and_keeps_its_other_members(layout, tmp_path):
    data = make_data(5)
    put(layout, data)
    (tmp_path / "README").write_text("words")
    with tarfile.open(layout.archive, "w:gz") as tar:
        tar.add(tmp_path / "README", "README")
        for key in data:
            tar.add(layout.loose_entry(key), key)
            os.unlink(layout.loose_entry(key))
    for number in range(2):
        put(layout, {make_key(10 + number): data[make_key(0)]})
        compress(layout.root)
        with tarfile.open(layout.archive) as tar:
            assert tar.extractfile("README").read() == b"words"
            assert len(tar.getnames()) == 7 + number
    assert archived(layout).items() >= data.items()


def test_chunks_are_added_to_what_is_loose(layout):
    data = make_data(10)
    put(layout, {key: data[key] for key in list(data)[6:]})
    chunks = [deflate_entry(key, data[key]) for key in list(data)[:6]]
    report = compress(layout.root, chunks=chunks)
    assert report.added == 10
    assert archived(layout) == data
    assert os.listdir(layout.loose) == []


class Meddling:
    """Nobody helps, but something happens to what was deflated."""

    count, apart = 0, False

    def __init__(self, meddle):
        self._meddle = meddle

    def map(self, function, tasks):
        for task in tasks:
            result = function(task)
            if isinstance(result, Deflated):
                result = result._replace(parcel=self._meddle(result.parcel))
            yield result


def test_an_entry_that_is_written_again_while_others_are_read_stays(layout):
    put(layout, make_data(3))
    newer = make_data(1, n_atoms=5)[make_key(0)]

    def write_again(parcel):
        put(layout, {make_key(1): newer}, age=0)
        return parcel

    report = compress(layout.root, helpers=Meddling(write_again))
    assert list(report.left) == [make_key(1)]
    assert os.listdir(layout.loose) == [make_key(1)]
    with FingerprintDatabase(layout.root) as database:
        assert database.get_bytes(make_key(1)) == newer
        assert len(database) == 3


def test_a_damaged_parcel_stops_everything(layout):
    put(layout, make_data(3))

    def spoil(parcel):
        return parcel._replace(crc=parcel.crc ^ np.array([0, 1, 0], np.uint32))

    with pytest.raises(DatabaseError, match="reads back otherwise"):
        compress(layout.root, helpers=Meddling(spoil))
    assert len(os.listdir(layout.loose)) == 3


def test_deflating_passes_over_what_is_missing_or_damaged(layout):
    put(layout, make_data(2) | {make_key(7): b"torn"})
    digests = digests_of([make_key(number) for number in (0, 7, 8, 1)])
    ((parcel, files, left),) = deflate_with(Forked(0), layout, digests)
    assert len(left) == 0
    assert to_hex(parcel.digests) == to_hex(files.digests) == [make_key(0), make_key(1)]
    assert len(parcel.crc) == len(files.stamps) == 2


def test_what_cannot_be_removed_is_a_warning(layout, monkeypatch):
    put(layout, make_data(3))
    original = os.unlink

    def unlink(path, *rest, **more):
        if "/loose/" in str(path):
            raise PermissionError(13, "Permission denied")
        return original(path, *rest, **more)

    monkeypatch.setattr(os, "unlink", unlink)
    report = compress(layout.root)
    assert "3 loose files" in report.warnings[0]
    assert len(archived(layout)) == 3
    monkeypatch.undo()
    assert compress(layout.root).files_freed == 3


def test_progress_goes_to_its_end(layout):
    put(layout, make_data(5))
    compress(layout.root)
    put(layout, {make_key(9): make_data(1)[make_key(0)]})
    seen = []
    compress(layout.root, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_readers_and_writers_beside_it(layout):
    entries = {make_key(number): make_entries(number, 3, {"Cu": 4})[0] for number in range(150)}
    keys = list(entries)
    errors, done = [], threading.Event()
    with FingerprintDatabase(layout.root) as database:
        for key in keys[:50]:
            database[key] = entries[key]

    def read():
        rng = np.random.default_rng(0)
        with FingerprintDatabase(layout.root) as mine:
            while not done.is_set():
                key = keys[rng.integers(50)]
                if mine[key] != entries[key]:
                    errors.append(key)
                if len(dict(mine.get_many(keys[:50]))) != 50:
                    errors.append("many")

    def write():
        with FingerprintDatabase(layout.root) as mine:
            for key in keys[50:]:
                mine[key] = entries[key]

    def run(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in (read, write)]
    for thread in threads:
        thread.start()
    while threads[1].is_alive():
        compress(layout.root)
    compress(layout.root)
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(archived(layout)) == 150


def test_memory_does_not_grow_with_the_data(layout):
    """40 entries of 5 MB, with less room than ten of them."""
    rng = np.random.default_rng(0)
    other = Layout(layout.root.replace("fingerprints", "arrays"))
    other.create()
    for number in range(40):
        put(other, {make_key(number): rng.bytes(5_000_000)})
    with limited_memory(50):
        compress(other.root)
        compress(other.root)
    assert os.listdir(other.loose) == []


def test_what_is_no_database(tmp_path):
    with pytest.raises(DatabaseError, match="there is no database"):
        compress(tmp_path / "x")
    (tmp_path / "y").mkdir()
    with pytest.raises(DatabaseError, match="no database"):
        compress(tmp_path / "y")


@pytest.mark.parametrize("processes", [1, 2])
def test_what_the_disk_cannot_read_is_left_out_and_a_copy_is_kept(layout, monkeypatch, processes):
    data = make_data(40)
    keys = list(data)
    put(layout, {key: data[key] for key in keys[:38]})
    compress(layout.root)
    begin, end = place_of(layout.archive, keys[5])
    spoil_sector(monkeypatch, layout.archive, begin + 5, end)
    inode = os.stat(layout.archive).st_ino
    put(layout, {key: data[key] for key in keys[38:]})
    steps = []
    report = compress(
        layout.root, processes=processes, progress=lambda done, total: steps.append(done / total)
    )
    assert report.lost.keys() == {keys[5]}
    assert "input/output error" in report.lost[keys[5]]
    assert report.entries == 39 and report.added == 2 and report.warnings == []
    assert os.stat(report.copy).st_ino == inode
    assert os.listdir(layout.loose) == []
    assert archived(layout) == {key: data[key] for key in keys if key != keys[5]}
    with tarfile.open(layout.archive) as tar:
        assert len(tar.getnames()) == 39


def test_a_sector_that_can_be_read_at_last_costs_nothing(layout, monkeypatch):
    data = make_data(20)
    keys = list(data)
    put(layout, {key: data[key] for key in keys[:18]})
    compress(layout.root)
    spoil_sector(monkeypatch, layout.archive, *place_of(layout.archive, keys[5]), times=2)
    put(layout, {key: data[key] for key in keys[18:]})
    report = compress(layout.root)
    assert not report.lost and report.copy is None
    assert archived(layout) == data


def test_an_archive_that_cannot_be_copied_either(layout, monkeypatch):
    """There are no hard links, and the disk fails at a copy, too."""
    data = make_data(4)
    keys = list(data)
    put(layout, {key: data[key] for key in keys[:3]})
    compress(layout.root)
    spoil_sector(monkeypatch, layout.archive, *place_of(layout.archive, keys[1]))

    def fail(source, target):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(aside, "os", SimpleNamespace(**{**vars(os), "link": fail}))
    monkeypatch.setattr(aside.shutil, "copy2", fail)
    put(layout, {keys[3]: data[keys[3]]})
    code = errno.ENOSPC
    with pytest.raises(DatabaseError, match="keep a copy of"):
        compress(layout.root)
    assert os.listdir(layout.loose) == [keys[3]]
    code = errno.EIO
    report = compress(layout.root)
    assert report.copy is None and "no whole copy" in report.warnings[0]
    assert report.lost.keys() == {keys[1]}
    assert archived(layout) == {key: data[key] for key in keys if key != keys[1]}
