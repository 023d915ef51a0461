"""A job's database is renamed, replaced or removed while the job runs.

The job goes on in the database that it opened, or ends with a sentence and a
code that is not 0. Never does an entry get into another database, and never is
an entry said to be computed that is not there.
"""

import os
import re
import shutil
import threading

import commands
import gate
import pytest

from ampmpi import FingerprintDatabase, Gaussian, fingerprint

pytestmark = pytest.mark.skipif(not gate.works(), reason="no seccomp notifications here")

IMAGES = 40
NAME, RENAMED = "x-fingerprints.ampdb", "renamed-fingerprints.ampdb"
SCRIPT = """
import sys
from ampmpi import Gaussian, fingerprint
try:
    summary = fingerprint("images.traj", Gaussian(cutoff=4.0), label="x", compress=%s)
except OSError as error:
    sys.exit(str(error))
print(summary.computed, "computed,", len(summary.failed), "failed")
"""
MPIRUN = shutil.which("mpirun")
COMMAND = [*commands.AMPMPI, "fingerprint", "images.traj", "--label", "x", *commands.CUTOFF]
JOBS = {
    "loose": [*COMMAND, "--no-compress"],
    "compressed": COMMAND,
    "two ranks, loose": [MPIRUN, "-n", "2", *COMMAND, "--no-compress"],
    "two ranks, compressed": [MPIRUN, "-n", "2", *COMMAND],
    "python": [commands.AMPMPI[0], "-c", SCRIPT % False],
    "python, compressed": [commands.AMPMPI[0], "-c", SCRIPT % True],
}
EVERY = [
    pytest.param(name, marks=pytest.mark.skipif(job[0] is None, reason="there is no mpirun"))
    for name, job in JOBS.items()
]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with images, what their entries are, and a database of another cutoff."""
    folder = tmp_path_factory.mktemp("renamed")
    commands.make_images(folder / "images.traj", IMAGES)
    fingerprint(str(folder / "images.traj"), Gaussian(cutoff=4.0), label=folder / "right")
    fingerprint(str(folder / "images.traj@:20"), Gaussian(cutoff=6.0), label=folder / "other")
    return folder, commands.contents(folder / "right-fingerprints.ampdb")


@pytest.fixture
def folder(template, tmp_path):
    shutil.copy(template[0] / "images.traj", tmp_path)
    return tmp_path


class AfterSome:
    """Holds everyone who wants to make an entry, once some are there."""

    def __init__(self, *names):
        self.names = set(names)
        self.count = 0
        self.lock = threading.Lock()
        self.reached, self.free = threading.Event(), threading.Event()

    def __call__(self, call):
        parts = call.target.split("/")
        if self.names.intersection(parts) and re.fullmatch("[0-9a-f]{32}", parts[-1]):
            with self.lock:
                self.count += 1
                hold = self.count > IMAGES // 4
            if hold:
                self.reached.set()
                self.free.wait()
        return 0


def archive_comes(call):
    return call.concerns("/archive.tar.gz")


def meanwhile(folder, job, act, at_archive=False, seconds=120):
    """Run a job, and something else while it is held; return its code and what it said."""
    if at_archive:
        decide = gate.Turnstile(archive_comes)
        free = decide.let_go
    else:
        decide = AfterSome(NAME)
        free = decide.free.set
    environment = commands.environment()
    with gate.Gate(JOBS[job], decide, cwd=folder, env=environment) as running:
        try:
            gate.wait(decide.reached, running)
            act()
        finally:
            free()
        return running.end(seconds)


def replace_by_other(folder, template):
    """Return the act that gives the job's database another name, and its name to another one."""

    def act():
        os.rename(folder / NAME, folder / RENAMED)
        shutil.copytree(template[0] / "other-fingerprints.ampdb", folder / NAME)

    return act


def check_ending(folder, code, output, right):
    """A job that says it is done is done; one that is not done says why."""
    here = commands.contents(folder / RENAMED) if os.path.exists(folder / RENAMED) else {}
    assert all(entry == right[key] for key, entry in here.items())
    if code == 0:
        assert here == right, output
        assert f"{IMAGES} computed" in output
    else:
        commands.check_words(output, "x-fingerprints.ampdb")


@pytest.mark.parametrize("job", EVERY)
def test_no_entry_gets_into_a_database_that_took_the_name(folder, template, job):
    code, output = meanwhile(folder, job, replace_by_other(folder, template))
    assert commands.contents(folder / NAME) == commands.contents(
        template[0] / "other-fingerprints.ampdb"
    )
    check_ending(folder, code, output, template[1])


@pytest.mark.parametrize("job", [EVERY[1], EVERY[3], EVERY[5]])
def test_no_archive_gets_into_a_database_that_took_the_name(folder, template, job):
    code, output = meanwhile(folder, job, replace_by_other(folder, template), at_archive=True)
    assert commands.contents(folder / NAME) == commands.contents(
        template[0] / "other-fingerprints.ampdb"
    )
    assert commands.contents(folder / RENAMED) == template[1]
    check_ending(folder, code, output, template[1])
    commands.succeed("compress", RENAMED, cwd=folder)
    assert commands.contents(folder / RENAMED) == template[1]


@pytest.mark.parametrize("job", [EVERY[0], EVERY[1], EVERY[3]])
def test_a_renamed_database_with_nothing_in_its_place_is_followed_or_missed(folder, template, job):
    code, output = meanwhile(folder, job, lambda: os.rename(folder / NAME, folder / RENAMED))
    if os.path.exists(folder / NAME):  # then everything in it is right
        found = commands.contents(folder / NAME)
        assert all(entry == template[1][key] for key, entry in found.items())
        assert code != 0 or {**found, **commands.contents(folder / RENAMED)} == template[1]
    else:
        check_ending(folder, code, output, template[1])


@pytest.mark.parametrize("job", EVERY)
def test_a_database_removed_meanwhile_is_an_error(folder, template, job):
    code, output = meanwhile(folder, job, lambda: shutil.rmtree(folder / NAME))
    there = commands.contents(folder / NAME) if os.path.exists(folder / NAME) else {}
    assert code != 0, (len(there), output)
    commands.check_words(output, "x-fingerprints.ampdb")
    assert f"{IMAGES} computed" not in output
    # And once more, as if nothing had been.
    commands.succeed("fingerprint", "images.traj", "--label", "x", *commands.CUTOFF, cwd=folder)
    assert commands.contents(folder / NAME) == template[1]


@pytest.mark.parametrize("job", [EVERY[1], EVERY[3], EVERY[5]])
def test_a_database_removed_while_it_is_compressed_is_an_error(folder, template, job):
    code, output = meanwhile(folder, job, lambda: shutil.rmtree(folder / NAME), at_archive=True)
    assert code != 0, output
    commands.check_words(output, "x-fingerprints.ampdb")


def test_a_database_removed_and_made_anew_by_another_job_is_not_taken_for_the_first(
    folder, template
):
    def act():
        shutil.rmtree(folder / NAME)
        words = ["fingerprint", "images.traj@:20", "--label", "x", "--cutoff", "6"]
        commands.succeed(*words, cwd=folder)

    code, output = meanwhile(folder, "loose", act)
    assert code != 0
    commands.check_words(output, "x-fingerprints.ampdb")
    assert commands.contents(folder / NAME) == commands.contents(
        template[0] / "other-fingerprints.ampdb"
    )


def test_a_script_writes_to_the_database_that_it_claimed(folder, template):
    """The same promise for the mapping."""
    right = template[1]
    database = FingerprintDatabase(folder / NAME)
    descriptor = Gaussian(cutoff=4.0).resolve(["Cu"])
    database.claim(descriptor.parameters, descriptor.digest)
    first, *others = right
    database[first] = right[first]
    replace_by_other(folder, template)()
    other = commands.contents(folder / NAME)
    before = commands.snapshot(folder / NAME)
    try:
        for key in others:
            database[key] = right[key]
        database.compress()
        assert dict(database) == right
    except OSError as error:
        assert NAME in str(error)
    assert commands.snapshot(folder / NAME) == before
    assert commands.contents(folder / NAME) == other
    assert first in commands.contents(folder / RENAMED)


@pytest.mark.parametrize("job", [EVERY[1], EVERY[2]])
def test_a_link_to_a_database_leads_there(folder, template, job):
    os.mkdir(folder / "far")
    os.mkdir(folder / "far" / NAME)
    os.symlink(f"far/{NAME}", folder / NAME)
    code, output = commands.run(*JOBS[job], cwd=folder)
    assert code == 0, output
    assert os.path.islink(folder / NAME)
    assert (
        commands.contents(folder / "far" / NAME) == template[1] == commands.contents(folder / NAME)
    )
    commands.succeed("check", NAME, cwd=folder)
    commands.succeed("compress", NAME, cwd=folder)
    assert "0 computed" in commands.succeed(
        "fingerprint", "images.traj", "--label", "x", *commands.CUTOFF, cwd=folder
    )
    assert os.path.islink(folder / NAME)


def test_a_link_that_is_turned_to_another_database_is_not_followed_there(folder, template):
    os.mkdir(folder / RENAMED)
    os.symlink(RENAMED, folder / NAME)
    shutil.copytree(template[0] / "other-fingerprints.ampdb", folder / "other-fingerprints.ampdb")

    def act():
        os.unlink(folder / NAME)
        os.symlink("other-fingerprints.ampdb", folder / NAME)

    # The link leads to the one name, and what is held open may be seen under the other.
    decide = AfterSome(NAME, RENAMED)
    environment = commands.environment()
    with gate.Gate(JOBS["loose"], decide, cwd=folder, env=environment) as running:
        try:
            gate.wait(decide.reached, running)
            act()
        finally:
            decide.free.set()
        code, output = running.end()
    assert commands.contents(folder / "other-fingerprints.ampdb") == commands.contents(
        template[0] / "other-fingerprints.ampdb"
    )
    check_ending(folder, code, output, template[1])
