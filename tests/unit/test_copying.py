"""Copying records as they are: where room was left for them, verified, and by any process."""

import errno
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from archive_samples import (
    Sink,
    archived,
    damage_archived,
    damage_packed,
    flip,
    is_indexed,
    keys_of,
    make_data,
    make_database,
    names,
    open_archive,
    place_of,
    put,
    put_packs,
    records_of,
    set_age,
    write_archive,
    write_as_0_1,
)
from entry_samples import make_key

from ampmpi import FingerprintDatabase
from ampmpi.database import compress as compress_module
from ampmpi.database import sound, workers
from ampmpi.database.archive import writer as writer_module
from ampmpi.database.archive.deflate import combine
from ampmpi.database.archive.writer import ArchiveWriter, pack, tail
from ampmpi.database.check import check
from ampmpi.database.compress import _grouped, compress
from ampmpi.database.layout import PACKS, Home
from ampmpi.database.merge import merge
from ampmpi.database.sound import (
    ArchiveChangedError,
    Copying,
    NotTogetherError,
    PackedEntries,
    checksums_of,
    copy_records,
)
from ampmpi.database.workers import Workers
from ampmpi.errors import DatabaseError
from ampmpi.files.atomic import Temporary
from ampmpi.files.folder import Folder
from ampmpi.keys import digests_of

N = 10
DATA = make_data(N)
KEYS = list(DATA)
NONE = digests_of([])


@pytest.fixture
def database(tmp_path):
    return make_database(tmp_path / "x-fingerprints.ampdb")


@pytest.fixture
def home(database):
    return Home.open(database)


@pytest.fixture
def in_one_pack(database, home):
    """Return what is to be copied of a pack that has all entries."""
    put_packs(database, DATA)
    (copying,) = PackedEntries(home).copyings(NONE)
    return copying


def parts(count):
    return [DATA[key] for key in KEYS[:count]]


class TestWriter:
    """An archive is the same whether it was written front to back or around gaps."""

    def test_tail_is_what_a_writer_ends_with(self, tmp_path):
        write_archive(tmp_path / "a", DATA)
        whole = (tmp_path / "a").read_bytes()
        with open_archive(tmp_path / "a") as archive:
            part = archive.records().part
        size = int(part.offset[-1] + part.packed[-1])
        crc = combine(part.crc, part.length)
        assert whole[:size] + tail(part, size, crc)[0] == whole

    def test_tail_refuses_an_entry_that_is_there_twice(self, tmp_path):
        write_archive(tmp_path / "a", DATA)
        with open_archive(tmp_path / "a") as archive:
            part = archive.records().part.some(np.array([0, 1, 0]))
        with pytest.raises(ValueError, match="added twice"):
            tail(part, 1000, 0)

    def test_room_that_is_filled_by_others(self, tmp_path):
        write_archive(tmp_path / "a", {key: DATA[key] for key in KEYS[2:8]})
        write_archive(tmp_path / "reference", DATA)
        raw = (tmp_path / "a").read_bytes()
        with open_archive(tmp_path / "a") as archive:
            part = archive.records().part
        pieces = [part.some(slice(n, n + 2)) for n in (0, 2, 4)]
        sink = Sink(tmp_path / "b")
        with sink.file:
            writer = ArchiveWriter(sink)
            for key in KEYS[:2]:
                writer.add(pack([(key, DATA[key])]))
            places = [writer.leave_room(piece) for piece in pieces]
            assert writer.size == places[0] + int(part.packed.sum()) and writer.entries == 2
            for number, piece in enumerate(pieces):
                begin, end = int(piece.offset[0]), int(piece.offset[-1] + piece.packed[-1])
                sink.file.seek(places[number])
                sink.file.write(raw[begin:end])
                crc = combine(piece.crc, piece.length)
                writer.fill(piece, places[number], zlib.crc32(raw[begin:end]), crc)
            sink.file.seek(writer.size)
            for key in KEYS[8:]:
                writer.add(pack([(key, DATA[key])]))
            footer = writer.close()
        assert footer.entries == N
        written = (tmp_path / "b").read_bytes()
        assert written == (tmp_path / "reference").read_bytes()
        assert sum(size for _, size, _ in writer.written) == len(written)
        for begin, size, checksum in writer.written:
            assert zlib.crc32(written[begin : begin + size]) == checksum
        with open_archive(tmp_path / "b") as archive:
            assert is_indexed(archive)
            assert dict(archive.read_many()) == DATA

    def test_the_index_knows_the_checksum_of_each_deflated_record(self, tmp_path):
        write_archive(tmp_path / "a", DATA)
        raw = (tmp_path / "a").read_bytes()
        with open_archive(tmp_path / "a") as archive:
            index = archive.index
        for offset, packed, checksum in zip(
            index.offset.tolist(), index.packed.tolist(), index.raw_crc.tolist(), strict=True
        ):
            assert zlib.crc32(raw[offset : offset + packed]) == checksum

    def test_an_index_of_version_0_1_has_none_and_is_read(self, tmp_path):
        write_archive(tmp_path / "new", DATA)
        write_as_0_1(tmp_path / "old", DATA)
        with open_archive(tmp_path / "old") as old, open_archive(tmp_path / "new") as new:
            assert is_indexed(old) and old.damage is None
            assert not old.index.raw_crc.any() and new.index.raw_crc.all()
            for mine, other in zip(old.index[:-1], new.index[:-1], strict=True):
                assert np.array_equal(mine, other)
            assert dict(old.read_many()) == DATA


class TestCopyRecords:
    @pytest.fixture
    def target(self, home):
        with Temporary(home.temporaries, "archive") as temporary:
            yield temporary

    def copied(self, target):
        with open(target.path, "rb") as file:
            return file.read()

    def expected(self, copying):
        raw = (copying.home.needed(PACKS).full(copying.name)).encode()
        with open(raw, "rb") as file:
            content = file.read()
        part = copying.records
        pieces = zip(part.offset.tolist(), part.packed.tolist(), strict=True)
        return [content[offset : offset + size] for offset, size in pieces]

    @pytest.mark.parametrize("parcel", [1, 1000, 1 << 21])
    @pytest.mark.parametrize("apart", [False, True])
    def test_bytes_go_where_they_are_told(
        self, home, in_one_pack, target, parcel, apart, monkeypatch
    ):
        monkeypatch.setattr(sound, "_PARCEL", parcel)
        raws = self.expected(in_one_pack)
        checksum, crc, raw_crc = copy_records(home, target.name, apart, (in_one_pack, 100))
        content = self.copied(target)
        assert content == bytes(100) + b"".join(raws)
        assert checksum == zlib.crc32(content[100:])
        assert crc == combine(in_one_pack.records.crc, in_one_pack.records.length)
        assert raw_crc.tolist() == list(map(zlib.crc32, raws))
        found = checksums_of(
            home, "tmp", target.name, apart, [(100, len(content) - 100), (0, 100), (100, 1 << 30)]
        )
        assert found == [checksum, zlib.crc32(bytes(100)), None]

    @pytest.mark.parametrize("parcel", [1, 1 << 21])
    def test_some_with_gaps_between(self, home, in_one_pack, target, parcel, monkeypatch):
        monkeypatch.setattr(sound, "_PARCEL", parcel)
        some = in_one_pack._replace(records=in_one_pack.records.some(np.array([1, 2, 5, 9])))
        raws = self.expected(some)
        copy_records(home, target.name, False, (some, 0))
        assert self.copied(target) == b"".join(raws)

    @pytest.mark.parametrize("known", [True, False])
    @pytest.mark.parametrize("number", [0, 4, N - 1])
    def test_one_flipped_bit_is_found_by_either_checksum(self, home, database, known, number):
        """Every bit of a record counts, those of its header as well as its last ones."""
        put_packs(database, DATA)
        (name,) = names(database, "packs")
        path = database / "packs" / name
        if not known:
            write_as_0_1(path, DATA)
        begin, end = place_of(path, KEYS[number])
        status = os.stat(path)
        for position in [*range(begin, end, 37), end - 1]:
            flip(path, position, 1 << position % 8)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            (copying,) = PackedEntries(home).copyings(NONE)
            assert bool(copying.records.raw_crc.any()) == known
            with Temporary(home.temporaries, "archive") as target:
                assert copy_records(home, target.name, False, (copying, 0)) is None, position
            flip(path, position, 1 << position % 8)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        (copying,) = PackedEntries(home).copyings(NONE)
        with Temporary(home.temporaries, "archive") as target:
            done = copy_records(home, target.name, False, (copying, 0))
        assert done[2].tolist() == list(map(zlib.crc32, self.expected(copying)))

    def test_a_file_that_ended_early_or_cannot_be_read_is_bad(
        self, home, in_one_pack, target, monkeypatch
    ):
        path = home.full(PACKS, in_one_pack.name)
        real = os.pread

        def refuse(descriptor, size, offset):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(descriptor, size, offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", refuse)
            assert copy_records(home, target.name, False, (in_one_pack, 0)) is None
        os.truncate(path, os.path.getsize(path) // 2)
        stamp = in_one_pack.stamp._replace(size=os.path.getsize(path))
        os.utime(path, ns=(stamp.mtime_ns, stamp.mtime_ns))
        cut = in_one_pack._replace(stamp=stamp)
        assert copy_records(home, target.name, False, (cut, 0)) is None

    def test_another_file_of_that_name_is_not_read(self, home, in_one_pack, target):
        set_age(home.full(PACKS, in_one_pack.name), 5)
        with pytest.raises(ArchiveChangedError):
            copy_records(home, target.name, False, (in_one_pack, 0))

    def test_who_cannot_open_the_target_says_so(self, home, in_one_pack):
        with pytest.raises(NotTogetherError):
            copy_records(home, "ampmpi-none.tmp", False, (in_one_pack, 0))

    def test_a_full_disk_is_an_error(self, home, in_one_pack, target, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError) as caught:
            copy_records(home, target.name, False, (in_one_pack, 0))
        assert caught.value.errno == errno.ENOSPC

    def test_writes_that_are_cut_short_go_on(self, home, in_one_pack, target, monkeypatch):
        real = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda to, data, at: real(to, data[:77], at))
        copy_records(home, target.name, False, (in_one_pack, 3))
        assert self.copied(target) == bytes(3) + b"".join(self.expected(in_one_pack))


class TestShares:
    @pytest.mark.parametrize("n_bytes", [1, 700, 1500, 1 << 30])
    def test_pieces_are_all_records_in_their_order(self, in_one_pack, n_bytes):
        pieces = list(in_one_pack.pieces(n_bytes))
        sizes = [int(piece.records.packed.sum()) for piece in pieces]
        together = np.concatenate([piece.records.offset for piece in pieces])
        assert together.tolist() == in_one_pack.records.offset.tolist()
        largest = int(in_one_pack.records.packed.max())
        assert all(0 < size < n_bytes + largest for size in sizes)
        assert len(pieces) == (N if n_bytes == 1 else 1 if n_bytes > 1 << 20 else len(pieces))
        assert {piece[:4] for piece in pieces} == {in_one_pack[:4]}

    def test_pieces_of_nothing_are_none(self, in_one_pack):
        empty = in_one_pack._replace(records=in_one_pack.records.some(slice(0, 0)))
        assert isinstance(empty, Copying) and list(empty.pieces(100)) == []

    @pytest.mark.parametrize("n_bytes", [1, 10, 25, 1000])
    def test_groups_are_all_pieces_in_their_order(self, n_bytes):
        written = [(start, 10, start) for start in range(0, 100, 10)]
        groups = _grouped(written, n_bytes)
        assert [piece for group in groups for piece in group] == written
        sizes = [10 * len(group) for group in groups]
        assert all(size <= max(n_bytes, 10) for size in sizes)
        assert all(size + 10 > n_bytes for size in sizes[:-1])
        assert _grouped([], n_bytes) == []

    def test_a_piece_larger_than_a_group_is_one(self):
        assert _grouped([(0, 5, 1), (5, 500, 2), (505, 5, 3)], 20) == [
            [(0, 5, 1)], [(5, 500, 2)], [(505, 5, 3)],
        ]  # fmt: skip

    def test_a_worker_gets_a_few_tasks_neither_small_nor_large(self, monkeypatch):
        monkeypatch.setattr(workers, "_LEAST", 100)
        monkeypatch.setattr(workers, "_MOST", 1000)
        assert Workers(None, 1).share(10) == 100
        assert Workers(None, 2).share(1600) == 800
        assert Workers(None, 1).share(10**9) == 1000
        assert Workers(None, 4096).share(0) == 100


class TestCompress:
    """What becomes of packs."""

    def test_their_records_are_copied_as_they_are(self, database, monkeypatch):
        put_packs(database, DATA, 3)
        raws = {}
        for name in names(database, "packs"):
            content = (database / "packs" / name).read_bytes()
            for key, (offset, packed) in records_of(database / "packs" / name).items():
                raws[key] = content[offset : offset + packed]

        def refuse(*_):
            raise AssertionError("it is deflated already")

        monkeypatch.setattr(writer_module, "pack_records", refuse)
        report = compress(database)
        assert (report.added, report.packs, report.entries) == (N, 3, N)
        assert report.files_freed == 2
        archive = (database / "archive.tar.gz").read_bytes()
        for key, (offset, packed) in records_of(database / "archive.tar.gz").items():
            assert archive[offset : offset + packed] == raws[key]
        assert names(database, "packs") == names(database, "tmp") == []
        assert compress(database).files_freed == 0

    def test_of_several_copies_the_one_that_is_read_first_stays(self, database):
        put(database, {KEYS[0]: DATA[KEYS[9]]})
        compress(database)
        put_packs(database, {KEYS[0]: DATA[KEYS[1]], KEYS[1]: DATA[KEYS[1]]}, age=600)
        put_packs(database, {KEYS[0]: DATA[KEYS[2]], KEYS[2]: DATA[KEYS[2]]}, age=60)
        put(database, {KEYS[1]: DATA[KEYS[3]]})
        with FingerprintDatabase(database) as view:
            before = {key: view.get_bytes(key) for key in KEYS[:3]}
        assert before == {KEYS[0]: DATA[KEYS[2]], KEYS[1]: DATA[KEYS[3]], KEYS[2]: DATA[KEYS[2]]}
        assert compress(database).entries == 3
        assert archived(database) == before

    @pytest.mark.parametrize("processes", [1, 3])
    @pytest.mark.parametrize("old_index", [False, True])
    def test_the_archive_is_that_of_loose_entries(
        self, database, tmp_path, processes, old_index, monkeypatch
    ):
        monkeypatch.setattr(workers, "_LEAST", 1)
        monkeypatch.setattr(workers, "_MOST", 900)
        loose = make_database(tmp_path / "y-fingerprints")
        put(loose, DATA)
        compress(loose)
        put_packs(database, {key: DATA[key] for key in sorted(KEYS)})
        (name,) = names(database, "packs")
        if old_index:
            write_as_0_1(database / "packs" / name, {key: DATA[key] for key in sorted(KEYS)})
        report = compress(database, processes=processes)
        assert report.exit_code == 0 and report.remarks() == []
        mine, other = ((path / "archive.tar.gz").read_bytes() for path in (database, loose))
        assert mine == other

    @pytest.mark.parametrize("processes", [1, 2])
    @pytest.mark.parametrize("where", ["pack", "archive"])
    def test_a_bad_record_costs_itself(self, database, processes, where):
        put_packs(database, DATA, 2)
        if where == "archive":
            compress(database)
            put_packs(database, {make_key(99): DATA[KEYS[0]]})
            damage_archived(database, KEYS[3])
        else:
            put(database, {make_key(99): DATA[KEYS[0]]})
            compress(database)
            put_packs(database, DATA, 2)
            damage_packed(database, KEYS[3])
            os.unlink(database / "archive.tar.gz")
            put(database, {make_key(99): DATA[KEYS[0]]})
            compress_loose_only(database)
        report = compress(database, processes=processes)
        expected = {**DATA, make_key(99): DATA[KEYS[0]]}
        del expected[KEYS[3]]
        assert report.lost.keys() == {KEYS[3]} and report.exit_code == 5
        assert archived(database) == expected
        assert names(database, "packs") == names(database, "tmp") == []
        # Kept is what is damaged, and nothing else.
        assert (report.copy is not None) == (where == "archive")
        assert len(report.packs_aside) == (where == "pack")
        assert len(names(database, "damaged")) == 1
        assert check(database).exit_code == 0

    @pytest.mark.parametrize("how", ["cut", "index", "noise", "moved"])
    def test_of_a_damaged_pack_all_is_saved_that_is_sound(self, database, how):
        put_packs(database, {key: DATA[key] for key in KEYS[:5]})
        (name,) = names(database, "packs")
        put_packs(database, {key: DATA[key] for key in KEYS[5:]})
        path = database / "packs" / name
        begin, end = place_of(path, KEYS[3])
        content = path.read_bytes()
        if how == "cut":
            path.write_bytes(content[: begin + 7])
        elif how == "index":
            path.write_bytes(content[:-60] + bytes(60))
        elif how == "noise":
            path.write_bytes(content[:begin] + b"\xa5" * (end - begin) + content[end:])
        else:
            path.write_bytes(content[:begin] + content[end:])
        saved = {"cut": KEYS[:3], "index": KEYS[:5], "noise": [*KEYS[:3], KEYS[4]],
                 "moved": [*KEYS[:3], KEYS[4]]}[how]  # fmt: skip
        report = compress(database)
        assert archived(database).keys() == {*saved, *KEYS[5:]}
        assert report.exit_code == 5 and set(report.packs_aside) == {name}
        assert names(database, "damaged") == [name]
        assert f"pack {name} is damaged" in " ".join(report.remarks())
        assert compress(database).exit_code == 0

    @pytest.mark.parametrize("damaged", [False, True])
    def test_what_version_0_1_wrote_is_verified_by_inflating_and_has_checksums_then(
        self, tmp_path, damaged
    ):
        golden = Path(__file__).parents[1] / "data" / "ampmpi-0.1" / "archived-fingerprints.ampdb"
        database = tmp_path / golden.name
        shutil.copytree(golden, database)
        with open_archive(database / "archive.tar.gz") as archive:
            old = dict(archive.read_many())
            assert is_indexed(archive) and not archive.index.raw_crc.any()
        bad = {sorted(old)[1]} if damaged else set()
        for key in bad:
            damage_archived(database, key)
        put_packs(database, {KEYS[0]: DATA[KEYS[0]]})
        report = compress(database)
        assert report.lost.keys() == bad
        assert archived(database) == {
            KEYS[0]: DATA[KEYS[0]],
            **{key: data for key, data in old.items() if key not in bad},
        }
        content = (database / "archive.tar.gz").read_bytes()
        with open_archive(database / "archive.tar.gz") as archive:
            part = archive.records().part
        for offset, packed, checksum in zip(
            part.offset.tolist(), part.packed.tolist(), part.raw_crc.tolist(), strict=True
        ):
            assert zlib.crc32(content[offset : offset + packed]) == checksum

    def test_a_pack_that_comes_meanwhile_stays(self, database, monkeypatch):
        put_packs(database, {KEYS[0]: DATA[KEYS[0]]})
        real = compress_module._Run._finish

        def finish(*arguments):
            put_packs(database, {KEYS[1]: DATA[KEYS[1]]})
            real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(compress_module._Run, "_finish", finish)
            assert compress(database).entries == 1
        assert len(names(database, "packs")) == 1
        assert set(FingerprintDatabase(database)) == set(KEYS[:2])
        assert compress(database).entries == 2

    def test_a_pack_that_was_replaced_meanwhile_stays(self, database, monkeypatch):
        put_packs(database, {KEYS[0]: DATA[KEYS[0]]})
        (name,) = names(database, "packs")
        real = compress_module._Run._finish

        def finish(*arguments):
            write_archive(database / "packs" / name, {key: DATA[key] for key in KEYS[:3]})
            real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(compress_module._Run, "_finish", finish)
            compress(database)
        assert set(FingerprintDatabase(database)) == set(KEYS[:3])
        assert compress(database).entries == 3

    def test_what_cannot_be_removed_is_a_warning(self, database, monkeypatch):
        put_packs(database, DATA, 2)

        def refuse(*_):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        with monkeypatch.context() as patch:
            patch.setattr(Folder, "remove_as_read", refuse)
            report = compress(database)
        assert any("were not removed (Permission denied)" in each for each in report.remarks())
        assert report.packs_left == 2
        assert len(names(database, "packs")) == 2 and archived(database) == DATA
        assert compress(database).files_freed == 2
        assert archived(database) == DATA

    def test_who_cannot_write_into_one_file_writes_alone(self, database, monkeypatch):
        """Reading back what several wrote finds something else: the network file system's fault."""
        monkeypatch.setattr(workers, "_LEAST", 1)
        monkeypatch.setattr(workers, "_MOST", 900)
        put_packs(database, DATA, 2)
        real, tries = sound._write_at, database / "tries"
        me = os.getpid()

        def write_at(descriptor, data, position):
            if os.getpid() != me:
                with open(tries, "a") as file:
                    file.write("x")
                data = bytes(len(data))
            real(descriptor, data, position)

        monkeypatch.setattr(sound, "_write_at", write_at)
        report = compress(database, processes=2)
        assert report.entries == N and report.exit_code == 0
        assert archived(database) == DATA and tries.read_text()

    def test_a_file_that_reads_back_otherwise_changes_nothing(self, database, monkeypatch):
        put_packs(database, DATA, 2)

        def write_at(descriptor, data, position):
            os.pwrite(descriptor, bytes(len(data)), position)

        monkeypatch.setattr(sound, "_write_at", write_at)
        with pytest.raises(DatabaseError, match="reads back otherwise"):
            compress(database)
        assert names(database) == ["loose", "packs", "tmp"] and names(database, "tmp") == []
        assert len(names(database, "packs")) == 2
        assert set(FingerprintDatabase(database)) == set(KEYS)

    @pytest.mark.parametrize("processes", [1, 2])
    def test_an_archive_that_nobody_may_write_to(self, database, monkeypatch, processes):
        """The new one gets its permissions, so that no process can open it to write."""
        put(database, {KEYS[0]: DATA[KEYS[0]]})
        compress(database)
        os.chmod(database / "archive.tar.gz", 0o440)
        put_packs(database, DATA, 2)

        def refuse(*_):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(Folder, "open_to_write", refuse)  # root may
        assert compress(database, processes=processes).entries == N
        assert archived(database) == DATA
        assert os.stat(database / "archive.tar.gz").st_mode & 0o777 == 0o440

    def test_a_broken_lock_leaves_packs(self, database, monkeypatch):
        put_packs(database, DATA, 2)
        held = iter([True, False, False])  # until the archive is in its place
        monkeypatch.setattr(compress_module.Lock, "is_held", lambda _: next(held))
        assert "were not removed (somebody took the lock away" in compress(database).warnings[0]
        assert archived(database) == DATA
        assert len(names(database, "packs")) == 2

    def test_progress_goes_to_its_end(self, database):
        put(database, {make_key(99): DATA[KEYS[0]]})
        compress(database)
        put_packs(database, DATA, 2)
        seen = []
        compress(database, progress=lambda done, total: seen.append((done, total)))
        assert seen[-1][0] == seen[-1][1] == 2 * (N + 1)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def compress_loose_only(database):
    """Compress the loose entries of a database and leave its packs where they are."""
    os.rename(database / "packs", database / "elsewhere")
    compress(database)
    os.rename(database / "elsewhere", database / "packs")


class TestMerge:
    @pytest.mark.parametrize("side", ["source", "target", "both"])
    def test_packs_are_merged(self, tmp_path, side):
        one, other = (make_database(tmp_path / f"{name}-fingerprints") for name in "ab")
        fills = {"source": (put, put_packs), "target": (put_packs, put), "both": (put_packs,) * 2}
        for place, fill, keys in zip((one, other), fills[side], (KEYS[:6], KEYS[4:]), strict=True):
            fill(place, {key: DATA[key] for key in keys})
        before = {name: (other / "packs" / name).read_bytes() for name in names(other, "packs")}
        report = merge(one, [other], assume_same=True)
        assert report.added == {str(other): 4} and report.corrupt == report.damaged == {}
        assert archived(one) == DATA and names(one, "packs") == []
        assert {
            name: (other / "packs" / name).read_bytes() for name in names(other, "packs")
        } == before

    def test_what_the_target_has_in_a_pack_counts(self, tmp_path):
        one, other = (make_database(tmp_path / f"{name}-fingerprints") for name in "ab")
        put_packs(one, {KEYS[0]: DATA[KEYS[1]]})
        put_packs(other, {KEYS[0]: DATA[KEYS[0]]})
        merge(one, [other], assume_same=True)
        assert archived(one) == {KEYS[0]: DATA[KEYS[1]]}

    @pytest.mark.parametrize("how", ["record", "index"])
    def test_a_damaged_pack_of_a_source_is_named_and_stays(self, tmp_path, how):
        one, other = (make_database(tmp_path / f"{name}-fingerprints") for name in "ab")
        put(one, {KEYS[0]: DATA[KEYS[0]]})
        put_packs(other, DATA, 2)
        if how == "record":
            damage_packed(other, KEYS[3])
        else:
            name = names(other, "packs")[0]
            os.truncate(other / "packs" / name, os.path.getsize(other / "packs" / name) - 20)
        report = merge(one, [other], assume_same=True)
        lost = {KEYS[3]} if how == "record" else set()
        assert archived(one).keys() == set(KEYS) - lost
        assert report.corrupt.keys() == lost and len(report.damaged) == 1
        assert len(names(other, "packs")) == 2 and names(other, "damaged") == []
        assert report.compress.copy is None

    def test_an_unfinished_pack_of_a_source_is_left_alone(self, tmp_path):
        one, other = (make_database(tmp_path / f"{name}-fingerprints") for name in "ab")
        put_packs(other, DATA)
        merge(one, [other], assume_same=True)
        assert keys_of(open_archive(one / "archive.tar.gz")) == sorted(KEYS)


class TestDeletion:
    @pytest.mark.parametrize("damaged", [False, True])
    def test_of_packs_what_is_deleted_goes_and_the_rest_stays(self, database, damaged):
        put(database, {KEYS[0]: DATA[KEYS[0]], make_key(99): DATA[KEYS[1]]})
        put_packs(database, DATA, 3)
        if damaged:
            damage_packed(database, KEYS[2])
        with FingerprintDatabase(database) as view:
            assert view.delete([KEYS[0], KEYS[2], KEYS[5]]) == 3
            expected = {make_key(99), *KEYS} - {KEYS[0], KEYS[2], KEYS[5]}
            assert set(view) == {key for key, _ in view.get_many()} == expected
        assert names(database, "packs") == [] and names(database, "loose") == [make_key(99)]
        assert check(database).exit_code == 0
