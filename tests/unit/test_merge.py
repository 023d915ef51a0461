import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from archive_samples import (
    ARCHIVES,
    archived,
    damage_archived,
    make_data,
    make_database,
    names,
    put,
)
from click.testing import CliRunner
from entry_samples import make_entries, make_key

from ampmpi import FingerprintDatabase
from ampmpi.cli import compress as compress_cli
from ampmpi.cli import info as info_cli
from ampmpi.cli import merge as merge_cli
from ampmpi.database.compress import _Run
from ampmpi.database.layout import Home
from ampmpi.database.lock import Lock
from ampmpi.database.merge import merge
from ampmpi.errors import DatabaseError, DescriptorMismatchError, InputError

ENTRIES = {make_key(number): make_entries(number, 3, {"Cu": 4})[0] for number in range(12)}
KEYS = list(ENTRIES)


def make(path, keys, digest="d1", archived=0):
    with FingerprintDatabase.create(path) as database:
        if digest is not None:
            database.claim({"Rc": digest}, digest, adopt=True)
        for number, key in enumerate(keys):
            database[key] = ENTRIES[key]
            if number + 1 == archived:
                database.compress()
    return database


def test_merge(tmp_path):
    target = make(tmp_path / "t-fingerprints", KEYS[:4], archived=2)
    one = make(tmp_path / "a-fingerprints", KEYS[2:8], archived=3)
    two = make(tmp_path / "b-fingerprints", KEYS[6:])
    report = merge(target.path, [one.path, two.path])
    assert report.added == {one.path: 4, two.path: 4}
    assert dict(target.get_many()) == ENTRIES
    assert names(target.path, "loose") == []
    assert dict(one.get_many()) == {key: ENTRIES[key] for key in KEYS[2:8]}
    assert merge(target.path, [one.path, two.path]).added == {one.path: 0, two.path: 0}


def test_into_a_new_database(tmp_path):
    one = make(tmp_path / "a-fingerprints", KEYS, archived=5)
    merge(tmp_path / "t-fingerprints", [one.path])
    target = FingerprintDatabase(tmp_path / "t-fingerprints")
    assert dict(target.get_many()) == ENTRIES
    assert target.manifest() == one.manifest()


def test_the_targets_own_entries_count(tmp_path):
    target = make(tmp_path / "t-fingerprints", KEYS[:2])
    one = make(tmp_path / "a-fingerprints", KEYS[:2])
    target[KEYS[0]] = ENTRIES[KEYS[9]]
    merge(target.path, [one.path])
    assert target[KEYS[0]] == ENTRIES[KEYS[9]]


def test_another_descriptor_is_refused(tmp_path):
    target = make(tmp_path / "t-fingerprints", KEYS[:2])
    other = make(tmp_path / "a-fingerprints", KEYS[2:], digest="d2")
    with pytest.raises(DescriptorMismatchError, match="Rc is 'd1'"):
        merge(target.path, [other.path])
    assert set(target) == set(KEYS[:2])


def test_an_unknown_descriptor_is_refused_unless_the_user_knows(tmp_path):
    target = make(tmp_path / "t-fingerprints", KEYS[:2])
    other = make(tmp_path / "a-fingerprints", KEYS[2:], digest=None)
    with pytest.raises(DescriptorMismatchError, match="--assume-same"):
        merge(target.path, [other.path])
    merge(target.path, [other.path], assume_same=True)
    assert dict(target.get_many()) == ENTRIES


def test_another_kind_and_itself_are_refused(tmp_path):
    target = make(tmp_path / "t-fingerprints", KEYS[:2])
    FingerprintDatabase.create(tmp_path / "a-fingerprint-primes")
    with pytest.raises(InputError, match="primes"):
        merge(target.path, [tmp_path / "a-fingerprint-primes"])
    with pytest.raises(InputError, match="target itself"):
        merge(target.path, [target.path])
    with pytest.raises(DatabaseError, match="no database"):
        merge(target.path, [tmp_path / "nowhere"])


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_of_every_kind_are_merged(tmp_path, kind, side):
    data = make_data(8)
    keys = list(data)
    one, other = (make_database(tmp_path / f"{name}-fingerprints") for name in "ab")
    ARCHIVES[kind](one / "archive.tar.gz", {key: data[key] for key in keys[:5]})
    put(other, {key: data[key] for key in keys[3:]})
    before = (one / "archive.tar.gz").read_bytes()
    target, source = (other, one) if side == "source" else (one, other)
    report = merge(target, [source], assume_same=True)
    assert report.added == {str(source): 3}
    assert (report.corrupt, report.damaged, report.compress.exit_code) == ({}, {}, 0)
    assert archived(target) == data
    if side == "source":
        assert (one / "archive.tar.gz").read_bytes() == before
    else:
        assert names(other, "loose") == sorted(keys[3:])


def test_a_damaged_entry_is_not_taken_over(tmp_path):
    target = make(tmp_path / "t-fingerprints", KEYS[:2])
    one = make(tmp_path / "a-fingerprints", KEYS[2:])
    put(one.path, {KEYS[5]: b"torn"})
    report = merge(target.path, [one.path])
    assert list(report.corrupt) == [KEYS[5]]
    assert set(target) == set(KEYS) - {KEYS[5]}


def test_other_kinds_are_merged_byte_for_byte(tmp_path):
    contents = {"a": b"anything", "b": b"(lp0\n."}
    for name, data in contents.items():
        put(make_database(tmp_path / f"{name}-neighborlists"), {make_key(name): data})
    merge(tmp_path / "a-neighborlists", [tmp_path / "b-neighborlists"])
    with FingerprintDatabase(tmp_path / "a-neighborlists") as database:
        assert {key: database.get_bytes(key) for key in database} == {
            make_key(name): data for name, data in contents.items()
        }


@pytest.mark.parametrize("archived", [False, True])
def test_what_a_target_of_another_kind_has_stays(tmp_path, archived):
    paths = [tmp_path / f"{name}-neighborlists" for name in "ab"]
    for path, data in zip(paths, (b"(lp0\n.", b"other"), strict=True):
        with FingerprintDatabase.create(path) as database:
            database.put_bytes(KEYS[0], data)
    if archived:
        FingerprintDatabase(paths[0]).compress()
    assert list(merge(*paths[:1], paths[1:]).added.values()) == [0]
    assert FingerprintDatabase(paths[0]).get_bytes(KEYS[0]) == b"(lp0\n."


def cut(database, where, lose_index):
    """Take 40 bytes out of an archive at some part of it, and perhaps its end."""
    archive = Path(database.path, "archive.tar.gz")
    content = bytearray(archive.read_bytes())
    at = int(len(content) * where)
    del content[at : at + 40]
    if lose_index:
        del content[-500:]
    archive.write_bytes(content)


@pytest.mark.parametrize("lose_index", [False, True])
@pytest.mark.parametrize("where", [0.1, 0.3, 0.5])
def test_what_a_damaged_archive_holds_is_saved(tmp_path, where, lose_index):
    one = make(tmp_path / "a-fingerprints", KEYS, archived=len(KEYS))
    cut(one, where, lose_index)
    shown = CliRunner().invoke(info_cli.command, [one.path])
    assert f"the archive of {one.path} is damaged" in shown.stderr
    target = FingerprintDatabase(tmp_path / "t-fingerprints")
    done = CliRunner().invoke(merge_cli.command, [target.path, one.path])
    assert done.exit_code == 4
    assert f"the archive of {one.path} is damaged" in done.stderr
    saved = dict(target.get_many())
    assert len(saved) >= len(KEYS) - 2
    assert saved == {key: ENTRIES[key] for key in saved}
    assert names(one.path) == ["archive.tar.gz", "descriptor.json", "loose", "tmp"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["archive.tar.gz", "descriptor.json", "lock"])
def test_a_pipe_keeps_nobody_waiting(tmp_path, name):
    one = make(tmp_path / "a-fingerprints", KEYS[:2], digest=None)
    os.mkfifo(Path(one.path, name))
    expected = "is locked by an unknown process" if name == "lock" else "no regular file"
    with pytest.raises(DatabaseError, match=expected):
        merge(one.path, [make(tmp_path / "b-fingerprints", KEYS[2:]).path], assume_same=True)
    assert names(one.path, "loose") == sorted(KEYS[:2])


def run(command, *arguments, **options):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], **options)


def test_commands(tmp_path):
    make(tmp_path / "a-fingerprints", KEYS[:5])
    make(tmp_path / "b-fingerprints", KEYS[3:])
    done = run(merge_cli.command, tmp_path / "a-fingerprints", tmp_path / "b-fingerprints")
    assert (done.exit_code, "7 entries added" in done.output) == (0, True), done.output
    done = run(info_cli.command, tmp_path / "a-fingerprints")
    assert "12 (0 loose, 12 archived)" in done.output


@pytest.mark.parametrize(
    ("target", "made"),
    [
        ("new", "new-fingerprints.ampdb"),
        ("new.ampdb", "new-fingerprints.ampdb"),
        ("new-fingerprints.ampdb", "new-fingerprints.ampdb"),
    ],
)
def test_a_merge_into_a_new_name_says_what_it_made(tmp_path, target, made):
    one = make(tmp_path / "a-fingerprints", KEYS[:5])
    two = make(tmp_path / "b-fingerprints.ampdb", KEYS[3:])
    done = run(merge_cli.command, tmp_path / target, one.path, two.path)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == f"{tmp_path / made}: made"
    assert lines[1:3] == [f"{one.path}: 5 entries added", f"{two.path}: 7 entries added"]
    assert dict(FingerprintDatabase(tmp_path / made)) == ENTRIES
    again = run(merge_cli.command, tmp_path / target, one.path)
    assert again.output.splitlines()[0] == f"{one.path}: 0 entries added"
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["a-fingerprints.ampdb", "b-fingerprints.ampdb", made]
    )


def test_primes_do_not_get_into_a_database_of_fingerprints(tmp_path):
    make(tmp_path / "a-fingerprints", KEYS[:5])
    FingerprintDatabase.create(tmp_path / "b-fingerprint-primes")
    done = run(
        merge_cli.command,
        *(tmp_path / name for name in ("new", "a-fingerprints", "b-fingerprint-primes")),
    )
    assert isinstance(done.exception, InputError)
    assert not any(name.startswith("new") for name in os.listdir(tmp_path))


def test_compress_below_a_directory(tmp_path):
    for name in ("a", "sub/b", "sub/deep/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make(tmp_path / f"{name}-fingerprints", KEYS[:3])
    (tmp_path / "no.ampdb").write_text("a file")
    done = run(compress_cli.command, "-r", "--dry-run", tmp_path)
    assert done.output.count("3 entries would go into the archive") == 3
    done = run(compress_cli.command, "-r", tmp_path / "sub", tmp_path / "a-fingerprints.ampdb")
    last = done.output.splitlines()[-1]
    for words in ("Total", "9 entries archived", "before", "after", "6 inodes freed"):
        assert words in last
    assert run(compress_cli.command, "-r", tmp_path / "no.ampdb").exit_code != 0
    (tmp_path / "empty").mkdir()
    done = run(compress_cli.command, "-q", "-r", tmp_path / "empty")
    assert isinstance(done.exception, InputError)
    assert re.search(r"there is no \.ampdb .*: nothing was done", str(done.exception))


@pytest.mark.parametrize("path", [".", "loose/..", ".."])
def test_compress_below_the_working_directory(tmp_path, monkeypatch, path):
    database = make(tmp_path / "a-fingerprints", KEYS[:3])
    monkeypatch.chdir(database.path)
    done = run(compress_cli.command, "-r", path)
    assert (done.exit_code, "3 entries archived" in done.output) == (0, True), done.output


def test_compress_through_a_link(tmp_path):
    make(tmp_path / "a-fingerprints", KEYS[:3])
    (tmp_path / "links").mkdir()
    os.symlink("../a-fingerprints.ampdb", tmp_path / "links" / "b-fingerprints.ampdb")
    done = run(compress_cli.command, "-r", tmp_path / "links")
    assert (done.exit_code, "3 entries archived" in done.output) == (0, True), done.output


def test_a_database_and_a_link_to_it_are_one(tmp_path):
    database = make(tmp_path / "x-fingerprints", KEYS[:3])
    os.symlink(database.path, tmp_path / "a-fingerprints.ampdb")
    done = run(compress_cli.command, "-r", tmp_path)
    assert done.exit_code == 0
    assert done.stdout.count("archived") == 1
    done = run(compress_cli.command, "-r", "--delete", "--yes", tmp_path)
    assert done.exit_code == 0
    assert os.listdir(tmp_path) == ["a-fingerprints.ampdb"]


def test_compress_by_label(tmp_path):
    mine, other = (make(tmp_path / f"{name}-fingerprints", KEYS[:3]) for name in ("a", "a-2"))
    done = run(compress_cli.command, "--label", tmp_path / "a")
    assert (done.exit_code, "3 entries archived" in done.output) == (0, True), done.output
    assert (mine.info().loose, other.info().loose) == (0, 3)
    with pytest.raises(DatabaseError, match="there is neither"):
        run(compress_cli.command, "--label", tmp_path / "b", catch_exceptions=False)
    assert run(compress_cli.command).exit_code == 2


def test_delete_asks(tmp_path):
    database = make(tmp_path / "a-fingerprints", KEYS[:3])
    assert run(compress_cli.command, "--delete", database.path).exit_code != 0
    done = run(compress_cli.command, "-r", "--delete", tmp_path, input="no\n")
    assert done.exit_code == 1
    assert database.path in done.output
    assert os.path.exists(database.path)
    done = run(compress_cli.command, "-r", "--delete", tmp_path, input="yes\n")
    assert done.exit_code == 0
    assert not os.path.exists(database.path)
    database = make(tmp_path / "a-fingerprints", KEYS[:3])
    run(compress_cli.command, "-r", "--delete", "--yes", tmp_path)
    assert not os.path.exists(database.path)


def test_a_locked_database_does_not_stop_the_others(tmp_path):
    locked = make(tmp_path / "a-fingerprints", KEYS[:3])
    other = make(tmp_path / "b-fingerprints", KEYS[:3])
    Path(locked.path, "lock").write_text("?")
    done = run(compress_cli.command, locked.path, other.path)
    assert done.exit_code == 6
    assert "--break-lock" in done.stderr
    assert other.info().archived == 3
    assert run(compress_cli.command, "--break-lock", locked.path).exit_code == 0
    assert locked.info().archived == 3


def test_a_damaged_loose_copy_makes_way_for_a_sources(tmp_path):
    target = make(tmp_path / "t-fingerprints", KEYS[:4], archived=2)
    path = Path(target.path, "loose", KEYS[3])
    put(target.path, {KEYS[3]: path.read_bytes()[:-9]})
    one = make(tmp_path / "a-fingerprints", KEYS[2:6])
    result = CliRunner().invoke(merge_cli.command, [target.path, one.path])
    assert result.exit_code == 5, result.output
    assert f"loose entry {KEYS[3]} is damaged" in result.stderr
    assert names(target.path, "loose") == []
    assert dict(FingerprintDatabase(target.path).get_many()) == {k: ENTRIES[k] for k in KEYS[:6]}


def test_a_damaged_entry_that_cannot_be_set_aside_is_an_error(tmp_path):
    target = make(tmp_path / "t-fingerprints", KEYS[:4])
    path = Path(target.path, "loose", KEYS[3])
    put(target.path, {KEYS[3]: path.read_bytes()[:-9]})
    Path(target.path, "damaged").write_text("no directory")
    result = CliRunner().invoke(compress_cli.command, [target.path])
    assert result.exit_code == 4, result.output
    assert f"loose entry {KEYS[3]} stays where it is: " in result.stderr
    assert "it cannot be set aside" in result.stderr
    assert path.exists()
    assert set(FingerprintDatabase(target.path)) >= set(KEYS[:3])


def test_into_a_damaged_archive(tmp_path):
    target = make(tmp_path / "t-fingerprints", KEYS[:5], archived=5)
    one = make(tmp_path / "a-fingerprints", KEYS[4:9], archived=5)
    damage_archived(target.path, KEYS[1])
    damage_archived(target.path, KEYS[4])
    report = merge(target.path, [one.path])
    assert report.compress.lost.keys() == {KEYS[1]}
    assert report.added == {one.path: 5}
    assert dict(target.get_many()) == {key: ENTRIES[key] for key in (KEYS[0], *KEYS[2:9])}


def test_into_an_archive_that_is_replaced_meanwhile(tmp_path, monkeypatch):
    target = make(tmp_path / "t-fingerprints", KEYS[:4], archived=4)
    one = make(tmp_path / "a-fingerprints", KEYS[4:9], archived=5)
    original, times = _Run._finish, []

    def finish(*arguments):
        times.append(1)
        if len(times) == 1:
            os.utime(Path(target.path, "archive.tar.gz"))
        return original(*arguments)

    monkeypatch.setattr(_Run, "_finish", finish)
    report = merge(target.path, [one.path])
    assert len(times) == 2
    assert report.added == {one.path: 5}
    assert dict(target.get_many()) == {key: ENTRIES[key] for key in KEYS[:9]}


def test_what_is_refused_makes_no_target(tmp_path):
    one = make(tmp_path / "a-fingerprints", KEYS[:2])
    other = make(tmp_path / "b-fingerprints", KEYS[2:], digest="d2")
    with pytest.raises(DescriptorMismatchError):
        merge(tmp_path / "t-fingerprints", [one.path, other.path])
    assert not os.path.exists(tmp_path / "t-fingerprints.ampdb")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_a_command_that_waits(tmp_path, number):
    database = make(tmp_path / "a-fingerprints", KEYS[:3])
    with Lock(Home.open(database.path)):
        program = Path(sys.executable).with_name("amp-compress")
        command = [program, database.path, "--wait", "200"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            while not any("lock" in name for name in names(database.path, "tmp")):
                assert process.poll() is None
            process.send_signal(number)
            assert process.wait(20) == (1 if number == signal.SIGINT else 128 + number)
            assert b"Traceback" not in process.stderr.read()
    database.compress()
    assert names(database.path, "tmp") == []
