"""The lock of a compress."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from entry_samples import refuse

from ampmpi.database import lock as lock_module
from ampmpi.database.layout import Home
from ampmpi.database.lock import Lock, read_holder
from ampmpi.errors import DatabaseError, LockedError
from ampmpi.files import atomic
from ampmpi.files.owner import Owner


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "x-fingerprints")


def lock_of(home):
    return home.full("lock")


def write_lock(home, **changes):
    me = Owner.me()
    fields = {"host": me.host, "boot": me.boot, "namespace": me.namespace, "pid": me.pid,
              "start": me.start, "job": None, "nonce": "1", "since": time.time()}  # fmt: skip
    with open(lock_of(home), "w") as file:
        json.dump(fields | changes, file)


@contextlib.contextmanager
def beating(home):
    """Touch a lock all the time, as its holder does."""
    done = threading.Event()

    def beat():
        while not done.wait(0.02):
            os.utime(lock_of(home))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def ended_process():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_held_inside_and_gone_outside(home):
    with Lock(home, job="77") as lock:
        assert lock.is_held()
        holder = read_holder(home)
        assert holder.owner == Owner.me()
        assert holder.job == "77"
    assert not os.path.exists(lock_of(home))
    assert read_holder(home) is None
    assert home.temporaries.names() == []


def test_a_second_holder_is_told_who_and_what_to_do(home):
    with Lock(home, job="4711"), pytest.raises(LockedError) as caught, Lock(home):
        pass
    message = str(caught.value)
    for word in (Owner.me().host, str(os.getpid()), "4711", "--wait", "--break-lock", "seconds"):
        assert word in message
    assert caught.value.exit_code == 6
    assert isinstance(caught.value, TimeoutError)


def test_waiting_until_the_holder_is_done(home):
    first = Lock(home)
    first.__enter__()
    timer = threading.Timer(0.3, first.__exit__, (None, None, None))
    timer.start()
    with Lock(home, wait=60) as second:
        assert second.is_held()
    timer.join()


def test_the_lock_of_a_dead_process_of_this_host_is_broken_at_once(home):
    write_lock(home, pid=ended_process(), start=1)
    with Lock(home) as lock:
        assert lock.is_held()


def test_the_lock_of_a_process_whose_number_is_used_again_is_broken(home):
    write_lock(home, start=Owner.me().start - 1)
    with Lock(home) as lock:
        assert lock.is_held()


def test_the_lock_of_a_killed_process(home):
    script = (
        "import os, signal\nfrom ampmpi.database.layout import Home\n"
        "from ampmpi.database.lock import Lock\n"
        f"with Lock(Home.open({home.path!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script])
    assert os.path.exists(lock_of(home))
    with Lock(home) as lock:
        assert lock.is_held()


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"namespace": 1}])
def test_a_foreign_lock_is_broken_only_when_it_stands_still(home, changes):
    write_lock(home, **changes, pid=ended_process())
    with pytest.raises(LockedError), Lock(home):
        pass
    with pytest.raises(LockedError), Lock(home, wait=0.3, stale_after=600):
        pass
    with Lock(home, wait=60, stale_after=0.3) as lock:
        assert lock.is_held()


def test_a_foreign_lock_that_beats_is_left_alone(home):
    write_lock(home, host="elsewhere")
    with beating(home), pytest.raises(LockedError), Lock(home, wait=3, stale_after=2.5):
        pass
    assert read_holder(home).owner.host == "elsewhere"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b"[" * 5000,
        b"\xff" * 9000,
        b'{"host": 1, "since": "x"}',
        b'{"host":"h", "boot":"b", "namespace":1, "pid":1e999, "start":1, "since":1}',
    ],
)
def test_an_unreadable_lock(home, content):
    with open(lock_of(home), "wb") as file:
        file.write(content)
    assert read_holder(home).owner is None
    with pytest.raises(LockedError, match="cannot be read"), Lock(home):
        pass
    with Lock(home, break_lock=True) as lock:
        assert lock.is_held()


@pytest.mark.parametrize("target", ["nowhere", "archive.tar.gz", "."])
def test_a_link_in_place_of_the_lock_does_not_hang(home, target):
    os.symlink(target, lock_of(home))
    with pytest.raises(LockedError, match="--break-lock"), Lock(home):
        pass
    with Lock(home, break_lock=True) as lock:
        assert lock.is_held()
    assert not os.path.lexists(lock_of(home))


def test_a_lock_that_may_not_be_read_counts_while_it_beats(home, monkeypatch):
    write_lock(home, host="elsewhere", boot="0" * 8)
    refuse(monkeypatch, lock_of(home), errno.EACCES)
    with beating(home), pytest.raises(LockedError), Lock(home, wait=1.5, stale_after=0.5):
        pass
    assert os.path.exists(lock_of(home))
    monkeypatch.setattr(lock_module, "_POLL", 0.05)
    with Lock(home, wait=5, stale_after=0.3) as lock:
        monkeypatch.undo()
        assert lock.is_held()
    assert not os.path.exists(lock_of(home))


def test_breaking_by_hand_takes_it_from_a_living_process(home):
    with Lock(home) as first:
        with Lock(home, break_lock=True) as second:
            assert second.is_held()
            assert not first.is_held()
            with pytest.raises(LockedError, match="taken away"):
                first.require()
        assert not os.path.exists(lock_of(home))


def test_leaving_does_not_remove_another_ones_lock(home):
    with Lock(home):
        os.unlink(lock_of(home))
        write_lock(home, host="elsewhere")
    assert read_holder(home).owner.host == "elsewhere"


def test_a_lock_that_was_taken_meanwhile_is_not_broken(home):
    """Two processes see the same dead lock; the slower one must not break the quicker one's."""
    write_lock(home, pid=ended_process(), start=1)
    slow = Lock(home)
    seen = lock_module._look(home.root, "lock")
    with Lock(home) as quick:
        slow._break_lock(seen)
        assert quick.is_held()


def test_the_holder_touches_its_lock(home, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT", 0.02)
    with Lock(home):
        os.utime(lock_of(home), (1, 1))
        for _ in range(500):
            if os.stat(lock_of(home)).st_mtime > 1:
                break
            time.sleep(0.02)
        assert os.stat(lock_of(home)).st_mtime > 1


@pytest.mark.parametrize("renameat2", [True, False])
@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV])
def test_without_hard_links(home, monkeypatch, code, renameat2):
    def refuse_links(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse_links)
    if not renameat2:
        monkeypatch.setattr(atomic, "_renameat2", lambda: None)
    with Lock(home) as lock:
        assert lock.is_held()
        with pytest.raises(LockedError), Lock(home):
            pass
    assert not os.path.exists(lock_of(home))
    write_lock(home, pid=ended_process(), start=1)
    with Lock(home) as lock:
        assert lock.is_held()


def test_what_a_lock_says_cannot_move_the_cursor(home):
    write_lock(home, host="a\x1b[2Jb\nforged: all is well\u202e", job="\x9b1m" + "j" * 900)
    with pytest.raises(LockedError) as caught, Lock(home):
        pass
    message = str(caught.value)
    assert message.isprintable() and "forged: all is well" in message
    assert len(message) < 1000


def test_it_follows_a_database_that_is_renamed(home, tmp_path):
    with Lock(home) as lock:
        os.rename(home.path, tmp_path / "y-fingerprints.ampdb")
        other = Home.create(home.path)
        assert lock.is_held()
        with Lock(other) as second:
            assert second.is_held()
    assert not (tmp_path / "y-fingerprints.ampdb" / "lock").exists()


def test_a_database_that_was_removed(home):
    shutil.rmtree(home.path)
    with pytest.raises(DatabaseError, match="was removed while it was in use"), Lock(home):
        pass
    assert not os.path.exists(home.path)
