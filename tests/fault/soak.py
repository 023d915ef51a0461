"""Everything that may be done to one database, at once and killed at random.

``python tests/fault/soak.py SECONDS`` runs it by hand. An entry counts as put
once ``put`` returned, or the pack was ended in which it is; from then on every
reader must find it, and find it right, whoever is killed. What was appended to a
pack must be there in the end, though nobody ended the pack.

Some keys belong to one process each, which alone puts, merges and deletes them.
A deletion takes the lock and writes the archive anew, so that several are done at once.
It counts its steps: the rest of a key's count by four says whether the key is
absent, being put, present, or being deleted. A reader that finds the same
count before and after a look knows what it must have seen. A process that was
killed in the middle of a step is followed by one that does the step again.
"""

import argparse
import collections
import itertools
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

from samples import make_entry, make_key

from ampmpi import FingerprintDatabase
from ampmpi.database import lock, packs
from ampmpi.database.check import check
from ampmpi.database.merge import merge
from ampmpi.database.packs import PackLimits, PackWriter
from ampmpi.entries.codec import encode
from ampmpi.errors import LockedError

ENTRIES = 600
OWNERS, OWNED = 3, 60
ABSENT, PUTTING, PRESENT, DELETING = range(4)
COUNTERS = (
    "puts", "appends", "packs", "saves", "gets", "many", "lists", "owned", "deletes", "merges",
    "compressions",
    "checks", "locked", "lost", "undead", "wrong", "errors",
)  # fmt: skip
KILLS_PER_SECOND = 3.0
POLL = 0.05
"""Seconds after which one who waits for the lock looks again: many are killed while they wait."""


class Shared:
    """What all processes see: which entries were put, and how often what was done."""

    def __init__(self, workers, errors):
        self.workers = workers
        self.errors = errors
        self.memory = mmap.mmap(-1, ENTRIES)
        self.appended = mmap.mmap(-1, ENTRIES)
        self.steps = memoryview(mmap.mmap(-1, 8 * OWNERS * OWNED)).cast("q")
        self.counts = memoryview(mmap.mmap(-1, 8 * len(COUNTERS) * workers)).cast("q")

    def count(self, worker, name):
        self.counts[len(COUNTERS) * worker + COUNTERS.index(name)] += 1

    def totals(self):
        counts = self.counts.tolist()
        return {name: sum(counts[number :: len(COUNTERS)]) for number, name in enumerate(COUNTERS)}

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


def write_packs(path, shared, worker, rng):
    with FingerprintDatabase(path) as database:
        limits = PackLimits(rng.choice([3_000, 30_000, 10**9]), rng.choice([0.05, 0.5]))
        writer = PackWriter(database.make(), worker, limits)
        waiting = []
        while True:
            number = rng.randrange(ENTRIES)
            waiting.append(number)
            writer.put_bytes(make_key(number), encode(make_entry(number)))
            shared.appended[number] = 1
            shared.count(worker, "appends")
            if rng.random() < 0.02:
                writer.close()
            if writer._file is None:
                for each in waiting:
                    shared.was_put(each)
                waiting.clear()
                shared.count(worker, "packs")
            if rng.random() < 0.05:
                time.sleep(rng.expovariate(50))


def save(path, shared, worker, rng):
    """Save what killed ranks left in packs, as a job does."""
    with FingerprintDatabase(path) as database:
        home = database.make()
        while True:
            done = [packs.salvage(home, name) for name in packs.unfinished(home)]
            if troubles := [trouble for _, trouble in done if trouble]:
                shared.complain(worker, "errors", troubles)
            shared.count(worker, "saves")
            time.sleep(rng.expovariate(3))


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
            keys = set(map(make_key, known))
            unlisted = database.missing(keys) | keys - set(database)
            # A listing may miss a name that is being replaced, as those of tmpfs do.
            if missing := {key for key in unlisted if key not in database}:
                shared.complain(worker, "lost", f"not listed: {missing}")
            if database.corrupt:
                shared.complain(worker, "errors", f"corrupt: {database.corrupt}")
                database.corrupt.clear()
            shared.count(worker, "lists")
            look_at_owned(database, shared, worker, rng)


def look_at_owned(database, shared, worker, rng):
    """Look at keys that come and go; judge those of which it is known what must be seen."""
    numbers = rng.sample(range(OWNERS * OWNED), 30)
    before = {number: shared.steps[number] for number in numbers}
    keys = {make_key(ENTRIES + number): number for number in numbers}
    if rng.random() < 0.5:
        found, how = dict(database.get_many(keys)), "get_many"
    else:
        looks = {key: database.get(key) for key in keys}
        found, how = {key: entry for key, entry in looks.items() if entry is not None}, "get"
    for key, number in keys.items():
        if shared.steps[number] != before[number]:
            continue
        if before[number] % 4 == PRESENT:
            judge(shared, worker, ENTRIES + number, found.get(key), f"{how}, owned")
        elif before[number] % 4 == ABSENT and key in found:
            shared.complain(worker, "undead", key)
        shared.count(worker, "owned")


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
                report = database.compress(wait=rng.choice([0, 5]), processes=rng.choice([1, 3]))
            except LockedError:
                shared.count(worker, "locked")
                time.sleep(0.02)
                continue
            if report.lost or report.set_aside or report.warnings:
                shared.complain(worker, "errors", report)
            shared.count(worker, "compressions")
            time.sleep(rng.expovariate(5))


def owner(path, shared, worker, rng, first):
    """Put and delete keys of its own."""
    with FingerprintDatabase(path, rank=worker) as database:
        mine = finish_steps(database, shared, worker, first)
        while True:
            for number in rng.sample(mine, 10):
                if shared.steps[number] % 4 == ABSENT:
                    put_owned(database, shared, worker, number)
                else:
                    database[make_key(ENTRIES + number)] = make_entry(ENTRIES + number)
                time.sleep(rng.expovariate(200))
            there = [number for number in mine if shared.steps[number] % 4 == PRESENT]
            delete_owned(database, shared, worker, rng.sample(there, len(there) // 3))


def put_owned(database, shared, worker, number):
    begin(shared, number, PUTTING)
    database[make_key(ENTRIES + number)] = make_entry(ENTRIES + number)
    shared.steps[number] += 1
    shared.count(worker, "puts")


def delete_owned(database, shared, worker, numbers):
    for number in numbers:
        begin(shared, number, DELETING)
    while True:
        try:
            database.delete([make_key(ENTRIES + number) for number in numbers], wait=5)
            break
        except LockedError:
            shared.count(worker, "locked")
    for number in numbers:
        shared.steps[number] += 1
        shared.count(worker, "deletes")


def begin(shared, number, step):
    """Say what is being done, unless the one who was killed said it."""
    if shared.steps[number] % 4 != step:
        shared.steps[number] += 1
    assert shared.steps[number] % 4 == step


def finish_steps(database, shared, worker, first):
    """Do again in whose middle an owner was killed; return the numbers of all its keys."""
    mine = range(first, first + OWNED)
    for number in mine:
        if shared.steps[number] % 4 == PUTTING:
            put_owned(database, shared, worker, number)
    delete_owned(database, shared, worker, [n for n in mine if shared.steps[n] % 4 == DELETING])
    return mine


def delete_and_put(path, shared, worker, rng):
    owner(path, shared, worker, rng, 0)


def delete_and_put_too(path, shared, worker, rng):
    owner(path, shared, worker, rng, OWNED)


def merge_and_delete(path, shared, worker, rng):
    """Put keys of its own by merging databases, and delete them."""
    folder = tempfile.mkdtemp(dir=os.path.dirname(path), prefix="sources-")
    with FingerprintDatabase(path, rank=worker) as database:
        mine = finish_steps(database, shared, worker, 2 * OWNED)
        for turn in itertools.count():
            absent = [number for number in mine if shared.steps[number] % 4 == ABSENT]
            chosen = rng.sample(absent, min(10, len(absent)))
            with FingerprintDatabase.create(f"{folder}/{turn}-fingerprints.ampdb") as source:
                for number in chosen:
                    source[make_key(ENTRIES + number)] = make_entry(ENTRIES + number)
                if rng.random() < 0.5:
                    source.compress()
            for number in chosen:
                begin(shared, number, PUTTING)
            while True:
                try:
                    report = merge(path, [source.path], assume_same=True, wait=5)
                    break
                except LockedError:
                    shared.count(worker, "locked")
            if report.corrupt or report.compress.lost or report.compress.warnings:
                shared.complain(worker, "errors", report)
            for number in chosen:
                shared.steps[number] += 1
            shared.count(worker, "merges")
            shutil.rmtree(source.path)
            present = [number for number in mine if shared.steps[number] % 4 == PRESENT]
            delete_owned(database, shared, worker, rng.sample(present, len(present) // 2))
            time.sleep(rng.expovariate(5))


def inspect(path, shared, worker, rng):
    """Check, and repair what should not have to be."""
    while True:
        report = check(path, repair=True)
        if report.problems or report.lost:
            shared.complain(worker, "errors", report)
        shared.count(worker, "checks")


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
    lock._POLL = POLL
    works = [write] * 2 + [write_packs] * 3 + [save] + [read] * 3 + [compress] * 2
    works += [delete_and_put, delete_and_put_too, merge_and_delete, inspect]
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
    present = [ENTRIES + n for n, step in enumerate(shared.steps) if step % 4 == PRESENT]
    absent = {make_key(ENTRIES + n) for n, step in enumerate(shared.steps) if step % 4 == ABSENT}
    expected = {make_key(number): make_entry(number) for number in shared.put_so_far() + present}
    with FingerprintDatabase(path) as database:
        # What was in place when its writer was killed before it could say so is right, too.
        for _ in range(2):
            found = dict(database.get_many())
            lost = expected.keys() - found.keys()
            wrong = {key for key in expected.keys() & found.keys() if found[key] != expected[key]}
            undead = absent & found.keys()
            if lost or wrong or undead or database.corrupt:
                problems.append(
                    f"in the end: lost {lost}, wrong {wrong}, undead {undead}, {database.corrupt}"
                )
            database.compress()
            # What was appended is found from now on, whoever was killed before the pack ended.
            appended = [number for number in range(ENTRIES) if shared.appended[number]]
            expected |= {make_key(number): make_entry(number) for number in appended}
        left = [each for name in ("loose", "tmp", "packs")
                for each in os.listdir(f"{database.path}/{name}")]  # fmt: skip
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
