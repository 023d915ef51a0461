"""Amp itself is killed at the calls with which it touches files; its databases are used on."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ampmpi import FingerprintDatabase
from ampmpi.entries import Fingerprint

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "fault"))

from faults import FaultServer, compile_shim  # noqa: E402

NUMBERS = list(range(6))
SHIFT = 100
CHANGES = {"open64", "write", "rename", "unlink", "close"}


@pytest.fixture(scope="module")
def server(amp_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return what runs Amp's acts of amp_victims.py and kills them."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler for the shim that places faults")
    shim = compile_shim(tmp_path_factory.mktemp("shim"))
    with FaultServer(shim, "amp_victims", HERE, amp_python) as server:
        yield server


@pytest.fixture
def folder() -> Iterator[str]:
    """Return a folder in memory, where that can be had."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield folder


def make_key(number: int) -> str:
    import hashlib

    return hashlib.md5(b"%d" % number).hexdigest()


def make_entry(number: int) -> Fingerprint:
    """Return the entry of amp_victims.py."""
    values = [[1 / (3 + number + atom + place) for place in range(20)] for atom in range(40)]
    return Fingerprint(("Cu",) * 40, {"Cu": 20}, np.array(values))


EXPECTED = {make_key(number): make_entry(number) for number in NUMBERS}
OLD = {make_key(number): make_entry(number + SHIFT) for number in NUMBERS}


def kills(server: Any, original: str, act: str, *arguments: Any) -> Iterator[str]:
    """Kill Amp before or after each call, and in the middle of each write; 60 points at most.

    Yields the path of what it leaves.
    """
    path = original.replace("original", "copy")
    shutil.copytree(original, path)
    names = server.calls(act, path, *arguments)
    assert len(names) >= 12
    points = [
        (number, action)
        for number, name in enumerate(names, 1)
        for action in ("KILL", "KILL_AFTER", *["KILL_SHORT"] * (name == "write"))
        if action == "KILL" or name in CHANGES
    ]
    for number, action in points[:: -(-len(points) // 60)]:
        shutil.rmtree(path)
        shutil.copytree(original, path)
        outcome = server.run(act, path, *arguments, action=action, number=number)
        assert outcome.status == "killed", (number, action, outcome)
        yield path


def use_on(server: Any, path: str) -> None:
    """Compute what is missing, compress, and let Amp open the result."""
    hour_ago = time.time() - 3600
    for file in Path(path, "loose").iterdir():
        os.utime(file, (hour_ago, hour_ago))
    with FingerprintDatabase(path) as database:
        for key in database.missing(EXPECTED, check=True):
            database[key] = EXPECTED[key]
        report = database.compress()
        assert not report.left and not report.warnings
        assert dict(database.get_many()) == EXPECTED
    assert os.listdir(f"{path}/loose") == []
    outcome = server.run("check", path, NUMBERS)
    assert outcome.status == "returned", outcome


def amp_does(server: Any, act: str, *arguments: Any) -> None:
    outcome = server.run(act, *arguments)
    assert outcome.status == "returned", outcome


def test_killed_while_it_writes_entries(server: Any, folder: str) -> None:
    """Of the one in the making nothing is used; all others are."""
    original = f"{folder}/original-fingerprints.ampdb"
    amp_does(server, "put", original, NUMBERS[:2], 0)
    torn = 0
    for path in kills(server, original, "put", NUMBERS[2:5], 0):
        with FingerprintDatabase(path) as database:
            found = dict(database.get_many())
            assert found.items() <= EXPECTED.items()
            there = os.listdir(f"{path}/loose")
            assert len(database.corrupt) <= 1
            assert found.keys() | database.corrupt.keys() == set(there)
            torn += len(database.corrupt)
        use_on(server, path)
    assert torn >= 3


@pytest.mark.parametrize("archived", [False, True])
def test_killed_while_it_writes_entries_anew(server: Any, folder: str, archived: bool) -> None:
    """Amp empties the file first: where the archive has the old entry, that one is used."""
    original = f"{folder}/original-fingerprints.ampdb"
    amp_does(server, "put", original, NUMBERS, SHIFT)
    if archived:
        with FingerprintDatabase(original) as database:
            database.compress()
        amp_does(server, "put", original, NUMBERS[:2], SHIFT)
    torn = 0
    for path in kills(server, original, "put", NUMBERS[:2], 0):
        with FingerprintDatabase(path) as database:
            found = dict(database.get_many())
            torn += len(database.corrupt)
            for key, entry in found.items():
                assert entry in (EXPECTED[key], OLD[key])
            assert len(found) == len(NUMBERS) - (0 if archived else len(database.corrupt))
    assert torn >= 2


@pytest.mark.parametrize("before", ["nothing", "its own", "ours"])
def test_killed_while_it_archives(server: Any, folder: str, before: str) -> None:
    """Whatever is archived, or was, is there in one of the places."""
    original = f"{folder}/original-fingerprints.ampdb"
    amp_does(server, "put", original, NUMBERS[:5], 0)
    if before == "its own":
        amp_does(server, "archive", original)
    elif before == "ours":
        with FingerprintDatabase(original) as database:
            database.compress()
    amp_does(server, "put", original, NUMBERS[3:], 0)
    for path in kills(server, original, "archive"):
        with FingerprintDatabase(path) as database:
            assert dict(database.get_many()) == EXPECTED
        use_on(server, path)
