"""A compress is suspended before it puts its archive in place, and another one goes by.

Whoever suspends it (a laptop's lid, a debugger, a batch system) and whoever
takes its lock away: the archive that it puts in place may be older than the one
that is there by then. Every entry of both must be found afterwards.
"""

import os
import signal
import subprocess
import threading
import time

import commands
import gate
import pytest
from put_victims import make_entry
from samples import make_key

from ampmpi import FingerprintDatabase

pytestmark = pytest.mark.skipif(not gate.works(), reason="no seccomp notifications here")

NAME = "x-fingerprints.ampdb"
COMPRESS = [*commands.AMPMPI, "compress", NAME, "-p", "1"]
MERGE = [*commands.AMPMPI, "merge", NAME, "second-fingerprints.ampdb", "--assume-same"]
REPAIR = [*commands.AMPMPI, "check", "--repair", NAME]


def put(path, numbers, shift=0):
    """Put entries; return them."""
    entries = {make_key(number): make_entry(number + shift) for number in numbers}
    FingerprintDatabase(path).update(entries)
    return entries


@pytest.fixture
def folder(tmp_path):
    """A database with eight archived and eight loose entries."""
    put(tmp_path / NAME, range(8))
    FingerprintDatabase(tmp_path / NAME).compress()
    put(tmp_path / NAME, range(8, 16))
    put(tmp_path / "second-fingerprints.ampdb", range(40, 44))
    return tmp_path


def comes_to_the_archive(call):
    """Whether a call gives the archive its name, or takes it away."""
    return call.concerns(f"/{NAME}/archive.tar.gz")


def newer_archive(folder):
    """Let another process make a newer archive, of more entries; return what it put."""
    entries = put(folder / NAME, range(16, 28))
    commands.succeed("compress", NAME, "--break-lock", cwd=folder)
    return entries


def check_all(folder, entries):
    """Every entry is there, and is after the next compress, which leaves the database clean."""
    path = folder / NAME
    found = commands.contents(path)
    missing = set(entries) - set(found)
    commands.succeed("compress", NAME, "--break-lock", cwd=folder)
    after = commands.contents(path)
    assert after == entries, (len(missing), sorted(set(entries) - set(after)))
    # What the next compress brings back may be out of sight until then, but nothing is wrong.
    assert all(entry == entries[key] for key, entry in found.items())
    commands.succeed("check", NAME, cwd=folder)
    assert not os.listdir(path / "loose")
    assert not os.path.lexists(path / "lock")


def entries_of(*ranges):
    return {make_key(number): make_entry(number) for each in ranges for number in each}


@pytest.mark.parametrize("command", [COMPRESS, MERGE], ids=["compress", "merge"])
def test_a_suspended_compress_does_not_replace_a_newer_archive(folder, command):
    held = gate.Turnstile(comes_to_the_archive)
    with gate.Gate(command, held, cwd=folder, env=commands.environment()) as running:
        gate.wait(held.reached, running)
        newer_archive(folder)
        held.let_go()
        code, output = running.end()
    commands.check_words(output)
    expected = entries_of(range(28))
    found = commands.contents(folder / NAME)
    if command is MERGE and code == 0:
        expected |= entries_of(range(40, 44))
    assert found == expected, output
    check_all(folder, expected)


def test_a_suspended_first_compress_does_not_replace_the_first_archive(tmp_path):
    put(tmp_path / NAME, range(8))
    held = gate.Turnstile(comes_to_the_archive)
    with gate.Gate(COMPRESS, held, cwd=tmp_path, env=commands.environment()) as running:
        gate.wait(held.reached, running)
        newer_archive(tmp_path)
        held.let_go()
        running.end()
    expected = entries_of(range(8), range(16, 28))
    assert commands.contents(tmp_path / NAME) == expected
    check_all(tmp_path, expected)


def test_a_suspended_repair_does_not_replace_a_newer_archive(folder):
    path = folder / NAME
    with open(path / "archive.tar.gz", "r+b") as file:
        file.seek(700)
        file.write(b"damage")
    held = gate.Turnstile(
        lambda call: comes_to_the_archive(call) and "damaged" not in call.source + call.target
    )
    with gate.Gate(REPAIR, held, cwd=folder, env=commands.environment()) as running:
        gate.wait(held.reached, running)
        put(path, range(8))
        newer_archive(folder)
        held.let_go()
        running.end()
    expected = entries_of(range(28))
    assert commands.contents(path) == expected
    check_all(folder, expected)


def test_the_newer_value_of_an_entry_stays(folder):
    held = gate.Turnstile(comes_to_the_archive)
    with gate.Gate(COMPRESS, held, cwd=folder, env=commands.environment()) as running:
        gate.wait(held.reached, running)
        put(folder / NAME, range(4, 12), shift=1000)
        newer_archive(folder)
        held.let_go()
        running.end()
    expected = entries_of(range(28))
    expected |= {make_key(number): make_entry(number + 1000) for number in range(4, 12)}
    assert commands.contents(folder / NAME) == expected
    check_all(folder, expected)


def test_three_compressions_that_suspend_one_another_lose_nothing(folder):
    environment = commands.environment()
    first, second = gate.Turnstile(comes_to_the_archive), gate.Turnstile(comes_to_the_archive)
    with gate.Gate(COMPRESS, first, cwd=folder, env=environment) as one:
        gate.wait(first.reached, one)
        put(folder / NAME, range(30, 34))
        with gate.Gate([*COMPRESS, "--break-lock"], second, cwd=folder, env=environment) as two:
            gate.wait(second.reached, two)
            newer_archive(folder)
            first.let_go()
            one.end()
            second.let_go()
            two.end()
    expected = entries_of(range(28), range(30, 34))
    check_all(folder, expected)


class KilledLater:
    """Holds the first call at the archive, and kills at a later one."""

    def __init__(self, later):
        self.held = gate.Turnstile(comes_to_the_archive)
        self.later = later
        self.count = 0
        self.killed = False
        self.lock = threading.Lock()

    def __call__(self, call):
        if comes_to_the_archive(call):
            with self.lock:
                self.count += 1
                if self.count > self.later:
                    self.killed = True
                    os.kill(call.pid, signal.SIGKILL)
        return self.held(call)


@pytest.mark.parametrize("later", [1, 2, 3])
@pytest.mark.parametrize("command", [COMPRESS, MERGE], ids=["compress", "merge"])
def test_killed_between_two_exchanges_the_next_compress_brings_all_back(folder, command, later):
    decide = KilledLater(later)
    with gate.Gate(command, decide, cwd=folder, env=commands.environment()) as running:
        gate.wait(decide.held.reached, running)
        newer_archive(folder)
        decide.held.let_go()
        code, output = running.end()
    assert decide.killed or code in (0, 4, 6), output
    commands.succeed("compress", NAME, "--break-lock", cwd=folder)
    expected = entries_of(range(28))
    found = commands.contents(folder / NAME)
    others = {key: found.pop(key) for key in entries_of(range(40, 44)) if key in found}
    assert found == expected, (decide.killed, output)
    check_all(folder, expected | others)


def test_killed_just_after_its_exchange_nothing_is_lost(folder):
    """At every later call that gives a file a name, not only at the archive."""
    path = folder / NAME
    seen = threading.Event()

    def kill_after_the_archive(call):
        if seen.is_set():
            os.kill(call.pid, signal.SIGKILL)
        if comes_to_the_archive(call):
            seen.set()

    with gate.Gate(COMPRESS, kill_after_the_archive, cwd=folder,
                   env=commands.environment()) as running:  # fmt: skip
        running.end()
    expected = entries_of(range(16))
    assert commands.contents(path) == expected
    check_all(folder, expected)


def test_two_who_are_stopped_by_signals_and_go_on_lose_nothing(folder):
    """Without a gate: SIGSTOP at one moment after the other."""
    expected = entries_of(range(16))
    for turn in range(12):
        expected |= put(folder / NAME, range(100 + 10 * turn, 110 + 10 * turn))
        process = subprocess.Popen(
            [*COMPRESS, "--break-lock"], cwd=folder, env=commands.environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not os.path.lexists(folder / NAME / "lock") and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(0.001 * turn)
        process.send_signal(signal.SIGSTOP)
        expected |= put(folder / NAME, range(300 + 10 * turn, 310 + 10 * turn))
        FingerprintDatabase(folder / NAME).compress(break_lock=True)
        process.send_signal(signal.SIGCONT)
        process.wait(30)
        assert commands.contents(folder / NAME) == expected, turn
    check_all(folder, expected)
