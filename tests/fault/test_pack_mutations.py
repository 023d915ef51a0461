"""Damaged packs: nothing wrong is ever read, all that is sound is saved, and check finds it."""

import os
import random
import shutil
import time
from pathlib import Path

import pack_victims
import pytest
from mutate import mutate
from pack_victims import LARGE, entries_of, put_all
from samples import make_entry, make_key
from test_mutations import can_be_found, is_part, quick, records

from ampmpi import FingerprintDatabase
from ampmpi.database import packs
from ampmpi.database.check import check
from ampmpi.database.compress import compress
from ampmpi.database.layout import Home
from ampmpi.database.packs import PackWriter
from ampmpi.errors import CorruptEntryError

TIMES = 10 if "AMPMPI_SOAK_SECONDS" in os.environ else 1
PACKED, OTHER, LOOSE = range(6), range(10, 13), range(20, 22)
OTHERS = entries_of((*OTHER, *LOOSE))
NAME = "mutated.tar.gz"

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def home(tmp_path):
    """A database with loose entries, and a pack of others."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(tmp_path)
    home = Home.create(f"{memory}/packs-{os.getpid()}-fingerprints.ampdb")
    yield home
    shutil.rmtree(home.path)


@pytest.fixture
def finished(home):
    """Bytes of a whole pack, and those of each record in it."""
    pack_victims.make_pack(home.path, PACKED)
    path = Path(home.full("packs", os.listdir(home.full("packs"))[0]))
    data, pieces = path.read_bytes(), records(path)
    path.unlink()
    return data, pieces


@pytest.fixture
def begun(home):
    """Bytes of a pack that was not ended, and those of each record in it."""
    writer = PackWriter(home, limits=LARGE)
    put_all(writer, PACKED)
    (name,) = packs.open_packs(home)
    data = Path(home.full("tmp", name)).read_bytes()
    writer.close()
    path = Path(home.full("packs", os.listdir(home.full("packs"))[0]))
    pieces = records(path)
    path.unlink()
    return data, pieces


def prepare(home):
    """Empty the database but for entries that nothing happens to."""
    for name in ("archive.tar.gz", "packs", "loose", "tmp", "damaged"):
        path = home.full(name)
        if os.path.isdir(path):
            for each in os.listdir(path):
                os.unlink(os.path.join(path, each))
        elif os.path.exists(path):
            os.unlink(path)
    pack_victims.make_pack(home.path, OTHER)
    with FingerprintDatabase(home.path) as database:
        for number in LOOSE:
            database[make_key(number)] = make_entry(number)


def mutations(original, count, seed):
    """Go through flipped, cut, extended and otherwise changed copies."""
    rng = random.Random(seed)
    for _ in range(count * TIMES):
        yield mutate(original, rng)


def judge(found, corrupt=()):
    """Check that the others are there, and what else is there is right; return the latter."""
    rest = dict(found)
    for key, entry in OTHERS.items():
        assert rest.pop(key) == entry
    assert is_part(rest, entries_of(PACKED))
    assert not OTHERS.keys() & set(corrupt)
    return rest


@pytest.mark.parametrize("repair", [False, True], ids=["compress", "repair"])
def test_packs(home, finished, repair):
    """150 of each."""
    original, pieces = finished
    whole = entries_of(PACKED)
    outcomes = {"noticed": 0, "kept aside": 0, "lost": 0, "all saved": 0}
    for data in mutations(original, 150, repair):
        prepare(home)
        Path(home.full("packs", NAME)).write_bytes(data)
        with quick(data):
            database = FingerprintDatabase(home.path)
            before = judge(database.get_many(), database.corrupt)
            for key in whole:
                try:
                    assert database[key] == whole[key]
                except (KeyError, CorruptEntryError):
                    assert key not in before
            said = check(home.path)
            outcomes["noticed"] += bool(said.problems)
            assert before == whole or said.problems
            if repair:
                repaired = check(home.path, repair=True)
                if said.problems:
                    assert repaired.repairs
            report = compress(home.path)
            database = FingerprintDatabase(home.path)
            after = judge(database.get_many())
            assert database.corrupt == {}
            assert before.keys() <= after.keys()
            assert after.keys() >= {
                key for key, piece in pieces.items() if can_be_found(data, piece)
            }
            assert os.listdir(home.full("packs")) == os.listdir(home.full("tmp")) == []
            assert check(home.path).problems == []
            aside = os.listdir(home.full("damaged")) if os.path.isdir(home.full("damaged")) else []
            assert (NAME in aside) or after == whole
            if said.problems:
                assert repair or NAME in report.packs_aside
            if NAME in aside:
                assert Path(home.full("damaged", NAME)).read_bytes() == data
                outcomes["kept aside"] += 1
            assert not set(said.lost) & after.keys()
            outcomes["all saved" if after == whole else "lost"] += 1
    print(outcomes)
    assert min(outcomes.values()) > 8 * TIMES


def test_unfinished_packs(home, begun):
    """200: a killed rank's pack, on a disk that damaged it, too."""
    original, pieces = begun
    whole = entries_of(PACKED)
    name = "ampmpi-pack-elsewhere-01234567-1-1-1-r0-0123456789ab.tmp"
    old = time.time() - 3600
    saved = 0
    for data in mutations(original, 200, 5):
        prepare(home)
        path = Path(home.full("tmp", name))
        path.write_bytes(data)
        os.utime(path, (old, old))
        with quick(data):
            database = FingerprintDatabase(home.path)
            assert judge(database.get_many()) == {}
            report = compress(home.path)
            after = judge(FingerprintDatabase(home.path).get_many())
            assert after.keys() >= {
                key for key, piece in pieces.items() if can_be_found(data, piece)
            }
            assert report.salvaged == len(after) or report.salvaged > len(after) >= len(whole) - 1
            assert os.listdir(home.full("packs")) == os.listdir(home.full("tmp")) == []
            assert check(home.path).problems == []
            saved += len(after)
    assert 2 * len(whole) * 100 * TIMES > saved > len(whole) * 100 * TIMES


@pytest.mark.parametrize("part", ["footer", "index", "records", "all"])
def test_a_reader_that_knows_a_pack_notices_that_it_is_overwritten(home, finished, part):
    """In place, which nobody should do: no entry that is wrong, and no crash."""
    original, pieces = finished
    prepare(home)
    path = Path(home.full("packs", NAME))
    path.write_bytes(original)
    database = FingerprintDatabase(home.path)
    assert judge(database.get_many()) == entries_of(PACKED)
    ends = max(original.find(piece) + len(piece) for piece in pieces.values())
    start, end = {
        "footer": (len(original) - 40, len(original)), "index": (ends, len(original)),
        "records": (20, ends), "all": (0, len(original)),
    }[part]  # fmt: skip
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(random.Random(1).randbytes(end - start))
    judge(database.get_many())
    judge(FingerprintDatabase(home.path).get_many())
    compress(home.path)
    after = judge(FingerprintDatabase(home.path).get_many())
    assert len(after) == (len(PACKED) if part in ("footer", "index") else 0)
