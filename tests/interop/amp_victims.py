"""Amp at work on its databases, to be killed; run by the Python in which Amp is installed."""

import contextlib
import hashlib
import io

from amp.utilities import FileDatabase


def make_key(number):
    return hashlib.md5(b"%d" % number).hexdigest()


def make_entry(number):
    """Return an entry that follows from its number, a large one."""
    return [("Cu", [1 / (3 + number + atom + place) for place in range(20)]) for atom in range(40)]


def put(path, numbers, shift):
    """Keep entries, whose values are those of other numbers."""
    database = FileDatabase(path)
    yield
    for number in numbers:
        database[make_key(number)] = make_entry(number + shift)


def archive(path):
    database = FileDatabase(path)
    yield
    with contextlib.redirect_stdout(io.StringIO()):
        database.archive()


def check(path, numbers):
    """Read everything with Amp's own class; fail if anything is missing, wrong, or too much."""
    yield
    database = FileDatabase(path)
    assert sorted(database.keys()) == sorted(map(make_key, numbers))
    for number in numbers:
        assert database[make_key(number)] == make_entry(number), make_key(number)
