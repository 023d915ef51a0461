"""Markers of what ranks compute, and which of those left behind count as crashes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ampmpi.errors import DatabaseError
from ampmpi.files.atomic import Owner, temporary_name
from ampmpi.fingerprinting import dead
from ampmpi.fingerprinting.dead import SEEN, STILL, find_dead
from ampmpi.fingerprinting.inflight import (
    InFlight,
    Job,
    collect_crashes,
    forget,
    read_markers,
)
from ampmpi.parallel import launch, slurm
from ampmpi.parallel.comm import SerialCommunicator

KEYS = [f"{number:032x}" for number in (7, 3, 1, 256)]

ME = Job("f" * 16, restart=1, batch="c.42")
OTHER = Job("0" * 16)


def crashes_in(directory, me: Job = ME, comm=None) -> dict[str, int]:
    path = str(directory)
    return dict(
        collect_crashes(path, find_dead(path, read_markers(path), me, comm or SerialCommunicator()))
    )


def marker_of_a_dead_rank(
    directory, key: str, host: str | None = None, job: Job = OTHER, signals: bytes = b""
) -> str:
    marker = InFlight(str(directory), 0, job)
    if key:
        marker.start(key)
    os.write(marker._file, signals)
    launch.stop_writing_signals(marker._file)
    os.close(marker._file)
    me, path = Owner.me(), Path(marker.path)
    name = path.name.replace(f"-{me.pid}-{me.start}-", f"-{me.pid}-{me.start + 1}-")
    if host is not None:
        name = name.replace(f"-{me.host}-", f"-{host}-")
    path.rename(directory / name)
    return name


def test_marker_of_a_living_rank_is_left_alone(tmp_path):
    marker = InFlight(str(tmp_path), 3, Job("0" * 16, restart=0, batch="c.42"))
    for key in (None, *KEYS[:2]):
        if key is not None:
            marker.start(key)
        os.utime(marker.path, (0, 0))
        assert crashes_in(tmp_path) == {}
        (found,) = read_markers(str(tmp_path))
        assert (found.key, found.job) == (key, Job("0" * 16, 0, "c.42"))
    marker.end()
    assert not list(tmp_path.iterdir())


def test_crashes_are_counted_over_jobs_and_forgotten_when_done(tmp_path):
    marker_of_a_dead_rank(tmp_path, KEYS[0])
    marker_of_a_dead_rank(tmp_path, KEYS[1])
    marker_of_a_dead_rank(tmp_path, "")
    assert crashes_in(tmp_path) == {KEYS[0]: 1, KEYS[1]: 1}
    assert len(list(tmp_path.iterdir())) == 2
    marker_of_a_dead_rank(tmp_path, KEYS[0])
    assert crashes_in(tmp_path) == {KEYS[0]: 2, KEYS[1]: 1}
    forget(str(tmp_path), [KEYS[0]])
    assert crashes_in(tmp_path) == {KEYS[1]: 1}


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The machine's own clock, and how often it was started."""
    time = [1000.0, 1.0]
    monkeypatch.setattr(dead, "monotonic", lambda: time[0])
    monkeypatch.setattr(dead, "boot_id", lambda: f"{int(time[1]):08x}")
    return time


def test_rank_of_which_nothing_is_known_is_dead_when_it_stands_still(tmp_path, clock):
    name = marker_of_a_dead_rank(tmp_path, KEYS[0], host="elsewhere")
    os.utime(tmp_path / name, (0, 0))  # another machine's clock says nothing
    assert crashes_in(tmp_path) == {}
    clock[0] += STILL - 1
    marker_of_a_dead_rank(tmp_path, KEYS[1], host="elsewhere")
    assert crashes_in(tmp_path) == {}
    clock[0] += 2
    assert crashes_in(tmp_path) == {KEYS[0]: 1}
    clock[0] += STILL
    assert crashes_in(tmp_path) == {KEYS[0]: 1, KEYS[1]: 1}
    assert not (tmp_path / SEEN).exists()


def test_rank_that_went_on_does_not_stand_still(tmp_path, clock):
    name = marker_of_a_dead_rank(tmp_path, KEYS[0], host="elsewhere")
    for ns in (10, 20, 30):
        os.utime(tmp_path / name, ns=(ns, ns))
        assert crashes_in(tmp_path) == {}
        clock[0] += 0.8 * STILL
        assert crashes_in(tmp_path) == {}
        clock[0] += 0.8 * STILL
    assert crashes_in(tmp_path) == {KEYS[0]: 1}


def test_clocks_of_two_machines_are_not_compared(tmp_path, clock):
    marker_of_a_dead_rank(tmp_path, KEYS[0], host="elsewhere")
    assert crashes_in(tmp_path) == {}
    clock[:] = [1000.0 + 2 * STILL, 2.0]
    assert crashes_in(tmp_path) == {}
    clock[:] = [1000.0 + STILL - 1, 1.0]
    assert crashes_in(tmp_path) == {}
    clock[:] = [1000.0 + 3 * STILL + 1, 2.0]
    assert crashes_in(tmp_path) == {KEYS[0]: 1}


def test_machine_that_does_not_tell_its_starts_apart_judges_nothing(tmp_path, clock):
    marker_of_a_dead_rank(tmp_path, KEYS[0], host="elsewhere")
    clock[1] = 0
    for _ in range(3):
        assert crashes_in(tmp_path) == {}
        clock[0] += 2 * STILL


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"NAME": 3}', '{"NAME": {"00000001": "x"}}'])
def test_damaged_notes_start_anew(tmp_path, clock, text):
    name = marker_of_a_dead_rank(tmp_path, KEYS[0], host="elsewhere")
    (tmp_path / SEEN).write_text(text.replace("NAME", name))
    assert crashes_in(tmp_path) == {}
    assert json.loads((tmp_path / SEEN).read_text())[name]["00000001"] == 1000.0


ANSWER = "JobId={} JobName=x UserId=root(0) JobState={} Reason=None Restarts={} BatchFlag=1"
IN_42 = Job("e" * 16, batch="c.42")


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """Let ``scontrol`` give answers, and write down what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def put(script: str) -> Path:
        path, asked = folder / "scontrol", folder / "asked"
        path.write_text(f'#!/bin/sh\necho "$*" >>{asked}\njob=$4\n{script}\n')
        path.chmod(0o755)
        return asked

    return put


def say(answers: dict[str, str]) -> str:
    cases = "".join(f"{job}) echo '{text}';;\n" for job, text in answers.items())
    unknown = "slurm_load_jobs error: Invalid job id specified"
    return f"case $job in\n{cases}*) echo '{unknown}' >&2; exit 1;;\nesac"


@pytest.fixture
def database(tmp_path) -> Path:
    path = tmp_path / "tmp"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("state", "restarts", "counted"),
    [
        *((state, 1, True) for state in sorted(slurm.ENDED)),
        *((state, 1, False) for state in sorted(slurm.RUNNING)),
        ("RUNNING", 2, True),
        ("PENDING", 2, True),
        ("PENDING", 1, None),
        ("SPECIAL_EXIT", 1, None),
        ("RUNNING", 0, None),
    ],
)
def test_what_slurm_says_of_a_job(database, clock, answer, state, restarts, counted):
    job = Job("1" * 16, restart=1, batch="c.41")
    marker_of_a_dead_rank(database, KEYS[0], host="elsewhere", job=job)
    marker_of_a_dead_rank(database, KEYS[1], host="elsewhere", job=job)
    asked = answer(say({"41": ANSWER.format(41, state, restarts)}))
    both = {KEYS[0]: 1, KEYS[1]: 1}
    assert crashes_in(database, IN_42) == (both if counted else {})
    assert asked.read_text() == "show job -o 41\n"
    clock[0] += STILL + 1
    assert crashes_in(database, IN_42) == ({} if counted is False else both)


def test_one_task_of_an_array_is_told_from_the_others(database, clock, answer):
    marker_of_a_dead_rank(database, KEYS[0], host="elsewhere", job=Job("1" * 16, batch="c.41"))
    lines = [ANSWER.format(number, state, 0) for number, state in
             ((43, "FAILED"), (41, "RUNNING"), (411, "FAILED"))]  # fmt: skip
    answer(say({"41": "\n".join(lines)}))
    clock[0] += 2 * STILL
    assert crashes_in(database, IN_42) == {}


def test_job_that_slurm_has_forgotten(database, clock, answer):
    marker_of_a_dead_rank(database, KEYS[0], host="elsewhere", job=Job("1" * 16, batch="c.41"))
    answer(say({}))
    assert crashes_in(database, IN_42) == {}  # it may know no job at all here
    answer(say({"42": ANSWER.format(42, "RUNNING", 0)}))
    assert crashes_in(database, IN_42) == {KEYS[0]: 1}


def test_job_of_another_user_may_be_hidden(database, clock, answer, monkeypatch):
    marker_of_a_dead_rank(database, KEYS[0], host="elsewhere", job=Job("1" * 16, batch="c.41"))
    answer(say({"42": ANSWER.format(42, "RUNNING", 0)}))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert crashes_in(database, IN_42) == {}


@pytest.mark.parametrize("batch", ["", "d.41", "c.42", "c.4x"])
def test_slurm_is_not_asked_of_what_it_cannot_know(database, clock, answer, batch):
    marker_of_a_dead_rank(database, KEYS[0], host="elsewhere", job=Job("1" * 16, batch=batch))
    asked = answer(say({"41": ANSWER.format(41, "FAILED", 0)}))
    assert crashes_in(database, IN_42) == {}
    assert not asked.exists()


@pytest.mark.parametrize("script", ["exit 1", "sleep 60", "echo rubbish", "kill -9 $$"])
def test_slurm_that_does_not_answer(database, clock, answer, monkeypatch, script):
    monkeypatch.setattr(slurm, "PATIENCE", 0.2)
    for key, number in zip(KEYS[:2], (40, 41), strict=True):
        job = Job(f"{number:016x}", batch=f"c.{number}")
        marker_of_a_dead_rank(database, key, host="elsewhere", job=job)
    asked = answer(script)
    assert crashes_in(database, IN_42) == {}
    if script.startswith("sleep"):
        assert len(asked.read_text().splitlines()) == 1  # it is waited for once
    clock[0] += STILL + 1
    assert crashes_in(database, IN_42) == {KEYS[0]: 1, KEYS[1]: 1}


def test_no_slurm_here(database, clock, monkeypatch):
    monkeypatch.setenv("PATH", str(database))
    marker_of_a_dead_rank(database, KEYS[0], host="elsewhere", job=Job("1" * 16, batch="c.41"))
    assert crashes_in(database, IN_42) == {}


# A rank in machine code that does not come back to Python, and tells that it is there.
RANK = """
import hashlib, signal, sys
from ampmpi.fingerprinting.inflight import InFlight, Job
from ampmpi.parallel import launch
if sys.argv[3] == "caught":
    launch.stop.install()
signal.signal(signal.SIGUSR2, lambda *_: None)
marker = InFlight(sys.argv[1], 0, Job.new())
marker.start(sys.argv[2])
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.parametrize("caught", ["caught", "not caught"])
@pytest.mark.parametrize(
    ("signals", "counts"),
    [
        ([], True),
        ([signal.SIGTERM], False),
        ([signal.SIGUSR1] * 3, False),
        ([signal.SIGUSR2], True),  # asks for nothing
    ],
)
def test_rank_that_was_asked_to_stop_has_not_crashed(tmp_path, signals, counts, caught):
    command = [sys.executable, "-c", RANK, str(tmp_path), KEYS[0], caught]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        (path,) = tmp_path.iterdir()
        for number in signals:
            size = path.stat().st_size
            process.send_signal(number)
            limit = time.monotonic() + 30
            # It may die of the first one, if that came before the machine code began.
            while path.stat().st_size == size and process.poll() is None:
                assert time.monotonic() < limit
        process.kill()
    assert crashes_in(tmp_path) == ({KEYS[0]: 1} if counts else {})
    assert len(list(tmp_path.iterdir())) == counts


def test_signals_do_not_hide_which_image_comes_next(tmp_path):
    marker = InFlight(str(tmp_path), 0, Job("0" * 16, 0, "c.42"))
    previous = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        for key in KEYS:
            os.kill(os.getpid(), signal.SIGUSR2)
            marker.start(key)
            (found,) = read_markers(str(tmp_path))
            assert (found.key, found.job) == (key, Job("0" * 16, 0, "c.42"))
    finally:
        marker.end()
        signal.signal(signal.SIGUSR2, previous)
    assert Path(marker.path).exists() is False
    assert signal.set_wakeup_fd(-1) == -1


def test_script_dies_of_a_signal_as_before(tmp_path):
    code = RANK.replace("hashlib.pbkdf2", "import time; time.sleep(60); hashlib.pbkdf2")
    command = [sys.executable, "-c", code, str(tmp_path), KEYS[0], "not caught"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
    assert crashes_in(tmp_path) == {}


def test_handlers_are_put_back(tmp_path):
    before = {number: signal.getsignal(number) for number in launch.WARNINGS}
    InFlight(str(tmp_path), 0, OTHER).end()
    assert {number: signal.getsignal(number) for number in launch.WARNINGS} == before


def test_who_listens_to_signals_already_goes_on(tmp_path):
    async def main() -> bool:
        woken = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, woken.set)
        marker = InFlight(str(tmp_path), 0, OTHER)
        os.kill(os.getpid(), signal.SIGUSR2)
        await asyncio.wait_for(woken.wait(), 30)
        marker.end()
        woken.clear()
        os.kill(os.getpid(), signal.SIGUSR2)
        await asyncio.wait_for(woken.wait(), 30)
        return True

    assert asyncio.run(main())


def test_thread_that_takes_no_signals(tmp_path):
    thread = threading.Thread(target=lambda: InFlight(str(tmp_path), 0, OTHER).end())
    thread.start()
    thread.join()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("batch", "restart", "ended"),
    [("c.42", 0, True), ("c.42", 1, False), ("c.42", 2, False), ("c.4", 0, False), ("", 0, False)],
)
def test_ranks_of_the_run_before_are_dead(tmp_path, batch, restart, ended):
    job = Job("0" * 16, restart, batch)
    marker_of_a_dead_rank(tmp_path, KEYS[0], host="elsewhere", job=job)
    assert crashes_in(tmp_path) == ({KEYS[0]: 1} if ended else {})


def test_job_with_a_dead_rank_is_dead(tmp_path):
    first, second = Job("1" * 16), Job("2" * 16)
    marker_of_a_dead_rank(tmp_path, KEYS[0], host="elsewhere", job=first)
    marker_of_a_dead_rank(tmp_path, KEYS[1], host="elsewhere", job=second)
    marker_of_a_dead_rank(tmp_path, KEYS[3], job=first, signals=b"\x0f")
    assert crashes_in(tmp_path) == {KEYS[0]: 1}


def test_ranks_are_judged_on_their_own_host(tmp_path, clock):
    gone = marker_of_a_dead_rank(tmp_path, KEYS[0], host="elsewhere")
    busy = marker_of_a_dead_rank(tmp_path, KEYS[1], host="elsewhere")

    class TwoHosts(SerialCommunicator):
        size = 2

        def allgather(self, obj):
            return [obj, "elsewhere"]

        def gather(self, obj, root=0):
            return [obj, {gone: True, busy: False}]

    for _ in range(2):
        assert crashes_in(tmp_path, comm=TwoHosts()) == {KEYS[0]: 1}
        clock[0] += 2 * STILL


def test_other_files_are_left_alone(tmp_path):
    names = ["notes.image", "crashed-x", temporary_name("put"), ".nfs0001"]
    for name in names:
        (tmp_path / name).touch()
    assert crashes_in(tmp_path) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_database_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(DatabaseError, match="cannot write"):
        InFlight(str(tmp_path / "missing"), 0, ME)
