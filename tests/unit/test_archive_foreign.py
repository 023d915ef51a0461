"""Archives that other tools wrote, hostile ones, and damaged ones."""

import gzip
import io
import os
import tarfile
import time
import zlib

import pytest
from archive_samples import (
    add_member,
    keys_of,
    make_data,
    open_archive,
    records_of,
    write_archive,
)
from entry_samples import limited_memory, make_key

from ampmpi.database.archive import salvage
from ampmpi.database.archive.deflate import MEMBER_HEADER, deflate
from ampmpi.database.archive.tar import entry_record


def rescue(path):
    """Return what is found without the index, and how often."""
    with open(path, "rb") as file:
        return list(salvage.rescue(file.fileno()))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_of_long_names_are_passed_over(tmp_path, form):
    data = make_data(3)
    with tarfile.open(tmp_path / "a", "w:gz", format=form) as tar:
        for key, content in data.items():
            add_member(tar, "x" * 300, b"long")
            add_member(tar, key, content)
    with open_archive(tmp_path / "a") as archive:
        assert archive.damage is None
        assert dict(archive.read_many()) == data


def test_the_last_of_two_members_counts(tmp_path):
    with tarfile.open(tmp_path / "a", "w:gz") as tar:
        add_member(tar, make_key(0), b"first")
        add_member(tar, make_key(1), b"one")
        add_member(tar, make_key(0), b"second")
    with open_archive(tmp_path / "a") as archive:
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
            add_member(tar, name, b"evil")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE,
                     tarfile.CHRTYPE, tarfile.BLKTYPE):  # fmt: skip
            add_member(tar, make_key(kind), type=kind, linkname="/etc/passwd")
        add_member(tar, make_key(5), b"good")
    with open_archive(tmp_path / "a") as archive:
        assert dict(archive.read_many()) == {make_key(5): b"good"}
        assert archive.others == 13
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("size", [2**31, 2**40, 2**62])
def test_huge_sizes_take_no_memory(tmp_path, size):
    info = tarfile.TarInfo(make_key(0))
    info.size = size
    start = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a").write_bytes(gzip.compress(start + b"little"))
    with limited_memory(200), open_archive(tmp_path / "a") as archive:
        assert keys_of(archive) == []
        assert archive.damage is not None


def test_huge_extended_headers_take_no_memory(tmp_path):
    info = tarfile.TarInfo("pax")
    info.type = tarfile.XHDTYPE
    info.size = 2**33
    (tmp_path / "a").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10**7)))
    with limited_memory(200), open_archive(tmp_path / "a") as archive:
        assert "extended tar header is too large" in archive.damage


def test_a_bomb_is_passed_over(tmp_path):
    with tarfile.open(tmp_path / "a", "w:gz") as tar:
        add_member(tar, "zeros", bytes(200_000_000))
        add_member(tar, make_key(0), b"good")
    with limited_memory(200), open_archive(tmp_path / "a") as archive:
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
    with open_archive(tmp_path / "a") as archive:
        assert keys_of(archive) == []
        assert archive.damage


def test_a_missing_archive(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_archive(tmp_path / "a")


def test_of_a_cut_archive_the_whole_entries_are_read(tmp_path):
    data = {make_key(number): os.urandom(3000) for number in range(20)}
    with tarfile.open(tmp_path / "a", "w:gz") as tar:
        for key, content in data.items():
            add_member(tar, key, content)
    whole = (tmp_path / "a").read_bytes()
    previous = -1
    for size in range(0, len(whole), len(whole) // 30):
        (tmp_path / "a").write_bytes(whole[:size])
        with open_archive(tmp_path / "a") as archive:
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
            add_member(tar, *theirs.popitem())
    raw = bytearray((tmp_path / "a").read_bytes())
    raw[raw.index(b"no checksum")] ^= 1
    key = make_key(1)
    raw[raw.index(key.encode()) : raw.index(key.encode()) + 2] = key[1::-1].encode()
    (tmp_path / "a").write_bytes(raw)
    with open_archive(tmp_path / "a") as archive:
        assert "incorrect data check" in archive.damage
        found = dict(archive.read_many())
        assert len(found) == 4
        # One has no checksum, one another name, though the tar's own sum is right.
        sound = {key: content for key, content in found.items() if isinstance(content, bytes)}
        assert sound == {make_key(number): data[make_key(number)] for number in (0, 2)}


def test_members_that_are_no_entries_are_walked_over_whole(tmp_path):
    with tarfile.open(tmp_path / "a", "w:gz") as tar:
        add_member(tar, "README", b"words")
        add_member(tar, make_key(0), b"good")
    with open_archive(tmp_path / "a") as archive:
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
    with open_archive(path) as archive:
        before = {key for key, content in archive.read_many() if content == data[key]}
        assert not archive.trusted
    found = dict(rescue(path))
    assert {key for key, content in found.items() if content == data[key]} >= before
    assert len(found) >= 27
    assert len(before) < 20


def test_rescue_of_noise(tmp_path):
    (tmp_path / "a").write_bytes(os.urandom(50_000) + b"\0\0\xff\xff" * 1000 + zlib.compress(b"x"))
    assert rescue(tmp_path / "a") == []


def test_links_are_no_entries_and_hide_none(tmp_path):
    keys = [make_key(number) for number in range(3)]
    with tarfile.open(tmp_path / "a", "w:gz") as tar:
        add_member(tar, keys[0], b"zero")
        add_member(tar, keys[1], b"one")
        add_member(tar, keys[2], type=tarfile.LNKTYPE, linkname=keys[1])
        add_member(tar, keys[0], type=tarfile.LNKTYPE, linkname=keys[1])
        add_member(tar, keys[1], type=tarfile.SYMTYPE, linkname=keys[0])
    with open_archive(tmp_path / "a") as archive:
        assert archive.damage is None
        assert dict(archive.read_many()) == {keys[0]: b"zero", keys[1]: b"one"}
        others = [headers[:32].decode() for key, headers, _ in archive.walk(True) if key is None]
        assert others == [keys[2], keys[0], keys[1]]


def test_a_sparse_member_is_passed_over(tmp_path):
    header = bytearray(tarfile.TarInfo("note").tobuf(tarfile.GNU_FORMAT))
    header[124:135], header[156:157] = b"%011o" % 1024, b"S"
    header[386:434] = b"".join(b"%011o\0" % number for number in (1000, 512, 2000, 512))
    header[483:494] = b"%011o" % 2512
    header = change_header(header, 0, b"note")
    content = header + b"data".ljust(1024, b"-")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add_member(tar, make_key(0), b"before")
        tar.fileobj.write(content)
        tar.offset = tar.fileobj.tell()
        add_member(tar, make_key(1), b"behind")
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        assert tar.getnames() == [make_key(0), "note", make_key(1)]
    (tmp_path / "a").write_bytes(gzip.compress(buffer.getvalue()))
    with open_archive(tmp_path / "a") as archive:
        assert archive.damage is None
        assert dict(archive.read_many()) == {make_key(0): b"before", make_key(1): b"behind"}
        assert archive.others == 1
        (others,) = [headers + data for key, headers, data in archive.walk(True) if key is None]
    assert others == content


def without_index(path, data):
    footer = write_archive(path, data)
    return path.read_bytes()[: footer.data_size], list(records_of(path).values())


@pytest.mark.parametrize("change", [
    lambda raw: bytes(4) + raw[4:],
    lambda raw: bytes(10) + raw[10:],
    lambda raw: b"junk" + raw,
    lambda raw: b"junk" * 500 + raw,
    lambda raw: raw[4:],
    lambda raw: raw[10:],
])  # fmt: skip
def test_rescue_behind_a_damaged_header(tmp_path, change):
    """Only where the first record has moved nothing tells where it begins."""
    data = make_data(5)
    raw, _ = without_index(tmp_path / "a", data)
    changed = change(raw)
    (tmp_path / "a").write_bytes(changed)
    if len(changed) != len(raw):
        del data[make_key(0)]
    assert dict(rescue(tmp_path / "a")) == data


def test_rescue_of_all_others_whatever_bit_of_a_record_flips(tmp_path):
    """Also where the header then claims a size that reaches over other records.

    Where it is the mark at the record's end, it is the next one that is not found.
    """
    data = make_data(6)
    raw, records = without_index(tmp_path / "a", data)
    start, packed = records[1]
    kept = 0
    for position in range(start, start + packed):
        for bit in (1, 8, 16, 128):
            changed = bytearray(raw)
            changed[position] ^= bit
            (tmp_path / "a").write_bytes(changed)
            found = dict(rescue(tmp_path / "a"))
            assert found.items() <= data.items()
            is_mark = position >= start + packed - 4
            allowed = {make_key(1), make_key(2)} if is_mark else {make_key(1)}
            assert data.keys() - found.keys() <= allowed, (position - start, bit)
            kept += len(found) == 6
    assert kept > 50  # padding, marks, and fields of the header that nobody needs


@pytest.mark.parametrize("size", [4, 40, 100])
def test_rescue_behind_a_damaged_end_of_a_record(tmp_path, size):
    """No mark tells where the next one begins: it is given up."""
    data = make_data(6)
    raw, records = without_index(tmp_path / "a", data)
    end = sum(records[2])
    (tmp_path / "a").write_bytes(raw[: end - size] + b"\x55" * size + raw[end:])
    found = dict(rescue(tmp_path / "a"))
    assert found.items() <= data.items()
    missing = data.keys() - found.keys()
    assert make_key(3) in missing and missing <= {make_key(2), make_key(3)}


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
    assert dict(rescue(tmp_path / "a")) == expected


def test_rescue_of_many_that_lie_takes_no_time(tmp_path):
    """Each of them claims all that follows."""
    entry = entry_record(make_key(0), bytes(50_000))
    lie = deflate(change_header(entry, 124, b"07777777777"))
    (tmp_path / "a").write_bytes(MEMBER_HEADER + lie * 2000 + deflate(entry))
    start = time.process_time()
    with limited_memory(600):
        found = dict(rescue(tmp_path / "a"))
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
        assert dict(rescue(tmp_path / "a")) == {make_key(1): b"good"}


def test_rescue_of_a_record_larger_than_what_is_read_at_once(tmp_path):
    data = {make_key(0): b"small", make_key(1): os.urandom(3_000_000), make_key(2): b""}
    raw, _ = without_index(tmp_path / "a", data)
    assert dict(rescue(tmp_path / "a")) == data
    raw = raw[:2_000_000] + bytes(100) + raw[2_000_100:]
    (tmp_path / "a").write_bytes(raw)
    assert set(rescue(tmp_path / "a")) == {
        (make_key(0), b"small"),
        (make_key(2), b""),
    }
