"""Two processes in one database with packs: at each step of the one, the other does all its work.

The steps are as in ``test_interleavings.py``. Writers of packs may be taken for dead
here: a saver or a compress takes what they have written so far, at each of their steps.
"""

import contextlib
import itertools
import os
import shutil
import tempfile
import time

import pytest
from pack_victims import entries_of, leave_unfinished, make_pack, put_all
from samples import make_key
from test_interleavings import Interruption, interrupt_everywhere, unless_locked

from ampmpi.database import FingerprintDatabase, packs
from ampmpi.database.layout import Home
from ampmpi.database.packs import PackLimits, PackWriter
from ampmpi.files import atomic

LOOSE, ARCHIVED, PACKED, BOTH, OTHER = range(5)
UNFINISHED = (9, 10)
CONTENT = entries_of(range(5))
WRITTEN = range(50, 54)
ALL = {**CONTENT, **entries_of(UNFINISHED)}


@pytest.fixture(scope="module")
def folder():
    """A folder in memory, where that can be had."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield folder


@pytest.fixture(scope="module")
def original(folder):
    """A database with entries in every place, whose packs are not new."""
    path = f"{folder}/original-fingerprints.ampdb"
    with FingerprintDatabase.create(path) as database:
        database.update(entries_of([ARCHIVED, BOTH]))
        database.compress()
        database.update(entries_of([LOOSE]))
    make_pack(path, [PACKED, BOTH])
    make_pack(path, [OTHER])
    leave_unfinished(path, UNFINISHED)
    hour_ago = time.time() - 3600
    os.utime(f"{path}/packs", (hour_ago, hour_ago))  # so that its state is believed
    return path


def compress(path):
    FingerprintDatabase(path).compress()


def save(path):
    home = Home.open(path)
    for name in packs.unfinished(home):
        packs.salvage(home, name)


def end_pack(*numbers):
    return lambda path: make_pack(path, numbers)


def delete(number):
    def delete(path):
        FingerprintDatabase(path).delete([make_key(number)], wait=0)

    return delete


def again_and_again(path):
    """Let what was moved be written anew, and moved again."""
    compress(path)
    make_pack(path, [PACKED, LOOSE])
    compress(path)


MOVES = {
    "compress": compress,
    "save": save,
    "end a pack": end_pack(OTHER, 60),
    "delete another": delete(OTHER),
    "again and again": again_and_again,
}
KEYS = list(map(make_key, range(5)))


def cached(look):
    """Return a reader that has looked before, and knows the packs."""

    def read(path):
        with FingerprintDatabase(path) as database:
            dict(database.get_many())
            return look(database)

    return read


def fresh(look):
    return lambda path: look(FingerprintDatabase(path))


LOOKS = {
    "get": lambda database: {key: database.get(key) for key in KEYS},
    "many": lambda database: dict(database.get_many(KEYS)),
    "all": lambda database: dict(database.get_many()),
    "in": lambda database: {key: key in database for key in KEYS},
    "keys": lambda database: dict.fromkeys(database, True),
    "missing": lambda database: dict.fromkeys(set(KEYS) - database.missing(KEYS), True),
}


@pytest.mark.parametrize(
    ("reader", "look", "move", "every"),
    [*((cached, look, "compress", 2) for look in LOOKS),
     *((cached, look, "again and again", 3) for look in ("get", "all", "missing")),
     *((cached, "many", move, 2) for move in MOVES), (fresh, "get", "compress", 1)],
)  # fmt: skip
def test_readers_see_every_entry_while_it_moves(original, folder, reader, look, move, every):
    main = reader(LOOKS[look])
    for _, found, _, before in interrupt_everywhere(original, folder, main, MOVES[move], every):
        for key, entry in CONTENT.items():
            if key == make_key(OTHER) and move == "delete another":
                assert found.get(key) in (None, False, True, entry), before
            else:
                assert found.get(key) is True or found.get(key) == entry, before


def check_content(path, expected, before):
    """A database has what is expected after the next two compressions, which leave nothing else."""
    for _ in range(2):
        compress(path)
        database = FingerprintDatabase(path)
        assert dict(database.get_many()) == expected, before
        assert set(database) == set(expected), before
        assert not database.corrupt, before
    for name in ("loose", "packs", "tmp"):
        assert os.listdir(f"{path}/{name}") == [], before


@contextlib.contextmanager
def elsewhere():
    """Let packs be written as on another host, and be taken for left at once."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        numbers = itertools.count()

        def named(purpose, rank=0, replaced=None):
            if purpose != "pack":
                return real(purpose, rank, replaced)
            return f"ampmpi-pack-elsewhere-01234567-1-1-1-r{rank}-{next(numbers):012x}.tmp"

        real = atomic.temporary_name
        monkeypatch.setattr(atomic, "temporary_name", named)
        monkeypatch.setattr(packs, "STILL", -10.0)
        monkeypatch.setattr(packs, "_PAUSE", -1.0)
        yield


def write(path):
    """Write three packs."""
    writer = PackWriter(Home.open(path), limits=PackLimits(1 << 62, 1e9))
    put_all(writer, WRITTEN[:2])
    writer.close()
    put_all(writer, WRITTEN[2:3])
    writer.close()
    put_all(writer, WRITTEN[3:])
    writer.close()
    found = dict(FingerprintDatabase(path).get_many(map(make_key, WRITTEN)))
    assert found == entries_of(WRITTEN)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["alive", "taken for dead"])
def test_a_pack_is_written_while_others_move(original, folder, move, is_elsewhere):
    expected = {**ALL, **entries_of(WRITTEN)}
    if move == "end a pack":
        expected |= entries_of([60])
    if move == "delete another":
        del expected[make_key(OTHER)]
    with elsewhere() if is_elsewhere else contextlib.nullcontext():
        places = interrupt_everywhere(original, folder, write, MOVES[move], 1 + (not is_elsewhere))
        for path, _, _, before in places:
            check_content(path, expected, before)


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends its pack"])
@pytest.mark.parametrize("saver", [save, compress])
def test_a_writer_wakes_up_while_it_is_saved(original, folder, saver, ends):
    """What it appended before, and appends then, is there, whatever the saver has read."""
    writers = []

    def wake_up(path):
        writer = writers.pop()
        put_all(writer, WRITTEN[2:])
        if ends:
            writer.close()
        else:
            writers.append(writer)

    def main(path):
        writer = PackWriter(Home.open(path))
        put_all(writer, WRITTEN[:2])
        with pytest.MonkeyPatch.context() as monkeypatch:
            interrupted = Interruption(monkeypatch, next(numbers), lambda: wake_up(path))
            writers[:] = [writer]
            saver(path)
        for rest in writers:
            if not interrupted.acted:
                put_all(rest, WRITTEN[2:])
            rest.close()
        acted.append(interrupted.acted)

    numbers, acted = itertools.count(1, 2), []
    path = f"{folder}/copy-fingerprints.ampdb"
    with elsewhere():
        while not acted or acted[-1]:
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(original, path)
            main(path)
            check_content(path, {**ALL, **entries_of(WRITTEN)}, len(acted))
    assert len(acted) > 20


@pytest.mark.parametrize(
    ("main", "act"),
    [(main, act) for main in ("compress", "save", "delete another")
     for act in ("compress", "save", "end a pack", "delete another", "write")
     if not main == act == "delete another"],
)  # fmt: skip
def test_others_move_while_packs_are_saved_and_moved(original, folder, main, act):
    moves = {**MOVES, "write": write}
    after = dict(ALL)
    if act == "end a pack":
        after |= entries_of([60])
    if act == "write":
        after |= entries_of(WRITTEN)
    outcomes = set()
    every = 3 if main == "save" else 9
    places = interrupt_everywhere(original, folder, moves[main], unless_locked(moves[act]), every)
    for path, _, done, before in places:
        outcomes.add(done)
        expected = dict(after)
        is_put_anew = {main, act} == {"end a pack", "delete another"}
        if main == "delete another" or (act == "delete another" and done):
            expected.pop(make_key(OTHER))
        found = dict(FingerprintDatabase(path).get_many())
        if is_put_anew and make_key(OTHER) in found:
            expected |= entries_of([OTHER])  # it was written after it was deleted
        check_content(path, expected, before)
    assert True in outcomes
