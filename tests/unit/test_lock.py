import contextlib
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from ampmpi.database import lock as lock_module
from ampmpi.database.layout import Layout
from ampmpi.database.lock import Lock, read_holder
from ampmpi.errors import LockedError
from ampmpi.files.owner import Owner


@pytest.fixture
def layout(tmp_path):
    layout = Layout(str(tmp_path / "x-fingerprints.ampdb"))
    layout.create()
    return layout


def write_lock(layout, **changes):
    me = Owner.me()
    fields = {"host": me.host, "boot": me.boot, "namespace": me.namespace, "pid": me.pid,
              "start": me.start, "job": None, "nonce": "1", "since": time.time()}  # fmt: skip
    with open(layout.lock, "w") as file:
        json.dump(fields | changes, file)


@contextlib.contextmanager
def beating(layout):
    """Touch a lock all the time, as its holder does."""
    done = threading.Event()

    def beat():
        while not done.wait(0.02):
            os.utime(layout.lock)

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


def test_held_inside_and_gone_outside(layout):
    with Lock(layout, job="77") as lock:
        assert lock.is_held()
        holder = read_holder(layout)
        assert holder.owner == Owner.me()
        assert holder.job == "77"
    assert not os.path.exists(layout.lock)
    assert read_holder(layout) is None
    assert os.listdir(layout.temporaries) == []


def test_a_second_holder_is_told_who_and_what_to_do(layout):
    with Lock(layout, job="4711"), pytest.raises(LockedError) as caught, Lock(layout):
        pass
    message = str(caught.value)
    for word in (Owner.me().host, str(os.getpid()), "4711", "--wait", "--break-lock", "seconds"):
        assert word in message
    assert caught.value.exit_code == 6
    assert isinstance(caught.value, TimeoutError)


def test_waiting_until_the_holder_is_done(layout):
    first = Lock(layout)
    first.__enter__()
    timer = threading.Timer(0.3, first.__exit__, (None, None, None))
    timer.start()
    with Lock(layout, wait=60) as second:
        assert second.is_held()
    timer.join()


def test_the_lock_of_a_dead_process_of_this_host_is_broken_at_once(layout):
    write_lock(layout, pid=ended_process(), start=1)
    with Lock(layout) as lock:
        assert lock.is_held()


def test_the_lock_of_a_process_whose_number_is_used_again_is_broken(layout):
    write_lock(layout, start=Owner.me().start - 1)
    with Lock(layout) as lock:
        assert lock.is_held()


def test_the_lock_of_a_killed_process(layout):
    script = (
        "import os, signal\nfrom ampmpi.database.layout import Layout\n"
        "from ampmpi.database.lock import Lock\n"
        f"with Lock(Layout({layout.root!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script])
    assert os.path.exists(layout.lock)
    with Lock(layout) as lock:
        assert lock.is_held()


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"namespace": 1}])
def test_a_foreign_lock_is_broken_only_when_it_stands_still(layout, changes):
    write_lock(layout, **changes, pid=ended_process())
    with pytest.raises(LockedError), Lock(layout):
        pass
    with pytest.raises(LockedError), Lock(layout, wait=0.3, stale_after=600):
        pass
    with Lock(layout, wait=60, stale_after=0.3) as lock:
        assert lock.is_held()


def test_a_foreign_lock_that_beats_is_left_alone(layout):
    write_lock(layout, host="elsewhere")
    with beating(layout), pytest.raises(LockedError), Lock(layout, wait=3, stale_after=2.5):
        pass
    assert read_holder(layout).owner.host == "elsewhere"


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
def test_an_unreadable_lock(layout, content):
    with open(layout.lock, "wb") as file:
        file.write(content)
    assert read_holder(layout).owner is None
    with pytest.raises(LockedError, match="cannot be read"), Lock(layout):
        pass
    with Lock(layout, break_lock=True) as lock:
        assert lock.is_held()


@pytest.mark.parametrize("target", ["nowhere", "archive.tar.gz", "."])
def test_a_link_in_place_of_the_lock_does_not_hang(layout, target):
    os.symlink(target, layout.lock)
    with pytest.raises(LockedError, match="--break-lock"), Lock(layout):
        pass
    with Lock(layout, break_lock=True) as lock:
        assert lock.is_held()
    assert not os.path.lexists(layout.lock)


def test_a_lock_that_may_not_be_read_counts_while_it_beats(layout, monkeypatch):
    write_lock(layout, host="elsewhere", boot="0" * 8)
    original = os.open

    def closed(path, *rest, **more):
        if path == layout.lock:
            raise PermissionError(13, "Permission denied")
        return original(path, *rest, **more)

    monkeypatch.setattr(os, "open", closed)
    with beating(layout), pytest.raises(LockedError), Lock(layout, wait=1.5, stale_after=0.5):
        pass
    assert os.path.exists(layout.lock)
    monkeypatch.setattr(lock_module, "_POLL", 0.05)
    with Lock(layout, wait=5, stale_after=0.3) as lock:
        monkeypatch.undo()
        assert lock.is_held()
    assert not os.path.exists(layout.lock)


def test_breaking_by_hand_takes_it_from_a_living_process(layout):
    with Lock(layout) as first:
        with Lock(layout, break_lock=True) as second:
            assert second.is_held()
            assert not first.is_held()
            with pytest.raises(LockedError, match="taken away"):
                first.require()
        assert not os.path.exists(layout.lock)


def test_leaving_does_not_remove_another_ones_lock(layout):
    with Lock(layout):
        os.unlink(layout.lock)
        write_lock(layout, host="elsewhere")
    assert read_holder(layout).owner.host == "elsewhere"


def test_a_lock_that_was_taken_meanwhile_is_not_broken(layout):
    """Two processes see the same dead lock; the slower one must not break the quicker one's."""
    write_lock(layout, pid=ended_process(), start=1)
    slow = Lock(layout)
    seen = lock_module._look(layout.lock)
    with Lock(layout) as quick:
        slow._break_lock(seen)
        assert quick.is_held()


def test_the_holder_touches_its_lock(layout, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT", 0.02)
    with Lock(layout):
        os.utime(layout.lock, (1, 1))
        for _ in range(500):
            if os.stat(layout.lock).st_mtime > 1:
                break
            time.sleep(0.02)
        assert os.stat(layout.lock).st_mtime > 1


def test_without_hard_links(layout, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with Lock(layout) as lock:
        assert lock.is_held()
        with pytest.raises(LockedError), Lock(layout):
            pass
