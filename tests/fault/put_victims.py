"""Processes that put an entry, and databases for them."""

import hashlib

import numpy as np

from ampmpi import FingerprintDatabase

# Imported now, so that no import meets a fault.
from ampmpi.database import compress as _compress  # noqa: F401
from ampmpi.entries import Fingerprint

KEYS = [hashlib.md5(b"%d" % number).hexdigest() for number in range(6)]
TARGET = KEYS[2]


def make_entry(number):
    """Return an entry that follows from its number."""
    values = np.random.default_rng(number).normal(size=(3, 4))
    return Fingerprint(("Cu",) * 3, {"Cu": 4}, values)


def make_nothing(path):
    """There is no database yet."""
    return {}


def make_empty(path):
    """There is one without entries."""
    FingerprintDatabase.create(path)
    return {}


def make_loose(path):
    """Its entries are loose, the target among them."""
    entries = {key: make_entry(number) for number, key in enumerate(KEYS)}
    FingerprintDatabase(path).update(entries)
    return entries


def make_archived(path):
    """Its entries are in the archive, the target among them."""
    entries = make_loose(path)
    FingerprintDatabase(path).compress()
    return entries


DATABASES = {
    "nothing": make_nothing,
    "empty": make_empty,
    "loose": make_loose,
    "archived": make_archived,
}


def put(path):
    """Put a new value of the target."""
    database, entry = FingerprintDatabase(path), make_entry(1000)
    yield
    database[TARGET] = entry


def delete(path):
    """Delete the target."""
    database = FingerprintDatabase(path)
    yield
    del database[TARGET]


def claim(path):
    """Claim the database."""
    database = FingerprintDatabase(path)
    yield
    database.claim({"Rc": 6.5}, "aa", adopt=True)


def compress(path):
    """Compress the database."""
    database = FingerprintDatabase(path)
    yield
    database.compress()
