"""A disk that is really full, and a limit on the size of files."""

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile

import commands
import pack_victims
import pytest
from samples import make_entry, make_key, put_old

from ampmpi import FingerprintDatabase
from ampmpi.database.layout import Home
from ampmpi.database.packs import PackWriter
from ampmpi.entries.codec import encode
from ampmpi.errors import DatabaseError

STEP = 4096
ENTRIES = {make_key(number): make_entry(number, n_atoms=10, n_features=20) for number in range(40)}


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A file system of 400 kB that can be mounted."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=400k,nr_inodes=1000", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path, size):
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while size > 0:
            size -= file.write(bytes(min(size, 1 << 16)))


def free(path):
    status = os.statvfs(path)
    return status.f_bavail * status.f_bsize


def test_compress_with_less_and_less_space(small_disk):
    """From none to enough, in steps of one page: never a loss, at last success."""
    path = small_disk / "x-fingerprints.ampdb"
    with FingerprintDatabase.create(path) as database:
        for number, (key, entry) in enumerate(ENTRIES.items()):
            put_old(database, key, encode(entry))
            if number == 20:
                database.compress()
    failures, space = 0, 0
    while True:
        # tmp/ and the filler itself need an inode each, but no page.
        fill(small_disk / "filler", free(small_disk) - space)
        assert free(small_disk) <= space + STEP
        with FingerprintDatabase(path) as database:
            try:
                database.compress()
            except DatabaseError as error:
                assert "disk is full" in str(error) or "cannot create" in str(error)
                failures += 1
            else:
                break
            assert dict(database.get_many()) == ENTRIES
            assert os.listdir(f"{path}/tmp") == []
        os.unlink(small_disk / "filler")
        space += STEP
    assert failures >= 10
    with FingerprintDatabase(path) as database:
        assert dict(database.get_many()) == ENTRIES
        assert os.listdir(f"{path}/loose") == []
    os.unlink(small_disk / "filler")
    shutil.rmtree(path)


def test_put_until_the_disk_is_full(small_disk):
    path = small_disk / "y-fingerprints.ampdb"
    written = {}
    with FingerprintDatabase.create(path) as database:
        with pytest.raises(DatabaseError, match="disk is full"):
            for number in range(10_000):
                entry = make_entry(number, n_atoms=10, n_features=20)
                database[make_key(number)] = entry
                written[make_key(number)] = entry
        assert len(written) > 20
        assert dict(database.get_many()) == written
        assert os.listdir(f"{path}/tmp") == []
        with pytest.raises(DatabaseError, match="disk is full"):
            database.compress()
        assert dict(database.get_many()) == written
    shutil.rmtree(path)


def test_packs_on_a_disk_that_fills_up(small_disk):
    """What was appended before the disk was full is kept, and the next run does the rest."""
    commands.make_images(small_disk / "images.traj", 150)
    job = ("fingerprint", "images.traj", "--label", "p", *commands.CUTOFF, "--no-compress",
           "--packs", "--pack-size", "0.02")  # fmt: skip
    path = small_disk / "p-fingerprints.ampdb"
    for room in (3, 40):
        fill(small_disk / "filler", free(small_disk) - room * 1024)
        code, output = commands.ampmpi(*job, cwd=small_disk)
        assert code == 4, output
        commands.check_words(output, "disk is full", "p-fingerprints.ampdb")
        assert len([line for line in output.splitlines() if "disk is full" in line]) == 1
        kept = commands.contents(path) if path.exists() else {}
        os.unlink(small_disk / "filler")
        output = commands.succeed(*job, cwd=small_disk)
        after = commands.contents(path)
        assert len(after) == 150
        assert all(after[key] == entry for key, entry in kept.items())
        (computed,) = re.findall(r"(\d+) computed", output)
        assert room < 10 or int(computed) < 150, output
        assert os.listdir(path / "loose") == os.listdir(path / "tmp") == []
        shutil.rmtree(path)
    os.unlink(small_disk / "images.traj")


@pytest.fixture
def few_files(tmp_path):
    """A file system that can be mounted, of which all inodes but a few are used."""
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=60", "tmpfs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def use_up_inodes(folder, left):
    os.makedirs(folder / "many", exist_ok=True)
    while os.statvfs(folder).f_favail > left:
        os.close(tempfile.mkstemp(dir=folder / "many")[0])
    while os.statvfs(folder).f_favail < left:
        os.unlink(folder / "many" / os.listdir(folder / "many")[0])


def test_packs_where_fewer_and_fewer_files_can_be_made(few_files):
    """All inodes used up: nothing is lost, one sentence, and all goes on when some are free."""
    path = few_files / "x-fingerprints.ampdb"
    entries = pack_victims.make_database(path)
    compressed = []
    for left in range(6):
        use_up_inodes(few_files, left)
        writer = PackWriter(Home.open(path))
        numbers = range(1000 + 10 * left, 1005 + 10 * left)
        try:
            pack_victims.put_all(writer, numbers)
            writer.close()
        except DatabaseError as error:
            assert "no more files can be made" in str(error)
            assert left < 2
        else:
            entries |= pack_victims.entries_of(numbers)
        writer.discard()
        use_up_inodes(few_files, left)
        with FingerprintDatabase(path) as database:
            try:
                database.compress()
            except DatabaseError as error:
                assert "no more files can be made" in str(error)
            else:
                compressed.append(left)
                assert os.listdir(path / "packs") == os.listdir(path / "tmp") == []
                assert dict(database.get_many()) == entries
            found = dict(database.get_many())
            hidden = pack_victims.entries_of((9, 10, 11))
            assert all(found.get(key) == entry for key, entry in entries.items()
                       if key not in hidden)  # fmt: skip
            assert found.keys() <= entries.keys()
    assert compressed and 0 not in compressed
    shutil.rmtree(path)


LIMITED = """
import resource, sys
from ampmpi.database.compress import compress
from ampmpi.errors import DatabaseError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    compress(sys.argv[1])
except DatabaseError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_limit_on_the_size_of_files(tmp_path):
    """RLIMIT_FSIZE: Python ignores SIGXFSZ, so that a write fails with EFBIG."""
    path = tmp_path / "x-fingerprints.ampdb"
    with FingerprintDatabase.create(path) as database:
        for key, entry in ENTRIES.items():
            put_old(database, key, encode(entry))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", LIMITED, str(path)]
    for limit in (1, 300, 20_000, 40_000):
        done = subprocess.run([*command, str(limit)], capture_output=True, text=True)
        assert done.returncode == 4, done.stderr
        assert "ulimit -f" in done.stdout
        with FingerprintDatabase(path) as database:
            assert dict(database.get_many()) == ENTRIES
            assert os.listdir(f"{path}/tmp") == []
            assert not os.path.exists(f"{path}/archive.tar.gz")
    done = subprocess.run([*command, "1000000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with FingerprintDatabase(path) as database:
        assert dict(database.get_many()) == ENTRIES
