"""Processes that write packs, salvage them, and assemble archives of them; databases for these."""

import ctypes
import mmap
import os
import pickle
import signal
import subprocess
import sys
from functools import partial

from samples import make_entry, make_key

from ampmpi import FingerprintDatabase
from ampmpi.database import compress as compressing
from ampmpi.database import packs, sound
from ampmpi.database.archive.deflate import deflate
from ampmpi.database.compress import compress as compress_database
from ampmpi.database.layout import Home
from ampmpi.database.packs import PackLimits, PackWriter
from ampmpi.entries.codec import encode

LARGE = PackLimits(1 << 62, 1e9)
OLD, NEW = range(12), range(100, 104)
_REAL = {name: getattr(sound, name) for name in ("copy_records", "checksums_of")}
_REAL["salvage"] = packs.salvage

deflate(encode(make_entry(0)))  # now, so that no import meets a fault


def entries_of(numbers):
    """Return entries by key."""
    return {make_key(number): make_entry(number) for number in numbers}


def put_all(writer, numbers):
    """Append entries to a pack."""
    for number in numbers:
        writer.put_bytes(make_key(number), encode(make_entry(number)))


def make_pack(path, numbers):
    """Add a pack to a database."""
    writer = PackWriter(Home.open(path))
    put_all(writer, numbers)
    writer.close()


_LEFT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from ampmpi.database.layout import Home
from ampmpi.database.packs import PackWriter
from pack_victims import LARGE, put_all
writer = PackWriter(Home.open(sys.argv[2]), limits=LARGE)
put_all(writer, map(int, sys.argv[3:]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def leave_unfinished(path, numbers):
    """Let a process write entries into a pack, and die."""
    folder = os.path.dirname(os.path.abspath(__file__))
    command = [sys.executable, "-c", _LEFT, folder, str(path), *map(str, numbers)]
    done = subprocess.run(command, check=False)
    assert done.returncode == -signal.SIGKILL


def make_database(path):
    """Make a database with entries in every place; return them."""
    with FingerprintDatabase.create(path) as database:
        for number in (0, 1, 2):
            database[make_key(number)] = make_entry(number)
        database.compress()
        for number in (3, 4):
            database[make_key(number)] = make_entry(number)
    make_pack(path, (5, 6, 1))  # one is in the archive, too
    make_pack(path, (7, 8))
    leave_unfinished(path, (9, 10, 11))
    return entries_of(OLD)


def write(path, told, gone=0):
    """Write entries into two packs; say in a file of one byte how many are written.

    After so many as `gone` says somebody thinks that this process is dead, saves what is in
    its pack, and removes it.
    """
    with open(told, "r+b") as file:
        written = mmap.mmap(file.fileno(), 1)  # to say it takes no call
    home = Home.open(path)
    writer = PackWriter(home, 3, LARGE)
    before = packs.open_packs(home)
    put_all(writer, NEW[:gone])
    written[0] = gone
    if gone:
        for name in set(packs.open_packs(home)).difference(before):
            assert packs.salvage(home, name) == (gone, None)
        writer._last -= 1000
    yield
    for number in NEW[gone:2]:
        put_all(writer, [number])
        written[0] += 1
    writer.close()
    for number in NEW[2:]:
        put_all(writer, [number])
        written[0] += 1
    writer.close()


def salvage(path):
    """Save what is in an unfinished pack."""
    home = Home.open(path)
    yield
    for name in packs.unfinished(home):
        packs.salvage(home, name)


def compress(path):
    """Compress a database."""
    yield
    compress_database(path)


def compress_by_two(path, function, *fault):
    """Compress with a forked process, in which each call of a function meets a fault."""
    compressing.__dict__[function] = partial(_meet, function, fault, f"{path}.count")
    yield
    compress_database(path, processes=2)


def _meet(function, fault, counted, *arguments):
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    action, number, error = fault
    library.fault_arm(number, action, error)
    try:
        return _REAL[function](*arguments)
    finally:
        count = library.fault_disarm()
        with open(counted, "wb") as file:
            pickle.dump(count, file)
