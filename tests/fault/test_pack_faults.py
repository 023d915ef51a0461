"""Packs whose writers, savers and compressors are killed, or meet errors, at each of their calls.

Whatever happens, what was there is there; of what a rank appended at most the entry is
lost at which it was; nothing is ever wrong; and the next compress brings all into the
archive and leaves nothing behind.
"""

import errno
import itertools
import os
import pickle
import random
import shutil
import tarfile
import tempfile
from collections import Counter

import pack_victims
import pytest
from faults import ACTIONS, TRANSFERS, FaultServer
from pack_victims import NEW, OLD, entries_of

from ampmpi import FingerprintDatabase

SOAK = "AMPMPI_SOAK_SECONDS" in os.environ
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES, errno.ESTALE)
LASTING = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
VISIBLE = entries_of(OLD[:-3])
"""What is not only in the pack that was left unfinished."""
NUMBERS = itertools.count()

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def template():
    """A database with entries in every place; in memory, because it is copied often."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        path = f"{folder}/x-fingerprints.ampdb"
        pack_victims.make_database(path)
        yield path


@pytest.fixture
def renew(template):
    """Return a function that makes a copy of the database, and removes the one before."""
    path = f"{os.path.dirname(template)}/{next(NUMBERS)}-fingerprints.ampdb"

    def renew():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(template, path)
        return path

    yield renew
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def server(shim):
    with FaultServer(shim, "pack_victims") as server:
        yield server


def faults(names, every=1):
    """Go through the faults at calls: killed at each; those that fail take turns.

    One of `every` few calls fails; of a row of the same calls some meet no fault.
    """
    failing = [(action, error) for action in ("FAIL", "FAIL_AFTER") for error in ERRORS]
    failing += [("FAIL_ON", error) for error in LASTING]
    random.Random(0).shuffle(failing)
    turns = itertools.cycle(failing)
    for number, name in enumerate(names, 1):
        if not SOAK and number % 4 and names[number - 2 : number] == [name, name]:
            continue  # one of a row of the same calls
        yield number, "KILL", 0
        if name in TRANSFERS:
            yield number, "KILL_SHORT" if number % 2 and not SOAK else "SHORT", 0
        for action, error in failing if SOAK else itertools.islice(turns, number % every == 0):
            yield number, action, error


def read(path):
    """Return what readers find; nothing may be damaged."""
    with FingerprintDatabase(path) as database:
        found = dict(database.get_many())
        assert database.corrupt == {}
        assert set(found) == set(database)
        assert all(database[key] == entry for key, entry in itertools.islice(found.items(), 3))
    return found


def check_sentence(outcome, path):
    """Check that an error is one sentence, which names the place."""
    assert "AmpmpiError" in outcome.error
    assert path in outcome.message
    assert "\n" not in outcome.message


def check_compress(path, entries, maybe=None):
    """Check that a compress succeeds, that all is in the archive then, and nothing left."""
    maybe = maybe or {}
    with FingerprintDatabase(path) as database:
        report = database.compress()
        assert not (report.lost or report.set_aside or report.packs_aside or report.stuck), report
        assert not report.warnings
        for folder in ("loose", "tmp", "packs"):
            assert os.listdir(f"{path}/{folder}") == []
        assert not os.path.exists(f"{path}/lock")
        found = dict(database.get_many())
        assert all(found.get(key) == entry for key, entry in entries.items())
        assert all(found[key] == maybe.get(key) for key in found.keys() - entries.keys())
    with tarfile.open(f"{path}/archive.tar.gz", "r|gz") as tar:
        assert sorted(member.name for member in tar) == sorted(found)


def check_visible(path, entries):
    """Check that readers find entries, and nothing that is damaged."""
    found = read(path)
    assert all(found.get(key) == entry for key, entry in entries.items())


def run_all(server, victim, renew, check, *arguments, every=1):
    """Run a victim with each fault at each call; return the names of calls, and its endings."""
    names = server.calls(victim, renew(), *arguments)
    endings = Counter()
    for number, action, error in faults(names, every):
        path = renew()
        outcome = server.run(victim, path, *arguments, action=action, number=number, error=error)
        try:
            if outcome.status == "raised":
                check_sentence(outcome, path)
            else:
                # A thread waits for the disk: the call may have been its, and moved nothing.
                may = {"killed", "returned"} if action == "KILL_SHORT" else {"killed"}
                assert outcome.status in (may if "KILL" in action else {"returned"})
            check(path, outcome, action)
        except Exception as failure:
            failure.add_note(
                f"at call {number} of {names}: {names[number - 1]}: {action} {error}: {outcome}"
            )
            raise
        endings[outcome.status] += 1
    print(victim, len(names), dict(endings))
    return names, endings


@pytest.mark.parametrize("gone", [0, 1, 2], ids=["", "removed before a put", "before it ends"])
def test_writing(server, renew, tmp_path, gone):
    """Append, end with index and footer, rename; also where a saver took it for dead."""
    told = tmp_path / "told"

    def renew_all():
        told.write_bytes(b"\0")
        return renew()

    def check(path, outcome, action):
        written = told.read_bytes()[0]
        sure = entries_of((*OLD, *NEW[:written]))
        check_visible(path, VISIBLE)
        if outcome.status == "returned":
            assert written == len(NEW)
            check_visible(path, entries_of(NEW))
        check_compress(path, sure, entries_of(NEW[written : written + 1]))

    names, endings = run_all(server, "write", renew_all, check, str(told), gone)
    assert {"write", "fsync", "close", "renameat"} <= set(names)
    assert min(endings[each] for each in ("killed", "raised")) > 10


def test_salvage(server, renew):
    def check(path, outcome, action):
        left = os.listdir(f"{path}/tmp")
        check_visible(path, VISIBLE if left else entries_of(OLD))
        if outcome.status == "raised" and action != "FAIL_ON":
            # Else a full disk would be filled with copies.
            assert len(left) == 1
        check_compress(path, entries_of(OLD))

    names, endings = run_all(server, "salvage", renew, check)
    assert {"unlinkat", "renameat", "fsync"} <= set(names)
    assert min(endings[each] for each in ("killed", "raised", "returned")) > 5


def test_compress(server, renew):
    """Salvage, assembly, exchange, and the removal of loose entries and packs."""

    def check(path, outcome, action):
        check_visible(path, VISIBLE)
        check_compress(path, entries_of(OLD))

    names, endings = run_all(server, "compress", renew, check, every=3)
    assert {"pwrite64", "renameat2", "unlinkat", "fsync", "pread64"} <= set(names)
    assert endings["killed"] > 150
    assert min(endings[each] for each in ("raised", "returned")) > 20


@pytest.mark.parametrize("function", ["salvage", "copy_records", "checksums_of"])
def test_forked_workers(server, renew, function):
    """They are killed, or meet an error, in what they do for a compress."""
    path = renew()
    outcome = server.run("compress_by_two", path, function, ACTIONS.index("LIST"), 0, 0)
    assert outcome.status == "returned"
    check_compress(path, entries_of(OLD))
    with open(f"{path}.count", "rb") as file:
        count = pickle.load(file)
    assert count >= 3
    statuses = Counter()
    turns = itertools.cycle(
        (("FAIL", errno.EIO), ("FAIL_AFTER", errno.ENOSPC), ("FAIL", errno.ESTALE))
    )
    for number in range(1, count + 1):
        action, error = ("KILL", 0) if number % 2 or count < 20 else next(turns)
        path = renew()
        outcome = server.run(
            "compress_by_two", path, function, ACTIONS.index(action), number, error
        )
        try:
            assert outcome.status in ("returned", "raised")
            if outcome.status == "raised":
                check_sentence(outcome, "" if action == "KILL" else path)
            if action == "KILL":
                # Of two tasks one may have fewer calls than there are.
                assert outcome.status == "returned" or "was killed" in outcome.message
            check_visible(path, VISIBLE)
            check_compress(path, entries_of(OLD))
        except Exception as failure:
            failure.add_note(f"at call {number} of {count}: {action} {error}: {outcome}")
            raise
        statuses[action, outcome.status] += 1
    assert statuses["KILL", "raised"] >= 3
    print(function, count, dict(statuses))
    os.unlink(f"{path}.count")


def test_who_has_forked_workers(server, renew):
    """The process that they help is killed: at one of thirty calls, or they are at theirs."""
    no_fault = ("salvage", ACTIONS.index("LIST"), 0, 0)
    count = len(server.calls("compress_by_two", renew(), *no_fault))
    for number in range(1, count, count // 30):
        path = renew()
        outcome = server.run("compress_by_two", path, *no_fault, action="KILL", number=number)
        try:
            assert outcome.status in ("killed", "raised")
            check_visible(path, VISIBLE)
            check_compress(path, entries_of(OLD))
        except Exception as failure:
            failure.add_note(f"at call {number} of {count}: {outcome}")
            raise
    os.unlink(f"{path}.count")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("victim", ["write", "salvage"])
def test_a_full_disk_is_said_in_words(server, renew, tmp_path, victim, error):
    told = tmp_path / "told"
    told.write_bytes(b"\0")
    arguments = [str(told)] if victim == "write" else []
    names = server.calls(victim, renew(), *arguments)
    numbers = [number for number, name in enumerate(names, 1) if name == "write"]
    assert len(numbers) >= 4
    for number in numbers:
        path = renew()
        outcome = server.run(victim, path, *arguments, action="FAIL_ON", number=number, error=error)
        assert outcome.status == "raised"
        check_sentence(outcome, path)
        assert {errno.ENOSPC: "disk is full", errno.EDQUOT: "quota"}[error] in outcome.message
