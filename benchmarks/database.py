"""Speed and memory of the database, next to sqlite's and Amp's, in one run.

``python benchmarks/database.py [--entries 10000] [--amp-python PYTHON]``

Entries are fingerprints of 20 atoms with 36 features each. Times are the best
of several where repeating is cheap. With --amp-python, the interpreter of an
environment that has Amp, the same entries are archived by Amp, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from ampmpi import FingerprintDatabase
from ampmpi.database.archive.reader import Archive, IndexedArchive
from ampmpi.database.archive.writer import pack
from ampmpi.database.layout import ARCHIVE, Home
from ampmpi.entries import Fingerprint
from ampmpi.entries.codec import decode, encode

ATOMS, FEATURES = 20, 36
CORES = min(len(os.sched_getaffinity(0)), 8)

COMPRESS = """
import json, resource, sys, time
from ampmpi.database.compress import compress
start = time.perf_counter()
compress(sys.argv[1], processes=int(sys.argv[2]))
seconds = time.perf_counter() - start
own, helpers = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
most = max(resource.getrusage(whose).ru_maxrss for whose in (own, helpers))
print(json.dumps([seconds, most / 1024]))
"""

AMP_ARCHIVE = """
import json, sys, time
from amp.utilities import FileDatabase
database = FileDatabase(sys.argv[1])
start = time.perf_counter()
database.archive()
print(json.dumps([time.perf_counter() - start]))
"""


def key(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def entry(number: int, atoms: int = ATOMS) -> Fingerprint:
    symbols = ("Cu",) * (atoms // 2) + ("Pt",) * (atoms - atoms // 2)
    values = np.random.default_rng(number).random((atoms, FEATURES))
    return Fingerprint(symbols, {"Cu": FEATURES, "Pt": FEATURES}, values)


def fill(path: Path, numbers: range, atoms: int = ATOMS) -> None:
    """Make loose entries, without the care of a put, and wait until they are on the disk."""
    Home.create(path)
    for number in numbers:
        (path / "loose" / key(number)).write_bytes(encode(entry(number, atoms)))
    os.sync()


def fill_as_amp(path: Path, numbers: range) -> None:
    """Make loose entries as Amp does, and wait until they are on the disk."""
    (path / "loose").mkdir(parents=True)
    for number in numbers:
        data = pickle.dumps(entry(number).to_amp(), protocol=0)
        (path / "loose" / key(number)).write_bytes(data)
    os.sync()


def best(function: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def run(python: str, script: str, path: Path, *arguments: str) -> list[float]:
    done = subprocess.run(
        [python, "-c", script, str(path), *arguments], check=True, capture_output=True, text=True
    )
    result: list[float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compressed(path: Path, processes: int = CORES) -> list[float]:
    """Compress in a process of its own, as amp-compress does; return seconds and memory (MB)."""
    return run(sys.executable, COMPRESS, path, str(processes))


class Table:
    """Rows of what was measured, the reference, and their ratio."""

    def __init__(self) -> None:
        print(f"{'':44} {'ampmpi':>12} {'reference':>12} {'ratio':>8}")

    def row(
        self, name: str, value: float, unit: str, reference: float | None = None, what: str = ""
    ) -> None:
        """Print one row."""
        line = f"{name:44} {value:9.4g} {unit:2}"
        if reference is not None:
            line += f" {reference:9.4g} {unit:2} {reference / value:8.3g}  {what}"
        print(line, flush=True)


def reads(table: Table, folder: Path, path: Path, n_entries: int) -> None:
    """Measure random reads from the archive and from sqlite."""
    home = Home.open(path)
    connection = sqlite3.connect(folder / "entries.sqlite")
    connection.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, data BLOB) WITHOUT ROWID")
    with Archive.open(home.root, ARCHIVE) as archive:
        connection.executemany("INSERT INTO entries VALUES (?, ?)", archive.read_many())
    connection.commit()
    chosen = [key(number) for number in random.Random(0).choices(range(n_entries), k=1000)]

    with Archive.open(home.root, ARCHIVE) as archive, FingerprintDatabase(path) as database:
        ours = best(lambda: [decode(archive.read(name)) for name in chosen]) / len(chosen)
        facade = best(lambda: [database[name] for name in chosen]) / len(chosen)
    select = "SELECT data FROM entries WHERE key = ?"
    theirs = best(
        lambda: [decode(connection.execute(select, (name,)).fetchone()[0]) for name in chosen]
    ) / len(chosen)
    connection.close()
    table.row("random read, decoded", 1e3 * ours, "ms", 1e3 * theirs, "sqlite")
    table.row("random read through the database", 1e3 * facade, "ms", 1e3 * theirs, "sqlite")

    def opened() -> None:
        Archive.open(home.root, ARCHIVE).close()

    table.row("open", 1e3 * best(opened), "ms")
    with FingerprintDatabase(path) as database:
        table.row("keys()", 1e3 * best(lambda: list(database.keys())), "ms")
        start = time.perf_counter()
        count = sum(1 for _ in database.get_many())
        table.row("all entries in order, decoded", time.perf_counter() - start, "s")
        assert count == n_entries


def add_one_percent(table: Table, folder: Path, path: Path, n_entries: int) -> None:
    """Compare adding 1 % with the sum of what it cannot do without."""
    home = Home.open(path)
    numbers = range(n_entries, n_entries + max(n_entries // 100, 1))

    def copy() -> None:
        shutil.copyfile(home.full(ARCHIVE), folder / "copy")
        descriptor = os.open(folder / "copy", os.O_RDWR)
        os.fsync(descriptor)
        os.close(descriptor)

    def read_back() -> None:
        with Archive.open(home.root, ARCHIVE) as archive:
            assert isinstance(archive, IndexedArchive)
            records = archive.records()
            for number, raw in records.walk():
                records.verify(number, raw)

    contents = [(key(number), encode(entry(number))) for number in numbers]
    parts = best(copy, 3) + best(read_back, 3)
    parts += best(lambda: pack(contents), 3)
    fill(path, numbers)
    seconds, _ = compressed(path)
    table.row("add 1 %", seconds, "s", parts, "copying, reading back, deflating")


def amp(table: Table, folder: Path, python: str, n_entries: int) -> None:
    """Compare with Amp's own archive(): once, and medians of ours before and after it."""
    ours, same, theirs = (folder / f"{name}-fingerprints.ampdb" for name in ("our", "as", "amp"))
    for path in (same, theirs):
        fill_as_amp(path, range(n_entries))
    times: dict[int, list[float]] = {CORES: [], 1: []}

    def repeat() -> None:
        for processes in (CORES, 1, CORES, 1, CORES):
            shutil.rmtree(ours, ignore_errors=True)
            fill(ours, range(n_entries))
            times[processes].append(compressed(ours, processes)[0])

    repeat()
    reference = run(python, AMP_ARCHIVE, theirs)[0]
    repeat()
    mine, alone = median(times[CORES]), median(times[1])
    converted = compressed(same)[0]
    table.row(f"compress {n_entries}, each its own entries", mine, "s", reference, "Amp")
    table.row("  with one process", alone, "s", reference, "Amp")
    table.row(f"compress {n_entries} of Amp's entries", converted, "s", reference, "Amp")


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of the database.")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--amp-python", metavar="PYTHON", help="an interpreter that has Amp")
    parser.add_argument("--amp-entries", type=int, default=2000)
    parser.add_argument("--folder", help="file system to use; that for temporaries by default")
    options = parser.parse_args()
    count = options.entries
    with tempfile.TemporaryDirectory(prefix="ampmpi-bench-", dir=options.folder) as name:
        folder = Path(name)
        path = folder / "x-fingerprints.ampdb"
        print(
            f"{count} entries of {ATOMS} x {FEATURES} floats, {len(encode(entry(0)))} bytes each; "
            f"compressed by {CORES} processes"
        )
        table = Table()
        fill(path, range(count))
        seconds, memory = compressed(path)
        table.row("compress, with reading back", seconds, "s")
        table.row("  of that per entry", 1e6 * seconds / count, "us")
        table.row("  most memory of a process", memory, "MB")
        table.row("  archive", (path / ARCHIVE).stat().st_size / 1e6, "MB")
        large = folder / "large-fingerprints.ampdb"
        fill(large, range(max(count // 20, 1)), 20 * ATOMS)
        table.row(
            "most memory: 1/20 of the entries, 20 x larger",
            compressed(large)[1], "MB",
        )  # fmt: skip
        reads(table, folder, path, count)
        add_one_percent(table, folder, path, count)
        if options.amp_python:
            amp(table, folder, options.amp_python, options.amp_entries)


if __name__ == "__main__":
    main()
