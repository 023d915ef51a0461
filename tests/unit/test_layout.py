"""The database's directory, held open."""

import errno
import os
import pickle
import shutil
import subprocess
import sys

import pytest
from entry_samples import open_files

from ampmpi.database import layout
from ampmpi.database.layout import Home, check_place, database_path, is_database, kind_of
from ampmpi.errors import DatabaseError

FOLDERS = ("loose", "tmp", "damaged")


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "x-fingerprints")


def test_kinds_and_paths():
    assert kind_of("a/b-fingerprints.ampdb") == kind_of("b-fingerprints") == "fingerprints"
    assert kind_of("b-fingerprint-primes.ampdb") == "primes"
    assert kind_of("b-neighborlists.ampdb") == kind_of("b") == "other"
    assert database_path("a") == database_path("a.ampdb") == database_path("a.ampdb/") == "a.ampdb"


def test_what_is_a_database(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "file.ampdb").write_text("")
    (tmp_path / "empty.ampdb").mkdir()
    (tmp_path / "photos.ampdb" / "summer").mkdir(parents=True)
    (tmp_path / "good.ampdb" / "loose").mkdir(parents=True)
    assert [name for name in sorted(os.listdir(tmp_path)) if is_database(tmp_path / name)] == [
        "empty.ampdb",
        "good.ampdb",
    ]
    assert Home.open(tmp_path / "good").path == str(tmp_path / "good.ampdb")
    assert Home.find(tmp_path / "none") is None
    for name, words in (
        ("plain", "does not end in"),
        ("file", "not a directory"),
        ("photos", "neither loose/ nor"),
        ("none", "there is no database"),
    ):
        with pytest.raises(DatabaseError, match=words):
            Home.open(tmp_path / name)
        if name != "none":
            with pytest.raises(DatabaseError, match=words):
                Home.find(tmp_path / name)
    with pytest.raises(DatabaseError, match="neither loose/ nor"):
        Home.create(tmp_path / "photos")
    assert os.listdir(tmp_path / "photos.ampdb") == ["summer"]


def test_creating_makes_what_is_missing(tmp_path):
    (tmp_path / "x.ampdb" / "loose").mkdir(parents=True)
    for name in ("x", "y"):
        for _ in range(2):
            home = Home.create(tmp_path / name)
            assert sorted(home.root.names()) == ["loose", "tmp"]
    assert home.inner("damaged") is None
    assert home.damaged.names() == []
    assert sorted(home.root.names()) == ["damaged", "loose", "tmp"]


def test_opening_and_checking_the_place_make_nothing(tmp_path):
    (tmp_path / "x.ampdb").mkdir()
    home = Home.open(tmp_path / "x")
    assert home.loose is None
    check_place(tmp_path / "x")
    check_place(tmp_path / "y")
    assert home.root.names() == [] and os.listdir(tmp_path) == ["x.ampdb"]


def test_a_trial_does_not_show_itself_as_a_database(tmp_path, monkeypatch):
    """Another job that starts then would hold a directory that is removed."""
    real, seen = os.mkdir, []

    def mkdir(path, *options, **more):
        real(path, *options, **more)
        seen.append(Home.find(tmp_path / "x"))

    monkeypatch.setattr(os, "mkdir", mkdir)
    check_place(tmp_path / "x")
    assert seen == [None] and os.listdir(tmp_path) == []
    with pytest.raises(DatabaseError, match="cannot create the database"):
        check_place(tmp_path / ("x" * 250))


def test_where_no_database_can_be_made(tmp_path, monkeypatch):
    for make in (Home.create, check_place):
        with pytest.raises(DatabaseError, match="there is no folder"):
            make(tmp_path / "none" / "x")

    def fail(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", fail)
    for make in (Home.create, check_place):
        with pytest.raises(DatabaseError, match="read-only"):
            make(tmp_path / "x")


def test_a_link_may_lead_to_a_database(home, tmp_path):
    os.symlink(home.path, tmp_path / "link-fingerprints.ampdb")
    assert Home.open(tmp_path / "link-fingerprints").root.inode == home.root.inode


@pytest.mark.parametrize("name", FOLDERS)
def test_no_link_is_followed_inside(home, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(home.full(name), ignore_errors=True)
    os.symlink(elsewhere, home.full(name))
    again = Home.open(home.path)
    for look in (again.inner, again.needed):
        with pytest.raises(DatabaseError, match="symbolic link") as caught:
            look(name)
        assert home.full(name) in str(caught.value)
    assert os.listdir(elsewhere) == []
    os.unlink(home.full(name))
    with open(home.full(name), "w"):
        pass
    with pytest.raises(DatabaseError, match="no directory of the database"):
        again.needed(name)


def test_a_home_that_is_sent_in_one_process_is_the_one_that_it_holds(home, tmp_path):
    sent = pickle.dumps(home)
    assert pickle.loads(sent) is home
    os.rename(home.path, tmp_path / "renamed-fingerprints.ampdb")
    Home.create(tmp_path / "x-fingerprints")
    assert pickle.loads(sent) is home


def receive(sent):
    """Open what was sent in a new process; return its error, or its inode."""
    script = (
        "import pickle, sys\nfrom ampmpi.errors import DatabaseError\n"
        "from ampmpi.database import layout\nlayout._PATIENCE = 0.5\n"
        "try:\n    print(pickle.loads(sys.stdin.buffer.read()).root.inode)\n"
        "except DatabaseError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=sent, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_a_home_that_is_sent_to_another_process(home):
    """It is opened there by its name, but not another one that has taken the name."""
    sent, inode = pickle.dumps(home), home.root.inode
    assert receive(sent) == str(inode)
    os.rename(home.path, home.path + ".old")
    assert "there is no database" in receive(sent)
    Home.create(home.path)
    assert "another directory has taken the name" in receive(sent)


def test_another_host_may_see_it_late(home, monkeypatch):
    """A client of NFS remembers for some seconds that there was none."""
    sent = pickle.dumps(home)
    monkeypatch.setattr(layout, "_held", {})
    real, calls = Home.open, []

    def late(path):
        calls.append(path)
        if len(calls) < 3:
            raise DatabaseError("there is no database")
        return real(path)

    monkeypatch.setattr(Home, "open", late)
    assert pickle.loads(sent).root.inode == home.root.inode
    assert len(calls) == 3


def test_no_descriptor_is_left_open(tmp_path):
    before = open_files()
    for number in range(5):
        home = Home.create(tmp_path / f"x{number}")
        home.damaged.names()
        del home
    assert open_files() == before
