"""Writers, readers and compressors on one database, killed at random.

``python tests/fault/soak.py SECONDS`` runs it by hand. An entry counts as put
once ``put`` returned; from then on every reader must find it, and find it
right, whoever is killed.
"""

import argparse
import collections
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback

from samples import make_entry, make_key

from ampmpi import FingerprintDatabase
from ampmpi.database.check import check
from ampmpi.errors import LockedError

ENTRIES = 600
COUNTERS = ("puts", "gets", "many", "lists", "compressions", "locked", "lost", "wrong", "errors")
WRITERS, READERS, COMPRESSORS = 4, 3, 2
KILLS_PER_SECOND = 5.0


class Shared:
    """What all processes see: which entries were put, and how often what was done."""

    def __init__(self, workers, errors):
        self.workers = workers
        self.errors = errors
        self.memory = mmap.mmap(-1, ENTRIES + 8 * len(COUNTERS) * workers)

    def count(self, worker, name):
        place = ENTRIES + 8 * (len(COUNTERS) * worker + COUNTERS.index(name))
        (value,) = struct.unpack_from("q", self.memory, place)
        struct.pack_into("q", self.memory, place, value + 1)

    def totals(self):
        values = struct.unpack_from(f"{len(COUNTERS) * self.workers}q", self.memory, ENTRIES)
        return {name: sum(values[number :: len(COUNTERS)]) for number, name in enumerate(COUNTERS)}

    def was_put(self, number):
        self.memory[number] = 1

    def put_so_far(self):
        return [number for number in range(ENTRIES) if self.memory[number]]

    def complain(self, worker, name, what):
        self.count(worker, name)
        with open(self.errors, "a") as file:
            file.write(f"{name}: {what}\n")


def write(path, shared, worker, rng):
    with FingerprintDatabase(path, rank=worker) as database:
        while True:
            number = rng.randrange(ENTRIES)
            database[make_key(number)] = make_entry(number)
            shared.was_put(number)
            shared.count(worker, "puts")


def read(path, shared, worker, rng):
    with FingerprintDatabase(path) as database:
        while True:
            known = shared.put_so_far()
            if not known:
                continue
            for number in rng.choices(known, k=20):
                look(database, shared, worker, number)
            chosen = set(rng.sample(known, min(len(known), 100)))
            found = dict(database.get_many(map(make_key, chosen)))
            for number in chosen:
                judge(shared, worker, number, found.get(make_key(number)), "get_many")
            shared.count(worker, "many")
            listed = set(database)
            if (
                missing := database.missing(map(make_key, known))
                | set(map(make_key, known)) - listed
            ):
                shared.complain(worker, "lost", f"not listed: {missing}")
            if database.corrupt:
                shared.complain(worker, "errors", f"corrupt: {database.corrupt}")
                database.corrupt.clear()
            shared.count(worker, "lists")


def look(database, shared, worker, number):
    try:
        found = database[make_key(number)]
    except KeyError:
        found = None
    judge(shared, worker, number, found, "get")
    shared.count(worker, "gets")


def judge(shared, worker, number, found, how):
    if found is None:
        shared.complain(worker, "lost", f"{how} of {make_key(number)}")
    elif found != make_entry(number):
        shared.complain(worker, "wrong", f"{how} of {make_key(number)}")


def compress(path, shared, worker, rng):
    with FingerprintDatabase(path) as database:
        while True:
            try:
                report = database.compress(wait=rng.choice([0, 5]))
            except LockedError:
                shared.count(worker, "locked")
                time.sleep(0.02)
                continue
            if report.lost or report.set_aside or report.warnings:
                shared.complain(worker, "errors", report)
            shared.count(worker, "compressions")


def start(path, shared, worker, work, seed):
    """Fork a process that works until it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work(path, shared, worker, random.Random(seed))
        except BaseException:
            shared.complain(worker, "errors", traceback.format_exc())
        finally:
            os._exit(1)
    return pid


def soak(seconds, folder, seed=0):
    """Run it.

    Returns
    -------
    dict
        Operations, kills, and what went wrong; and the text of every problem.
    """
    path = os.path.join(folder, "soak-fingerprints.ampdb")
    FingerprintDatabase.create(path).close()
    works = [write] * WRITERS + [read] * READERS + [compress] * COMPRESSORS
    shared = Shared(len(works), os.path.join(folder, "problems"))
    rng = random.Random(seed)
    kills = collections.Counter()
    running = {start(path, shared, n, work, n): n for n, work in enumerate(works)}
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(rng.expovariate(KILLS_PER_SECOND))
            pid = rng.choice(list(running))
            number = running.pop(pid)
            stop(pid)
            kills[works[number].__name__] += 1
            running[start(path, shared, number, works[number], rng.random())] = number
    finally:
        for pid in running:
            stop(pid)
    totals = shared.totals() | {"kills": dict(kills)}
    problems = finish(path, shared)
    if os.path.exists(shared.errors):
        with open(shared.errors) as file:
            problems.append(file.read())
    return totals, problems


def stop(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def finish(path, shared):
    """Look at what is left when all processes have been killed."""
    problems = []
    expected = {make_key(number): make_entry(number) for number in shared.put_so_far()}
    with FingerprintDatabase(path) as database:
        # What was in place when its writer was killed before it could say so is right, too.
        for _ in range(2):
            found = dict(database.get_many())
            lost = expected.keys() - found.keys()
            wrong = {key for key in expected.keys() & found.keys() if found[key] != expected[key]}
            if lost or wrong or database.corrupt:
                problems.append(f"in the end: lost {lost}, wrong {wrong}, {database.corrupt}")
            database.compress()
        left = os.listdir(database.layout.loose) + os.listdir(database.layout.temporaries)
        if left:
            problems.append(f"left over: {left}")
    if report := check(path).problems:
        problems.append(f"check: {report}")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="file system to use; a temporary folder by default")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(dir=options.folder, prefix="ampmpi-soak-")
    try:
        totals, problems = soak(options.seconds, folder, options.seed)
    finally:
        shutil.rmtree(folder)
    print(", ".join(f"{name} {value}" for name, value in totals.items()))
    print("\n".join(problems) or "nothing lost, nothing wrong")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
