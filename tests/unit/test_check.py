import os
import shutil
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from archive_samples import (
    ARCHIVES,
    INDEXED,
    Sink,
    damage_archived,
    damage_loose,
    flip,
    make_data,
    make_database,
    names,
    open_archive,
    place_of,
    put,
    records_of,
    spoil_sector,
)
from ase.build import bulk
from ase.io import write
from click.testing import CliRunner
from entry_samples import limited_memory, make_entries, make_key, refuse

from ampmpi import FingerprintDatabase, Gaussian, hash_image
from ampmpi.cli import check as cli_check
from ampmpi.cli import compress as cli_compress
from ampmpi.database import manifest
from ampmpi.database.archive.deflate import MEMBER_HEADER
from ampmpi.database.archive.tar import entry_record
from ampmpi.database.archive.writer import ArchiveWriter, pack
from ampmpi.database.check import check
from ampmpi.database.layout import Home
from ampmpi.database.lock import Lock
from ampmpi.database.manifest import Manifest
from ampmpi.entries.codec import encode
from ampmpi.errors import DatabaseError
from ampmpi.files.folder import Folder

ENTRIES = {make_key(number): make_entries(number, 3, {"Cu": 4})[0] for number in range(10)}


@pytest.fixture
def database(tmp_path):
    """Ten entries, six of them archived, and a manifest."""
    with FingerprintDatabase.create(tmp_path / "x-fingerprints.ampdb") as database:
        database.claim({"Gs": {"Cu": [{}] * 4}}, "d1", adopt=True)
        for number, (key, entry) in enumerate(ENTRIES.items()):
            database[key] = entry
            if number == 5:
                database.compress()
        yield database


@pytest.fixture
def impatient(monkeypatch):
    """Do not wait whether a damaged manifest is still being written."""
    monkeypatch.setattr(manifest, "_PATIENCE", 0.0)


@pytest.fixture
def place(database):
    """Its directory."""
    return Path(database.path)


@pytest.fixture
def archive(place):
    """Its archive."""
    return place / "archive.tar.gz"


def write_manifest(place, functions):
    (place / "descriptor.json").write_bytes(Manifest({"Gs": functions}, "d2").to_json())


def contents(place):
    """Return the bytes of all entries that can be read."""
    with FingerprintDatabase(place) as database:
        return {key: database.get_bytes(key) for key in database}


def data_size(archive):
    """Return where the index of an archive begins."""
    with open_archive(archive) as opened:
        return opened.footer.data_size


def refuse_renames(monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refused)


def test_a_clean_database(database):
    report = check(database.path)
    assert (report.problems, report.lost, report.sound, report.exit_code) == ([], [], 10, 0)
    assert check(database.path, repair=True).repairs == []


def test_a_damaged_loose_entry(database, place):
    damage_loose(place, make_key(8))
    report = check(database.path)
    assert report.lost == [make_key(8)]
    assert report.problems[0].startswith(f"loose: {make_key(8)} is damaged")
    assert report.exit_code == 4
    report = check(database.path, repair=True)
    assert report.exit_code == 5
    assert names(place, "damaged") == [make_key(8)]
    assert len(database) == 9
    assert check(database.path).exit_code == 0


def test_what_has_another_sound_copy_is_not_lost(database, place):
    entry = make_entries(3, 3, {"Cu": 4})[0]
    damage_archived(place, make_key(3))
    database[make_key(3)] = entry
    report = check(database.path, repair=True)
    assert report.lost == []
    assert database[make_key(3)] == entry


@pytest.mark.parametrize("kind", ARCHIVES)
class TestEveryKindOfArchive:
    """Whoever wrote it, what is sound is read, what is damaged is named, and repaired."""

    @pytest.fixture
    def data(self):
        return make_data(8)

    @pytest.fixture
    def place(self, tmp_path, kind, data):
        place = make_database(tmp_path / "x-fingerprints.ampdb")
        ARCHIVES[kind](place / "archive.tar.gz", data)
        return place

    def test_whole(self, place, kind, data):
        report = check(place)
        assert (report.sound, report.lost) == (8, [])
        if kind in ("without footer", "damaged index"):
            assert [line[:32] for line in report.problems] == ["index: it is missing or damaged,"]
            report = check(place, repair=True)
            assert (report.exit_code, report.remaining, report.lost) == (5, [], [])
        else:
            by_others = [line for line in report.notes if "Amp or another tool wrote it" in line]
            assert len(by_others) == (kind not in INDEXED)
        assert check(place).exit_code == 0
        assert contents(place) == data

    def test_one_damaged_entry(self, place, archive, kind, data):
        key = make_key(3)
        if kind in INDEXED:
            damage_archived(place, key)
        else:
            os.unlink(archive)
            ARCHIVES[kind](place / "again", data | {key: data[key][:70] + b"?" + data[key][71:]})
            os.rename(place / "again", archive)
        report = check(place)
        assert (report.lost, report.exit_code, report.sound) == ([key], 4, 7)
        assert report.problems[0].startswith(f"archive: {key}")
        report = check(place, repair=True)
        assert (report.lost, report.exit_code) == ([key], 5)
        assert names(place, "damaged") == ["archive.tar.gz"]
        del data[key]
        assert contents(place) == data
        assert check(place).exit_code == 0

    def test_cut_off(self, place, archive, data):
        os.truncate(archive, os.path.getsize(archive) * 2 // 3)
        report = check(place)
        assert "entries come before the damage" in " ".join(report.problems)
        before = contents(place)
        assert before.items() <= data.items()
        report = check(place, repair=True)
        assert report.exit_code == 5
        assert check(place).exit_code == 0
        assert before.items() <= contents(place).items() <= data.items()


def test_an_archive_that_is_noise(database, archive):
    archive.write_bytes(os.urandom(5000))
    assert check(database.path).exit_code == 4
    assert check(database.path, repair=True).exit_code == 5
    assert len(database) == 4


def test_an_archive_that_lost_its_index(database, archive):
    good, size = archive.read_bytes(), data_size(archive)
    for wrong in (good[:-5], good[:size], good + b"garbage" * 100):
        archive.write_bytes(wrong)
        report = check(database.path)
        assert [problem[:32] for problem in report.problems] == ["index: it is missing or damaged,"]
        assert not any(note.startswith("index:") for note in report.notes)
        assert (report.sound, report.lost, report.exit_code) == (10, [], 4)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.remaining, report.lost) == (5, [], [])
    assert check(database.path).exit_code == 0
    assert len(database) == 10


def test_an_index_that_leaves_something_out(tmp_path):
    """A writer other than ours made a sound index of a part of the tar."""
    place = make_database(tmp_path / "x-fingerprints.ampdb")
    sink = Sink(place / "archive.tar.gz")
    with sink.file:
        writer = ArchiveWriter(sink)
        for number, entry in enumerate(make_data(3).items()):
            parcel = pack([entry])
            if number == 1:
                writer._append(parcel.raw, parcel.checksum)
            else:
                writer.add(parcel)
        writer.close()
    report = check(place)
    assert report.problems == ["index: there are bytes in the tar that the index does not know"]
    assert check(place, repair=True).exit_code == 5
    assert check(place).exit_code == 0


def test_a_damaged_manifest(database, place, impatient):
    flip(place / "descriptor.json", 30)
    report = check(database.path)
    assert report.problems[0].startswith("manifest:")
    assert check(database.path, repair=True).exit_code == 5
    assert database.manifest() is None
    assert names(place, "damaged") == ["descriptor.json"]


def whole_but(report, keys, reason):
    """Whether a report says of these entries, and no other ones, that they do not fit."""
    said = {line.split()[1]: line for line in report.problems if line.startswith("value:")}
    return said.keys() == set(keys) and all(
        "is whole, but" in line and reason in line for line in said.values()
    )


@pytest.mark.parametrize("where", ["loose", "archived", "archived without index"])
def test_a_repair_never_removes_a_whole_entry(database, place, archive, where):
    """Neither one of another descriptor, or of an element it lacks, nor one of another kind."""
    other = {
        "7 features for Cu, where the descriptor has 4": make_entries(1, 3, {"Cu": 7})[0],
        "features for Ni, for which the descriptor has none": make_entries(1, 3, {"Ni": 4})[0],
        "primes": make_entries(2, 3, {"Cu": 4})[1],
    }
    data = {make_key(20 + n): encode(entry) for n, entry in enumerate(other.values())}
    put(place, data)
    if where != "loose":
        database.compress()
    if where == "archived without index":
        os.truncate(archive, os.path.getsize(archive) - 5)
    for repair in (False, True, False):
        report = check(database.path, repair=repair)
        assert (report.lost, report.sound, report.exit_code) == ([], 10, 4)
        for key, reason in zip(data, other, strict=True):
            (line,) = (line for line in report.problems if key in line)
            place_word = "loose" if where == "loose" else "archived"
            assert line.startswith(f"value: {key} ({place_word}) is whole, but")
            assert reason in line
    assert len(database) == 13
    for key, content in data.items():
        assert database.get_bytes(key) == content


@pytest.mark.parametrize("functions", [{"Cu": [{}] * 7}, {"Ni": [{}] * 4}])
@pytest.mark.parametrize("without_index", [False, True])
def test_the_manifest_of_another_descriptor_takes_no_entry_along(
    database, place, archive, functions, without_index
):
    """One small file that was copied into the wrong place."""
    if without_index:
        os.truncate(archive, os.path.getsize(archive) - 5)
    write_manifest(place, functions)
    expected = dict(database.get_many())
    assert len(expected) == 10
    for repair in (False, True):
        report = check(place, repair=repair)
        assert (report.exit_code, report.lost) == (4, [])
        assert whole_but(report, expected, "features for Cu")
    assert dict(database.get_many()) == expected
    assert (place / "descriptor.json").exists()


def test_damaged_entries_are_found_beside_the_manifest_of_another_descriptor(database, place):
    damage_loose(place, make_key(8))
    damage_archived(place, make_key(3))
    write_manifest(place, {"Cu": [{}] * 7})
    report = check(place, repair=True)
    assert report.lost == sorted([make_key(3), make_key(8)])
    assert names(place, "damaged") == sorted(["archive.tar.gz", make_key(8)])
    assert len(database) == 8


def meanwhile(action):
    """Return a progress that does something once, when the loose entries were read."""
    done = []

    def progress(step, total):
        if step == 5 and not done:
            done.append(action())

    return progress


def test_a_torn_entry_that_is_rewritten_during_the_check_is_left_alone(database, place):
    path = place / "loose" / make_key(6)
    good = path.read_bytes()
    damage_loose(place, make_key(6))
    rewrite = meanwhile(lambda: database.put_bytes(make_key(6), good))
    report = check(database.path, repair=True, progress=rewrite)
    assert (report.lost, report.remaining, report.repairs, report.exit_code) == ([], [], [], 5)
    assert names(place, "damaged") == []
    assert path.read_bytes() == good


def test_a_torn_entry_that_is_removed_during_the_check(database, place):
    damage_loose(place, make_key(6))
    remove = meanwhile(lambda: os.unlink(place / "loose" / make_key(6)))
    report = check(database.path, repair=True, progress=remove)
    assert (report.lost, report.remaining, report.repairs) == ([make_key(6)], [], [])
    assert any("removed during the check" in note for note in report.notes)


def test_a_rewritten_entry_that_was_already_moved_comes_back(database, place, monkeypatch):
    """It is written between the look at it and its move."""
    path = place / "loose" / make_key(6)
    good = path.read_bytes()
    damage_loose(place, make_key(6))
    move = Folder.rename

    def late(folder, name, *rest):
        if name == make_key(6):
            monkeypatch.undo()
            database.put_bytes(make_key(6), good)
        return move(folder, name, *rest)

    monkeypatch.setattr(Folder, "rename", late)
    report = check(database.path, repair=True)
    assert (report.lost, report.remaining, report.repairs) == ([], [], [])
    assert path.read_bytes() == good
    assert names(place, "damaged") == []


def test_a_directory_that_cannot_be_written(database, place, monkeypatch, impatient):
    damage_loose(place, make_key(8))
    flip(place / "descriptor.json", 30)
    refuse_renames(monkeypatch)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.repairs) == (4, [])
    for words in (
        f"loose: {make_key(8)} cannot be moved to damaged/: Permission denied",
        "manifest: descriptor.json cannot be moved to damaged/: Permission denied",
    ):
        assert words in report.remaining
    assert report.lost == [make_key(8)]


def test_what_cannot_be_repaired_is_not_called_repaired(database, place, monkeypatch):
    refuse(monkeypatch, str(place / "loose" / make_key(8)), 13)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.repairs) == (4, [])
    assert [line[:6] for line in report.remaining] == ["loose:"]
    assert report.lost == [make_key(8)]


@pytest.mark.parametrize("what", ["directory", "symlink", "pipe"])
def test_what_is_no_entry_is_a_note(database, place, tmp_path, what):
    path = place / "loose" / make_key(8)
    os.rename(path, tmp_path / "elsewhere")
    if what == "directory":
        os.mkdir(path)
    elif what == "pipe":
        os.mkfifo(path)
    else:
        os.symlink(tmp_path / "elsewhere", path)
    report = check(database.path, repair=True)
    assert report.exit_code == 0
    assert any("1 names in loose/ are not entries" in note for note in report.notes)
    assert os.path.lexists(path)


def test_a_manifest_that_is_whole_but_of_no_use_stays(database, place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "VERSION", 2)
        later = Manifest({"Gs": {}}, "d1").to_json()
    (place / "descriptor.json").write_bytes(later)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.repairs) == (4, [])
    assert "a later ampmpi wrote it" in report.remaining[0]
    assert (place / "descriptor.json").read_bytes() == later


def test_a_manifest_that_may_not_be_read_stays(database, place, monkeypatch):
    refuse(monkeypatch, str(place / "descriptor.json"), 13)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.repairs) == (4, [])
    assert "you may not read it" in report.remaining[0]
    assert "write" not in report.remaining[0]
    assert (place / "descriptor.json").exists()


def test_a_lock_keeps_an_archive_from_repair_but_the_report_is_there(database, place):
    damage_loose(place, make_key(8))
    damage_archived(place, make_key(3))
    with Lock(Home.open(place)):
        report = check(database.path, repair=True)
    assert report.exit_code == 6
    assert report.lost == [make_key(number) for number in sorted((3, 8), key=make_key)]
    assert any("is locked by" in line for line in report.remaining)
    assert f"loose: {make_key(8)} moved to" in report.repairs[0]


def test_what_is_unusual_is_noted(database, place):
    (place / "loose" / "README").write_text("mine")
    (place / "lock").write_text("?")
    notes = " ".join(check(database.path).notes)
    for word in ("not entries", "lock: held by an unknown process"):
        assert word in notes
    assert check(database.path).exit_code == 0


def test_marks_of_deleted_entries_of_an_earlier_version_are_ignored(database, place):
    (place / "deleted").mkdir()
    (place / "deleted" / make_key(3)).write_bytes(b"")
    assert (check(place).exit_code, len(database)) == (0, 10)
    database.compress()
    assert (check(place).exit_code, len(database)) == (0, 10)


def test_loose_is_missing(database, place):
    shutil.rmtree(place / "loose")
    assert check(database.path).problems[0].startswith("loose: the directory")
    assert check(database.path, repair=True).exit_code == 5
    assert os.listdir(place / "loose") == []


@pytest.mark.parametrize("name", ["loose", "tmp", "damaged"])
def test_a_repair_follows_no_link(database, place, tmp_path, name):
    damage_loose(place, make_key(8))
    elsewhere = tmp_path / "elsewhere"
    if (place / name).exists():
        os.rename(place / name, elsewhere)
    else:
        elsewhere.mkdir()
    os.symlink(elsewhere, place / name)
    content = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    result = run(place, "--repair")
    assert result.exit_code == 4
    assert name in result.output + result.stderr
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == content


def test_a_young_damaged_entry_may_still_be_in_the_making(database, place):
    put(place, {make_key(30): b"(lp0"}, age=0)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.lost) == (0, [])
    assert "still being written" in report.notes[-1]
    assert (place / "loose" / make_key(30)).exists()


def test_an_entry_of_the_future_is_not_young(database, place):
    path = place / "loose" / make_key(8)
    damage_loose(place, make_key(8))
    soon = time.time() + 30
    os.utime(path, (soon, soon))
    assert check(database.path).problems == []
    os.utime(path, (soon + 3600, soon + 3600))
    assert check(database.path, repair=True).exit_code == 5
    assert names(place, "damaged") == [make_key(8)]


def test_no_database(tmp_path):
    with pytest.raises(DatabaseError):
        check(tmp_path / "x")


def run(*arguments):
    return CliRunner().invoke(cli_check.command, [str(argument) for argument in arguments])


def test_command_line(database, tmp_path):
    done = run(database.path)
    assert (done.exit_code, "clean; 10 sound copies" in done.output) == (0, True)
    damage_loose(database.path, make_key(7))
    assert run(database.path).exit_code == 4
    done = run(database.path, tmp_path / "nowhere.ampdb")
    assert done.exit_code == 4
    assert "there is no database" in done.stderr
    done = run(database.path, "--repair")
    assert done.exit_code == 5
    assert f"lost: {make_key(7)}" in done.output
    assert run(database.path).exit_code == 0


@pytest.mark.parametrize("kind", ["fingerprints", "fingerprint-primes"])
def test_sample_computes_again(tmp_path, kind):
    images = [bulk("Cu", cubic=True) for _ in range(5)]
    for seed, image in enumerate(images):
        image.rattle(0.1, seed=seed)
    write(tmp_path / "images.traj", images)
    descriptor = Gaussian(elements=["Cu"]).resolve(["Cu"])
    number = ["fingerprints", "fingerprint-primes"].index(kind)
    with FingerprintDatabase.create(tmp_path / f"x-{kind}.ampdb") as database:
        database.claim(descriptor.parameters, descriptor.digest)
        for image in images:
            database[hash_image(image)] = descriptor.calculate(image)[number]
        options = (database.path, "--sample", 5, "--images", tmp_path / "images.traj")
        done = run(*options)
        assert done.exit_code == 0, done.output
        assert "5 entries computed again and compared (5 asked for, 5 of 5 images" in done.output
        key = hash_image(images[2])
        entry = database[key]
        values = entry.values.copy()
        values.flat[np.argmax(np.abs(values))] *= 1.001
        object.__setattr__(entry, "values", values)
        database[key] = entry
        done = run(*options)
        assert done.exit_code == 4
        assert f"value: {key}: it differs by 1.0e-03" in done.output
        done = run(*options, "--repair")
        assert done.exit_code == 4
        assert "a repair removes no whole entry" in done.output
        assert database[key] == entry
        del database[key]
        assert run(*options).exit_code == 0


def test_a_sector_of_the_archive_that_cannot_be_read(database, archive, monkeypatch):
    begin, end = place_of(archive, make_key(3))
    spoil_sector(monkeypatch, archive, begin, end)
    report = check(database.path)
    assert report.lost == [make_key(3)] and report.exit_code == 4
    assert "cannot be read" in report.problems[0]
    report = check(database.path, repair=True)
    assert report.lost == [make_key(3)] and report.exit_code == 5
    assert names(database.path, "damaged") == ["archive.tar.gz"]
    assert set(database) == {make_key(number) for number in range(10) if number != 3}
    assert check(database.path).exit_code == 0


def change_archive(database, change):
    path = Path(database.path, "archive.tar.gz")
    path.write_bytes(change(path.read_bytes()))


def check_repaired(database, lost):
    """Whether a repair says exactly what was lost, and keeps all else."""
    report = check(database.path)
    assert (report.exit_code, report.lost) == (4, sorted(lost))
    report = check(database.path, repair=True)
    assert report.exit_code == 5, report
    assert report.lost == sorted(lost)
    assert dict(database.get_many()) == {key: ENTRIES[key] for key in ENTRIES if key not in lost}
    assert names(database.path, "damaged") == ["archive.tar.gz"]
    assert check(database.path).exit_code == 0


@pytest.mark.parametrize("position", [0, 1, 2, 3, 9])
def test_damage_in_the_first_bytes_of_an_archive_loses_nothing(database, position):
    """The index finds every entry, for a job as well as for a repair."""
    change_archive(
        database, lambda raw: raw[:position] + bytes([raw[position] ^ 4]) + raw[position + 1 :]
    )
    with FingerprintDatabase(database.path) as again:
        assert len(dict(again.get_many())) == 10
        assert again[make_key(0)] == make_entries(0, 3, {"Cu": 4})[0]
    if position < 4:
        assert "its first ten bytes" in " ".join(check(database.path).problems)
        check_repaired(database, [])


def test_damage_in_the_checksum_of_the_tar_loses_nothing(database, archive):
    flip(archive, data_size(archive) - 6)
    check_repaired(database, [])


@pytest.mark.parametrize(("first", "change"), [
    (0, lambda raw, middle: b"junk" + raw),
    (0, lambda raw, middle: raw[4:]),
    (0, lambda raw, middle: raw[10:]),
    (3, lambda raw, middle: raw[:middle] + b"junk" + raw[middle:]),
    (3, lambda raw, middle: raw[:middle - 4] + raw[middle:]),
])  # fmt: skip
def test_bytes_too_many_or_too_few_cost_one_record(database, archive, first, change):
    """The one before which no mark is sound any more; a job reads what it finds, and all right."""
    records = records_of(archive)
    change_archive(database, lambda raw: change(raw, list(records.values())[3][0]))
    with FingerprintDatabase(database.path) as again:
        found = dict(again.get_many())
    assert found == {key: ENTRIES[key] for key in found}
    check_repaired(database, [list(records)[first]])


def test_what_was_cut_out_of_an_archive_is_named(database, archive):
    rows = records_of(archive)
    keys = list(rows)
    start = rows[keys[1]][0] + 50
    change_archive(database, lambda raw: raw[:start] + raw[start + 300 :])
    check_repaired(database, keys[1:3])


def test_several_cuts(database, archive):
    """The index finds those before the first and behind the last, the rest is searched for."""
    rows = records_of(archive)
    keys = list(rows)

    def change(raw):
        for key in (keys[4], keys[1]):
            start = rows[key][0] + 50
            raw = raw[:start] + raw[start + 20 :]
        return raw

    change_archive(database, change)
    check_repaired(database, [keys[1], keys[4]])


def test_a_compress_mends_an_archive_whose_frame_is_damaged(database, archive):
    rows = records_of(archive)
    change_archive(database, lambda raw: b"?" + raw[1:200] + raw[220:])
    lost = [key for key, (offset, packed) in rows.items() if offset < 220 < 200 + packed + offset]
    report = database.compress()
    assert report.lost.keys() == set(lost[:1])
    assert report.copy is not None
    assert check(database.path).exit_code == 0
    assert database.compress().copy is None


def test_repair_of_a_bomb_takes_little_memory(database, archive):
    """No index, and a header that claims gigabytes before hundreds of megabytes of zeros."""
    header = bytearray(entry_record(make_key(77), b""))
    header[124:135] = b"%011o" % (7 * 10**9)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = [bomb.compress(bytes(header)), *(bomb.compress(bytes(10**7)) for _ in range(20))]
    packed.append(bomb.flush(zlib.Z_FULL_FLUSH))
    (first, *_), end = records_of(archive).values(), len(MEMBER_HEADER)
    assert first[0] == end
    size = data_size(archive)
    change_archive(database, lambda raw: raw[:end] + b"".join(packed) + raw[end : size - 4])
    with limited_memory(150):
        report = check(database.path, repair=True)
    assert report.exit_code == 5
    assert len(database) == 10


@pytest.fixture
def sampled(tmp_path):
    """Of 40 images in a file, the entries of five."""
    images = [bulk("Cu", cubic=True) for _ in range(40)]
    for seed, image in enumerate(images):
        image.rattle(0.1, seed=seed)
    write(tmp_path / "images.traj", images)
    descriptor = Gaussian(elements=["Cu"]).resolve(["Cu"])
    with FingerprintDatabase.create(tmp_path / "x-fingerprints.ampdb") as database:
        database.claim(descriptor.parameters, descriptor.digest)
        for image in images[::8]:
            database[hash_image(image)] = descriptor.fingerprint(image)
        yield database, tmp_path / "images.traj"


def test_sample_is_taken_of_images_that_have_an_entry(sampled):
    database, images = sampled
    done = run(database.path, "--sample", 3, "--images", images)
    assert done.exit_code == 0, done.output
    assert "3 entries computed again and compared (3 asked for, " in done.output
    done = run(database.path, "--sample", 9, "--images", images)
    assert "5 entries computed again and compared (9 asked for, 40 of 40" in done.output


def test_sample_of_images_without_entries_is_an_error(sampled, tmp_path):
    database, _ = sampled
    write(tmp_path / "others.traj", [bulk("Cu", a=4.1)])
    done = run(database.path, "--sample", 1, "--images", tmp_path / "others.traj")
    assert done.exit_code == 2
    assert "none of the 1 image has an entry" in done.stderr
    assert "clean; 5 sound copies" in done.stdout


def test_sample_differs_from_run_to_run(sampled, monkeypatch):
    database, images = sampled
    compared = []
    monkeypatch.setattr(cli_check, "disagreement", lambda entry, _: compared.append(entry))

    def chosen(*options):
        compared.clear()
        done = run(database.path, "--sample", 2, "--images", images, *options)
        return {entry.values.tobytes() for entry in compared}, done.output

    several = [chosen() for _ in range(20)]
    assert all(len(found) == 2 for found, _ in several)
    assert len({frozenset(found) for found, _ in several}) > 1
    found, output = several[0]
    assert chosen("--seed", output.partition("--seed ")[2].partition(")")[0])[0] == found


def test_sample_of_a_manifest_of_other_functions_names_entries_and_removes_nothing(sampled):
    """One of as many functions, copied into the wrong place."""
    database, images = sampled
    other = Gaussian(elements=["Cu"], cutoff=5.0).resolve(["Cu"])
    content = Manifest(other.parameters, other.digest).to_json()
    Path(database.path, "descriptor.json").write_bytes(content)
    before = dict(database.get_many())
    done = run(database.path, "--sample", 3, "--images", images, "--repair")
    assert done.exit_code == 4
    assert done.stdout.count("problem: value: ") == 3
    assert "or descriptor.json if that is wrong" in done.stdout
    assert dict(database.get_many()) == before
    assert Path(database.path, "descriptor.json").read_bytes() == content


def test_what_a_repair_did_is_told_when_nothing_can_be_sampled(sampled):
    database, images = sampled
    os.unlink(f"{database.path}/descriptor.json")
    key = min(database)
    damage_loose(database.path, key)
    done = run(database.path, "--repair", "--sample", 2, "--images", images)
    assert done.exit_code == 4
    assert f"lost: {key} must be computed again" in done.stdout
    assert "does not say which descriptor made it" in done.stderr


def test_images_that_are_missing_stop_before_the_repair(sampled):
    database, _ = sampled
    key = min(database)
    damage_loose(database.path, key)
    done = run(database.path, "--repair", "--sample", 2, "--images", "nowhere.traj")
    assert done.exit_code != 0
    assert names(database.path, "damaged") == []


def test_a_manifest_that_was_edited(sampled):
    """Its checksum was made right, but the digest is still that of the entries."""
    database, _ = sampled
    assert run(database.path).exit_code == 0
    said = database.manifest()
    cutoff = {"name": "Cosine", "kwargs": {"Rc": 5.0}}
    edited = Manifest({**said.parameters, "cutoff": cutoff}, said.digest)
    Path(database.path, "descriptor.json").write_bytes(edited.to_json())
    done = run(database.path)
    assert done.exit_code == 4
    assert "cannot be believed: its digest is that of other parameters" in done.stdout
    assert run(database.path, "--repair").exit_code == 5
    assert names(database.path, "damaged") == ["descriptor.json"]
    assert len(database) == 5


@pytest.mark.parametrize(
    "arguments",
    [
        {"elements": ["Cu"]},
        {"elements": ["Pt", "Cu"], "cutoff": 5},
        {"cutoff": {"name": "Polynomial", "kwargs": {"Rc": 6, "gamma": 4}}, "elements": ["O"]},
        {"Gs": [{"type": "G2", "element": "Cu", "eta": 1}], "elements": ["Cu"]},
    ],
)
def test_no_manifest_of_ours_is_doubted(tmp_path, arguments):
    descriptor = Gaussian(**arguments).resolve(["Cu"])
    with FingerprintDatabase.create(tmp_path / "x-fingerprints.ampdb") as database:
        database.claim(descriptor.parameters, descriptor.digest)
    done = run(database.path)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("what", ["archived", "loose"])
def test_a_compress_that_finds_damage_says_so_by_its_exit_code(database, what):
    compress = cli_compress.command
    assert CliRunner().invoke(compress, [database.path, "-p", "1"]).exit_code == 0
    if what == "archived":
        damage_archived(database.path, make_key(3))
    database[make_key(40)] = make_entries(40, 3, {"Cu": 4})[0]
    if what == "loose":
        damage_loose(database.path, make_key(40))
    done = CliRunner().invoke(compress, [database.path, "-p", "1"])
    assert done.exit_code == 5, done.output
    assert "damaged" in done.stderr
    assert check(database.path).exit_code == 0
