"""Damaged and hostile input: no wrong value, no code, no crash, no memory taken.

20,000 mutated inputs in the short form, ten times as many in the long one.
"""

import contextlib
import dataclasses
import gzip
import io
import json
import os
import pickle
import random
import resource
import shutil
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from archives import write_archive
from mutate import mutate
from samples import make_entry, make_key

from ampmpi import FingerprintDatabase
from ampmpi.database import manifest
from ampmpi.database.archive.deflate import FULL_FLUSH_END, MEMBER_HEADER
from ampmpi.database.archive.reader import Archive
from ampmpi.database.check import check
from ampmpi.database.compress import compress
from ampmpi.database.layout import Home
from ampmpi.database.lock import Lock, read_holder
from ampmpi.database.manifest import Manifest
from ampmpi.entries import Fingerprint, FingerprintPrimes
from ampmpi.entries.codec import decode, encode, verify
from ampmpi.errors import AmpmpiError, CorruptEntryError, DatabaseError, LockedError
from ampmpi.files.folder import Folder
from ampmpi.files.owner import Owner
from ampmpi.keys import to_hex

TIMES = 10 if "AMPMPI_SOAK_SECONDS" in os.environ else 1
AMP = Path(__file__).resolve().parents[1] / "data" / "amp"
SLOWEST = 5.0
MEMORY = 400 * 2**20

pytestmark = pytest.mark.timeout(3600)

HOSTILE_EVENTS = {
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen",
    "socket.connect",
}  # fmt: skip
_watched = []
_happened = []


def _audit(event, arguments):
    if _watched and event in HOSTILE_EVENTS:
        _happened.append((event, arguments))


sys.addaudithook(_audit)


@pytest.fixture
def guarded():
    """Run a test with little memory, and fail it if anything was executed."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    _watched.append(True)
    _happened.clear()
    try:
        yield
    finally:
        _watched.clear()
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert _happened == []


@contextlib.contextmanager
def quick(what):
    """Name the input with which something fails, or takes long."""
    start = time.process_time()
    try:
        yield
        assert time.process_time() - start < SLOWEST
    except BaseException as error:
        error.add_note(f"input: {what[:3000]!r}")
        raise


def mutations(originals, count, seed):
    """Go through mutated copies of files, and what each one was."""
    rng = random.Random(seed)
    for _ in range(count * TIMES):
        original = rng.choice(originals)
        yield original, mutate(original, rng)


def make_primes(number):
    rng = np.random.default_rng(number)
    pairs = np.array([[m, n] for n in range(3) for m in range(3)], np.int32)
    return FingerprintPrimes(("Cu",) * 3, {"Cu": 4}, pairs, rng.normal(size=(9, 3, 4)))


ENTRIES = {make_key(number): encode(make_entry(number)) for number in range(6)}


@pytest.fixture
def home(tmp_path):
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(tmp_path)
    home = Home.create(f"{memory}/mutated-{os.getpid()}-fingerprints.ampdb")
    yield home
    shutil.rmtree(home.path)


@pytest.fixture
def archive(home):
    """Path of the archive."""
    return Path(home.full("archive.tar.gz"))


@pytest.mark.parametrize("kind", ["fingerprint", "primes"])
def test_entries_of_ours(guarded, kind):
    """3,000 of each: equal, or refused."""
    make = make_entry if kind == "fingerprint" else make_primes
    originals = [encode(make(number)) for number in range(5)]
    entries = {data: decode(data) for data in originals}
    refused = 0
    for original, data in mutations(originals, 3000, kind):
        with quick(data):
            try:
                found = decode(data, n_atoms=3)
            except CorruptEntryError:
                refused += 1
                with contextlib.suppress(CorruptEntryError):
                    verify(data)
            else:
                assert found == entries[original]
    assert refused > 2990 * TIMES


@pytest.mark.parametrize("kind", ["fingerprints", "fingerprint-primes"])
def test_entries_of_amp(guarded, kind):
    """1,000 of each: they carry no checksum, but what is taken has the shape of an entry."""
    files = sorted((AMP / f"loose-{kind}.ampdb" / "loose").iterdir())
    originals = [file.read_bytes() for file in files]
    atoms = {data: len(decode(data).symbols) for data in originals}
    refused = 0
    for original, data in mutations(originals, 1000, kind):
        with quick(data):
            try:
                found = decode(data, n_atoms=atoms[original])
            except CorruptEntryError:
                refused += 1
            else:
                assert isinstance(found, Fingerprint | FingerprintPrimes)
                assert len(found.symbols) == atoms[original]
                assert np.isfinite(found.values).all()
                assert set(found.n_features) == set(found.symbols)
                assert isinstance(found.to_amp(), list | dict)
    assert refused > 0


def read_all(path):
    """Return the entries of an archive that are sound."""
    found = {}
    with Archive.open(Folder.open(str(path.parent)), path.name) as archive:
        for key, data in archive.read_many():
            with contextlib.suppress(CorruptEntryError):
                if isinstance(data, bytes):
                    found[key] = decode(data)
        for key in to_hex(archive.digests()[:2]):
            with contextlib.suppress(CorruptEntryError):
                archive.read(key)
    return found


def is_part(found, entries):
    """Whether all that was found is right."""
    return all(key in entries and entry == entries[key] for key, entry in found.items())


@pytest.mark.parametrize("part", ["anywhere", "index and footer"])
def test_archives_of_ours(guarded, archive, part):
    """3,000 of each: what is read is right."""
    footer = write_archive(archive, ENTRIES)
    original = archive.read_bytes()
    entries = {key: decode(data) for key, data in ENTRIES.items()}
    start = footer.data_size if part == "index and footer" else 0
    saved = 0
    for _, tail in mutations([original[start:]], 3000, part):
        data = original[:start] + tail
        archive.write_bytes(data)
        with quick(data):
            found = read_all(archive)
            assert is_part(found, entries)
            if part == "index and footer":
                assert found == entries
            saved += len(found)
    assert saved > 3000 * TIMES


@pytest.mark.parametrize("source", ["amp", "ours"])
def test_archives_of_amp(guarded, archive, source):
    """1,000 of each: of an entry with a checksum the values are right, of others the shape."""
    if source == "amp":
        original = (AMP / "archived-fingerprints.ampdb" / "archive.tar.gz").read_bytes()
    else:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for key, data in ENTRIES.items():
                info = tarfile.TarInfo(key)
                info.size, info.mtime = len(data), 1.5
                tar.addfile(info, io.BytesIO(data))
        original = buffer.getvalue()
    archive.write_bytes(original)
    entries = read_all(archive)
    assert len(entries) >= 3
    for _, data in mutations([original], 1000, source):
        archive.write_bytes(data)
        with quick(data):
            found = read_all(archive)
            assert source == "amp" or is_part(found, entries)
            for key, entry in found.items():
                expected = entries[key]
                assert entry.symbols == expected.symbols
                assert entry.n_features == expected.n_features
                assert entry.values.shape == expected.values.shape


def test_tar_headers(guarded, archive):
    """2,000 archives whose tar was changed under a sound gzip."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, (key, data) in enumerate(ENTRIES.items()):
            info = tarfile.TarInfo(key if number % 2 else f"{'long/' * 40}{key}")
            info.size, info.mtime = len(data), 1.5
            tar.addfile(info, io.BytesIO(data))
    entries = {key: decode(data) for key, data in ENTRIES.items()}
    read = 0
    for _, tar in mutations([buffer.getvalue()], 2000, 0):
        data = gzip.compress(tar, 1)
        archive.write_bytes(data)
        with quick(data):
            found = read_all(archive)
            assert is_part(found, entries)
            read += len(found)
    assert read > 2000 * TIMES


def records(path):
    """Return the bytes of each record in an archive of ours."""
    raw = path.read_bytes()
    with Archive.open(Folder.open(str(path.parent)), path.name) as archive:
        index = archive.index
        keys = to_hex(archive.digests())
        rows = zip(keys, index.offset.tolist(), index.packed.tolist(), strict=True)
        return {key: raw[offset : offset + packed] for key, offset, packed in rows}


def can_be_found(data, piece):
    """Whether a record is whole in a damaged file, and the mark before it, too."""
    start = data.find(piece)
    while start >= 0:
        if start == len(MEMBER_HEADER) or data[:start].endswith(FULL_FLUSH_END):
            return True
        start = data.find(piece, start + 1)
    return False


@pytest.mark.parametrize("repair", [False, True])
def test_compress_and_check_of_damaged_archives(guarded, home, archive, repair):
    """250 of each: all that is still there is kept, and what is lost is named."""
    footer = write_archive(archive, ENTRIES)
    original, pieces = archive.read_bytes(), records(archive)
    entries = {key: decode(data) for key, data in ENTRIES.items()}
    fresh, named = make_entry(100), 0
    for _, data in mutations([original], 250, repair):
        archive.write_bytes(data)
        with FingerprintDatabase(home.path) as database, quick(data):
            database[make_key(100)] = fresh
            said = check(home.path).lost
            before = dict(database.get_many())
            lost = set(check(home.path, repair=True).lost if repair else ())
            lost |= set(compress(home.path).lost)
            after = dict(database.get_many())
            assert after.pop(make_key(100)) == fresh
            assert is_part(before, after | {make_key(100): fresh})
            assert is_part(after, entries)
            assert after.keys() >= {
                key for key, piece in pieces.items() if can_be_found(data, piece)
            }
            assert check(home.path).problems == []
            assert lost <= entries.keys() - after.keys()
            assert lost <= set(said)
            if data.endswith(original[footer.data_size :]):
                assert lost == entries.keys() - after.keys()
                named += len(lost)
        shutil.rmtree(home.full("damaged"), ignore_errors=True)
    assert named > 50 * TIMES


def test_locks(guarded, home):
    """1,500: a lock is respected or broken, never believed to say more."""
    me = Owner.me()
    fields = dataclasses.asdict(me) | {"job": None, "nonce": "0123456789abcdef", "since": 1e9}
    original = json.dumps(fields).encode()
    outcomes = {"broken": 0, "dead": 0, "alive": 0, "unknown": 0}
    # Every third time the lock is whole: this very process holds it.
    for number, (_, mutated) in enumerate(mutations([original], 1500, 2)):
        data = original if number % 3 == 0 else mutated
        break_lock = number % 2 == 0
        Path(home.full("lock")).write_bytes(data)
        with quick(data):
            holder = read_holder(home)
            assert str(holder)
            dead = holder.owner.is_dead() if holder.owner else None
            assert data is not original or dead is False
            lock = Lock(home, break_lock=break_lock)
            if break_lock or dead:
                with lock:
                    lock.require()
                    assert read_holder(home).owner == me
                assert not os.path.lexists(home.full("lock"))
            else:
                with pytest.raises(LockedError, match="is locked by"), lock:
                    pass
                assert Path(home.full("lock")).read_bytes() == data
            alive = "unknown" if dead is None else "alive"
            outcomes["broken" if break_lock else "dead" if dead else alive] += 1
    assert min(outcomes.values()) > 0, outcomes


def test_manifests(guarded, home):
    """1,500: the same manifest, or a sentence."""
    parameters = {"importname": ".descriptor.gaussian.Gaussian", "elements": ["Cu", "Pt"],
                  "cutoff": {"name": "Cosine", "kwargs": {"Rc": 6.5}},
                  "Gs": {"Cu": [{"type": "G2", "element": "Cu", "eta": 0.05}] * 3}}  # fmt: skip
    said = Manifest(parameters, "0123456789abcdef")
    original = said.to_json()
    for _, data in mutations([original], 1500, 3):
        Path(home.full("descriptor.json")).write_bytes(data)
        os.utime(home.full("descriptor.json"), (0, 0))  # a young one is looked at again
        with quick(data):
            try:
                found = manifest.read(home)
            except DatabaseError as error:
                assert home.full("descriptor.json") in str(error)
            else:
                assert found == said


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile_pickles(target):
    """Return pickles that would run code, or take all memory, in an unrestricted reader."""
    import builtins
    import posix

    calls = [
        (os.system, f"touch {target}"),
        (posix.system, f"touch {target}"),
        (builtins.eval, f"open({target!r}, 'w')"),
        (builtins.exec, f"open({target!r}, 'w')"),
        (open, target, "w"),
        (np.fromfile, "/etc/passwd"),
        (np.load, "/etc/passwd"),
        (np.zeros, (10**9,)),
        (bytes, 10**12),
        (getattr, pickle.Pickler, "dump"),
        (shutil.rmtree, os.path.dirname(target)),
    ]
    pickles = [pickle.dumps(Evil(*call), protocol) for call in calls for protocol in range(6)]
    pickles += [pickle.dumps([("Cu", [Evil(*call)])], 2) for call in calls]
    return [
        *pickles,
        b"p99999999\n.",
        b"(lp99999999\n.",
        b"\x80\x04r\xff\xff\xff\x7f.",
        b"\x80\x04X\xff\xff\xff\xff.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x8a\xff" + b"\x7f" * 255 + b".",
        b"I" + b"9" * 1_000_000 + b"\n.",
        b"(" * 500_000 + b".",
        b"]" + b"2a" * 100_000 + b".",
        b"](" + b"]" * 100_000 + b"e.",
        b"cos\nsystem\n(S'touch x'\ntR.",
        b"(S'touch x'\nios\nsystem\n.",
        b"\x80\x02\x82\x01.",
        b"P1\n.",
        b"Q.",
    ]


def test_hostile_pickles_do_nothing(guarded, home, archive, tmp_path):
    target = str(tmp_path / "was-here")
    key = make_key(0)
    for data in hostile_pickles(target):
        with quick(data):
            with pytest.raises(CorruptEntryError):
                decode(data)
            old = time.time() - 3600
            Path(home.full("loose", key)).write_bytes(data)
            os.utime(home.full("loose", key), (old, old))
            with FingerprintDatabase(home.path) as database, pytest.raises(CorruptEntryError):
                database[key]
            compress(home.path)
            assert not os.listdir(home.full("loose"))
            write_archive(archive, {key: data})
            with FingerprintDatabase(home.path) as database:
                assert dict(database.get_many()) == {}
            with contextlib.suppress(AmpmpiError):
                check(home.path)
            os.unlink(archive)
        assert not os.path.exists(target)
    assert not os.path.exists("x")
