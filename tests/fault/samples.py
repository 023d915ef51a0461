"""A database on which every step of a compress has something to do."""

import hashlib
import os
import tarfile
import time

import numpy as np

from ampmpi import FingerprintDatabase
from ampmpi.entries import Fingerprint
from ampmpi.entries.codec import encode


def make_key(number):
    return hashlib.md5(str(number).encode()).hexdigest()


def make_entry(number, n_atoms=3, n_features=4):
    """Return an entry that follows from its number."""
    values = np.random.default_rng(number).normal(size=(n_atoms, n_features))
    return Fingerprint(("Cu",) * n_atoms, {"Cu": n_features}, values)


def put_old(database, key, data):
    """Write a loose file that is too old to be in the making."""
    path = f"{database.path}/loose/{key}"
    with open(path, "wb") as file:
        file.write(data)
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))


def make_database(path):
    """Make a database with archived, loose, replaced, deleted and damaged entries.

    Returns
    -------
    dict of str to Fingerprint
        What it holds.
    """
    with FingerprintDatabase.create(path) as database:
        entries = {make_key(number): make_entry(number) for number in range(40)}
        for number in range(8):
            database[make_key(number)] = entries[make_key(number)]
        database.compress()
        for number in (*range(8, 40), 2):
            put_old(database, make_key(number), encode(entries[make_key(number)]))
        del database[make_key(5)]
        del entries[make_key(5)]
        put_old(database, make_key(99), encode(make_entry(99))[:-7])
        put_old(database, make_key(3), b"torn")
        put_old(database, "README", b"mine")
    return entries


def verify(path, entries):
    """Check that every entry is there and right, and nothing else is."""
    with FingerprintDatabase(path) as database:
        found = dict(database.get_many())
        assert found == entries
        assert all(key in database for key in entries)
        assert make_key(5) not in database


def verify_compress(path, entries):
    """Check that a compress succeeds and leaves nothing behind."""
    with FingerprintDatabase(path) as database:
        database.compress()
        assert dict(database.get_many()) == entries
        assert os.listdir(f"{database.path}/loose") == ["README"]
        assert os.listdir(f"{database.path}/tmp") == []
        assert not os.path.exists(f"{database.path}/lock")
        with tarfile.open(f"{database.path}/archive.tar.gz", "r|gz") as tar:
            assert {member.name for member in tar} == set(entries)
