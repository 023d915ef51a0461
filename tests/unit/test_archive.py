import errno
import gzip
import os
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest
from archive_samples import Sink, make_data, place_of, spoil_sector, write_archive
from entry_samples import make_key
from hypothesis import given
from hypothesis import strategies as st

from ampmpi.database.archive import deflate as deflate_module
from ampmpi.database.archive.deflate import combine, deflate, inflate
from ampmpi.database.archive.index import FOOTER_SIZE, Footer
from ampmpi.database.archive.reader import Archive, IndexedArchive
from ampmpi.database.archive.writer import ArchiveWriter, deflate_entry
from ampmpi.errors import CorruptEntryError, DatabaseError


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


@pytest.mark.parametrize("deflater", ["zlib", "isal"])
def test_pieces_are_inflated_alone_and_together(monkeypatch, deflater):
    module = zlib if deflater == "zlib" else pytest.importorskip("isal.isal_zlib")
    monkeypatch.setattr(deflate_module, "_deflater", module)
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


def test_every_entry_is_read_back(tmp_path):
    data = make_data(40)
    write_archive(tmp_path / "a", data)
    with Archive.open(str(tmp_path / "a")) as archive:
        assert isinstance(archive, IndexedArchive)
        assert archive.keys() == sorted(data)
        assert len(archive) == 40
        assert all(archive.read(key) == content for key, content in data.items())
        assert dict(archive.read_many()) == data
        some = [*list(data)[5:20:3], make_key(99), "no key"]
        assert set(dict(archive.read_many(some))) == set(some[:5])
        assert make_key(3) in archive
        assert make_key(99) not in archive
        assert "README" not in archive
        with pytest.raises(KeyError):
            archive.read(make_key(99))
        with pytest.raises(KeyError):
            archive.read("../../x")


def test_an_archive_of_nothing(tmp_path):
    write_archive(tmp_path / "a", {})
    with Archive.open(str(tmp_path / "a")) as archive:
        assert archive.indexed
        assert archive.keys() == []
        assert make_key(0) not in archive
        assert list(archive.read_many([make_key(0)])) == []
    with tarfile.open(tmp_path / "a") as tar:
        assert tar.getnames() == []


def test_digests_that_end_with_zeros(tmp_path):
    data = dict.fromkeys(("0" * 32, "ab" + "0" * 30, "ab" * 15 + "00", "f" * 32), b"")
    data = {key: b"content of " + key.encode() for key in data}
    write_archive(tmp_path / "a", data)
    with Archive.open(str(tmp_path / "a")) as archive:
        assert archive.keys() == sorted(data)
        assert all(archive.read(key) == content for key, content in data.items())
        assert "ab" + "0" * 29 + "1" not in archive


def test_equal_entries_give_equal_archives(tmp_path):
    data = make_data(10)
    write_archive(tmp_path / "a", data)
    write_archive(tmp_path / "b", data)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_old_records_are_copied_as_they_are(tmp_path):
    data = make_data(60)
    keys = list(data)
    write_archive(tmp_path / "0", {key: data[key] for key in keys[:50]})
    new = {key: data[key] for key in keys[50:]}
    write_archive(tmp_path / "1", new | {keys[7]: b"replaced"}, tmp_path / "0", [keys[20]])
    expected = data | {keys[7]: b"replaced"}
    del expected[keys[20]]
    with Archive.open(str(tmp_path / "1")) as archive:
        assert archive.indexed
        assert dict(archive.read_many()) == expected
    with tarfile.open(tmp_path / "1") as tar:
        assert {m.name: tar.extractfile(m).read() for m in tar} == expected
    assert gzip.decompress((tmp_path / "1").read_bytes())


def test_an_entry_added_twice_is_refused(tmp_path):
    data = make_data(1)
    write_archive(tmp_path / "0", data)
    sink = Sink(tmp_path / "1")
    with sink.file, pytest.raises(ValueError, match="twice"):
        writer = ArchiveWriter(sink)
        for _ in range(2):
            writer.add(deflate_entry(*next(iter(data.items()))))
        writer.close()


@pytest.mark.parametrize("mode", ["r:gz", "r|gz"])
@pytest.mark.parametrize("count", [1, 30])
def test_python_reads_it(tmp_path, mode, count):
    data = make_data(count)
    write_archive(tmp_path / "a.tar.gz", data)
    with tarfile.open(tmp_path / "a.tar.gz", mode) as tar:
        assert {m.name: tar.extractfile(m).read() for m in tar} == data


def test_one_flipped_bit_damages_one_entry(tmp_path):
    data = make_data(20)
    path = tmp_path / "a"
    write_archive(path, data)
    with Archive.open(str(path)) as archive:
        row = archive.index.row(bytes.fromhex(make_key(11)))
        offset, packed = int(archive.index.offset[row]), int(archive.index.packed[row])
    original, harmless = path.read_bytes(), 0
    for position in range(offset, offset + packed, 7):
        flipped = bytearray(original)
        flipped[position] ^= 16
        path.write_bytes(flipped)
        with Archive.open(str(path)) as archive:
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
        with Archive.open(str(tmp_path / "m")) as archive:
            assert not archive.indexed
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
        with Archive.open(str(path)) as archive:
            # Times and flags of a gzip header mean nothing; elsewhere the tar is read instead.
            assert dict(archive.read_many()) == data
            in_header = position - footer.data_size in range(3, 10)
            assert archive.indexed is False or in_header


def test_an_open_archive_outlives_its_name(tmp_path):
    data = make_data(5)
    write_archive(tmp_path / "a", data)
    with Archive.open(str(tmp_path / "a")) as archive:
        write_archive(tmp_path / "b", {})
        os.rename(tmp_path / "b", tmp_path / "a")
        assert dict(archive.read_many()) == data


def test_a_file_that_shrinks_under_its_reader_gives_damaged_entries(tmp_path):
    data = make_data(10)
    write_archive(tmp_path / "a", data)
    with Archive.open(str(tmp_path / "a")) as archive:
        os.truncate(tmp_path / "a", 300)
        found = dict(archive.read_many())
        assert len(found) == 10
        assert sum(isinstance(content, CorruptEntryError) for content in found.values()) >= 9
        with pytest.raises(CorruptEntryError):
            archive.read(make_key(9))


def test_reading_takes_one_descriptor_and_closes_it(tmp_path):
    write_archive(tmp_path / "a", make_data(5))
    before = len(os.listdir("/proc/self/fd"))
    archive = Archive.open(str(tmp_path / "a"))
    list(archive.read_many())
    assert len(os.listdir("/proc/self/fd")) == before + 1
    archive.close()
    archive.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_stale_file_handle_is_tried_again(tmp_path, monkeypatch):
    write_archive(tmp_path / "a", make_data(5))
    real, calls = os.fstat, []

    def stale(descriptor, times):
        calls.append(descriptor)
        if len(calls) <= times:
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda descriptor: stale(descriptor, 2))
        with Archive.open(str(tmp_path / "a")) as archive:
            assert len(archive) == 5
    calls.clear()
    with pytest.raises(DatabaseError, match="cannot read"), monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda descriptor: stale(descriptor, 99))
        Archive.open(str(tmp_path / "a"))


def test_works_without_isal(tmp_path):
    write_archive(tmp_path / "a", make_data(5))
    script = (
        "import sys; sys.modules['isal'] = None\n"
        "from ampmpi.database.archive import deflate\n"
        "from ampmpi.database.archive.reader import Archive\n"
        "assert deflate._deflater.__name__ == 'zlib'\n"
        f"print(len(dict(Archive.open({str(tmp_path / 'a')!r}).read_many())))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "5\n", done.stderr


@pytest.mark.parametrize("code", [errno.EIO, errno.ENODATA])
def test_a_sector_that_cannot_be_read_costs_what_lies_in_it(tmp_path, monkeypatch, code):
    data = make_data(20)
    keys = list(data)
    write_archive(tmp_path / "0", data)
    begin, end = place_of(tmp_path / "0", keys[7])[1] - 5, place_of(tmp_path / "0", keys[8])[0] + 5
    sound = {key: data[key] for key in keys if key not in keys[7:9]}
    spoil_sector(monkeypatch, tmp_path / "0", begin, end, code)
    with Archive.open(str(tmp_path / "0")) as archive:
        found = dict(archive.read_many())
        assert found.keys() == data.keys()
        for key in keys[7:9]:
            error = found.pop(key)
            assert isinstance(error, CorruptEntryError)
            assert key in str(error) and str(tmp_path / "0") in str(error)
            with pytest.raises(CorruptEntryError, match="cannot be read"):
                archive.read(key)
        assert found == sound
        assert dict(archive.read_many(keys[9:12])) == {key: data[key] for key in keys[9:12]}
        assert all(archive.read(key) == content for key, content in sound.items())
        rows = np.argsort(archive.index.offset)
        damaged = {archive.key_of(row) for row in archive.find_damaged(rows)}
        assert damaged == set(keys[7:9])
    write_archive(tmp_path / "1", {make_key(99): b"new"}, tmp_path / "0", [keys[0]])
    with Archive.open(str(tmp_path / "1")) as archive:
        assert archive.indexed
        del sound[keys[0]]
        assert dict(archive.read_many()) == {**sound, make_key(99): b"new"}
    with tarfile.open(tmp_path / "1") as tar:
        assert set(tar.getnames()) == {*sound, make_key(99)}


def test_an_error_that_concerns_the_whole_archive_is_no_damage(tmp_path, monkeypatch):
    data = make_data(5)
    write_archive(tmp_path / "a", data)
    with Archive.open(str(tmp_path / "a")) as archive:
        spoil_sector(monkeypatch, tmp_path / "a", 0, 1 << 20, errno.ESTALE)
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            list(archive.read_many())
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            list(archive.raw_runs(np.argsort(archive.index.offset)))
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            archive.read(make_key(0))
