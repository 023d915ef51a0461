import os
import shutil
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from archive_samples import place_of, spoil_sector
from ase.build import bulk
from ase.io import write
from click.testing import CliRunner
from entry_samples import limited_memory, make_entries, make_key

from ampmpi import FingerprintDatabase, Gaussian, hash_image
from ampmpi.cli.check import command
from ampmpi.database import check as check_module
from ampmpi.database import deleted
from ampmpi.database.archive.deflate import MEMBER_HEADER
from ampmpi.database.archive.reader import Archive
from ampmpi.database.archive.tar import entry_record
from ampmpi.database.check import check
from ampmpi.database.lock import Lock
from ampmpi.database.manifest import Manifest
from ampmpi.database.merge import uncompress
from ampmpi.errors import DatabaseError


@pytest.fixture
def database(tmp_path):
    """Ten entries, six of them archived, and a manifest."""
    with FingerprintDatabase.create(tmp_path / "x-fingerprints.ampdb") as database:
        database.claim({"Gs": {"Cu": [{}] * 4}}, "d1", adopt=True)
        for number in range(10):
            database[make_key(number)] = make_entries(number, 3, {"Cu": 4})[0]
            if number == 5:
                database.compress()
        yield database


def age(path):
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))


def flip(path, position):
    raw = bytearray(Path(path).read_bytes())
    raw[position] ^= 64
    Path(path).write_bytes(raw)
    age(path)


def damage_archived(database, number):
    with Archive.open(database.layout.archive) as archive:
        row = archive.index.row(bytes.fromhex(make_key(number)))
        position = int(archive.index.offset[row]) + int(archive.index.packed[row]) // 2
    flip(database.layout.archive, position)


def damage_loose(database, number):
    flip(database.layout.loose_entry(make_key(number)), 60)


def test_a_clean_database(database):
    report = check(database.path)
    assert (report.problems, report.lost, report.sound, report.exit_code) == ([], [], 10, 0)
    assert check(database.path, repair=True).repairs == []


def test_a_damaged_loose_entry(database):
    damage_loose(database, 8)
    report = check(database.path)
    assert report.lost == [make_key(8)]
    assert report.problems[0].startswith(f"loose: {make_key(8)} is damaged")
    assert report.exit_code == 4
    report = check(database.path, repair=True)
    assert report.exit_code == 5
    assert os.listdir(database.layout.damaged) == [make_key(8)]
    assert len(database) == 9
    assert check(database.path).exit_code == 0


def test_a_damaged_archived_entry(database):
    damage_archived(database, 3)
    assert check(database.path).lost == [make_key(3)]
    report = check(database.path, repair=True)
    assert report.exit_code == 5
    assert report.lost == [make_key(3)]
    assert any("archive.tar.gz" in repair for repair in report.repairs)
    assert os.listdir(database.layout.damaged) == ["archive.tar.gz"]
    assert set(database) == {make_key(number) for number in range(10) if number != 3}
    assert check(database.path).exit_code == 0


def test_what_has_another_sound_copy_is_not_lost(database):
    entry = make_entries(3, 3, {"Cu": 4})[0]
    damage_archived(database, 3)
    database[make_key(3)] = entry
    report = check(database.path, repair=True)
    assert report.lost == []
    assert database[make_key(3)] == entry


def test_an_archive_cut_off(database):
    size = os.path.getsize(database.layout.archive)
    os.truncate(database.layout.archive, size * 2 // 3)
    report = check(database.path)
    assert "entries come before the damage" in " ".join(report.problems)
    report = check(database.path, repair=True)
    assert report.exit_code == 5
    assert check(database.path).exit_code == 0
    assert len(database) >= 6


def test_an_archive_that_is_noise(database):
    Path(database.layout.archive).write_bytes(os.urandom(5000))
    assert check(database.path).exit_code == 4
    assert check(database.path, repair=True).exit_code == 5
    assert len(database) == 4


def test_an_archive_that_lost_its_index(database):
    good = Path(database.layout.archive).read_bytes()
    with Archive.open(database.layout.archive) as archive:
        data_size = archive.footer.data_size
    flipped = bytearray(good)
    flipped[data_size + 40] ^= 1
    for wrong in (good[:-5], good[:data_size], bytes(flipped), good + b"garbage" * 100):
        Path(database.layout.archive).write_bytes(wrong)
        report = check(database.path)
        assert [problem[:32] for problem in report.problems] == ["index: it is missing or damaged,"]
        assert not any(note.startswith("index:") for note in report.notes)
        assert (report.sound, report.lost, report.exit_code) == (10, [], 4)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.remaining, report.lost) == (5, [], [])
    assert check(database.path).exit_code == 0
    assert len(database) == 10


def test_an_archive_that_another_tool_wrote_is_no_problem(database):
    import io
    import tarfile

    with Archive.open(database.layout.archive) as archive:
        entries = dict(archive.read_many())
    with tarfile.open(database.layout.archive, "w:gz") as tar:
        for key, data in entries.items():
            info = tarfile.TarInfo(key)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    report = check(database.path)
    assert (report.exit_code, report.problems, report.sound) == (0, [], 10)
    assert any("Amp or another tool wrote it" in note for note in report.notes)


def test_an_index_that_leaves_something_out(tmp_path):
    """A writer other than ours made a sound index of a part of the tar."""
    from archive_samples import Sink, make_data

    from ampmpi.database.archive.writer import ArchiveWriter, deflate_entry

    database = FingerprintDatabase.create(tmp_path / "x-fingerprints.ampdb")
    sink = Sink(Path(database.layout.archive))
    with sink.file:
        writer = ArchiveWriter(sink)
        for number, (key, content) in enumerate(make_data(3).items()):
            chunk = deflate_entry(key, content)
            if number == 1:
                writer._append(chunk.raw)
            else:
                writer.add(chunk)
        writer.close()
    report = check(database.path)
    assert report.problems == ["index: there are bytes in the tar that the index does not know"]
    assert check(database.path, repair=True).exit_code == 5
    assert check(database.path).exit_code == 0


def test_a_damaged_manifest(database):
    flip(database.layout.manifest, 30)
    report = check(database.path)
    assert report.problems[0].startswith("manifest:")
    assert check(database.path, repair=True).exit_code == 5
    assert database.manifest() is None
    assert os.listdir(database.layout.damaged) == ["descriptor.json"]


def test_entries_of_another_descriptor(database):
    database[make_key(20)] = make_entries(1, 3, {"Cu": 7})[0]
    age(database.layout.loose_entry(make_key(20)))
    report = check(database.path)
    assert "7 features for Cu, the descriptor has 4" in report.problems[0]
    database.compress()
    assert make_key(20) in check(database.path).lost
    assert check(database.path, repair=True).exit_code == 5
    assert make_key(20) not in database


def test_entries_of_an_element_that_the_descriptor_lacks(tmp_path):
    with FingerprintDatabase.create(tmp_path / "x-fingerprints.ampdb") as database:
        database.claim({"Gs": {"Ni": [{}] * 4}}, "d1", adopt=True)
        for number in range(6):
            element = "Cu" if number < 3 else "Ni"
            database[make_key(number)] = make_entries(number, 3, {element: 4})[0]
            age(database.layout.loose_entry(make_key(number)))
    report = check(database.path)
    assert report.exit_code == 4
    assert report.lost == sorted(make_key(number) for number in range(3))
    assert "features for Cu, for which the descriptor has none" in report.problems[0]


@pytest.mark.parametrize("archive", ["indexed", "without index", "none"])
@pytest.mark.parametrize("functions", [{"Cu": [{}] * 7}, {"Ni": [{}] * 4}])
def test_the_manifest_of_another_descriptor_takes_no_entry_along(database, archive, functions):
    """One small file that was copied into the wrong place is what makes way."""
    layout = database.layout
    if archive == "none":
        uncompress(layout.root)
    if archive == "without index":
        os.truncate(layout.archive, os.path.getsize(layout.archive) - 5)
    Path(layout.manifest).write_bytes(Manifest({"Gs": functions}, "d2").to_json())
    for name in os.listdir(layout.loose):
        age(layout.loose_entry(name))
    expected = dict(database.get_many())
    assert len(expected) == 10
    report = check(layout.root)
    assert (report.exit_code, report.lost, report.sound) == (4, [], 10)
    assert len(report.problems) == (2 if archive == "without index" else 1)
    assert report.problems[0].startswith(
        f"manifest: {layout.manifest} is that of another descriptor: 10 of"
    )
    report = check(layout.root, repair=True)
    assert (report.exit_code, report.lost) == (5, [])
    assert set(os.listdir(layout.damaged)) <= {"descriptor.json", "archive.tar.gz"}
    assert not os.path.exists(layout.manifest)
    assert dict(database.get_many()) == expected
    assert check(layout.root).exit_code == 0


def test_a_manifest_of_another_descriptor_that_cannot_be_moved(database, monkeypatch):
    Path(database.layout.manifest).write_bytes(Manifest({"Gs": {"Cu": [{}]}}, "d2").to_json())

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.lost) == (4, [])
    assert report.remaining
    assert len(database) == 10


def test_damaged_entries_are_found_beside_the_manifest_of_another_descriptor(database):
    damage_loose(database, 8)
    damage_archived(database, 3)
    layout = database.layout
    Path(layout.manifest).write_bytes(Manifest({"Gs": {"Cu": [{}] * 7}}, "d2").to_json())
    report = check(layout.root, repair=True)
    assert report.lost == sorted([make_key(3), make_key(8)])
    assert sorted(os.listdir(layout.damaged)) == sorted(
        ["archive.tar.gz", "descriptor.json", make_key(8)]
    )
    assert len(database) == 8


def test_entries_of_another_descriptor_in_an_archive_without_index(database):
    database[make_key(20)] = make_entries(1, 3, {"Cu": 7})[0]
    database.compress()
    Path(database.layout.archive).write_bytes(Path(database.layout.archive).read_bytes()[:-5])
    report = check(database.path, repair=True)
    assert (report.exit_code, report.lost) == (5, [make_key(20)])
    assert check(database.path).exit_code == 0


def meanwhile(action):
    """Return a progress that does something once, when the loose entries were read."""
    done = []

    def progress(step, total):
        if step == 5 and not done:
            done.append(action())

    return progress


def test_a_torn_entry_that_is_rewritten_during_the_check_is_let_be(database):
    good = Path(database.layout.loose_entry(make_key(6))).read_bytes()
    damage_loose(database, 6)
    rewrite = meanwhile(lambda: database.put_bytes(make_key(6), good))
    report = check(database.path, repair=True, progress=rewrite)
    assert (report.lost, report.remaining, report.repairs, report.exit_code) == ([], [], [], 5)
    assert not os.path.exists(database.layout.damaged)
    assert Path(database.layout.loose_entry(make_key(6))).read_bytes() == good


def test_a_torn_entry_that_is_removed_during_the_check(database):
    damage_loose(database, 6)
    remove = meanwhile(lambda: os.unlink(database.layout.loose_entry(make_key(6))))
    report = check(database.path, repair=True, progress=remove)
    assert (report.lost, report.remaining, report.repairs) == ([make_key(6)], [], [])
    assert any("removed during the check" in note for note in report.notes)


def test_a_rewritten_entry_that_was_already_moved_comes_back(database, monkeypatch):
    """It is written between the look at it and its move."""
    from ampmpi.database import aside

    path = database.layout.loose_entry(make_key(6))
    good = Path(path).read_bytes()
    damage_loose(database, 6)
    move = aside.move_as_read

    def late(*arguments):
        database.put_bytes(make_key(6), good)
        return move(*arguments)

    monkeypatch.setattr(aside, "move_as_read", late)
    report = check(database.path, repair=True)
    assert (report.lost, report.remaining, report.repairs) == ([], [], [])
    assert Path(path).read_bytes() == good
    assert os.listdir(database.layout.damaged) == []


def test_a_directory_that_cannot_be_written(database, monkeypatch):
    damage_loose(database, 8)
    flip(database.layout.manifest, 30)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.repairs) == (4, [])
    for words in (
        f"loose: {make_key(8)} cannot be moved to damaged/: Permission denied",
        "manifest: descriptor.json cannot be moved to damaged/: Permission denied",
    ):
        assert words in report.remaining
    assert report.lost == [make_key(8)]


def test_what_cannot_be_repaired_is_not_called_repaired(database, monkeypatch):
    read = check_module.read_loose

    def refuse(layout, key):
        if key == make_key(8):
            raise PermissionError(13, "Permission denied")
        return read(layout, key)

    monkeypatch.setattr(check_module, "read_loose", refuse)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.repairs) == (4, [])
    assert [line[:6] for line in report.remaining] == ["loose:"]
    assert report.lost == [make_key(8)]


@pytest.mark.parametrize("what", ["directory", "symlink"])
def test_what_is_no_entry_is_a_note(database, tmp_path, what):
    path = database.layout.loose_entry(make_key(8))
    os.rename(path, tmp_path / "elsewhere")
    os.mkdir(path) if what == "directory" else os.symlink(tmp_path / "elsewhere", path)
    report = check(database.path, repair=True)
    assert report.exit_code == 0
    assert any("1 names in loose/ are no entries" in note for note in report.notes)
    assert os.path.lexists(path)


def test_a_manifest_that_is_whole_but_of_no_use_stays(database, monkeypatch):
    from ampmpi.database import manifest

    monkeypatch.setattr(manifest, "VERSION", 2)
    later = Manifest({"Gs": {}}, "d1").to_json()
    monkeypatch.undo()
    Path(database.layout.manifest).write_bytes(later)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.repairs) == (4, [])
    assert "a later ampmpi wrote it" in report.remaining[0]
    assert Path(database.layout.manifest).read_bytes() == later


def test_a_manifest_that_may_not_be_read_stays(database, monkeypatch):
    real = os.open

    def refuse(path, *arguments, **options):
        if path == database.layout.manifest:
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.repairs) == (4, [])
    assert "you may not read it" in report.remaining[0]
    assert "write" not in report.remaining[0]
    assert os.path.exists(database.layout.manifest)


def test_a_lock_keeps_an_archive_from_repair_but_the_report_is_there(database):
    damage_loose(database, 8)
    damage_archived(database, 3)
    with Lock(database.layout):
        report = check(database.path, repair=True)
    assert report.exit_code == 6
    assert report.lost == [make_key(number) for number in sorted((3, 8), key=make_key)]
    assert any("is locked by" in line for line in report.remaining)
    assert f"loose: {make_key(8)} moved to" in report.repairs[0]


def test_what_is_unusual_is_noted(database):
    Path(database.layout.loose, "README").write_text("mine")
    del database[make_key(1)]
    Path(database.layout.lock).write_text("?")
    notes = " ".join(check(database.path).notes)
    for word in ("no entries", "deleted: 1", "lock: held by an unknown process"):
        assert word in notes
    assert check(database.path).exit_code == 0


def test_loose_is_missing(database):
    shutil.rmtree(database.layout.loose)
    assert check(database.path).problems[0].startswith("loose: the directory")
    assert check(database.path, repair=True).exit_code == 5
    assert os.listdir(database.layout.loose) == []


def test_a_young_damaged_entry_may_still_be_in_the_making(database):
    Path(database.layout.loose_entry(make_key(30))).write_bytes(b"(lp0")
    report = check(database.path, repair=True)
    assert (report.exit_code, report.lost) == (0, [])
    assert "still being written" in report.notes[-1]
    assert os.path.exists(database.layout.loose_entry(make_key(30)))


def test_an_entry_of_the_future_is_not_young(database):
    path = database.layout.loose_entry(make_key(8))
    damage_loose(database, 8)
    soon = time.time() + 30
    os.utime(path, (soon, soon))
    assert check(database.path).problems == []
    os.utime(path, (soon + 3600, soon + 3600))
    assert check(database.path, repair=True).exit_code == 5
    assert os.listdir(database.layout.damaged) == [make_key(8)]


def test_no_database(tmp_path):
    with pytest.raises(DatabaseError):
        check(tmp_path / "x")


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_command_line(database, tmp_path):
    done = run(database.path)
    assert (done.exit_code, "clean; 10 sound copies" in done.output) == (0, True)
    damage_loose(database, 7)
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
        assert run(*options, "--repair").exit_code == 5
        assert key not in database


def test_a_sector_of_the_archive_that_cannot_be_read(database, monkeypatch):
    begin, end = place_of(database.layout.archive, make_key(3))
    spoil_sector(monkeypatch, database.layout.archive, begin, end)
    report = check(database.path)
    assert report.lost == [make_key(3)] and report.exit_code == 4
    assert "cannot be read" in report.problems[0]
    report = check(database.path, repair=True)
    assert report.lost == [make_key(3)] and report.exit_code == 5
    assert os.listdir(database.layout.damaged) == ["archive.tar.gz"]
    assert set(database) == {make_key(number) for number in range(10) if number != 3}
    assert check(database.path).exit_code == 0


def index_rows(database):
    """Offset and packed size of each archived entry by key, in the file's order."""
    with Archive.open(database.layout.archive) as archive:
        index = archive.index
        rows = zip(archive.keys(), index.offset.tolist(), index.packed.tolist(), strict=True)
        return {key: (offset, packed) for key, offset, packed in sorted(rows, key=lambda r: r[1])}


def change_archive(database, change):
    path = Path(database.layout.archive)
    path.write_bytes(change(path.read_bytes()))


def check_repaired(database, lost):
    """Whether a repair says exactly what was lost, and keeps all else."""
    before = {make_key(n): make_entries(n, 3, {"Cu": 4})[0] for n in range(10)}
    report = check(database.path)
    assert (report.exit_code, report.lost) == (4, sorted(lost))
    report = check(database.path, repair=True)
    assert report.exit_code == 5, report
    assert report.lost == sorted(lost)
    assert dict(database.get_many()) == {key: before[key] for key in before if key not in lost}
    assert os.listdir(database.layout.damaged) == ["archive.tar.gz"]
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


def test_damage_in_the_checksum_of_the_tar_loses_nothing(database):
    with Archive.open(database.layout.archive) as archive:
        position = archive.footer.data_size - 6
    flip(database.layout.archive, position)
    check_repaired(database, [])


@pytest.mark.parametrize("change", [
    lambda raw, middle: b"junk" + raw,
    lambda raw, middle: raw[4:],
    lambda raw, middle: raw[10:],
    lambda raw, middle: raw[:middle] + b"junk" + raw[middle:],
])  # fmt: skip
def test_bytes_too_many_or_too_few_lose_nothing_that_is_there(database, change):
    middle = list(index_rows(database).values())[3][0]
    change_archive(database, lambda raw: change(raw, middle))
    with FingerprintDatabase(database.path) as again:
        assert len(dict(again.get_many())) == 10
    check_repaired(database, [])


def test_what_was_cut_out_of_an_archive_is_named(database):
    rows = index_rows(database)
    keys = list(rows)
    start = rows[keys[1]][0] + 50
    change_archive(database, lambda raw: raw[:start] + raw[start + 300 :])
    check_repaired(database, keys[1:3])


def test_several_cuts(database):
    """The index finds those before the first and behind the last, the rest is searched for."""
    rows = index_rows(database)
    keys = list(rows)

    def change(raw):
        for key in (keys[4], keys[1]):
            start = rows[key][0] + 50
            raw = raw[:start] + raw[start + 20 :]
        return raw

    change_archive(database, change)
    check_repaired(database, [keys[1], keys[4]])


def test_records_that_changed_places_are_found(database):
    rows = index_rows(database)
    (a, a_size), (b, b_size) = list(rows.values())[1], list(rows.values())[4]

    def change(raw):
        return raw[:a] + raw[b : b + b_size] + raw[a + a_size : b] + raw[a : a + a_size] + (
            raw[b + b_size :]
        )  # fmt: skip

    change_archive(database, change)
    check_repaired(database, [])


def test_a_compress_mends_an_archive_whose_frame_is_damaged(database):
    rows = index_rows(database)
    change_archive(database, lambda raw: b"?" + raw[1:200] + raw[220:])
    lost = [key for key, (offset, packed) in rows.items() if offset < 220 < 200 + packed + offset]
    report = database.compress()
    assert report.lost.keys() == set(lost[:1])
    assert report.copy is not None
    assert check(database.path).exit_code == 0
    assert database.compress().copy is None


def test_deleted_entries_are_not_rescued(database):
    del database[make_key(2)]
    change_archive(database, lambda raw: b"junk" + raw)
    report = check(database.path, repair=True)
    assert (report.exit_code, report.lost) == (5, [])
    assert make_key(2) not in database
    assert len(database) == 9


def test_a_deleted_entry_is_not_lost(database):
    damage_archived(database, 3)
    deleted.mark(database.layout, make_key(3))
    assert check(database.path).lost == []
    assert check(database.path, repair=True).lost == []


def test_what_was_deleted_and_written_again_is_lost_with_its_loose_copy(database):
    del database[make_key(3)]
    database[make_key(3)] = make_entries(3, 3, {"Cu": 4})[0]
    damage_loose(database, 3)
    assert check(database.path).lost == [make_key(3)]
    assert check(database.path, repair=True).lost == [make_key(3)]
    assert make_key(3) not in database


def test_repair_of_a_bomb_takes_little_memory(database):
    """No index, and a header that claims gigabytes before hundreds of megabytes of zeros."""
    header = bytearray(entry_record(make_key(77), b""))
    header[124:135] = b"%011o" % (7 * 10**9)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = [bomb.compress(bytes(header)), *(bomb.compress(bytes(10**7)) for _ in range(20))]
    packed.append(bomb.flush(zlib.Z_FULL_FLUSH))
    (first, *_), end = index_rows(database).values(), len(MEMBER_HEADER)
    assert first[0] == end
    with Archive.open(database.layout.archive) as archive:
        size = archive.footer.data_size
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
    from ampmpi.cli import check as module

    database, images = sampled
    compared = []
    monkeypatch.setattr(module, "_difference", lambda entry, _: compared.append(entry))

    def chosen(*options):
        compared.clear()
        done = run(database.path, "--sample", 2, "--images", images, *options)
        return {entry.values.tobytes() for entry in compared}, done.output

    several = [chosen() for _ in range(20)]
    assert all(len(found) == 2 for found, _ in several)
    assert len({frozenset(found) for found, _ in several}) > 1
    found, output = several[0]
    assert chosen("--seed", output.partition("--seed ")[2].partition(")")[0])[0] == found


def test_sample_blames_the_manifest_where_most_entries_differ(sampled):
    """A manifest of as many functions, copied into the wrong place: no entry is deleted."""
    database, images = sampled
    other = Gaussian(elements=["Cu"], cutoff=5.0).resolve(["Cu"])
    manifest = Manifest(other.parameters, other.digest).to_json()
    Path(database.layout.manifest).write_bytes(manifest)
    before = dict(database.get_many())
    done = run(database.path, "--sample", 3, "--images", images, "--repair")
    assert "is that of another descriptor, or another program" in done.stdout
    assert dict(database.get_many()) == before
    assert Path(database.layout.damaged, "descriptor.json").read_bytes() == manifest
    assert done.exit_code == 5


def test_what_a_repair_did_is_told_when_nothing_can_be_sampled(sampled):
    database, images = sampled
    os.unlink(database.layout.manifest)
    key = min(database)
    flip(database.layout.loose_entry(key), 60)
    done = run(database.path, "--repair", "--sample", 2, "--images", images)
    assert done.exit_code == 4
    assert f"lost: {key} must be computed again" in done.stdout
    assert "does not say of which descriptor it is" in done.stderr


def test_images_that_are_missing_stop_before_the_repair(sampled):
    database, _ = sampled
    key = min(database)
    flip(database.layout.loose_entry(key), 60)
    done = run(database.path, "--repair", "--sample", 2, "--images", "nowhere.traj")
    assert done.exit_code != 0
    assert not os.path.exists(database.layout.damaged)


def test_a_manifest_that_was_edited(sampled):
    """Its checksum was made right, but the digest is still that of the entries."""
    database, _ = sampled
    assert run(database.path).exit_code == 0
    said = database.manifest()
    cutoff = {"name": "Cosine", "kwargs": {"Rc": 5.0}}
    edited = Manifest({**said.parameters, "cutoff": cutoff}, said.digest)
    Path(database.layout.manifest).write_bytes(edited.to_json())
    done = run(database.path)
    assert done.exit_code == 4
    assert "cannot be believed: its digest is that of other parameters" in done.stdout
    assert run(database.path, "--repair").exit_code == 5
    assert os.listdir(database.layout.damaged) == ["descriptor.json"]
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
    from ampmpi.cli.compress import command as compress

    assert CliRunner().invoke(compress, [database.path, "-p", "1"]).exit_code == 0
    if what == "archived":
        damage_archived(database, 3)
    database[make_key(40)] = make_entries(40, 3, {"Cu": 4})[0]
    if what == "loose":
        damage_loose(database, 40)
    done = CliRunner().invoke(compress, [database.path, "-p", "1"])
    assert done.exit_code == 5, done.output
    assert "damaged" in done.stderr
    assert check(database.path).exit_code == 0
