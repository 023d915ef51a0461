"""Two processes in one database: at each step of the one, the other does all its work.

The steps are the calls of `os`, and renames that neither replace nor follow; at the
n-th of them another act happens, for every n. The lock is held for as long as its
holder lives, which is this process: who wants it meanwhile is refused and leaves
everything as it is.
"""

import os
import shutil
import tempfile

import pytest
from put_victims import KEYS, make_entry

from ampmpi.database import FingerprintDatabase
from ampmpi.database.merge import merge
from ampmpi.errors import LockedError
from ampmpi.files import atomic

CALLS = (
    *("open", "read", "pread", "write", "pwrite", "close", "fsync", "dup", "ftruncate"),
    *("stat", "fstat", "listdir", "scandir", "rename", "link", "unlink", "mkdir"),
)
OLD, NEW = (
    {key: make_entry(start + number) for number, key in enumerate(KEYS)} for start in (0, 100)
)
ABSENT = "0" * 32
LOOSE, ARCHIVED, BOTH, OTHER, OTHER_LOOSE = KEYS[:5]
CONTENT = {key: OLD[key] for key in KEYS[:5]}
MERGED = KEYS[5]


@pytest.fixture(scope="module")
def folder():
    """A folder in memory, where that can be had."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield folder


@pytest.fixture(scope="module")
def original(folder):
    """A database with entries loose, archived, and in both places."""
    database = FingerprintDatabase(f"{folder}/original-fingerprints")
    for key in (ARCHIVED, OTHER):
        database[key] = OLD[key]
    database[BOTH] = NEW[BOTH]
    database.compress()
    for key in (LOOSE, BOTH, OTHER_LOOSE):
        database[key] = OLD[key]
    with FingerprintDatabase(f"{folder}/source-fingerprints") as source:
        source[MERGED] = OLD[MERGED]
    return database.path


class Interruption:
    """Counts the calls of `os`, and acts once, before one of them."""

    def __init__(self, monkeypatch, number, act):
        self.count, self.number, self.act = 0, number, act
        self.acted = False
        self.result = None
        self.before = ""
        for name in CALLS:
            monkeypatch.setattr(os, name, self.interrupted(getattr(os, name), name))
        rename = self.interrupted(atomic._rename_with, "renameat2")
        monkeypatch.setattr(atomic, "_rename_with", rename)

    def interrupted(self, call, name):
        def interrupted(*arguments, **keywords):
            self.count += not self.acted
            if self.count == self.number and not self.acted:
                self.acted = True
                self.before = f"{name} {arguments[0]}"
                self.result = self.act()
            return call(*arguments, **keywords)

        return interrupted


def interrupt_everywhere(original, folder, main, act, every=1):
    """Go through the places of one act in another one.

    Yields the path, what main and the act gave, and before which call it was interrupted.

    `main` and `act` are functions of a path; one of `every` few places is gone to.
    """
    number, path = 1 - every, f"{folder}/copy-fingerprints.ampdb"
    while True:
        number += every
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(original, path)
        with pytest.MonkeyPatch.context() as monkeypatch:
            interruption = Interruption(monkeypatch, number, lambda: act(path))
            result = main(path)
        if not interruption.acted:
            break
        yield path, result, interruption.result, interruption.before
    assert number > 3


def unless_locked(work):
    """Return an act that says whether it was done: it waits for no lock."""

    def act(path):
        try:
            work(path)
        except LockedError:
            return False
        return True

    return act


def compress(path):
    FingerprintDatabase(path).compress()


def merge_one(path):
    merge(path, [f"{os.path.dirname(path)}/source-fingerprints"], assume_same=True)


def put(key):
    def put(path):
        FingerprintDatabase(path)[key] = NEW[key]

    return put


def delete(key):
    def delete(path):
        assert FingerprintDatabase(path).delete([key], wait=0) == 1

    return delete


MOVES = {
    "compress": compress,
    "merge": merge_one,
    "delete another": delete(OTHER),
    "delete another loose one": delete(OTHER_LOOSE),
    "compress twice": lambda path: (compress(path), put(OTHER)(path), compress(path)),
}


@pytest.mark.parametrize("key", [LOOSE, ARCHIVED, BOTH])
@pytest.mark.parametrize("main", ["compress", "merge", "delete another"])
def test_puts_during_a_rewrite(original, folder, main, key):
    expected = {**CONTENT, key: NEW[key]}
    if main == "merge":
        expected[MERGED] = OLD[MERGED]
    if main == "delete another":
        del expected[OTHER]
    for path, _, _, before in interrupt_everywhere(original, folder, MOVES[main], put(key)):
        if before == f"unlink {key}":
            # The one moment that is left open: between the last look at a loose file
            # and its removal. What is written then goes, and is computed again.
            found = dict(FingerprintDatabase(path))
            found.pop(key, None)
            assert found == {other: expected[other] for other in expected if other != key}
            continue
        check_content(path, expected, before)


@pytest.mark.parametrize("key", [LOOSE, ARCHIVED, BOTH])
@pytest.mark.parametrize("main", ["compress", "merge"])
def test_deletions_during_a_rewrite(original, folder, main, key):
    """They are refused while the lock is held, or stay done."""
    act = unless_locked(delete(key))
    outcomes = set()
    for path, _, done, before in interrupt_everywhere(original, folder, MOVES[main], act):
        expected = CONTENT if main == "compress" else {**CONTENT, MERGED: OLD[MERGED]}
        outcomes.add(done)
        if done:
            expected = {other: entry for other, entry in expected.items() if other != key}
        check_content(path, expected, before)
    assert outcomes == {True, False}


@pytest.mark.parametrize("move", [move for move in MOVES if move != "delete another loose one"])
@pytest.mark.parametrize("key", [LOOSE, ARCHIVED, BOTH])
def test_moves_during_a_deletion(original, folder, key, move):
    act = unless_locked(MOVES[move])
    outcomes = set()
    for path, _, done, before in interrupt_everywhere(original, folder, delete(key), act):
        outcomes.add(done)
        database = FingerprintDatabase(path)
        assert key not in database, before
        expected = {other: entry for other, entry in CONTENT.items() if other != key}
        if done and move == "merge":
            expected[MERGED] = OLD[MERGED]
        if done and move == "delete another":
            del expected[OTHER]
        if move == "compress twice" and OTHER in database and database[OTHER] == NEW[OTHER]:
            expected[OTHER] = NEW[OTHER]
        check_content(path, expected, before)
    assert outcomes == {True, False}


@pytest.mark.parametrize("key", [LOOSE, ARCHIVED, BOTH])
def test_what_is_put_anew_during_a_deletion_is_old_or_new_or_gone(original, folder, key):
    others = {other: entry for other, entry in CONTENT.items() if other != key}
    for path, _, _, before in interrupt_everywhere(original, folder, delete(key), put(key)):
        found = dict(FingerprintDatabase(path))
        assert found.pop(key, None) in (None, NEW[key]), before
        assert found == others, before


def check_content(path, expected, before):
    """A database has what is expected, also after the next compress, which leaves nothing else."""
    for _ in range(2):
        database = FingerprintDatabase(path)
        assert dict(database) == expected, before
        assert dict(database.get_many()) == expected, before
        assert not database.corrupt, before
        database.compress()
    assert os.listdir(f"{path}/loose") == []
    assert os.listdir(f"{path}/tmp") == []


READERS = {
    "one by one": lambda path: {key: FingerprintDatabase(path).get(key) for key in [*KEYS, ABSENT]},
    "many": lambda path: dict(FingerprintDatabase(path).get_many([*KEYS, ABSENT])),
    "all": lambda path: dict(FingerprintDatabase(path).get_many()),
    "in": lambda path: {key: key in FingerprintDatabase(path) for key in KEYS},
    "keys": lambda path: dict.fromkeys(FingerprintDatabase(path), True),
    "missing": lambda path: dict.fromkeys(
        set(KEYS) - FingerprintDatabase(path).missing(KEYS), True
    ),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("reader", READERS)
def test_readers_see_every_entry_while_it_moves(original, folder, reader, move):
    deleted = {"delete another": OTHER, "delete another loose one": OTHER_LOOSE}.get(move)
    replaced = OTHER if move == "compress twice" else None
    for _, found, _, before in interrupt_everywhere(original, folder, READERS[reader], MOVES[move]):
        assert not found.get(ABSENT)
        for key in CONTENT:
            if key == deleted:
                assert found.get(key) in (None, False, True, OLD[key]), before
            elif key == replaced:
                assert found[key] in (True, OLD[key], NEW[key]), before
            else:
                assert found[key] is True or found[key] == OLD[key], before
