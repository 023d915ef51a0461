"""What holds of every archive, and what of those with an index."""

import errno
import gc
import gzip
import os
import subprocess
import tarfile
import zlib

import numpy as np
import pytest
from archive_samples import (
    ARCHIVES,
    INDEXED,
    Sink,
    is_indexed,
    keys_of,
    make_data,
    open_archive,
    place_of,
    spoil_sector,
    write_archive,
)
from entry_samples import make_key
from hypothesis import given
from hypothesis import strategies as st

from ampmpi.database.archive import writer as writer_module
from ampmpi.database.archive.deflate import combine, deflate, inflate
from ampmpi.database.archive.index import FOOTER_SIZE, Footer
from ampmpi.database.archive.writer import ArchiveWriter, pack
from ampmpi.errors import CorruptEntryError, DatabaseError
from ampmpi.keys import digests_of


@given(st.lists(st.binary(max_size=700), max_size=20))
def test_combined_checksum_is_that_of_the_whole(parts):
    crcs = np.array([zlib.crc32(part) for part in parts], np.uint32)
    lengths = np.array([len(part) for part in parts], np.uint64)
    assert combine(crcs, lengths) == zlib.crc32(b"".join(parts))


def test_combined_checksum_of_more_bytes_than_memory():
    block = bytes(range(256)) * 2
    crc = zlib.crc32(block)
    expected = 0
    for _ in range(1000):
        expected = zlib.crc32(block, expected)
    assert combine(np.full(1000, crc, np.uint32), np.full(1000, 512, np.uint64)) == expected
    halves = combine(np.full(2**20, crc, np.uint32), np.full(2**20, 512, np.uint64))
    twice = combine(np.full(2, halves, np.uint32), np.full(2, 2**29, np.uint64))
    assert twice == combine(np.full(2**21, crc, np.uint32), np.full(2**21, 512, np.uint64))


def test_pieces_are_inflated_alone_and_together():
    contents = [b"abc" * 500, b"", bytes(1000), b"abc" * 500]
    pieces = [deflate(content) for content in contents]
    for content, piece in zip(contents, pieces, strict=True):
        assert inflate(piece, len(content)) == content
    whole = b"".join(pieces) + deflate(b"end", last=True)
    assert zlib.decompress(whole, -15) == b"".join(contents) + b"end"


def test_inflate_gives_no_more_than_it_is_asked_for():
    bomb = deflate(bytes(10_000_000))
    with pytest.raises(ValueError, match="another length"):
        inflate(bomb, 1000)
    with pytest.raises(ValueError, match="size cannot be right"):
        inflate(deflate(b"x"), 10**12)


@pytest.mark.parametrize("kind", ARCHIVES)
class TestEveryKind:
    """Whoever wrote an archive, it is read alike."""

    @pytest.fixture
    def write(self, tmp_path, kind):
        def write(data):
            ARCHIVES[kind](tmp_path / "a", data)
            return tmp_path / "a"

        return write

    def test_entries_are_read_back(self, write, kind):
        data = make_data(40)
        keys = list(data)
        with open_archive(write(data)) as archive:
            assert archive.damage is None
            assert is_indexed(archive) == (kind in INDEXED)
            assert keys_of(archive) == sorted(data)
            assert len(archive) == 40
            assert all(archive.read(key) == data[key] for key in keys[::9])
            assert dict(archive.read_many()) == data
            some = digests_of([*keys[5:20:3], make_key(99)])
            assert set(dict(archive.read_many(some))) == set(keys[5:20:3])
            assert make_key(3) in archive
            for name in (make_key(99), "README", "../../x", 7):
                assert name not in archive
            for name in (make_key(99), "../../x"):
                with pytest.raises(KeyError):
                    archive.read(name)

    def test_an_archive_of_nothing(self, write):
        path = write({})
        with open_archive(path) as archive:
            assert archive.damage is None
            assert keys_of(archive) == []
            assert make_key(0) not in archive
            assert list(archive.read_many(digests_of([make_key(0)]))) == []
        with tarfile.open(path) as tar:
            assert tar.getnames() == []

    def test_digests_that_end_with_zeros(self, write):
        keys = ("0" * 32, "ab" + "0" * 30, "ab" * 15 + "00", "f" * 32)
        data = {key: b"content of " + key.encode() for key in keys}
        with open_archive(write(data)) as archive:
            assert keys_of(archive) == sorted(data)
            assert all(archive.read(key) == content for key, content in data.items())
            assert "ab" + "0" * 29 + "1" not in archive

    def test_an_open_archive_outlives_its_name(self, write, tmp_path):
        data = make_data(5)
        path = write(data)
        with open_archive(path) as archive:
            write_archive(tmp_path / "b", {})
            os.rename(tmp_path / "b", path)
            assert dict(archive.read_many()) == data

    def test_a_file_that_shrinks_under_its_reader_gives_damaged_entries(self, write):
        data = make_data(10)
        path = write(data)
        with open_archive(path) as archive:
            os.truncate(path, 300)
            found = dict(archive.read_many())
            assert found.keys() == data.keys()
            damaged = [key for key in found if isinstance(found[key], CorruptEntryError)]
            assert len(damaged) >= 9
            assert all(found[key] == data[key] for key in data if key not in damaged)
            with pytest.raises(CorruptEntryError):
                archive.read(damaged[0])

    def test_reading_takes_one_descriptor_and_closes_it(self, write):
        path = write(make_data(5))
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        archive = open_archive(path)
        list(archive.read_many())
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before + 1
        archive.close()
        archive.close()
        assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.parametrize("code", [errno.ESTALE, errno.ENOMEM])
    def test_an_error_that_concerns_the_whole_archive_is_no_damage(self, write, monkeypatch, code):
        path = write(make_data(5))
        with open_archive(path) as archive:
            spoil_sector(monkeypatch, path, 0, 1 << 20, code)
            with pytest.raises(OSError, match=os.strerror(code)):
                list(archive.read_many())
            with pytest.raises(OSError, match=os.strerror(code)):
                archive.read(make_key(0))

    def test_a_stale_file_handle_is_tried_again(self, write, monkeypatch):
        path, real, calls = write(make_data(5)), os.fstat, []

        def stale(descriptor, times):
            if os.readlink(f"/proc/self/fd/{descriptor}") == str(path):
                calls.append(descriptor)
                if len(calls) <= times:
                    raise OSError(errno.ESTALE, "Stale file handle")
            return real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", lambda descriptor: stale(descriptor, 2))
            with open_archive(path) as archive:
                assert len(archive) == 5
        calls.clear()
        with pytest.raises(DatabaseError, match="cannot read"), monkeypatch.context() as patch:
            patch.setattr(os, "fstat", lambda descriptor: stale(descriptor, 99))
            open_archive(path)

    def test_tar_reads_it(self, write, tmp_path):
        data = make_data(7)
        path = write(data)
        for mode in ("r:gz", "r|gz"):
            with tarfile.open(path, mode) as tar:
                assert {m.name: tar.extractfile(m).read() for m in tar} == data
        (tmp_path / "out").mkdir()
        # Behind a cut footer, gzip warns of trailing bytes: tar ends with 2 although all is there.
        subprocess.run(["tar", "-xzf", path, "-C", tmp_path / "out"], capture_output=True)
        found = {name: (tmp_path / "out" / name).read_bytes() for name in data}
        assert found == data


def test_equal_entries_give_equal_archives(tmp_path):
    data = make_data(10)
    write_archive(tmp_path / "a", data)
    write_archive(tmp_path / "b", data)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert gzip.decompress((tmp_path / "a").read_bytes())


def test_an_entry_added_twice_is_refused(tmp_path):
    entry = next(iter(make_data(1).items()))
    sink = Sink(tmp_path / "1")
    with sink.file, pytest.raises(ValueError, match="twice"):
        writer = ArchiveWriter(sink)
        for _ in range(2):
            writer.add(pack([entry]))
        writer.close()


def test_what_was_deflated_wrongly_is_noticed_in_memory(monkeypatch):
    """Whether the stream is damaged, or is sound and holds something else."""

    def spoilt(record):
        return deflate(record[:600] + bytes([record[600] ^ 1]) + record[601:])

    def torn(record):
        raw = deflate(record)
        return raw[:40] + bytes([raw[40] ^ 16]) + raw[41:]

    pack(list(make_data(3).items()))
    for wrong in (spoilt, torn):
        monkeypatch.setattr(writer_module, "deflate", wrong)
        with pytest.raises(DatabaseError, match="inflate"):
            pack(list(make_data(3).items()))


def test_one_flipped_bit_damages_one_entry(tmp_path):
    data = make_data(20)
    path = tmp_path / "a"
    write_archive(path, data)
    begin, end = place_of(path, make_key(11))
    original, harmless = path.read_bytes(), 0
    for position in range(begin, end, 7):
        flipped = bytearray(original)
        flipped[position] ^= 16
        path.write_bytes(flipped)
        with open_archive(path) as archive:
            found = dict(archive.read_many())
            hit = found.pop(make_key(11))
            assert found == {key: data[key] for key in data if key != make_key(11)}
            if hit == data[make_key(11)]:
                harmless += 1  # bits that fill up a byte
                continue
            assert isinstance(hit, CorruptEntryError)
            with pytest.raises(CorruptEntryError, match=make_key(11)):
                archive.read(make_key(11))
    assert harmless <= 2


def test_an_index_that_belongs_to_other_data_is_not_used(tmp_path):
    """Another tool put other data before our index, or something behind our footer."""
    one, other = make_data(5), make_data(5, n_atoms=4)
    write_archive(tmp_path / "a", one)
    write_archive(tmp_path / "b", other)
    a, b = ((tmp_path / name).read_bytes() for name in "ab")
    sizes = {
        name: Footer.unpack(raw[-FOOTER_SIZE:]).data_size for name, raw in (("a", a), ("b", b))
    }
    mixed = {
        "data": b[: sizes["b"]] + a[sizes["a"] :],
        "appended": a + gzip.compress(b"more"),
        "no footer": a[:-FOOTER_SIZE],
        "no index": a[: sizes["a"]],
    }
    for name, content in mixed.items():
        (tmp_path / "m").write_bytes(content)
        with open_archive(tmp_path / "m") as archive:
            assert not is_indexed(archive)
            assert archive.damage is None, name
            assert dict(archive.read_many()) == (other if name == "data" else one), name


def test_every_byte_of_index_and_footer_matters(tmp_path):
    data = make_data(3)
    path = tmp_path / "a"
    footer = write_archive(path, data)
    original = path.read_bytes()
    for position in range(footer.data_size, len(original)):
        changed = bytearray(original)
        changed[position] ^= 255
        path.write_bytes(changed)
        with open_archive(path) as archive:
            # Times and flags of a gzip header mean nothing; elsewhere the tar is read instead.
            assert dict(archive.read_many()) == data
            in_header = position - footer.data_size in range(3, 10)
            assert not is_indexed(archive) or in_header


@pytest.mark.parametrize("code", [errno.EIO, errno.ENODATA])
def test_a_sector_that_cannot_be_read_costs_what_lies_in_it(tmp_path, monkeypatch, code):
    data = make_data(20)
    keys = list(data)
    write_archive(tmp_path / "0", data)
    begin, end = place_of(tmp_path / "0", keys[7])[1] - 5, place_of(tmp_path / "0", keys[8])[0] + 5
    sound = {key: data[key] for key in keys if key not in keys[7:9]}
    spoil_sector(monkeypatch, tmp_path / "0", begin, end, code)
    with open_archive(tmp_path / "0") as archive:
        found = dict(archive.read_many())
        assert found.keys() == data.keys()
        for key in keys[7:9]:
            error = found.pop(key)
            assert isinstance(error, CorruptEntryError)
            assert key in str(error) and str(tmp_path / "0") in str(error)
            with pytest.raises(CorruptEntryError, match="cannot be read"):
                archive.read(key)
        assert found == sound
        some = digests_of(keys[9:12])
        assert dict(archive.read_many(some)) == {key: data[key] for key in keys[9:12]}
        assert all(archive.read(key) == content for key, content in sound.items())
        records = archive.records()
        damaged = {number for number, raw in records.walk() if isinstance(raw, CorruptEntryError)}
        assert {records.key(number) for number in damaged} == set(keys[7:9])
