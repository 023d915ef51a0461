"""Other programs read our archives; databases that Amp left broken are used."""

import gzip
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile

import pytest
from samples import make_entry, make_key, put_old

from ampmpi import FingerprintDatabase
from ampmpi.database.packs import PackWriter
from ampmpi.entries.codec import encode

ENTRIES = {make_key(number): encode(make_entry(number)) for number in range(60)}
READERS = {
    "GNU tar": ("tar", "tar -xzf {archive}"),
    "GNU tar through a pipe": ("tar", "cat {archive} | tar -xz"),
    "bsdtar": ("bsdtar", "bsdtar -xf {archive}"),
    "bsdtar through a pipe": ("bsdtar", "cat {archive} | bsdtar -xf -"),
    "busybox tar": ("busybox", "busybox tar -xzf {archive}"),
    "gzip and tar": ("gzip", "gzip -dc {archive} | tar -x"),
}


def put_into_pack(database, keys):
    """Add a pack of some entries."""
    writer = PackWriter(database.make())
    for key in keys:
        writer.put_bytes(key, ENTRIES[key])
    writer.close()


def make_pack(database):
    """Make one pack, and put it in the archive's place as it is."""
    put_into_pack(database, ENTRIES)
    (name,) = os.listdir(f"{database.path}/packs")
    os.rename(f"{database.path}/packs/{name}", f"{database.path}/archive.tar.gz")


def assemble(database):
    """Let three processes assemble an archive of packs, an old one, and loose entries."""
    keys = list(ENTRIES)
    for key in keys[:15]:
        put_old(database, key, ENTRIES[key])
    put_into_pack(database, keys[15:20])
    database.compress()
    for first in (20, 30, 40):
        put_into_pack(database, keys[first : first + 10])
    for key in keys[50:]:
        put_old(database, key, ENTRIES[key])
    report = database.compress(processes=3)
    assert (report.added, report.packs, report.entries) == (40, 3, 60)


@pytest.fixture(
    params=[1, 10, make_pack, assemble],
    ids=["one compress", "ten incremental ones", "a pack", "assembled in parallel"],
)
def database(request, tmp_path):
    with FingerprintDatabase.create(tmp_path / "x-fingerprints.ampdb") as database:
        if callable(request.param):
            request.param(database)
            yield database
            return
        for start in range(request.param):
            for key in list(ENTRIES)[start :: request.param]:
                put_old(database, key, ENTRIES[key])
            database.compress()
        yield database


@pytest.mark.parametrize("reader", READERS)
def test_tar_programs(database, reader, tmp_path):
    program, command = READERS[reader]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    folder = tmp_path / "out"
    folder.mkdir()
    done = subprocess.run(
        ["sh", "-c", command.format(archive=f"{database.path}/archive.tar.gz")],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == ENTRIES


def test_gzip_finds_nothing_wrong(database):
    done = subprocess.run(
        ["gzip", "-tv", f"{database.path}/archive.tar.gz"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "OK" in done.stdout + done.stderr
    with gzip.open(f"{database.path}/archive.tar.gz") as file:
        assert len(file.read()) > sum(map(len, ENTRIES.values()))


@pytest.mark.parametrize("mode", ["r:gz", "r|gz", "r:*", "r|*"])
def test_python(database, mode):
    with tarfile.open(f"{database.path}/archive.tar.gz", mode) as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == ENTRIES


def test_other_programs_may_write_the_archive_anew(database, tmp_path):
    """Unpacked and packed again: no index, and everything is there."""
    with tarfile.open(f"{database.path}/archive.tar.gz") as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}
    with tarfile.open(f"{database.path}/archive.tar.gz", "w:gz") as tar:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    database.close()
    assert set(database) == set(ENTRIES)
    assert all(database.get_bytes(key) == data for key, data in list(ENTRIES.items())[:5])
    assert len(dict(database.get_many())) == len(ENTRIES)


def amp_pickle(number):
    """An entry in Amp's own form."""
    return pickle.dumps(make_entry(number).to_amp(), protocol=0)


def test_amp_killed_while_it_wrote_an_entry(tmp_path):
    """Amp writes in place: what was written of the entry is there."""
    with FingerprintDatabase.create(tmp_path / "x-fingerprints.ampdb") as database:
        whole = amp_pickle(3)
        put_old(database, make_key(1), amp_pickle(1))
        put_old(database, make_key(2), b"")
        put_old(database, make_key(3), whole[: len(whole) // 2])
        assert dict(database.get_many()) == {make_key(1): make_entry(1)}
        assert set(database.corrupt) == {make_key(2), make_key(3)}
        assert database.missing(ENTRIES, check=True) == set(ENTRIES) - {make_key(1)}
        database[make_key(3)] = make_entry(3)
        report = database.compress()
        assert set(report.set_aside) == {make_key(2)}
        assert dict(database.get_many()) == {key: make_entry(n) for n, key in
                                             ((1, make_key(1)), (3, make_key(3)))}  # fmt: skip


KILLED = """
import os, signal, sys, tarfile
folder, kill_at = sys.argv[1], int(sys.argv[2])
names = sorted(os.listdir(folder + "/loose"))
count = 0
def step():
    global count
    count += 1
    if count == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
with tarfile.open(folder + "/archive.tar.gz", "w:gz") as tar:
    for name in names:
        tar.add(folder + "/loose/" + name, name)
        step()
step()
for name in names:
    os.remove(folder + "/loose/" + name)
    step()
"""


@pytest.mark.parametrize("kill_at", [1, 25, 60, 61, 62, 90, 120])
def test_amp_killed_while_it_archived(tmp_path, kill_at):
    """Amp's steps: all into a new archive in place, then each loose file is removed."""
    with FingerprintDatabase.create(tmp_path / "x-fingerprints.ampdb") as database:
        for number in range(60):
            put_old(database, make_key(number), amp_pickle(number))
        subprocess.run([sys.executable, "-c", KILLED, database.path, str(kill_at)], check=False)
        expected = {make_key(number): make_entry(number) for number in range(60)}
        assert dict(database.get_many()) == expected
        database.compress()
        assert dict(database.get_many()) == expected
        assert database.info().loose == 0


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_amp_killed_while_it_rewrote_the_archive(tmp_path, cut):
    """The loose files are gone and the archive ends early: what is there is used."""
    with FingerprintDatabase.create(tmp_path / "x-fingerprints.ampdb") as database:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for number in range(60):
                info = tarfile.TarInfo(make_key(number))
                data = amp_pickle(number)
                info.size, info.mtime = len(data), 1.5
                tar.addfile(info, io.BytesIO(data))
        with open(f"{database.path}/archive.tar.gz", "wb") as file:
            file.write(buffer.getvalue()[: int(cut * len(buffer.getvalue()))])
        found = dict(database.get_many())
        assert 60 * cut - 15 < len(found) < 60
        assert found == {make_key(n): make_entry(n) for n in range(len(found))}
        for number in range(60):
            if make_key(number) in database.missing(ENTRIES):
                database[make_key(number)] = make_entry(number)
        assert database.compress().copy is not None
        assert dict(database.get_many()) == {make_key(n): make_entry(n) for n in range(60)}
