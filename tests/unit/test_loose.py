"""Loose entries."""

import contextlib
import errno
import os

import pytest
from entry_samples import SPECIAL, make_key, make_special, refuse

from ampmpi.database import loose
from ampmpi.database.intake import read_loose
from ampmpi.database.layout import Layout, database_path, is_database, kind_of, require_database
from ampmpi.errors import CorruptEntryError, DatabaseError
from ampmpi.keys import is_key, to_hex


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "x.ampdb"))


def test_put_makes_the_database_and_read_gives_it_back(layout):
    assert loose.read(layout, make_key(1)) is None
    assert loose.keys(layout) == set()
    loose.put(layout, make_key(1), b"one")
    loose.put(layout, make_key(2), b"")
    loose.put(layout, make_key(1), b"other" * 100_000)
    assert loose.read(layout, make_key(1)) == b"other" * 100_000
    assert loose.read(layout, make_key(2)) == b""
    assert loose.keys(layout) == {make_key(1), make_key(2)}
    assert os.listdir(layout.temporaries) == []


def test_put_makes_what_amp_does_not(layout):
    os.makedirs(layout.loose)
    loose.put(layout, make_key(1), b"one")
    assert loose.read(layout, make_key(1)) == b"one"


def test_put_where_amp_died_early(layout):
    os.mkdir(layout.root)
    loose.put(layout, make_key(1), b"one")
    assert loose.read(layout, make_key(1)) == b"one"


@pytest.mark.parametrize("name", ["", "x", "../" + make_key(1), make_key(1).upper(), "a" * 33])
def test_names_that_are_no_keys_are_refused(layout, name):
    with pytest.raises(DatabaseError, match="is no key"):
        loose.put(layout, name, b"")
    assert not os.path.exists(layout.root)


def test_other_files_are_never_listed(layout):
    loose.put(layout, make_key(1), b"one")
    for name in (".nfs0001", "README", make_key(2) + "~", make_key(2)[:-1], "A" * 32):
        with open(layout.loose_entry(name), "w"):
            pass
    os.mkdir(layout.loose_entry("folder"))
    assert loose.keys(layout) == {make_key(1)}


def test_remove(layout):
    loose.put(layout, make_key(1), b"one")
    assert loose.exists(layout, make_key(1))
    assert loose.remove(layout, make_key(1))
    assert not loose.remove(layout, make_key(1))
    assert not loose.exists(layout, make_key(1))


def test_stale_handles_are_tried_again(layout, monkeypatch):
    loose.put(layout, make_key(1), b"one")
    read, left = os.read, [2]

    def stale(descriptor, size):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", stale)
    assert loose.read(layout, make_key(1)) == b"one"
    left[0] = 100
    with pytest.raises(DatabaseError, match="cannot read"):
        loose.read(layout, make_key(1))
    assert left[0] > 90


def test_short_reads_are_continued(layout, monkeypatch):
    content = bytes(range(256)) * 10
    loose.put(layout, make_key(1), content)
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, 7)))
    assert loose.read(layout, make_key(1)) == content


def test_errors_name_the_file(layout, monkeypatch):
    loose.put(layout, make_key(1), b"one")

    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    for call, function in (("read", loose.read), ("scandir", lambda where, _: loose.keys(where))):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(DatabaseError, match="input/output error") as caught:
                function(layout, make_key(1))
        assert layout.loose in str(caught.value)


def test_keys_kinds_and_paths():
    assert is_key(make_key(0)) and not is_key(make_key(0) + "\n")
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
    assert require_database(tmp_path / "good").root == str(tmp_path / "good.ampdb")
    for name, words in (
        ("plain", "does not end in"),
        ("file", "not a directory"),
        ("photos", "neither loose/ nor"),
        ("none", "there is no database"),
    ):
        with pytest.raises(DatabaseError, match=words):
            require_database(tmp_path / name)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", SPECIAL)
def test_only_a_regular_file_is_an_entry(layout, tmp_path, what):
    loose.put(layout, make_key(1), b"one")
    (tmp_path / "elsewhere").write_bytes(b"two")
    path = layout.loose_entry(make_key(2))
    make_special(what, path, tmp_path / "elsewhere")
    assert loose.keys(layout) == {make_key(1)}
    assert loose.digests(layout).tolist() == [bytes.fromhex(make_key(1))]
    assert loose.read(layout, make_key(2)) is None
    assert not loose.exists(layout, make_key(2))
    assert not loose.remove(layout, make_key(2))
    with pytest.raises(OSError, match=r"."):
        read_loose(layout, make_key(2))
    assert os.path.lexists(path)
    if what == "directory":
        with pytest.raises(DatabaseError, match="a directory has the entry's name") as caught:
            loose.put(layout, make_key(2), b"two")
        assert path in str(caught.value)
        assert os.listdir(path) == ["note"]
    else:
        loose.put(layout, make_key(2), b"new")
        assert loose.read(layout, make_key(2)) == b"new"
    assert (tmp_path / "elsewhere").read_bytes() == b"two"
    assert os.listdir(layout.temporaries) == []


@pytest.mark.parametrize("code", ["EACCES", "EPERM", "ELOOP", "EIO", "ENODATA", "EUCLEAN"])
def test_one_file_that_cannot_be_read_is_damaged(layout, monkeypatch, code):
    loose.put(layout, make_key(1), b"one")
    with monkeypatch.context() as patch:
        refuse(patch, layout.loose_entry(make_key(1)), getattr(errno, code))
        with pytest.raises(CorruptEntryError, match=layout.loose_entry(make_key(1))):
            loose.read(layout, make_key(1))
        assert loose.exists(layout, make_key(1))
        loose.put(layout, make_key(1), b"new")
    assert loose.read(layout, make_key(1)) == b"new"


@pytest.mark.parametrize("code", ["EMFILE", "ENFILE", "ENOMEM", "ESTALE", "ETIMEDOUT", "ENOTCONN"])
def test_what_concerns_every_file_is_no_damage(layout, monkeypatch, code):
    loose.put(layout, make_key(1), b"one")
    refuse(monkeypatch, layout.loose_entry(make_key(1)), getattr(errno, code))
    with pytest.raises(DatabaseError, match="cannot read") as caught:
        loose.read(layout, make_key(1))
    assert not isinstance(caught.value, CorruptEntryError)


def test_a_directory_that_may_not_be_searched_is_no_damage(layout, monkeypatch):
    loose.put(layout, make_key(1), b"one")

    def denied(*arguments):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(os, "lstat", denied)
    with pytest.raises(DatabaseError, match="permission denied") as caught:
        loose.read(layout, make_key(1))
    assert not isinstance(caught.value, CorruptEntryError)


def test_a_file_without_permissions(layout, monkeypatch):
    """As anybody but root sees it."""
    loose.put(layout, make_key(1), b"one")
    for path in (layout.root, layout.loose):
        os.chmod(path, 0o755)
    os.chmod(layout.loose_entry(make_key(1)), 0)
    monkeypatch.chdir(layout.root)  # first: what lies above may be root's own
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(CorruptEntryError, match="permission denied"):
            loose.read(Layout("."), make_key(1))
        assert loose.exists(Layout("."), make_key(1))
    finally:
        os.seteuid(me)


def test_a_name_that_is_listed_twice_is_one_entry(layout, monkeypatch):
    """As where it is replaced while it is listed."""
    for number in range(3):
        loose.put(layout, make_key(number), b"one")
    real = os.scandir

    @contextlib.contextmanager
    def twice(path):
        with real(path) as found:
            names = list(found)
            yield iter(names + names[:2])

    monkeypatch.setattr(os, "scandir", twice)
    assert to_hex(loose.digests(layout)) == sorted(make_key(number) for number in range(3))


def test_a_file_larger_than_any_entry_is_not_read(layout):
    loose.put(layout, make_key(1), b"one")
    os.truncate(layout.loose_entry(make_key(1)), 1 << 40)
    with pytest.raises(CorruptEntryError, match="more than"):
        loose.read(layout, make_key(1))
