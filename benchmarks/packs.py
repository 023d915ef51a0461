"""Packs beside loose entries: calls to the file system, files, and CPU time, in one run.

    python benchmarks/packs.py [calls|cpu] [--dir DIR]
    python benchmarks/packs.py before --checkout DIR [--dir DIR]

``calls`` runs the whole job, loose and with packs, on 2 ranks under strace: 2,000 images
of 32 atoms with primes, from the start to the finished archive. It counts each metadata
operation on the databases' directories, per entry; reading and writing data are not among
them. Meanwhile a thread counts the files.

``cpu`` takes the same entries of primes from memory to an archive that was read back, in
one process, both ways by turns, and prints medians of the CPU time per entry, and in which
functions it goes.

``before`` compares putting, reading and compressing loose entries with what another commit
takes, of which DIR is a checkout, by turns.

Without a word both ``calls`` and ``cpu``.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import functools
import gc
import hashlib
import json
import os
import pickle
import pstats
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

KINDS = ("fingerprints", "fingerprint-primes")
WAYS = ("loose", "packs")
MEMORY = Path("/dev/shm")
BIN = Path(sys.executable).parent


@contextlib.contextmanager
def scratch(where: str | None) -> Iterator[Path]:
    """Make a folder to work in: in memory, unless the user says where."""
    place = where or (str(MEMORY) if MEMORY.is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="ampmpi-bench-", dir=place) as name:
        yield Path(name)


def heading(text: str) -> None:
    """Print what is measured now, and how quiet the machine is."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"\n{text}\n(load {load} on {os.cpu_count()} cores)", flush=True)


# ---- metadata operations ----

CALLS = (
    "open", "openat", "openat2", "creat", "close", "close_range",
    "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat",
    "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat",
    "stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs",
    "access", "faccessat", "faccessat2", "readlink", "readlinkat", "getdents64",
    "truncate", "ftruncate", "fallocate", "fadvise64", "flock",
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "fchownat", "utimensat",
    "getxattr", "fgetxattr", "setxattr", "fsetxattr",
)  # fmt: skip
MARK = "/ampmpi-bench-"
_LINE = re.compile(
    r"(?P<time>[\d.]+) (?P<call>\w+)\((?:[\w-]+<(?P<base>[^>]*)>(?:\(deleted\))?(?:, )?)?"
    r'(?:"(?P<name>[^"]*)")?'
)


class Call(NamedTuple):
    """One call: when, which, and on what in a database."""

    time: float
    name: str
    place: str


def parse(line: str) -> Call | None:
    """Return a call of strace's that concerns a database, or marks a phase."""
    match = _LINE.match(line)
    if match is None:
        return None
    path = str(Path(match["base"] or "", match["name"] or ""))
    name = match["call"]
    if path.startswith(MARK):
        return Call(float(match["time"]), "mark", path.removeprefix(MARK))
    if ".ampdb" not in path:
        return None
    if "AT_EMPTY_PATH" in line:
        name = "fstat"
    elif name == "newfstatat":
        name = "lstat" if "NOFOLLOW" in line else "stat"
    elif name in ("openat", "openat2") and "O_CREAT" in line:
        name = "openat, new"
    place = path.partition(".ampdb")[2].lstrip("/") or "."
    place = re.sub(r"[0-9a-f]{32}", "KEY", place)
    place = re.sub(r"ampmpi-([a-z]+)-.*?(\.tmp)?(\.tar\.gz)?$", r"\1-*\2\3", place)
    return Call(float(match["time"]), name, place)


def job(label: str, packs: bool) -> None:
    """Be one rank, whose calls say when images begin and end."""
    from ampmpi import fingerprint
    from ampmpi.fingerprinting import job as steps

    compute = steps.compute

    @functools.wraps(compute)
    def marked(*arguments: object, **keywords: object) -> None:
        Path(f"{MARK}images").exists()
        compute(*arguments, **keywords)
        Path(f"{MARK}end").exists()

    steps.compute = marked
    summary = fingerprint("images.traj", label=label, derivatives=True, packs=packs)
    assert summary.computed == summary.images


class Files(threading.Thread):
    """Counts the files of databases every now and then; keeps where they were when most."""

    def __init__(self, databases: list[Path]) -> None:
        super().__init__(daemon=True)
        self._databases, self._end = databases, threading.Event()
        self.most: list[Counter[str]] = [Counter() for _ in databases]

    def run(self) -> None:
        """Look until told to end."""
        while not self._end.wait(0.05):
            for number, path in enumerate(self._databases):
                found: Counter[str] = Counter()
                for folder, _, names in os.walk(path):
                    found[os.path.relpath(folder, path)] += len(names)
                if found.total() > self.most[number].total():
                    self.most[number] = found

    def end(self) -> None:
        """Stop looking."""
        self._end.set()
        self.join()


def trace(folder: Path, way: str, ranks: int) -> tuple[list[Call], list[Counter[str]], float]:
    """Run a job under strace; return its calls, the files when most, and seconds."""
    traces = folder / f"traces-{way}"
    traces.mkdir()
    databases = [folder / f"{way}-{kind}.ampdb" for kind in KINDS]
    command = [str(BIN / "mpirun"), "-n", str(ranks)]
    command += ["strace", "-ff", "-ttt", "-y", "-qq", "--seccomp-bpf", "-e", "signal=none"]
    command += ["-e", "trace=" + ",".join(f"?{name}" for name in CALLS), "-o", f"{traces}/t"]
    command += [sys.executable, str(Path(__file__).resolve()), "job", "--label", way]
    files = Files(databases)
    files.start()
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    files.end()
    if done.returncode:
        sys.exit(f"the job failed:\n{done.stdout}{done.stderr}")
    calls = []
    for path in traces.iterdir():
        with path.open(errors="replace") as lines:
            calls += [call for line in lines if (call := parse(line)) is not None]
    shutil.rmtree(traces)
    for path in databases:
        assert (path / "archive.tar.gz").is_file()
        shutil.rmtree(path)
    return calls, files.most, seconds


def calls(options: argparse.Namespace) -> None:
    """Count the metadata operations of a job, loose and with packs."""
    from ase.io import write
    from scaling import crystals

    if shutil.which("strace") is None:
        print("without strace, calls cannot be counted: install it")
        return
    n_entries = len(KINDS) * options.images
    heading(
        f"Metadata operations of {options.images} images on {options.ranks} ranks, "
        f"{n_entries} entries, per entry"
    )
    found = {}
    with scratch(options.dir) as folder:
        write(folder / "images.traj", crystals(options.images))
        for way in WAYS:
            found[way] = trace(folder, way, options.ranks)
    counts = {}
    for way in WAYS:
        every = found[way][0]
        first = min(call.time for call in every if call[1:] == ("mark", "images"))
        last = max(call.time for call in every if call[1:] == ("mark", "end"))
        counts[way] = Counter(
            ((call.time >= first) + (call.time > last), call.name, call.place)
            for call in every
            if call.name != "mark"
        )

    def row(name: str, wanted: Callable[[int, str], bool]) -> list[int]:
        sums = [
            sum(n for (phase, call, _), n in counts[way].items() if wanted(phase, call))
            for way in WAYS
        ]
        print(f"  {name:34}" + "".join(f"{n / n_entries:10.4f} ({n:6d})" for n in sums))
        return sums

    print(" " * 36 + "".join(f"{way:>19}" for way in WAYS))
    for name in sorted({name for way in WAYS for _, name, _ in counts[way]}):
        row(name, lambda _, call, name=name: call == name)
    for number, phase in enumerate(("before the first image", "images", "packs' end and compress")):
        row(f"in all, {phase}", lambda when, _, number=number: when == number)
    row("in all", lambda when, call: True)
    row("in all, but for fstat", lambda when, call: call != "fstat")
    row("the same from the first image on", lambda when, call: when > 0 and call != "fstat")
    for way in WAYS:
        most = max(found[way][1], key=Counter.total)
        where = ", ".join(f"{n} in {place}/" for place, n in sorted(most.items()) if n)
        print(
            f"  {way}: {most.total() / options.ranks:g} files per rank and database at the peak "
            f"({where}); {found[way][2]:.1f} s under strace"
        )
    print("\n  what packs leave from the first image on, most first")
    left: dict[str, Counter[str]] = {}
    for (phase, name, place), n in counts["packs"].items():
        if phase:
            left.setdefault(place, Counter())[name] += n
    for place in sorted(left, key=lambda place: -left[place].total())[: options.top]:
        several = ", ".join(f"{name} {n}" for name, n in left[place].most_common())
        print(f"  {left[place].total():8d}  {place}: {several}")


# ---- CPU time ----


def primes(number: int) -> list[bytes]:
    """Return encoded fingerprint primes of so many images of 32 atoms."""
    from scaling import crystals

    from ampmpi import Gaussian
    from ampmpi.entries.codec import encode

    descriptor = Gaussian(cutoff=6.5, elements=["Cu", "Pt"])
    return [encode(descriptor.fingerprint_primes(atoms)) for atoms in crystals(number)]


def keys(number: int) -> list[str]:
    """Return keys that look like those of images."""
    return [hashlib.md5(str(each).encode()).hexdigest() for each in range(number)]


def steps(path: Path, entries: list[bytes], way: str) -> Iterator[Callable[[], object]]:
    """Give the two steps from entries in memory to an archive that was read back."""
    from ampmpi import FingerprintDatabase
    from ampmpi.database.compress import compress
    from ampmpi.database.packs import PackWriter

    names = keys(len(entries))
    database = FingerprintDatabase.create(path)
    home = database.make()
    home.complete()

    def put() -> None:
        if way == "loose":
            for name, data in zip(names, entries, strict=True):
                database.put_bytes(name, data)
        else:
            writer = PackWriter(home)
            for name, data in zip(names, entries, strict=True):
                writer.put_bytes(name, data)
            writer.close()

    def archive() -> None:
        report = compress(home, processes=1)
        assert (report.added, report.exit_code) == (len(entries), 0)

    yield put
    yield archive
    shutil.rmtree(path)


def cpu_ms(function: Callable[[], object]) -> float:
    """CPU time of a call, of this process with all its threads and of processes it waited for."""
    gc.collect()
    start = sum(os.times()[2:4]) + time.process_time()
    function()
    return 1e3 * (sum(os.times()[2:4]) + time.process_time() - start)


def cpu(options: argparse.Namespace) -> None:
    """Compare the CPU time of an entry, loose and with packs, and say where it goes."""
    from ampmpi.heap import keep_freed_memory

    keep_freed_memory()  # as a job does
    n = options.entries
    entries = primes(n)
    size = statistics.mean(map(len, entries)) / 1e6
    heading(
        f"CPU time per entry of {size:.2f} MB, ms: medians of {options.rounds} rounds of "
        f"{n} entries"
    )
    times: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
    with scratch(options.dir) as folder:
        path = folder / "x-fingerprint-primes.ampdb"
        for number in range(options.rounds + 1):
            for way in WAYS[:: 1 if number % 2 else -1]:
                one = tuple(cpu_ms(step) / n for step in steps(path, entries, way))
                if number:  # the first round is to warm up
                    times[way].append((*one, sum(one)))
        whole = {}
        print(" " * 10 + f"{'put':>9}{'compress':>10}{'both':>9}   lowest to highest")
        for way in WAYS:
            put, archive, both = map(statistics.median, zip(*times[way], strict=True))
            every = [one[-1] for one in times[way]]
            whole[way] = both
            print(
                f"  {way:8}{put:9.3f}{archive:10.3f}{both:9.3f}   "
                f"{min(every):.3f} to {max(every):.3f}"
            )
        ratios = [b[-1] / a[-1] for a, b in zip(times["loose"], times["packs"], strict=True)]
        print(
            f"  packs / loose: {whole['packs'] / whole['loose']:.3f}   "
            f"(round by round {min(ratios):.3f} to {max(ratios):.3f})"
        )
        print("\n  where it goes, ms per entry, in a run under the profiler")
        for way in WAYS:
            for name, step in zip(("put", "compress"), steps(path, entries, way), strict=True):
                profile = cProfile.Profile(time.process_time)
                profile.runcall(step)
                print_parts(f"{way}, {name}", profile, n)


def print_parts(title: str, profile: cProfile.Profile, n_entries: int) -> None:
    """Print the functions with the most time of their own, and who calls them."""
    stats = pstats.Stats(profile)
    parts: Counter[tuple[str, str]] = Counter()
    for (file, _, name), (_, _, own, _, callers) in stats.stats.items():
        if file != "~":
            parts[name, ""] += own
            continue
        name = re.sub(r"<(?:built-in )?(?:method )?(.*?)(?: of .*)?>", r"\1", name)
        for (_, _, caller), (_, _, share, _) in callers.items():
            parts[name, caller] += share
    whole = sum(parts.values())
    print(f"  {title}: {1e3 * whole / n_entries:.3f}")
    for (name, caller), own in parts.most_common(8):
        if own > 0.01 * whole:
            called = f" in {caller}" if caller else ""
            print(f"    {1e3 * own / n_entries:8.3f}  {name}{called}")


# ---- before and after ----

SIDE = """
import contextlib, gc, json, pathlib, pickle, shutil, sys, time
from ampmpi import FingerprintDatabase
from ampmpi.database.compress import compress
with contextlib.suppress(ImportError):
    from ampmpi.heap import keep_freed_memory
    keep_freed_memory()
entries, folder = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()), sys.argv[2]
print(json.dumps(None), flush=True)
for line in sys.stdin:
    result = {}
    for kind, (keys, data) in entries.items():
        path = folder + "/x-" + kind + ".ampdb"
        database = FingerprintDatabase.create(path)
        def put():
            for key, each in zip(keys, data): database.put_bytes(key, each)
        def read():
            for key in keys: database[key]
        def read_all():
            assert sum(1 for _ in database.get_many(keys)) == len(keys)
        def archive():
            compress(path, processes=1)
        for name, step in (("put", put), ("read", read), ("get_many", read_all),
                           ("compress", archive), ("read from archive", read)):
            gc.collect()
            start = time.perf_counter(), time.process_time()
            step()
            end = time.perf_counter(), time.process_time()
            result[kind + ": " + name] = [1e3 * (b - a) / len(keys) for a, b in zip(start, end)]
        shutil.rmtree(path)
    print(json.dumps(result), flush=True)
"""


class Side:
    """A process that measures one side whenever it is told to."""

    def __init__(self, package: str, data: Path, folder: Path) -> None:
        folder.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-c", SIDE, str(data), str(folder)],
            env=os.environ | {"PYTHONPATH": package}, cwd=folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._answer()

    def _answer(self) -> dict[str, list[float]]:
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the measuring process ended")
        return json.loads(line)

    def measure(self) -> dict[str, list[float]]:
        """Return wall and CPU time of each step, ms per entry."""
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def before(options: argparse.Namespace) -> None:
    """Compare the way of loose entries with that of another commit."""
    from scaling import crystals

    from ampmpi import Gaussian
    from ampmpi.entries.codec import encode

    if options.checkout is None:
        sys.exit("--checkout says where the other commit is checked out")
    os.sched_setaffinity(0, {options.core})  # both take turns on one core
    n = max(options.entries // 10, 1)
    descriptor = Gaussian(cutoff=6.5, elements=["Cu", "Pt"])
    both = [tuple(map(encode, descriptor.calculate(atoms))) for atoms in crystals(n)]
    small, large = map(list, zip(*both, strict=True))
    packages = {"before": options.checkout, "now": str(Path(__file__).resolve().parents[1])}
    times: dict[str, list[dict[str, list[float]]]] = {side: [] for side in packages}
    rounds = 3 * options.rounds
    heading(
        f"Loose entries, ms per entry: medians of {rounds} rounds of {10 * n} fingerprints and "
        f"{n} primes"
    )
    with scratch(options.dir) as folder:
        entries = {
            kind: (keys(len(data)), data)
            for kind, data in zip(KINDS, (small * 10, large), strict=True)
        }
        (folder / "entries").write_bytes(pickle.dumps(entries))
        sides = {
            name: Side(package, folder / "entries", folder / name)
            for name, package in packages.items()
        }
        for number in range(rounds + 1):
            for name in list(sides)[:: 1 if number % 2 else -1]:
                found = sides[name].measure()
                if number:  # the first round is to warm up
                    times[name].append(found)
        for side in sides.values():
            side.end()
    print(
        " " * 38 + f"{'before':>9}{'now':>9}{'ratio':>8}   CPU: {'before':>9}{'now':>9}{'ratio':>8}"
    )
    for name in times["now"][0]:
        line = f"  {name:36}"
        for number in (0, 1):
            old, new = (
                statistics.median(one[name][number] for one in times[side]) for side in times
            )
            line += f"{old:9.3f}{new:9.3f}{new / old:8.3f}" + " " * 8 * (1 - number)
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description="Packs beside loose entries.")
    parser.add_argument(
        "what", nargs="?", choices=("calls", "cpu", "before", "job"), help="both by default"
    )
    parser.add_argument("--dir", help="where to write; in memory by default")
    parser.add_argument("--images", type=int, default=2000, help="of calls")
    parser.add_argument("--ranks", type=int, default=2, help="of calls")
    parser.add_argument(
        "--top", type=int, default=25, help="places named in what is left, of calls"
    )
    parser.add_argument("--entries", type=int, default=200, help="of a round of cpu or before")
    parser.add_argument("--rounds", type=int, default=7, help="of cpu or before")
    parser.add_argument("--checkout", help="of another commit, for before")
    parser.add_argument("--core", type=int, default=0, help="core to run on, for before")
    parser.add_argument("--label", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "job":
        job(options.label, options.label == "packs")
        return
    for name, function in (("calls", calls), ("cpu", cpu), ("before", before)):
        if options.what == name or (options.what is None and name != "before"):
            function(options)


if __name__ == "__main__":
    main()
