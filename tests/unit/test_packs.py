"""Writing packs, reading them, and saving what is in unfinished ones."""

import errno
import os
import re
import threading

import numpy as np
import pytest
from archive_samples import (
    dead_name,
    flip,
    is_indexed,
    keys_of,
    make_data,
    make_database,
    names,
    open_archive,
    place_of,
    put,
    put_open_pack,
    put_packs,
    set_age,
    write_archive,
)
from entry_samples import make_key, make_special, open_files

from ampmpi import FingerprintDatabase
from ampmpi.database import packed, packs
from ampmpi.database.check import check
from ampmpi.database.compress import compress
from ampmpi.database.layout import Home
from ampmpi.database.packed import PackReader
from ampmpi.database.packs import (
    PackLimits,
    PackWriter,
    open_packs,
    salvage,
    unfinished,
)
from ampmpi.errors import CorruptEntryError, DatabaseError, InputError
from ampmpi.files.folder import Folder
from ampmpi.files.owner import Owner
from ampmpi.keys import digests_of, to_hex

N = 9
DATA = make_data(N)
KEYS = list(DATA)
FOREVER = PackLimits(1 << 62, 1e9)


@pytest.fixture
def database(tmp_path):
    return make_database(tmp_path / "x-fingerprints.ampdb")


@pytest.fixture
def home(database):
    return Home.open(database)


@pytest.fixture
def clock(monkeypatch):
    """Return the time that the writer of packs reads, as a list of one."""
    now = [1000.0]
    monkeypatch.setattr(packs.time, "monotonic", lambda: now[0])
    return now


def contents(database):
    """Return the keys of each pack, which must all be whole."""
    found = []
    for name in names(database, "packs"):
        with open_archive(f"{database}/packs/{name}") as pack:
            assert is_indexed(pack) and pack.damage is None
            assert {key: DATA[key] for key in keys_of(pack)} == dict(pack.read_many())
            found.append(set(keys_of(pack)))
    return sorted(found, key=sorted)


def temporary(database):
    (name,) = names(database, "tmp")
    return f"{database}/tmp/{name}"


class TestWriter:
    def test_a_pack_is_an_archive(self, database, home, tmp_path):
        writer = PackWriter(home, rank=3)
        for key, data in DATA.items():
            writer.put_bytes(key, data)
            assert names(database, "packs") == []
        assert "-r3-" in temporary(database)
        writer.close()
        assert names(database, "tmp") == []
        (name,) = names(database, "packs")
        assert "-r3-" in name and name.endswith(".tar.gz")
        write_archive(tmp_path / "a", DATA)
        pack = database / "packs" / name
        assert pack.read_bytes() == (tmp_path / "a").read_bytes()

    def test_each_entry_is_one_write_and_nothing_else(self, home, monkeypatch):
        writer = PackWriter(home, limits=FOREVER)
        writer.put_bytes(KEYS[0], DATA[KEYS[0]])
        real, sizes = os.write, []

        def counted(descriptor, data):
            sizes.append(len(data))
            return real(descriptor, data)

        def refused(*_, **__):
            raise AssertionError("one write is all that an entry takes")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", counted)
            for call in ("open", "rename", "stat", "fsync", "unlink", "lseek", "fstat", "close"):
                patch.setattr(os, call, refused)
            for key in KEYS[1:]:
                writer.put_bytes(key, DATA[key])
        assert len(sizes) == N - 1
        writer.close()
        assert contents(home.path) == [set(KEYS)]

    def test_limits_that_a_user_gives(self):
        assert PackLimits.of() == PackLimits()
        assert PackLimits.of(1.5, 20) == PackLimits(1_500_000, 20)
        for wrong in ((0, 1), (-1, 1), (float("nan"), 1), (1e9, 1)):
            with pytest.raises(InputError, match=r"the size of packs is .* MB"):
                PackLimits.of(*wrong)
        for wrong in ((1, 0), (1, float("inf"))):
            with pytest.raises(InputError, match=r"the age of packs is .* seconds"):
                PackLimits.of(*wrong)

    def test_a_pack_ends_when_it_is_large(self, database, home, tmp_path):
        write_archive(tmp_path / "a", DATA)
        three = place_of(tmp_path / "a", KEYS[2])[1]
        writer = PackWriter(home, limits=PackLimits(three, 1e9))
        for number, (key, data) in enumerate(DATA.items(), 1):
            writer.put_bytes(key, data)
            # Sizes of records differ by some bytes: it may take one more.
            assert number / 4 - 1 < len(names(database, "packs")) <= number / 3
        writer.close()
        found = contents(database)
        assert set.union(*found) == set(KEYS) and sum(map(len, found)) == N
        assert len(found) in (2, 3)

    def test_a_pack_ends_when_its_first_entry_is_old(self, database, home, clock):
        writer = PackWriter(home, limits=PackLimits(1 << 62, 5.0))
        for second, key in enumerate(KEYS):
            clock[0] = 1000.0 + 2 * second
            writer.put_bytes(key, DATA[key])
        # At 6, the one that began at 0 is 5 s old; the next one may be twice as old.
        assert contents(database) == [set(KEYS[:4])]
        writer.close()
        assert len(contents(database)) == 2

    def test_the_same_entry_again_goes_into_another_pack(self, database, home):
        writer = PackWriter(home)
        for data in (DATA[KEYS[1]], DATA[KEYS[0]]):
            writer.put_bytes(KEYS[0], data)
            writer.put_bytes(KEYS[2], DATA[KEYS[2]]) if data == DATA[KEYS[1]] else None
        writer.close()
        assert len(names(database, "packs")) == 2
        assert set(FingerprintDatabase(database)) == {KEYS[0], KEYS[2]}

    def test_what_is_no_key_or_too_large(self, database, home, monkeypatch):
        writer = PackWriter(home)
        for key in ("README", "../x", KEYS[0].upper(), 3):
            with pytest.raises(DatabaseError, match=f"{key!r} is no key".replace(".", r"\.")):
                writer.put_bytes(key, DATA[KEYS[0]])
        writer.close()
        assert names(database) == ["loose", "tmp"] and names(database, "tmp") == []
        monkeypatch.setattr("ampmpi.database.archive.tar.MAX_ENTRY_SIZE", 10)
        with pytest.raises(DatabaseError, match="cannot write to"):
            writer.put_bytes(KEYS[0], DATA[KEYS[0]])

    def test_nothing_written_makes_nothing(self, database, home):
        writer = PackWriter(home)
        writer.close()
        writer.close()
        assert names(database) == ["loose", "tmp"]

    def test_closing_twice_and_going_on(self, database, home):
        writer = PackWriter(home)
        for key in KEYS[:2]:
            writer.put_bytes(key, DATA[key])
            writer.close()
            writer.close()
        assert contents(database) == sorted([{KEYS[0]}, {KEYS[1]}], key=sorted)

    @pytest.mark.parametrize("done", [0, 1, 3])
    @pytest.mark.parametrize("fits", [0, 5, 70])
    def test_after_an_error_another_pack_is_begun(self, database, home, monkeypatch, done, fits):
        writer = PackWriter(home)
        for key in KEYS[:done]:
            writer.put_bytes(key, DATA[key])
        real, left = os.write, [fits]

        def full(descriptor, data):
            if not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = real(descriptor, data[: left[0]])
            left[0] -= written
            return written

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(DatabaseError, match="the disk is full") as caught:
                writer.put_bytes(KEYS[done], DATA[KEYS[done]])
            assert caught.value.errno == errno.ENOSPC
            writer.close()
        for key in KEYS[done:5]:  # there is room again
            writer.put_bytes(key, DATA[key])
        writer.close()
        assert contents(database) == [set(KEYS[done:5])]
        (left,) = open_packs(home)
        assert salvage(home, left) == (done, None)
        assert set.union(*contents(database)) == set(KEYS[:5])
        assert names(database, "tmp") == []

    @pytest.mark.parametrize("call", ["fsync", "rename"])
    def test_one_that_cannot_be_ended_is_salvaged(self, database, home, monkeypatch, call):
        writer = PackWriter(home)
        for key in KEYS[:3]:
            writer.put_bytes(key, DATA[key])

        def refuse(*_, **__):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(DatabaseError, match="input/output error"):
                writer.close()
            writer.close()
        assert names(database, "packs") == []
        writer.put_bytes(KEYS[3], DATA[KEYS[3]])
        writer.close()
        assert contents(database) == [{KEYS[3]}]
        assert unfinished(home) == []  # this process lives
        set_age(temporary(database), 700)
        (left,) = unfinished(home)
        assert salvage(home, left) == (3, None)
        assert set.union(*contents(database)) == set(KEYS[:4])
        assert names(database, "tmp") == []

    @pytest.mark.parametrize("salvaged", [True, False])
    def test_one_that_was_taken_for_dead_loses_nothing(self, database, home, salvaged):
        writer = PackWriter(home)
        for key in KEYS[:3]:
            writer.put_bytes(key, DATA[key])
        name = os.path.basename(temporary(database))
        if salvaged:
            assert salvage(home, name) == (3, None)
            assert contents(database) == [set(KEYS[:3])]
        else:
            os.unlink(temporary(database))
        for key in KEYS[3:6]:
            writer.put_bytes(key, DATA[key])
        writer.close()
        assert contents(database)[-1] == set(KEYS[:6]) or set(KEYS[:6]) in contents(database)
        assert names(database, "tmp") == []
        assert set(FingerprintDatabase(database)) == set(KEYS[:6])

    def test_after_a_pause_it_looks_whether_its_file_is_there(self, database, home, clock):
        writer = PackWriter(home, limits=FOREVER)
        writer.put_bytes(KEYS[0], DATA[KEYS[0]])
        os.unlink(temporary(database))
        clock[0] += 50
        writer.put_bytes(KEYS[1], DATA[KEYS[1]])
        assert names(database, "tmp") == []
        clock[0] += 61
        writer.put_bytes(KEYS[2], DATA[KEYS[2]])
        assert len(open_packs(home)) == 1
        writer.close()
        assert contents(database) == [set(KEYS[:3])]

    @pytest.mark.parametrize("folder", ["packs", "tmp"])
    def test_a_folder_that_was_removed_meanwhile(self, database, home, folder):
        writer = PackWriter(home)
        writer.put_bytes(KEYS[0], DATA[KEYS[0]])
        writer.close()
        writer.put_bytes(KEYS[1], DATA[KEYS[1]])
        for name in names(database, folder):
            os.unlink(database / folder / name)
        os.rmdir(database / folder)
        writer.close()
        assert {KEYS[1]} in contents(database)
        assert names(database, "tmp") == []

    def test_a_database_that_was_removed_is_said(self, database, home, tmp_path):
        writer = PackWriter(home)
        writer.put_bytes(KEYS[0], DATA[KEYS[0]])
        os.unlink(temporary(database))
        for folder in ("loose", "packs", "tmp", ""):
            os.rmdir(database / folder)
        with pytest.raises(DatabaseError, match="was removed while it was in use"):
            writer.close()
        with pytest.raises(DatabaseError, match="was removed while it was in use"):
            PackWriter(home).put_bytes(KEYS[0], DATA[KEYS[0]])
        assert not database.exists()

    @pytest.mark.parametrize("umask", [0o002, 0o077])
    @pytest.mark.parametrize("mode", [0o700, 0o750, 0o2775])
    def test_who_may_read_follows_the_directory(self, database, umask, mode):
        os.chmod(database, mode)
        before = os.umask(umask)
        try:
            put_packs(database, DATA, 2)
            put_open_pack(database, DATA)
        finally:
            os.umask(before)
        found = [database / "packs" / name for name in names(database, "packs")]
        found.append(database / "tmp" / names(database, "tmp")[0])
        assert [path.stat().st_mode & 0o7777 for path in found] == [mode & 0o666] * 3
        assert (database / "packs").stat().st_mode & 0o7777 == mode

    def test_no_descriptor_is_left_open(self, home):
        before = open_files()
        for _ in range(3):
            put_packs(home.path, DATA, 2)
        assert open_files() <= before + 1  # packs/ itself


class TestReader:
    def listed(self, reader):
        current = reader.current()
        return to_hex(current.digests()), [pack.damage for pack in current.packs]

    def test_all_packs_are_one(self, database, home):
        assert self.listed(PackReader(home)) == ([], [])
        put_packs(database, DATA, 3)
        reader = PackReader(home)
        assert self.listed(reader) == (sorted(KEYS), [None] * 3)
        assert reader.read(make_key(99)) is None
        assert {key: reader.read(key) for key in KEYS} == DATA
        wanted = np.sort(digests_of([*KEYS[2:5], make_key(99)]))
        assert dict(reader.read_many(wanted)) == {key: DATA[key] for key in KEYS[2:5]}
        assert KEYS[0] in reader and make_key(99) not in reader

    def test_of_several_copies_the_newest_packs_counts(self, database, home):
        for minutes, number in ((3, 1), (1, 2), (2, 3)):
            put_packs(database, {KEYS[0]: DATA[KEYS[number]]}, age=60.0 * minutes)
        put_packs(database, {KEYS[5]: DATA[KEYS[5]]}, age=30)
        assert PackReader(home).read(KEYS[0]) == DATA[KEYS[2]]
        assert self.listed(PackReader(home))[0] == sorted([KEYS[0], KEYS[5]])
        reader = PackReader(home)
        reader.current()
        put_packs(database, {KEYS[0]: DATA[KEYS[4]]}, age=5)
        assert reader.read(KEYS[0]) == PackReader(home).read(KEYS[0]) == DATA[KEYS[4]]

    def test_an_index_is_read_once_and_the_list_only_when_it_has_changed(
        self, database, home, monkeypatch
    ):
        count = 3000
        put_packs(database, DATA)
        (name,) = names(database, "packs")
        first = database / "packs" / name
        for number in range(count - 1):
            os.link(first, database / "packs" / f"{number}.tar.gz")
        set_age(database / "packs")
        opened, scans = [], []
        real_open, real_scan = packed.read_index, Folder.scan

        def counted(*arguments):
            opened.append(1)
            return real_open(*arguments)

        def scanned(folder):
            scans.append(folder.path)
            return real_scan(folder)

        monkeypatch.setattr(packed, "read_index", counted)
        monkeypatch.setattr(Folder, "scan", scanned)
        reader = PackReader(home)
        for key in KEYS:
            assert reader.read(key) == DATA[key]
        assert (len(opened), len(scans)) == (count, 1)
        put_packs(database, make_data(N + 3), age=-5)
        set_age(database / "packs", 1800)
        assert reader.read(make_key(N + 1)) == make_data(N + 2)[make_key(N + 1)]
        assert (len(opened), len(reader.current().packs)) == (count + 1, count + 1)

    def test_a_change_in_the_same_tick_of_the_clock_is_seen(self, database, home):
        put_packs(database, {KEYS[0]: DATA[KEYS[0]]})
        status = os.stat(database / "packs")
        reader = PackReader(home)
        assert reader.read(KEYS[1]) is None
        put_packs(database, {KEYS[1]: DATA[KEYS[1]]})
        os.utime(database / "packs", ns=(status.st_atime_ns, status.st_mtime_ns))
        assert reader.read(KEYS[1]) == DATA[KEYS[1]]

    def test_packs_that_vanish(self, database, home):
        put_packs(database, DATA, 3)
        reader = PackReader(home)
        reader.current()
        gone = names(database, "packs")[0]
        with open_archive(database / "packs" / gone) as pack:
            lost = set(keys_of(pack))
        os.unlink(database / "packs" / gone)
        assert {key for key in KEYS if reader.read(key) is None} == lost
        assert set(to_hex(reader.current().part.digests)) == set(KEYS) - lost
        for name in names(database, "packs"):
            os.unlink(database / "packs" / name)
        assert self.listed(reader) == ([], [])
        os.rmdir(database / "packs")
        assert self.listed(reader) == ([], [])
        put_packs(database, {KEYS[0]: DATA[KEYS[0]]})
        assert reader.read(KEYS[0]) == DATA[KEYS[0]]

    def test_of_a_copy_whose_pack_vanishes_the_older_one_is_found(self, database, home):
        put_packs(database, {KEYS[0]: DATA[KEYS[1]]}, age=600)
        before = names(database, "packs")
        put_packs(database, {KEYS[0]: DATA[KEYS[2]]}, age=60)
        reader = PackReader(home)
        assert reader.read(KEYS[0]) == DATA[KEYS[2]]
        (newer,) = set(names(database, "packs")).difference(before)
        os.unlink(database / "packs" / newer)
        assert reader.read(KEYS[0]) == DATA[KEYS[1]]

    def test_a_pack_that_is_replaced_is_read_anew(self, database, home):
        """By its writer, when it was salvaged while it was still written to."""
        put_packs(database, {key: DATA[key] for key in KEYS[:3]})
        (name,) = names(database, "packs")
        reader = PackReader(home)
        assert reader.read(KEYS[5]) is None
        write_archive(database / "packs" / "new", {key: DATA[key] for key in reversed(KEYS)})
        os.rename(database / "packs" / "new", database / "packs" / name)
        assert {key: reader.read(key) for key in KEYS} == DATA

    @pytest.mark.parametrize("how", ["noise", "no index", "cut", "frame", "empty", "unreadable"])
    def test_a_damaged_pack_is_named_and_the_others_are_read(
        self, database, home, how, monkeypatch
    ):
        put_packs(database, {key: DATA[key] for key in KEYS[:4]})
        (name,) = names(database, "packs")
        put_packs(database, {key: DATA[key] for key in KEYS[4:]})
        path = database / "packs" / name
        if how == "noise":
            path.write_bytes(b"\xa5" * 3000)
        elif how == "no index":
            flip(path, path.stat().st_size - 40)
        elif how == "cut":
            os.truncate(path, path.stat().st_size // 2)
        elif how == "frame":
            flip(path, 3)
        elif how == "empty":
            os.truncate(path, 0)
        else:
            real = Folder.open_file

            def refuse(folder, which):
                if which == name:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return real(folder, which)

            monkeypatch.setattr(Folder, "open_file", refuse)
        reader = PackReader(home)
        found, damage = self.listed(reader)
        readable = KEYS if how == "frame" else KEYS[4:]
        assert found == sorted(readable)
        assert sum(reason is not None for reason in damage) == 1
        for key in readable:
            assert reader.read(key) == DATA[key]
        for key in set(KEYS) - set(readable):
            assert reader.read(key) is None

    def test_a_damaged_entry_gives_the_error(self, database, home):
        put_packs(database, DATA, 2)
        name = names(database, "packs")[0]
        path = database / "packs" / name
        with open_archive(path) as pack:
            key = keys_of(pack)[1]
        flip(path, sum(place_of(path, key)) // 2)
        reader = PackReader(home)
        assert isinstance(reader.read(key), CorruptEntryError)
        assert name in str(reader.read(key)) and key in str(reader.read(key))
        found = dict(reader.read_many(digests_of(sorted(KEYS))))
        assert isinstance(found.pop(key), CorruptEntryError)
        assert found == {other: data for other, data in DATA.items() if other != key}

    @pytest.mark.timeout(20)
    @pytest.mark.parametrize("what", ["pipe", "socket", "directory", "dangling link"])
    def test_what_is_no_regular_file_is_no_pack(self, database, home, what, tmp_path):
        put_packs(database, DATA)
        make_special(what, f"{database}/packs/a.tar.gz", tmp_path)
        reader = PackReader(home)
        found, _ = self.listed(reader)
        assert found == sorted(KEYS)
        assert {key: reader.read(key) for key in KEYS} == DATA

    def test_other_names_are_left_alone(self, database, home):
        put_packs(database, DATA)
        for name in ("README", ".nfs01", "a.tar.gz.part"):
            (database / "packs" / name).write_text("mine")
        assert len(PackReader(home).current().packs) == 1
        assert compress(home).packs == 1
        assert names(database, "packs") == [".nfs01", "README", "a.tar.gz.part"]

    def test_a_server_that_forgot_a_file_is_said(self, database, home, monkeypatch):
        put_packs(database, DATA)

        def stale(*_):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

        monkeypatch.setattr(packed, "read_index", stale)
        with pytest.raises(OSError) as caught:
            PackReader(home).current()
        assert caught.value.errno == errno.ESTALE

    def test_a_disk_that_refuses_everything_is_an_error(self, database, home, monkeypatch):
        put_packs(database, DATA)

        def refuse(*_):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(Folder, "open_file", refuse)
        with pytest.raises(DatabaseError, match="cannot read"):
            PackReader(home).current()


def foreign_name(host="elsewhere"):
    """Return the name of a pack that a process on another host writes."""
    return dead_name("pack").replace(f"pack-{Owner.me().host}-", f"pack-{host}-")


class TestSalvage:
    def test_a_dead_writers_pack(self, database, home):
        name = put_open_pack(database, DATA)
        assert unfinished(home) == unfinished(home, exactly=False) == [name]
        assert open_packs(home) == [name]
        assert salvage(home, name) == (N, None)
        assert names(database, "tmp") == []
        assert contents(database) == [set(KEYS)]
        assert unfinished(home) == [] and salvage(home, name) == (0, None)

    def test_a_living_writers_pack_is_taken_when_it_stands_still(self, database, home, clock):
        writer = PackWriter(home)
        writer.put_bytes(KEYS[0], DATA[KEYS[0]])
        assert unfinished(home) == unfinished(home, exactly=False) == []
        set_age(temporary(database), 1000)
        assert len(unfinished(home)) == len(unfinished(home, exactly=False)) == 1
        report = compress(home)
        assert (report.salvaged, report.entries) == (1, 1)
        clock[0] += 1000
        writer.put_bytes(KEYS[1], DATA[KEYS[1]])
        writer.close()
        assert set(FingerprintDatabase(database)) == set(KEYS[:2])

    @pytest.mark.parametrize(("age", "is_gone"), [(0, False), (590, False), (610, True)])
    def test_of_whom_nothing_is_known_it_is_left_for_ten_minutes(
        self, database, home, age, is_gone
    ):
        name = put_open_pack(database, DATA, foreign_name())
        set_age(database / "tmp" / name, age)
        assert unfinished(home) == ([name] if is_gone else [])
        assert compress(home).salvaged == (N if is_gone else 0)

    def test_ten_minutes_are_those_of_the_file_systems_clock(self, database, home, monkeypatch):
        name = put_open_pack(database, DATA, foreign_name())
        set_age(database / "tmp" / name, 300)
        monkeypatch.setattr(packs.time, "time", lambda: os.stat(database).st_mtime + 5000)
        assert unfinished(home) == []
        assert unfinished(home, exactly=False) == [name]

    @pytest.mark.parametrize("cut", [0, 5, 1 << 20])
    def test_only_the_record_in_flight_is_lost(self, database, home, cut, tmp_path):
        write_archive(tmp_path / "a", DATA)
        begin, end = place_of(tmp_path / "a", KEYS[6])
        name = put_open_pack(database, DATA)
        os.truncate(database / "tmp" / name, min(begin + cut, end - 12))
        assert salvage(home, name) == (6, None)
        assert contents(database) == [set(KEYS[:6])]

    @pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08", b"\xa5" * 5000])
    def test_one_without_a_sound_record_leaves_nothing(self, database, home, content):
        name = dead_name("pack")
        (database / "tmp" / name).write_bytes(content)
        assert salvage(home, name) == (0, None)
        assert names(database, "tmp") == [] and names(database, "packs") == []

    def test_a_damaged_record_is_left_out(self, database, home, tmp_path):
        write_archive(tmp_path / "a", DATA)
        name = put_open_pack(database, DATA)
        flip(database / "tmp" / name, sum(place_of(tmp_path / "a", KEYS[3])) // 2)
        count, trouble = salvage(home, name)
        assert count == N - 1 and "8 entries of it are saved, and it was moved to" in trouble
        assert names(database, "damaged") == [name]
        assert contents(database) == [set(KEYS) - {KEYS[3]}]

    def test_an_entry_of_the_other_kind_is_left_out(self, database, home):
        name = put_open_pack(database, {KEYS[0]: b"no entry", KEYS[1]: DATA[KEYS[1]]})
        count, trouble = salvage(home, name)
        assert count == 1 and "is damaged" in trouble
        assert contents(database) == [{KEYS[1]}]

    def test_a_record_that_is_there_twice_costs_no_other_one(self, database, home, tmp_path):
        write_archive(tmp_path / "a", DATA)
        begin, end = place_of(tmp_path / "a", KEYS[5])
        whole = (tmp_path / "a").read_bytes()
        name = dead_name("pack")
        (database / "tmp" / name).write_bytes(whole[:end] + whole[begin:end])
        salvage(home, name)
        assert set(FingerprintDatabase(database)) == set(KEYS[:6])

    def test_a_finished_pack_that_was_not_renamed(self, database, home, tmp_path):
        name = dead_name("pack")
        write_archive(database / "tmp" / name, DATA)
        assert salvage(home, name) == (N, None)
        assert contents(database) == [set(KEYS)]

    def test_two_at_once(self, database, home):
        name = put_open_pack(database, make_data(40))
        other = Home(home.path, Folder.open(home.path))
        found, errors = [], []

        def work(mine):
            try:
                found.append(salvage(mine, name))
            except BaseException as error:  # a test tells it
                errors.append(error)

        threads = [threading.Thread(target=work, args=(each,)) for each in (home, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors and set(found) <= {(0, None), (40, None)} and (40, None) in found
        assert set(FingerprintDatabase(database)) == set(make_data(40))
        assert names(database, "tmp") == []

    def test_one_that_is_written_to_meanwhile_stays(self, database, home, monkeypatch):
        name = put_open_pack(database, {key: DATA[key] for key in KEYS[:3]})
        path = database / "tmp" / name
        real = packs.rescue

        def rescue(descriptor):
            yield from real(descriptor)
            set_age(path, -5)

        monkeypatch.setattr(packs, "rescue", rescue)
        assert salvage(home, name) == (3, None)
        assert names(database, "tmp") == [name]
        assert contents(database) == [set(KEYS[:3])]

    def test_on_a_full_disk_nothing_is_removed(self, database, home, monkeypatch):
        name = put_open_pack(database, DATA)

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(DatabaseError, match="the disk is full"):
                salvage(home, name)
        assert name in names(database, "tmp")
        assert salvage(home, name) == (N, None)

    def test_every_compress_salvages_and_says_so(self, database, home):
        put(database, {KEYS[0]: DATA[KEYS[0]]})
        put_packs(database, {KEYS[1]: DATA[KEYS[1]]})
        put_open_pack(database, {key: DATA[key] for key in KEYS[2:]})
        (note,) = (note for note in check(database).notes if note.startswith("tmp"))
        assert "1 packs that killed ranks left unfinished" in note
        info = FingerprintDatabase(database).info()
        assert (info.packs, info.open_packs, info.packed) == (1, 1, 1)
        report = compress(home)
        assert (report.salvaged, report.packs, report.entries) == (N - 2, 2, N)
        assert report.exit_code == 0
        assert any(
            re.search(f"{N - 2} entries saved from packs", line) for line in report.remarks()
        )
        assert names(database, "packs") == names(database, "tmp") == []
        assert dict(FingerprintDatabase(database).items()).keys() == set(KEYS)

    def test_a_compress_sweeps_none(self, database, home):
        name = put_open_pack(database, DATA, foreign_name())
        set_age(database / "tmp" / name, 100)
        compress(home)
        assert names(database, "tmp") == [name]
