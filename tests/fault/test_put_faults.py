"""A put that is killed, or whose calls fail, one after the other: every one of them.

Whatever happens, every other entry stays as it is, and the target is the old or
the new one, never anything else.
"""

import errno
import os
import shutil
import tempfile

import pytest
from faults import TRANSFERS, FaultServer
from put_victims import DATABASES, TARGET, make_archived, make_entry

from ampmpi import FingerprintDatabase
from ampmpi.database.layout import TEMPORARIES, Home, is_database
from ampmpi.files.atomic import purpose_of, sweep, temporaries

ERRORS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES, errno.ESTALE]
LASTING = [errno.ENOSPC, errno.EROFS, errno.EDQUOT]


@pytest.fixture(scope="module")
def server(shim):
    with FaultServer(shim, "put_victims") as server:
        yield server


@pytest.fixture(params=DATABASES)
def case(request):
    """Return a function that makes the database anew, and the entries that it holds."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        original, path = f"{folder}/original-fingerprints", f"{folder}/copy-fingerprints"
        entries = DATABASES[request.param](original)

        def renew():
            shutil.rmtree(path + ".ampdb", ignore_errors=True)
            if os.path.isdir(original + ".ampdb"):
                shutil.copytree(original + ".ampdb", path + ".ampdb")
            return path

        yield renew, entries


def faults(names):
    """Go through every fault at every call."""
    for number, name in enumerate(names, 1):
        yield number, "KILL", 0
        yield number, "KILL_AFTER", 0
        if name in TRANSFERS:
            yield number, "SHORT", 0
            yield number, "KILL_SHORT", 0
        for error in ERRORS:
            yield number, "FAIL", error
        yield number, "FAIL_AFTER", ERRORS[number % len(ERRORS)]
        yield number, "FAIL_ON", LASTING[number % len(LASTING)]


def read(path):
    """Return what a database holds, and check that nothing in it is damaged."""
    if not os.path.isdir(path + ".ampdb"):
        return {}
    database = FingerprintDatabase(path)
    found = dict(database.get_many())
    assert database.corrupt == {}
    assert set(found) == set(database)
    return found


def is_sentence(outcome, path):
    """Whether a victim ended with an error that says what is wrong, and where."""
    return (
        "DatabaseError" in outcome.error
        and path in outcome.message
        and "\n" not in outcome.message
        and "unknown" not in outcome.message
    )


def check_after(path, entries, outcome, action, wanted):
    """Check a database after a fault; `wanted` is the target's new entry, or None."""
    others = {key: entry for key, entry in entries.items() if key != TARGET}
    found = read(path)
    target = found.pop(TARGET, None)
    assert found == others
    assert target in (entries.get(TARGET), wanted)
    if outcome.status == "returned":
        assert target == wanted
    elif outcome.status == "raised":
        assert is_sentence(outcome, path)
    else:
        assert outcome.status == "killed" and "KILL" in action
    home = Home.find(path)
    if home is None:
        return
    assert is_database(home.path)
    folder = home.inner(TEMPORARIES)
    if folder is not None:
        if outcome.status == "killed":
            sweep(folder)
        if action != "FAIL_ON":
            # If removing the first name of a lock, or an archive that was not needed or has been
            # replaced, fails, it is swept later.
            left = {purpose_of(name) for name in temporaries(folder)}
            assert left <= {"lock", "archive"}


def check_goes_on(path, entries, outcome):
    """Check that the next put succeeds; after a kill, a compress, too."""
    database = FingerprintDatabase(path)
    database[TARGET] = make_entry(7)
    if outcome.status == "killed":
        report = database.compress()
        assert not (report.set_aside or report.lost or report.left or report.stuck)
        assert os.listdir(f"{database.path}/loose") == []
        assert os.listdir(f"{database.path}/tmp") == []
    assert dict(database) == {**entries, TARGET: make_entry(7)}


def test_put(server, case):
    renew, entries = case
    names = server.calls("put", renew())
    assert {"openat64", "write", "close", "renameat"} <= set(names)
    statuses = {"returned": 0, "raised": 0, "killed": 0}
    for number, action, error in faults(names):
        path = renew()
        outcome = server.run("put", path, action=action, number=number, error=error)
        try:
            check_after(path, entries, outcome, action, make_entry(1000))
            check_goes_on(path, entries, outcome)
        except Exception as failure:
            failure.add_note(f"at call {number} of {names}: {action} {error}: {outcome}")
            raise
        statuses[outcome.status] += 1
    assert min(statuses.values()) > 0
    assert statuses["killed"] >= 2 * len(names)


@pytest.mark.parametrize("case", ["loose", "archived"], indirect=True)
def test_delete(server, case):
    renew, entries = case
    names = server.calls("delete", renew())
    for number, action, error in faults(names):
        path = renew()
        outcome = server.run("delete", path, action=action, number=number, error=error)
        try:
            check_after(path, entries, outcome, action, None)
            check_goes_on(path, entries, outcome)
        except Exception as failure:
            failure.add_note(f"at call {number} of {names}: {action} {error}: {outcome}")
            raise


@pytest.mark.parametrize("case", ["nothing", "loose"], indirect=True)
def test_claim(server, case):
    renew, entries = case
    names = server.calls("claim", renew())
    for number, action, error in faults(names):
        path = renew()
        outcome = server.run("claim", path, action=action, number=number, error=error)
        try:
            assert read(path) == entries
            if os.path.isdir(path + ".ampdb"):
                manifest = FingerprintDatabase(path).manifest()
                assert manifest is None or manifest.digest == "aa"
                if outcome.status == "returned":
                    assert manifest is not None
            if outcome.status == "raised":
                assert is_sentence(outcome, path)
            assert FingerprintDatabase(path).claim({"Rc": 6.5}, "aa", adopt=True)
        except Exception as failure:
            failure.add_note(f"at call {number} of {names}: {action} {error}: {outcome}")
            raise


def make_target_loose(path):
    """All entries are in the archive, but for the target."""
    entries = make_archived(path)
    database = FingerprintDatabase(path)
    database.delete([TARGET])
    database[TARGET] = entries[TARGET]
    return entries


def test_a_deletion_after_a_killed_compress_stays_done(server, tmp_path):
    """What a killed compress leaves in tmp/ may hold the entry, and gives it to no later one."""
    original, path = f"{tmp_path}/original-fingerprints", f"{tmp_path}/copy-fingerprints"
    entries = make_target_loose(original)
    del entries[TARGET]

    def renew():
        shutil.rmtree(path + ".ampdb", ignore_errors=True)
        shutil.copytree(original + ".ampdb", path + ".ampdb")
        return path

    names = server.calls("compress", renew())
    assert "renameat2" in names
    came_back, end = [], len(names) - names[::-1].index("write")
    for number, name in list(enumerate(names, 1))[end - 3 :: 2]:
        assert server.run("compress", renew(), action="KILL", number=number).status == "killed"
        database = FingerprintDatabase(path)
        assert database.delete([TARGET]) == 1
        for _ in range(2):
            if dict(database) != entries:
                came_back.append((number, name))
            database.compress()
        assert os.listdir(f"{path}.ampdb/tmp") == []
    assert came_back == []
