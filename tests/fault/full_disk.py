"""Put and compress on a disk that is really full, a few kilobytes at a time.

Run by ``test_full_disk.py`` in a mount namespace of its own, or under a limit of
the size of files. Prints how often each act failed and succeeded.
"""

import os
import resource
import shutil
import subprocess
import sys

import numpy as np

from ampmpi import FingerprintDatabase
from ampmpi.entries import Fingerprint
from ampmpi.errors import DatabaseError

STEP = 4096
KEYS = [f"{number:032x}" for number in range(8)]


def make_entry(number, n_atoms=40):
    """Return an entry of 13 kB, which hardly compresses."""
    values = np.random.default_rng(number).normal(size=(n_atoms, 36))
    return Fingerprint(("Cu",) * n_atoms, {"Cu": 36}, values)


def attempt(act, words, counts):
    """Do something; an error must be the sentence that belongs to the fault."""
    try:
        act()
    except DatabaseError as error:
        assert any(word in str(error) for word in words), error
        counts[act.__name__, "failed"] = counts.get((act.__name__, "failed"), 0) + 1
        return False
    counts[act.__name__, "succeeded"] = counts.get((act.__name__, "succeeded"), 0) + 1
    return True


def check(path, entries, done, counts):
    """Check that every entry is there and whole, and the new one whole if it is there."""
    database = FingerprintDatabase(path)
    found = dict(database.get_many())
    assert not database.corrupt
    assert found == {**entries, KEYS[-1]: make_entry(99)} or (found == entries and not done)
    assert os.listdir(f"{database.path}/tmp") == []
    assert not os.path.lexists(f"{database.path}/lock")
    counts["checks", ""] = counts.get(("checks", ""), 0) + 1


def make(path):
    """Make a database of loose and archived entries."""
    entries = {key: make_entry(number) for number, key in enumerate(KEYS[:-1])}
    database = FingerprintDatabase(path)
    for number, (key, entry) in enumerate(entries.items()):
        if number == 4:
            database.compress()
        database[key] = entry
    return entries


def on(path, words, counts):
    """Put and compress once."""
    database = FingerprintDatabase(path)
    database.make()

    def put():
        database[KEYS[-1]] = make_entry(99)

    def compress():
        database.compress()

    return attempt(put, words, counts), attempt(compress, words, counts)


def full_disk(folder):
    """Leave more and more room."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
    path, ballast, counts = f"{folder}/x-fingerprints", f"{folder}/ballast", {}
    for room in range(0, 60 * STEP, STEP):
        entries = make(path)
        with open(ballast, "wb", buffering=0) as file:
            try:
                while file.write(bytes(STEP)):
                    pass
            except OSError:
                pass
            file.truncate(max(0, file.tell() - room))
        done = on(path, ["disk is full"], counts)[0]
        check(path, entries, done, counts)
        os.unlink(ballast)
        assert on(path, [], counts) == (True, True)
        check(path, entries, True, counts)
        shutil.rmtree(path + ".ampdb")
    return counts


def limited_files(folder):
    """Let files grow larger and larger."""
    path, counts = f"{folder}/x-fingerprints", {}
    for limit in range(0, 40 * STEP, STEP):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        entries = make(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        done = on(path, ["grows beyond the allowed size"], counts)[0]
        check(path, entries, done, counts)
        shutil.rmtree(path + ".ampdb")
    return counts


if __name__ == "__main__":
    for (name, how), number in sorted(globals()[sys.argv[1]](sys.argv[2]).items()):
        print(name, how, number)
