"""Archives that the disk cannot read everywhere behave like damaged ones."""

import os
import pickle

import pytest
from archive_samples import ARCHIVES, keys_of, names, open_archive, place_of, spoil_sector
from entry_samples import make_entries, make_key

from ampmpi import FingerprintDatabase
from ampmpi.database.archive.reader import Archive, StreamedArchive
from ampmpi.database.check import check
from ampmpi.database.compress import compress
from ampmpi.database.merge import merge
from ampmpi.entries.codec import encode
from ampmpi.errors import CorruptEntryError

COUNT = 12
ENTRIES = {make_key(n): make_entries(n, 40, {"Cu": 12})[0] for n in range(COUNT)}
MIDDLE = make_key(COUNT // 2)


def archive_of(database):
    return f"{database.path}/archive.tar.gz"


@pytest.fixture(params=["amp", "ours"])
def database(request, tmp_path, monkeypatch):
    """Entries in an archive without an index, a sector of whose middle cannot be read."""
    with FingerprintDatabase.create(tmp_path / "x-fingerprints.ampdb") as database:
        database.claim({"Gs": {"Cu": [{}] * 12}}, "d1", adopt=True)
        archive = archive_of(database)
        if request.param == "amp":
            content = {key: pickle.dumps(entry.to_amp(), 0) for key, entry in ENTRIES.items()}
            ARCHIVES["Amp"](archive, content)
            middle = os.path.getsize(archive) // 2
        else:
            content = {key: encode(entry) for key, entry in ENTRIES.items()}
            ARCHIVES["indexed"](archive, content)
            middle = sum(place_of(archive, MIDDLE)) // 2
            os.truncate(archive, os.path.getsize(archive) - 5)
        spoil_sector(monkeypatch, archive, middle, middle + 512)
        database.is_ours = request.param == "ours"
        yield database


def saved(database):
    """Return what must be saved: of ours all but what lies on the sector, of Amp's the first."""
    if database.is_ours:
        return ENTRIES.keys() - {MIDDLE}
    return {make_key(n) for n in range(COUNT // 3)}


def test_the_entries_before_it_are_used_and_the_others_computed(database):
    found = dict(database.get_many())
    assert len(found) >= 3 and found.items() <= ENTRIES.items()
    assert database.missing(ENTRIES, check=True) == ENTRIES.keys() - found.keys() == {
        key for key in ENTRIES if key not in database
    }  # fmt: skip
    for key in database.missing(ENTRIES):
        with pytest.raises(KeyError):
            database[key]
        database[key] = ENTRIES[key]
    assert dict(database.get_many()) == ENTRIES
    report = compress(database.path)
    assert report.entries == COUNT and report.copy is not None
    assert dict(database.get_many()) == ENTRIES


def test_check_repairs_it_as_any_damaged_archive(database):
    report = check(database.path)
    assert report.exit_code == 4
    (problem,) = report.problems
    assert "cannot be read: the disk reports an input/output error" in problem
    assert "what comes after it may be lost" in problem
    assert ("that can be saved" in problem) == database.is_ours
    repaired = check(database.path, repair=True)
    assert (repaired.exit_code, repaired.remaining) == (5, [])
    assert repaired.lost == report.lost == []
    found = dict(database.get_many())
    assert found.keys() >= saved(database) and found.items() <= ENTRIES.items()
    assert names(database.path, "damaged") == ["archive.tar.gz"]
    assert check(database.path).exit_code == 0


def test_a_compress_keeps_the_archive(database):
    inode = os.stat(archive_of(database)).st_ino
    before = dict(database.get_many())
    report = compress(database.path)
    assert report.copy == f"{database.path}/damaged/archive.tar.gz"
    assert os.stat(report.copy).st_ino == inode
    found = dict(database.get_many())
    assert before.items() <= found.items() <= ENTRIES.items()
    assert found.keys() >= saved(database)


def test_as_a_source_of_a_merge_it_gives_what_can_be_read(database, tmp_path):
    before, wanted = dict(database.get_many()), saved(database)
    merge(tmp_path / "y-fingerprints.ampdb", [database.path])
    with FingerprintDatabase(tmp_path / "y-fingerprints.ampdb") as target:
        found = dict(target.get_many())
    assert before.items() <= found.items() <= ENTRIES.items()
    assert found.keys() >= wanted


@pytest.fixture
def late(database, monkeypatch):
    """Let the sector turn bad when the archive has been opened."""
    spoilt = os.pread
    monkeypatch.undo()
    whole = os.pread
    real = Archive.open

    def opened(folder, name):
        monkeypatch.setattr(os, "pread", whole)
        archive = real(folder, name)
        monkeypatch.setattr(os, "pread", spoilt)
        return archive

    monkeypatch.setattr(Archive, "open", staticmethod(opened))
    with open_archive(archive_of(database)) as archive:
        assert isinstance(archive, StreamedArchive) and keys_of(archive) == sorted(ENTRIES)
    return database


def test_what_turns_bad_during_a_compress_is_named_and_kept(late):
    report = compress(late.path)
    found = dict(late.get_many())
    assert found.keys() >= saved(late) and found.items() <= ENTRIES.items()
    assert report.lost.keys() == ENTRIES.keys() - found.keys() != set()
    assert report.copy is not None
    assert all("cannot be read" in reason for reason in report.lost.values())


def test_what_turns_bad_during_a_check_is_named(late):
    report = check(late.path)
    repaired = check(late.path, repair=True)
    assert repaired.exit_code == 5
    found = dict(late.get_many())
    assert report.lost == repaired.lost == sorted(ENTRIES.keys() - found.keys()) != []


def test_what_turned_bad_since_it_was_opened_is_damaged(late):
    found = dict(late.get_many())
    assert found.items() <= ENTRIES.items()
    assert late.corrupt.keys() == ENTRIES.keys() - found.keys() != set()
    with pytest.raises(CorruptEntryError, match="cannot be read: the disk reports"):
        late[min(late.corrupt)]


@pytest.mark.parametrize("place", ["first bytes", "checksum of the tar", "footer"])
def test_a_bad_sector_in_the_frame_loses_nothing(tmp_path, monkeypatch, place):
    with FingerprintDatabase.create(tmp_path / "x-fingerprints.ampdb") as database:
        path = archive_of(database)
        footer = ARCHIVES["indexed"](path, {key: encode(e) for key, e in ENTRIES.items()})
        end, size = footer.data_size, os.path.getsize(path)
        bad = {"first bytes": (0, 4), "checksum of the tar": (end - 8, end - 4)}
        spoil_sector(monkeypatch, path, *bad.get(place, (size - 40, size)))
        assert database.missing(ENTRIES, check=True) == set()
        report = check(database.path)
        assert (report.exit_code, report.lost, len(report.problems)) == (4, [], 1)
        assert check(database.path, repair=True).exit_code == 5
        assert dict(database.get_many()) == ENTRIES
