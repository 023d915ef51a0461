import errno
import os
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import Executor, Future

import numpy as np
import pytest
from archive_samples import (
    ARCHIVES,
    INDEXED,
    add_member,
    archived,
    damage_archived,
    dead_name,
    make_data,
    make_database,
    names,
    open_archive,
    place_of,
    put,
    records_of,
    spoil_sector,
    write_archive,
)
from entry_samples import limited_memory, make_entries, make_key

from ampmpi import FingerprintDatabase
from ampmpi.database import compress as compress_module
from ampmpi.database.check import check
from ampmpi.database.compress import compress, rewrite
from ampmpi.database.layout import Home
from ampmpi.database.lock import Lock
from ampmpi.database.sound import LooseEntries
from ampmpi.database.workers import Workers
from ampmpi.entries.codec import encode
from ampmpi.errors import CorruptEntryError, DatabaseError, LockedError
from ampmpi.files import atomic
from ampmpi.keys import digests_of, to_hex


@pytest.fixture
def database(tmp_path):
    return make_database(tmp_path / "x-fingerprints.ampdb")


@pytest.fixture
def archive(database):
    return database / "archive.tar.gz"


def before(monkeypatch, name, action, where=compress_module._Run):
    """Do something once, before a step of the compress."""
    original, done = getattr(where, name), []

    def step(self, *arguments, **options):
        if not done:
            done.append(1)
            action()
        return original(self, *arguments, **options)

    monkeypatch.setattr(where, name, step)


def split(data, count):
    """Cut a dictionary in two."""
    items = list(data.items())
    return dict(items[:count]), dict(items[count:])


def test_loose_entries_go_into_the_archive(database, archive):
    data = make_data(20)
    put(database, data)
    report = compress(database)
    assert archived(database) == data
    assert names(database) == ["archive.tar.gz", "loose", "tmp"]
    assert names(database, "loose") == names(database, "tmp") == []
    assert (report.added, report.entries, report.files_freed) == (20, 20, 19)
    assert report.bytes_before == sum(map(len, data.values()))
    assert report.bytes_after == os.path.getsize(archive)
    assert (report.exit_code, report.remarks()) == (0, [])


def test_ten_times_a_few_more(database, archive):
    data = make_data(50)
    for start in range(0, 50, 5):
        put(database, dict(list(data.items())[start : start + 5]))
        assert compress(database).entries == start + 5
    assert archived(database) == data
    with tarfile.open(archive, "r|gz") as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == data


def test_old_records_are_copied_as_they_are(database, archive):
    old, new = split(make_data(60), 50)

    def raw():
        content = archive.read_bytes()
        return {key: content[a : a + n] for key, (a, n) in records_of(archive).items()}

    put(database, old)
    compress(database)
    records = raw()
    put(database, new)
    compress(database)
    assert raw().items() >= records.items()


def test_nothing_to_do_leaves_the_archive_untouched(database, archive):
    assert compress(database).entries == 0
    assert not archive.exists()
    put(database, make_data(3))
    compress(database)
    status = os.stat(archive)
    report = compress(database)
    assert os.stat(archive) == status
    assert (report.added, report.entries, report.files_freed) == (0, 3, 0)


@pytest.mark.parametrize("kind", ARCHIVES)
class TestEveryKindOfArchive:
    """Whoever wrote the old archive, and whether or not it has an index."""

    @pytest.fixture
    def old(self, kind, archive):
        old, _ = split(make_data(8), 5)
        ARCHIVES[kind](archive, old)
        return old

    def test_its_entries_are_taken_over(self, database, old):
        put(database, make_data(8) | {make_key(2): make_data(1, n_atoms=5)[make_key(0)]})
        newer = make_data(1, n_atoms=5)[make_key(0)]
        report = compress(database)
        assert archived(database) == make_data(8) | {make_key(2): newer}
        assert (report.lost, report.copy, report.exit_code) == ({}, None, 0)
        assert names(database, "loose") == names(database, "damaged") == []

    def test_it_gains_an_index(self, database, old, kind):
        assert compress(database).entries == 5
        assert archived(database) == old

    def test_entries_are_deleted_at_once(self, database, old):
        keys = list(make_data(8))
        put(database, {key: make_data(8)[key] for key in keys[4:7]})
        with FingerprintDatabase(database) as mine:
            assert mine.delete([keys[0], keys[4], keys[5], make_key(99)]) == 3
            assert set(mine) == {*keys[1:4], keys[6]}
            with pytest.raises(KeyError):
                mine[keys[4]]
        assert set(archived(database)) == set(keys[1:4])
        assert names(database, "loose") == [keys[6]]

    def test_one_damaged_entry_is_named_and_a_copy_is_kept(self, database, archive, old, kind):
        """Of an archive without index it is the checksum of the entry itself that tells."""
        torn = old | {make_key(1): old[make_key(1)][:70] + b"?" + old[make_key(1)][71:]}
        os.unlink(archive)
        if kind in INDEXED:
            ARCHIVES[kind](archive, old)
            damage_archived(database, make_key(1))
        else:
            ARCHIVES[kind](archive.with_name("again"), torn)
            os.rename(archive.with_name("again"), archive)
        content = archive.read_bytes()
        put(database, {make_key(7): make_data(8)[make_key(7)]})
        report = compress(database)
        del old[make_key(1)]
        assert report.lost.keys() == {make_key(1)} and report.exit_code == 5
        assert archived(database) == old | {make_key(7): make_data(8)[make_key(7)]}
        assert report.copy == f"{database}/damaged/archive.tar.gz"
        with open(report.copy, "rb") as file:
            assert file.read() == content


def test_members_that_are_no_entries_are_kept(database, archive):
    data = make_data(5)
    with tarfile.open(archive, "w:gz") as tar:
        add_member(tar, "README", b"words")
        add_member(tar, make_key(3), type=tarfile.LNKTYPE, linkname=make_key(0))
        for key, content in data.items():
            add_member(tar, key, content)
    for number in range(2):
        put(database, {make_key(10 + number): data[make_key(0)]})
        compress(database)
        with tarfile.open(archive) as tar:
            assert tar.extractfile("README").read() == b"words"
            assert len(tar.getnames()) == 8 + number
    assert archived(database).items() >= data.items()


def test_delete_waits_for_the_lock_and_changes_nothing_without_it(database):
    data = make_data(4)
    put(database, data)
    compress(database)
    put(database, {make_key(3): data[make_key(3)]})
    mine = FingerprintDatabase(database)
    with Lock(Home.open(database)), pytest.raises(LockedError):
        mine.delete(data, wait=0)
    assert archived(database) == data
    assert names(database, "loose") == [make_key(3)]
    mine.clear()
    assert archived(database) == {} and names(database, "loose") == []
    with pytest.raises(KeyError):
        del mine[make_key(3)]


def test_bad_loose_entries_are_set_aside(database):
    data = make_data(6)
    bad = {make_key(7): b"", make_key(8): b"no pickle", make_key(9): data[make_key(1)][:-3]}
    put(database, data | bad)
    report = compress(database)
    assert report.set_aside.keys() == bad.keys()
    assert report.exit_code == 5
    assert archived(database) == data
    assert names(database, "loose") == []
    assert {path.name: path.read_bytes() for path in (database / "damaged").iterdir()} == bad


def test_a_bad_entry_that_may_still_be_in_the_making_stays(database):
    put(database, make_data(2))
    put(database, {make_key(8): b"Amp is writ"}, age=5.0)
    report = compress(database)
    assert report.left.keys() == {make_key(8)}
    assert names(database, "loose") == [make_key(8)]
    assert len(archived(database)) == 2


def test_a_bad_loose_entry_does_not_harm_its_archived_copy(database):
    data = make_data(3)
    put(database, data)
    compress(database)
    put(database, {make_key(1): b"torn"})
    compress(database)
    assert archived(database) == data


def test_other_files_in_loose_survive(database):
    others = [".nfs000000001", "README", make_key(0) + "~", "." + make_key(0) + ".swp"]
    for name in others:
        (database / "loose" / name).write_text("mine")
    os.mkdir(database / "loose" / make_key(5))
    os.symlink("/etc/passwd", database / "loose" / make_key(6))
    os.mkfifo(database / "loose" / make_key(7))
    put(database, make_data(3))
    for _ in range(2):
        compress(database)
        kept = {*others, make_key(5), make_key(6), make_key(7)}
        assert set(names(database, "loose")) == kept
        assert set(archived(database)) == set(make_data(3))


def test_another_kind_of_database_is_archived_byte_for_byte(tmp_path):
    database = make_database(tmp_path / "x-neighborlists.ampdb")
    data = {make_key(0): b"(lp0\n.", make_key(1): b"anything at all", make_key(2): os.urandom(999)}
    put(database, data)
    compress(database)
    assert archived(database) == data


def test_a_whole_entry_of_the_other_kind_is_archived_and_never_believed(database):
    primes = encode(make_entries(0, 3, {"Cu": 4})[1])
    put(database, {make_key(0): primes})
    for _ in range(2):
        with FingerprintDatabase(database) as mine:
            with pytest.raises(CorruptEntryError, match=make_key(0)):
                mine[make_key(0)]
            assert make_key(0) in mine.corrupt
        report = compress(database)
        assert report.exit_code == 0
        assert archived(database) == {make_key(0): primes}
    (problem,) = check(database).problems
    assert problem.startswith(f"value: {make_key(0)} (archived) is whole, but")


def test_an_entry_written_again_meanwhile_stays_loose(database, monkeypatch):
    data = make_data(4)
    put(database, data)
    newer = make_data(1, n_atoms=5)[make_key(0)]
    before(monkeypatch, "_finish", lambda: put(database, {make_key(2): newer}, age=0))
    report = compress(database)
    assert report.left.keys() == {make_key(2)}
    with FingerprintDatabase(database) as mine:
        assert mine.get_bytes(make_key(2)) == newer
    compress(database)
    assert archived(database)[make_key(2)] == newer


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("when", ["before it is finished", "at the last moment"])
def test_an_archive_that_somebody_put_there_meanwhile_is_read_again(
    database, archive, monkeypatch, when, first
):
    """Also while this process is suspended between its last look and the exchange."""
    data = make_data(8)
    keys = list(data)
    if not first:
        put(database, {key: data[key] for key in keys[:4]})
        compress(database)
    put(database, {keys[4]: data[keys[4]]})

    def somebody():
        theirs = {key: data[key] for key in keys[3:4] + keys[5:]}
        write_archive(archive.with_name("theirs"), theirs)
        os.rename(archive.with_name("theirs"), archive)

    if when == "before it is finished":
        before(monkeypatch, "_finish", somebody)
    elif first:
        before(monkeypatch, "_link", somebody, atomic)
    else:
        before(monkeypatch, "_rename_with", somebody, atomic)
    compress(database)
    assert archived(database) == {key: data[key] for key in keys[3:]}
    assert names(database, "tmp") == [] and names(database, "loose") == []


def test_without_an_exchange_the_last_look_tells(database, archive, monkeypatch):
    """As on NFS: what is put there before the look is not replaced."""
    data = make_data(6)
    keys = list(data)
    put(database, {key: data[key] for key in keys[:3]})
    compress(database)
    put(database, {keys[3]: data[keys[3]]})
    monkeypatch.setattr(atomic, "_rename_with", lambda *_: False)

    def somebody():
        write_archive(archive.with_name("theirs"), {key: data[key] for key in keys[4:]})
        os.rename(archive.with_name("theirs"), archive)

    before(monkeypatch, "_finish", somebody)
    compress(database)
    assert archived(database) == {key: data[key] for key in keys[3:]}
    assert names(database, "tmp") == []


def test_an_archive_that_changes_again_and_again_is_an_error(database, archive, monkeypatch):
    data = make_data(3)
    put(database, {make_key(0): data[make_key(0)]})
    compress(database)
    put(database, {make_key(1): data[make_key(1)]})
    original = compress_module._Run._finish

    def finish(*arguments):
        os.utime(archive)
        return original(*arguments)

    monkeypatch.setattr(compress_module._Run, "_finish", finish)
    with pytest.raises(DatabaseError, match="again and again"):
        compress(database)
    assert names(database, "loose") == [make_key(1)]
    assert names(database, "tmp") == []
    assert archived(database).keys() == {make_key(0)}


def test_what_only_the_archive_of_a_killed_compress_holds_is_taken_over(database):
    """It was killed between two exchanges; a living one's archive is left alone."""
    data = make_data(6)
    old, more = split(data, 3)
    write_archive(database / "archive.tar.gz", old)
    write_archive(database / "tmp" / dead_name("archive"), more)
    living = atomic.temporary_name("archive")
    (database / "tmp" / living).write_bytes(b"being written")
    (database / "tmp" / dead_name("put")).write_bytes(b"half an entry")
    assert any("killed compressions left" in note for note in check(database).notes)
    report = compress(database)
    assert archived(database) == data
    assert (report.added, report.exit_code) == (3, 0)
    assert names(database, "tmp") == [living]


def test_half_an_archive_of_a_killed_compress_does_no_harm(database):
    data = make_data(6)
    put(database, data)
    left = database / "tmp" / dead_name("archive")
    write_archive(left, data)
    os.truncate(left, os.path.getsize(left) // 2)
    report = compress(database)
    assert archived(database) == data
    assert (report.lost, report.copy, report.exit_code) == ({}, None, 0)
    assert names(database, "tmp") == []


def test_a_lock_that_was_broken_stops_the_replacement(database, archive, monkeypatch):
    put(database, make_data(2))
    before(monkeypatch, "_read_back", lambda: os.unlink(database / "lock"))
    with pytest.raises(LockedError):
        compress(database)
    assert not archive.exists()
    assert len(names(database, "loose")) == 2


def test_a_lock_that_was_broken_at_the_last_moment_leaves_loose_files(database, monkeypatch):
    """Another compress may have read the old archive before this one's took its place."""
    data = make_data(2)
    put(database, data)
    before(monkeypatch, "_remove", lambda: os.unlink(database / "lock"))
    report = compress(database)
    assert "took the lock away" in report.warnings[0]
    assert names(database, "loose") == sorted(data)
    compress(database)
    assert names(database, "loose") == [] and archived(database) == data


def test_a_database_that_is_renamed_is_followed(database, monkeypatch):
    """And the one that takes its name is not touched."""
    data = make_data(5)
    put(database, data)
    moved = database.with_name("moved-fingerprints.ampdb")

    def rename():
        os.rename(database, moved)
        put(make_database(database), {make_key(9): b"another database's"})

    before(monkeypatch, "_finish", rename)
    compress(database)
    assert archived(moved) == data and names(moved, "loose") == []
    assert names(database, "loose") == [make_key(9)]
    assert not (database / "archive.tar.gz").exists()


def test_who_may_read_follows_the_directory_and_not_the_umask(database, archive):
    """A first archive gets the directory's bits, a new one those of the old one."""
    for mode, expected in ((0o775, 0o664), (0o750, 0o640)):
        database.chmod(mode)
        archive.unlink(missing_ok=True)
        old = os.umask(0o077)
        try:
            put(database, make_data(2))
            compress(database)
            assert archive.stat().st_mode & 0o777 == expected
            archive.chmod(0o644)
            put(database, make_data(3))
            compress(database)
            assert archive.stat().st_mode & 0o777 == 0o644
        finally:
            os.umask(old)


@pytest.mark.parametrize("name", ["loose", "tmp", "damaged"])
def test_a_link_in_place_of_a_folder_leads_nowhere(database, tmp_path, name):
    put(database, {make_key(0): make_data(1)[make_key(0)], make_key(1): b"torn"})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if (database / name).exists():
        os.rename(database / name, elsewhere)
    os.symlink(elsewhere, database / name)
    content = names(elsewhere)
    try:
        compress(database)
    except DatabaseError as error:
        assert name in str(error)
    assert names(elsewhere) == content


def test_damaged_entries_of_the_old_archive_are_left_out_and_a_copy_is_kept(database, archive):
    data = make_data(20)
    keys = list(data)
    put(database, {key: data[key] for key in keys[:18]})
    compress(database)
    damage_archived(database, keys[5])
    damage_archived(database, keys[9])
    content = archive.read_bytes()
    put(database, {key: data[key] for key in (keys[9], *keys[18:])})
    report = compress(database)
    assert report.lost.keys() == {keys[5]}
    assert archived(database) == {key: data[key] for key in keys if key != keys[5]}
    with open(report.copy, "rb") as file:
        assert file.read() == content


def test_what_is_sound_in_an_archive_without_index_is_saved(database, archive):
    data = make_data(30)
    put(database, data)
    compress(database)
    size = os.path.getsize(archive)
    with open(archive, "r+b") as file:
        file.seek(size // 3)
        file.write(b"\xff" * 8)
        file.truncate(size - 300)
    report = compress(database)
    found = archived(database)
    assert found.items() <= data.items()
    assert len(found) >= 25
    assert report.copy == f"{database}/damaged/archive.tar.gz"


def test_the_new_archive_is_read_before_anything_is_removed(database, archive, monkeypatch):
    """What does not come back from the disk as it was written must not count."""
    put(database, make_data(5))

    def spoil():
        (name,) = (name for name in names(database, "tmp") if "archive" in name)
        with open(database / "tmp" / name, "r+b") as file:
            file.seek(100)
            file.write(b"\xff\xff\xff")

    before(monkeypatch, "_read_back", spoil)
    with pytest.raises(DatabaseError, match="reads back otherwise"):
        compress(database)
    assert len(names(database, "loose")) == 5
    assert not archive.exists()
    assert names(database, "tmp") == []


class Meddling(Executor):
    """Does what it is asked to at once, but something happens to results."""

    def __init__(self, meddle):
        self._meddle = meddle

    def submit(self, function, /, *arguments, **options):
        future = Future()
        result = function(*arguments, **options)
        future.set_result(self._meddle(result))
        return future


def compress_with(database, meddle):
    home = Home.open(database)
    return rewrite(home, Lock(home), Workers(Meddling(meddle), 1))


def test_an_entry_that_is_written_again_while_others_are_read_stays(database):
    put(database, make_data(3))
    newer, times = make_data(1, n_atoms=5)[make_key(0)], []

    def write_again(result):
        if hasattr(result, "parcel") and not times:
            times.append(1)
            put(database, {make_key(1): newer}, age=0)
        return result

    report = compress_with(database, write_again)
    assert list(report.left) == [make_key(1)]
    assert names(database, "loose") == [make_key(1)]
    with FingerprintDatabase(database) as mine:
        assert mine.get_bytes(make_key(1)) == newer
        assert len(mine) == 3


def test_a_damaged_parcel_stops_everything(database, archive):
    """What a worker verified is written as it was, or nothing is."""
    put(database, make_data(3))

    def spoil(result):
        if not hasattr(result, "parcel"):
            return result
        raw = bytearray(result.parcel.raw)
        raw[700] ^= 1
        return result._replace(parcel=result.parcel._replace(raw=bytes(raw)))

    with pytest.raises(DatabaseError, match="reads back otherwise"):
        compress_with(database, spoil)
    assert len(names(database, "loose")) == 3
    assert not archive.exists()


def test_loose_entries_give_what_is_there_and_sound(database):
    data = make_data(3)
    put(database, data | {make_key(7): b"torn"})
    source = LooseEntries(Home.open(database), Workers())
    assert set(to_hex(source.digests())) == {*data, make_key(7)}
    os.unlink(database / "loose" / make_key(2))
    without = digests_of([make_key(1)])
    given = [key for parcel in source.parcels(without) for key in to_hex(parcel.digests)]
    assert given == [make_key(0)]
    assert source.lost.keys() == {make_key(7)}
    assert [key for taken in source.taken for key in to_hex(taken["digest"])] == given


def test_what_cannot_be_removed_is_a_warning(database, monkeypatch):
    put(database, make_data(3))
    original = os.unlink

    def unlink(path, *rest, **more):
        if path in make_data(3):
            raise PermissionError(13, "Permission denied")
        return original(path, *rest, **more)

    monkeypatch.setattr(os, "unlink", unlink)
    report = compress(database)
    assert "3 loose files" in report.warnings[0]
    assert len(archived(database)) == 3
    monkeypatch.undo()
    assert compress(database).files_freed == 3


def test_progress_goes_to_its_end(database):
    put(database, make_data(5))
    compress(database)
    put(database, {make_key(9): make_data(1)[make_key(0)]})
    seen = []
    compress(database, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_readers_and_writers_beside_it(database):
    entries = {make_key(number): make_entries(number, 3, {"Cu": 4})[0] for number in range(150)}
    keys = list(entries)
    errors, done = [], threading.Event()
    with FingerprintDatabase(database) as mine:
        for key in keys[:50]:
            mine[key] = entries[key]

    def read():
        rng = np.random.default_rng(0)
        with FingerprintDatabase(database) as mine:
            while not done.is_set():
                key = keys[rng.integers(50)]
                if mine[key] != entries[key]:
                    errors.append(key)
                if len(dict(mine.get_many(keys[:50]))) != 50:
                    errors.append("many")

    def write():
        with FingerprintDatabase(database) as mine:
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
        compress(database)
    compress(database)
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(archived(database)) == 150


def test_memory_does_not_grow_with_the_data(tmp_path):
    """40 entries of 5 MB, with less room than ten of them."""
    rng = np.random.default_rng(0)
    database = make_database(tmp_path / "x-arrays.ampdb")
    for number in range(40):
        put(database, {make_key(number): rng.bytes(5_000_000)})
    with limited_memory(50):
        compress(database)
        put(database, {make_key(99): b"one more"})
        compress(database)
    assert names(database, "loose") == []
    with open_archive(database / "archive.tar.gz") as archive:
        assert len(archive) == 41


def test_what_is_no_database(tmp_path):
    with pytest.raises(DatabaseError, match="there is no database"):
        compress(tmp_path / "x")
    (tmp_path / "y").mkdir()
    with pytest.raises(DatabaseError, match="no database"):
        compress(tmp_path / "y")


@pytest.mark.parametrize("processes", [1, 2])
def test_what_the_disk_cannot_read_is_left_out_and_a_copy_is_kept(
    database, archive, monkeypatch, processes
):
    data = make_data(40)
    keys = list(data)
    put(database, {key: data[key] for key in keys[:38]})
    compress(database)
    begin, end = place_of(archive, keys[5])
    spoil_sector(monkeypatch, archive, begin + 5, end)
    inode = os.stat(archive).st_ino
    put(database, {key: data[key] for key in keys[38:]})
    report = compress(database, processes=processes)
    assert report.lost.keys() == {keys[5]}
    assert "input/output error" in report.lost[keys[5]]
    assert report.entries == 39 and report.added == 2 and report.warnings == []
    assert os.stat(report.copy).st_ino == inode
    assert names(database, "loose") == []
    assert archived(database) == {key: data[key] for key in keys if key != keys[5]}
    with tarfile.open(archive) as tar:
        assert len(tar.getnames()) == 39


def test_a_sector_that_can_be_read_at_last_costs_nothing(database, archive, monkeypatch):
    data = make_data(20)
    old, new = split(data, 18)
    put(database, old)
    compress(database)
    spoil_sector(monkeypatch, archive, *place_of(archive, make_key(5)), times=1)
    put(database, new)
    report = compress(database)
    assert not report.lost and report.copy is None
    assert archived(database) == data


@pytest.mark.parametrize("code", [None, errno.ENOSPC, errno.EIO])
def test_a_damaged_archive_without_hard_links_is_copied(database, archive, monkeypatch, code):
    """And if that fails, too, an error of the disk is told; a full one stops everything."""
    data = make_data(4)
    old, new = split(data, 3)
    put(database, old)
    compress(database)
    damage_archived(database, make_key(1))
    content = archive.read_bytes()
    put(database, new)
    real = os.open

    def refuse(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def opening(name, flags, *rest, **options):
        if code is not None and flags & os.O_CREAT and name == "archive.tar.gz":
            raise OSError(code, os.strerror(code))
        return real(name, flags, *rest, **options)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "open", opening)
    if code == errno.ENOSPC:
        with pytest.raises(DatabaseError, match="keep a copy of"):
            compress(database)
        assert names(database, "loose") == list(new)
        assert archive.read_bytes() == content
        return
    report = compress(database)
    assert report.lost.keys() == {make_key(1)}
    del data[make_key(1)]
    assert archived(database) == data
    if code is None:
        assert (database / "damaged" / "archive.tar.gz").read_bytes() == content
    else:
        assert report.copy is None and "no whole copy" in report.warnings[0]


def test_a_deletion_that_was_killed_after_the_exchange_stays_done(tmp_path):
    """What came out of the exchange is not taken for an archive with entries of its own."""
    keys = sorted(make_key(number) for number in range(4))
    entries = {key: make_entries(number, 3, {"Cu": 4})[0] for number, key in enumerate(keys)}
    path = f"{tmp_path}/x-fingerprints.ampdb"
    database = FingerprintDatabase(path)
    database.update({key: entries[key] for key in keys[:3]})
    database.compress()
    script = f"""
import os
from ampmpi import FingerprintDatabase
unlink = os.unlink
def killed(name, *args, **kwargs):
    if "ampmpi-archive-" in str(name):
        os._exit(9)
    unlink(name, *args, **kwargs)
os.unlink = killed
FingerprintDatabase({str(path)!r}).delete([{keys[0]!r}])
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert any("ampmpi-archive-" in name for name in os.listdir(f"{path}/tmp"))
    assert keys[0] not in database
    database[keys[3]] = entries[keys[3]]
    database.compress()
    assert set(database) == set(keys[1:])
    assert os.listdir(f"{path}/tmp") == []
