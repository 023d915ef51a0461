"""File systems without hard links, or across whose folders nothing can be linked.

BeeGFS answers ``link`` with EPERM, OpenAFS with EXDEV across folders; older
kernels and many network file systems know neither of the flags of renameat2.
"""

import errno
import os
import shutil
import sys
import threading
import time

import commands
import gate
import pytest
from put_victims import make_entry
from samples import make_key

from ampmpi import FingerprintDatabase, Gaussian, fingerprint

pytestmark = pytest.mark.skipif(not gate.works(), reason="no seccomp notifications here")

NAME = "x-fingerprints.ampdb"
RACES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "races.py")


class FileSystem:
    """A decision that refuses what a file system does not know.

    Parameters
    ----------
    link : int
        The error of every hard link; 0 if they can be made.
    across : int
        The error of hard links across folders.
    flags : int
        The error of a renameat2 with flags.
    exchange : int
        The error of a renameat2 that exchanges.
    """

    def __init__(self, link=0, across=0, flags=0, exchange=0):
        self.link, self.across, self.flags, self.exchange = link, across, flags, exchange
        self.refused = 0

    def __call__(self, call):
        code = 0
        if call.name in ("link", "linkat"):
            code = self.link
            if os.path.dirname(call.source) != os.path.dirname(call.target):
                code = code or self.across
        elif call.flags:
            code = self.flags
            if call.flags & gate.EXCHANGE:
                code = code or self.exchange
        self.refused += bool(code)
        return code


FILE_SYSTEMS = {
    "no links": {"link": errno.EPERM},
    "no links, no renameat2": {"link": errno.EPERM, "flags": errno.ENOSYS},
    "no links, no flags": {"link": errno.EPERM, "flags": errno.EINVAL},
    "no links supported": {"link": errno.ENOTSUP, "flags": errno.ENOTSUP},
    "no links across folders": {"across": errno.EXDEV},
    "no links across folders, no renameat2": {"across": errno.EXDEV, "flags": errno.ENOSYS},
    "no links across folders, no flags": {"across": errno.EXDEV, "flags": errno.EINVAL},
    "no exchange": {"exchange": errno.EINVAL},
    "no renameat2": {"flags": errno.ENOSYS},
}


CLAIMED = ["no links", "no links, no renameat2", "no links across folders, no flags"]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Images, and what their entries are."""
    folder = tmp_path_factory.mktemp("no-links")
    commands.make_images(folder / "images.traj", 8)
    commands.make_images(folder / "more.traj", 4, first=8)
    commands.make_images(folder / "all.traj", 12)
    fingerprint(str(folder / "all.traj"), Gaussian(cutoff=4.0), label=folder / "right")
    return folder, commands.contents(folder / "right-fingerprints.ampdb")


@pytest.mark.parametrize("name", [*CLAIMED, "no exchange", "no renameat2"])
def test_every_command_works(template, tmp_path, name):
    file_system = FileSystem(**FILE_SYSTEMS[name])
    for each in ("images.traj", "more.traj"):
        shutil.copy(template[0] / each, tmp_path)

    def run(*words, code=0):
        command = [*commands.AMPMPI, *words]
        with gate.Gate(command, file_system, cwd=tmp_path, env=commands.environment()) as running:
            ended, output = running.end()
        assert ended == code, output
        commands.check_words(output)
        return output

    path = tmp_path / NAME
    run("fingerprint", "images.traj", "--label", "x", *commands.CUTOFF)
    run("fingerprint", "more.traj", "--label", "y", *commands.CUTOFF, "--no-compress")
    output = run("fingerprint", "images.traj", "--label", "x", "--cutoff", "5", code=4)
    assert "another descriptor" in output
    run("merge", NAME, "y-fingerprints.ampdb")
    assert commands.contents(path) == template[1]
    # A loose entry that is damaged, and one that is not.
    first, second = sorted(os.listdir(tmp_path / "y-fingerprints.ampdb" / "loose"))[:2]
    shutil.copy(tmp_path / "y-fingerprints.ampdb" / "loose" / first, path / "loose" / first)
    (path / "loose" / second).write_bytes(b"damaged")
    os.utime(path / "loose" / second, (1e9, 1e9))
    run("check", "--repair", NAME, code=5)
    run("compress", NAME)
    assert commands.contents(path) == template[1]
    assert not os.listdir(path / "loose")
    # A damaged archive.
    with open(path / "archive.tar.gz", "r+b") as file:
        file.seek(700)
        file.write(b"damage")
    run("check", "--repair", NAME, code=5)
    assert os.listdir(path / "damaged")
    run("fingerprint", "images.traj", "--label", "x", *commands.CUTOFF)
    run("check", NAME)
    found = commands.contents(path)
    assert all(entry == template[1][key] for key, entry in found.items())
    assert len(found) >= 8
    assert file_system.refused
    assert not os.path.lexists(path / "lock")
    assert not os.listdir(path / "tmp")


def run_races(what, count, decide, folder):
    """Run races; return their lines and what was said."""
    command = [sys.executable, RACES, what, str(folder), str(count)]
    with gate.Gate(command, decide, cwd=folder, env=commands.environment()) as running:
        output, errors = running.process.communicate(timeout=200)
    assert running.process.returncode == 0, errors[-2000:]
    lines = [line.split() for line in output.splitlines()]
    assert len(lines) == count
    return lines, errors


@pytest.mark.parametrize("name", CLAIMED)
def test_of_two_who_claim_an_empty_database_exactly_one_wins(tmp_path, name):
    lines, errors = run_races("claim", 200, FileSystem(**FILE_SYSTEMS[name]), tmp_path)
    winners = {("0", "10"): "aa", ("10", "0"): "bb"}
    for first, second, digest in lines:
        assert winners.get((first, second)) == digest, (first, second, errors[-2000:])
    assert {digest for *_, digest in lines} == {"aa", "bb"}, "the races were none"


@pytest.mark.parametrize("name", FILE_SYSTEMS)
def test_who_claims_a_database_between_anothers_look_and_its_claim_wins(tmp_path, name):
    file_system = FileSystem(**FILE_SYSTEMS[name])
    held = gate.Turnstile(lambda call: call.target.endswith("descriptor.json"))

    def decide(call):
        code = file_system(call)
        return code or held(call)

    script = "import sys; from ampmpi import FingerprintDatabase\n"
    script += "try: FingerprintDatabase(sys.argv[1]).claim({'Rc': 1.0}, 'aa')\n"
    script += "except OSError as error: print(type(error).__name__)\n"
    path = str(tmp_path / NAME)
    command = [sys.executable, "-c", script, path]
    with gate.Gate(command, decide, env=commands.environment()) as running:
        try:
            # Without links and flags there may be no call to hold: it is made in place.
            while not held.reached.wait(0.05) and running.process.poll() is None:
                pass
            if held.reached.is_set():
                FingerprintDatabase(path).claim({"Rc": 2.0}, "bb")
        finally:
            held.let_go()
        code, output = running.end()
    assert code == 0, output
    if held.reached.is_set():
        assert output == "DescriptorMismatchError\n"
        assert FingerprintDatabase(path).manifest().digest == "bb"
    else:
        assert output == ""
        assert FingerprintDatabase(path).manifest().digest == "aa"


class Holders:
    """Holds everyone who replaces an archive for a while, and counts them."""

    def __init__(self, file_system, seconds):
        self.file_system, self.seconds = file_system, seconds
        self.lock = threading.Lock()
        self.inside, self.most, self.times = {}, 0, 0

    def __call__(self, call):
        code = self.file_system(call)
        found = [path for path in (call.source, call.target) if path.endswith("/archive.tar.gz")]
        if code or not found:
            return code
        folder = os.path.dirname(found[0])
        if not os.path.exists(f"{folder}/begun"):
            return 0
        with self.lock:
            self.inside[folder] = self.inside.get(folder, 0) + 1
            self.most = max(self.most, self.inside[folder])
            self.times += 1
        time.sleep(self.seconds)
        with self.lock:
            self.inside[folder] -= 1
        return 0


LOCKED = [*CLAIMED, "no links across folders", "no exchange"]


@pytest.mark.parametrize("name", LOCKED)
def test_two_who_race_for_the_lock_never_both_hold_it(tmp_path, name):
    holders = Holders(FileSystem(**FILE_SYSTEMS[name]), 0.08)
    lines, errors = run_races("compress", 50, holders, tmp_path)
    assert holders.most == 1
    assert holders.times >= 50
    # The other one was refused; or it came when all was done.
    assert all(set(line) <= {"0", "6"} for line in lines), errors[-2000:]
    assert sum(line.count("6") for line in lines) >= 10


def test_a_lock_that_is_broken_is_not_held_by_two_without_links(tmp_path):
    """A dead process's lock: of several who find it, one goes first."""
    path = tmp_path / NAME
    FingerprintDatabase(path)[make_key(0)] = make_entry(0)
    killed = gate.Gate(
        [*commands.AMPMPI, "compress", NAME],
        lambda call: os.kill(call.pid, 9) if call.concerns("/archive.tar.gz") else 0,
        cwd=tmp_path,
        env=commands.environment(),
    )
    with killed:
        killed.end()
    assert os.path.lexists(path / "lock")
    FingerprintDatabase(path)[make_key(1)] = make_entry(1)
    holders = Holders(FileSystem(link=errno.EPERM), 0.3)
    (path / "begun").touch()
    command = ["sh", "-c", '"$@" & "$@" & "$@" & wait', "sh", *commands.AMPMPI, "compress", NAME]
    with gate.Gate(command, holders, cwd=tmp_path, env=commands.environment()) as running:
        running.end()
    assert holders.most == 1
    assert commands.contents(path) == {make_key(0): make_entry(0), make_key(1): make_entry(1)}
    assert not os.path.lexists(path / "lock")
