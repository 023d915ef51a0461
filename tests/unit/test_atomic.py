"""Files that appear whole or not at all, and temporaries."""

import errno
import os
import subprocess
import sys
import time

import pytest

from ampmpi.errors import DatabaseError
from ampmpi.files import atomic, owner
from ampmpi.files.atomic import (
    Temporary,
    sweep,
    temporaries,
    temporary_name,
    temporary_owner,
    write_file,
    write_new_file,
)
from ampmpi.files.owner import Owner


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tmp").mkdir()
    return tmp_path


def failing(code, call, after=False):
    """Return a call that reports an error, before or after it does its work."""

    def fail(*arguments, **keywords):
        if after:
            call(*arguments, **keywords)
        raise OSError(code, os.strerror(code))

    return fail


def test_write_replaces_the_whole_file(folder):
    target = folder / "entry"
    for content in (b"one", b"", b"three" * 1000):
        write_file(str(folder / "tmp"), str(target), content, "put")
        assert target.read_bytes() == content
    assert os.listdir(folder / "tmp") == []


def test_first_writer_wins(folder):
    target = folder / "manifest"
    assert write_new_file(str(folder / "tmp"), str(target), b"first", "manifest")
    assert not write_new_file(str(folder / "tmp"), str(target), b"second", "manifest")
    assert target.read_bytes() == b"first"
    assert os.listdir(folder / "tmp") == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_first_writer_wins_without_hard_links(folder, monkeypatch, code):
    monkeypatch.setattr(os, "link", failing(code, os.link))
    test_first_writer_wins(folder)


def test_short_writes_are_continued(folder, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    write_file(str(folder / "tmp"), str(folder / "entry"), bytes(range(256)), "put")
    assert (folder / "entry").read_bytes() == bytes(range(256))


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
def test_errors_leave_everything_as_it_was(folder, monkeypatch, call, code, words):
    target = folder / "entry"
    target.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(code, getattr(os, call), after=call == "close"))
        with pytest.raises(DatabaseError, match=words) as caught:
            write_file(str(folder / "tmp"), str(target), b"new", "put")
    assert caught.value.errno == code
    assert str(folder) in str(caught.value)
    assert target.read_bytes() == b"old"
    assert os.listdir(folder / "tmp") == []


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOENT, errno.ESTALE])
def test_rename_that_happened_but_reports_an_error(folder, monkeypatch, code):
    target = folder / "entry"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "rename", failing(code, os.rename, after=True))
    write_file(str(folder / "tmp"), str(target), b"new", "put")
    assert target.read_bytes() == b"new"


def test_link_that_happened_but_reports_an_error(folder, monkeypatch):
    monkeypatch.setattr(os, "link", failing(errno.EEXIST, os.link, after=True))
    assert write_new_file(str(folder / "tmp"), str(folder / "lock"), b"mine", "lock")


def test_temporary_is_removed_on_any_error(folder):
    with pytest.raises(KeyboardInterrupt), Temporary(str(folder / "tmp"), "put") as temporary:
        temporary.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(folder / "tmp") == []


def test_temporary_directory_is_made(tmp_path):
    write_file(str(tmp_path / "tmp"), str(tmp_path / "entry"), b"x", "put")
    assert (tmp_path / "entry").read_bytes() == b"x"


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
    elsewhere = name.replace(f"-{me.host}-", "-elsewhere-")
    old = elsewhere.replace("-elsewhere-", "-elsewhere2-")
    others = [".nfs000123", "notes.txt", "x.tmp", "ampmpi-put.tmp"]
    for each in (name, dead, elsewhere, old, *others):
        (folder / "tmp" / each).write_bytes(b"x")
    for each in (old, *others, name):
        before = time.time() - 2 * atomic.DAY
        os.utime(folder / "tmp" / each, (before, before))
    assert sorted(temporaries(str(folder / "tmp"))) == sorted([name, dead, elsewhere, old])
    assert sweep(str(folder / "tmp")) == 2
    assert sorted(os.listdir(folder / "tmp")) == sorted([name, elsewhere, *others])
    assert sweep(str(folder / "missing")) == 0
