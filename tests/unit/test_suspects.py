"""The files in which ranks name what they compute, and what a later job makes of them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ampmpi import FingerprintDatabase
from ampmpi.errors import DatabaseError
from ampmpi.files.atomic import temporary_name
from ampmpi.files.folder import Folder
from ampmpi.files.owner import Owner
from ampmpi.fingerprinting.inventory import Inventory
from ampmpi.fingerprinting.missing import deal_images
from ampmpi.fingerprinting.suspects import CRASHES, InFlight, forget, read_suspects
from ampmpi.images import ImageList
from ampmpi.keys import digests_of
from ampmpi.parallel.comm import SerialCommunicator

KEYS = [f"{number:032x}" for number in (7, 3, 1, 256)]


@pytest.fixture
def folder(tmp_path) -> Folder:
    (tmp_path / "tmp").mkdir()
    return Folder.open(str(tmp_path / "tmp"))


def left_over(folder: Folder, key: str | None, runs: int = 1, host: str | None = None) -> str:
    """Leave the file of a rank that was killed; return its name."""
    marker = InFlight(folder, 0)
    if key is not None:
        marker.start(key, runs)
    me = Owner.me()
    name = marker.name.replace(f"-{me.pid}-{me.start}-", f"-{me.pid}-{me.start + 1}-")
    if host is not None:
        name = name.replace(f"-{me.host}-", f"-{host}-")
    folder.rename(marker.name, folder, name)
    os.close(marker._file)
    return name


def test_a_rank_names_one_image_at_a_time(folder):
    marker = InFlight(folder, 3)
    assert read_suspects(folder) == {}
    for runs, key in enumerate(KEYS):
        marker.start(key, runs)
        assert read_suspects(folder) == {key: runs}
        assert read_suspects(folder, but=marker.name) == {}
    marker.end()
    assert folder.names() == []


def test_the_file_is_readable_for_whom_the_database_is(folder):
    shared = Folder(folder.path, os.dup(folder.descriptor), 0o664, folder.group)
    before = os.umask(0o077)
    try:
        marker = InFlight(shared, 0)
    finally:
        os.umask(before)
    assert folder.status(marker.name).st_mode & 0o777 == 0o664


@pytest.mark.parametrize("host", [None, "elsewhere"])
def test_nobody_needs_to_know_who_is_dead(folder, host):
    """A rank that died here, one on another host, and a living one are suspects alike."""
    for runs in (2, 1):
        left_over(folder, KEYS[0], runs, host)
    living = InFlight(folder, 1)
    living.start(KEYS[0], 1)
    assert read_suspects(folder) == {KEYS[0]: 2}


def test_what_is_done_is_forgotten(folder):
    left_over(folder, KEYS[0])
    left_over(folder, KEYS[0], 2, "elsewhere")
    other = left_over(folder, KEYS[1], 1)
    idle = left_over(folder, None)
    far = left_over(folder, None, host="elsewhere")
    living = InFlight(folder, 0)
    assert idle in folder.names()
    forget(folder, [KEYS[0], KEYS[3]])
    # Of a rank of another host that computes nothing right now, it is not known that it is dead.
    assert sorted(folder.names()) == sorted([other, far, living.name])
    assert read_suspects(folder) == {KEYS[1]: 1}


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 35, b"rubbish", KEYS[0].encode(), KEYS[0].upper().encode() + b" x\n"]
)
def test_a_damaged_file_names_nothing(folder, content):
    name = left_over(folder, KEYS[0])
    with open(os.path.join(folder.path, name), "wb") as file:
        file.write(content)
    assert read_suspects(folder) == {}
    forget(folder, [])
    assert folder.names() == []


@pytest.mark.timeout(20)
def test_what_is_no_file_is_passed_over(folder):
    names = [temporary_name("suspect") for _ in range(3)]
    os.mkfifo(os.path.join(folder.path, names[0]))
    os.symlink("/dev/zero", os.path.join(folder.path, names[1]))
    os.mkdir(os.path.join(folder.path, names[2]))
    assert read_suspects(folder) == {}


def test_other_files_are_left_alone(folder):
    names = ["notes.image", "crashed-x", "inflight.json", temporary_name("put"), ".nfs0001"]
    for name in names:
        open(os.path.join(folder.path, name), "wb").close()
    assert read_suspects(folder) == {}
    forget(folder, KEYS)
    assert sorted(folder.names()) == sorted(names)


def test_a_database_that_cannot_be_written_is_named(folder):
    os.rmdir(folder.path)
    with pytest.raises(DatabaseError, match=r"cannot write to the database at .*/tmp"):
        InFlight(folder, 0)


def test_a_compress_leaves_suspects_where_they_are(tmp_path):
    with FingerprintDatabase.create(tmp_path / "x-fingerprints") as database:
        name = left_over(database.make().temporaries, KEYS[0])
        database.compress()
        assert database.make().temporaries.names() == [name]


class OneOfMany(SerialCommunicator):
    """Rank 0 of several: it keeps what the others would receive."""

    size = 3

    def __init__(self) -> None:
        self.dealt: list[list[list[int]]] = []

    def scatter_each(self, part, root=0):
        parts = [part(rank) for rank in range(self.size)]
        self.dealt.append([columns[0].tolist() for columns in parts])
        return parts[0]


def test_suspects_are_dealt_last_and_to_one_rank():
    keys = sorted(f"{number:032x}" for number in range(100, 120))
    digests = digests_of(keys)
    inventory = Inventory(
        images=ImageList([None] * 20),
        digests=digests,
        numbers=np.arange(20),
        costs=np.ones(20, np.float32),
        homes=np.arange(20) % 3,
        locators=None,
        symbols=("Cu",),
        failed={},
        repeated=np.empty(0, int),
        times=np.empty(0, int),
    )
    what = np.ones(20, np.uint8)
    what[5] = 0
    suspects = {
        keys[3]: 1,
        keys[4]: CRASHES,
        keys[5]: CRASHES,  # it is there
        keys[9]: 1,
    }
    comm = OneOfMany()
    shares, aside = deal_images(inventory, what, suspects, comm)
    first, late = comm.dealt
    assert late == [[], [], [3, 9]]
    others = sorted(set(range(20)) - {3, 4, 5, 9})
    assert sorted(index for rank in first for index in rank) == others
    # The rank that does the suspects has as many fewer of the others.
    assert len(first[2]) < len(first[0])
    assert [share.indices for share in shares] == [first[0], []]
    assert list(aside) == [4]
    assert "2 runs crashed" in aside[4]
    assert "--retry tries it again" in aside[4]
