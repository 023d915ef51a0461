"""The database as a mapping, wherever its entries lie, while they move between its places."""

import errno
import itertools
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from archive_samples import (
    ARCHIVES,
    damage_archived,
    damage_loose,
    damage_packed,
    is_indexed,
    keys_of,
    names,
    open_archive,
    place_of,
    put,
    put_packs,
    set_age,
    spoil_sector,
    write_as_0_1,
)
from entry_samples import SPECIAL, make_entries, make_key, make_special, open_files, refuse

from ampmpi.database import FingerprintDatabase, loose
from ampmpi.database.check import check
from ampmpi.database.compress import compress
from ampmpi.database.lock import Lock
from ampmpi.database.merge import merge
from ampmpi.entries.codec import encode
from ampmpi.errors import CorruptEntryError, DatabaseError, DescriptorMismatchError, LockedError
from ampmpi.keys import to_hex

AMP = Path(__file__).parents[1] / "data" / "amp"
N = 12
KEYS = [make_key(number) for number in range(N)]
ENTRIES = {key: make_entries(n, 2 + n % 3, {"Cu": 4, "H": 2}) for n, key in enumerate(KEYS)}
FINGERPRINTS = {key: entries[0] for key, entries in ENTRIES.items()}
PRIMES = {key: entries[1] for key, entries in ENTRIES.items()}
OURS = {key: encode(entry) for key, entry in FINGERPRINTS.items()}
AMPS = {key: pickle.dumps(entry.to_amp(), 0) for key, entry in FINGERPRINTS.items()}


def fill_loose(database, content):
    for key, data in content.items():
        database.put_bytes(key, data)


def fill_archive(kind):
    def fill(database, content):
        database.make()
        ARCHIVES[kind](f"{database.path}/archive.tar.gz", content)

    return fill


def fill_both(database, content):
    """Some entries here, some there, and some in both places, of which the loose one counts."""
    fill_loose(database, dict.fromkeys(KEYS[:4], content[KEYS[-1]]))
    fill_loose(database, {key: content[key] for key in KEYS[4:8]})
    database.compress()
    fill_loose(database, {key: content[key] for key in KEYS[:4] + KEYS[8:]})


def fill_packs(database, content):
    database.make()
    put_packs(database.path, content, 3)


def fill_old_packs(database, content):
    """As a program might leave them that knows nothing of checksums of deflated records."""
    fill_packs(database, content)
    for name in names(database.path, "packs"):
        pack = f"{database.path}/packs/{name}"
        with open_archive(pack) as archive:
            some = dict(archive.read_many())
        write_as_0_1(pack, some)


def fill_all(database, content):
    """Some entries in each place, and some in several, of which the first one's counts."""
    wrong = content[KEYS[-1]]
    fill_loose(database, dict.fromkeys(KEYS[:6], wrong) | {KEYS[6]: content[KEYS[6]]})
    database.compress()
    packed = dict.fromkeys(KEYS[:3], wrong) | {key: content[key] for key in KEYS[3:9]}
    put_packs(database.path, packed, 2)
    fill_loose(database, {key: content[key] for key in KEYS[:3] + KEYS[9:]})


STORES = {
    "loose": (fill_loose, OURS),
    "loose, of Amp": (fill_loose, AMPS),
    "archived": (fill_archive("indexed"), OURS),
    "archived, of Amp": (fill_archive("Amp"), AMPS),
    "archived by GNU tar": (fill_archive("GNU tar"), OURS),
    "archived, index damaged": (fill_archive("damaged index"), OURS),
    "both places": (fill_both, OURS),
    "packs": (fill_packs, OURS),
    "packs, of Amp's bytes": (fill_packs, AMPS),
    "packs without raw checksums": (fill_old_packs, OURS),
    "all places": (fill_all, OURS),
}
"""Every way in which entries may lie in a database: what fills it, and with which bytes."""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "x-fingerprints")


@pytest.fixture(params=STORES)
def database(request, path):
    """Return a database of `FINGERPRINTS`, whose entries lie here or there."""
    fill, content = STORES[request.param]
    database = FingerprintDatabase(path)
    fill(database, content)
    database.content = content
    return database


@pytest.fixture
def in_loose(path):
    database = FingerprintDatabase(path)
    fill_loose(database, OURS)
    return database


@pytest.fixture
def in_archive(path):
    database = FingerprintDatabase(path)
    fill_archive("indexed")(database, OURS)
    return database


def loose_path(database, key):
    return f"{database.path}/loose/{key}"


def archive_path(database):
    return f"{database.path}/archive.tar.gz"


def loose_keys(database):
    return set(to_hex(loose.digests(database.make())))


def without(*keys):
    return {key: entry for key, entry in FINGERPRINTS.items() if key not in keys}


def spoil(database, key, content=None):
    """Damage a loose entry, long ago."""
    with open(loose_path(database, key), "rb+") as stream:
        if content is None:
            stream.seek(-30, os.SEEK_END)
            stream.write(b"\0")
        else:
            stream.truncate()
            stream.write(content)
    set_age(loose_path(database, key))


class TestEveryStore:
    """What holds wherever the entries lie, and whoever wrote them."""

    def test_mapping(self, database):
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

    def test_many(self, database):
        assert dict(database.get_many()) == FINGERPRINTS
        wanted = [*KEYS[2:5], make_key(99), "README", KEYS[2]]
        assert dict(database.get_many(wanted)) == {key: FINGERPRINTS[key] for key in KEYS[2:5]}
        assert len(list(database.get_many(wanted))) == 3
        assert database.missing(wanted) == {make_key(99), "README"}
        assert database.missing(wanted, check=True) == {make_key(99), "README"}
        assert database.missing([]) == set()

    def test_what_is_no_string_is_no_key(self, database):
        assert 3 not in database
        with pytest.raises(KeyError):
            database[3]
        with pytest.raises(DatabaseError, match="3 is no key"):
            database[3] = FINGERPRINTS[KEYS[0]]
        assert list(database.get_many([3])) == []

    def test_keys_as_an_array(self, database):
        def keys() -> list[str]:
            return [bytes(row).hex() for row in database.digests().view(np.uint8).reshape(-1, 16)]

        assert keys() == sorted(database)
        assert len(keys()) == len(KEYS)
        del database[keys()[0]]
        assert keys() == sorted(database)
        database.compress()
        assert keys() == sorted(database)

    def test_bytes_as_they_are(self, database):
        for key in KEYS:
            assert database.get_bytes(key) == database.content[key]
            assert pickle.loads(database.get_bytes(key)) == FINGERPRINTS[key].to_amp()
        with pytest.raises(KeyError):
            database.get_bytes(make_key(99))

    def test_what_is_written_later_counts(self, database):
        for number in (1, 2):
            database[KEYS[0]] = FINGERPRINTS[KEYS[number]]
            expected = FINGERPRINTS | {KEYS[0]: FINGERPRINTS[KEYS[number]]}
            for view in (database, FingerprintDatabase(database.path)):
                assert dict(view) == dict(view.get_many()) == expected

    def test_a_compress_keeps_all(self, database):
        reader = FingerprintDatabase(database.path)
        assert reader[KEYS[0]] == FINGERPRINTS[KEYS[0]]
        report = compress(database.path)
        assert report.entries == N and not report.lost
        assert loose_keys(database) == set()
        with open_archive(archive_path(database)) as archive:
            assert is_indexed(archive) and archive.damage is None
        for view in (reader, database):
            assert dict(view) == dict(view.get_many()) == FINGERPRINTS
            assert view.get_bytes(KEYS[1]) == database.content[KEYS[1]]
        assert check(database.path).exit_code == 0

    def test_another_process_compresses(self, database):
        reader = FingerprintDatabase(database.path)
        assert reader[KEYS[0]] == FINGERPRINTS[KEYS[0]]
        compress(database.path)
        database[KEYS[0]] = FINGERPRINTS[KEYS[1]]
        compress(database.path)
        assert reader[KEYS[0]] == FINGERPRINTS[KEYS[1]]
        assert dict(reader.get_many([KEYS[0]])) == {KEYS[0]: FINGERPRINTS[KEYS[1]]}

    def test_a_merge_takes_all(self, database, tmp_path):
        report = merge(tmp_path / "y-fingerprints", [database.path], assume_same=True)
        assert report.added == {database.path: N} and report.corrupt == {}
        assert dict(FingerprintDatabase(tmp_path / "y-fingerprints")) == FINGERPRINTS
        assert dict(database) == FINGERPRINTS

    def test_delete(self, database):
        gone, again, kept = KEYS[0], KEYS[5], KEYS[6:]
        reader = FingerprintDatabase(database.path)
        assert reader[gone] == FINGERPRINTS[gone]
        for key in (gone, again):
            del database[key]
            with pytest.raises(KeyError):
                del database[key]
        database[again] = FINGERPRINTS[KEYS[1]]
        for _ in range(2):
            for view in (database, reader, FingerprintDatabase(database.path)):
                assert gone not in view and again in view
                assert len(view) == N - 1
                assert view.missing(KEYS) == {gone}
                assert view[again] == FINGERPRINTS[KEYS[1]]
                assert {key for key, _ in view.get_many()} == set(KEYS) - {gone}
                assert gone not in dict(view.get_many([gone, *kept]))
                with pytest.raises(KeyError):
                    view[gone]
            database.compress()
        database[gone] = FINGERPRINTS[gone]
        assert database[gone] == FINGERPRINTS[gone]
        assert check(database.path).exit_code == 0

    def test_delete_many_at_once(self, database):
        assert database.delete([*KEYS[:3], KEYS[0], make_key(99), "README", 3]) == 3
        assert dict(database) == without(*KEYS[:3])
        assert database.delete(KEYS[:3]) == 0
        database.clear()
        assert len(database) == 0 and not list(database.get_many())
        database.compress()
        assert len(database) == 0

    def test_delete_waits_for_the_lock(self, database):
        with Lock(database.home), pytest.raises(LockedError):
            database.delete(KEYS[:3], wait=0)
        assert dict(database) == FINGERPRINTS

    def test_a_database_that_is_renamed_is_followed(self, database, tmp_path):
        os.rename(database.path, tmp_path / "elsewhere-fingerprints.ampdb")
        with FingerprintDatabase.create(database.path) as other:
            other[make_key(50)] = FINGERPRINTS[KEYS[0]]
            assert dict(database) == FINGERPRINTS
            database[make_key(51)] = FINGERPRINTS[KEYS[1]]
            del database[KEYS[0]]
            database.compress()
            assert set(other) == {make_key(50)}
            assert names(database.path) == ["loose", "tmp"]
        moved = FingerprintDatabase(tmp_path / "elsewhere-fingerprints")
        assert set(moved) == set(database) == {*KEYS[1:], make_key(51)}

    def test_a_database_that_was_removed(self, database):
        assert database[KEYS[0]] == FINGERPRINTS[KEYS[0]]
        shutil.rmtree(database.path)
        for _ in range(2):
            assert KEYS[0] not in database and len(database) == 0
            for act in (
                lambda: database.put(KEYS[0], FINGERPRINTS[KEYS[0]]),
                database.compress,
                lambda: database.claim({}, "aa"),
            ):
                with pytest.raises(DatabaseError, match="was removed while it was in use"):
                    act()
            os.makedirs(f"{database.path}/loose", exist_ok=True)  # and now another one
        assert names(database.path) == ["loose"] and names(database.path, "loose") == []

    def test_one_that_may_only_be_read(self, database, monkeypatch):
        real = os.open

        def read_only(path, flags, *mode, dir_fd=None):
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return real(path, flags, *mode, dir_fd=dir_fd)

        def refused(*_, **__):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(os, "open", read_only)
        for call in ("mkdir", "rename", "link", "unlink", "rmdir", "utime"):
            monkeypatch.setattr(os, call, refused)
        with pytest.raises(DatabaseError, match="read-only"):
            database[make_key(99)] = FINGERPRINTS[KEYS[0]]
        again = FingerprintDatabase(database.path)
        assert dict(again) == dict(database) == FINGERPRINTS
        assert dict(again.get_many()) == FINGERPRINTS
        assert again.missing(KEYS, check=True) == set()
        assert again.info().entries == N
        assert check(database.path).sound >= N

    def test_info(self, database):
        with open(f"{database.path}/loose/.nfs01", "w"):
            pass
        info = database.info()
        assert info.entries == N and info.kind == "fingerprints"
        assert info.loose == len(loose_keys(database)) and info.others == 1
        assert info.bytes_loose == sum(
            os.path.getsize(loose_path(database, key)) for key in loose_keys(database)
        )
        assert (info.archived > 0) == os.path.exists(archive_path(database))
        packs = [f"{database.path}/packs/{name}" for name in names(database.path, "packs")]
        assert info.packs == len(packs) and (info.packed > 0) == (info.packs > 0)
        assert info.bytes_packs == sum(map(os.path.getsize, packs)) and info.open_packs == 0
        assert info.files == 1 + sum(len(f) + len(d) for _, d, f in os.walk(database.path))
        assert not info.locked and info.temporaries == info.damaged == 0
        assert info.manifest is None and info.damage is None
        with Lock(database.home):
            assert database.info().locked

    def test_claim_and_adoption(self, database):
        assert not database.claim({"Rc": 6.5}, "aa")
        assert database.manifest() is None
        assert database.claim({"Rc": 6.5}, "aa", adopt=True)
        assert database.manifest().parameters == {"Rc": 6.5}
        assert FingerprintDatabase(database.path).claim({"Rc": 6.5}, "aa")
        with pytest.raises(DescriptorMismatchError, match=r"Rc is 6\.5 in the database, 5 here"):
            FingerprintDatabase(database.path).claim({"Rc": 5}, "bb", adopt=True)

    def test_number_of_atoms(self, database):
        numbers = {key: len(entry.symbols) for key, entry in FINGERPRINTS.items()}
        assert dict(database.get_many(KEYS, numbers)) == FINGERPRINTS
        numbers[KEYS[0]] += 1
        assert KEYS[0] not in dict(database.get_many(KEYS, numbers))
        assert "atoms" in database.corrupt[KEYS[0]]

    def test_no_descriptor_is_left_open(self, database):
        before = open_files()
        for _ in range(3):
            with FingerprintDatabase(database.path) as again:
                assert dict(again) == dict(again.get_many()) == FINGERPRINTS
            del again
        assert open_files() == before


def test_a_database_that_never_was(tmp_path):
    database = FingerprintDatabase(tmp_path / "x-fingerprints")
    assert len(database) == 0 and KEYS[0] not in database
    assert not list(database.get_many(KEYS)) and database.missing(KEYS) == set(KEYS)
    assert database.manifest() is None and database.delete(KEYS) == 0
    for act in (database.info, database.compress):
        with pytest.raises(DatabaseError, match="there is no database"):
            act()
    assert os.listdir(tmp_path) == []
    FingerprintDatabase.create(tmp_path / "x-fingerprints")
    assert os.listdir(tmp_path) == ["x-fingerprints.ampdb"]
    assert len(database) == 0 and database.info().entries == 0
    assert database.claim({"Rc": 6.5}, "aa")


def test_a_database_that_another_process_makes_is_seen(path):
    reader = FingerprintDatabase(path)
    assert KEYS[0] not in reader
    fill_loose(FingerprintDatabase(path), OURS)
    assert dict(reader) == FINGERPRINTS


def test_what_is_no_database(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "photos.ampdb" / "summer").mkdir(parents=True)
    for name in ("plain", "photos", "photos.ampdb"):
        with pytest.raises(DatabaseError, match="is no database"):
            FingerprintDatabase(tmp_path / name)


def test_archive_replaced_while_many_are_read(in_archive):
    found = {}
    for number, (key, entry) in enumerate(in_archive.get_many()):
        found[key] = entry
        if number in (3, 6):
            in_archive[make_key(100 + number)] = entry
            in_archive.compress()
            assert in_archive[KEYS[1]] == FINGERPRINTS[KEYS[1]]
    assert found == FINGERPRINTS


def test_entries_that_move_between_the_two_looks_are_found(in_loose, monkeypatch):
    """Other processes may move them between any two steps of a get."""
    database = in_loose
    read, listed = loose.read, loose.digests

    def compress_then_read(home, key):
        """Find nothing, for a compress took it away just before."""
        monkeypatch.setattr(loose, "read", read)
        compress(home)
        return read(home, key)

    monkeypatch.setattr(loose, "read", compress_then_read)
    assert database[KEYS[0]] == FINGERPRINTS[KEYS[0]]
    assert loose_keys(database) == set()

    def list_then_to_loose(home):
        monkeypatch.setattr(loose, "digests", listed)
        before = listed(home)
        os.unlink(archive_path(database))
        fill_loose(FingerprintDatabase(home.path), OURS)
        return before

    monkeypatch.setattr(loose, "digests", list_then_to_loose)
    wanted = KEYS + [make_key(n) for n in range(100, 150)]
    assert dict(database.get_many(wanted)) == FINGERPRINTS


@pytest.mark.parametrize("look", ["read", "exists", "digests"])
def test_an_entry_that_comes_back_from_the_archive_is_found(in_archive, monkeypatch, look):
    """It is deleted and written again between the look into loose/ and that into the archive."""
    real, other = getattr(loose, look), FingerprintDatabase(in_archive.path)

    def look_then_move(home, *key):
        found = real(home, *key)
        monkeypatch.setattr(loose, look, real)
        other.delete(KEYS[:1])
        other[KEYS[0]] = FINGERPRINTS[KEYS[0]]
        return found

    monkeypatch.setattr(loose, look, look_then_move)
    if look == "read":
        assert in_archive[KEYS[0]] == FINGERPRINTS[KEYS[0]]
    elif look == "exists":
        assert KEYS[0] in in_archive
    else:
        assert in_archive.missing(KEYS) == set()
    assert loose_keys(other) == {KEYS[0]}


@pytest.mark.parametrize("count", [3, 50])
@pytest.mark.parametrize("times", [2, 1 << 30])
def test_stale_handles_are_tried_again(path, monkeypatch, times, count):
    database = FingerprintDatabase(path)
    expected = {make_key(number): FINGERPRINTS[KEYS[number % N]] for number in range(count)}
    database.update(expected)
    read, left = os.read, [times]

    def stale(descriptor, size):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", stale)
    looks = (
        lambda: database[KEYS[0]] == expected[KEYS[0]],
        lambda: dict(database.get_many()) == expected,
        lambda: database.missing(expected, check=True) == set(),
    )
    for look in looks:
        left[0] = times
        if times == 2:
            assert look()
            assert left[0] == 0
        else:
            with pytest.raises(DatabaseError, match="cannot read") as caught:
                look()
            assert not isinstance(caught.value, CorruptEntryError)
            assert times - left[0] < 100
    assert database.corrupt == {}


@pytest.mark.parametrize("content", [None, b"", b"(lp0\n(VCu\n", b"\0" * 500])
def test_damaged_loose_entries_are_never_returned(in_loose, content):
    database = in_loose
    spoil(database, KEYS[3], content)
    with pytest.raises(CorruptEntryError, match=KEYS[3]) as caught:
        database[KEYS[3]]
    assert database.path in str(caught.value) and "compute it again" in str(caught.value)
    assert set(database.corrupt) == {KEYS[3]}
    database.corrupt.clear()
    assert dict(database.get_many()) == without(KEYS[3])
    assert set(database.corrupt) == {KEYS[3]}
    assert database.missing(KEYS) == set()
    assert database.missing(KEYS, check=True) == {KEYS[3]}
    database[KEYS[3]] = FINGERPRINTS[KEYS[3]]
    assert database.corrupt == {}
    assert dict(database) == FINGERPRINTS


def test_the_other_copy_is_used(in_archive):
    database = in_archive
    for key in KEYS[:2]:
        database[key] = FINGERPRINTS[key]
    spoil(database, KEYS[0])
    damage_archived(database.path, KEYS[1])
    damage_archived(database.path, KEYS[2])
    database.close()
    assert database[KEYS[0]] == FINGERPRINTS[KEYS[0]]
    assert database[KEYS[1]] == FINGERPRINTS[KEYS[1]]
    with pytest.raises(CorruptEntryError):
        database[KEYS[2]]
    assert set(database.corrupt) == {KEYS[0], KEYS[2]}
    database.corrupt.clear()
    assert dict(database.get_many()) == without(KEYS[2])
    assert set(database.corrupt) == {KEYS[0], KEYS[2]}


PLACES = ("loose", "packs", "archive")
DAMAGE = {"loose": damage_loose, "packs": damage_packed, "archive": damage_archived}


def in_places(path, places):
    """Return a database with one entry in some places, and another one in each of them."""
    database = FingerprintDatabase.create(path)
    both = dict(zip(("archive", "packs", "loose"), KEYS[1:4], strict=True))
    for place, other in both.items():
        if place in places:
            content = {key: OURS[key] for key in (KEYS[0], other)}
            if place == "packs":
                put_packs(database.path, content)
            else:
                put(database.path, content)
        if place == "archive" and place in places:
            database.compress()
    return database, {KEYS[0], *(both[place] for place in places)}


SOME_PLACES = [some for n in (1, 2, 3) for some in itertools.combinations(PLACES, n)]


@pytest.mark.parametrize(
    ("places", "bad"),
    [
        (places, bad)
        for places in SOME_PLACES
        for n in range(len(places) + 1)
        for bad in itertools.combinations(places, n)
    ],
    ids=lambda some: "+".join(some) or "none",
)
class TestCopiesInSeveralPlaces:
    """Any of them may be damaged: a sound one is found, believed, kept and merged."""

    @pytest.fixture
    def damaged(self, path, places, bad):
        database, keys = in_places(path, places)
        for place in bad:
            DAMAGE[place](database.path, KEYS[0])
        database.close()
        assert set(database) == keys
        sound = {key: FINGERPRINTS[key] for key in keys}
        if len(bad) == len(places):
            del sound[KEYS[0]]
        return database, sound

    def test_reading(self, damaged, places, bad):
        database, sound = damaged
        assert KEYS[0] in database
        if KEYS[0] in sound:
            assert database[KEYS[0]] == FINGERPRINTS[KEYS[0]]
            assert database.get_bytes(KEYS[0]) == OURS[KEYS[0]] or "loose" in bad
        else:
            with pytest.raises(CorruptEntryError, match="compute it again"):
                database[KEYS[0]]
        before = bool(bad) and PLACES.index(bad[0]) == PLACES.index(places[0])
        assert set(database.corrupt) == ({KEYS[0]} if before else set())
        assert dict(database.get_many()) == sound
        assert database.missing(KEYS[:1]) == set()
        assert database.missing(KEYS[:1], check=True) == set(KEYS[:1]).difference(sound)

    def test_compress(self, damaged, places, bad):
        database, sound = damaged
        report = database.compress()
        if places == ("archive",):
            assert (report.entries, report.exit_code) == (2, 0)  # there was nothing to do
            return
        assert report.entries == len(sound)
        assert dict(database) == dict(database.get_many()) == sound
        assert names(database.path, "loose") == names(database.path, "packs") == []
        assert set(report.set_aside) == ({KEYS[0]} if "loose" in bad else set())
        # A damaged copy in a pack is not looked at where there is a sound loose one.
        is_read = "loose" in bad or "loose" not in places
        assert len(report.packs_aside) == ("packs" in bad and is_read)
        assert check(database.path).exit_code == 0
        assert (report.exit_code == 5) == bool(names(database.path, "damaged"))
        if KEYS[0] not in sound:
            assert report.exit_code == 5

    def test_check_and_repair(self, damaged, places, bad):
        database, sound = damaged
        report = check(database.path)
        assert report.exit_code == (4 if bad else 0)
        assert report.lost == ([] if KEYS[0] in sound else [KEYS[0]])
        assert report.sound == 2 * len(places) - len(bad)
        assert len(report.problems) == len(bad)
        before = dict(database.get_many())
        report = check(database.path, repair=True)
        assert (report.exit_code, report.remaining) == (5 if bad else 0, [])
        assert report.lost == ([] if KEYS[0] in sound else [KEYS[0]])
        assert dict(database.get_many()) == before == sound
        assert check(database.path).exit_code == 0

    def test_merge(self, damaged, tmp_path):
        database, sound = damaged
        files = {
            Path(folder, name): Path(folder, name).read_bytes()
            for folder, _, found in os.walk(database.path)
            for name in found
        }
        report = merge(tmp_path / "y-fingerprints", [database.path], assume_same=True)
        assert dict(FingerprintDatabase(tmp_path / "y-fingerprints")) == sound
        assert report.added == {database.path: len(sound)}
        assert set(report.corrupt) == {KEYS[0]}.difference(sound)
        assert all(file.read_bytes() == content for file, content in files.items())

    def test_merge_into_it(self, damaged, tmp_path):
        database, _ = damaged
        other = FingerprintDatabase(tmp_path / "y-fingerprints")
        fill_packs(other, OURS)
        merge(database.path, [other.path], assume_same=True)
        assert dict(database.get_many()) == FINGERPRINTS
        assert check(database.path).exit_code == 0

    def test_deletion(self, damaged):
        database, sound = damaged
        assert database.delete([KEYS[0]]) == 1
        sound.pop(KEYS[0], None)
        for view in (database, FingerprintDatabase(database.path)):
            assert set(view) == set(sound) and dict(view.get_many()) == sound
        database.compress()
        assert dict(database.get_many()) == sound
        assert check(database.path).exit_code == 0


def test_deleting_damaged_entries(in_archive):
    """A copy that is damaged elsewhere keeps nobody from deleting, and is not brought back."""
    spoil_one, alone = KEYS[0], KEYS[1]
    in_archive[spoil_one] = FINGERPRINTS[spoil_one]
    spoil(in_archive, spoil_one)
    damage_archived(in_archive.path, alone)
    in_archive.close()
    assert in_archive.delete([spoil_one, alone]) == 2
    assert in_archive.corrupt == {}
    assert dict(in_archive) == without(spoil_one, alone)
    assert check(in_archive.path).exit_code == 0


@pytest.mark.parametrize("place", ["loose", "archived"])
def test_entries_of_the_other_kind_are_never_believed_and_never_removed(tmp_path, place):
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
        if place == "archived":
            report = database.compress()
            assert report.entries == 2 and report.exit_code == 0
        with pytest.raises(CorruptEntryError, match="in a database of"):
            database[KEYS[1]]
        assert dict(database.get_many()) == {KEYS[0]: right[KEYS[0]]}
        assert database.missing(KEYS[:2], check=True) == {KEYS[1]}
        (problem,) = check(database.path, repair=True).problems
        assert problem.startswith(f"value: {KEYS[1]} ({place}) is whole, but ")
        assert database.get_bytes(KEYS[1]) == encode(wrong[KEYS[1]])
        database[KEYS[1]] = right[KEYS[1]]
        assert dict(database) == {key: right[key] for key in KEYS[:2]}


def test_other_kinds_take_both(tmp_path):
    database = FingerprintDatabase(tmp_path / "mine")
    database[KEYS[0]] = FINGERPRINTS[KEYS[0]]
    database[KEYS[1]] = PRIMES[KEYS[1]]
    assert dict(database) == {KEYS[0]: FINGERPRINTS[KEYS[0]], KEYS[1]: PRIMES[KEYS[1]]}


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


@pytest.mark.parametrize("code", [errno.EACCES, errno.ELOOP, errno.EIO])
@pytest.mark.parametrize("many", [False, True])
def test_one_loose_file_that_cannot_be_read(in_archive, monkeypatch, code, many):
    """Its archived copy is used if there is one, and everything else goes on."""
    database = in_archive
    keys = [*KEYS, *(make_key(number) for number in range(100, 150 if many else 102))]
    expected = {key: FINGERPRINTS[KEYS[n % N]] for n, key in enumerate(keys)}
    for key in (KEYS[0], *keys[N:]):
        database[key] = expected[key]
    both, alone = KEYS[0], keys[N]
    for key in (both, alone):
        refuse(monkeypatch, loose_path(database, key), code)
    sound = {key: entry for key, entry in expected.items() if key != alone}
    assert database[both] == FINGERPRINTS[both]
    assert database.get_bytes(both) == OURS[both]
    with pytest.raises(CorruptEntryError, match="compute it again") as caught:
        database[alone]
    assert loose_path(database, alone) in str(caught.value)
    with pytest.raises(CorruptEntryError, match="cannot read"):
        database.get_bytes(alone)
    assert database.corrupt.keys() == {both, alone}
    database.corrupt.clear()
    assert dict(database.get_many()) == sound
    assert dict(database.get_many(KEYS[:3])) == {key: FINGERPRINTS[key] for key in KEYS[:3]}
    assert database.corrupt.keys() == {both, alone}
    assert database.missing(keys, check=True) == {alone}
    assert alone in database
    target = database.path.replace("x-", "y-")
    report = merge(target, [database.path], assume_same=True)
    assert report.corrupt.keys() == {alone}
    assert dict(FingerprintDatabase(target)) == sound


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", SPECIAL)
def test_what_is_no_regular_file_is_no_entry(in_loose, tmp_path, what):
    database = in_loose
    elsewhere = tmp_path / "elsewhere"
    special = loose_path(database, KEYS[0])
    os.rename(special, elsewhere)
    make_special(what, special, elsewhere)
    others = without(KEYS[0])
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
def test_an_archived_entry_whose_loose_name_is_taken(in_archive, what):
    database = in_archive
    special = loose_path(database, KEYS[0])
    make_special(what, special, "/none")
    assert dict(database) == FINGERPRINTS
    del database[KEYS[0]]
    assert dict(database) == without(KEYS[0])
    assert os.path.lexists(special)
    if what == "directory":
        with pytest.raises(DatabaseError, match=special):
            database[KEYS[0]] = FINGERPRINTS[KEYS[0]]
        assert os.listdir(special) == ["note"]
    else:
        database[KEYS[0]] = FINGERPRINTS[KEYS[0]]
        assert dict(database) == FINGERPRINTS


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o027, 0o077])
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775, 0o2775, 0o3770])
def test_who_may_read_and_write_follows_the_directory(path, umask, mode):
    os.mkdir(f"{path}.ampdb")
    os.chmod(f"{path}.ampdb", mode)
    before = os.umask(umask)
    try:
        database = FingerprintDatabase(path)
        database.claim({"Rc": 6.5}, "aa")
        database.update(FINGERPRINTS)
        spoil(database, KEYS[3])
        database.compress()
        database[KEYS[3]] = FINGERPRINTS[KEYS[3]]
        with Lock(database.home):
            places = [(Path(folder), files) for folder, _, files in os.walk(database.path)]
            found = {Path(folder, name): None for folder, files in places for name in files}
            modes = {file.name: file.stat().st_mode & 0o7777 for file in found}
            folders = {folder.stat().st_mode & 0o7777 for folder, _ in places}
    finally:
        os.umask(before)
    assert {"archive.tar.gz", "descriptor.json", "lock", KEYS[3]} <= modes.keys()
    assert folders == {mode} and len(places) == 4
    damaged = Path(database.path, "damaged", KEYS[3])
    assert damaged in found
    assert set(modes.values()) == {mode & 0o666}


@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_an_archive_keeps_its_permissions(in_archive, umask):
    os.chmod(archive_path(in_archive), 0o640)
    in_archive[make_key(50)] = FINGERPRINTS[KEYS[0]]
    before = os.umask(umask)
    try:
        in_archive.compress()
        del in_archive[KEYS[0]]
    finally:
        os.umask(before)
    assert os.stat(archive_path(in_archive)).st_mode & 0o7777 == 0o640


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", SPECIAL)
def test_an_archive_that_is_no_regular_file(in_archive, tmp_path, what):
    os.rename(archive_path(in_archive), tmp_path / "elsewhere")
    make_special(what, archive_path(in_archive), tmp_path / "elsewhere")
    in_archive[make_key(50)] = FINGERPRINTS[KEYS[0]]
    for act in (lambda: in_archive[KEYS[0]], lambda: len(in_archive), in_archive.compress):
        with pytest.raises(DatabaseError, match=r"archive\.tar\.gz"):
            act()
    assert loose_keys(in_archive) == {make_key(50)}
    assert os.path.lexists(archive_path(in_archive))


@pytest.mark.parametrize("name", ["loose", "tmp", "damaged"])
def test_a_link_to_another_database_touches_nothing_there(in_loose, tmp_path, name):
    victim = FingerprintDatabase(tmp_path / "victim-fingerprints")
    fill_loose(victim, OURS)
    folder = f"{victim.path}/loose"
    spoil(in_loose, KEYS[0])
    set_age(f"{folder}/{KEYS[1]}")
    before = {entry.name: os.lstat(f"{folder}/{entry.name}") for entry in os.scandir(folder)}
    shutil.rmtree(f"{in_loose.path}/{name}", ignore_errors=True)
    os.symlink(folder, f"{in_loose.path}/{name}")
    hostile = FingerprintDatabase(in_loose.path)
    for act in (
        lambda: hostile.put(make_key(50), FINGERPRINTS[KEYS[0]]),
        hostile.compress,
        lambda: hostile.delete(KEYS),
        lambda: check(hostile.path, repair=True),
    ):
        try:
            act()
        except DatabaseError as error:
            assert f"{hostile.path}/{name}" in str(error)
    after = {entry.name: os.lstat(f"{folder}/{entry.name}") for entry in os.scandir(folder)}
    assert after == before


def test_a_sector_of_the_archive_that_cannot_be_read(in_archive, monkeypatch):
    database = in_archive
    begin, end = place_of(archive_path(database), KEYS[4])
    spoil_sector(monkeypatch, archive_path(database), begin + 9, end)
    assert dict(database.get_many()) == without(KEYS[4])
    with pytest.raises(CorruptEntryError, match="input/output error"):
        database[KEYS[4]]
    assert database.corrupt.keys() == {KEYS[4]}
    assert database.missing(KEYS, check=True) == {KEYS[4]}
    database[KEYS[4]] = FINGERPRINTS[KEYS[4]]
    assert dict(database) == FINGERPRINTS


def test_a_rewritten_archive_without_a_key_has_it_nowhere(in_archive):
    """Deleting leaves no mark behind that somebody would have to know."""
    del in_archive[KEYS[0]]
    with open_archive(archive_path(in_archive)) as archive:
        assert keys_of(archive) == sorted(KEYS[1:])
    assert names(in_archive.path) == ["archive.tar.gz", "loose", "tmp"]
