"""The database as a mapping, while entries move between its two places."""

import errno
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from archive_samples import place_of, spoil_sector
from entry_samples import SPECIAL, make_entries, make_key, make_special, refuse

from ampmpi.database import FingerprintDatabase, loose
from ampmpi.database.archive.reader import Archive
from ampmpi.database.check import check
from ampmpi.database.compress import compress
from ampmpi.database.merge import merge, uncompress
from ampmpi.entries.codec import encode
from ampmpi.errors import CorruptEntryError, DatabaseError, DescriptorMismatchError

AMP = Path(__file__).parents[1] / "data" / "amp"
N = 12
KEYS = [make_key(number) for number in range(N)]
ENTRIES = {key: make_entries(n, 2 + n % 3, {"Cu": 4, "H": 2}) for n, key in enumerate(KEYS)}
FINGERPRINTS = {key: entries[0] for key, entries in ENTRIES.items()}
PRIMES = {key: entries[1] for key, entries in ENTRIES.items()}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "x-fingerprints")


@pytest.fixture(params=["loose", "archived", "both places"])
def database(request, path):
    """Return a database of `FINGERPRINTS`, whose entries lie here or there."""
    database = FingerprintDatabase(path)
    database.update(FINGERPRINTS)
    if request.param == "archived":
        database.compress()
    elif request.param == "both places":
        for key in KEYS[:4]:
            database[key] = FINGERPRINTS[KEYS[-1]]
        for key in KEYS[8:]:
            loose.remove(database.layout, key)
        database.compress()
        for key in KEYS[:4] + KEYS[8:]:
            database[key] = FINGERPRINTS[key]
    return database


def spoil(database, key, content=None):
    """Damage a loose entry, long ago."""
    file = database.layout.loose_entry(key)
    with open(file, "rb+") as stream:
        if content is None:
            stream.seek(-30, os.SEEK_END)
            stream.write(b"\0")
        else:
            stream.truncate()
            stream.write(content)
    os.utime(file, (1, 1))


def spoil_archive(database, key):
    """Damage an entry of the archive."""
    with Archive.open(database.layout.archive) as archive:
        row = archive.index.row(bytes.fromhex(key))
        at = int(archive.index.offset[row]) + int(archive.index.packed[row]) // 2
    with open(database.layout.archive, "rb+") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 0x55]))


def test_mapping(database):
    assert dict(database) == FINGERPRINTS
    assert list(database) == sorted(KEYS) == sorted(database.keys())
    assert len(database) == N
    assert KEYS[0] in database and make_key(99) not in database
    assert None not in database and "../x" not in database
    assert database.get(make_key(99)) is None
    for key in (make_key(99), "../x", "", KEYS[0].upper()):
        with pytest.raises(KeyError):
            database[key]
    assert database.corrupt == {}


def test_many(database):
    assert dict(database.get_many()) == FINGERPRINTS
    wanted = [*KEYS[2:5], make_key(99), "README", KEYS[2]]
    assert dict(database.get_many(wanted)) == {key: FINGERPRINTS[key] for key in KEYS[2:5]}
    assert len(list(database.get_many(wanted))) == 3
    assert database.missing(wanted) == {make_key(99), "README"}
    assert database.missing(wanted, check=True) == {make_key(99), "README"}
    assert database.missing([]) == set()


def test_what_is_no_string_is_no_key(database):
    assert 3 not in database
    with pytest.raises(KeyError):
        database[3]
    with pytest.raises(DatabaseError, match="3 is no key"):
        database[3] = FINGERPRINTS[KEYS[0]]
    assert list(database.get_many([3])) == []


def test_keys_as_an_array(database):
    def keys() -> list[str]:
        return [bytes(row).hex() for row in database.digests().view(np.uint8).reshape(-1, 16)]

    assert keys() == sorted(database)
    assert len(keys()) == len(KEYS)
    del database[keys()[0]]
    assert keys() == sorted(database)
    database.compress()
    assert keys() == sorted(database)
    database.clear()
    assert keys() == []


def test_delete(database):
    gone, again, kept = KEYS[0], KEYS[5], KEYS[6:]
    del database[gone]
    del database[again]
    with pytest.raises(KeyError):
        del database[gone]
    database[again] = FINGERPRINTS[KEYS[1]]
    for step in range(3):
        other = FingerprintDatabase(database.path)
        for view in (database, other):
            assert gone not in view and again in view
            assert len(view) == N - 1
            assert view.missing(KEYS) == {gone}
            assert view[again] == FINGERPRINTS[KEYS[1]]
            assert {key for key, _ in view.get_many()} == set(KEYS) - {gone}
            assert gone not in dict(view.get_many([gone, *kept]))
            with pytest.raises(KeyError):
                view[gone]
        if step < 2:
            database.compress()
            assert database.info().deleted == 0
    with Archive.open(database.layout.archive) as archive:
        assert gone not in archive
    database[gone] = FINGERPRINTS[gone]
    assert database[gone] == FINGERPRINTS[gone]


def test_clear(database):
    database.clear()
    assert len(database) == 0 and not list(database.get_many())
    database.compress()
    assert len(database) == 0


def test_another_process_compresses(database):
    reader = FingerprintDatabase(database.path)
    assert reader[KEYS[0]] == FINGERPRINTS[KEYS[0]]
    compress(database.path)
    assert dict(reader) == FINGERPRINTS
    database[KEYS[0]] = FINGERPRINTS[KEYS[1]]
    compress(database.path)
    assert reader[KEYS[0]] == FINGERPRINTS[KEYS[1]]
    assert dict(reader.get_many([KEYS[0]])) == {KEYS[0]: FINGERPRINTS[KEYS[1]]}


def test_archive_replaced_while_many_are_read(path):
    database = FingerprintDatabase(path)
    database.update(FINGERPRINTS)
    database.compress()
    found = {}
    for number, (key, entry) in enumerate(database.get_many()):
        found[key] = entry
        if number in (3, 6):
            database[make_key(100 + number)] = entry
            database.compress()
            assert database[KEYS[1]] == FINGERPRINTS[KEYS[1]]
    assert found == FINGERPRINTS


def test_entries_that_move_between_the_two_looks_are_found(path, monkeypatch):
    """A compress or an uncompress may come between any two steps of a get."""
    database = FingerprintDatabase(path)
    database.update(FINGERPRINTS)
    read, listed = loose.read, loose.keys

    def compress_then_read(layout, key):
        """Find nothing, for a compress took it away just before."""
        monkeypatch.setattr(loose, "read", read)
        compress(layout.root)
        return read(layout, key)

    monkeypatch.setattr(loose, "read", compress_then_read)
    assert database[KEYS[0]] == FINGERPRINTS[KEYS[0]]
    assert loose.keys(database.layout) == set()

    def to_loose_then_list(layout):
        monkeypatch.setattr(loose, "keys", listed)
        before = listed(layout)
        os.unlink(layout.archive)
        for key, entry in FINGERPRINTS.items():
            loose.put(layout, key, encode(entry))
        return before

    monkeypatch.setattr(loose, "keys", to_loose_then_list)
    wanted = KEYS + [make_key(n) for n in range(100, 150)]
    assert dict(database.get_many(wanted)) == FINGERPRINTS


@pytest.mark.parametrize("content", [None, b"", b"(lp0\n(VCu\n", b"\0" * 500])
def test_damaged_loose_entries_are_never_returned(path, content):
    database = FingerprintDatabase(path)
    database.update(FINGERPRINTS)
    spoil(database, KEYS[3], content)
    with pytest.raises(CorruptEntryError, match=KEYS[3]) as caught:
        database[KEYS[3]]
    assert path in str(caught.value) and "compute it again" in str(caught.value)
    assert set(database.corrupt) == {KEYS[3]}
    database.corrupt.clear()
    sound = {key: entry for key, entry in FINGERPRINTS.items() if key != KEYS[3]}
    assert dict(database.get_many()) == sound
    assert set(database.corrupt) == {KEYS[3]}
    assert database.missing(KEYS) == set()
    assert database.missing(KEYS, check=True) == {KEYS[3]}
    database[KEYS[3]] = FINGERPRINTS[KEYS[3]]
    assert database.corrupt == {}
    assert dict(database) == FINGERPRINTS


def test_the_other_copy_is_used(path):
    database = FingerprintDatabase(path)
    database.update(FINGERPRINTS)
    database.compress()
    for key in KEYS[:2]:
        database[key] = FINGERPRINTS[key]
    spoil(database, KEYS[0])
    spoil_archive(database, KEYS[1])
    spoil_archive(database, KEYS[2])
    database.close()
    assert database[KEYS[0]] == FINGERPRINTS[KEYS[0]]
    assert database[KEYS[1]] == FINGERPRINTS[KEYS[1]]
    with pytest.raises(CorruptEntryError):
        database[KEYS[2]]
    assert set(database.corrupt) == {KEYS[0], KEYS[2]}
    database.corrupt.clear()
    sound = {key: entry for key, entry in FINGERPRINTS.items() if key != KEYS[2]}
    assert dict(database.get_many()) == sound
    assert set(database.corrupt) == {KEYS[0], KEYS[2]}


def test_entries_of_the_other_kind_count_as_damaged(tmp_path):
    fingerprints = FingerprintDatabase(tmp_path / "x-fingerprints")
    primes = FingerprintDatabase(tmp_path / "x-fingerprint-primes")
    for database, right, wrong in (
        (fingerprints, FINGERPRINTS, PRIMES),
        (primes, PRIMES, FINGERPRINTS),
    ):
        database[KEYS[0]] = right[KEYS[0]]
        with pytest.raises(DatabaseError, match="holds"):
            database[KEYS[1]] = wrong[KEYS[1]]
        database.put_bytes(KEYS[1], encode(wrong[KEYS[1]]))
        with pytest.raises(CorruptEntryError, match="in a database of"):
            database[KEYS[1]]
        assert dict(database.get_many()) == {KEYS[0]: right[KEYS[0]]}


def test_number_of_atoms(path):
    database = FingerprintDatabase(path)
    database.update(FINGERPRINTS)
    numbers = {key: len(entry.symbols) for key, entry in FINGERPRINTS.items()}
    numbers[KEYS[0]] += 1
    assert KEYS[0] not in dict(database.get_many(KEYS, numbers))
    assert "atoms" in database.corrupt[KEYS[0]]


def test_bytes_as_they_are(database):
    for key in KEYS:
        assert database.get_bytes(key) == encode(FINGERPRINTS[key])
    with pytest.raises(KeyError):
        database.get_bytes(make_key(99))


def test_other_kinds_take_both(tmp_path):
    database = FingerprintDatabase(tmp_path / "mine")
    database[KEYS[0]] = FINGERPRINTS[KEYS[0]]
    database[KEYS[1]] = PRIMES[KEYS[1]]
    assert dict(database) == {KEYS[0]: FINGERPRINTS[KEYS[0]], KEYS[1]: PRIMES[KEYS[1]]}


def test_opening_writes_nothing(tmp_path):
    database = FingerprintDatabase(tmp_path / "x-fingerprints")
    assert len(database) == 0 and KEYS[0] not in database
    assert not list(database.get_many(KEYS)) and database.missing(KEYS) == set(KEYS)
    assert database.manifest() is None and not database.needs_adoption()
    assert database.info().entries == 0
    assert os.listdir(tmp_path) == []
    FingerprintDatabase.create(tmp_path / "x-fingerprints")
    assert os.listdir(tmp_path) == ["x-fingerprints.ampdb"]


def test_what_is_no_database(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "photos.ampdb" / "summer").mkdir(parents=True)
    for name in ("plain", "photos", "photos.ampdb"):
        with pytest.raises(DatabaseError, match="is no database"):
            FingerprintDatabase(tmp_path / name)


def test_claim_and_adoption(path):
    database = FingerprintDatabase(path)
    assert database.claim({"Rc": 6.5}, "aa")
    database.update(FINGERPRINTS)
    assert not database.needs_adoption()
    assert FingerprintDatabase(path).claim({"Rc": 6.5}, "aa")
    with pytest.raises(DescriptorMismatchError, match=r"Rc is 6\.5 in the database, 5 here"):
        FingerprintDatabase(path).claim({"Rc": 5}, "bb")
    os.unlink(database.layout.manifest)
    assert database.needs_adoption()
    assert not database.claim({"Rc": 5}, "bb")
    assert database.manifest() is None
    assert database.claim({"Rc": 5}, "bb", adopt=True)
    assert database.manifest().parameters == {"Rc": 5}


def test_info(database):
    with open(f"{database.layout.loose}/.nfs01", "w"):
        pass
    info = database.info()
    assert info.entries == N and info.kind == "fingerprints"
    assert info.loose == len(loose.keys(database.layout)) and info.others == 1
    assert info.bytes_loose == sum(
        os.path.getsize(database.layout.loose_entry(key)) for key in loose.keys(database.layout)
    )
    assert (info.archived > 0) == os.path.exists(database.layout.archive)
    assert info.files == 1 + sum(len(f) + len(d) for _, d, f in os.walk(database.path))
    assert not info.locked and info.temporaries == 0


def test_amps_databases(tmp_path):
    """Loose and archived ones read the same, and are ours after a compress."""
    for kind in ("fingerprints", "fingerprint-primes"):
        contents = []
        for place in ("loose", "archived"):
            copy = tmp_path / f"{place}-{kind}.ampdb"
            shutil.copytree(AMP / copy.name, copy)
            database = FingerprintDatabase(copy)
            assert database.needs_adoption()
            contents.append(dict(database))
            contents.append(dict(database.get_many()))
            database.compress()
            contents.append(dict(database))
        assert len(contents[0]) == 3
        assert all(content == contents[0] for content in contents)


def test_amp_killed_in_the_middle(tmp_path):
    """What Amp wrote halfway is found; the rest is used, and the half replaced."""
    copy = tmp_path / "loose-fingerprints.ampdb"
    shutil.copytree(AMP / copy.name, copy)
    database = FingerprintDatabase(copy)
    first, second, third = database
    expected = database[third]
    spoil(database, first, b"")
    content = database.get_bytes(second)
    spoil(database, second, content[: len(content) // 2])
    assert dict(database.get_many()) == {third: expected}
    assert database.missing([first, second, third], check=True) == {first, second}
    report = database.compress()
    assert set(report.set_aside) == {first, second}
    assert list(database) == [third]


def test_read_only_database(database, monkeypatch):
    real = os.open

    def read_only(path, flags, *mode):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(DatabaseError, match="read-only"):
        database[make_key(99)] = FINGERPRINTS[KEYS[0]]
    assert dict(database) == FINGERPRINTS
    assert dict(database.get_many()) == FINGERPRINTS


def test_entries_are_what_amp_reads(database):
    for key in KEYS:
        assert pickle.loads(database.get_bytes(key)) == FINGERPRINTS[key].to_amp()


def test_values_written_later_win(path):
    database = FingerprintDatabase(path)
    for number in range(4):
        database[KEYS[0]] = FINGERPRINTS[KEYS[number]]
        assert database[KEYS[0]] == FINGERPRINTS[KEYS[number]]
        if number % 2:
            database.compress()
        assert FingerprintDatabase(path)[KEYS[0]] == FINGERPRINTS[KEYS[number]]


@pytest.mark.parametrize("code", [errno.EACCES, errno.ELOOP, errno.EIO])
@pytest.mark.parametrize("many", [False, True])
def test_one_loose_file_that_cannot_be_read(path, monkeypatch, code, many):
    """Its archived copy is used if there is one, and everything else goes on."""
    database = FingerprintDatabase(path)
    database.update(FINGERPRINTS)
    database.compress()
    keys = [*KEYS, *(make_key(number) for number in range(100, 150 if many else 102))]
    expected = {key: FINGERPRINTS[KEYS[n % N]] for n, key in enumerate(keys)}
    for key in (KEYS[0], *keys[N:]):
        database[key] = expected[key]
    both, alone = KEYS[0], keys[N]
    for key in (both, alone):
        refuse(monkeypatch, database.layout.loose_entry(key), code)
    sound = {key: entry for key, entry in expected.items() if key != alone}
    assert database[both] == FINGERPRINTS[both]
    assert database.get_bytes(both) == encode(FINGERPRINTS[both])
    with pytest.raises(CorruptEntryError, match="compute it again") as caught:
        database[alone]
    assert database.layout.loose_entry(alone) in str(caught.value)
    with pytest.raises(CorruptEntryError, match="cannot read"):
        database.get_bytes(alone)
    assert database.corrupt.keys() == {both, alone}
    database.corrupt.clear()
    assert dict(database.get_many()) == sound
    assert dict(database.get_many(KEYS[:3])) == {key: FINGERPRINTS[key] for key in KEYS[:3]}
    assert database.corrupt.keys() == {both, alone}
    assert database.missing(keys, check=True) == {alone}
    assert alone in database
    target = path.replace("x-", "y-")
    report = merge(target, [database.path], assume_same=True)
    assert report.corrupt.keys() == {both, alone}
    assert dict(FingerprintDatabase(target)) == sound


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", SPECIAL)
def test_what_is_no_regular_file_is_no_entry(path, tmp_path, what):
    database = FingerprintDatabase(path)
    database.update(FINGERPRINTS)
    elsewhere = tmp_path / "elsewhere"
    os.rename(database.layout.loose_entry(KEYS[0]), elsewhere)
    special = database.layout.loose_entry(KEYS[0])
    make_special(what, special, elsewhere)
    others = {key: FINGERPRINTS[key] for key in KEYS[1:]}
    for _ in range(2):
        assert KEYS[0] not in database
        with pytest.raises(KeyError):
            database[KEYS[0]]
        with pytest.raises(KeyError):
            del database[KEYS[0]]
        assert dict(database.get_many()) == others
        assert dict(database.get_many(KEYS)) == others
        assert set(database) == set(others) and len(database) == N - 1
        assert database.missing(KEYS) == {KEYS[0]}
        assert database.info().others == 1
        assert database.corrupt == {}
        report = database.compress()
        assert not report.left and not report.set_aside
        assert check(database.path, repair=True).exit_code == 0
    assert os.path.lexists(special) and elsewhere.exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", SPECIAL)
def test_an_archived_entry_whose_loose_name_is_taken(path, tmp_path, what):
    database = FingerprintDatabase(path)
    database.update(FINGERPRINTS)
    database.compress()
    special = database.layout.loose_entry(KEYS[0])
    make_special(what, special, "/none")
    assert dict(database) == FINGERPRINTS
    if what == "directory":
        with pytest.raises(DatabaseError, match=special):
            uncompress(database.path)
        assert os.path.exists(database.layout.archive)
        assert dict(database) == FINGERPRINTS
        del database[KEYS[0]]
        assert KEYS[0] not in database
        assert os.path.isdir(special)
    else:
        uncompress(database.path)
        assert not os.path.exists(database.layout.archive)
        assert dict(database) == FINGERPRINTS


def test_a_sector_of_the_archive_that_cannot_be_read(path, monkeypatch):
    database = FingerprintDatabase(path)
    database.update(FINGERPRINTS)
    database.compress()
    begin, end = place_of(database.layout.archive, KEYS[4])
    spoil_sector(monkeypatch, database.layout.archive, begin + 9, end)
    sound = {key: entry for key, entry in FINGERPRINTS.items() if key != KEYS[4]}
    assert dict(database.get_many()) == sound
    with pytest.raises(CorruptEntryError, match="input/output error"):
        database[KEYS[4]]
    assert database.corrupt.keys() == {KEYS[4]}
    assert database.missing(KEYS, check=True) == {KEYS[4]}
    database[KEYS[4]] = FINGERPRINTS[KEYS[4]]
    assert dict(database) == FINGERPRINTS
