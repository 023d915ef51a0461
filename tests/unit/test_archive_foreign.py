"""Archives that Amp or other tools wrote, hostile ones, and damaged ones."""

import gzip
import io
import os
import struct
import tarfile
import time
import zlib

import pytest
from archive_samples import make_data, write_archive
from entry_samples import limited_memory, make_key

from ampmpi.database.archive.deflate import MEMBER_HEADER, deflate
from ampmpi.database.archive.reader import Archive
from ampmpi.database.archive.salvage import rescue
from ampmpi.database.archive.tar import entry_record


def add(tar, name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_all_tar_formats(tmp_path, form):
    data = make_data(10)
    with tarfile.open(tmp_path / "a", "w:gz", format=form) as tar:
        for key, content in data.items():
            mtime = 1.5 if form == tarfile.PAX_FORMAT else 1
            add(tar, key, content, mtime=mtime)
        if form != tarfile.USTAR_FORMAT:
            add(tar, "x" * 300, b"long")
    with Archive.open(str(tmp_path / "a")) as archive:
        assert not archive.indexed
        assert archive.damage is None
        assert archive.keys() == sorted(data)
        assert dict(archive.read_many()) == data
        assert archive.read(make_key(4)) == data[make_key(4)]
        assert make_key(77) not in archive


def test_the_last_of_two_members_counts(tmp_path):
    with tarfile.open(tmp_path / "a", "w:gz") as tar:
        add(tar, make_key(0), b"first")
        add(tar, make_key(1), b"one")
        add(tar, make_key(0), b"second")
    with Archive.open(str(tmp_path / "a")) as archive:
        assert dict(archive.read_many()) == {make_key(0): b"second", make_key(1): b"one"}


def test_hostile_members_are_no_entries(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = make_key(0)
    with tarfile.open(tmp_path / "a", "w:gz") as tar:
        for name in (
            "../../x",
            "/tmp/x",
            f"../{key}",
            f"./{key}",
            f"/{key}",
            key + "\n",
            key.upper(),
        ):
            add(tar, name, b"evil")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE,
                     tarfile.CHRTYPE, tarfile.BLKTYPE):  # fmt: skip
            add(tar, make_key(kind), type=kind, linkname="/etc/passwd")
        add(tar, make_key(5), b"good")
    with Archive.open(str(tmp_path / "a")) as archive:
        assert dict(archive.read_many()) == {make_key(5): b"good"}
        assert archive.others == 13
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("size", [2**31, 2**40, 2**62])
def test_huge_sizes_take_no_memory(tmp_path, size):
    info = tarfile.TarInfo(make_key(0))
    info.size = size
    start = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a").write_bytes(gzip.compress(start + b"little"))
    with limited_memory(200), Archive.open(str(tmp_path / "a")) as archive:
        assert archive.keys() == []
        assert archive.damage is not None


def test_huge_extended_headers_take_no_memory(tmp_path):
    info = tarfile.TarInfo("pax")
    info.type = tarfile.XHDTYPE
    info.size = 2**33
    (tmp_path / "a").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10**7)))
    with limited_memory(200), Archive.open(str(tmp_path / "a")) as archive:
        assert "extended tar header is too large" in archive.damage


def test_a_bomb_is_passed_over(tmp_path):
    with tarfile.open(tmp_path / "a", "w:gz") as tar:
        add(tar, "zeros", bytes(200_000_000))
        add(tar, make_key(0), b"good")
    with limited_memory(200), Archive.open(str(tmp_path / "a")) as archive:
        assert dict(archive.read_many()) == {make_key(0): b"good"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x1f\x8b",
        b"not gzip at all" * 100,
        gzip.compress(b"", mtime=0),
        gzip.compress(b"x" * 2000, mtime=0),
    ],
)
def test_what_is_no_archive_has_no_entries(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with Archive.open(str(tmp_path / "a")) as archive:
        assert archive.keys() == []
        assert archive.damage


def test_a_missing_archive(tmp_path):
    with pytest.raises(FileNotFoundError):
        Archive.open(str(tmp_path / "a"))


def test_of_a_cut_archive_the_whole_entries_are_read(tmp_path):
    data = {make_key(number): os.urandom(3000) for number in range(20)}
    with tarfile.open(tmp_path / "a", "w:gz") as tar:
        for key, content in data.items():
            add(tar, key, content)
    whole = (tmp_path / "a").read_bytes()
    previous = -1
    for size in range(0, len(whole), len(whole) // 30):
        (tmp_path / "a").write_bytes(whole[:size])
        with Archive.open(str(tmp_path / "a")) as archive:
            found = dict(archive.read_many())
            assert archive.damage
        assert found.items() <= data.items()
        assert len(found) >= previous
        previous = len(found)
    assert previous >= 15


def test_of_a_changed_archive_entries_without_a_checksum_are_not_believed(tmp_path):
    """Stored blocks: the flipped bit breaks nothing but the checksum at the end."""
    data = make_data(3)
    theirs = {make_key(8): b"p0 no checksum"}
    with gzip.open(tmp_path / "a", "wb", 0) as file:
        for key, content in data.items():
            file.write(entry_record(key, content))
        with tarfile.open(None, "w", file) as tar:
            add(tar, *theirs.popitem())
    raw = bytearray((tmp_path / "a").read_bytes())
    raw[raw.index(b"no checksum")] ^= 1
    key = make_key(1)
    raw[raw.index(key.encode()) : raw.index(key.encode()) + 2] = key[1::-1].encode()
    (tmp_path / "a").write_bytes(raw)
    with Archive.open(str(tmp_path / "a")) as archive:
        assert "incorrect data check" in archive.damage
        found = dict(archive.read_many())
        assert len(found) == 4
        # One has no checksum, one another name, though the tar's own sum is right.
        sound = {key: content for key, content in found.items() if isinstance(content, bytes)}
        assert sound == {make_key(number): data[make_key(number)] for number in (0, 2)}


def test_members_that_are_no_entries_are_walked_over_whole(tmp_path):
    with tarfile.open(tmp_path / "a", "w:gz") as tar:
        add(tar, "README", b"words")
        add(tar, make_key(0), b"good")
    with Archive.open(str(tmp_path / "a")) as archive:
        (name, headers, content), _ = archive.walk(others=True)
    assert name is None
    assert tarfile.TarInfo.frombuf(headers, "utf-8", "strict").name == "README"
    assert content == b"words".ljust(512, b"\0")


def test_rescue_finds_what_lies_behind_the_damage(tmp_path):
    data = make_data(30)
    path = tmp_path / "a"
    footer = write_archive(path, data)
    raw = bytearray(path.read_bytes())
    middle = footer.data_size // 2
    raw[middle : middle + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(raw[: footer.data_size - 100])
    with Archive.open(str(path)) as archive:
        before = {key for key, content in archive.read_many() if content == data[key]}
        assert not archive.trusted
    found = dict(rescue(str(path)))
    assert {key for key, content in found.items() if content == data[key]} >= before
    assert len(found) >= 27
    assert len(before) < 20


def test_rescue_of_noise(tmp_path):
    (tmp_path / "a").write_bytes(os.urandom(50_000) + b"\0\0\xff\xff" * 1000 + zlib.compress(b"x"))
    assert list(rescue(str(tmp_path / "a"))) == []


def test_a_hard_link_stands_for_the_file_before_it(tmp_path):
    """As for Amp: tarfile reads the file that was archived last under that name."""
    keys = [make_key(number) for number in range(5)]
    with tarfile.open(tmp_path / "a", "w:gz") as tar:
        add(tar, keys[0], b"zero")
        add(tar, keys[1], b"old")
        add(tar, keys[2], type=tarfile.LNKTYPE, linkname=keys[1])
        add(tar, keys[1], b"new")
        add(tar, keys[0], type=tarfile.LNKTYPE, linkname=keys[1])
        add(tar, keys[3], type=tarfile.LNKTYPE, linkname=keys[2])
        add(tar, keys[4], type=tarfile.LNKTYPE, linkname=make_key(9))
        add(tar, keys[3], type=tarfile.LNKTYPE, linkname=keys[3])
    expected = {keys[0]: b"new", keys[1]: b"new", keys[2]: b"old", keys[3]: b"old"}
    with tarfile.open(tmp_path / "a") as tar:
        assert {key: tar.extractfile(key).read() for key in expected} == expected
    with Archive.open(str(tmp_path / "a")) as archive:
        assert archive.damage is None
        assert dict(archive.read_many()) == expected
        assert archive.read(keys[3]) == b"old"
        others = [headers[:32].decode() for key, headers, _ in archive.walk(True) if key is None]
        assert others == [keys[4]]


@pytest.mark.parametrize("extents", [1, 4, 5, 25, 26, 60])
def test_sparse_members_are_passed_over(tmp_path, extents):
    """Old GNU: a map of more than four extents goes on in blocks behind the header."""
    entry = struct.Struct("12s12s")
    rows = [entry.pack(b"%011o\0" % (1000 * row), b"%011o\0" % 512) for row in range(extents)]
    header = bytearray(tarfile.TarInfo("note").tobuf(tarfile.GNU_FORMAT))
    header[124:135], header[156:157] = b"%011o" % (512 * extents), b"S"
    header[386:482] = b"".join(rows[:4]).ljust(96, b"\0")
    header[482] = extents > 4
    header[483:494] = b"%011o" % (1000 * extents)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content, rows = bytes(header), rows[4:]
    while rows:
        content += (b"".join(rows[:21]).ljust(504, b"\0") + bytes([len(rows) > 21])).ljust(512)
        rows = rows[21:]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, make_key(0), b"before")
        tar.fileobj.write(content + b"data".ljust(512, b"-") * extents)
        tar.offset = tar.fileobj.tell()
        add(tar, make_key(1), b"behind")
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        assert tar.getnames() == [make_key(0), "note", make_key(1)]
    (tmp_path / "a").write_bytes(gzip.compress(buffer.getvalue()))
    with Archive.open(str(tmp_path / "a")) as archive:
        assert archive.damage is None
        assert dict(archive.read_many()) == {make_key(0): b"before", make_key(1): b"behind"}
        assert archive.others == 1
        (others,) = [headers + data for key, headers, data in archive.walk(True) if key is None]
    assert others == content + b"data".ljust(512, b"-") * extents


def test_the_map_of_a_sparse_member_has_an_end(tmp_path):
    header = bytearray(tarfile.TarInfo("note").tobuf(tarfile.GNU_FORMAT))
    header[156:157], header[482] = b"S", 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a").write_bytes(gzip.compress(bytes(header) + b"\1" * 300_000_000))
    with limited_memory(200), Archive.open(str(tmp_path / "a")) as archive:
        assert "sparse member is too large" in archive.damage


def records_of(path):
    """Offset and packed size of each record of an archive, in the file's order."""
    with Archive.open(str(path)) as archive:
        index = archive.index
        return sorted(zip(index.offset.tolist(), index.packed.tolist(), strict=True))


def without_index(path, data):
    footer = write_archive(path, data)
    return path.read_bytes()[: footer.data_size], records_of(path)


@pytest.mark.parametrize("change", [
    lambda raw: bytes(4) + raw[4:],
    lambda raw: bytes(10) + raw[10:],
    lambda raw: b"junk" + raw,
    lambda raw: b"junk" * 500 + raw,
    lambda raw: raw[4:],
    lambda raw: raw[10:],
])  # fmt: skip
def test_rescue_of_the_first_record_behind_a_damaged_header(tmp_path, change):
    data = make_data(5)
    raw, _ = without_index(tmp_path / "a", data)
    (tmp_path / "a").write_bytes(change(raw))
    assert dict(rescue(str(tmp_path / "a"))) == data


def test_rescue_of_all_others_whatever_bit_of_a_record_flips(tmp_path):
    """Also where the header then claims a size that reaches over other records."""
    data = make_data(6)
    raw, records = without_index(tmp_path / "a", data)
    start, packed = records[1]
    kept = 0
    for position in range(start, start + packed):
        for bit in (1, 8, 16, 128):
            changed = bytearray(raw)
            changed[position] ^= bit
            (tmp_path / "a").write_bytes(changed)
            found = dict(rescue(str(tmp_path / "a")))
            assert found.items() <= data.items()
            assert len(found) >= 5, (position - start, bit)
            kept += len(found) == 6
    assert kept > 50  # padding, marks, and fields of the header that nobody needs


@pytest.mark.parametrize("size", [4, 40, 100])
def test_rescue_behind_a_damaged_end_of_a_record(tmp_path, size):
    """No mark tells where the next one begins."""
    data = make_data(6)
    raw, records = without_index(tmp_path / "a", data)
    end = sum(records[2])
    (tmp_path / "a").write_bytes(raw[: end - size] + b"\x55" * size + raw[end:])
    found = dict(rescue(str(tmp_path / "a")))
    assert found.items() <= data.items()
    assert data.keys() - found.keys() <= {list(data)[2]}


def change_header(record, start, value):
    """Put bytes into a tar header, and make its checksum right."""
    record = bytearray(record)
    record[start : start + len(value)] = value
    record[148:156] = b" " * 8
    record[148:156] = b"%06o\0 " % sum(record[:512])
    return bytes(record)


@pytest.mark.parametrize("size", [b"00000001000", b"00000100000", b"00777777777", b"77777777777"])
def test_rescue_behind_headers_that_lie_about_their_size(tmp_path, size):
    data = make_data(6)
    raw, records = without_index(tmp_path / "a", data)
    for number in (4, 1):
        start, packed = records[number]
        record = zlib.decompressobj(-15).decompress(raw[start : start + packed])
        raw = raw[:start] + deflate(change_header(record, 124, size)) + raw[start + packed :]
    (tmp_path / "a").write_bytes(raw)
    expected = {key: content for n, (key, content) in enumerate(data.items()) if n not in (1, 4)}
    assert dict(rescue(str(tmp_path / "a"))) == expected


def test_rescue_of_many_that_lie_takes_no_time(tmp_path):
    """Each of them claims all that follows."""
    entry = entry_record(make_key(0), bytes(50_000))
    lie = deflate(change_header(entry, 124, b"07777777777"))
    (tmp_path / "a").write_bytes(MEMBER_HEADER + lie * 2000 + deflate(entry))
    start = time.process_time()
    with limited_memory(600):
        found = dict(rescue(str(tmp_path / "a")))
    assert time.process_time() - start < 20
    assert found.keys() <= {make_key(0)}


@pytest.mark.parametrize("size", [b"67777777777", b"00377777777"])
def test_rescue_takes_no_more_memory_than_an_entry_has(tmp_path, size):
    """A header that claims gigabytes or a little, before hundreds of megabytes of zeros."""
    header = change_header(entry_record(make_key(0), b"")[:512], 124, size)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [MEMBER_HEADER, bomb.compress(header)]
    parts += [bomb.compress(bytes(10**7)) for _ in range(40)]
    parts += [bomb.flush(zlib.Z_FULL_FLUSH), deflate(entry_record(make_key(1), b"good"))]
    (tmp_path / "a").write_bytes(b"".join(parts))
    with limited_memory(300):
        assert dict(rescue(str(tmp_path / "a"))) == {make_key(1): b"good"}


def test_rescue_of_a_record_larger_than_what_is_read_at_once(tmp_path):
    data = {make_key(0): b"small", make_key(1): os.urandom(3_000_000), make_key(2): b""}
    raw, _ = without_index(tmp_path / "a", data)
    for shift in range(5):
        (tmp_path / "a").write_bytes(bytes(shift) + raw)
        assert dict(rescue(str(tmp_path / "a"))) == data
    raw = raw[:2_000_000] + bytes(100) + raw[2_000_100:]
    (tmp_path / "a").write_bytes(raw)
    assert set(rescue(str(tmp_path / "a"))) == {
        (make_key(0), b"small"),
        (make_key(2), b""),
    }
