"""Loose entries."""

import contextlib
import errno
import os
import shutil

import pytest
from entry_samples import SPECIAL, make_key, make_special, refuse

from ampmpi.database import loose
from ampmpi.database.layout import Home
from ampmpi.errors import CorruptEntryError, DatabaseError
from ampmpi.keys import to_hex


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "x")


def path_of(home, key):
    return home.full("loose", key)


def read(home, key):
    found = loose.read(home, key)
    return None if found is None else found[0]


def keys(home):
    return set(to_hex(loose.digests(home)))


def test_what_is_put_is_read(home):
    assert read(home, make_key(1)) is None
    assert keys(home) == set()
    loose.put(home, make_key(1), b"one")
    loose.put(home, make_key(2), b"")
    loose.put(home, make_key(1), b"other" * 100_000)
    assert read(home, make_key(1)) == b"other" * 100_000
    assert read(home, make_key(2)) == b""
    assert keys(home) == {make_key(1), make_key(2)}
    assert home.temporaries.names() == []
    assert loose.read(home, make_key(1))[1].size == 500_000


@pytest.mark.parametrize("gone", [["tmp"], ["loose"], ["tmp", "loose"]])
def test_folders_that_are_missing_are_made(home, gone):
    """As where Amp made the database, or somebody removed them meanwhile."""
    for opened in (home, Home.open(home.path)):
        for name in gone:
            shutil.rmtree(home.full(name))
        if "loose" in gone:
            assert read(home, make_key(1)) is None and keys(home) == set()
        loose.put(opened, make_key(1), b"one")
        assert read(opened, make_key(1)) == b"one"


def test_a_database_that_was_removed_is_not_made_anew(home):
    loose.put(home, make_key(1), b"one")
    shutil.rmtree(home.path)
    for again in (False, True):
        if again:
            os.makedirs(home.full("loose"))
        with pytest.raises(DatabaseError, match="was removed while it was in use"):
            loose.put(home, make_key(1), b"one")
        assert os.path.exists(home.path) == again
        assert not again or os.listdir(home.full("loose")) == []
    assert read(home, make_key(1)) is None


def test_a_database_that_is_renamed_is_followed(home, tmp_path):
    loose.put(home, make_key(1), b"one")
    os.rename(home.path, tmp_path / "renamed.ampdb")
    other = Home.create(home.path)
    loose.put(home, make_key(2), b"two")
    assert keys(home) == {make_key(1), make_key(2)} and keys(other) == set()
    assert sorted(os.listdir(tmp_path / "renamed.ampdb" / "loose")) == sorted(keys(home))


@pytest.mark.parametrize("name", ["", "x", "../" + make_key(1), make_key(1).upper(), "a" * 33])
def test_names_that_are_no_keys_are_refused(home, name):
    with pytest.raises(DatabaseError, match="is no key"):
        loose.put(home, name, b"")
    assert keys(home) == set()


def test_other_files_are_never_listed(home):
    loose.put(home, make_key(1), b"one")
    for name in (".nfs0001", "README", make_key(2) + "~", make_key(2)[:-1], "A" * 32):
        with open(path_of(home, name), "w"):
            pass
    os.mkdir(path_of(home, "folder"))
    assert keys(home) == {make_key(1)}


def test_remove(home):
    loose.put(home, make_key(1), b"one")
    assert loose.exists(home, make_key(1))
    assert loose.remove(home, make_key(1))
    assert not loose.remove(home, make_key(1))
    assert not loose.exists(home, make_key(1))


def test_stale_handles_are_for_the_caller_to_try_again(home, monkeypatch):
    loose.put(home, make_key(1), b"one")
    refuse(monkeypatch, path_of(home, make_key(1)), errno.ESTALE)
    with pytest.raises(OSError, match=r"[Ss]tale") as caught:
        loose.read(home, make_key(1))
    assert not isinstance(caught.value, DatabaseError)


def test_errors_name_the_folder(home, monkeypatch):
    loose.put(home, make_key(1), b"one")

    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(DatabaseError, match="input/output error") as caught:
        loose.digests(home)
    assert home.full("loose") in str(caught.value)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", SPECIAL)
def test_only_a_regular_file_is_an_entry(home, tmp_path, what):
    loose.put(home, make_key(1), b"one")
    (tmp_path / "elsewhere").write_bytes(b"two")
    path = path_of(home, make_key(2))
    make_special(what, path, tmp_path / "elsewhere")
    assert keys(home) == {make_key(1)}
    assert read(home, make_key(2)) is None
    assert not loose.exists(home, make_key(2))
    assert not loose.remove(home, make_key(2))
    assert os.path.lexists(path)
    if what == "directory":
        with pytest.raises(DatabaseError, match="a directory has the entry's name") as caught:
            loose.put(home, make_key(2), b"two")
        assert path in str(caught.value)
        assert os.listdir(path) == ["note"]
    else:
        loose.put(home, make_key(2), b"new")
        assert read(home, make_key(2)) == b"new"
    assert (tmp_path / "elsewhere").read_bytes() == b"two"
    assert home.temporaries.names() == []


@pytest.mark.parametrize("code", ["EACCES", "EPERM", "ELOOP", "EIO", "ENODATA", "EUCLEAN"])
def test_one_file_that_cannot_be_read_is_damaged(home, monkeypatch, code):
    loose.put(home, make_key(1), b"one")
    with monkeypatch.context() as patch:
        refuse(patch, path_of(home, make_key(1)), getattr(errno, code))
        with pytest.raises(CorruptEntryError, match=path_of(home, make_key(1))):
            loose.read(home, make_key(1))
        assert loose.exists(home, make_key(1))
        loose.put(home, make_key(1), b"new")
    assert read(home, make_key(1)) == b"new"


@pytest.mark.parametrize("code", ["EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "ENOTCONN"])
def test_what_concerns_every_file_is_no_damage(home, monkeypatch, code):
    loose.put(home, make_key(1), b"one")
    refuse(monkeypatch, path_of(home, make_key(1)), getattr(errno, code))
    with pytest.raises(DatabaseError, match="cannot read") as caught:
        loose.read(home, make_key(1))
    assert not isinstance(caught.value, CorruptEntryError)


def test_a_directory_that_may_not_be_searched_is_no_damage(home, monkeypatch):
    loose.put(home, make_key(1), b"one")

    def denied(*_, **__):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(os, "stat", denied)
    with pytest.raises(DatabaseError, match="permission denied") as caught:
        loose.read(home, make_key(1))
    assert not isinstance(caught.value, CorruptEntryError)


def test_a_file_without_permissions(home):
    """As anybody but root sees it."""
    loose.put(home, make_key(1), b"one")
    for path in (home.path, home.full("loose")):
        os.chmod(path, 0o755)
    os.chmod(path_of(home, make_key(1)), 0)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(CorruptEntryError, match="permission denied"):
            loose.read(home, make_key(1))
        assert loose.exists(home, make_key(1))
    finally:
        os.seteuid(me)


def test_a_name_that_is_listed_twice_is_one_entry(home, monkeypatch):
    """As where it is replaced while it is listed."""
    for number in range(3):
        loose.put(home, make_key(number), b"one")
    real = os.scandir

    @contextlib.contextmanager
    def twice(path):
        with real(path) as found:
            names = list(found)
            yield iter(names + names[:2])

    monkeypatch.setattr(os, "scandir", twice)
    assert to_hex(loose.digests(home)) == sorted(make_key(number) for number in range(3))


def test_a_file_larger_than_any_entry_is_not_read(home):
    loose.put(home, make_key(1), b"one")
    os.truncate(path_of(home, make_key(1)), 1 << 40)
    with pytest.raises(CorruptEntryError, match="more than"):
        loose.read(home, make_key(1))
