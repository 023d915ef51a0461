"""Files that appear whole or not at all, and temporaries."""

import errno
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ampmpi.errors import DatabaseError
from ampmpi.files import atomic, owner
from ampmpi.files.atomic import (
    Temporary,
    is_abandoned,
    is_young,
    keep_copy,
    purpose_of,
    rename_new,
    set_aside,
    sweep,
    temporaries,
    temporary_name,
    temporary_owner,
    write_file,
    write_new_file,
)
from ampmpi.files.folder import Folder, Stamp
from ampmpi.files.owner import Owner

NO_LINKS = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV]


@pytest.fixture
def folder(tmp_path):
    return Folder.open(str(tmp_path))


@pytest.fixture
def tmp(folder):
    """Return the folder of the temporaries, which must be empty at the end."""
    folder.make("tmp")
    tmp = folder.inner("tmp")
    yield tmp
    assert tmp.names() == []


@pytest.fixture(params=["links", "renames that replace nothing", "neither"])
def means(request, monkeypatch):
    """What the file system offers to make a file unless there is one."""
    if request.param != "links":
        monkeypatch.setattr(os, "link", failing(errno.EXDEV, os.link))
    if request.param == "neither":
        monkeypatch.setattr(atomic, "_renameat2", lambda: None)
    return request.param


def failing(code, call, after=False):
    """Return a call that reports an error, before or after it does its work."""

    def fail(*arguments, **keywords):
        if after:
            call(*arguments, **keywords)
        raise OSError(code, os.strerror(code))

    return fail


def content(folder, name):
    return folder.read(name, 1 << 20)[0]


def stamp(folder, name):
    return Stamp.of(folder.status(name))


def make(folder, name, data):
    with open(folder.full(name), "wb") as file:
        file.write(data)
    return stamp(folder, name)


def test_write_replaces_the_whole_file(tmp, folder):
    for data in (b"one", b"", b"three" * 1000):
        write_file(tmp, folder, "entry", data, "put")
        assert content(folder, "entry") == data


def test_first_writer_wins(tmp, folder, means):
    assert write_new_file(tmp, folder, "manifest", b"first", "manifest")
    assert not write_new_file(tmp, folder, "manifest", b"second", "manifest")
    assert content(folder, "manifest") == b"first"


@pytest.mark.parametrize("code", NO_LINKS)
def test_first_writer_wins_whatever_a_file_system_says_of_links(tmp, folder, monkeypatch, code):
    monkeypatch.setattr(os, "link", failing(code, os.link))
    for function in (atomic._renameat2(), None):
        monkeypatch.setattr(atomic, "_renameat2", lambda function=function: function)
        test_first_writer_wins(tmp, folder, None)
        folder.unlink("manifest")


def test_one_of_many_writers_wins(tmp, folder, means):
    def write(number):
        return write_new_file(tmp, folder, name, b"%d" % number, "lock")

    with ThreadPoolExecutor(8) as threads:
        for name in map("lock{}".format, range(30)):
            won = list(threads.map(write, range(8)))
            assert won.count(True) == 1
            assert content(folder, name) == b"%d" % won.index(True)


def test_a_large_file_is_placed_once(tmp, folder, means):
    for data in (b"first", b"second"):
        with Temporary(tmp, "archive") as temporary:
            temporary.write(data)
            assert temporary.place(folder, "archive", small=False) == (data == b"first")
    assert content(folder, "archive") == b"first"


def full_disk(monkeypatch):
    """Let files be made by `open`, and nothing be written to them."""
    real = open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(file, mode, *rest, **more):
        opened = real(file, mode, *rest, **more)
        return Full(opened) if "w" in mode else opened

    monkeypatch.setattr(atomic, "open", full, raising=False)


def test_nothing_half_written_is_left_where_there_are_no_links(tmp, folder, monkeypatch):
    monkeypatch.setattr(os, "link", failing(errno.EPERM, os.link))
    monkeypatch.setattr(atomic, "_renameat2", lambda: None)
    full_disk(monkeypatch)
    with pytest.raises(DatabaseError, match="disk is full"):
        write_new_file(tmp, folder, "manifest", b"content", "manifest")
    assert not folder.has("manifest")


def test_short_writes_are_continued(tmp, folder, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    write_file(tmp, folder, "entry", bytes(range(256)), "put")
    assert content(folder, "entry") == bytes(range(256))


def test_short_writes_are_continued_without_links(tmp, folder, means, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    assert write_new_file(tmp, folder, "manifest", bytes(range(256)), "manifest")
    assert content(folder, "manifest") == bytes(range(256))


@pytest.mark.parametrize("umask", [0o002, 0o027, 0o077])
@pytest.mark.parametrize("mode", [0o700, 0o750, 0o775, 0o2775])
def test_who_may_read_follows_the_folder(tmp_path, means, umask, mode):
    os.chmod(tmp_path, mode)
    folder = Folder.open(str(tmp_path))
    before = os.umask(umask)
    try:
        folder.make("tmp")
        tmp = folder.inner("tmp")
        write_file(tmp, folder, "entry", b"x", "put")
        write_new_file(tmp, folder, "manifest", b"x", "manifest")
    finally:
        os.umask(before)
    for name in ("entry", "manifest"):
        status = folder.status(name)
        assert status.st_mode & 0o7777 == mode & 0o666
        assert status.st_gid == os.stat(tmp_path).st_gid


@pytest.mark.parametrize("call", ["open", "write", "close", "rename"])
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "input/output error"),
        (errno.ENOTEMPTY, "Directory not empty"),
    ],
)
def test_errors_leave_everything_as_it_was(tmp, folder, monkeypatch, call, code, words):
    write_file(tmp, folder, "entry", b"old", "put")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(code, getattr(os, call), after=call == "close"))
        with pytest.raises(DatabaseError, match=words) as caught:
            write_file(tmp, folder, "entry", b"new", "put")
    assert caught.value.errno == code
    assert folder.path in str(caught.value)
    assert content(folder, "entry") == b"old"


def test_a_volume_without_inodes_is_not_called_full(tmp, folder, monkeypatch):
    def no_inodes(path):
        return os.statvfs_result((4096, 4096, 900, 800, 800, 500, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", no_inodes)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.ENOSPC, os.open))
        with pytest.raises(DatabaseError, match="inodes are used up"):
            write_file(tmp, folder, "entry", b"new", "put")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOENT, errno.ESTALE])
def test_rename_that_happened_but_reports_an_error(tmp, folder, monkeypatch, code):
    write_file(tmp, folder, "entry", b"old", "put")
    monkeypatch.setattr(os, "rename", failing(code, os.rename, after=True))
    write_file(tmp, folder, "entry", b"new", "put")
    assert content(folder, "entry") == b"new"


def test_link_that_happened_but_reports_an_error(tmp, folder, monkeypatch):
    monkeypatch.setattr(os, "link", failing(errno.EEXIST, os.link, after=True))
    assert write_new_file(tmp, folder, "lock", b"mine", "lock")


def test_temporary_is_removed_on_any_error(tmp):
    with pytest.raises(KeyboardInterrupt), Temporary(tmp, "put") as temporary:
        temporary.write(b"half")
        raise KeyboardInterrupt


def test_a_folder_that_was_removed_is_told_from_other_errors(tmp_path):
    folder = Folder.open(str(tmp_path))
    folder.make("gone")
    gone = folder.inner("gone")
    os.rmdir(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        write_file(gone, folder, "entry", b"x", "put")
    with pytest.raises(FileNotFoundError):
        write_file(folder, gone, "entry", b"x", "put")
    assert folder.names() == []


@pytest.fixture(params=["exchange", "rename"])
def exchanges(request, monkeypatch):
    """Whether the file system can swap two names."""
    if request.param == "rename":
        monkeypatch.setattr(atomic, "_renameat2", lambda: None)
    return request.param


def test_exchange_takes_the_place_of_what_was_read(tmp, folder, exchanges):
    old = make(folder, "archive", b"old")
    with Temporary(tmp, "archive") as temporary:
        temporary.write(b"new")
        assert temporary.exchange(folder, "archive", old)
    assert content(folder, "archive") == b"new"


@pytest.mark.parametrize("there", [b"newer", None])
def test_exchange_leaves_what_nobody_has_read(tmp, folder, exchanges, there):
    old = make(folder, "archive", b"old")
    folder.unlink("archive")
    if there is not None:
        make(folder, "archive", there)
    with Temporary(tmp, "archive") as temporary:
        temporary.write(b"mine")
        assert not temporary.exchange(folder, "archive", old)
    assert folder.has("archive") == (there is not None)
    if there is not None:
        assert content(folder, "archive") == there


def suspended(monkeypatch, *deeds):
    """Do something just before each exchange, as other processes may where this one is asleep."""
    real, left = atomic._rename_with, list(deeds)

    def rename_with(flag, *arguments):
        if flag == atomic._EXCHANGE and left:
            left.pop(0)()
        return real(flag, *arguments)

    monkeypatch.setattr(atomic, "_rename_with", rename_with)


def test_an_exchange_after_a_suspension_gives_a_newer_file_back(tmp, folder, monkeypatch):
    old = make(folder, "archive", b"old")
    suspended(monkeypatch, lambda: write_file(tmp, folder, "archive", b"newer", "archive"))
    with Temporary(tmp, "archive") as temporary:
        temporary.write(b"mine")
        assert not temporary.exchange(folder, "archive", old)
    assert content(folder, "archive") == b"newer"


def test_no_file_of_another_process_is_removed_between_two_exchanges(folder, monkeypatch):
    """What comes out of the second exchange is kept if it is a third one's."""
    folder.make("tmp")
    tmp = folder.inner("tmp")
    old = make(folder, "archive", b"old")
    suspended(
        monkeypatch,
        lambda: write_file(tmp, folder, "archive", b"second", "archive"),
        lambda: write_file(tmp, folder, "archive", b"third", "archive"),
    )
    with Temporary(tmp, "archive") as temporary:
        temporary.write(b"mine")
        assert not temporary.exchange(folder, "archive", old)
    (kept,) = tmp.names()
    assert {content(folder, "archive"), content(tmp, kept)} == {b"second", b"third"}


@pytest.mark.parametrize("error", [None, errno.EIO])
def test_what_cannot_be_given_back_is_kept(folder, monkeypatch, error):
    """The name has gone, or the disk fails, before the second exchange."""
    folder.make("tmp")
    tmp = folder.inner("tmp")
    old = make(folder, "archive", b"old")

    def vanish():
        if error is not None:
            raise OSError(error, os.strerror(error))
        folder.unlink("archive")

    suspended(
        monkeypatch,
        lambda: write_file(tmp, folder, "archive", b"newer", "archive"),
        vanish,
    )
    with Temporary(tmp, "archive") as temporary:
        temporary.write(b"mine")
        if error is None:
            assert not temporary.exchange(folder, "archive", old)
        else:
            with pytest.raises(DatabaseError, match="input/output error"):
                temporary.exchange(folder, "archive", old)
    (kept,) = tmp.names()
    assert content(tmp, kept) == b"newer"


def test_an_archive_that_vanishes_before_the_exchange(tmp, folder, monkeypatch):
    old = make(folder, "archive", b"old")
    suspended(monkeypatch, lambda: folder.unlink("archive"))
    with Temporary(tmp, "archive") as temporary:
        temporary.write(b"mine")
        assert not temporary.exchange(folder, "archive", old)
    assert not folder.has("archive")


def test_rename_new_replaces_nothing(tmp, folder, means):
    make(folder, "one", b"one")
    make(folder, "two", b"two")
    assert not rename_new(folder, "one", folder, "two")
    assert (content(folder, "one"), content(folder, "two")) == (b"one", b"two")
    assert rename_new(folder, "one", folder, "three")
    assert content(folder, "three") == b"one" and not folder.has("one")


def test_set_aside_keeps_what_was_there_before(tmp, folder):
    folder.make("damaged")
    damaged = folder.inner("damaged")
    for number, expected in enumerate(("bad", "bad.2", "bad.3")):
        read = make(folder, "bad", b"%d" % number)
        assert set_aside(folder, "bad", read, damaged) == damaged.full(expected)
    assert [content(damaged, name) for name in ("bad", "bad.2", "bad.3")] == [b"0", b"1", b"2"]
    make(folder, "bad", b"whatever it is")
    assert set_aside(folder, "bad", None, damaged) == damaged.full("bad.4")


def test_set_aside_leaves_what_was_written_again(tmp, folder, monkeypatch):
    folder.make("damaged")
    damaged = folder.inner("damaged")
    read = make(folder, "bad", b"bad")
    write_file(tmp, folder, "bad", b"sound", "put")
    assert set_aside(folder, "bad", read, damaged) is None
    assert content(folder, "bad") == b"sound"
    folder.unlink("bad")
    assert set_aside(folder, "bad", read, damaged) is None
    # Written again between the look and the move: it goes back, or gives way to a newer one.
    real = Folder.rename
    for newer in (None, b"newer"):
        read = make(folder, "bad", b"bad")

        def late(self, name, target, new_name, newer=newer):
            monkeypatch.setattr(Folder, "rename", real)
            write_file(tmp, folder, "bad", b"sound", "put")
            real(self, name, target, new_name)
            if newer is not None:
                write_file(tmp, folder, "bad", newer, "put")

        monkeypatch.setattr(Folder, "rename", late)
        assert set_aside(folder, "bad", read, damaged) is None
        assert content(folder, "bad") == (newer or b"sound")
    assert damaged.names() == []


def test_keep_copy_needs_no_links(tmp, folder, means):
    folder.make("damaged")
    damaged = folder.inner("damaged")
    make(folder, "archive", b"content" * 1000)
    for expected in ("archive", "archive.2"):
        assert keep_copy(folder, "archive", damaged) == damaged.full(expected)
        assert content(damaged, expected) == content(folder, "archive") == b"content" * 1000


def test_a_copy_that_cannot_be_made_leaves_nothing(tmp, folder, monkeypatch):
    folder.make("damaged")
    damaged = folder.inner("damaged")
    make(folder, "archive", b"content" * 1000)
    monkeypatch.setattr(os, "link", failing(errno.EPERM, os.link))
    full_disk(monkeypatch)
    with pytest.raises(OSError, match="No space"):
        keep_copy(folder, "archive", damaged)
    assert damaged.names() == []


def test_what_is_young(folder):
    now = time.time()
    for age, expected in ((0, True), (30, True), (-30, True), (300, False), (-300, False)):
        make(folder, "entry", b"x")
        os.utime(folder.full("entry"), (now - age, now - age))
        assert is_young(stamp(folder, "entry")) == expected


def test_names_say_who_wrote():
    names = {temporary_name("put", rank) for rank in (0, 0, 12)}
    assert len(names) == 3
    for name in names:
        assert temporary_owner(name) == Owner.me()
    for name in ("x.tmp", ".nfs0000", "ampmpi-put-host.tmp", next(iter(names)) + "~"):
        assert temporary_owner(name) is None


def test_owners_live_and_die():
    me = Owner.me()
    assert me.is_dead() is False
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "from ampmpi.files.atomic import temporary_name as t; print(t('put'))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert temporary_owner(child.stdout.strip()).is_dead() is True
    later = Owner(me.host, me.boot, me.namespace, me.pid, me.start + 1)
    assert later.is_dead() is True
    assert Owner(me.host, "00000001", me.namespace, me.pid, me.start).is_dead() is True
    assert Owner("elsewhere", me.boot, me.namespace, me.pid, me.start).is_dead() is None
    assert Owner(me.host, me.boot, me.namespace + 1, me.pid, me.start).is_dead() is None
    assert Owner(me.host, me.boot, me.namespace, 2**40, me.start).is_dead() is True


def test_hosts_without_a_name_of_their_own_are_not_told_apart(monkeypatch):
    for name, expected in (("node7", True), ("localhost", None)):
        monkeypatch.setattr(owner, "hostname", lambda name=name: name)
        me = Owner.me()
        assert me.host == name and me.is_dead() is False
        assert Owner(name, "00000001", me.namespace, me.pid, me.start).is_dead() is expected


def test_a_process_that_nobody_waited_for_is_dead():
    child = subprocess.Popen(["sleep", "1000"])
    me = Owner.me()
    started = owner.process_start(child.pid)
    process = Owner(me.host, me.boot, me.namespace, child.pid, started)
    assert process.is_dead() is False
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.is_dead() is True
    child.wait()


def test_owners_of_which_nothing_is_known_are_not_dead(monkeypatch):
    me = Owner.me()
    assert Owner(me.host, "00000000", me.namespace, me.pid, me.start).is_dead() is None
    assert Owner(me.host, me.boot, me.namespace, me.pid, 0).is_dead() is None
    # Another user's process where /proc hides those of others.
    monkeypatch.setattr(owner, "process_start", lambda pid: 0)
    monkeypatch.setattr(os, "kill", failing(errno.EPERM, os.kill))
    assert me.is_dead() is None


def test_sweep_removes_what_is_dead_or_old(folder):
    me = Owner.me()
    name = temporary_name("put")
    dead = name.replace(f"-{me.start}-r", f"-{me.start + 1}-r")
    kept = dead.replace("-put-", "-archive-")
    elsewhere = name.replace(f"-{me.host}-", "-elsewhere-")
    old = elsewhere.replace("-elsewhere-", "-elsewhere2-")
    others = [".nfs000123", "notes.txt", "x.tmp", "ampmpi-put.tmp"]
    for each in (name, dead, kept, elsewhere, old, *others):
        make(folder, each, b"x")
    for each in (old, *others, name):
        before = time.time() - 2 * atomic.DAY
        os.utime(folder.full(each), (before, before))
    assert sorted(temporaries(folder)) == sorted([name, dead, kept, elsewhere, old])
    assert [is_abandoned(folder, each) for each in (name, dead, elsewhere, old)] == [
        False,
        True,
        False,
        True,
    ]
    assert (purpose_of(kept), purpose_of("notes.txt")) == ("archive", None)
    assert sweep(folder, but=frozenset({"archive"})) == 2
    assert sorted(folder.names()) == sorted([name, kept, elsewhere, *others])
    assert sweep(folder) == 1
    assert temporaries(None) == []
